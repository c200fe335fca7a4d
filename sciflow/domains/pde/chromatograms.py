"""What is the data? Gas in columns of a chromatograph, substances that the wall holds back in different ways."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sciflow.data.arrays import to_xarray
from sciflow.data.split import shares
from sciflow.domains.pde.chromatograph import GasChromatograph
from sciflow.domains.pde.evolve import COARSEST, EVENT
from sciflow.domains.pde.observed import held_out, sensor_places
from sciflow.domains.pde.varied import check_varied, drawn, stored, stored_dims
from sciflow.errors import InputError
from sciflow.inverse.likelihood import GaussianNoise
from sciflow.inverse.observe import Observation
from sciflow.inverse.sensors import Sensors
from sciflow.random import Stream

if TYPE_CHECKING:
    import xarray as xr

Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]


def _substances() -> dict[str, tuple[float, float]]:
    return {"adsorption": (0.6, 1.8), "desorption": (0.7, 1.4)}


def _detector() -> Observation:
    return Observation(Sensors(stride=16, channels=33, first=15), GaussianNoise(0.02))


@dataclass(frozen=True)
class Chromatograms:
    """Gas along a column at several times, after a pulse of a substance was let in; a detector at the end reads it.

        transit c_t + c_x = −q_t,   q_t = adsorption c − desorption q

    Each trajectory is a substance with rates of its own, drawn uniformly from `varied` and kept as `parameter_<name>`.
    Places are the ends of `size` equal pieces of the column, the last one its end. The file knows the gas alone: what
    the wall holds must be inferred from how the gas went by, so that one field does not determine the next.

    Exactness: order 2. Of the held-out trajectories the file holds how far halving steps and cells moves them
        (`reference_error`) and how far they are from the closed form (`exact_error`), over their root mean square, and
        the largest share of the gas that is lost (`mass_error`)
    Cost: one recursive filter of all times for each cell and trajectory, 1.5 ms of each by default
    Bias: none beyond the grid; dispersion is left out
    Args:
        column: the equation.
        varied: name of a number of the column → lowest and highest value, as for `evolving`.
        length: of the column.
        size: places where the gas is kept.
        n_cells: of the column; a multiple of size.
        step: of time.
        start: time of the first field, after the pulse begins.
        duration: from the first field to the last.
        n_times: fields kept after the first, at equal distances.
        n_samples: trajectories, those held out included.
        n_observations: of held-out trajectories.
        validation: share for the validation loss.
        test: share held out.
        observation: how they are observed; the first channel is the first field.
    Raises:
        InputError: numbers that do not fit, or steps and cells so coarse that fields are off by more than a hundredth
            of their root mean square.
    Source: Thomas (1944), Heterogeneous ion exchange in a flowing system, linear case.
    """

    column: GasChromatograph = field(default_factory=GasChromatograph)
    varied: dict[str, tuple[float, float]] = field(default_factory=_substances)
    length: Positive = 10.0
    size: Count = 16
    n_cells: Count = 64
    step: Positive = 0.125
    start: Annotated[float, Field(ge=0)] = 1.0
    duration: Positive = 32.0
    n_times: Count = 32
    n_samples: Annotated[int, Field(ge=10)] = 1024
    n_observations: Count = 32
    validation: Share = 0.05
    test: Share = 0.05
    observation: Observation = field(default_factory=_detector)

    def __post_init__(self) -> None:
        if self.n_cells % self.size:
            raise InputError(
                f"dataset.n_cells is {self.n_cells}, which does not fill the {self.size} pieces of the column "
                f"(dataset.size). Take a multiple of {self.size}."
            )
        shares(self.test, self.validation)
        check_varied(self.column, self.varied)

    def known_parameters(self) -> list[str]:
        """What a surrogate can be told of each trajectory."""
        return [*self.varied]

    def known_constants(self) -> list[str]:
        """Fields that do not change: none."""
        return []

    def known_boundary(self) -> dict[str, str]:
        """What the ends of the axes are."""
        return {"x": "open"}

    @property
    def times(self) -> Tensor:
        """Of the fields, (n_times + 1,)."""
        return torch.linspace(self.start, self.start + self.duration, self.n_times + 1, dtype=torch.float64)

    def columns(self, own: Mapping[str, Tensor]) -> list[GasChromatograph]:
        """That of each trajectory."""
        rows = zip(*(values.tolist() for values in own.values()), strict=True)
        n = max((len(values) for values in own.values()), default=self.n_samples)
        each = [dict(zip(own, row, strict=True)) for row in rows] if own else [{}] * n
        return [replace(self.column, **numbers) for numbers in each]

    def fields(self, columns: list[GasChromatograph]) -> Tensor:
        """c of each column, (n, time, x), float64."""
        grid = self.n_cells, self.step, self.size
        return torch.stack([column.gas(self.length, self.times, *grid) for column in columns])

    def simulate(self, stream: Stream) -> xr.Dataset:
        own = drawn(self.varied, self.n_samples, stream.child("varied"))
        split = stream.child("split")
        labels, chosen = held_out(self.n_samples, self.test, self.validation, self.n_observations, split)
        columns = self.columns(own)
        made = self.fields(columns)
        truth = made[chosen]
        errors = self.errors(truth, [columns[k] for k in chosen])
        records = self.observation.record(truth, stream.child("observe"))
        values = {"data": made.float(), "truth": truth, **records, **stored(own, chosen)}
        dims: dict[str, tuple[str, ...]] = {
            "data": ("sample", *EVENT),
            "truth": ("observation", *EVENT),
            "measured": ("observation", "measurement"),
            **stored_dims(own),
        }
        for name, value in records.items():
            dims.setdefault(name, ("observation", *(f"{name}_{axis}" for axis in range(value.ndim - 1))))
        axes = {"time": self.times, "x": self.length * (torch.arange(self.size, dtype=torch.float64) + 1) / self.size}
        coords: dict[str, Any] = {
            "split": ("sample", labels.astype(str)),
            "unit": ("sample", np.arange(self.n_samples)),
            **{name: line.numpy() for name, line in axes.items()},
            **sensor_places(self.observation.operator, axes),
        }
        arrays = to_xarray(values, dims, coords, dict.fromkeys(("data", "truth", "measured"), "1"))
        return arrays.assign_attrs(errors, boundary=json.dumps(self.known_boundary()))

    def errors(self, truth: Tensor, columns: list[GasChromatograph]) -> dict[str, float]:
        """How far these fields (n, time, x) move where steps and cells are halved, are from the closed form, and leak.

        Raises:
            InputError: they move by more than a hundredth of their root mean square.
        """
        finer = replace(self, n_cells=2 * self.n_cells, step=self.step / 2).fields(columns)
        exact = torch.stack([column.exact_gas(self.length, self.times, self.size) for column in columns])
        scale, found = exact.square().mean().sqrt(), {}
        for name, other in (("reference_error", finer), ("exact_error", exact)):
            found[name] = float((truth - other).square().mean().sqrt() / scale)
        if found["reference_error"] > COARSEST:
            raise InputError(
                f"steps of {self.step:g} and {self.n_cells} cells do not resolve these columns: half of both moves the "
                f"gas by {found['reference_error']:.1%}. Lower dataset.step, and raise dataset.n_cells."
            )
        return {**found, "mass_error": max(self.leak(column) for column in columns)}

    def leak(self, column: GasChromatograph) -> float:
        """The largest share of the gas let in that is neither out nor held, at any time."""
        n = round((self.start + self.duration) / self.step) + 1
        found = column.response(self.length, self.n_cells, self.step, n)
        missing = 1 - found.gas[-1]  # what comes in less what goes out
        kept = np.cumsum((missing[1:] + missing[:-1]) / 2 * self.step)
        return float(np.abs((kept - found.held[1:]) / (self.step * np.arange(1, n))).max())
