"""Sliced W2, mode weights, evidence error and ESS against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import wasserstein_distance

from sciflow.errors import InputError
from sciflow.metrics.particle import (
    ess,
    estimated_mode_weights,
    evidence_error,
    log_evidence,
    mode_weights,
    sliced_distance,
    sliced_w2,
)
from sciflow.random import Stream

EXACT = 1e-12  # round-off of float64 sums of a few hundred numbers of size one


def test_a_shift_by_delta_costs_delta_over_root_d():
    """y = x + δ gives (θ·δ)² in every direction: mean |δ|²/d, variance 2 (d−1) |δ|⁴ / (d² (d+2))."""
    d, n_projections = 5, 2000
    delta = torch.arange(1.0, d + 1, dtype=torch.float64)
    x = Stream(1).normal(1, (40, d), dtype=torch.float64)
    value = sliced_w2(x, x + delta, n_projections=n_projections)["sliced_w2"].value
    size = float(delta @ delta)
    stderr = size * math.sqrt(2 * (d - 1) / (d**2 * (d + 2)) / n_projections)
    assert abs(value**2 - size / d) < 4 * stderr  # 4 standard errors over directions
    assert stderr < 0.05 * size / d


def test_gaussians_of_different_width():
    """N(0, 1) against N(0, 9) in d = 1: W2 = |3 − 1| = 2; the sample error of 4000 draws is about 2 / √8000."""
    x = Stream(2).normal(8, (4000, 1), dtype=torch.float64)
    y = 3 * Stream(3).normal(8, (4000, 1), dtype=torch.float64)
    score = sliced_w2(x, y, n_projections=1)["sliced_w2"]
    assert abs(score.value - 2) < 4 * score.stderr + 0.01  # 4 standard errors; 0.01 bounds the upward bias O(1/n)
    assert score.stderr < 0.05


def test_weights_equal_repetition():
    x = Stream(4).normal(1, (30, 3), dtype=torch.float64)
    y = Stream(5).normal(1, (4, 3), dtype=torch.float64)
    repeats = torch.tensor([1, 4, 2, 3])
    weighted = sliced_w2(x, y, log_weights=repeats.double().log()[None] + 7.0)["sliced_w2"].value
    repeated = sliced_w2(x, y.repeat_interleave(repeats, dim=1))["sliced_w2"].value
    assert weighted == pytest.approx(repeated, abs=1e-9)  # the root of a cumulative sum's round-off of 1e-16


def test_a_zero_weight_sample_does_not_count():
    x, y = torch.zeros(1, 5, 2), torch.zeros(1, 3, 2)
    y[0, 1] = 1e6
    log_weights = torch.tensor([[0.0, -math.inf, 0.0]])
    assert sliced_w2(x, y, log_weights=log_weights)["sliced_w2"].value == pytest.approx(0.0, abs=EXACT)


def test_one_direction_bounds_scipy_w1():
    """In d = 1, W1 ≤ W2, with equality when every transported distance is the same."""
    x = Stream(6).normal(1, (50, 1), dtype=torch.float64)[0]
    y = Stream(7).normal(1, (30, 1), dtype=torch.float64)[0]
    line = torch.ones(1, 1, dtype=torch.float64)
    w1 = wasserstein_distance(x[:, 0], y[:, 0])
    assert w1 < float(sliced_distance(x, y, torch.zeros(30, dtype=torch.float64), line))
    shifted = float(sliced_distance(x, x + 2, torch.zeros(50, dtype=torch.float64), line))
    assert shifted == pytest.approx(wasserstein_distance(x[:, 0], x[:, 0] + 2), abs=EXACT)


def test_exact_samples_stand_on_the_floor():
    draws = Stream(8).normal(40, (600, 2), dtype=torch.float64)
    scores = sliced_w2(draws[:, :400], draws[:, 400:500], fresh=draws[:, 500:])
    both = math.hypot(scores["sliced_w2"].stderr, scores["sliced_w2_floor"].stderr)
    assert scores["sliced_w2_floor"].value > 0.05  # a floor exists: finite sets differ
    assert abs(scores["sliced_w2"].value - scores["sliced_w2_floor"].value) < 4 * both  # 4 standard errors


def test_shapes_that_disagree_are_refused():
    with pytest.raises(InputError, match=r"samples has shape \(1, 4, 3\) beside exact samples of shape \(1, 5, 2\)"):
        sliced_w2(torch.zeros(1, 5, 2), torch.zeros(1, 4, 3))
    with pytest.raises(InputError, match=r"log_weights has shape \(1, 5\), needs \(1, 4\)"):
        sliced_w2(torch.zeros(1, 5, 2), torch.zeros(1, 4, 2), log_weights=torch.zeros(1, 5))


def overlapping_mixture(n: int, seed: int) -> torch.Tensor:
    """Responsibilities of N(±1, 1) with weights 0.7, 0.3 for exact draws, (20 observations, n, 2)."""
    weights, means = torch.tensor([0.7, 0.3], dtype=torch.float64), torch.tensor([-1.0, 1.0], dtype=torch.float64)
    component = (Stream(seed, ("component",)).uniform(20, (n,)) > 0.7).long()
    x = means[component] + Stream(seed, ("noise",)).normal(20, (n,), dtype=torch.float64)
    return (weights.log() - 0.5 * (x[..., None] - means) ** 2).softmax(-1)


def test_mode_weights_are_unbiased_for_overlapping_modes():
    estimates = estimated_mode_weights(overlapping_mixture(500, 21))[:, 0]
    stderr = float(estimates.std()) / math.sqrt(20)
    assert abs(float(estimates.mean()) - 0.7) < 4 * stderr  # 4 standard errors
    assert stderr < 0.01


def test_mode_weight_tv_by_hand_and_beside_its_floor():
    exact = torch.tensor([[0.7, 0.3]])
    hard = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    assert mode_weights(exact, hard)["mode_weight_tv"].value == pytest.approx(0.2, abs=1e-7)  # float32 weights
    log_weights = torch.tensor([[0.7, 0.3]], dtype=torch.float64).log()
    assert mode_weights(exact, hard, log_weights=log_weights)["mode_weight_tv"].value == pytest.approx(0.0, abs=1e-7)
    scores = mode_weights(exact.expand(20, 2), overlapping_mixture(200, 22), fresh=overlapping_mixture(200, 23))
    both = math.hypot(scores["mode_weight_tv"].stderr, scores["mode_weight_tv_floor"].stderr)
    assert abs(scores["mode_weight_tv"].value - scores["mode_weight_tv_floor"].value) < 4 * both  # 4 standard errors


def test_evidence_error_by_hand():
    scores = evidence_error(torch.tensor([-3.0, -5.0]), torch.tensor([-2.0, -8.0]), stderr=torch.tensor([0.5, 3.0]))
    assert scores["evidence_bias"].value == -1.0
    assert scores["evidence_error"].value == pytest.approx(math.sqrt(5), abs=EXACT)
    assert scores["evidence_z"].value == pytest.approx(math.sqrt(2.5), abs=EXACT)
    assert scores["evidence_error"].unit == "nat"
    assert "evidence_z_islands" not in scores


def test_errors_of_the_evidence_from_islands_stand_beside_those_from_genealogies():
    exact, estimate = torch.tensor([-3.0, -5.0]), torch.tensor([-2.0, -8.0])
    genealogy, islands = torch.tensor([3.0, 4.0]), torch.tensor([0.5, 1.2])
    scores = evidence_error(exact, estimate, stderr=genealogy, stderr_islands=islands)
    assert scores["evidence_z"].value == pytest.approx(math.sqrt((1 / 9 + 9 / 16) / 2), abs=EXACT)
    assert scores["evidence_z_islands"].value == pytest.approx(math.sqrt((4 + 6.25) / 2), rel=1e-7)  # float32 1.2
    both = log_evidence(estimate, genealogy, islands)
    assert [(score.value, score.stderr) for score in both.values()] == [(-10.0, 5.0), (-10.0, pytest.approx(1.3))]
    single = torch.tensor([torch.nan, torch.nan])
    assert set(log_evidence(estimate, genealogy, single)) == set(log_evidence(estimate, genealogy)) == {"log_evidence"}
    assert "evidence_z_islands" not in evidence_error(exact, estimate, stderr_islands=single)


def test_ess_by_hand():
    log_weights = torch.tensor([[0.0, 0.0, 0.0, 0.0], [800.0, 0.0, 0.0, 0.0]])
    assert ess(log_weights)["ess"].value == pytest.approx((4 + 1) / 2, abs=EXACT)
    assert ess(log_weights[:1] - 1e5)["ess"].value == pytest.approx(4.0, abs=EXACT)
