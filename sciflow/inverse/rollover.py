"""Search along the path for draws of a large likelihood, within a budget of calls. No law: an optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser, Tiled
from sciflow.diffusion.flow import transition
from sciflow.errors import InputError, NonFiniteError
from sciflow.inverse.likelihood import Likelihood
from sciflow.inverse.shared import Progress
from sciflow.particles.particles import Particles
from sciflow.random import Stream
from sciflow.steering.twisted import noisy_levels


@dataclass
class _Search:
    """One search per row: where it is, what that is worth, and what it may still spend.

    Args:
        x, data: state and denoised state, (n, *shape).
        worth: log p(y | data), (n,), float64.
        budget: calls left for the present step, (n,).
    """

    x: Tensor
    data: Tensor
    worth: Tensor
    budget: Tensor


@dataclass(frozen=True)
class RolloverBudgetForcing:
    """Move on to the first child that is worth more than its parent; calls that this spares are spent later.

        x' ~ ancestral step of the reverse SDE, worth log p(y | D(x'));  accept the first x' worth more than x,
        after `budget` + what was left over children at most: then take the best of them

    Every draw is a search of its own. For a flow its stochastic form is what moves: the step depends on noise levels
    alone, so that the schedule a flow was trained with need not be left for another one.

    Target: none
    Exactness: none: a search for large likelihoods; a budget that no child needs any more is left over, and said so.
    Cost: at most `budget` denoiser calls per draw and level, and one at the start; no backward pass.
    Bias: towards large likelihoods; draws are too narrow for a posterior, and no evidence tells by how much.
    Args:
        budget: children per step, on average.
        eta: η, amount of noise of a step, in (0, 1] [dimensionless].
        tile: rows per denoiser call.
    Raises:
        InputError: n < 1, or options out of range.
        NonFiniteError: a likelihood or a draw is not finite; names the step.
    Source: Kim et al. (2025), Inference-time scaling for flow models via stochastic generation and rollover budget
        forcing.
    """

    budget: Annotated[int, Field(gt=0)] = 4
    eta: Annotated[float, Field(gt=0, le=1)] = 1.0
    tile: Annotated[int, Field(gt=0)] = 1024

    def __post_init__(self) -> None:
        if self.budget < 1 or not 0 < self.eta <= 1:
            got = f"budget = {self.budget}, eta = {self.eta}"
            raise InputError(f"rollover budget forcing needs budget ≥ 1 and 0 < eta ≤ 1, got {got}. Children of a step "
                             "without noise are all alike.")  # fmt: skip

    def __call__(
        self,
        prior: Denoiser,
        likelihood: Likelihood,
        times: Tensor | Sequence[float],
        n: int,
        stream: Stream,
        on_step: Progress | None = None,
    ) -> Particles:
        levels, denoiser = noisy_levels(prior.schedule, times), Tiled(prior, self.tile)
        bound = likelihood.on(tuple(prior.shape))
        if n < 1:
            raise InputError(f"a posterior needs n ≥ 1 draws, got {n}.")
        with torch.no_grad():
            x = prior.initial(levels[0], n, stream.child("initial"), bound.observation.dtype)
            x = x.to(bound.observation.device)
            data = denoiser(x, levels[0])
            found = _Search(x, data, bound.log_prob(data).double(), torch.zeros(n, dtype=torch.int64, device=x.device))
            for k in range(len(levels) - 1):
                self._move(found, denoiser, bound, (levels[k], levels[k + 1]), stream.child("step", k))
                if not bool((found.worth.isfinite() & found.data.flatten(1).isfinite().all(1)).all()):
                    raise NonFiniteError(
                        f"rollover budget forcing: a draw or its likelihood is not finite in step {k + 1} of "
                        f"{len(levels) - 1}. Take more steps there."
                    )
                if on_step is not None:
                    on_step(k + 1, len(levels) - 1)
        left = int(found.budget.sum())
        return Particles.equal(found.data, (f"{left} calls of the budget were left over at the end",) if left else ())

    def _move(
        self, found: _Search, denoiser: Denoiser, bound: Likelihood, step: tuple[float, float], stream: Stream
    ) -> None:
        """One step of every search, in place: children until one is worth more, or the budget is spent."""
        mean, s = transition(denoiser, found.x, found.data, *step, self.eta)
        goal, best = found.worth.clone(), torch.full_like(found.worth, -torch.inf)
        found.budget += self.budget
        open_rows, trial = torch.arange(len(mean), device=mean.device), 0
        while len(open_rows):
            noise = stream.normal(len(mean), mean.shape[1:], step=trial, dtype=mean.dtype, device=mean.device)
            child = mean[open_rows] + s * noise[open_rows]
            data = denoiser(child, step[1])
            worth = bound.log_prob(data).double()
            is_better = (worth > best[open_rows]) | worth.isnan()  # NaN is kept, to be refused
            rows = open_rows[is_better]
            best[rows], found.x[rows], found.data[rows] = worth[is_better], child[is_better], data[is_better]
            found.budget[open_rows] -= 1
            goes_on = (best[open_rows] <= goal[open_rows]) & (found.budget[open_rows] > 0)
            open_rows, trial = open_rows[goes_on], trial + 1
        found.worth = best
