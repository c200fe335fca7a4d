"""Evolution of time grids: any measure of the samples may decide, since only whole grids are scored."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.flow import probability_flow
from sciflow.random import Stream
from sciflow.search.grids import Several, chosen
from sciflow.search.reference import FLOAT32, follow, refined
from sciflow.solvers.exponential import EABM
from sciflow.solvers.solve import Solver, solve

Genome = tuple[int, ...]
Share = Annotated[float, Field(ge=0, le=1)]
SHARES = (0.6, 0.35, 0.05)  # of mutants, crosses and random grids


@dataclass(frozen=True)
class Evolving:
    """How grids breed.

    Args:
        population: grids scored in each generation.
        n_generations: generations.
        n_parents: the best grids ever seen, which breed.
        mutation: probability that an index of a mutant is replaced.
        nearby: share of replacements that stay between the neighbouring indices.
    """

    population: Several = 25
    n_generations: Annotated[int, Field(gt=0)] = 40
    n_parents: Several = 5
    mutation: Share = 0.1
    nearby: Share = 0.5


def evolve(
    loss: Callable[[Genome], float], last: int, n_steps: int, stream: Stream, rule: Evolving | None = None
) -> list[tuple[float, Genome]]:
    """Grids 0 = i_0 < … < i_n = last with small losses, best first; all of them where they are few enough.

    Each generation keeps the best parents ever seen and adds mutants, crosses (position-wise coin on two sorted
    parents) and a few random grids. A grid that was seen is refused, as is a cross with equal indices. The first
    generation holds the uniform grid. With the defaults 1000 grids are scored; on N(0, c²I) with 10 steps the best
    keeps 0.99 of what the optimal grid keeps of the standard deviation. `loss` should use the same random numbers for
    every grid.

    Raises:
        ValueError: more steps than there are nodes.
    Source: Li et al. (2023), AutoDiffusion, algorithm 1.
    """
    rule = rule or Evolving()
    if not 1 <= n_steps <= last:
        raise ValueError(f"{last + 1} candidate times hold between 1 and {last} steps, got {n_steps}.")
    if math.comb(last - 1, n_steps - 1) <= rule.population * rule.n_generations:
        inner = itertools.combinations(range(1, last), n_steps - 1)
        return sorted((loss((0, *nodes, last)), (0, *nodes, last)) for nodes in inner)
    random = np.random.default_rng(stream.key())
    uniform = tuple(int(i) for i in np.linspace(0, last, n_steps + 1).round())
    scored = {uniform: loss(uniform)}
    for _ in range(rule.n_generations):
        parents = sorted(scored, key=lambda genome: (scored[genome], genome))[: rule.n_parents]
        wanted, tries = len(scored) + rule.population, 0
        while len(scored) < wanted and tries < 100 * rule.population:
            tries += 1
            child = _child(parents, last, random, rule)
            if child and child not in scored:
                scored[child] = loss(child)
    return sorted((value, genome) for genome, value in scored.items())


def _child(parents: list[Genome], last: int, random: np.random.Generator, rule: Evolving) -> Genome | None:
    """A mutant, a cross or a random grid; None where a cross fails."""
    n_inner, kind = len(parents[0]) - 2, random.random()
    one, two = (parents[i] for i in random.integers(len(parents), size=2))
    if kind < SHARES[0]:
        return mutant(one, last, random, rule)
    if kind < SHARES[0] + SHARES[1]:
        inner = {pair[coin] for pair, coin in zip(zip(one[1:-1], two[1:-1], strict=True),
                                                  random.integers(2, size=n_inner), strict=True)}  # fmt: skip
    else:
        inner = set((1 + random.choice(last - 1, n_inner, replace=False)).tolist())
    return (0, *sorted(inner), last) if len(inner) == n_inner else None


def mutant(parent: Genome, last: int, random: np.random.Generator, rule: Evolving) -> Genome:
    """Some inner indices replaced, by one between the neighbours or by any unused one."""
    genome = list(parent)
    for k in range(1, len(genome) - 1):
        if random.random() >= rule.mutation:
            continue
        if random.random() < rule.nearby:
            low, high = genome[k - 1] + 1, genome[k + 1]
            genome[k] = int(random.integers(low, high))
        else:
            free = sorted(set(range(1, last)) - set(genome))
            genome[k] = int(random.choice(free)) if free else genome[k]
            genome.sort()
    return tuple(genome)


def path_loss(
    denoiser: Denoiser, fine: list[float], solver: Solver, n: int, stream: Stream, like: Tensor = FLOAT32
) -> Callable[[Genome], float]:
    """The root mean square distance of a solver's end from the flow's, with the same starts for every grid."""
    path = follow(denoiser, fine, n, stream.child("start"), like)
    starts, ends = (path.states[k].to(like).reshape(n, *denoiser.shape) for k in (0, -1))
    flow = probability_flow(denoiser)

    def loss(genome: Genome) -> float:
        with torch.no_grad():
            end = solve(flow, starts, chosen(fine, genome), solver, stream=stream.child("solver"))
        value = float((end - ends).double().square().mean().sqrt())
        return value if math.isfinite(value) else math.inf

    return loss


def rescored(found: list[tuple[float, Genome]], losses: list[Callable[[Genome], float]]) -> Genome:
    """The best of some finalists on losses with fresh random numbers: the winner of a search was lucky, too."""
    return min((sum(loss(genome) for loss in losses), genome) for _, genome in found)[1]


@dataclass(frozen=True)
class Evolution:
    """The grid whose samples end closest to the flow's, by evolution, for one solver.

        min over grids of rms(x_solver(1) − x_flow(1)), the same starts for every grid, finalists on fresh ones

    Exactness: exhaustive where the grids are fewer than population × n_generations; else a good grid, not the best.
    Cost: population · n_generations · n_steps calls of n_samples rows, once.
    Bias: none in the flow; it is a choice of steps.
    Args:
        solver: that will use the grid.
        n_candidates: candidate steps, equidistant in λ.
        n_samples: samples whose errors are averaged.
        n_finalists: grids scored again on fresh samples.
        evolving: how grids breed.
    Raises:
        ValueError: more steps than candidates, or an end without a finite λ.
    Source: Li et al. (2023), AutoDiffusion, algorithm 1, with the error of the path in place of the FID.
    """

    solver: Solver = field(default_factory=EABM)
    n_candidates: Several = 50
    n_samples: Several = 64
    n_finalists: Annotated[int, Field(gt=0)] = 5
    evolving: Evolving = field(default_factory=Evolving)

    def __call__(self, denoiser: Denoiser, times: Tensor, stream: Stream, like: Tensor = FLOAT32) -> Tensor:
        fine = refined(denoiser.schedule, times, self.n_candidates)
        first, *fresh = (
            path_loss(denoiser, fine, self.solver, self.n_samples, stream.child("seed", k), like) for k in range(3)
        )
        found = evolve(first, self.n_candidates, len(times) - 1, stream.child("evolution"), self.evolving)
        return chosen(fine, rescored(found[: self.n_finalists], fresh))
