"""DPM-Solver-v3: a multistep method whose linear part, mean and scale are measured from the model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sciflow.random import Stream
from sciflow.solvers.dynamics import Coefficient, Dynamics, lagrange, model_split, quadrature
from sciflow.solvers.model_statistics import ModelStatistics, TrivialStatistics, fit_statistics
from sciflow.solvers.solve import Past, StepNoise
from sciflow.solvers.weights import combine

PANEL = 0.5  # longest interval of λ that 16 points integrate: splines have a kink at each level


class Sum(NamedTuple):
    """x_b = P x_a + Σ_j W_j N_j + c, newest node first."""

    propagator: Coefficient
    weights: tuple[Coefficient, ...]
    constant: Coefficient


class State(NamedTuple):
    """The current x, N at the last nodes, newest first, and earlier states where N is still to be found."""

    x: Tensor
    history: tuple[Tensor, ...]
    waiting: tuple[tuple[float, Tensor], ...]


def _plain(value: np.ndarray | float) -> Coefficient:
    return float(value) if np.ndim(value) == 0 else torch.from_numpy(np.ascontiguousarray(value))


@dataclass(frozen=True)
class Table:
    """The coefficients of a grid, computed when the first step asks: only then may the model be probed."""

    solver: DPMSolverV3
    dynamics: Dynamics
    known: tuple[float, ...]  # past and grid
    first: int  # index of the first time of the grid
    given: ModelStatistics | TrivialStatistics | None
    memo: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def split(self) -> Any:
        return model_split(self.solver, self.dynamics, "data")

    @cached_property
    def log_snr(self) -> list[float]:
        levels = [self.split.levels(t) for t in self.known]
        return [math.log(alpha / sigma) if sigma else math.inf for alpha, sigma in levels]

    @cached_property
    def level_at(self) -> dict[float, float]:
        return dict(zip(self.known, self.log_snr, strict=True))

    def statistics(self, like: Tensor) -> ModelStatistics | TrivialStatistics:
        if self.given:
            return self.given
        if "fitted" not in self.memo:
            self.memo["fitted"] = self._fit(like)
        return self.memo["fitted"]

    def _fit(self, like: Tensor) -> ModelStatistics:
        finite = [t for t, level in zip(self.known, self.log_snr, strict=True) if level < math.inf]
        stream, solver = Stream(self.solver.seed, ("dpm_solver_v3",)), self.solver
        with torch.no_grad():
            x = self.split.denoiser.initial(finite[0], solver.n_samples, stream.child("states"), like.dtype)
            x = x.to(like.device)
            return fit_statistics(self.dynamics, x, finite, stream, solver.width, solver.per_coordinate)

    def rest(self, t: float, x: Tensor) -> Tensor:
        """N = D − (1 − l) x/α."""
        level = self.level_at[t]
        kept = _plain((self.statistics(x).slope(level) - 1) / self.split.levels(t)[0])
        data = self.split.remainder(t, x)
        if isinstance(kept, Tensor):
            return data + kept.to(x.device, x.dtype) * x
        return data.add(x, alpha=kept) if kept else data

    def sums(self, k: int, like: Tensor) -> tuple[Sum, Sum | None]:
        """The step from time k to k + 1, and what a correction adds to it."""
        if k not in self.memo:
            last = self.log_snr[k + 1] == math.inf
            nodes = [k - j for j in range(1 if last else min(k + 1, self.solver.order))]
            first, change = self._sum(k, nodes, like), None
            if self.solver.corrector and k + 2 < len(self.known):
                better = self._sum(k, [k + 1, *nodes], like)
                old = (w - v for w, v in zip(better.weights[1:], first.weights, strict=True))
                change = Sum(1.0, (better.weights[0], *old), better.constant - first.constant)
            self.memo[k] = first, change
        return self.memo[k]

    def _sum(self, k: int, nodes: Sequence[int], like: Tensor) -> Sum:
        statistics, level = self.statistics(like), self.log_snr
        (alpha_a, _), (alpha_b, _) = (self.split.levels(self.known[j]) for j in (k, k + 1))
        if level[k + 1] == math.inf:  # x_b = α_b D, in terms of N
            return Sum(_plain(alpha_b / alpha_a * (1 - statistics.slope(level[k]))), (alpha_b,), 0.0)
        n_panels = math.ceil((level[k + 1] - level[k]) / PANEL) if statistics.shape else 1
        edges = np.linspace(level[k], level[k + 1], n_panels + 1)
        rules = [quadrature(a, b) for a, b in itertools.pairwise(edges)]
        points, weights = (np.concatenate(parts) for parts in zip(*rules, strict=True))
        end = statistics.integral(level[k + 1])
        wide = (-1, *[1] * len(statistics.shape))
        kernel = alpha_b * weights.reshape(wide) * np.exp(statistics.integral(points) - end)
        basis = lagrange([level[j] for j in nodes], points)
        scaled = kernel * statistics.spread(points)
        integrals = [(scaled * row.reshape(wide)).sum(0) for row in basis]
        values = [w / statistics.spread(level[j]) for j, w in zip(nodes, integrals, strict=True)]
        moved = (kernel * statistics.mean(points)).sum(0)
        constant = moved - sum(w * statistics.mean(level[j]) for j, w in zip(nodes, values, strict=True))
        kept = alpha_b / alpha_a * np.exp(statistics.integral(level[k]) - end)
        return Sum(_plain(kept), tuple(_plain(w) for w in values), _plain(constant))


@dataclass(frozen=True)
class DPMSolverV3:
    """DPM-Solver-v3: exponential multistep with a linear part, a mean and a scale measured from the model.

        x_b = (α_b/α_a) e^{L_a − L_b} x_a + α_b ∫ e^{L − L_b} N dλ,   N = D − (1 − l) x/α,   L = ∫ l dλ
        (N − E N)/sd N  ≈  the polynomial in λ through its last p values (corrector: and the one at b)

    with l, E N, sd N functions of λ, per coordinate: the paper's l, s and b in another form, see `ModelStatistics`.
    Unlike the published code, no time is rounded to a level of the statistics. l = 1, E N = 0, sd N = 1 is the
    multistep method of DPM-Solver++. Statistics change the error, not the order. They are read from a file, or fitted
    with n_samples > 0: then at the first step of each solve, so that a file is cheaper where there are many.

    Order: p without corrector, p + 1 with it (with exact starting values); exact for independent Gaussian coordinates
        up to the spline through l, O(width⁴).
    Cost: 1 denoiser call per step; a fit adds about 4 n_samples · (range of λ)/width for each solve.
    Bias: O(h^p).
    Args:
        order: p, the number of nodes of the predictor.
        corrector: whether to correct each predicted state.
        statistics: .npz written by `ModelStatistics.save`; "" for none.
        n_samples: states of a fit; 0 for none.
        width: largest distance of two levels of the fit in λ.
        per_coordinate: fit for each coordinate, or numbers shared by all.
        seed: of the states and probes of the fit.
    Raises:
        ValueError: dynamics with noise or without noise levels, α = 0 on the grid, statistics that are both read and
            fitted, that do not cover the grid, or are of another shape.
    Source: Zheng et al. (2023), DPM-Solver-v3, sections 3.1 and 3.2.
    """

    order: Annotated[int, Field(ge=1, le=4)] = 3
    corrector: bool = False
    statistics: str = ""
    n_samples: Annotated[int, Field(ge=0)] = 0
    width: Annotated[float, Field(gt=0)] = 0.1
    per_coordinate: bool = True
    seed: int = 0

    @property
    def convergence(self) -> int:
        return self.order + self.corrector

    def plan(self, dynamics: Dynamics, times: Sequence[float], past: Sequence[float] = ()) -> list[tuple[Table, int]]:
        if self.statistics and self.n_samples:
            raise ValueError("DPMSolverV3 got a file of statistics and n_samples > 0. Read them or fit them, not both.")
        fitted = None if self.n_samples else TrivialStatistics()
        given = ModelStatistics.load(self.statistics) if self.statistics else fitted
        table = Table(self, dynamics, (*past, *times), len(past), given)
        alphas = [table.split.levels(t)[0] for t in table.known]
        if 0.0 in alphas:
            raise ValueError("DPMSolverV3 divides the state by α, which is 0 on this grid. Start the grid later.")
        if self.n_samples and not hasattr(table.split, "denoiser"):
            raise ValueError("DPMSolverV3 draws states from the denoiser of a model, got none. Set n_samples: 0.")
        finite = [level for level in table.log_snr if level < math.inf]
        if self.n_samples and len(finite) < 2:
            raise ValueError(
                "DPMSolverV3 fits between two times where σ > 0, got one. Lengthen the grid, or n_samples: 0."
            )
        if isinstance(given, ModelStatistics):
            low, high = given.log_snr[[0, -1]]
            if finite[0] < low - 1e-9 or finite[-1] > high + 1e-9:
                raise ValueError(
                    f"the statistics cover λ from {low:.3g} to {high:.3g}, the grid goes from {finite[0]:.3g} to "
                    f"{finite[-1]:.3g}. Fit them on a wider grid."
                )
        steps = range(len(past), len(table.known) - 1)
        if given:
            _ = [table.sums(k, torch.empty(0)) for k in steps]
        return [(table, k) for k in steps]

    def init(self, dynamics: Dynamics, times: Sequence[float], x: Tensor, past: Past = ()) -> State:
        if self.statistics:
            shape = ModelStatistics.load(self.statistics).shape
            if shape not in ((), tuple(x.shape[1:])):
                raise ValueError(
                    f"statistics of events {shape}, states of events {tuple(x.shape[1:])}. Fit them again."
                )
        recent = past[max(len(past) + 1 - self.order, 0) :]
        return State(x, (), (*recent, (times[0], x)) if self.corrector else tuple(recent))

    def step(self, dynamics: Dynamics, coefficients: tuple[Table, int], state: State, noise: StepNoise) -> State:
        (table, k), x = coefficients, state.x
        history = (*(table.rest(t, earlier) for t, earlier in reversed(state.waiting)), *state.history)
        if not self.corrector:
            history = (table.rest(table.known[k], x), *history)
        first, change = table.sums(k, x)
        x = _added(x, first, history)
        if change:
            history = (table.rest(table.known[k + 1], x), *history)
            x = _added(x, change, history)
        return State(x, history[: self.order - (not self.corrector)], ())

    def value(self, state: State) -> Tensor:
        return state.x


def _added(x: Tensor, planned: Sum, values: Sequence[Tensor]) -> Tensor:
    x = combine(x, planned.propagator, planned.weights, values[: len(planned.weights)])
    constant = planned.constant
    return x + constant.to(x.device, x.dtype) if isinstance(constant, Tensor) else x + constant if constant else x
