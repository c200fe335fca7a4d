"""Every search for a grid finds the one that is known: equidistant in arctan(u/c) for DDIM on N(0, c²I)."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from sciflow.diffusion.flow import probability_flow
from sciflow.diffusion.mixture import EmpiricalDenoiser, GaussianDenoiser
from sciflow.diffusion.schedule import EDM, Linear, Schedule, VariancePreserving
from sciflow.diffusion.times import Karras
from sciflow.random import Stream
from sciflow.search.grids import (
    DynamicProgramming,
    TruncationError,
    cheapest_path,
    chosen,
    equal_error,
    jump_cost,
    kl_bound_cost,
)
from sciflow.search.reference import Path, follow, refined
from sciflow.solvers.exponential import ExponentialEuler
from sciflow.solvers.solve import solve

C = 0.5
FLOAT64 = torch.empty(0, dtype=torch.float64)
N = 10


def white(schedule: Schedule, dimension: int = 1) -> object:
    return GaussianDenoiser(
        torch.zeros(dimension, dtype=torch.float64), C**2 * torch.eye(dimension, dtype=torch.float64), schedule
    )


def angles(schedule: Schedule, times: object) -> torch.Tensor:
    return torch.atan(torch.exp(-schedule.log_snr(torch.as_tensor(times, dtype=torch.float64))) / C)


def kept(schedule: Schedule, times: torch.Tensor) -> float:
    """Standard deviation at the end over that of the exact flow, by DDIM itself."""
    start, stop = (math.hypot(C * float(schedule.alpha(t)), float(schedule.sigma(t))) for t in (times[0], times[-1]))
    x = torch.full((1, 1), start, dtype=torch.float64)
    return float(solve(probability_flow(white(schedule)), x, times, ExponentialEuler())) / stop


def best(schedule: Schedule, times: torch.Tensor) -> float:
    turned = angles(schedule, [float(times[0]), float(times[-1])])
    return math.cos(float(turned[0] - turned[1]) / (len(times) - 1)) ** (len(times) - 1)


@pytest.mark.parametrize("schedule", [EDM(), Linear(), VariancePreserving()], ids=str)
@pytest.mark.parametrize(
    ("search", "least"),
    [
        # candidates at 1/400 of the range of λ: angles are off by at most 0.013 of steps of 0.15, squared
        (DynamicProgramming(n_candidates=400, n_samples=2), 0.9995),
        (TruncationError(n_candidates=400, n_samples=2), 0.99999),
    ],
    ids=["dynamic programming", "truncation error"],
)
def test_searches_find_the_arctan_grid(search: object, least: float, schedule: Schedule) -> None:
    times = Karras(N)(schedule)
    found = search(white(schedule), times, Stream(0))
    assert len(found) == N + 1 and (found[0], found[-1]) == (times[0], times[-1])
    # float64 rounding above; nothing beats the law
    assert least < kept(schedule, found) / best(schedule, times) < 1 + 1e-12
    assert kept(schedule, times) / best(schedule, times) < 0.99


def test_the_known_value() -> None:
    times = EDM().time(-torch.tensor([80.0, 0.002]).double().log())
    ends = angles(EDM(), times)
    grid = EDM().time(-(C * torch.linspace(float(ends[0]), float(ends[1]), N + 1).double().tan()).log())
    assert kept(EDM(), grid) == pytest.approx(0.884916, abs=1e-6)  # as printed


def test_dynamic_programming_is_brute_force() -> None:
    for size, n_steps, late in ((6, 3, 1.0), (9, 4, 1.15), (10, 1, 1.0), (5, 4, 0.7)):
        cost = torch.from_numpy(np.random.default_rng(size).normal(size=(size, size)))  # negative costs as well
        inner = itertools.combinations(range(1, size - 1), n_steps - 1)

        def total(path: tuple[int, ...], cost: torch.Tensor = cost, late: float = late) -> float:
            return sum(late**k * float(cost[i, j]) for k, (i, j) in enumerate(itertools.pairwise(path)))

        expected = min(((0, *nodes, size - 1) for nodes in inner), key=total)
        assert tuple(cheapest_path(cost, n_steps, late)) == expected
    with pytest.raises(ValueError, match="between 1 and 4 steps"):
        cheapest_path(torch.zeros(5, 5), 5)


def test_exact_cost_gives_the_best_of_all_grids() -> None:
    schedule = EDM()
    fine = refined(schedule, Karras(3)(schedule), 12)
    turned = angles(schedule, fine)
    found = cheapest_path(-(turned[:, None] - turned[None, :]).cos().log(), 3)
    every = [chosen(fine, (0, *nodes, 12)) for nodes in itertools.combinations(range(1, 12), 2)]
    assert kept(schedule, chosen(fine, found)) == pytest.approx(max(kept(schedule, grid) for grid in every), abs=1e-14)


def test_relative_cost_is_one_minus_the_cosine() -> None:
    schedule = EDM(0.05, 5.0)
    fine = refined(schedule, [0.0, 1.0], 200)
    path = follow(white(schedule), fine, 3, Stream(1), FLOAT64)
    turned = angles(schedule, fine)
    law = 1 - (turned[:, None] - turned[None, :]).cos()
    upper = torch.triu_indices(201, 201, 1)
    centred = path.states / path.states.std(1, correction=0, keepdim=True)
    scale = centred.square().mean().sqrt()  # the cost's numerator is not centred: the batch has a mean of its own
    # the path is second order in 200 steps, 1e-4
    assert torch.allclose(jump_cost(path)[*upper], law[*upper] * scale, atol=2e-4)
    assert float(jump_cost(path, "deviation")[*upper].abs().max()) < 1e-12  # all on one line: blind


def test_kl_bound_on_a_gaussian() -> None:
    """Per step −½ + u_s²/2u_t² − log(u_s/u_t) with u = κ/√(c²+κ²), least on a grid geometric in u."""
    schedule, n = EDM(0.05, 5.0), 3000
    fine = refined(schedule, [0.0, 1.0], 60)
    denoiser = white(schedule)
    ends = denoiser.initial(1.0, n, Stream(2), torch.float64)
    ratio = schedule.sigma(torch.tensor(fine, dtype=torch.float64))
    states = ends.expand(61, n, 1)
    path = Path(fine, torch.ones(61, dtype=torch.float64), ratio, states, denoiser(ends, 1.0).expand(61, n, 1))
    cost = kl_bound_cost(denoiser, path, Stream(3), FLOAT64)
    u = ratio / (C**2 + ratio**2).sqrt()
    for i, j in ((0, 60), (10, 30), (30, 50), (0, 20)):
        law = float(-0.5 + u[i] ** 2 / (2 * u[j] ** 2) - (u[i] / u[j]).log())
        # 4 standard errors of a mean of squares, 4·√(2/n) = 10 %, and 1 % for the trapezoids
        assert float(cost[i, j]) == pytest.approx(law, rel=0.11)
    found = cheapest_path(cost, 4)
    steps = torch.diff(u[found].log())
    # a node of the fine grid is 0.08 wide, a step 0.6: unequal by noise in the cost and by rounding to nodes
    assert float(steps.max() - steps.min()) < 0.35 * float(-steps.mean())
    turned = torch.diff(angles(schedule, fine)[found])
    assert float(turned.min() / turned.max()) > 3  # far from the grid of the flow


@pytest.mark.parametrize("order", [1, 2, 3])
def test_order_of_the_truncation_error(order: int) -> None:
    """The density is a (p + 1)-th root of the p-th derivative: D = e^{2λ} gives the density e^{2λ/(p+1)}."""
    log_snr = torch.linspace(0.2, 1.3, 2001, dtype=torch.float64)
    ones = torch.ones(2001, dtype=torch.float64)
    signs = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    # D = e^{2λ}/2^p and α/s = 1: density e^{2λ/(p+1)}, whose grid is known
    data = (2 * log_snr).exp()[:, None, None] / 2**order * signs
    path = Path(
        log_snr.tolist(), ones, (-log_snr).exp(), signs.expand(2001, 2, 1), data.expand(2001, 2, 1)
    )  # times named λ

    class Named:
        def time(self, log_snr: torch.Tensor) -> torch.Tensor:
            return log_snr

    rate = 2 / (order + 1)
    ends = (rate * torch.tensor([0.2, 1.3], dtype=torch.float64)).exp()
    law = torch.linspace(float(ends[0]), float(ends[1]), 6, dtype=torch.float64).log() / rate
    # one-sided differences at the two ends of the grid, of relative width 1e-3
    assert equal_error(path, Named(), 5, order) == pytest.approx(law.tolist(), abs=1e-3)


def test_a_point_needs_no_particular_grid() -> None:
    times = Karras(5)(EDM())
    found = TruncationError(n_candidates=20, n_samples=4)(EmpiricalDenoiser(torch.ones(1, 2), EDM()), times, Stream(0))
    assert bool((found.diff() > 0).all())


def test_refusals() -> None:
    with pytest.raises(ValueError, match="finite noise levels at both ends"):
        refined(Linear(), [0.0, 1.0], 4)
    with pytest.raises(ValueError, match="at least two samples"):
        follow(white(EDM()), [0.0, 1.0], 1, Stream(0))
    with pytest.raises(ValueError, match="must increase"):
        chosen([0.0, 0.5, 1.0], [0, 2, 2])
