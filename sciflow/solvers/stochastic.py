"""Stochastic one-step methods for dx = drift dt + diffusion dW."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sciflow.solvers.dynamics import Dynamics
from sciflow.solvers.solve import Past, StepNoise


@dataclass(frozen=True)
class EulerMaruyama:
    """Euler–Maruyama step.

        x₁ = x₀ + h f(t₀, x₀) + √h g(t₀, x₀) z,   z ~ N(0, I)

    Order: 1 weak; strong 1/2, or 1 when the diffusion does not depend on x.
    Cost: 1 drift call per step.
    Bias: O(h) in the law of x.
    Source: Kloeden and Platen (1992), Numerical solution of stochastic differential equations, eq. 10.2.4.
    """

    convergence = 1

    def plan(self, dynamics: Dynamics, times: Sequence[float], past: Sequence[float] = ()) -> list[tuple[float, float]]:
        return list(itertools.pairwise(times))

    def init(self, dynamics: Dynamics, times: Sequence[float], x: Tensor, past: Past = ()) -> Tensor:
        return x

    def step(self, dynamics: Dynamics, coefficients: tuple[float, float], state: Tensor, noise: StepNoise) -> Tensor:
        a, b = coefficients
        drift = dynamics.drift(a, state)
        if dynamics.noise == "none":
            return state.add(drift, alpha=b - a)
        amplitude = dynamics.diffusion(a, state)
        if torch.is_grad_enabled() or isinstance(amplitude, Tensor):
            return state + (b - a) * drift + math.sqrt(b - a) * amplitude * noise()
        return state.add_(drift, alpha=b - a).add_(noise(), alpha=math.sqrt(b - a) * amplitude)

    def value(self, state: Tensor) -> Tensor:
        return state
