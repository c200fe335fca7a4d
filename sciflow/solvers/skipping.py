"""Stability-guided skipping: samples whose path is smooth at the moment do without a network call, each for itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sciflow.solvers.dynamics import Dynamics, ModelSplit, lagrange, model_split, quadrature
from sciflow.solvers.solve import Past, StepNoise

LOOKED_AT = 3  # noise predictions in the criterion


class Criterion(NamedTuple):
    """Float64 coefficients on the last three ε, newest first: the extrapolated y_b − y_a, and the second difference."""

    extrapolated: tuple[float, ...]
    difference: tuple[float, ...]


class Step(NamedTuple):
    """From a to b. `guess` are the coefficients of the extrapolated value at b; empty: the next call is not skipped."""

    a: float
    split: ModelSplit
    start: tuple[float, float]
    end: tuple[float, float]
    propagator: float
    weights: tuple[float, ...]
    guess: tuple[float, ...]
    criterion: Criterion | None  # None with a guess: every sample skips


class State(NamedTuple):
    """x, the last D and ε, newest first, the guessed D, which samples skip, how often in a row."""

    x: Tensor
    data: tuple[Tensor, ...]
    noise: tuple[Tensor, ...]
    guess: Tensor | None
    skips: Tensor
    in_row: Tensor


@dataclass(frozen=True)
class Skipping:
    """An exponential Adams method in the data frame that skips calls where the path of a sample is stable.

        skip the call at b if  mean[(y_b − ŷ_b) · Δ²ε] ≤ 0,   y = x/α,   dy/du = ε
        ŷ_b = y_a + Σ_j ∫ ℓ_j du ε_j (three nodes on the true grid),   Δ²ε the second divided difference in u

    A skipped value is ε extrapolated through its last `terms` values in λ, and D = (x_b − σ ε)/α; it enters the history
    as if it were the model's. Each sample decides for itself, so that no row depends on the others; a step waits for
    the device to know which rows to call. On a point mass every pattern of skips is exact.

    Order: min(order, terms) where calls are skipped, order where none is.
    Cost: 1 model call per step for the samples that do not skip; the host reads which ones.
    Bias: O(h^{terms + 1}) for each skip.
    Args:
        order: nodes of the method.
        terms: nodes of the extrapolation; 1 reuses the last value, as published; 3 is unstable in rows of skips.
        view: what is extrapolated, the noise ε or the data D.
        weights: of the last three ε in ŷ, newest first, times u_b − u_a; None integrates the parabola exactly.
        first: the first step that may be skipped.
        kept: the last steps, none of which is skipped.
        in_row: most skips in a row.
        forced: the steps that every sample skips, in place of the criterion.
    Raises:
        ValueError: forced steps outside the grid or before there is history.
    Source: Jiang et al. (2025), SADA, section 3; the clock u, the divided difference and the decision per sample are
        ours.
    """

    order: Annotated[int, Field(ge=1, le=6)] = 2
    terms: Annotated[int, Field(ge=1, le=4)] = 2
    view: Literal["noise", "data"] = "noise"
    weights: tuple[float, float, float] | None = None
    first: Annotated[int, Field(ge=1)] = 3
    kept: Annotated[int, Field(ge=0)] = 2
    in_row: Annotated[int, Field(ge=1)] = 1
    forced: tuple[int, ...] | None = None

    @property
    def convergence(self) -> int:
        return min(self.order, self.terms)

    def plan(self, dynamics: Dynamics, times: Sequence[float], past: Sequence[float] = ()) -> list[Step]:
        split, n_steps = model_split(self, dynamics, "data"), len(times) - 1
        known = [*past, *times]
        if self.forced is not None and any(not 1 <= k < n_steps or k + len(past) < self.terms for k in self.forced):
            raise ValueError(f"forced must name steps from {self.terms} to {n_steps - 1}, got {self.forced}.")
        return [self._step(split, known, len(past) + k, k + 1, n_steps) for k in range(n_steps)]

    def _step(self, split: ModelSplit, known: Sequence[float], place: int, following: int, n_steps: int) -> Step:
        a, b, nodes = known[place], known[place + 1], known[: place + 1][::-1]
        may = self.first <= following < n_steps - self.kept and len(nodes) >= max(LOOKED_AT, self.terms)
        skips = may if self.forced is None else following in self.forced
        guess = _extrapolated(split, nodes[: self.terms], b) if skips else ()
        criterion = self._criterion(split, nodes[:LOOKED_AT], b) if skips and self.forced is None else None
        weights = tuple(float(weight) for weight in split.weights(a, b, nodes[: self.order]))
        propagator = float(split.propagator(a, b))
        return Step(a, split, split.levels(a), split.levels(b), propagator, weights, guess, criterion)

    def _criterion(self, split: ModelSplit, nodes: Sequence[float], b: float) -> Criterion:
        u = np.array([sigma / alpha for alpha, sigma in map(split.levels, [b, *nodes])])
        end, nodes_u = u[0], u[1:]
        if self.weights is None:
            points, weights = quadrature(nodes_u[0], end)
            extrapolated = lagrange(nodes_u, points) @ weights
        else:
            extrapolated = (end - nodes_u[0]) * np.array(self.weights)
        difference = [1 / np.prod([own - other for other in nodes_u if other != own]) for own in nodes_u]
        return Criterion(tuple(extrapolated.tolist()), tuple(map(float, difference)))

    def init(self, dynamics: Dynamics, times: Sequence[float], x: Tensor, past: Past = ()) -> State:
        split = model_split(self, dynamics, "data")
        data = [(split.remainder(t, earlier), earlier, *split.levels(t)) for t, earlier in reversed(past)]
        noise = tuple((earlier - alpha * value) / sigma for value, earlier, alpha, sigma in data)
        none = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        return State(x, tuple(value for value, *_ in data), noise, None, none, none.long())

    def step(self, dynamics: Dynamics, coefficients: Step, state: State, noise: StepNoise) -> State:
        x, (alpha, sigma) = state.x, coefficients.start
        value = _asked(coefficients, state)
        data = (value, *state.data)
        noises = ((x - alpha * value) / sigma, *state.noise)
        end = x * coefficients.propagator
        for weight, known in zip(coefficients.weights, data, strict=False):
            end = torch.add(end, known, alpha=weight)
        skips, guess = torch.zeros_like(state.skips), None
        if coefficients.guess:
            skips = self._skips(coefficients, end, x, noises, state.in_row)
            guess = self._guess(coefficients, end, data, noises)
        in_row = torch.where(skips, state.in_row + 1, 0)
        most = max(LOOKED_AT, self.terms, self.order)
        return State(end, data[:most], noises[:most], guess, skips, in_row)

    def _skips(self, coefficients: Step, end: Tensor, x: Tensor, noises: Sequence[Tensor], in_row: Tensor) -> Tensor:
        """Which samples are stable, shape (batch,)."""
        if coefficients.criterion is None:
            return torch.ones(len(x), dtype=torch.bool, device=x.device)
        residual = end / coefficients.end[0] - x / coefficients.start[0]
        residual = residual - _combined(coefficients.criterion.extrapolated, noises)
        curvature = _combined(coefficients.criterion.difference, noises)
        measure = (residual * curvature).flatten(1).sum(-1)
        return (measure <= 0) & (in_row < self.in_row)

    def _guess(self, coefficients: Step, end: Tensor, data: Sequence[Tensor], noises: Sequence[Tensor]) -> Tensor:
        """D at the end of the step, extrapolated."""
        if self.view == "data":
            return _combined(coefficients.guess, data)
        alpha, sigma = coefficients.end
        return (end - sigma * _combined(coefficients.guess, noises)) / alpha

    def value(self, state: State) -> Tensor:
        return state.x


def _asked(coefficients: Step, state: State) -> Tensor:
    """D at the start of a step: asked of the model for the rows that do not skip."""
    if state.guess is None:
        return coefficients.split.remainder(coefficients.a, state.x)
    rows = (~state.skips).nonzero()[:, 0]
    value = state.guess.to(state.x.dtype)
    if len(rows):
        asked = coefficients.split.remainder(coefficients.a, state.x[rows])
        value = value.index_copy(0, rows, asked.to(value.dtype))
    return value


def _combined(weights: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    """Σ w_j v_j over the newest values."""
    total = values[0] * weights[0]
    for weight, value in zip(weights[1:], values[1:], strict=False):
        total = torch.add(total, value, alpha=weight)
    return total


def _extrapolated(split: ModelSplit, nodes: Sequence[float], b: float) -> tuple[float, ...]:
    """Lagrange weights at b, in λ, of the values at the nodes."""
    log_snr = [math.log(alpha / sigma) for alpha, sigma in map(split.levels, [*nodes, b])]
    return tuple(lagrange(log_snr[:-1], np.array(log_snr[-1])).tolist())
