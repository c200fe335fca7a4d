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
from sciflow.data.split import split
from sciflow.domains.pde.boxes import Ring
from sciflow.domains.pde.equations import Burgers, RingEquation, semilinear
from sciflow.domains.pde.evolve import EVENT, Evolution, certified, check_step
from sciflow.domains.pde.files import SimulationFile
from sciflow.domains.pde.kicked import Kicked
from sciflow.domains.pde.porous import PorousSquare
from sciflow.errors import InputError
from sciflow.inverse.likelihood import GaussianNoise
from sciflow.inverse.observe import PREFIX, Observation
from sciflow.inverse.sensors import Sensors
from sciflow.random import Stream

if TYPE_CHECKING:
    import xarray as xr

Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
COARSEST = 0.01  # error of a field, over its root mean square, above which it is no simulation of its equation
SPLITS = ("test", "validation", "train")


def _sensors() -> Observation:
    return Observation(Sensors(stride=8, channels=1), GaussianNoise(0.05))


@dataclass(frozen=True)
class Evolving:
    """Fields on a ring at time 0 and later, from random starts, and sensor readings of held-out ones.

        u(0, x) = Σ_{k ≤ waves} s_k (a_k cos k̃x + b_k sin k̃x),   a, b ~ N(0, 1),   s_k ∝ k^{−decay},   k̃ = 2πk/length

    with mean square `amplitude`². As the start is Gaussian, its posterior under linear readings of time 0 with Gaussian
    noise is too: draws of it, evolved by the same solver, are draws of the exact posterior of the whole event, and are
    kept as `exact`. Readings of later times have no such answer, and `exact` is left out.

    Exactness: order 4 in time, spectral in space; the file holds how far fields move where steps are halved
        (`reference_error`) and where points are doubled (`resolution_error`), over their root mean square
    Cost: 8 transforms per step and field, twice
    Bias: that of the grid: waves beyond size/3 are not there
    Args:
        equation: what the fields obey.
        length: of the ring.
        size: grid points.
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

    equation: RingEquation = field(default_factory=lambda: Burgers(0.1))
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
        if self.test + self.validation >= 1:
            raise InputError("dataset.test and dataset.validation leave nothing to train on. Lower them.")

    @property
    def ring(self) -> Ring:
        return Ring(self.length, self.size)

    @property
    def times(self) -> list[float]:
        return np.linspace(0, self.duration, self.n_times + 1).tolist()

    def basis(self) -> Tensor:
        """B with u(0) = B z for z ~ N(0, I), (size, 2 waves)."""
        k = torch.arange(1, self.waves + 1, dtype=torch.float64)
        spread = k**-self.decay
        spread = self.amplitude * spread / spread.square().sum().sqrt()
        angles = self.ring.places[:, None] * (2 * math.pi * k / self.length)
        return torch.cat([spread * angles.cos(), spread * angles.sin()], 1)

    def evolve(self, start: Tensor) -> Evolution:
        """Events from starts (batch, size).

        Raises:
            InputError: in half a step waves of the start cross more cells than is stable.
        """
        check_step(self.ring, self.step / 2, self.equation.steepening * float(start.abs().max()))
        return certified(semilinear(self.equation, self.ring), self.ring, start, self.times, self.step)

    def simulate(self, stream: Stream) -> xr.Dataset:
        basis = self.basis()
        z = stream.child("start").normal(self.n_samples, (basis.shape[1],), dtype=torch.float64)
        made = self.evolve(z @ basis.T)
        fractions = dict(zip(SPLITS, (self.test, self.validation, 1 - self.test - self.validation), strict=True))
        labels = split(np.arange(self.n_samples), fractions, stream.child("split"))
        chosen = np.flatnonzero(labels == "test")[: self.n_observations]
        if len(chosen) < self.n_observations:
            raise InputError(
                f"dataset.n_observations is {self.n_observations}, but {len(chosen)} trajectories are held out. "
                "Lower it, or raise dataset.test or dataset.n_samples."
            )
        truth = made.fields[chosen]
        records = self.observation.record(truth, stream.child("observe"))
        blur = self.blur(z[chosen], truth[:, -1])
        exact = self.exact(records, stream.child("exact"))
        values = {"data": made.fields.float(), "truth": truth, **records, **({} if exact is None else {"exact": exact})}
        dims = {
            "data": ("sample", *EVENT),
            "truth": ("observation", *EVENT),
            "measured": ("observation", "measurement"),
            "exact": ("observation", "exact_member", *EVENT),
        }
        for name, value in records.items():
            dims.setdefault(name, ("observation", *(f"{name}_{axis}" for axis in range(value.ndim - 1))))
        coords: dict[str, Any] = {
            "split": ("sample", labels.astype(str)),
            "unit": ("sample", np.arange(self.n_samples)),
            "time": np.array(self.times),
            "x": self.ring.places.numpy(),
        }
        if isinstance(self.observation.operator, Sensors):
            where = torch.meshgrid(torch.tensor(self.times, dtype=torch.float64), self.ring.places, indexing="ij")
            seen = [self.observation.operator(part[None])[0].numpy() for part in where]
            coords |= {f"sensor_{name}": ("measurement", part) for name, part in zip(EVENT, seen, strict=True)}
        arrays = to_xarray(values, dims, coords, {name: "1" for name in ("data", "truth", "measured", "exact")})
        return arrays.assign_attrs(reference_error=made.error, resolution_error=blur)

    def blur(self, z: Tensor, end: Tensor) -> float:
        """How far the last fields of these starts are from those on a grid of twice the points.

        Raises:
            InputError: by more than a hundredth of their root mean square.
        """
        fine = replace(self, size=2 * self.size)
        sharp = fine.evolve(z @ fine.basis().T).fields[:, -1, ::2]
        error = float(((end - sharp).square().mean() / sharp.square().mean()).sqrt())
        if error > COARSEST:
            raise InputError(
                f"the grid of {self.size} points does not resolve these fields: twice as many move them by "
                f"{error:.1%}. Raise dataset.size, or take smoother fields: larger viscosity, fewer waves."
            )
        return error

    def exact(self, records: Mapping[str, Tensor], stream: Stream) -> Tensor | None:
        """Draws of the exact posterior, (observation, n_exact, *event); None where it is not known.

        z | y ~ N(S Bᵀ Aᵀ y/σ², S),   S = (I + Bᵀ Aᵀ A B/σ²)⁻¹
        """
        basis, found = self.basis(), []
        shape, noise = (self.n_times + 1, self.size), self.observation.noise
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
            events[:, 0] = basis.T
            seen = operator(events).T / noise.sigma
            precision = torch.eye(basis.shape[1], dtype=torch.float64) + seen.T @ seen
            factor = torch.linalg.cholesky(precision)
            mean = torch.cholesky_solve(seen.T @ (y.double() / noise.sigma)[:, None], factor)
            white = stream.child("draws", i).normal(self.n_exact, (basis.shape[1],), dtype=torch.float64)
            z = mean[:, 0] + torch.linalg.solve_triangular(factor.T, white.T, upper=True).T
            found.append(z @ basis.T)
        starts = torch.stack(found)
        return self.evolve(starts.flatten(0, 1)).fields.reshape(*starts.shape[:2], *shape)


DATASETS: dict[str, type] = {
    "evolving": Evolving,
    "kicked": Kicked,
    "porous_square": PorousSquare,
    "simulations": SimulationFile,
}
