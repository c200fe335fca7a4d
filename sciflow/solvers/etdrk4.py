"""The fourth-order exponential Runge–Kutta method of four stages, over any split."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sciflow.solvers.dynamics import Coefficient, Dynamics, Split
from sciflow.solvers.single_step import between
from sciflow.solvers.solve import Past, StepNoise
from sciflow.solvers.weights import combine, prepared, require_ode, weights_of


class Stages(NamedTuple):
    """Times of a step, and (propagator, weights) of its four combinations."""

    times: tuple[float, float, float]
    split: Split
    half: tuple[Coefficient, tuple[Coefficient, ...]]
    again: tuple[Coefficient, tuple[Coefficient, ...]]
    ahead: tuple[Coefficient, tuple[Coefficient, ...]]
    whole: tuple[Coefficient, tuple[Coefficient, ...]]


@dataclass(frozen=True)
class ETDRK4:
    """Fourth-order exponential time differencing, four stages.

        u = P₁ x + W₁ F(t, x)                         v = P₁ x + W₁ F(m, u)            m: the middle of the step
        w = P₂ u + W₂ (2 F(m, v) − F(t, x))           x₁ = P x + W_t F(t, x) + W_m ½(F(m, u) + F(m, v)) + W_b F(b, w)

    with the exact weights of the frame for a constant (W₁, W₂) and for the parabola through start, middle and end. In
    the frame "time" it is the classical Runge–Kutta method. Coefficients are complex where the linear part is.

    Order: 4; stiff problems whose boundary conditions do not fit the linear part may see less.
    Cost: 4 drift calls per step.
    Bias: O(h⁴).
    Args:
        frame: "linear" for a semilinear equation; "noise", "data" or "velocity" for a diffusion or flow model; "time".
    Raises:
        ValueError: dynamics with noise, or without the frame.
    Source: Cox and Matthews (2002), Exponential time differencing for stiff systems, eqs. 26–29.
    """

    frame: str = "noise"
    convergence = 4

    def plan(self, dynamics: Dynamics, times: Sequence[float], past: Sequence[float] = ()) -> list[Stages]:
        require_ode(self, dynamics)
        split = dynamics.split(self.frame)
        steps = [(a, between(split, a, b, 0.5), b) for a, b in itertools.pairwise(times)]
        split = prepared(split, list(itertools.chain(*steps)))
        firsts, seconds, thirds, before = (
            weights_of(split, windows)
            for windows in zip(*(((a, m, a), (a, m, m), (m, b, m), (m, b, a)) for a, m, b in steps), strict=True)
        )
        wholes = weights_of(split, [(a, b, a, m, b) for a, m, b in steps])
        planned = []
        for (a, m, b), u, v, (w,), (back,), (start, middle, end) in zip(
            steps, firsts, seconds, thirds, before, wholes, strict=True
        ):
            half, rest = split.propagator(a, m), split.propagator(m, b)
            last = (split.propagator(a, b), (start, 0.5 * middle, 0.5 * middle, end))
            planned.append(Stages((a, m, b), split, (half, u), (half, v), (rest, (2 * w, -back)), last))
        return planned

    def init(self, dynamics: Dynamics, times: Sequence[float], x: Tensor, past: Past = ()) -> Tensor:
        return x

    def step(self, dynamics: Dynamics, coefficients: Stages, state: Tensor, noise: StepNoise) -> Tensor:
        (a, m, b), split, half, again, ahead, whole = coefficients
        start = split.remainder(a, state)
        u = combine(_kept(state), *half, (start,))
        at_u = split.remainder(m, u)
        at_v = split.remainder(m, combine(_kept(state), *again, (at_u,)))
        at_w = split.remainder(b, combine(u, *ahead, (at_v, start)))
        return combine(state, *whole, (start, at_u, at_v, at_w))

    def value(self, state: Tensor) -> Tensor:
        return state


def _kept(x: Tensor) -> Tensor:
    """A copy where `combine` would overwrite x."""
    return x if torch.is_grad_enabled() else x.clone()
