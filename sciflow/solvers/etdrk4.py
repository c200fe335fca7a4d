"""The fourth-order exponential Runge–Kutta method of four stages, over any split."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from sciflow.solvers.dynamics import Coefficient, Dynamics, LinearSplit, Split, lasting
from sciflow.solvers.laid import Laid, laid, plus, scaled
from sciflow.solvers.single_step import between
from sciflow.solvers.solve import Past, StepNoise
from sciflow.solvers.weights import prepared, require_ode, weights_of


class Numbers(NamedTuple):
    """The coefficients of a step, in the letters of `ETDRK4`.

    Attributes:
        half, whole: P₁ and P.
        at_start, again: W₁ of F(t, x) in u and of F(m, u) in v.
        back, ahead: P₂ W₁ − W₂ of F(t, x) and 2 W₂ of F(m, v) in w.
        start, middle, end: W_t, ½ W_m and W_b.
    """

    half: Coefficient
    whole: Coefficient
    at_start: Coefficient
    again: Coefficient
    back: Coefficient
    ahead: Coefficient
    start: Coefficient
    middle: Coefficient
    end: Coefficient


@dataclass(frozen=True, eq=False)
class Stages:
    """The coefficients of steps of one length, and how they were laid beside states."""

    numbers: Numbers
    known: dict[tuple, Laid[Numbers]] = field(default_factory=dict)

    def beside(self, x: Tensor) -> Laid[Numbers]:
        """In the dtype, on the device and in the layout of a state; found again at the next step."""
        key = (x.dtype, x.device, x.shape[-1])
        if key not in self.known:
            with lasting():
                self.known[key] = laid(self.numbers, x)
        return self.known[key]


class Step(NamedTuple):
    """Start, middle and end of a step, its split and its coefficients."""

    times: tuple[float, float, float]
    split: Split
    stages: Stages


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

    def plan(self, dynamics: Dynamics, times: Sequence[float], past: Sequence[float] = ()) -> list[Step]:
        require_ode(self, dynamics)
        split = dynamics.split(self.frame)
        steps = [(a, between(split, a, b, 0.5), b) for a, b in itertools.pairwise(times)]
        if isinstance(split, LinearSplit):  # steps of one length share their coefficients: each is made once
            kinds = [split.length(b - a) for a, _, b in steps]
            first = {kind: step for kind, step in zip(reversed(kinds), reversed(steps), strict=True)}
            known = dict(zip(first, _stages(split, [*first.values()]), strict=True))
            return [Step(step, split, known[kind]) for kind, step in zip(kinds, steps, strict=True)]
        split = prepared(split, list(itertools.chain(*steps)))
        return [Step(step, split, stages) for step, stages in zip(steps, _stages(split, steps), strict=True)]

    def init(self, dynamics: Dynamics, times: Sequence[float], x: Tensor, past: Past = ()) -> Tensor:
        return x

    def step(self, dynamics: Dynamics, coefficients: Step, state: Tensor, noise: StepNoise) -> Tensor:
        (a, m, b), split, stages = coefficients
        beside = stages.beside(state)
        flat, field_of, c = beside.flat, beside.back, beside.numbers
        x, at_x = flat(state), flat(split.remainder(a, state))
        halfway = x * c.half
        u = plus(halfway, c.at_start, at_x, is_kept=True)
        at_u = flat(split.remainder(m, field_of(u)))
        at_v = flat(split.remainder(m, field_of(plus(halfway, c.again, at_u))))
        x = scaled(x, c.whole)
        w = plus(plus(x, c.back, at_x, is_kept=True), c.ahead, at_v)  # P₂ u without u: P₂ P₁ = P
        at_w = flat(split.remainder(b, field_of(w)))
        x = plus(x, c.start, at_x)
        x = plus(x, c.middle, plus(at_u, 1.0, at_v))
        return field_of(plus(x, c.end, at_w))

    def value(self, state: Tensor) -> Tensor:
        return state


def _stages(split: Split, steps: Sequence[tuple[float, float, float]]) -> list[Stages]:
    firsts, seconds, thirds, before = (
        weights_of(split, windows)
        for windows in zip(*(((a, m, a), (a, m, m), (m, b, m), (m, b, a)) for a, m, b in steps), strict=True)
    )
    wholes = weights_of(split, [(a, b, a, m, b) for a, m, b in steps])
    made = []
    for (a, m, b), (u,), (v,), (w,), (back,), (start, middle, end) in zip(
        steps, firsts, seconds, thirds, before, wholes, strict=True
    ):
        half, rest, whole = split.propagator(a, m), split.propagator(m, b), split.propagator(a, b)
        with lasting():
            made.append(Stages(Numbers(half, whole, u, v, rest * u - back, 2 * w, start, 0.5 * middle, end)))
    return made
