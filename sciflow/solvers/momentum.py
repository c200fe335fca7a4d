"""Momentum: Adams–Bashforth methods whose slopes are averaged over the steps, for larger stable steps.

In y = x/α the probability flow is dy/du = ε(u) with u = σ/α, and both methods keep an average v of what they have seen.
What is averaged, and where the average enters, is the whole difference between first order and order p.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sciflow.solvers.dynamics import Dynamics, ModelSplit, model_split, quadrature
from sciflow.solvers.solve import Past, StepNoise

ADAMS = (1.0, 1 / 2, 5 / 12, 3 / 8, 251 / 720)  # Σ γ_k ∇^k is the slope that a step needs


class Step(NamedTuple):
    """x_b = P x_a + Δ Σ_j w_j v_j with Δ = α_b (u_b − u_a); the newest w_j first."""

    a: float
    split: ModelSplit
    sigma: float
    propagator: float
    length: float
    weights: tuple[float, ...]


class State(NamedTuple):
    """The current x, the last averages (GHVB) or noises (heavy ball), newest first, and the ball's velocity."""

    x: Tensor
    history: tuple[Tensor, ...]
    velocity: Tensor | None = None


def constant_weights(n: int, beta: float) -> tuple[float, ...]:
    """The weights of the papers, for n averages on a grid equidistant in u.

        Σ_{k<n} (β γ_k + (1 − β) γ_{k−1}) ∇^k v / β

    which is the Adams series Σ γ_k ∇^k over that of the average, v = β/(β + (1 − β)∇) ε, cut after n terms.

    Source: Wizadwongsa et al. (2023), Diffusion sampling with momentum, whose table for n ≤ 4 this gives.
    """
    terms = [beta * ADAMS[k] + (1 - beta) * (ADAMS[k - 1] if k else 0.0) for k in range(n)]
    return tuple((-1) ** j * sum(terms[k] * math.comb(k, j) for k in range(j, n)) / beta for j in range(n))


def adapted_weights(clock: Sequence[float], ratio: Sequence[float], order: int, beta: float) -> Iterator[list[float]]:
    """For each step of a grid, the weights with which averages integrate polynomials of degree < n exactly.

    Σ_j w_j V_j^{(i)} = ∫ (c − c_a)^i du / (u_b − u_a), i < n, where V_j^{(i)} is the average, by the same recursion, of
    (c − c_a)^i. At β = 1 they are the Adams–Bashforth weights of the grid.

    Args:
        clock: node variable c at each time.
        ratio: u at each time.
        order: most averages used; the first steps have fewer.
        beta: weight of the newest value in the average.
    """
    means: list[np.ndarray] = []
    for k in range(len(clock) - 1):
        h, moved = clock[k + 1] - clock[k], clock[k] - clock[max(k - 1, 0)]
        shift = [[math.comb(i, j) * (-moved) ** max(i - j, 0) for j in range(order)] for i in range(order)]
        means = [np.array(shift) @ mean for mean in means]  # moments about the newest node
        newest = np.eye(order)[0]
        means = [(1 - beta) * means[0] + beta * newest if means else newest, *means][:order]
        n = len(means)
        if n == 1:
            yield [1.0]
            continue
        powers = np.arange(n)
        if clock is ratio:
            integrals = 1 / (powers + 1)
        else:  # c = λ, du = −u dλ
            points, weights = quadrature(0.0, 1.0)
            kernel = weights * np.exp(-h * points)
            integrals = (points ** powers[:, None] * kernel).sum(1) / kernel.sum()
        scaled = np.stack(means, 1)[:n] / h ** powers[:, None]
        yield np.linalg.solve(scaled, integrals).tolist()


@dataclass(frozen=True)
class _Momentum:
    """What the two methods share: fields, plan, and the noise as a new tensor."""

    order: Annotated[int, Field(ge=1, le=5)] = 2
    beta: Annotated[float, Field(gt=0, le=1)] = 0.8
    weights: Literal["adapted", "constant"] = "adapted"
    nodes: Literal["log_snr", "ratio"] = "log_snr"

    def _recent(self, past: Sequence) -> list:
        return list(past[max(len(past) + 1 - self.order, 0) :])

    def _plan(self, dynamics: Dynamics, times: Sequence[float], past: Sequence[float], beta: float) -> list[Step]:
        split, recent = model_split(self, dynamics, "noise"), self._recent(past)
        known = [*recent, *times]
        levels = [split.levels(t) for t in known]
        name = type(self).__name__
        if any(alpha == 0 for alpha, _ in levels):
            raise ValueError(f"{name} divides the state by α, which is 0 on this grid. Start the grid later.")
        ratio = [sigma / alpha for alpha, sigma in levels]
        clock = ratio
        if self.nodes == "log_snr" and self.order > 1 and self.weights == "adapted":
            if 0.0 in ratio:
                raise ValueError(f"{name} has nodes in λ, infinite where σ = 0. End the grid earlier, or nodes: ratio.")
            clock = [-math.log(u) for u in ratio]
        if self.weights == "adapted":
            rows = [tuple(row) for row in adapted_weights(clock, ratio, self.order, beta)]
        else:
            rows = [constant_weights(min(k + 1, self.order), beta) for k in range(len(known) - 1)]
        return [
            Step(known[k], split, levels[k][1], end / levels[k][0], end * (ratio[k + 1] - ratio[k]), rows[k])
            for k, (end, _) in enumerate(levels[1:])
            if k >= len(recent)
        ]

    def _noises(self, dynamics: Dynamics, past: Past) -> list[Tensor]:
        """ε at the known earlier states, oldest first."""
        split = model_split(self, dynamics, "noise")
        return [split.remainder(t, x) / split.levels(t)[1] for t, x in self._recent(past)]

    def value(self, state: State) -> Tensor:
        return state.x


