"""Heun's method in the noise level σ/α with churn: noise is raised before each step, and solved away by it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from sciflow.solvers.dynamics import Dynamics, ModelSplit, model_split
from sciflow.solvers.solve import Past, StepNoise

NonNegative = Annotated[float, Field(ge=0)]
LARGEST_RISE = math.sqrt(2) - 1  # of the noise level: its variance at most doubles


class Churned(NamedTuple):
    """Float64 coefficients of one step: the risen state x̂, its Euler step, and the mean with the second slope."""

    split: ModelSplit
    raised: float  # t̂, the time of the risen level
    rise: tuple[float, float]  # x̂ = rise₀ x + rise₁ z
    euler: tuple[float, float]  # x' = euler₀ x̂ + euler₁ D(x̂, t̂)
    end: float
    mean: tuple[float, float, float] | None  # x = mean₀ x̂ + mean₁ x' + mean₂ D(x', end); None at σ = 0


@dataclass(frozen=True)
class EDMSampler:
    """Stochastic sampler of Karras et al.: raise the noise level, then Heun's step in it.

        γ = min(churn/N, √2 − 1) where noise_min ≤ u_a ≤ noise_max, else 0;   û = (1 + γ) u_a
        ŷ = y_a + s √(û² − u_a²) z,   d = (ŷ − D̂)/û,   y' = ŷ + (u_b − û) d
        y_b = ŷ + (u_b − û)/2 (d + (y' − D')/u_b),   or y_b = D̂ where u_b = 0

    with y = x/α and u = σ/α, in which all schedules are one. N is the number of steps of the grid. The published
    grids end at σ = 0; `guided` ends with that step itself.

    Order: 2; without churn it is Heun's method in u.
    Cost: 2 drift calls per step, 1 for a step to σ = 0.
    Bias: O(h²) in the law: raising the level is exact, and what it adds forgets earlier errors; noise ≠ 1 has a bias
        that stays.
    Args:
        churn: S_churn, the noise added over the whole grid; 0 is deterministic [1].
        noise_min: S_min, the smallest u at which noise is added [data standard deviations].
        noise_max: S_max, the largest; null is no limit [same].
        noise: S_noise, the standard deviation of added noise over what the level asks for [1].
    Raises:
        ValueError: dynamics with noise of its own, or of no model; a grid that starts at α = 0.
    Source: Karras et al. (2022), Elucidating the design space of diffusion-based generative models, algorithm 2.
    """

    churn: NonNegative = 0.0
    noise_min: NonNegative = 0.0
    noise_max: NonNegative | None = None
    noise: NonNegative = 1.0
    convergence = 2

    def plan(self, dynamics: Dynamics, times: Sequence[float], past: Sequence[float] = ()) -> list[Churned]:
        split = model_split(self, dynamics)
        return [self._coefficients(split, a, b, len(times) - 1) for a, b in itertools.pairwise(times)]

    def _coefficients(self, split: ModelSplit, a: float, b: float, n_steps: int) -> Churned:
        (alpha_a, sigma_a), (alpha_b, sigma_b) = split.levels(a), split.levels(b)
        if alpha_a == 0:
            raise ValueError(
                f"EDMSampler steps in σ/α, which is infinite at t = {a:g}. Start the grid later: Karras() does."
            )
        u, u_b = sigma_a / alpha_a, sigma_b / alpha_b
        is_churned = self.noise_min <= u <= (math.inf if self.noise_max is None else self.noise_max)
        gamma = min(self.churn / n_steps, LARGEST_RISE) if is_churned else 0.0
        raised = float(split.time(-math.log(u * (1 + gamma)))) if gamma else a
        alpha, sigma = split.levels(raised)
        if not (alpha > 0 and math.isfinite(sigma)):
            raise ValueError(f"EDMSampler: the schedule has no level {u * (1 + gamma):.4g}. Lower churn or noise_max.")
        spread = self.noise * alpha * u * math.sqrt(gamma * (2 + gamma))
        kept = u_b / (u * (1 + gamma))
        mean = None
        if sigma_b > 0:
            slope = 1 - 1 / kept  # (u_b − û)/u_b
            mean = (0.5 * alpha_b / alpha, 0.5 * (1 + slope), -0.5 * alpha_b * slope)
        euler = (alpha_b / alpha * kept, alpha_b * (1 - kept))
        return Churned(split, raised, (alpha / alpha_a, spread), euler, b, mean)

    def init(self, dynamics: Dynamics, times: Sequence[float], x: Tensor, past: Past = ()) -> Tensor:
        return x

    def step(self, dynamics: Dynamics, coefficients: Churned, state: Tensor, noise: StepNoise) -> Tensor:
        split, raised, (scale, spread), euler, end, mean = coefficients
        x = state
        if spread:
            x = (x * scale).add_(noise(), alpha=spread)
        elif scale != 1:
            x = x * scale
        first = _weighted(euler, x, split.remainder(raised, x))
        if mean is None:
            return first
        second = split.remainder(end, first)
        return _weighted(mean, x, first, second)

    def value(self, state: Tensor) -> Tensor:
        return state


def _weighted(weights: Sequence[float], x: Tensor, *others: Tensor) -> Tensor:
    """Σ w_k x_k, a new tensor in the dtype of x."""
    total = x * weights[0]
    for weight, other in zip(weights[1:], others, strict=True):
        other = other.to(total.dtype)
        total = total.add(other, alpha=weight) if torch.is_grad_enabled() else total.add_(other, alpha=weight)
    return total
