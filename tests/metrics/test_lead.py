"""Scores against lead time, correlation time and relative errors: closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from sciflow.errors import InputError
from sciflow.metrics.ensemble import crps, spread_skill
from sciflow.metrics.field import nrmse, vrmse
from sciflow.metrics.lead import by_lead, correlation_time, correlations, excess_by_lead, time_below
from sciflow.random import Stream

EXACT = 1e-12  # round-off of float64 sums of a few hundred numbers of size one
X = 2 * math.pi * torch.arange(32, dtype=torch.float64) / 32


def test_relative_errors_have_their_closed_forms() -> None:
    """y = 2 + sin x, forecast 2 + ½ sin x: the error is ½ sin x, the truth has mean square 4.5 and variance ½."""
    truth = (2 + X.sin()).expand(3, -1)
    samples = (2 + 0.5 * X.sin()).expand(3, 4, -1)
    assert nrmse(truth, samples)["nrmse"].value == pytest.approx(math.sqrt(0.125 / 4.5), abs=EXACT)
    assert vrmse(truth, samples)["vrmse"].value == pytest.approx(0.5, abs=EXACT)
    mean = truth.mean(1, keepdim=True).expand_as(truth)
    assert vrmse(truth, mean[:, None])["vrmse"].value == pytest.approx(1, abs=EXACT)


def test_relative_errors_count_the_mask_alone_and_refuse_nothing_to_divide_by() -> None:
    truth, samples = (2 + X.sin()).expand(3, -1).clone(), (2 + 0.5 * X.sin()).expand(3, 4, -1).clone()
    mask = torch.ones(32, dtype=torch.bool)
    mask[5] = False
    truth[:, 5] = 99.0
    half = vrmse(truth, samples, mask=mask)["vrmse"].value
    kept = X[mask].sin()
    assert half == pytest.approx(0.5 * float(kept.norm() / (kept - kept.mean()).norm()), abs=EXACT)
    with pytest.raises(InputError, match="a truth is constant"):
        vrmse(torch.ones(2, 8), torch.zeros(2, 3, 8))
    with pytest.raises(InputError, match="a truth is zero"):
        nrmse(torch.zeros(2, 8), torch.zeros(2, 3, 8))


def test_each_lead_time_is_scored_alone() -> None:
    truth, samples = Stream(1).normal(7, (4, 5)), Stream(2).normal(7, (6, 4, 5))
    for metric, name in ((crps, "crps"), (spread_skill, "spread_skill")):
        curve = by_lead(metric, truth, samples)
        for k in range(4):
            score = metric(truth[:, k], samples[:, :, k])[name]
            assert (float(curve.value[k]), float(curve.stderr[k])) == pytest.approx(
                (score.value, score.stderr), rel=1e-6
            )


def test_the_excess_is_paired_by_trajectory() -> None:
    """Shared chance cancels: forecasts that differ by a constant have an excess with no error of its own."""
    truth = 5 * Stream(1).normal(9, (2, 3), dtype=torch.float64)
    near, far = (torch.full((9, 2, 2, 3), 100.0 + shift, dtype=torch.float64) for shift in (0.0, 0.5))
    curve = excess_by_lead(crps, truth, far, near)
    assert torch.allclose(curve.value, torch.tensor([0.5, 0.5])) and float(curve.stderr.max()) < 1e-6
    assert float(by_lead(crps, truth, far).stderr.min()) > 0.1
    itself = excess_by_lead(crps, truth, far, far)
    assert float(itself.value.abs().max()) == 0


def test_the_correlation_of_shifted_waves_is_the_cosine_of_the_shift() -> None:
    shifts = torch.tensor([0.0, 0.3, 1.0, 2.0], dtype=torch.float64)
    truth = (1.5 + X.sin()).expand(2, 4, -1)
    samples = (X - shifts[:, None]).sin().expand(2, 3, -1, -1)
    assert torch.allclose(correlations(truth, samples), shifts.cos().expand(2, -1), rtol=0, atol=EXACT)
    assert torch.equal(correlations(truth, torch.ones_like(samples)), torch.zeros(2, 4, dtype=torch.float64))


def test_the_correlation_time_is_where_the_line_crosses_the_threshold() -> None:
    rows = torch.tensor([[1.0, 0.9, 0.7, 0.9], [1.0, 0.6, 0.1, 0.0], [1.0, 0.9, 0.85, 0.81]], dtype=torch.float64)
    found = time_below([0.0, 1.0, 2.0, 4.0], rows, 0.8)
    assert torch.allclose(found, torch.tensor([1.5, 0.5, 4.0], dtype=torch.float64), rtol=0, atol=EXACT)


def test_the_interval_of_the_correlation_time_holds_its_median_in_95_percent() -> None:
    """Waves that drift at random speeds: r = cos(v t), so τ = arccos(0.8)/v; 100 repetitions of 40 trajectories."""
    times, n = torch.linspace(0, 8, 65, dtype=torch.float64), 40
    median, held = math.acos(0.8) / 1.0, 0
    for k in range(100):
        speed = torch.exp(0.5 * Stream(k).normal(n, dtype=torch.float64))  # median 1
        angle = (speed[:, None] * times).clamp_max(math.pi)
        truth = X.sin().expand(n, 65, -1)
        samples = (X - angle[..., None]).sin()[:, None]
        score = correlation_time(truth, samples, times=times.tolist(), stream=Stream(k, ("boot",)))["correlation_time"]
        low, high = (float(part) for part in score.note.split("interval ")[1].split(";")[0].split(" to "))
        held += low <= median <= high
    assert abs(held / 100 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 100)  # a percentile interval of a median is close to it


def test_a_correlation_time_needs_times() -> None:
    with pytest.raises(InputError, match="with two times"):
        correlation_time(torch.zeros(3, 8), torch.zeros(3, 2, 8))
