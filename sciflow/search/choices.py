"""Grid, and frame, order and corrector of each step: evolution, with a predictor that spares most scores."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.flow import probability_flow
from sciflow.random import Stream
from sciflow.search.evolution import Evolving, Genome, mutant
from sciflow.search.grids import Several, chosen
from sciflow.search.reference import FLOAT32, Found, follow, refined
from sciflow.solvers.scheduled import Choice, Scheduled
from sciflow.solvers.solve import solve

VIEWS: tuple[Literal["noise", "data"], ...] = ("noise", "data")
EVERY_CHOICE = tuple(
    Choice(order, frame, corrector) for order, frame, corrector in itertools.product((1, 2, 3), VIEWS, (False, True))
)


class Plan(NamedTuple):
    """A grid as indices of candidate times, and the choice of each step."""

    grid: Genome
    choices: tuple[Choice, ...]


def capped(plan: Plan) -> Plan:
    """The plan as it is carried out: orders within the history that there is, no corrector on the last step."""
    last = len(plan.choices) - 1
    return Plan(plan.grid, tuple(
        Choice(min(choice.order, k + 1), choice.frame, choice.corrector and k < last, choice.ratio)
        for k, choice in enumerate(plan.choices)
    ))  # fmt: skip


@dataclass(frozen=True)
class Ranker:
    """Which of two plans is better, without trying them: ridge regression of log loss on what a plan looks like.

    Features: log λ-steps, and for each step its order, frame and corrector. Few dozen plans fit it; believe it as far
    as `kendall` on plans it has not seen.

    Args:
        log_snr: λ of the candidate times.
        weights: of the features.
    """

    log_snr: tuple[float, ...]
    weights: tuple[float, ...] = ()

    def features(self, plan: Plan) -> np.ndarray:
        log_snr = np.array(self.log_snr)
        steps = np.log(np.diff(log_snr[list(plan.grid)]))
        chosen = [[c.order, c.order == 1, c.frame == "data", c.frame == "velocity", c.corrector] for c in plan.choices]
        return np.concatenate([[1.0], steps, steps**2, np.array(chosen, dtype=float).ravel()])

    def fit(self, plans: Sequence[Plan], losses: Sequence[float], ridge: float = 0.1) -> Ranker:
        """Plans without a finite loss teach nothing."""
        kept = [(self.features(plan), math.log(loss)) for plan, loss in zip(plans, losses, strict=True)
                if 0 < loss < math.inf]  # fmt: skip
        if not kept:
            return self
        inputs, targets = (np.array(column) for column in zip(*kept, strict=True))
        penalty = ridge * np.eye(inputs.shape[1])
        penalty[0, 0] = 1e-9  # the mean is free
        return Ranker(self.log_snr, tuple(np.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ targets).tolist()))

    def __call__(self, plan: Plan) -> float:
        """The predicted log loss."""
        return float(self.features(plan) @ np.array(self.weights)) if self.weights else 0.0

    def kendall(self, plans: Sequence[Plan], losses: Sequence[float]) -> float:
        """Kendall's τ between predicted and true order: 1 all pairs right, 0 none better than a coin."""
        from scipy.stats import kendalltau

        return float(kendalltau([self(plan) for plan in plans], losses).statistic)


def search_choices(
    loss: Callable[[Plan], float],
    log_snr: Sequence[float],
    n_steps: int,
    stream: Stream,
    choices: Sequence[Choice] = EVERY_CHOICE,
    rule: Evolving | None = None,
    per_score: int = 4,
) -> tuple[list[tuple[float, Plan]], list[float]]:
    """Plans with small losses, best first, and Kendall's τ of the ranker on each generation before it learned from it.

    In each generation the best plans breed `per_score` times as many children as are scored; the ranker says which.

    Args:
        loss: of a plan; the same random numbers for every plan.
        log_snr: λ of the candidate times, both ends included.
        n_steps: steps of the plan.
        stream: random numbers.
        choices: what a step may do.
        rule: how plans breed.
        per_score: children bred for each one that is scored; 1 does without the ranker.
    Source: Liu et al. (2024), A unified sampling framework for solver searching, section 4, with a smaller predictor.
    """
    rule, last, table = rule or Evolving(), len(log_snr) - 1, list(choices)
    random = np.random.default_rng(stream.key())
    ranker, taus = Ranker(tuple(float(value) for value in log_snr)), []
    uniform = tuple(int(i) for i in np.linspace(0, last, n_steps + 1).round())
    first = [capped(Plan(uniform, (choice,) * n_steps)) for choice in table[: rule.population]]
    scored = {plan: loss(plan) for plan in first}
    for _ in range(rule.n_generations):
        parents = sorted(scored, key=lambda plan: scored[plan])[: rule.n_parents]
        bred: dict[Plan, None] = {}
        for _ in range(20 * per_score * rule.population):
            child = _child(parents, last, table, random, rule)
            if child not in scored:
                bred[child] = None
            if len(bred) == per_score * rule.population:
                break
        fresh = sorted(bred, key=ranker)[: rule.population]
        values = [loss(plan) for plan in fresh]
        if ranker.weights and len(fresh) > 2:
            taus.append(ranker.kendall(fresh, values))
        scored |= dict(zip(fresh, values, strict=True))
        ranker = ranker.fit(list(scored), list(scored.values()))
    return sorted(((value, plan) for plan, value in scored.items()), key=lambda pair: pair[0]), taus


