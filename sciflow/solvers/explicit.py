"""Explicit Runge–Kutta methods for dx = drift(t, x) dt."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sciflow.solvers.dynamics import Dynamics
from sciflow.solvers.solve import Past, StepNoise


@dataclass(frozen=True)
class _OneStep:
    """What one-step methods share: the coefficients of a step are its two times, the state is x."""

    def plan(self, dynamics: Dynamics, times: Sequence[float], past: Sequence[float] = ()) -> list[tuple[float, float]]:
        if dynamics.noise != "none":
            raise ValueError(
                f"{type(self).__name__} solves ODEs, got dynamics with {dynamics.noise} noise. "
                "Use EulerMaruyama(), or the probability flow of the same model."
            )
        return list(itertools.pairwise(times))

    def init(self, dynamics: Dynamics, times: Sequence[float], x: Tensor, past: Past = ()) -> Tensor:
        return x

    def value(self, state: Tensor) -> Tensor:
        return state


def _add(x: Tensor, scale: float, slope: Tensor) -> Tensor:
    """x + scale · slope, in the buffer of x when autograd is off."""
    return x.add(slope, alpha=scale) if torch.is_grad_enabled() else x.add_(slope, alpha=scale)


@dataclass(frozen=True)
class Euler(_OneStep):
    """Explicit Euler step.

        x₁ = x₀ + h f(t₀, x₀)

    Order: 1.
    Cost: 1 drift call per step.
    Bias: O(h).
    Source: Hairer, Nørsett and Wanner (1993), Solving ordinary differential equations I, eq. I.7.3.
    """

    convergence = 1

    def step(self, dynamics: Dynamics, coefficients: tuple[float, float], state: Tensor, noise: StepNoise) -> Tensor:
        a, b = coefficients
        return _add(state, b - a, dynamics.drift(a, state))


@dataclass(frozen=True)
class Heun(_OneStep):
    """Heun's second-order step (explicit trapezoid).

        a = x₀ + h f(t₀, x₀),   x₁ = x₀ + h/2 (f(t₀, x₀) + f(t₁, a))

    Order: 2.
    Cost: 2 drift calls per step.
    Bias: O(h²).
    Source: Heun (1900); Karras et al. (2022), algorithm 1, without the first-order last step.
    """

    convergence = 2

    def step(self, dynamics: Dynamics, coefficients: tuple[float, float], state: Tensor, noise: StepNoise) -> Tensor:
        a, b = coefficients
        first = dynamics.drift(a, state)
        second = dynamics.drift(b, state.add(first, alpha=b - a))
        return _add(_add(state, 0.5 * (b - a), first), 0.5 * (b - a), second)


@dataclass(frozen=True)
class Midpoint(_OneStep):
    """Explicit midpoint step.

        m = x₀ + h/2 f(t₀, x₀),   x₁ = x₀ + h f(t₀ + h/2, m)

    Order: 2.
    Cost: 2 drift calls per step.
    Bias: O(h²).
    Source: Runge (1895); Hairer, Nørsett and Wanner (1993), section II.1.
    """

    convergence = 2

    def step(self, dynamics: Dynamics, coefficients: tuple[float, float], state: Tensor, noise: StepNoise) -> Tensor:
        a, b = coefficients
        middle = state.add(dynamics.drift(a, state), alpha=0.5 * (b - a))
        return _add(state, b - a, dynamics.drift(0.5 * (a + b), middle))


@dataclass(frozen=True)
class RFSolver(Midpoint):
    """RF-Solver of second order: a Taylor step whose derivative is a difference over half a step.

        x₁ = x₀ + h v + h²/2 (v_m − v)/(h/2) = x₀ + h v_m,   v_m = v(t₀ + h/2, x₀ + h/2 v)

    The two lines are the same numbers: it is `midpoint` under the name that editing with rectified flows gives it.

    Order: 2.
    Cost: 2 drift calls per step.
    Bias: O(h²); run backwards it returns to its start up to O(h²), not exactly.
    Source: Wang et al. (2024), Taming rectified flow for inversion and editing (arXiv 2411.04746).
    """


@dataclass(frozen=True)
class RungeKutta4(_OneStep):
    """The classical fourth-order Runge–Kutta step.

        x₁ = x₀ + h/6 (k₁ + 2k₂ + 2k₃ + k₄)

    Order: 4.
    Cost: 4 drift calls per step.
    Bias: O(h⁴).
    Source: Kutta (1901); Hairer, Nørsett and Wanner (1993), table II.1.2.
    """

    convergence = 4

    def step(self, dynamics: Dynamics, coefficients: tuple[float, float], state: Tensor, noise: StepNoise) -> Tensor:
        a, b = coefficients
        h, middle = b - a, 0.5 * (a + b)
        k1 = dynamics.drift(a, state)
        k2 = dynamics.drift(middle, state.add(k1, alpha=0.5 * h))
        k3 = dynamics.drift(middle, state.add(k2, alpha=0.5 * h))
        k4 = dynamics.drift(b, state.add(k3, alpha=h))
        for slope, weight in ((k1, 1), (k2, 2), (k3, 2), (k4, 1)):
            state = _add(state, h * weight / 6, slope)
        return state
