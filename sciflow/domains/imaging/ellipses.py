"""Random objects made of ellipses, measured by the formula of their line integrals or of their Fourier transform."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sciflow.data.split import shares
from sciflow.domains.imaging.phantoms import Ellipses
from sciflow.domains.imaging.recording import Count, Share, observed
from sciflow.errors import InputError
from sciflow.inverse.mri import CartesianMRI
from sciflow.inverse.observe import Observation
from sciflow.inverse.operator import Operator
from sciflow.inverse.tomography import FanBeam, ParallelBeam
from sciflow.random import Stream

if TYPE_CHECKING:
    import xarray as xr

BODY = (0.6, 0.85)  # least and largest semi-axes of the outer ellipse [half sides]
PARTS = (0.06, 0.28)  # and of those in it, whose centres lie within REACH of the middle: all within the body
REACH = 0.3
LOWEST, HIGHEST = -0.5, 0.5  # contrasts of the parts, over their number, so that nothing is below zero
SCANNERS = (ParallelBeam, FanBeam, CartesianMRI)


@dataclass(frozen=True)
class EllipseImages:
    """Random objects made of ellipses, of which the measurement is known without any operator.

    A body of value 0.5 holds 1 to `n_parts` ellipses at random places, with contrasts of at most 0.5 over their number.
    Images are means over points of each pixel. With `measured_by: formula` line integrals and k-space are those of the
    object itself, of edges between the pixels: the operator that is assumed in `sample` has then not made the data
    (no inverse crime), and errs by its pixels as with a real scan.

    Exactness: measurements in closed form, before noise; images to 1/points of a pixel at edges
    Cost: n_images × n_parts × (size points)² operations
    Bias: none of the measurement; the objects are simpler than any real one
    Args:
        size: side of an image [pixels].
        n_images: in all splits together.
        n_parts: most ellipses in a body.
        points: of a pixel along each axis, whose mean it is.
        unit: of the values.
        measured_by: "formula": of the object; "operator": of its image, as other data sets are measured.
        n_observations: held-out objects that are observed.
        validation: share for the validation loss.
        test: share held out.
        observation: how they are observed; by the formula `parallel_beam`, `fan_beam`, or `cartesian_mri` of one coil.
    Raises:
        InputError: a measurement that has no formula.
    Source: Kak and Slaney (1988), Principles of computerized tomographic imaging, section 3.1; Koay, Sarlls and
        Özarslan (2007), Three-dimensional analytical magnetic resonance imaging phantom in the Fourier domain.
    """

    size: Annotated[int, Field(ge=8)] = 32
    n_images: Count = 2000
    n_parts: Count = 6
    points: Count = 4
    unit: str = "1"
    measured_by: Literal["formula", "operator"] = "formula"
    n_observations: Count = 24
    validation: Share = 0.1
    test: Share = 0.1
    observation: Observation = field(default_factory=lambda: Observation(ParallelBeam()))

    def __post_init__(self) -> None:
        shares(self.test, self.validation)
        operator = self.observation.operator
        has_formula = isinstance(operator, SCANNERS) and getattr(operator, "n_coils", 1) == 1
        if self.measured_by == "formula" and not has_formula:
            raise InputError(
                f"dataset.measured_by 'formula' knows parallel_beam, fan_beam, and cartesian_mri of one coil, got "
                f"{operator}. Take one of them, or measured_by: operator."
            )

    def simulate(self, stream: Stream) -> xr.Dataset:
        numbers = stream.child("objects").uniform(self.n_images, (self.n_parts + 1, 6), dtype=torch.float64)
        objects = [random_ellipses(rows) for rows in numbers.numpy()]
        images = np.stack([one.image(self.size, self.points) for one in objects]).astype(np.float32)[:, None]
        clean = None if self.measured_by == "operator" else lambda k, operator: measured(objects[k], operator)
        fractions = shares(self.test, self.validation)
        return observed(
            images, np.arange(len(images)), self.unit, self.n_observations, fractions, self.observation, stream,
            clean=clean,
        )  # fmt: skip


def random_ellipses(numbers: np.ndarray) -> Ellipses:
    """A body with ellipses in it, its values from 0 to 1.

    Args:
        numbers: uniform on [0, 1), (1 + most ellipses in the body, 6).
    """
    body, parts = numbers[0], numbers[1:]
    parts = parts[: 1 + int(body[0] * len(parts))]
    axes = BODY[0] + (BODY[1] - BODY[0]) * body[1:3]
    contrasts = (LOWEST + (HIGHEST - LOWEST) * parts[:, 0]) / len(parts)
    sizes = PARTS[0] + (PARTS[1] - PARTS[0]) * parts[:, 1:3]
    angle, far = 2 * math.pi * parts[:, 3], REACH * np.sqrt(parts[:, 4])
    places = np.stack([far * np.cos(angle), far * np.sin(angle)], 1)
    inner = np.concatenate([contrasts[:, None], sizes, places, 180 * parts[:, 5:]], 1)
    return Ellipses(tuple(map(tuple, [[0.5, *axes, 0.0, 0.0, 180 * body[3]], *inner.tolist()])))


def measured(phantom: Ellipses, operator: Operator) -> Tensor:
    """What a scanner measures of an object, without pixels, float64, (measurement,).

    Args:
        phantom: the object.
        operator: bound to square images of one channel.

    Raises:
        InputError: no formula is known for this operator.
    """
    side = operator.shape[-1]
    if isinstance(operator, ParallelBeam | FanBeam):
        lengths = phantom.line_integrals(operator.rays((side, side)), side)
        return torch.as_tensor(lengths * operator.pixel_size).flatten()
    if isinstance(operator, CartesianMRI) and operator.n_coils == 1 and "maps" not in operator.parameters():
        columns = operator.parameters()["lines"].nonzero()[:, 0]
        space = torch.as_tensor(phantom.spectrum(side))[:, columns]
        return torch.stack([space.real, space.imag]).flatten()
    raise InputError(f"no formula is known for what {type(operator).__name__} measures of ellipses. Take its image.")
