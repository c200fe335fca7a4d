"""DPM-Solver and DPM-Solver++: single-step and multistep methods in λ, in the noise frame and in the data frame."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from sciflow.solvers.dynamics import Dynamics, ModelSplit, model_split
from sciflow.solvers.rule import MultistepRule, Span, Terms, Weights, log_ratio
from sciflow.solvers.sde_dpm_solver import midpoint
from sciflow.solvers.single_step import SingleStep, Stage, advance, between, single_steps
from sciflow.solvers.solve import Past, StepNoise
from sciflow.solvers.weights import as_means, prepared


@dataclass(frozen=True)
class _SingleStepSolver:
    """What single-step methods of a model share; a step from or to an infinite λ has one stage."""

    frame = "noise"

    def _steps(self, split: ModelSplit, ends: Sequence[tuple[float, float]]) -> list[SingleStep]:
        """Order 2 with r = ½, whose difference (ε_m − ε_a)/2r leaves ε_m alone."""
        steps, middles = [], [between(split, a, b, 0.5) for a, b in ends]
        table = prepared(split, [*itertools.chain(*ends), *middles])
        for (a, b), middle in zip(ends, middles, strict=True):
            first = Stage(middle, *as_means(table.propagator(a, middle), tuple(table.weights(a, middle, [a]))), (0,))
            whole = Stage(b, *as_means(table.propagator(a, b), tuple(table.weights(a, b, [middle]))), (1,))
            steps.append(SingleStep(a, b, table, (first, whole)))
        return steps

    def plan(self, dynamics: Dynamics, times: Sequence[float], past: Sequence[float] = ()) -> list[SingleStep]:
        split = model_split(self, dynamics, self.frame)
        finite = {t: math.isfinite(log_ratio(split.levels(t))) for t in times}
        groups = itertools.groupby(itertools.pairwise(times), lambda ends: all(finite[t] for t in ends))
        plans = (self._steps(split, [*ends]) if inside else single_steps(split, [*ends], 1) for inside, ends in groups)
        return [*itertools.chain.from_iterable(plans)]

    def init(self, dynamics: Dynamics, times: Sequence[float], x: Tensor, past: Past = ()) -> Tensor:
        return x

    def step(self, dynamics: Dynamics, coefficients: SingleStep, state: Tensor, noise: StepNoise) -> Tensor:
        return advance(coefficients, state, coefficients.split.remainder(coefficients.a, state))

    def value(self, state: Tensor) -> Tensor:
        return state


@dataclass(frozen=True)
class DPMSolver1(_SingleStepSolver):
    """DPM-Solver-1: the noise frozen over the step; the same numbers as DDIM(0).

        x_b = (α_b/α_a) x − σ_b (e^h − 1) ε_a

    Order: 1.
    Cost: 1 drift call per step.
    Bias: O(h).
    Raises:
        ValueError: dynamics with noise, or without noise levels; a grid that starts at α = 0.
    Source: Lu et al. (2022), DPM-Solver, eq. 3.7.
    """

    convergence = 1

    def _steps(self, split: ModelSplit, ends: Sequence[tuple[float, float]]) -> list[SingleStep]:
        return single_steps(split, ends, 1)


@dataclass(frozen=True)
class DPMSolver2(_SingleStepSolver):
    """DPM-Solver-2, single step: the noise in the middle of the step in λ stands for all of it.

        x_m = (α_m/α_a) x − σ_m (e^{h/2} − 1) ε_a,   x_b = (α_b/α_a) x − σ_b (e^h − 1) ε(x_m),   λ_m = λ_a + h/2

    `exponential_runge_kutta` of order 2 has the same stages and a straight line in place of the constant.

    Order: 2.
    Cost: 2 drift calls per step.
    Bias: O(h²).
    Raises:
        ValueError: dynamics with noise, or without noise levels; a grid that starts at α = 0.
    Source: Lu et al. (2022), DPM-Solver, algorithm 1.
    """

    convergence = 2


@dataclass(frozen=True)
class DPMSolver3(_SingleStepSolver):
    """DPM-Solver-3, single step, with r₁ = ⅓ and r₂ = ⅔; the same numbers as `exponential_runge_kutta` of order 3.

        x_b = (α_b/α_a) x − σ_b (e^h − 1) ε_a − (σ_b/r₂) ((e^h − 1)/h − 1) (ε(x₂) − ε_a)

    Order: 3.
    Cost: 3 drift calls per step.
    Bias: O(h³).
    Raises:
        ValueError: dynamics with noise, or without noise levels; a grid that starts at α = 0.
    Source: Lu et al. (2022), DPM-Solver, algorithm 2.
    """

    convergence = 3

    def _steps(self, split: ModelSplit, ends: Sequence[tuple[float, float]]) -> list[SingleStep]:
        return single_steps(split, ends, 3)


@dataclass(frozen=True)
class DPMSolverPP2S(_SingleStepSolver):
    """DPM-Solver++(2S): the denoiser in the middle of the step in λ stands for all of it.

        x_m = (σ_m/σ_a) x + α_m (1 − e^{−h/2}) D_a,   x_b = (σ_b/σ_a) x + α_b (1 − e^{−h}) D(x_m),   λ_m = λ_a + h/2

    Order: 2.
    Cost: 2 drift calls per step.
    Bias: O(h²).
    Raises:
        ValueError: dynamics with noise, or without noise levels.
    Source: Lu et al. (2022), DPM-Solver++, algorithm 1, with r = ½.
    """

    frame = "data"
    convergence = 2


@dataclass(frozen=True)
class DPMSolverPP2M(MultistepRule):
    """DPM-Solver++(2M): two values of the denoiser, of which one is new.

        midpoint: x_b = (σ_b/σ_a) x + α_b (1 − e^{−h}) (D_a + ½ D₁)
        taylor:   x_b = (σ_b/σ_a) x + α_b (1 − e^{−h}) D_a + α_b ((e^{−h} − 1)/h + 1) D₁,   D₁ = (D_a − D_{−1}) h/h_{−1}

    Both are of order 2 with different constants. "taylor" integrates the straight line exactly: `eabm` of order 2 in
    the data frame; some libraries call it "heun".

    Order: 2, given exact `past` states; the start with one value costs no order here.
    Cost: 1 drift call per step.
    Bias: O(h²).
    Args:
        variant: "midpoint" is the algorithm of the paper and what libraries do by default.
    Raises:
        ValueError: dynamics with noise, or without noise levels.
    Source: Lu et al. (2022), DPM-Solver++, algorithm 2 (midpoint).
    """

    variant: Literal["midpoint", "taylor"] = "midpoint"
    order = 2
    convergence = 2

    def _terms(self, span: Span) -> Terms:
        return Terms(midpoint(span, 0.0) if self.variant == "midpoint" else span.integrals())


@dataclass(frozen=True)
class DPMSolverPP3M(MultistepRule):
    """DPM-Solver++(3M) with the factor that makes it third order: `eabm` of order 3 in the data frame.

        x_b = (σ_b/σ_a) x + α_b [(1 − e^{−h}) D_a + φ₂ D₁ − 2 φ₃ D₂],   φ₂ = (e^{−h} − 1)/h + 1,   φ₃ = φ₂/h − ½

    with D₁ = h D′ and D₂ = h² D″/2 by divided differences.

    Order: 3, given exact `past` states.
    Cost: 1 drift call per step.
    Bias: O(h³).
    Raises:
        ValueError: dynamics with noise, or without noise levels.
    Source: after Lu et al. (2022), DPM-Solver++; the factor is derived in tests/laws/test_named.py.
    """

    order = 3
    convergence = 3


@dataclass(frozen=True)
class DPMSolverPP3MPublished(MultistepRule):
    """DPM-Solver++(3M) as it is published in code: half of the second derivative, which makes it second order.

        x_b = (σ_b/σ_a) x + α_b [(1 − e^{−h}) D_a + φ₂ D₁ − φ₃ D₂]

    For comparison with other libraries. On coarse grids the smaller term can be the better one.

    Order: 2.
    Cost: 1 drift call per step.
    Bias: O(h²).
    Raises:
        ValueError: dynamics with noise, or without noise levels.
    Source: Lu et al. (2022), the code of DPM-Solver++; copied into other libraries.
    """

    order = 3
    convergence = 2

    def _terms(self, span: Span) -> Terms:
        return Terms(halved_curvature(span))


def halved_curvature(span: Span) -> Weights:
    """Weights of the parabola with half of its D₂ = Σ_j D_j / Π_{m≠j} (s_j − s_m)."""
    exact = span.integrals()
    if len(exact) < 3:
        return exact
    half = 0.5 * span.moment(2)
    bottoms = [math.prod(own - other for other in span.places if other != own) for own in span.places]
    return tuple(weight - half / bottom for weight, bottom in zip(exact, bottoms, strict=True))
