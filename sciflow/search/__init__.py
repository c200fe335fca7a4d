"""Searched and learned sampling: time grids, choices of solver, short-cuts, all fitted to a model without training."""

from __future__ import annotations

from sciflow.search.boundary import best_start, descend
from sciflow.search.choices import Plan, Ranker, StepChoices, plan_loss, search_choices
from sciflow.search.compensation import Compensation, compensate, predicted
from sciflow.search.evolution import Evolution, Evolving, evolve
from sciflow.search.gaussian import MomentDenoiser, Moments, Teleport, departure, skipped, teleport, teleported
from sciflow.search.grids import DynamicProgramming, TruncationError, cheapest_path, jump_cost, kl_bound_cost
from sciflow.search.markov import Chain, DenoisingMCMC, effective_size, gaussian_law, level_law, moments_law
from sciflow.search.reference import Found, Path, Search, follow, refined

SEARCHES: dict[str, type] = {
    "truncation_error": TruncationError,
    "dynamic_programming": DynamicProgramming,
    "evolution": Evolution,
    "step_choices": StepChoices,
    "compensation": Compensation,
}

__all__ = [
    "SEARCHES",
    "Chain",
    "Compensation",
    "DenoisingMCMC",
    "DynamicProgramming",
    "Evolution",
    "Evolving",
    "Found",
    "MomentDenoiser",
    "Moments",
    "Path",
    "Plan",
    "Ranker",
    "Search",
    "StepChoices",
    "Teleport",
    "TruncationError",
    "best_start",
    "cheapest_path",
    "compensate",
    "departure",
    "descend",
    "effective_size",
    "evolve",
    "follow",
    "gaussian_law",
    "jump_cost",
    "kl_bound_cost",
    "level_law",
    "moments_law",
    "plan_loss",
    "predicted",
    "refined",
    "search_choices",
    "skipped",
    "teleport",
    "teleported",
]
