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
from typing import Annotated, NamedTuple, Protocol

import torch
from pydantic import Field
from torch import Tensor

from sciflow.solvers.dynamics import Coefficient, Dynamics, Split
from sciflow.solvers.solve import Past, StepNoise

Window = tuple[float, ...]  # a step as its times (a, b, newest node, older nodes …)


class Step(NamedTuple):
    """Float64 coefficients of one step from a to b; weights are newest node first."""

    a: float
    b: float
    split: Split
    propagator: Coefficient
    weights: tuple[Coefficient, ...]
    corrector: tuple[Coefficient, ...]  # added to the prediction; the first weight belongs to b; empty: no correction


class State(NamedTuple):
    """The current x, and the values of F at the last nodes, newest first, as far as the next step needs them."""

    x: Tensor
    history: tuple[Tensor, ...]


class TableSplit(Split, Protocol):
    """A split that knows a shorter way to the coefficients of many steps than one call each."""

    def tabulate(self, times: Sequence[float]) -> TableSplit:
        """The same split, prepared for these times."""
        ...

    def table(self, windows: Sequence[Window]) -> Sequence[Sequence[Coefficient]]:
        """The weights of steps that have equally many nodes."""
        ...


def _prepared(split: Split, times: Sequence[float]) -> Split:
    return split.tabulate(times) if hasattr(split, "tabulate") else split


def _weights(split: Split, windows: Sequence[Window]) -> list[tuple[Coefficient, ...]]:
    """The weights of each step, all steps with equally many nodes at once where the split can."""
    if not hasattr(split, "table"):
        return [tuple(split.weights(a, b, nodes)) for a, b, *nodes in windows]
    return [tuple(row) for _, alike in itertools.groupby(windows, len) for row in split.table(list(alike))]


def _corrections(
    split: Split, windows: Sequence[Window], weights: Sequence[Sequence[Coefficient]]
) -> list[tuple[Coefficient, ...]]:
    """What a correction adds to the prediction: W* of the new node, and W*_j − W_j."""
    better = _weights(split, [(a, b, b, *nodes) for a, b, *nodes in windows])
    return [
        (new, *(w - v for w, v in zip(old, used, strict=True)))
        for (new, *old), used in zip(better, weights, strict=True)
    ]


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
        split = _prepared(dynamics.split(self.frame), times)
        windows = [(a, b, a) for a, b in itertools.pairwise(times)]
        propagators = [split.propagator(a, b) for a, b, _ in windows]
        return [(a, split, p, w) for (a, *_), p, w in zip(windows, propagators, _weights(split, windows), strict=True)]

    def init(self, dynamics: Dynamics, times: Sequence[float], x: Tensor, past: Past = ()) -> Tensor:
        return x

    def step(self, dynamics: Dynamics, coefficients: tuple, state: Tensor, noise: StepNoise) -> Tensor:
        a, split, propagator, weights = coefficients
        return _combine(state, propagator, weights, [split.remainder(a, state)])

    def value(self, state: Tensor) -> Tensor:
        return state


@dataclass(frozen=True)
class EABM:
    """Exponential Adams–Bashforth(–Moulton) of any order, in any frame, on any grid.

        predictor: x₁ = P x₀ + Σ_{j<p} W_j F(t_{−j})                 polynomial through the last p nodes
        corrector: x₁ = P x₀ + W* F(t₁, x₁ᵖ) + Σ_{j<p} W*_j F(t_{−j})  the same nodes and the predicted one
                      = x₁ᵖ + W* F(t₁, x₁ᵖ) + Σ_{j<p} (W*_j − W_j) F(t_{−j})

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
        known = [*past, *times]
        split = _prepared(dynamics.split(self.frame), known)
        ends = range(len(past), len(known) - 1)
        windows = [(known[k], known[k + 1], *known[max(k + 1 - self.order, 0) : k + 1][::-1]) for k in ends]
        propagators = [split.propagator(a, b) for a, b, *_ in windows]
        weights = _weights(split, windows)
        none: list[tuple[Coefficient, ...]] = [()] * len(windows)
        corrections = [*_corrections(split, windows[:-1], weights[:-1]), ()] if self.corrector else none
        steps = zip(windows, propagators, weights, corrections, strict=True)
        return [Step(a, b, split, p, w, c) for (a, b, *_), p, w, c in steps]

    def init(self, dynamics: Dynamics, times: Sequence[float], x: Tensor, past: Past = ()) -> State:
        remainder = dynamics.split(self.frame).remainder
        known = [*past[len(past) - min(len(past), self.order - 1) :]]
        history = [remainder(t, earlier) for t, earlier in reversed(known)]
        return State(x, (remainder(times[0], x), *history) if self.corrector else tuple(history))

    def step(self, dynamics: Dynamics, coefficients: Step, state: State, noise: StepNoise) -> State:
        a, b, split, propagator, weights, corrector = coefficients
        x, history = state
        if not self.corrector:
            history = (split.remainder(a, x), *history)
        x = _combine(x, propagator, weights, history)
        if corrector:
            history = (split.remainder(b, x), *history)
            x = _combine(x, 1.0, corrector, history)
        return State(x, history[: self.order - (not self.corrector)])

    def value(self, state: State) -> Tensor:
        return state.x
