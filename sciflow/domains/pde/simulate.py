"""What is the data? Fields that evolve from random starts, and what sensors saw; with the exact posterior."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sciflow.data.arrays import to_xarray
from sciflow.data.split import shares
from sciflow.domains.pde.boxes import Box, periodic
from sciflow.domains.pde.chromatograms import Chromatograms
from sciflow.domains.pde.equations import Burgers, PeriodicEquation
from sciflow.domains.pde.evolve import COARSEST, Evolution, certified, check_step, fields
from sciflow.domains.pde.files import SimulationFile
from sciflow.domains.pde.kicked import Kicked
from sciflow.domains.pde.observed import held_out, observed_dims, sensor_places
from sciflow.domains.pde.porous import PorousSquare
from sciflow.domains.pde.varied import Told, check_varied, drawn, stored, stored_dims, with_own
from sciflow.errors import InputError
from sciflow.inverse.likelihood import GaussianNoise
from sciflow.inverse.observe import PREFIX, Observation
from sciflow.inverse.sensors import Sensors
from sciflow.random import Stream

if TYPE_CHECKING:
    import xarray as xr

Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]


def _sensors() -> Observation:
    return Observation(Sensors(stride=8, channels=1), GaussianNoise(0.05))


@dataclass(frozen=True)
class Evolving(Told):
    """Fields in a periodic box at time 0 and later, from random starts, and sensor readings of held-out ones.

        u(0, x) = Σ_{k ≤ waves} s_k (a_k cos k̃x + b_k sin k̃x),   a, b ~ N(0, 1),   s_k ∝ k^{−decay},   k̃ = 2πk/length

    on a ring; on a torus, which `navier_stokes` lives on, k goes over pairs of numbers, and k ≤ waves is |k| ≤ waves;
    with mean square `amplitude`². As the start is Gaussian, its posterior under linear readings of time 0 with Gaussian
    noise is too: draws of it, evolved by the same solver, are draws of the exact posterior of the whole event, and are
    kept as `exact`. Readings of later times have no such answer, and `exact` is left out.

    Exactness: order 4 in time, spectral in space; the file holds how far fields move where steps are halved
        (`reference_error`) and where points are doubled (`resolution_error`), over their root mean square
    Cost: 8 transforms per step and field, twice
    Bias: that of the grid: waves beyond size/3 are not there
    Args:
        equation: what the fields obey.
        varied: name of a number of the equation → lowest and highest value. Each trajectory draws its own, uniformly;
            the file holds it as `parameter_<name>`, for `train.parameters` of `forecast` to tell a surrogate.
        length: of the ring, or of a side of the torus.
        size: grid points, of a side.
        duration: of the evolution.
        n_times: fields kept after the start, at equal distances.
        step: the largest time step; half of it is used.
        amplitude: root mean square of the start.
        waves: of the start.
        decay: how fast its waves fall off.
        n_samples: trajectories, those held out included.
        n_observations: of held-out trajectories.
        n_exact: draws of the exact posterior of each observation.
        validation: share for the validation loss.
        test: share held out.
        observation: how they are observed; the first channel is time 0.
    Source: Li et al. (2021), Fourier neural operator, section 5.1, for Burgers from a Gaussian start.
    """

    equation: PeriodicEquation = field(default_factory=lambda: Burgers(0.1))
    varied: dict[str, tuple[float, float]] = field(default_factory=dict)
    length: Positive = 2 * math.pi
    size: Annotated[int, Field(ge=8, multiple_of=2)] = 64
    duration: Positive = 1.0
    n_times: Count = 1
    step: Positive = 0.02
    amplitude: Positive = 0.5
    waves: Count = 6
    decay: Annotated[float, Field(ge=0)] = 1.0
    n_samples: Annotated[int, Field(ge=10)] = 4096
    n_observations: Count = 32
    n_exact: Annotated[int, Field(ge=2)] = 64
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.05
    test: Annotated[float, Field(gt=0, lt=1)] = 0.05
    observation: Observation = field(default_factory=_sensors)

    def __post_init__(self) -> None:
        if self.waves >= self.size / 3:
            raise InputError(
                f"dataset.waves is {self.waves}, but {self.size} points carry waves below {self.size / 3:.0f}. "
                "Use fewer waves or more points."
            )
        shares(self.test, self.validation)
        check_varied(self.equation, self.varied)

    @property
    def box(self) -> Box:
        return self.equation.box(self.length, self.size)

    @property
    def times(self) -> list[float]:
        return np.linspace(0, self.duration, self.n_times + 1).tolist()

    def basis(self) -> Tensor:
        """B with u(0) = B z for z ~ N(0, I), (points, 2 waves)."""
        k, angles = self.box.waves(self.waves)
        spread = k**-self.decay
        spread = self.amplitude * spread / spread.square().sum().sqrt()
        angles = angles.flatten(1).T
        return torch.cat([spread * angles.cos(), spread * angles.sin()], 1)

    def start(self, z: Tensor) -> Tensor:
        """u(0) = B z, (batch, *grid)."""
        return (z @ self.basis().T).unflatten(1, self.box.shape)

    def evolve(self, start: Tensor, own: Mapping[str, Tensor]) -> Evolution:
        """Events from starts (batch, *grid), each with its own numbers of the equation (batch,).

        Raises:
            InputError: in a step waves of the start cross more cells than is stable.
        """
        box = self.box
        equation = with_own(self.equation, own)
        speed = equation.fastest(box, start)
        check_step(box, self.step, speed)  # half of it is used, but the whole one says how far that is off
        return certified(equation.dynamics(box), box, start, self.times, self.step, speed)

    def simulate(self, stream: Stream) -> xr.Dataset:
        event = ("time", *self.box.axes)
        own = drawn(self.varied, self.n_samples, stream.child("varied"))
        z = stream.child("start").normal(self.n_samples, (self.basis().shape[1],), dtype=torch.float64)
        made = self.evolve(self.start(z), own)
        split = stream.child("split")
        labels, chosen = held_out(self.n_samples, self.test, self.validation, self.n_observations, split)
        truth = made.fields[chosen]
        records = self.observation.record(truth, stream.child("observe"))
        seen = {name: value[chosen] for name, value in own.items()}
        blur = self.blur(z[chosen], truth[:, -1], seen)
        exact = self.exact(records, seen, stream.child("exact"))
        values = {"data": made.fields.float(), "truth": truth, **records, **({} if exact is None else {"exact": exact})}
        dims: dict[str, tuple[str, ...]] = {
            "data": ("sample", *event),
            "truth": ("observation", *event),
            "measured": ("observation", "measurement"),
            "exact": ("observation", "exact_member", *event),
        }
        values, dims = values | stored(own, chosen), observed_dims(values, dims) | stored_dims(own)
        units = {name: "1" for name in ("data", "truth", "measured", "exact")}
        arrays = to_xarray(values, dims, self.coordinates(labels), units)
        errors = {"reference_error": made.error, "resolution_error": blur}
        return arrays.assign_attrs(errors, boundary=periodic(self.box))

    def coordinates(self, labels: np.ndarray) -> dict[str, Any]:
        """Of trajectories, times and places, and of what sensors read."""
        places = dict.fromkeys(self.box.axes, self.box.places)
        return {
            "split": ("sample", labels.astype(str)),
            "unit": ("sample", np.arange(self.n_samples)),
            "time": np.array(self.times),
            **{axis: line.numpy() for axis, line in places.items()},
            **sensor_places(
                self.observation.operator, {"time": torch.tensor(self.times, dtype=torch.float64), **places}
            ),
        }

    def blur(self, z: Tensor, end: Tensor, own: Mapping[str, Tensor]) -> float:
        """How far the last fields of these starts are from those on a grid of twice the points.

        Raises:
            InputError: by more than a hundredth of their root mean square.
        """
        fine = replace(self, size=2 * self.size)
        dynamics = with_own(self.equation, own).dynamics(fine.box)
        sharp = self.box.coarser(fields(dynamics, fine.box, fine.start(z), self.times, self.step / 2)[:, -1])
        error = float(((end - sharp).square().mean() / sharp.square().mean()).sqrt())
        if error > COARSEST:
            raise InputError(
                f"the grid of {self.size} points along a side does not resolve these fields: twice as many move them "
                f"by {error:.1%}. Raise dataset.size, or take smoother fields: larger viscosity, fewer waves."
            )
        return error

    def exact(self, records: Mapping[str, Tensor], own: Mapping[str, Tensor], stream: Stream) -> Tensor | None:
        """Draws of the exact posterior, (observation, n_exact, *event); None where it is not known.

        z | y ~ N(S Bᵀ Aᵀ y/σ², S),   S = (I + Bᵀ Aᵀ A B/σ²)⁻¹
        """
        basis, found = self.basis(), []
        shape, noise = (self.n_times + 1, *self.box.shape), self.observation.noise
        later = stream.child("later").normal(1, shape, dtype=torch.float64)
        later[:, 0] = 0
        if not isinstance(noise, GaussianNoise):
            return None
        for i, y in enumerate(records["measured"]):
            drawn = {name.removeprefix(PREFIX): value[i] for name, value in records.items() if name.startswith(PREFIX)}
            operator = self.observation.operator.bind(drawn, shape)
            if float(operator(later).abs().max()) > 0:
                return None
            events = torch.zeros(basis.shape[1], *shape, dtype=torch.float64)
            events[:, 0] = basis.T.unflatten(1, self.box.shape)
            seen = operator(events).T / noise.sigma
            precision = torch.eye(basis.shape[1], dtype=torch.float64) + seen.T @ seen
            factor = torch.linalg.cholesky(precision)
            mean = torch.cholesky_solve(seen.T @ (y.double() / noise.sigma)[:, None], factor)
            white = stream.child("draws", i).normal(self.n_exact, (basis.shape[1],), dtype=torch.float64)
            z = mean[:, 0] + torch.linalg.solve_triangular(factor.T, white.T, upper=True).T
            found.append(self.start(z))
        starts = torch.stack(found)
        each = {name: value.repeat_interleave(self.n_exact) for name, value in own.items()}
        return self.evolve(starts.flatten(0, 1), each).fields.reshape(*starts.shape[:2], *shape)


DATASETS: dict[str, type] = {
    "evolving": Evolving,
    "kicked": Kicked,
    "porous_square": PorousSquare,
    "chromatograms": Chromatograms,
    "simulations": SimulationFile,
}
