"""Evolution comes close to the known best grid, and never above it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from test_grids import C, angles, best, kept, white

from sciflow.diffusion.mixture import MixtureDenoiser
from sciflow.diffusion.schedule import EDM
from sciflow.diffusion.times import Karras
from sciflow.random import Stream
from sciflow.search.evolution import Evolution, Evolving, Genome, evolve, path_loss, rescored
from sciflow.search.grids import chosen
from sciflow.search.reference import refined
from sciflow.solvers.exponential import EABM, ExponentialEuler

SCHEDULE = EDM()
FINE = refined(SCHEDULE, Karras(10)(SCHEDULE), 100)
TURNED = angles(SCHEDULE, FINE).tolist()


def remaining(genome: Genome) -> float:
    """Standard deviation over that of the flow after DDIM: the law that `test_grids` checks against the solver."""
    return math.prod(math.cos(TURNED[i] - TURNED[j]) for i, j in itertools.pairwise(genome))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_evolution_comes_close_to_the_law(seed: int) -> None:
    calls: list[Genome] = []

    def loss(genome: Genome) -> float:
        calls.append(genome)
        return (remaining(genome) - 1) ** 2

    value, genome = evolve(loss, 100, 10, Stream(seed))[0]
    bound = math.cos((TURNED[0] - TURNED[-1]) / 10) ** 10
    assert 0.99 < remaining(genome) / bound < 1 and value == min(map(loss, set(calls)))
    assert len(set(calls)) <= 1001 and all(
        len(genome) == 11 and genome == tuple(sorted(set(genome))) for genome in calls
    )


@pytest.mark.parametrize("n_steps", [1, 2])
def test_few_steps_are_searched_whole(n_steps: int) -> None:
    found = evolve(lambda genome: -remaining(genome), 100, n_steps, Stream(0))
    assert len(found) == 99 ** (n_steps - 1)
    every = [(0, *nodes, 100) for nodes in itertools.combinations(range(1, 100), n_steps - 1)]
    assert found[0][1] == max(every, key=remaining)


def test_the_search_itself_with_the_solver() -> None:
    times = Karras(4)(SCHEDULE)
    search = Evolution(ExponentialEuler(), n_candidates=40, n_samples=2, evolving=Evolving(40, 6, 8))
    found = search(white(SCHEDULE), times, Stream(0), torch.empty(0, dtype=torch.float64))
    # 0.985: candidates 0.26 wide in λ, and 240 of 9139 grids
    assert 0.985 < kept(SCHEDULE, found) / best(SCHEDULE, times) < 1 + 1e-12
    assert kept(SCHEDULE, times) / best(SCHEDULE, times) < 0.7
    again = search(white(SCHEDULE), times, Stream(0), torch.empty(0, dtype=torch.float64))
    assert torch.equal(found, again)


def test_it_lowers_the_error_on_a_mixture(mixture: MixtureDenoiser) -> None:
    times = Karras(6)(SCHEDULE)
    fine = refined(SCHEDULE, times, 40)
    start = [min(range(41), key=lambda k: abs(fine[k] - t)) for t in times.tolist()]
    loss = path_loss(mixture, fine, EABM(2, "data"), 64, Stream(9))
    search = Evolution(EABM(2, "data"), n_candidates=40, n_samples=64, evolving=Evolving(20, 5, 6))
    found = [fine.index(t) for t in search(mixture, times, Stream(1)).tolist()]
    assert loss(tuple(found)) < loss(tuple(start))  # on samples that the search has not seen


def test_finalists_are_scored_on_fresh_losses() -> None:
    found = [(0.0, (0, 1, 3)), (0.1, (0, 2, 3))]
    assert rescored(found, [lambda genome: -float(genome[1])]) == (0, 2, 3)


def test_a_diverging_grid_loses_and_bad_sizes_are_refused() -> None:
    fine = refined(SCHEDULE, [0.0, 1.0], 10)

    class Broken(type(white(SCHEDULE))):
        def __call__(self, x: torch.Tensor, t: float) -> torch.Tensor:
            return super().__call__(x, t) * (math.nan if abs(t - fine[5]) < 1e-12 else 1.0)

    healthy = white(SCHEDULE)
    broken = Broken(healthy.mixture, healthy.schedule)
    loss = path_loss(broken, fine, ExponentialEuler(), 2, Stream(0))
    assert loss((0, 5, 10)) == math.inf
    with pytest.raises(ValueError, match="between 1 and 10 steps"):
        evolve(lambda genome: 0.0, 10, 11, Stream(0))
    with pytest.raises(ValueError, match="must increase"):
        chosen(fine, (0, 0, 10))
    assert C == 0.5
