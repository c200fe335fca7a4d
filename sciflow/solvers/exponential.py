"""Exponential multistep methods: one family whose members carry most of the names of fast diffusion sampling.

In a frame the linear part of the drift is solved exactly and a smooth function F remains; F is replaced by the
polynomial through its last values. Frame, node variable and order name the method: order 1 in the noise or data frame
is DDIM, order 2 in the data frame DPM-Solver++(2M), order 3 in the noise frame DEIS-3, order 3 with corrector in the
data frame UniPC-3.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from sciflow.solvers.dynamics import Coefficient, Dynamics
from sciflow.solvers.solve import Past, StepNoise


class Step(NamedTuple):
    """Float64 coefficients of one step from a to b; weights are newest node first."""

    a: float
    b: float
    frame: str
    propagator: Coefficient
    weights: tuple[Coefficient, ...]
    corrector: tuple[Coefficient, ...]  # the first weight belongs to the node b; empty: no correction


class State(NamedTuple):
    """The current x, and the values of F at the last nodes, newest first."""

    x: Tensor
    history: tuple[Tensor, ...]


def _combine(x: Tensor, propagator: Coefficient, weights: Sequence[Coefficient], values: Sequence[Tensor]) -> Tensor:
    """P x + Σ W_j F_j, in the buffer of x when autograd is off."""
    in_place = not torch.is_grad_enabled()
    if not isinstance(propagator, Tensor):
        x = (x.mul_(propagator) if in_place else x * propagator) if propagator != 1.0 else x
    else:
        x = x * propagator.to(x.device, x.dtype)
    for weight, value in zip(weights, values, strict=True):
        if isinstance(weight, Tensor):
            x = x + weight.to(x.device, x.dtype) * value
        else:
            x = x.add_(value, alpha=weight) if in_place else x.add(value, alpha=weight)
    return x


def _require_ode(solver: object, dynamics: Dynamics) -> None:
    if dynamics.noise != "none":
        raise ValueError(
            f"{type(solver).__name__} solves ODEs, got dynamics with {dynamics.noise} noise. "
            "Use EulerMaruyama(), or the probability flow of the same model."
        )


@dataclass(frozen=True)
class ExponentialEuler:
    """First-order exponential step: the linear part exactly, F frozen at its last value.

        x₁ = P(t₀, t₁) x₀ + W(t₀, t₁) F(t₀, x₀)

    It is DDIM (η = 0) in the noise and data frames, ETD1 for a PDE with a stiff linear part, and the exact
    Ornstein–Uhlenbeck mean.

    Order: 1; exact when F is constant along the solution.
    Cost: 1 drift call per step.
    Bias: O(h).
    Args:
        frame: "noise", "data" or "velocity" for a diffusion or flow model; "linear" for a semilinear equation.
    Source: Song et al. (2021), Denoising diffusion implicit models, eq. 12; Cox and Matthews (2002), eq. 4.
    """

    frame: str = "noise"
    convergence = 1

    def plan(self, dynamics: Dynamics, times: Sequence[float], past: Sequence[float] = ()) -> list[tuple]:
        _require_ode(self, dynamics)
        split = dynamics.split(self.frame)
        pairs = itertools.pairwise(times)
        return [(a, split.propagator(a, b), tuple(split.weights(a, b, [a]))) for a, b in pairs]

    def init(self, dynamics: Dynamics, times: Sequence[float], x: Tensor, past: Past = ()) -> Tensor:
        return x

    def step(self, dynamics: Dynamics, coefficients: tuple, state: Tensor, noise: StepNoise) -> Tensor:
        a, propagator, weights = coefficients
        return _combine(state, propagator, weights, [dynamics.split(self.frame).remainder(a, state)])

    def value(self, state: Tensor) -> Tensor:
        return state


@dataclass(frozen=True)
class EABM:
    """Exponential Adams–Bashforth(–Moulton) of any order, in any frame, on any grid.

        predictor: x₁ = P x₀ + Σ_{j<p} W_j F(t_{−j})                 polynomial through the last p nodes
        corrector: x₁ = P x₀ + W* F(t₁, x₁ᵖ) + Σ_{j<p} W*_j F(t_{−j})  the same nodes and the predicted one

    The corrector reuses its evaluation as the next step's newest node, so it is free; the last step is not corrected.
    The first steps have as many nodes as there are, which caps the global order at 2 unless `past` states are given.

    Order: p without corrector, p + 1 with it (with exact starting values).
    Cost: 1 drift call per step.
    Bias: O(h^p).
    Args:
        order: p, the number of nodes of the predictor.
        frame: "noise", "data" or "velocity" for a diffusion or flow model, "linear" for a semilinear equation,
            "time" for the classical Adams methods.
        corrector: whether to correct each predicted state.
    Raises:
        ValueError: dynamics with noise, or without the frame.
    Source: Hochbruck and Ostermann (2010), Exponential integrators, section 2.5; Zhang and Chen (2023), DEIS, eq. 15;
        Zhao et al. (2023), UniPC, theorem 3.1 (whose B(h) cancels here).
    """

    order: Annotated[int, Field(ge=1, le=6)] = 3
    frame: str = "noise"
    corrector: bool = False

    @property
    def convergence(self) -> int:
        return self.order + self.corrector

    def plan(self, dynamics: Dynamics, times: Sequence[float], past: Sequence[float] = ()) -> list[Step]:
        _require_ode(self, dynamics)
        split, steps = dynamics.split(self.frame), []
        known = list(past)
        for k, (a, b) in enumerate(itertools.pairwise(times)):
            known.append(a)
            nodes = known[: -self.order - 1 : -1]
            last = k == len(times) - 2
            corrector = () if last or not self.corrector else tuple(split.weights(a, b, [b, *nodes]))
            weights = tuple(split.weights(a, b, nodes))
            steps.append(Step(a, b, self.frame, split.propagator(a, b), weights, corrector))
        return steps

    def init(self, dynamics: Dynamics, times: Sequence[float], x: Tensor, past: Past = ()) -> State:
        remainder = dynamics.split(self.frame).remainder
        known = [*past[len(past) - min(len(past), self.order - 1) :]]
        history = [remainder(t, earlier) for t, earlier in reversed(known)]
        return State(x, (remainder(times[0], x), *history) if self.corrector else tuple(history))

    def step(self, dynamics: Dynamics, coefficients: Step, state: State, noise: StepNoise) -> State:
        remainder, (x, history) = dynamics.split(self.frame).remainder, state
        if not self.corrector:
            history = (remainder(coefficients.a, x), *history)
        history = history[: len(coefficients.weights)]
        if not coefficients.corrector:
            return State(_combine(x, coefficients.propagator, coefficients.weights, history), history)
        predicted = _combine(x.clone(), coefficients.propagator, coefficients.weights, history)
        history = (remainder(coefficients.b, predicted), *history)
        return State(_combine(x, coefficients.propagator, coefficients.corrector, history), history)

    def value(self, state: State) -> Tensor:
        return state.x
