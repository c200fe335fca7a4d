"""Time grids for generation: where to spend the network calls, said in noise levels u = σ/α."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from sciflow.diffusion.schedule import Scaled, Schedule

Steps = Annotated[int, Field(gt=0)]
Ratio = Annotated[float, Field(gt=0)]


@runtime_checkable
class Times(Protocol):
    """A rule that turns a schedule into an increasing grid of n_steps + 1 times."""

    @property
    def n_steps(self) -> int: ...

    def __call__(self, schedule: Schedule) -> Tensor: ...


def _base(schedule: Schedule) -> Schedule:
    """Noise levels are meant relative to the data's standard deviation, so the scale of the base is set aside."""
    return schedule.base if isinstance(schedule, Scaled) else schedule


def _within(schedule: Schedule, ratio: float, t_end: float) -> float:
    """The ratio, or the schedule's own at its end t_end when it does not reach that far."""
    own = math.exp(-float(schedule.log_snr(t_end)))
    return min(ratio, own) if t_end == 0.0 else max(ratio, own)


def _from_ratios(schedule: Schedule, ratios: Tensor) -> Tensor:
    return schedule.time(-ratios.log()).clamp(0, 1)  # inverting λ(t) at its very ends may overstep by rounding


@dataclass(frozen=True)
class Karras:
    """u^{1/ρ} equidistant between the largest and the smallest noise level.

        u_k = (u_max^{1/ρ} + k/n (u_min^{1/ρ} − u_max^{1/ρ}))^ρ

    Exactness: both ends are clipped to what the schedule reaches.
    Cost: n_steps steps.
    Bias: the law at u_max is not white and the last state keeps noise u_min: O(1/u_max) and O(u_min).
    Args:
        n_steps: number of steps.
        ratio_max: u at the start, in data standard deviations.
        ratio_min: u at the end, in data standard deviations.
        rho: ρ; 7 spends most steps at small noise, 1 is uniform in u.
    Source: Karras et al. (2022), eq. 5.
    """

    n_steps: Steps = 50
    ratio_max: Ratio = 80.0
    ratio_min: Ratio = 0.002
    rho: Ratio = 7.0

    def __call__(self, schedule: Schedule) -> Tensor:
        base = _base(schedule)
        high = _within(base, self.ratio_max, 0.0) ** (1 / self.rho)
        low = _within(base, self.ratio_min, 1.0) ** (1 / self.rho)
        return _from_ratios(base, torch.linspace(high, low, self.n_steps + 1, dtype=torch.float64) ** self.rho)


@dataclass(frozen=True)
class LogSNR:
    """λ = log(α/σ) equidistant between the largest and the smallest noise level.

        λ_k = −log u_max + k/n (log u_max − log u_min)

    Exactness: both ends are clipped to what the schedule reaches.
    Cost: n_steps steps.
    Bias: as `Karras`.
    Args:
        n_steps: number of steps.
        ratio_max: u at the start, in data standard deviations.
        ratio_min: u at the end, in data standard deviations.
    Source: Lu et al. (2022), DPM-Solver, section 3.3.
    """

    n_steps: Steps = 50
    ratio_max: Ratio = 80.0
    ratio_min: Ratio = 0.002

    def __call__(self, schedule: Schedule) -> Tensor:
        base = _base(schedule)
        high = math.log(_within(base, self.ratio_max, 0.0))
        low = math.log(_within(base, self.ratio_min, 1.0))
        return _from_ratios(base, torch.linspace(high, low, self.n_steps + 1, dtype=torch.float64).exp())


@dataclass(frozen=True)
class Uniform:
    """Equidistant times between the largest and the smallest noise level.

        t_k = t(u_max) + k/n (t(u_min) − t(u_max))

    Exactness: both ends are clipped to what the schedule reaches.
    Cost: n_steps steps.
    Bias: as `Karras`.
    Args:
        n_steps: number of steps.
        ratio_max: u at the start, in data standard deviations.
        ratio_min: u at the end, in data standard deviations.
    Source: Liu et al. (2023), Flow straight and fast, algorithm 1, away from the singular ends.
    """

    n_steps: Steps = 50
    ratio_max: Ratio = 1000.0
    ratio_min: Ratio = 0.002

    def __call__(self, schedule: Schedule) -> Tensor:
        base = _base(schedule)
        ends = [_within(base, self.ratio_max, 0.0), _within(base, self.ratio_min, 1.0)]
        start, stop = _from_ratios(base, torch.tensor(ends, dtype=torch.float64)).tolist()
        return torch.linspace(start, stop, self.n_steps + 1, dtype=torch.float64)
