"""Twin experiments: paths of a chaotic equation with noise, measured in part, whose truth and law are both known."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field
from torch import Tensor

from sciflow.data.arrays import to_xarray
from sciflow.inverse.inpainting import Inpainting
from sciflow.inverse.likelihood import GaussianNoise
from sciflow.inverse.observe import Observation
from sciflow.random import Stream
from sciflow.solvers.chaotic import Lorenz63, Lorenz96
from sciflow.solvers.state_space import StateSpace

if TYPE_CHECKING:
    import xarray as xr

Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]


def reference_error(space: StateSpace, path: Tensor) -> float:
    """The largest error of one move along paths (n, time, d), by step halving.

    16/15 max |Φ_h(x_k) − Φ_{h/2}(x_k)|,   the leading error of a method of fourth order
    """
    finer, largest = replace(space, n_substeps=2 * space.n_substeps), 0.0
    for k in range(space.n_steps):
        apart = space.forecast(k, path[:, k], Stream(0)) - finer.forecast(k, path[:, k], Stream(0))
        largest = max(largest, 16 / 15 * float(apart.abs().max()))
    return largest


def simulated(twin: Lorenz63Paths | Lorenz96Paths, stream: Stream) -> xr.Dataset:
    """Free paths, truths, and what was measured of the truths."""
    space = twin.space
    free, truth = (space.simulate(n, stream.child(name)) for n, name in
                   ((twin.n_samples, "data"), (twin.n_problems, "truth")))  # fmt: skip
    records = twin.observation.record(truth, stream.child("observe"))
    event = ("time", "coordinate")
    dims = {"data": ("sample", *event), "truth": ("observation", *event), "measured": ("observation", "measurement")}
    for name, value in records.items():
        fits = tuple(value.shape[1:]) == tuple(truth.shape[1:])
        dims.setdefault(name, ("observation", *(event if fits else (f"{name}_{k}" for k in range(value.ndim - 1)))))
    labels = np.where(np.arange(twin.n_samples) % 10 == 0, "validation", "train")
    made = to_xarray(
        {"data": free, "truth": truth, **records},
        dims,
        {"time": np.array(space.grid), "split": ("sample", labels), "unit": ("sample", np.arange(twin.n_samples))},
        {name: "1" for name in ("data", "truth", "measured")},
    )
    numbers = {f"equation_{name}": value for name, value in asdict(space.dynamics).items()}  # type: ignore[call-overload]
    return made.assign_attrs(
        equation=twin.kind,
        **numbers,
        model_noise=space.noise,
        n_substeps=space.n_substeps,
        spin_up=space.spin_up,
        start_width=space.std,
        reference_error=reference_error(space, truth),
    )


def grid(n_times: int, interval: float) -> tuple[float, ...]:
    """n_times + 1 equidistant times from 0."""
    return tuple(interval * k for k in range(n_times + 1))


def _half_seen() -> Observation:
    return Observation(Inpainting(0.5), GaussianNoise(1.0))


def _one_seen() -> Observation:
    return Observation(Inpainting(0.66), GaussianNoise(2.0))


@dataclass(frozen=True)
class Lorenz96Paths:
    """Paths of Lorenz-96 with model noise, and noisy measurements of some of their coordinates.

        x_{k+1} = Φ(x_k) + q ξ_k,   y_k = (x_k)_{i measured} + σ v_k

    Which coordinates are measured is drawn for each path and holds for all its times. Paths start on the attractor.

    Exactness: the chain is exact but for the solver, whose largest error of one move is the attribute
        `reference_error`, found by halving its step
    Cost: 4 n_substeps drift calls for each path and time
    Bias: none
    Args:
        dimension: coordinates on the circle, at least 4.
        forcing: F.
        n_times: K, moves of a path; it has one time more.
        interval: between two times; 0.05 is about six hours of weather [time units].
        n_substeps: Runge–Kutta steps of one move.
        model_noise: q [state units].
        spin_up: time before the first one that brings random starts to the attractor [time units].
        n_problems: measured paths.
        n_samples: free paths, which tell what is known without measurements.
        observation: how paths are measured.
    Source: Lorenz (1996), Predictability: a problem partly solved.
    """

    dimension: Annotated[int, Field(ge=4)] = 8
    forcing: float = 8.0
    n_times: Count = 40
    interval: Positive = 0.2
    n_substeps: Count = 8
    model_noise: Annotated[float, Field(ge=0)] = 0.5
    spin_up: Annotated[float, Field(ge=0)] = 5.0
    n_problems: Count = 16
    n_samples: Annotated[int, Field(ge=10)] = 64
    observation: Observation = field(default_factory=_half_seen)

    kind = "lorenz96"

    @property
    def space(self) -> StateSpace:
        equation = Lorenz96(self.dimension, self.forcing)
        return _on_attractor(equation, self)

    def simulate(self, stream: Stream) -> xr.Dataset:
        return simulated(self, stream)


@dataclass(frozen=True)
class Lorenz63Paths:
    """Paths of Lorenz-63 with model noise, and noisy measurements of one of its three variables.

        x_{k+1} = Φ(x_k) + q ξ_k,   y_k = (x_k)_{i measured} + σ v_k

    Exactness: as `lorenz96`
    Cost: 4 n_substeps drift calls for each path and time
    Bias: none
    Args:
        n_times: K, moves of a path; it has one time more.
        interval: between two times [time units].
        n_substeps: Runge–Kutta steps of one move.
        model_noise: q [state units].
        spin_up: time before the first one that brings random starts to the attractor [time units].
        n_problems: measured paths.
        n_samples: free paths, which tell what is known without measurements.
        observation: how paths are measured.
    Source: Lorenz (1963), Deterministic nonperiodic flow.
    """

    n_times: Count = 40
    interval: Positive = 0.25
    n_substeps: Count = 25
    model_noise: Annotated[float, Field(ge=0)] = 0.5
    spin_up: Annotated[float, Field(ge=0)] = 5.0
    n_problems: Count = 16
    n_samples: Annotated[int, Field(ge=10)] = 64
    observation: Observation = field(default_factory=_one_seen)

    kind = "lorenz63"

    @property
    def space(self) -> StateSpace:
        return _on_attractor(Lorenz63(), self)

    def simulate(self, stream: Stream) -> xr.Dataset:
        return simulated(self, stream)


def _on_attractor(equation: Lorenz63 | Lorenz96, of: Lorenz63Paths | Lorenz96Paths) -> StateSpace:
    times, start = grid(of.n_times, of.interval), (equation.centre, equation.width)
    return StateSpace(equation, times, *start, of.model_noise, n_substeps=of.n_substeps, spin_up=of.spin_up)
