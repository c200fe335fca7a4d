"""Rules: multistep methods whose weights are those of a paper, written in the noise levels of one step.

A rule says how a step adds up, x_b = δ P x_a + Σ_j W_j G_j + s z; `EABM` does the stepping.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, cast

import numpy as np
from torch import Tensor

from sciflow.solvers.dynamics import Dynamics, ModelSplit, lagrange, model_split, quadrature
from sciflow.solvers.exponential import EABM, Start, State, Step
from sciflow.solvers.solve import Past, StepNoise
from sciflow.solvers.weights import as_means, prepared

Levels = tuple[float, float]  # α and σ
Weights = tuple[float, ...]


def log_ratio(levels: Levels) -> float:
    """λ = log(α/σ), infinite at the ends."""
    alpha, sigma = levels
    return -math.inf if alpha == 0 else math.inf if sigma == 0 else math.log(alpha / sigma)


@dataclass(frozen=True)
class Span:
    """A step from a to b in noise levels.

    Args:
        end: α and σ at b.
        nodes: α and σ where G is known, newest first; the first is a.
    """

    end: Levels
    nodes: tuple[Levels, ...]

    @cached_property
    def h(self) -> float:
        """λ_b − λ_a."""
        return log_ratio(self.end) - log_ratio(self.nodes[0])

    @cached_property
    def places(self) -> Weights:
        """(λ_j − λ_a)/h: 0 for a, negative for older nodes, 1 would be b."""
        first, *older = map(log_ratio, self.nodes)
        return (0.0, *((log_snr - first) / self.h for log_snr in older))

    def moment(self, k: int, eta: float = 0.0) -> float:
        """What D = s^k adds, s = (λ − λ_a)/h: α_b ∫₀¹ H e^{−H(1−s)} s^k ds, H = (1 + η²) h; closed for k = 0."""
        rate = (1 + eta**2) * self.h
        return -self.end[0] * math.expm1(-rate) if k == 0 else float(self._kernel(rate) @ POINTS**k)

    def integrals(self, eta: float = 0.0, places: Sequence[float] = ()) -> Weights:
        """Weights of the polynomial through D at the nodes: what its Lagrange basis adds."""
        places = places or self.places
        if len(places) == 1:
            return (self.moment(0, eta),)
        return tuple((lagrange(places, POINTS) @ self._kernel((1 + eta**2) * self.h)).tolist())

    def _kernel(self, rate: float) -> np.ndarray:
        return self.end[0] * rate * np.exp(-rate * (1 - POINTS)) * WEIGHTS


POINTS, WEIGHTS = quadrature(0.0, 1.0)


class Terms(NamedTuple):
    """x_b = δ P x_a + Σ W_j G_j + s z, with P the propagator of the frame."""

    weights: Weights
    decay: float = 1.0
    spread: float = 0.0


@dataclass(frozen=True)
class MultistepRule:
    """What named multistep methods share: a method is its frame, how many nodes it wants, and `_terms`.

    A step from or to an infinite λ, or with a node there, uses the newest value alone.
    """

    order = 1
    frame = "data"
    corrector = False

    def _terms(self, span: Span) -> Terms:
        return Terms(span.integrals())

    def _correction(self, span: Span, used: Weights) -> Weights:
        """What is added once the value at b is known, whose weight comes first."""
        return ()

    def _start(self, split: ModelSplit, a: float, b: float, n_nodes: int) -> Start | None:
        """A single step in place of one that has this many nodes."""
        return None

    @cached_property
    def _method(self) -> EABM:
        return EABM(self.order, self.frame, self.corrector)

    def plan(self, dynamics: Dynamics, times: Sequence[float], past: Sequence[float] = ()) -> list[Step | Start]:
        known = [*past, *times]
        split = cast(ModelSplit, prepared(model_split(self, dynamics, self.frame), known))
        levels = [split.levels(t) for t in known]
        steps = range(len(past), len(known) - 1)
        return [self._planned(split, known[k], known[k + 1], self._span(levels, k), k < steps[-1]) for k in steps]

    def _span(self, levels: Sequence[Levels], k: int) -> Span:
        nodes = tuple(levels[max(k + 1 - self.order, 0) : k + 1][::-1])
        finite = all(math.isfinite(log_ratio(own)) for own in (levels[k + 1], *nodes))
        return Span(levels[k + 1], nodes if finite else nodes[:1])

    def _planned(self, split: ModelSplit, a: float, b: float, span: Span, more: bool) -> Step | Start:
        propagator = cast(float, split.propagator(a, b))
        start = self._start(split, a, b, len(span.nodes)) if math.isfinite(span.h) else None
        if start is not None:
            return start
        weights, decay, spread = self._terms(span)
        correction = self._correction(span, weights) if more else ()
        return Step(a, b, split, *as_means(decay * propagator, weights), correction, spread)

    def init(self, dynamics: Dynamics, times: Sequence[float], x: Tensor, past: Past = ()) -> State:
        return self._method.init(dynamics, times, x, past)

    def step(self, dynamics: Dynamics, coefficients: Step | Start, state: State, noise: StepNoise) -> State:
        return self._method.step(dynamics, coefficients, state, noise)

    def value(self, state: State) -> Tensor:
        return state.x
