"""Solvers that can be run backwards to where they came from, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from sciflow.solvers.dynamics import Dynamics, ModelSplit, model_split
from sciflow.solvers.solve import Past, Solver, StepNoise
from sciflow.solvers.times import checked


class Pair(NamedTuple):
    """The state at a time of the grid and at the one before it; before the first step there is none before it."""

    x: Tensor
    before: Tensor | None


class Recurrence(NamedTuple):
    """x₊ = before · x₋ + state · x + data · D(x, t), in float64; and the DDIM step from t to the time before."""

    t: float
    split: ModelSplit
    before: float
    state: float
    data: float
    back: tuple[float, float]  # x₋ ≈ back₀ x₊ + back₁ D(x₊, end)
    end: float


@runtime_checkable
class Invertible(Solver, Protocol):
    """A solver whose state is a `Pair` and whose step has an inverse."""

    def inverse_step(self, dynamics: Dynamics, coefficients: Recurrence, state: Pair) -> Pair:
        """The state before the step that led to this one. It is never changed in place."""
        ...


@dataclass(frozen=True)
class BDIA:
    """Bi-directional integration: DDIM forward from x_i plus γ times what DDIM backward from x_i got wrong.

        x_{i+1} = T(x_i, i → i+1) + γ (x_{i−1} − T(x_i, i → i−1)),   T(x, a → b) = (σ_b/σ_a) x + (α_b − σ_b α_a/σ_a) D

    Both T use one denoised value. The pair (x_i, x_{i+1}) determines x_{i−1}: see `invert`. The first step is DDIM.

    Order: 2 for γ = 1, the leapfrog of DDIM; 1 for γ < 1.
    Cost: 1 drift call per step, forward and backward.
    Bias: O(h²) for γ = 1, (1 − γ) O(h) else. Leapfrog does not damp: on a grid too coarse for the model, errors of
        alternating sign grow, and γ < 1 damps them.
    Args:
        gamma: γ in (0, 1]. Rounding errors of an inversion grow like γ^{−N} over N steps.
    Raises:
        ValueError: dynamics with noise of its own, or of no model; γ out of range; a grid that starts at σ = 0.
    Source: Zhang et al. (2023), Exact diffusion inversion via bi-directional integration approximation (BDIA-DDIM).
    """

    gamma: Annotated[float, Field(gt=0, le=1)] = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 1:
            raise ValueError(f"BDIA needs 0 < γ ≤ 1, got {self.gamma}: with γ = 0 it is DDIM, which has no inverse.")

    @property
    def convergence(self) -> int:
        return 2 if self.gamma == 1 else 1

    def plan(self, dynamics: Dynamics, times: Sequence[float], past: Sequence[float] = ()) -> list[Recurrence]:
        split = model_split(self, dynamics)
        known = [past[-1] if past else None, *times]
        return [self._coefficients(split, *three) for three in zip(known, known[1:], known[2:], strict=False)]  # type: ignore[arg-type]

    def _coefficients(self, split: ModelSplit, before: float | None, t: float, end: float) -> Recurrence:
        ahead, data = _ddim(split, t, end)
        back = _ddim(split, end, t) if split.levels(end)[1] > 0 else (0.0, 0.0)
        if before is None:
            return Recurrence(t, split, 0.0, ahead, data, back, end)
        kept, shift = _ddim(split, t, before)
        return Recurrence(t, split, self.gamma, ahead - self.gamma * kept, data - self.gamma * shift, back, end)

    def init(self, dynamics: Dynamics, times: Sequence[float], x: Tensor, past: Past = ()) -> Pair:
        return Pair(x, past[-1][1].clone() if past else None)

    def step(self, dynamics: Dynamics, coefficients: Recurrence, state: Pair, noise: StepNoise) -> Pair:
        t, split, kept, ahead, weight, *_ = coefficients
        x, before = state
        data = split.remainder(t, x).to(x.dtype)
        if before is None:
            return Pair((x * ahead).add_(data, alpha=weight), x)
        new = before * kept if torch.is_grad_enabled() else before.mul_(kept)
        return Pair(new.add_(x, alpha=ahead).add_(data, alpha=weight), x)

    def inverse_step(self, dynamics: Dynamics, coefficients: Recurrence, state: Pair) -> Pair:
        t, split, kept, ahead, weight, *_ = coefficients
        x, before = state
        assert before is not None
        if not kept:
            return Pair(before, None)
        data = split.remainder(t, before).to(x.dtype)
        return Pair(before, x.sub(before, alpha=ahead).sub_(data, alpha=weight).div_(kept))

    def value(self, state: Pair) -> Tensor:
        return state.x


def _ddim(split: ModelSplit, a: float, b: float) -> tuple[float, float]:
    """T(x, a → b) = kept · x + weight · D."""
    (alpha_a, sigma_a), (alpha_b, sigma_b) = split.levels(a), split.levels(b)
    if sigma_a == 0:
        raise ValueError(f"BDIA has no step from t = {a:g}, where σ = 0. Let σ be 0 at the end of the grid at most.")
    kept = sigma_b / sigma_a
    return kept, alpha_b - kept * alpha_a


def _invertible(solver: Solver) -> Invertible:
    if not isinstance(solver, Invertible):
        raise ValueError(
            f"{type(solver).__name__} has no exact inverse: it forgets where it came from, or draws noise. Use BDIA()."
        )
    return solver


def integrate(
    dynamics: Dynamics, x: Tensor, times: Tensor | Sequence[float], solver: Solver, before: Tensor | None = None
) -> Pair:
    """Carry x from times[0] to times[-1] and keep the pair that `invert` starts from.

    With `before`, the state at times[0] is the pair that `invert` gave: times begin one time later than x.

    Args:
        dynamics: the probability flow of a model.
        x: state at times[0], or at times[1] when `before` is given.
        times: increasing grid.
        solver: an invertible solver.
        before: state at times[0], of a pair.
    Raises:
        ValueError: a solver without an inverse.
    """
    grid, chosen = checked(times), _invertible(solver)
    steps = chosen.plan(dynamics, grid)[before is not None :]
    state = Pair(x, before)
    for k, step in enumerate(steps):
        state = chosen.step(dynamics, step, _owned(state), StepNoise(None, k, x, type(solver).__name__))
    return state


def _owned(state: Pair) -> Pair:
    """A state whose older half may be consumed."""
    return state if state.before is None or torch.is_grad_enabled() else Pair(state.x, state.before.clone())


def invert(dynamics: Dynamics, end: Pair | Tensor, times: Tensor | Sequence[float], solver: Solver) -> Pair:
    """Run a solver backwards from times[-1]: the pair at times[0] and times[1], x at times[1] and `before` at times[0].

    From the pair that `integrate` gave it recovers the start, to rounding times γ^{−N}. From data alone the first step
    back is DDIM, an encoding that `integrate(…, before=…)` decodes to the same data.

    Args:
        dynamics: the probability flow of a model.
        end: the pair at times[-1], or the state there alone.
        times: the grid of the forward run, of at least two steps.
        solver: the solver of the forward run.
    Raises:
        ValueError: a solver without an inverse; a grid of one step; data alone at σ = 0.
    Source: Zhang et al. (2023), Exact diffusion inversion via bi-directional integration approximation.
    """
    grid, chosen = checked(times), _invertible(solver)
    steps = chosen.plan(dynamics, grid)
    if len(steps) < 2:
        raise ValueError("an inversion needs a grid of at least two steps: a pair determines what lies before it.")
    state = end if isinstance(end, Pair) else _encoded(steps[-1], end)
    for step in reversed(steps[1:]):
        state = chosen.inverse_step(dynamics, step, state)
    return state


def _encoded(last: Recurrence, x: Tensor) -> Pair:
    """The pair at the end of a grid from data alone."""
    kept, weight = last.back
    if kept == 0.0:
        raise ValueError(f"there is no way back from σ = 0 at t = {last.end:g}. End the grid before it, at u = 0.002.")
    return Pair(x, (x * kept).add_(last.split.remainder(last.end, x).to(x.dtype), alpha=weight))
