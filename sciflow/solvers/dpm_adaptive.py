"""DPM-Solver-12 and DPM-Solver-23: embedded exponential pairs in λ = log(α/σ), with steps of their own for each row."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from sciflow.solvers.dynamics import Dynamics, ModelSplit, model_split
from sciflow.solvers.per_row import Adaptive, Controller, Rows, Trial, column, row_norms
from sciflow.solvers.solve import StepNoise

Positive = Annotated[float, Field(gt=0)]
FIRST = 0.05  # the first step in λ
SAFETY = 0.9  # θ


@runtime_checkable
class RowSplit(ModelSplit, Protocol):
    """A split that answers for one time per row."""

    def row_levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """α and σ at times of shape (batch,), in float64."""
        ...


def _phi(z: Tensor) -> Tensor:
    """φ₁(z) − 1 = (e^z − 1)/z − 1; by its series where the difference would lose digits."""
    series = torch.zeros_like(z)
    for k in range(14, 1, -1):
        series = (1 + series) * z / k
    return torch.where(z < 0.5, series, torch.expm1(z) / z - 1)


class _Level(NamedTuple):
    """α and u = σ/α of each row, shaped to go with x."""

    alpha: Tensor
    u: Tensor


@dataclass(frozen=True)
class ExponentialPair:
    """The two pairs for one model, row by row; the slope is the noise ε̂ = (y − D)/u, with y = x/α."""

    split: RowSplit
    order: Literal[2, 3]
    relative: float
    absolute: float
    keeps_slope = False

    @property
    def calls(self) -> int:
        return self.order - 1

    def _level(self, s: Tensor, x: Tensor) -> tuple[Tensor, _Level]:
        t = self.split.time(s)
        assert isinstance(t, Tensor)
        alpha, _ = self.split.row_levels(t)
        return t, _Level(column(alpha, x).to(x.dtype), column(torch.exp(-s), x).to(x.dtype))

    def slope(self, s: Tensor, x: Tensor) -> Tensor:
        t, (alpha, u) = self._level(s, x)
        return (x / alpha - self.split.remainder(t, x).to(x.dtype)) / u  # type: ignore[arg-type]

    def first_step(self, s: Tensor, x: Tensor, slope: Tensor) -> tuple[Tensor, int]:
        return torch.full_like(s, FIRST), 0

    def trial(self, s: Tensor, h: Tensor, x: Tensor, slope: Tensor) -> Trial:
        _, (alpha, _) = self._level(s, x)
        _, (alpha_b, _) = self._level(s + h, x)
        y = x / alpha
        low, new = (self._second if self.order == 2 else self._third)(s, h, y, slope)
        low, new = alpha_b * low, alpha_b * new
        with torch.no_grad():
            scale = (self.relative * torch.maximum(low.abs(), x.abs())).clamp_min(self.absolute)
            return Trial(new, row_norms(low - new, scale), None)

    def _rise(self, s: Tensor, h: Tensor, x: Tensor) -> Tensor:
        """u(s + h) − u(s) = e^{−s} (e^{−h} − 1), the weight of a constant ε̂."""
        return column(torch.exp(-s) * torch.expm1(-h), x).to(x.dtype)

    def _at(self, s: Tensor, y: Tensor) -> Tensor:
        """ε̂ at a stage y."""
        _, (alpha, _) = self._level(s, y)
        return self.slope(s, alpha * y)

    def _second(self, s: Tensor, h: Tensor, y: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        rise = self._rise(s, h, y)
        middle = self._at(s + 0.5 * h, y + self._rise(s, 0.5 * h, y) * slope)
        return y + rise * slope, y + rise * middle

    def _third(self, s: Tensor, h: Tensor, y: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        rise, third, two_thirds = self._rise(s, h, y), h / 3, h * (2 / 3)
        change = self._at(s + third, y + self._rise(s, third, y) * slope) - slope
        bend = column(2 * torch.exp(-(s + two_thirds)) * _phi(two_thirds), y).to(y.dtype)
        second = self._at(s + two_thirds, y + self._rise(s, two_thirds, y) * slope - bend * change) - slope
        curve = column(1.5 * torch.exp(-(s + h)) * _phi(h), y).to(y.dtype)
        return y + rise * (slope + 1.5 * change), y + rise * slope - curve * second


@dataclass(frozen=True)
class _AdaptiveDPM(Adaptive):
    """Plan and step of both."""

    relative_tolerance: Positive = 0.05
    absolute_tolerance: Positive = 0.0078
    max_steps: Annotated[int, Field(gt=0)] = 10_000
    order: ClassVar[Literal[2, 3]]
    multistep = False

    @property
    def convergence(self) -> int:
        return self.order

    def plan(
        self, dynamics: Dynamics, times: Sequence[float], past: Sequence[float] = ()
    ) -> list[tuple[RowSplit, float, float]]:
        split = model_split(self, dynamics)
        name = type(self).__name__
        if not isinstance(split, RowSplit):
            raise ValueError(f"{name} needs noise levels row by row, which this model lacks. Use AdaptiveRungeKutta().")
        levels = [split.levels(t) for t in times]
        bad = [t for t, (alpha, sigma) in zip(times, levels, strict=True) if alpha <= 0 or sigma <= 0]
        if bad:
            raise ValueError(
                f"{name} steps in log(α/σ), which is infinite at t = {bad[0]:g}. Start the grid after α = 0 and end it "
                "before σ = 0: Karras() does."
            )
        ends = [math.log(alpha / sigma) for alpha, sigma in levels]
        return [(split, a, b) for a, b in itertools.pairwise(ends)]

    def step(self, dynamics: Dynamics, coefficients: tuple, state: Rows, noise: StepNoise) -> Rows:
        split, a, b = coefficients
        pair = ExponentialPair(split, self.order, self.relative_tolerance, self.absolute_tolerance)
        return Controller(self.order, 0.0, SAFETY, self.max_steps).advance(pair, a, b, state)


@dataclass(frozen=True)
class DPMSolver12(_AdaptiveDPM):
    """DPM-Solver-12: the error of DPM-Solver-1 told by DPM-Solver-2, a step in λ for each row.

        y₁ = y₀ + (u₁ − u₀) ε̂(λ₀ + h/2),   ŷ₁ = y₀ + (u₁ − u₀) ε̂(λ₀),   y = x/α,  u = σ/α
        err = √(mean ((x₁ − x̂₁)/max(atol, rtol max(|x₀|, |x̂₁|)))²) ≤ 1,   h ← 0.9 h err^{−1/2}

    Published with one error for the batch; here rows have their own, as in `adaptive_runge_kutta`.

    Order: 2; the error follows the tolerances, not the grid.
    Cost: 2 drift calls of a row per step of that row, 1 when it is rejected.
    Bias: set by `relative_tolerance` and `absolute_tolerance`, whose published values are loose.
    Args:
        relative_tolerance: error allowed per unit of |x| [dimensionless].
        absolute_tolerance: least error allowed [units of x]; published for data in [−1, 1].
        max_steps: most steps between two times of the grid.
    Raises:
        ValueError: dynamics of no model; a grid that reaches α = 0 or σ = 0; too many or too small steps.
        NonFiniteError: a model that is not finite.
    Source: Lu et al. (2022), DPM-Solver, the appendix on adaptive step sizes.
    """

    order = 2


@dataclass(frozen=True)
class DPMSolver23(_AdaptiveDPM):
    """DPM-Solver-23: the error of DPM-Solver-2 told by DPM-Solver-3, a step in λ for each row.

        y₁ = y₀ + (u₁ − u₀) ε₀ − 3/2 u₁ (φ₁(h) − 1)(ε(λ₀ + 2h/3) − ε₀),   φ₁(h) = (e^h − 1)/h
        ŷ₁ = y₀ + (u₁ − u₀)(ε₀ + 3/2 (ε(λ₀ + h/3) − ε₀)),   h ← 0.9 h err^{−1/3}

    with y = x/α, u = σ/α and the error of `dpm_solver_12`.

    Order: 3; the error follows the tolerances, not the grid.
    Cost: 3 drift calls of a row per step of that row, 2 when it is rejected.
    Bias: set by `relative_tolerance` and `absolute_tolerance`, whose published values are loose.
    Args:
        relative_tolerance: error allowed per unit of |x| [dimensionless].
        absolute_tolerance: least error allowed [units of x]; published for data in [−1, 1].
        max_steps: most steps between two times of the grid.
    Raises:
        ValueError: dynamics of no model; a grid that reaches α = 0 or σ = 0; too many or too small steps.
        NonFiniteError: a model that is not finite.
    Source: Lu et al. (2022), DPM-Solver, the appendix on adaptive step sizes.
    """

    order = 3