def _child(parents: list[Plan], last: int, table: list[Choice], random: np.random.Generator, rule: Evolving) -> Plan:
    """The grid of one parent, mutated, and the choices of two, crossed and mutated."""
    one, two = (parents[i] for i in random.integers(len(parents), size=2))
    coins = random.integers(2, size=len(one.choices))
    choices = [pair[coin] for pair, coin in zip(zip(one.choices, two.choices, strict=True), coins, strict=True)]
    for k in range(len(choices)):
        if random.random() < rule.mutation:
            choices[k] = table[random.integers(len(table))]
    return capped(Plan(mutant(one.grid, last, random, rule), tuple(choices)))


def plan_loss(
    denoiser: Denoiser, fine: list[float], n: int, stream: Stream, like: Tensor = FLOAT32
) -> Callable[[Plan], float]:
    """The root mean square distance of a plan's end from the flow's, with the same starts for every plan."""
    path = follow(denoiser, fine, n, stream.child("start"), like)
    starts, ends = (path.states[k].to(like).reshape(n, *denoiser.shape) for k in (0, -1))
    flow = probability_flow(denoiser)

    def loss(plan: Plan) -> float:
        with torch.no_grad():
            end = solve(flow, starts, chosen(fine, plan.grid), Scheduled(plan.choices))
        value = float((end - ends).double().square().mean().sqrt())
        return value if math.isfinite(value) else math.inf

    return loss


@dataclass(frozen=True)
class StepChoices:
    """The grid, and the frame, order and corrector of each step, whose samples end closest to the flow's.

        min over plans of rms(x_plan(1) − x_flow(1)), the same starts for every plan, finalists on fresh ones

    A posterior whose solver is `scheduled` takes the choices that were found; the others take the grid.

    Exactness: a good plan, not the best: evolution, with a ridge regression that says which children to score.
    Cost: population · n_generations · n_steps calls of n_samples rows, once.
    Bias: none in the flow; it is a choice of steps.
    Args:
        choices: what a step may do.
        n_candidates: candidate steps, equidistant in λ.
        n_samples: samples whose errors are averaged.
        n_finalists: plans scored again on fresh samples.
        per_score: children bred for each one that is scored; 1 does without the regression.
        evolving: how plans breed.
    Raises:
        ValueError: more steps than candidates, or an end without a finite λ.
    Source: Liu et al. (2024), A unified sampling framework for solver searching, section 4, with a smaller predictor.
    """

    choices: Annotated[tuple[Choice, ...], Field(min_length=1)] = EVERY_CHOICE
    n_candidates: Several = 50
    n_samples: Several = 64
    n_finalists: Annotated[int, Field(gt=0)] = 5
    per_score: Annotated[int, Field(gt=0)] = 4
    evolving: Evolving = field(default_factory=Evolving)
    finds_choices = True

    def __call__(self, denoiser: Denoiser, times: Tensor, stream: Stream, like: Tensor = FLOAT32) -> Found:
        fine, n_steps = refined(denoiser.schedule, times, self.n_candidates), len(times) - 1
        if n_steps > self.n_candidates:
            raise ValueError(
                f"{self.n_candidates + 1} candidate times hold between 1 and {self.n_candidates} steps, got {n_steps}."
            )
        log_snr = denoiser.schedule.log_snr(torch.tensor(fine, dtype=torch.float64)).tolist()
        first, *fresh = (plan_loss(denoiser, fine, self.n_samples, stream.child("seed", k), like) for k in range(3))
        own = stream.child("evolution")
        scored, _ = search_choices(first, log_snr, n_steps, own, self.choices, self.evolving, self.per_score)
        plans = [plan for _, plan in scored[: self.n_finalists]]
        best = min(plans, key=lambda plan: sum(loss(plan) for loss in fresh))
        return Found(chosen(fine, best.grid), Scheduled(best.choices))
