"""Exponential multistep methods: one family whose members carry most of the names of fast diffusion sampling.

In a frame the linear part of the drift is solved exactly and a smooth function F remains; F is replaced by the
polynomial through its last values. Frame, node variable and order name the method: order 1 in the noise or data frame
is DDIM, order 2 in the data frame DPM-Solver++(2M), order 3 in the noise frame DEIS-3, order 3 with corrector in the
data frame UniPC-3.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, cast

from pydantic import Field
from torch import Tensor

from sciflow.solvers.dynamics import Coefficient, Dynamics, SoleSplit, Split
from sciflow.solvers.single_step import SingleStep, advance, single_steps
from sciflow.solvers.solve import Past, StepNoise
from sciflow.solvers.weights import (
    NodeVariable,
    as_means,
    combine,
    corrections_of,
    noisy,
    over,
    prepared,
    require_ode,
    weights_of,
)


class Step(NamedTuple):
    """Float64 coefficients of one step from a to b; weights are newest node first.

    Without a propagator they are nested means, x ← (1 − W_j) x + W_j F_j for each j; see `as_means`.
    """

    a: float
    b: float
    split: Split
    propagator: Coefficient | None
    weights: tuple[Coefficient, ...]
    corrector: tuple[Coefficient, ...]  # added to the prediction; the first weight belongs to b; empty: no correction
    spread: float  # standard deviation of the noise added to the prediction


class Start(NamedTuple):
    """Coefficients of a step that lacks history: single steps, and whether F at its end is part of the history."""

    step: SingleStep
    evaluated: bool


class State(NamedTuple):
    """The current x, and the values of F at the last nodes, newest first, as far as the next step needs them."""

    x: Tensor
    history: tuple[Tensor, ...]


def multistep(split: Split, known: Sequence[float], orders: Sequence[int], corrected: Sequence[int] = ()) -> list[Step]:
    """Plans the last steps of a grid, each with at most its own number of nodes.

    Args:
        split: the frame, prepared for these times.
        known: the times where F will be known, in increasing order, and the last end.
        orders: how many nodes each prediction has.
        corrected: how many old nodes each correction has, at most those of its prediction; the last step has none.
    """
    ends = enumerate(orders, start=len(known) - 1 - len(orders))
    windows = [(known[k], known[k + 1], *known[max(k + 1 - order, 0) : k + 1][::-1]) for k, order in ends]
    propagators = [split.propagator(a, b) for a, b, *_ in windows]
    weights = weights_of(split, windows)
    corrections: list[tuple[Coefficient, ...]] = [()] * len(windows)
    if corrected:
        corrections[:-1] = corrections_of(split, windows[:-1], weights[:-1], corrected[:-1])
    spread = getattr(split, "spread", None)
    spreads = [spread(a, b) if spread else 0.0 for a, b, *_ in windows]
    return [
        Step(a, b, split, *as_means(p, w), c, s)
        for (a, b, *_), p, w, c, s in zip(windows, propagators, weights, corrections, spreads, strict=True)
    ]


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
        require_ode(self, dynamics)
        split = prepared(dynamics.split(self.frame), times)
        windows = [(a, b, a) for a, b in itertools.pairwise(times)]
        propagators = [split.propagator(a, b) for a, b, _ in windows]
        steps = zip(windows, propagators, weights_of(split, windows), strict=True)
        return [(a, split, *as_means(p, w)) for (a, *_), p, w in steps]

    def init(self, dynamics: Dynamics, times: Sequence[float], x: Tensor, past: Past = ()) -> Tensor:
        return x

    def step(self, dynamics: Dynamics, coefficients: tuple, state: Tensor, noise: StepNoise) -> Tensor:
        a, split, propagator, weights = coefficients
        return combine(state, propagator, weights, [split.remainder(a, state)])

    def value(self, state: Tensor) -> Tensor:
        return state


@dataclass(frozen=True)
class EABM:
    """Exponential Adams–Bashforth(–Moulton) of any order, in any frame, on any grid.

        predictor: x₁ = P x₀ + Σ_{j<p} W_j F(t_{−j})                 polynomial through the last p nodes
        corrector: x₁ = P x₀ + W* F(t₁, x₁ᵖ) + Σ_{j<p} W*_j F(t_{−j})  the same nodes and the predicted one
                      = x₁ᵖ + W* F(t₁, x₁ᵖ) + Σ_{j<p} (W*_j − W_j) F(t_{−j})

    The corrector reuses its evaluation as the next step's newest node, so it is free; the last step is not corrected.

    Order: q = p without corrector, q = p + 1 with it, given exact `past` states or start "single_step"; the ramp caps
        it at 2, with corrector at 3; a `final` other than "full" has one last error of O(h²). With η > 0 strong order
        1, weak order min(p, 2).
    Cost: 1 drift call per step; a single-step start of order 2, 3 or 4 takes 1, 2 or 5 more for each missing value.
    Bias: O(h^p).
    Args:
        order: p, the number of nodes of the predictor.
        frame: "noise", "data" or "velocity" for a diffusion or flow model, "linear" for a semilinear equation,
            "time" for the classical Adams methods.
        corrector: whether to correct each predicted state.
        start: the first p − 1 steps: "ramp" has as many nodes as there are, "single_step" takes exponential
            Runge–Kutta steps of order q − 1, at least 2.
        final: order at the end of the grid: "full", "lower" falls to p − 1, …, 1 over the last steps, "first" makes the
            last step alone of order 1. The last two can end at σ = 0.
        eta: η of the reverse SDE that is followed, in the noise or the data frame; its noise is integrated exactly. 1
            is the time reversal of the noising process: at order 1 in the data frame ancestral sampling (DDPM).
        nodes: variable of the polynomials: "log_snr" λ, "ratio" u, "angle" θ or "time" t; null is the usual one of the
            frame, λ for noise and data and θ for velocity.
    Raises:
        ValueError: η > 0 with corrector, single-step start or in another frame; dynamics with noise, or without the
            frame; an order above 1 where the node variable is infinite.
    Source: Hochbruck and Ostermann (2010), Exponential integrators, section 2.5; Zhang and Chen (2023), DEIS, eq. 15;
        Zhao et al. (2023), UniPC, theorem 3.1 (whose B(h) cancels here).
    """

    order: Annotated[int, Field(ge=1, le=6)] = 3
    frame: str = "noise"
    corrector: bool = False
    start: Literal["ramp", "single_step"] = "ramp"
    final: Literal["full", "lower", "first"] = "full"
    eta: Annotated[float, Field(ge=0)] = 0.0
    nodes: NodeVariable | None = None

    def __post_init__(self) -> None:
        if self.eta and (self.corrector or self.start == "single_step" or self.frame == "velocity"):
            raise ValueError(
                f"EABM with eta = {self.eta:g} takes frame 'data' or 'noise', no corrector and start 'ramp', got "
                f"{self.frame!r}, corrector = {self.corrector}, {self.start!r}. Use eta = 0 with these."
            )

    @property
    def convergence(self) -> int:
        return min(self.order, 2) if self.eta else self.order + self.corrector

    def _orders(self, n_steps: int) -> list[int]:
        """How many nodes each step wants."""
        if self.final == "lower":
            return [min(self.order, n_steps - k) for k in range(n_steps)]
        return [self.order] * (n_steps - 1) + [self.order if self.final == "full" else 1]

    def plan(self, dynamics: Dynamics, times: Sequence[float], past: Sequence[float] = ()) -> list[Step | Start]:
        require_ode(self, dynamics)
        split = dynamics.split(self.frame)
        split = over(self, split, self.nodes) if self.nodes else split
        split = noisy(self, split, self.eta) if self.eta else split
        alone = split.alone() if hasattr(split, "alone") else None
        if alone is None:
            return self.planned(prepared(split, [*past, *times]), times, past)
        prototype, steps = _remembered(self, alone, tuple(times), tuple(past))
        own = prototype.of(split)
        return [
            Step(step.a, step.b, own, *step[3:]) if isinstance(step, Step) else step._replace(step=step.step.on(own))
            for step in steps
        ]

    def planned(self, split: Split, times: Sequence[float], past: Sequence[float]) -> list[Step | Start]:
        """The steps in a frame that is prepared for these times."""
        known = [*past, *times]
        orders = self._orders(len(times) - 1)
        steps: list[Step | Start] = [*multistep(split, known, orders, orders if self.corrector else ())]
        if self.start == "single_step":
            short = sum(k + 1 < order for k, order in enumerate(orders, start=len(past)))
            order = max(self.convergence - 1, 2)
            for k, step in enumerate(single_steps(split, list(itertools.pairwise(times))[:short], order)):
                steps[k] = Start(step, self.corrector and k < len(steps) - 1)
        return steps

    def init(self, dynamics: Dynamics, times: Sequence[float], x: Tensor, past: Past = ()) -> State:
        return self.begin(dynamics.split(self.frame), times, x, past)

    def begin(self, split: Split, times: Sequence[float], x: Tensor, past: Past = ()) -> State:
        """The state before the first step, in this frame."""
        known = [*past[len(past) - min(len(past), self.order - 1) :]]
        history = [split.remainder(t, earlier) for t, earlier in reversed(known)]
        return State(x, (split.remainder(times[0], x), *history) if self.corrector else tuple(history))

    def step(self, dynamics: Dynamics, coefficients: Step | Start, state: State, noise: StepNoise) -> State:
        if isinstance(coefficients, Start):
            return self._start(coefficients, state)
        a, b, split, propagator, weights, corrector, spread = coefficients
        x, history = state
        if not self.corrector:
            history = (split.remainder(a, x), *history)
        x = combine(x, propagator, weights, history[: len(weights)])
        if spread:
            x = combine(x, 1.0, (spread,), (noise(),))
        if corrector:
            history = (split.remainder(b, x), *history)
            x = combine(x, 1.0, corrector, history[: len(corrector)])
        return State(x, history[: self.order - (not self.corrector)])

    def _start(self, coefficients: Start, state: State) -> State:
        step, evaluated = coefficients
        x, history = state
        if not self.corrector:
            history = (step.split.remainder(step.a, x), *history)
        x = advance(step, x, history[0])
        if evaluated:
            history = (step.split.remainder(step.b, x), *history)
        return State(x, history[: self.order - (not self.corrector)])

    def value(self, state: State) -> Tensor:
        return state.x


@functools.lru_cache(maxsize=256)
def _remembered(
    solver: EABM, alone: SoleSplit, times: tuple[float, ...], past: tuple[float, ...]
) -> tuple[SoleSplit, list[Step | Start]]:
    """The plan of a grid, made once: tiles, observations and restarts ask for it again."""
    split = prepared(alone, [*past, *times])
    return cast(SoleSplit, split), solver.planned(split, times, past)