def _mean(old: Tensor | None, new: Tensor, scale: float, beta: float) -> Tensor:
    """(1 − β) old + β scale new, in the buffer of `new` when autograd is off."""
    share = scale if old is None else beta * scale
    new = new * share if torch.is_grad_enabled() else new.mul_(share)
    if old is None:
        return new
    return new.add(old, alpha=1 - beta) if torch.is_grad_enabled() else new.add_(old, alpha=1 - beta)


def _advance(x: Tensor, step: Step, slopes: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    in_place = not torch.is_grad_enabled()
    x = x.mul_(step.propagator) if in_place else x * step.propagator
    for weight, slope in zip(weights, slopes, strict=True):
        x = x.add_(slope, alpha=step.length * weight) if in_place else x.add(slope, alpha=step.length * weight)
    return x


@dataclass(frozen=True)
class HeavyBall(_Momentum):
    """Polyak's heavy ball: the slope of an Adams–Bashforth method, averaged over the steps.

        e_n = Σ_j w_j ε_{n−j},   v_n = (1 − β) v_{n−1} + β e_n,   y_{n+1} = y_n + (u_{n+1} − u_n) v_n

    The average lags by (1 − β)/β steps, which costs the order of the method it is put on; the stability region grows.

    Order: 1 for β < 1; p for β = 1.
    Cost: 1 denoiser call per step.
    Bias: O(h), its constant grows like (1 − β)/β.
    Args:
        order: p, of the Adams–Bashforth method.
        beta: weight of the newest slope; 1 is no momentum.
        weights: "adapted" to the grid, or "constant", the paper's, of a grid equidistant in u.
        nodes: variable of the polynomials: "log_snr" λ or "ratio" u.
    Raises:
        ValueError: dynamics with noise or without noise levels, α = 0 on the grid, or σ = 0 with nodes in λ.
    Source: Polyak (1964); Wizadwongsa et al. (2023), Diffusion sampling with momentum, section 4.1.
    """

    @property
    def convergence(self) -> int:
        return 1 if self.beta < 1 else min(self.order, 2) if self.weights == "constant" else self.order

    def plan(self, dynamics: Dynamics, times: Sequence[float], past: Sequence[float] = ()) -> list[Step]:
        return self._plan(dynamics, times, past, 1.0)

    def init(self, dynamics: Dynamics, times: Sequence[float], x: Tensor, past: Past = ()) -> State:
        return State(x, tuple(reversed(self._noises(dynamics, past))))

    def step(self, dynamics: Dynamics, coefficients: Step, state: State, noise: StepNoise) -> State:
        value = coefficients.split.remainder(coefficients.a, state.x)
        history = (_mean(None, value, 1 / coefficients.sigma, 1.0), *state.history)
        slope = history[0] * coefficients.weights[0]
        for weight, earlier in zip(coefficients.weights[1:], history[1:], strict=True):
            slope = slope.add(earlier, alpha=weight)
        velocity = _mean(state.velocity, slope, 1.0, self.beta)
        return State(_advance(state.x, coefficients, [velocity], [1.0]), history[: self.order - 1], velocity)


@dataclass(frozen=True)
class GHVB(_Momentum):
    """Generalised heavy ball: averages of the noise, combined so that the order of Adams–Bashforth is kept.

        v_n = (1 − β) v_{n−1} + β ε_n,   y_{n+1} = y_n + (u_{n+1} − u_n) Σ_{j<p} w_j v_{n−j}

    The paper's weights are constant: exact to degree p − 1 on a grid equidistant in u, where they give order p for any
    fixed β > 0 with an error constant β γ_p + (1 − β) γ_{p−1} over β (its "order p − 1 + β" is an interpolation between
    the two, not a rate). Ours are adapted to the grid and to the start: what the averages do to a polynomial is known,
    so p conditions give p weights, and order p holds on any grid.

    Order: p; with constant weights 2 at most, on a grid that is not equidistant in u.
    Cost: 1 denoiser call per step.
    Bias: O(h^p).
    Args:
        order: p, the number of averages used.
        beta: weight of the newest noise; 1 is Adams–Bashforth.
        weights: "adapted" to the grid, or "constant", the paper's.
        nodes: variable of the polynomials: "log_snr" λ or "ratio" u.
    Raises:
        ValueError: dynamics with noise or without noise levels, α = 0 on the grid, or σ = 0 with nodes in λ.
    Source: Wizadwongsa et al. (2023), Diffusion sampling with momentum, section 4.2; adapted weights are derived here.
    """

    @property
    def convergence(self) -> int:
        return min(self.order, 2) if self.weights == "constant" else self.order

    def plan(self, dynamics: Dynamics, times: Sequence[float], past: Sequence[float] = ()) -> list[Step]:
        return self._plan(dynamics, times, past, self.beta)

    def init(self, dynamics: Dynamics, times: Sequence[float], x: Tensor, past: Past = ()) -> State:
        averages: list[Tensor] = []
        for new in self._noises(dynamics, past):
            averages.insert(0, torch.lerp(averages[0], new, self.beta) if averages else new)
        return State(x, tuple(averages))

    def step(self, dynamics: Dynamics, coefficients: Step, state: State, noise: StepNoise) -> State:
        value = coefficients.split.remainder(coefficients.a, state.x)
        newest = _mean(state.history[0] if state.history else None, value, 1 / coefficients.sigma, self.beta)
        history = (newest, *state.history)[: self.order]
        x = _advance(state.x, coefficients, history, coefficients.weights)
        return State(x, history[: max(self.order - 1, 1)])
