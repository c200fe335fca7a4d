"""CRPS, energy score and spread–skill: brute force, closed forms, and independence of the ensemble size."""

from __future__ import annotations

import math

import pytest
import torch

from sciflow.errors import InputError
from sciflow.metrics.ensemble import crps, energy_score, spread_skill
from sciflow.random import Stream

EXACT = 1e-12  # round-off of float64 sums of a few hundred numbers of size one


def gaussian(n: int, m: int, purpose: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Truth 0.7 for every observation, members of N(0, 1)."""
    return torch.full((n, 1), 0.7, dtype=torch.float64), Stream(1, (purpose,)).normal(n, (m, 1), dtype=torch.float64)


def closed_form(y: float) -> float:
    """CRPS of N(0, 1) at y: y (2Φ(y) − 1) + 2φ(y) − 1/√π."""
    return y * math.erf(y / math.sqrt(2)) + 2 * math.exp(-(y**2) / 2) / math.sqrt(2 * math.pi) - 1 / math.sqrt(math.pi)


@pytest.mark.parametrize("m", [2, 3, 10, 50])
def test_fair_crps_has_the_closed_form_as_expectation_for_any_ensemble_size(m):
    score = crps(*gaussian(20_000 // m, m, f"crps {m}"))["crps"]
    assert 0 < score.stderr < 0.02  # otherwise the next line proves nothing: the closed form is 0.30
    assert abs(score.value - closed_form(0.7)) < 4 * score.stderr  # 4 standard errors


def test_the_claimed_standard_error_is_the_scatter_of_repetitions():
    scores = [crps(*gaussian(100, 5, f"repetition {k}"))["crps"] for k in range(400)]
    scatter = torch.tensor([s.value for s in scores]).std()
    claimed = torch.tensor([s.stderr for s in scores]).mean()
    assert abs(scatter / claimed - 1) < 4 / math.sqrt(2 * 399)  # 4 standard errors of a standard deviation


@pytest.mark.parametrize("m", [2, 5, 16])
def test_sorting_equals_brute_force(m):
    truth = Stream(2).normal(3, (4,), dtype=torch.float64)
    samples = Stream(3).normal(3, (m, 4), dtype=torch.float64)
    samples[0, 1] = samples[0, 0]  # a tie
    pairs = (samples[:, :, None] - samples[:, None]).abs().sum((1, 2))
    expected = (samples - truth[:, None]).abs().mean(1) - pairs / (2 * m * (m - 1))
    assert crps(truth, samples)["crps"].value == pytest.approx(float(expected.mean()), abs=EXACT)


def test_energy_score_equals_brute_force():
    truth = Stream(2).normal(3, (2, 2), dtype=torch.float64)
    samples = Stream(3).normal(3, (5, 2, 2), dtype=torch.float64)
    flat, centre = samples.flatten(2), truth.flatten(1)
    pairs = (flat[:, :, None] - flat[:, None]).norm(dim=3).sum((1, 2))
    expected = (flat - centre[:, None]).norm(dim=2).mean(1) - pairs / 40
    assert energy_score(truth, samples)["energy_score"].value == pytest.approx(float(expected.mean()), abs=EXACT)


def test_energy_score_is_crps_in_one_dimension():
    data = gaussian(50, 7, "one dimension")
    assert energy_score(*data)["energy_score"].value == pytest.approx(crps(*data)["crps"].value, abs=EXACT)
    assert energy_score(*data)["energy_score"].stderr == pytest.approx(crps(*data)["crps"].stderr, abs=EXACT)


def test_energy_score_reads_only_what_the_mask_counts():
    truth, samples = torch.zeros(4, 2), Stream(4).normal(4, (6, 2), dtype=torch.float64)
    mask = torch.tensor([True, False])
    expected = crps(truth[:, :1], samples[..., :1])["crps"].value
    assert energy_score(truth, samples, mask=mask)["energy_score"].value == pytest.approx(expected, abs=EXACT)
    assert crps(truth, samples, mask=mask)["crps"].value == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize("m", [2, 8])
def test_spread_skill_is_one_for_exchangeable_draws(m):
    draws = Stream(5, (m,)).normal(1500, (m + 1, 3), dtype=torch.float64)
    draws = draws * torch.linspace(0.5, 2, 1500, dtype=torch.float64)[:, None, None]  # a spread of its own for each
    score = spread_skill(draws[:, 0], draws[:, 1:])["spread_skill"]
    assert score.stderr < 0.05
    assert abs(score.value - 1) < 4 * score.stderr  # 4 standard errors


def test_spread_skill_sees_a_narrow_ensemble():
    draws = Stream(6).normal(500, (9, 3), dtype=torch.float64)
    centred = draws[:, 1:] * 0.5  # half the spread; error² = 1 + 1/32, spread² = 1/4
    score = spread_skill(draws[:, 0], centred)["spread_skill"]
    assert abs(score.value - math.sqrt(9 / 8 * 0.25 / (1 + 0.25 / 8))) < 4 * score.stderr  # 4 standard errors


@pytest.mark.parametrize("metric", [crps, energy_score, spread_skill])
def test_one_member_is_refused(metric):
    with pytest.raises(InputError, match="at least 2 members, got 1"):
        metric(torch.zeros(3, 2), torch.zeros(3, 1, 2))
