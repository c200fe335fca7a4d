"""Square pieces of a real photograph, cut so that no pixel stands in two splits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from sciflow.domains.imaging.recording import Count, Share, observed, shares
from sciflow.errors import InputError
from sciflow.inverse.observe import Observation
from sciflow.random import Stream

if TYPE_CHECKING:
    import xarray as xr

BANDS = 8  # vertical bands of the photograph: whole bands go to one split


@dataclass(frozen=True)
class Patches:
    """Square pieces of one grey photograph that scikit-image ships, grey levels scaled to [0, 1].

    The photograph is cut into 8 vertical bands; pieces lie within a band and bands within a split, so that no pixel is
    in two splits. Observed are pieces of test bands that do not overlap.

    Exactness: real photographs; values are multiples of 1/255, or means of them
    Cost: no download, a second
    Bias: one photograph: the pieces of one band resemble one another more than those of two photographs would
    Args:
        photograph: which.
        size: side of a piece [pixels].
        stride: from one piece to the next, of those for the prior [pixels].
        reduction: pixels of the photograph, along each axis, whose mean is a pixel.
        unit: of the values.
        n_observations: test pieces that are observed.
        validation: share for the validation loss.
        test: share held out.
        observation: how they are observed.
    Source: van der Walt et al. (2014), scikit-image; gravel, brick and grass from CC0 Textures (CC0).
    """

    photograph: Literal["gravel", "brick", "grass"] = "gravel"
    size: Annotated[int, Field(ge=4)] = 32
    stride: Count = 8
    reduction: Count = 1
    unit: str = "1"
    n_observations: Count = 24
    validation: Share = 0.125
    test: Share = 0.25
    observation: Observation = field(default_factory=Observation)

    def __post_init__(self) -> None:
        shares(self.test, self.validation)
        width = 512 // self.reduction // BANDS
        if self.size > width:
            raise InputError(
                f"dataset.size {self.size} does not fit the bands of {width} pixels that reduction {self.reduction} "
                "leaves. Lower one of them."
            )

    def simulate(self, stream: Stream) -> xr.Dataset:
        import skimage.data

        whole = getattr(skimage.data, self.photograph)().astype(np.float64) / 255
        n = len(whole) // self.reduction
        whole = whole[: n * self.reduction, : n * self.reduction]
        whole = whole.reshape(n, self.reduction, n, self.reduction).mean((1, 3)).astype(np.float32)
        width, pieces, bands, apart = n // BANDS, [], [], []
        for band in range(BANDS):
            for x in range(0, width - self.size + 1, self.stride):
                for y in range(0, n - self.size + 1, self.stride):
                    left = band * width + x
                    pieces.append(whole[y : y + self.size, left : left + self.size])
                    bands.append(band)
                    apart.append(x % self.size == 0 and y % self.size == 0)
        fractions = shares(self.test, self.validation)
        return observed(
            np.stack(pieces)[:, None], np.array(bands), self.unit, self.n_observations, fractions,
            self.observation, stream, np.array(apart),
        )  # fmt: skip
