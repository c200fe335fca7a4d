"""Simulation-based calibration: exact bands, levels that hold, and posteriors that are wrong in known ways."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from sciflow.metrics.calibration import rank_functions, sbc, tarp
from sciflow.metrics.uniformity import band, distribution, probability_inside, uniform_p_value
from sciflow.random import Stream

N, MEMBERS, SIGMA = 150, 60, 0.7


def multinomial(counts: tuple[int, ...]) -> float:
    """Probability of these counts in equal bins."""
    n = sum(counts)
    ways = math.factorial(n) / math.prod(math.factorial(c) for c in counts)
    return ways / len(counts) ** n


@pytest.mark.parametrize("n", [1, 3, 5])
@pytest.mark.parametrize("tail", [0.02, 0.2, 0.6])
def test_the_chain_of_counts_is_exact(n: int, tail: float) -> None:
    """By enumeration of every way to put n numbers between n points."""
    inside = 0.0
    for counts in itertools.product(range(n + 1), repeat=n + 1):
        if sum(counts) != n:
            continue
        below = [sum(counts[: k + 1]) for k in range(n)]
        tails = []
        for k, count in enumerate(below):
            z = (k + 1) / (n + 1)
            chance = [math.comb(n, r) * z**r * (1 - z) ** (n - r) for r in range(n + 1)]
            tails.append(2 * min(sum(chance[: count + 1]), sum(chance[count:])))
        inside += multinomial(counts) * (min(tails) > tail)
    assert probability_inside(n, tail) == pytest.approx(inside, abs=1e-12)  # rounding


def test_bands_hold_at_all_points_at_once() -> None:
    n, repeats = 40, 2000
    known = band(n)
    assert 0.95 <= known.level < 0.97  # counts are whole numbers: the next narrower band has less than 0.95
    functions = torch.stack([distribution(u) for u in Stream(1).uniform(repeats, (n,), dtype=torch.float64)])
    inside = ((functions >= known.low) & (functions <= known.high)).all(1).double().mean()
    assert abs(float(inside) - known.level) < 4 * math.sqrt(0.05 * 0.95 / repeats)  # 4 standard errors
    assert band(400).high[24] - band(400).low[24] < 0.4 * (known.high - known.low).max()  # ∝ n^{−1/2}


def test_p_values_hold_their_level() -> None:
    repeats = 500
    values = torch.tensor([uniform_p_value(u) for u in Stream(2).uniform(repeats, (20,), dtype=torch.float64)])
    for level in (0.05, 0.2):
        error = math.sqrt(level * (1 - level) / repeats)
        found = float((values <= level).double().mean())
        assert level / 3 < found < level + 4 * error  # at most the level; whole counts make it somewhat less
    assert uniform_p_value(0.5 * torch.rand(30, dtype=torch.float64)) < 1e-6


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_p_values_of_few_numbers_are_exact(n: int) -> None:
    """By enumeration: P(p ≤ a) = a at every value a that p takes, so that none is smaller than its own probability."""
    places = (torch.arange(n + 1, dtype=torch.float64) + 0.5) / (n + 1)
    chances: dict[float, float] = {}
    for counts in itertools.product(range(n + 1), repeat=n + 1):
        if sum(counts) == n:
            p = round(uniform_p_value(places.repeat_interleave(torch.tensor(counts))), 9)
            chances[p] = chances.get(p, 0.0) + multinomial(counts)
    reached = 0.0
    for p in sorted(chances):
        reached += chances[p]
        assert p == pytest.approx(reached, abs=1e-8)  # rounded to 1e-9 above


def conjugate(n: int, scale: float, shift: float = 0.0, seed: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Truths N(0, I₃), y = x + σ n, and draws of the posterior whose spread is scaled and whose mean is shifted."""
    stream = Stream(seed)
    truth = stream.child("truth").normal(n, (3,), dtype=torch.float64)
    y = truth + SIGMA * stream.child("noise").normal(n, (3,), dtype=torch.float64)
    spread = SIGMA / math.sqrt(1 + SIGMA**2)
    z = stream.child("draws").normal(n, (MEMBERS, 3), dtype=torch.float64)
    return truth, (y / (1 + SIGMA**2) + shift * spread)[:, None] + scale * spread * z, y


def test_a_calibrated_posterior_passes() -> None:
    truth, draws, _ = conjugate(N, 1.0)
    score = sbc(truth, draws)["sbc_p"]
    assert score.value > 0.01 and "uniform" in score.note and score.n == N  # fails for 1 seed in 100 at most
    distance = tarp(truth, draws)["tarp_atc"]
    assert abs(distance.value) < 4 * distance.stderr  # 4 standard errors


@pytest.mark.parametrize(("scale", "shift"), [(0.5, 0.0), (2.0, 0.0), (1.0, 0.8)], ids=["narrow", "wide", "shifted"])
def test_a_biased_posterior_is_rejected(scale: float, shift: float) -> None:
    truth, draws, _ = conjugate(N, scale, shift)
    score = sbc(truth, draws)["sbc_p"]
    assert score.value < 1e-3 and "not uniform" in score.note
    if not shift:
        distance = tarp(truth, draws)["tarp_atc"]
        assert math.copysign(distance.value, scale - 1) == distance.value and abs(distance.value) > 4 * distance.stderr


def test_the_prior_for_a_posterior_is_seen_by_quantities_that_look_at_the_data() -> None:
    truth, _, y = conjugate(N, 1.0)
    draws = Stream(4).normal(N, (MEMBERS, 3), dtype=torch.float64)
    assert sbc(truth, draws)["sbc_p"].value > 0.01  # ranks alone cannot tell

    def fit(x: Tensor, y: Tensor) -> Tensor:
        return -0.5 * ((y - x) ** 2).sum(-1) / SIGMA**2

    found = rank_functions(truth, draws, more={"log-likelihood": (fit(truth, y), fit(draws, y[:, None]))}, reference=y)
    p = dict(zip(found.names, found.p_values, strict=True))
    assert p["log-likelihood"] < 1e-6 and p["distance"] < 1e-6 and p["mean"] > 0.01
    assert found.functions.shape == (len(found.names), len(found.band.points))


def test_masked_elements_do_not_count() -> None:
    truth, draws, _ = conjugate(40, 1.0)
    mask = torch.tensor([True, True, False]).expand(40, 3)
    spoilt = truth.clone()
    spoilt[:, 2] += 100
    for metric in (sbc, tarp):
        assert metric(spoilt, draws, mask=mask) == metric(truth, draws, mask=mask)
