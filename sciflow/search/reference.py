"""What a search is measured against: the probability flow of the model itself, solved on a fine grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.flow import probability_flow
from sciflow.diffusion.schedule import Schedule
from sciflow.random import Stream
from sciflow.solvers.exponential import EABM
from sciflow.solvers.scheduled import Scheduled
from sciflow.solvers.solve import solve

FLOAT32 = torch.empty(0)


class Found(NamedTuple):
    """A grid, and the solver that was fitted to it where the search looked for one."""

    times: Tensor
    solver: Scheduled | None = None


@runtime_checkable
class Search(Protocol):
    """A rule that replaces a grid by a better one for this model, with the same ends and as many steps.

    One with an attribute `finds_choices` that is true finds what each step does as well.
    """

    def __call__(self, denoiser: Denoiser, times: Tensor, stream: Stream, like: Tensor = FLOAT32) -> Tensor | Found:
        """The grid, float64. States are made in the dtype and on the device of `like`."""
        ...


def refined(schedule: Schedule, times: Sequence[float] | Tensor, n_steps: int) -> list[float]:
    """n_steps + 1 times equidistant in λ = log(α/σ) between the ends of a grid.

    Raises:
        ValueError: an end where λ is infinite.
    """
    ends = [float(times[0]), float(times[-1])]
    low, high = (float(schedule.log_snr(t)) for t in ends)
    if not (abs(low) < float("inf") and abs(high) < float("inf")):
        raise ValueError(
            f"a search needs finite noise levels at both ends, got log(α/σ) = {low:g} and {high:g} at t = {ends}. "
            "Set ratio_max and ratio_min of the grid."
        )
    inner = schedule.time(torch.linspace(low, high, n_steps + 1, dtype=torch.float64))[1:-1]
    return [ends[0], *inner.tolist(), ends[1]]


@dataclass(frozen=True)
class Path:
    """The probability flow of some samples on a fine grid.

    Args:
        times: increasing grid, M + 1 times.
        alpha, sigma: the coefficients at these times, float64.
        states: x, shape (M + 1, n, d).
        data: D(x, t) at these states, shape (M + 1, n, d).
    """

    times: list[float]
    alpha: Tensor
    sigma: Tensor
    states: Tensor
    data: Tensor

    @property
    def log_snr(self) -> Tensor:
        return (self.alpha / self.sigma).log()

    def spread(self) -> Tensor:
        """Root mean square distance of the states from their mean at each time, shape (M + 1,)."""
        return rms(self.states - self.states.mean(1, keepdim=True))


def rms(values: Tensor) -> Tensor:
    """Root mean square over samples and coordinates, (…, n, d) → (…)."""
    return values.double().square().mean((-2, -1)).sqrt()


def follow(denoiser: Denoiser, times: Sequence[float], n: int, stream: Stream, like: Tensor = FLOAT32) -> Path:
    """The flow of n fresh samples, by the second-order method with corrector; 2 M + 1 calls of n rows.

    Raises:
        ValueError: fewer than two samples, which have no spread.
    """
    if n < 2:
        raise ValueError(f"a search needs at least two samples, got {n}.")
    x = denoiser.initial(times[0], n, stream, like.dtype).to(like.device)
    states = [x]
    with torch.no_grad():
        flow = probability_flow(denoiser)
        solve(flow, x, times, EABM(2, "data", True), on_step=lambda k, t, x: states.append(x.clone()))
        data = [denoiser(x, t) for x, t in zip(states, times, strict=True)]
    grid, schedule = torch.tensor(times, dtype=torch.float64), denoiser.schedule
    flat = (torch.stack(values).flatten(2).cpu() for values in (states, data))
    return Path(list(times), schedule.alpha(grid), schedule.sigma(grid), *flat)
