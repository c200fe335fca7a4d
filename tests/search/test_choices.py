"""The search over plans: it finds the known grid where only the grid is free, and better plans than constant ones."""

from __future__ import annotations

import itertools
import math

import torch
from test_evolution import FINE, TURNED, remaining

from sciflow.diffusion.mixture import MixtureDenoiser
from sciflow.diffusion.schedule import EDM
from sciflow.random import Stream
from sciflow.search.choices import EVERY_CHOICE, Plan, Ranker, capped, plan_loss, search_choices
from sciflow.search.evolution import Evolving
from sciflow.search.reference import refined
from sciflow.solvers.scheduled import Choice

FLOAT64 = torch.empty(0, dtype=torch.float64)


def test_with_order_one_it_finds_the_arctan_grid() -> None:
    log_snr = EDM().log_snr(torch.tensor(FINE, dtype=torch.float64)).tolist()
    found, taus = search_choices(
        lambda plan: (remaining(plan.grid) - 1) ** 2, log_snr, 10, Stream(0), (Choice(1),), Evolving(n_generations=40)
    )
    bound = math.cos((TURNED[0] - TURNED[-1]) / 10) ** 10
    assert 0.99 < remaining(found[0][1].grid) / bound < 1
    assert len(taus) == 39
    assert len(found) <= 1 + 25 * 40


def test_the_plan_found_beats_every_constant_one(mixture: MixtureDenoiser) -> None:
    fine = refined(mixture.schedule, mixture.schedule.time(-torch.tensor([20.0, 0.05]).double().log()).tolist(), 40)
    loss, fresh = (plan_loss(mixture, fine, 32, Stream(seed), FLOAT64) for seed in (0, 1))
    log_snr = mixture.schedule.log_snr(torch.tensor(fine, dtype=torch.float64)).tolist()
    found, taus = search_choices(loss, log_snr, 5, Stream(2), rule=Evolving(12, 15, 5, mutation=0.2))
    grid = tuple(range(0, 41, 8))
    constant = min(fresh(capped(Plan(grid, (choice,) * 5))) for choice in EVERY_CHOICE)
    assert fresh(found[0][1]) < 0.9 * constant  # on samples that the search has not seen
    assert all(value >= found[0][0] for value, _ in found)
    assert len(taus) == 14


def test_the_ranker_ranks_plans_it_has_not_seen(mixture: MixtureDenoiser) -> None:
    fine = refined(mixture.schedule, mixture.schedule.time(-torch.tensor([20.0, 0.05]).double().log()).tolist(), 20)
    loss = plan_loss(mixture, fine, 16, Stream(3), FLOAT64)
    log_snr = mixture.schedule.log_snr(torch.tensor(fine, dtype=torch.float64)).tolist()
    random = torch.Generator().manual_seed(0)
    inner = list(itertools.combinations(range(1, 20), 3))
    plans = []
    for _ in range(240):
        grid = inner[int(torch.randint(len(inner), (), generator=random))]
        chosen = torch.randint(len(EVERY_CHOICE), (4,), generator=random).tolist()
        plans.append(capped(Plan((0, *grid, 20), tuple(EVERY_CHOICE[i] for i in chosen))))
    losses = [loss(plan) for plan in plans]
    ranker = Ranker(tuple(log_snr)).fit(plans[:160], losses[:160])
    # τ of 80 plans in random order has standard error √(2(2n+5)/9n(n−1)) = 0.076: 4 of them
    assert ranker.kendall(plans[160:], losses[160:]) > 0.31
    assert Ranker(tuple(log_snr)).fit(plans[:2], [math.inf, 0.0]).weights == ()
    assert Ranker(tuple(log_snr))(plans[0]) == 0.0


def test_plans_are_as_they_are_carried_out() -> None:
    plan = capped(Plan((0, 1, 2, 3), (Choice(3, corrector=True),) * 3))
    assert [choice.order for choice in plan.choices] == [1, 2, 3]
    assert [choice.corrector for choice in plan.choices] == [True, True, False]
    assert capped(plan) == plan
