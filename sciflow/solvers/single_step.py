"""Single-step exponential Runge–Kutta methods of any order, over any split; they also start the multistep family."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from sciflow.solvers.dynamics import Coefficient, Dynamics, Split
from sciflow.solvers.solve import Past, StepNoise
from sciflow.solvers.weights import NodeVariable, as_means, combine, over, prepared, require_ode, weights_of

Rule = tuple[tuple[float, tuple[int, ...]], ...]
"""Stages as (fraction of the step, values of F to interpolate): value 0 is F at the start, value j that of stage j."""

RADAU = (6 - math.sqrt(6)) / 10, (6 + math.sqrt(6)) / 10

RULES: dict[int, Rule] = {
    1: ((1.0, (0,)),),
    2: ((1 / 2, (0,)), (1.0, (0, 1))),
    3: ((1 / 3, (0,)), (2 / 3, (0, 1)), (1.0, (0, 2))),
    4: (
        (1 / 2, (0,)),
        *((fraction, (0, 1)) for fraction in RADAU),
        *((fraction, (0, 2, 3)) for fraction in RADAU),
        (1.0, (0, 4, 5)),
    ),
}


def rule(order: int) -> Rule:
    """Stages of a method of this order.

    A polynomial through k values that err by O(h^k) integrates to O(h^{k+1}), so each round of stages gains an order.
    Orders 3 and 4 end in Radau nodes, whose polynomial integrates as if it were of higher degree; above 4 there is one
    round of k equidistant stages for each order k < order.
    """
    if order in RULES:
        return RULES[order]
    stages: list[tuple[float, tuple[int, ...]]] = []
    known: tuple[int, ...] = (0,)
    for round_ in range(1, order):
        first = len(stages) + 1
        stages += [(k / order, known) for k in range(1, round_ + 1)]
        known = (0, *range(first, first + round_))
    return (*stages, (1.0, known))


class Stage(NamedTuple):
    """x at time t from x and some of the values of F so far; coefficients as in `weights.combine`."""

    t: float
    propagator: Coefficient | None
    weights: tuple[Coefficient, ...]
    values: tuple[int, ...]


class SingleStep(NamedTuple):
    """One step from a to b: the last stage reaches b."""

    a: float
    b: float
    split: Split
    stages: tuple[Stage, ...]

    def on(self, split: Split) -> SingleStep:
        """The same step of another model with the same noise levels."""
        return self._replace(split=split)


def between(split: Split, a: float, b: float, fraction: float) -> float:
    """A time inside a step: at a fraction of it in the node variable of the split, where it has one, else in t."""
    inside = getattr(split, "between", None)
    return inside(a, b, fraction) if inside else a + fraction * (b - a)


def single_steps(split: Split, steps: Sequence[tuple[float, float]], order: int) -> list[SingleStep]:
    """Plans steps (a, b) by the rule of this order; stages of all steps at once where the split can."""
    stages = rule(order)
    times = [[a, *(between(split, a, b, fraction) for fraction, _ in stages[:-1]), b] for a, b in steps]
    split = prepared(split, list(itertools.chain(*times)))
    columns = []
    for i, (_, values) in enumerate(stages, start=1):
        propagators = [split.propagator(row[0], row[i]) for row in times]
        weights = weights_of(split, [(row[0], row[i], *(row[j] for j in values)) for row in times])
        means = itertools.starmap(as_means, zip(propagators, weights, strict=True))
        columns.append([Stage(row[i], *own, values) for row, own in zip(times, means, strict=True)])
    return [SingleStep(row[0], row[-1], split, own) for row, own in zip(times, zip(*columns, strict=True), strict=True)]


def advance(step: SingleStep, x: Tensor, start: Tensor) -> Tensor:
    """x at b, in the buffer of x when autograd is off; `start` is F(a, x)."""
    values, in_place = [start], not torch.is_grad_enabled()
    for stage in step.stages[:-1]:
        inside = combine(
            x.clone() if in_place else x, stage.propagator, stage.weights, [values[j] for j in stage.values]
        )
        values.append(step.split.remainder(stage.t, inside))
    last = step.stages[-1]
    return combine(x, last.propagator, last.weights, [values[j] for j in last.values])


@dataclass(frozen=True)
class ExponentialRungeKutta:
    """Single-step exponential Runge–Kutta: the linear part exactly, F by values inside the step.

        x(t_i) = P(t₀, t_i) x₀ + Σ_j W_ij F(t_j, x(t_j)),   t_i at fixed fractions of the step in the node variable

    Fractions are ½ for order 2; ⅓, ⅔ for order 3, whose last polynomial goes through 0 and ⅔; ½ and the Radau nodes
    (6 ∓ √6)/10, twice, for order 4. The weights integrate the polynomials of the frame exactly.

    Order: 1 to 4, whatever came before: no history, no start-up.
    Cost: 1, 2, 3 or 6 drift calls per step.
    Bias: O(h^order).
    Args:
        order: order of convergence.
        frame: "noise", "data" or "velocity" for a diffusion or flow model, "linear" for a semilinear equation,
            "time" for classical Runge–Kutta methods.
        nodes: variable of the polynomials and of the fractions, as for EABM; null is the usual one of the frame.
    Raises:
        ValueError: dynamics with noise, or without the frame.
    Source: Lu et al. (2022), DPM-Solver, algorithms 1 and 2, for the stages of orders 2 and 3; Hochbruck and Ostermann
        (2010), Exponential integrators, section 2.3, for the class.
    """

    order: Annotated[int, Field(ge=1, le=4)] = 3
    frame: str = "noise"
    nodes: NodeVariable | None = None
    multistep = False

    @property
    def convergence(self) -> int:
        return self.order

    def plan(self, dynamics: Dynamics, times: Sequence[float], past: Sequence[float] = ()) -> list[SingleStep]:
        require_ode(self, dynamics)
        split = dynamics.split(self.frame)
        split = over(self, split, self.nodes) if self.nodes else split
        return single_steps(split, list(itertools.pairwise(times)), self.order)

    def init(self, dynamics: Dynamics, times: Sequence[float], x: Tensor, past: Past = ()) -> Tensor:
        return x

    def step(self, dynamics: Dynamics, coefficients: SingleStep, state: Tensor, noise: StepNoise) -> Tensor:
        return advance(coefficients, state, coefficients.split.remainder(coefficients.a, state))

    def value(self, state: Tensor) -> Tensor:
        return state
