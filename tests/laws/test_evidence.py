"""The evidence: unbiased on a skewed chain, and intervals of log Z that cover it and are no wider than they must be."""

from __future__ import annotations

import math

import pytest
import torch
from hidden_chain import Skewed
from torch import Tensor

from sciflow.particles import Evidence, smc
from sciflow.random import Stream

RUNS = 200


@pytest.mark.parametrize("threshold", [1e-9, 0.5, 1.0])
def test_evidence_of_a_skewed_chain(threshold: float) -> None:
    """E[Ẑ] = Z over 600 islands of 30, resampling never, sometimes and always."""
    run = smc(Skewed(), 600 * 30, Stream(0), ess_threshold=threshold, islands=600)
    ratio = (run.island_log_evidence - Skewed().log_evidence()).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(600)
    assert ratio.log().mean() < -(ratio.std() ** 2) / 10  # log Ẑ is biased down, and this many runs see it
    assert run.log_evidence - Skewed().log_evidence() == pytest.approx(math.log(ratio.mean()), abs=1e-9)
    # the pooled error from genealogies and that from islands: each of 600 is known to a few per cent
    assert run.log_evidence_stderr == pytest.approx(run.log_evidence_stderr_islands, rel=0.25)


def judged(intervals: list[tuple[float, float]], estimates: list[float]) -> None:
    """Coverage ≥ 89 %: 95 % less 4 standard errors of 1.5 % over 200 runs; width ≤ twice what the runs' spread asks."""
    lows, highs = torch.tensor(intervals, dtype=torch.float64).T
    truth = Skewed().log_evidence()
    assert ((lows < truth) & (truth < highs)).double().mean() >= 0.89
    spread = torch.tensor(estimates, dtype=torch.float64).std()
    assert (highs - lows).mean() <= 2 * (2 * 1.96 * spread)


@pytest.mark.slow
def test_interval_from_islands() -> None:
    runs = [smc(Skewed(), 8 * 60, Stream(seed), islands=8) for seed in range(RUNS)]
    assert all(math.isfinite(run.log_evidence_stderr_islands) for run in runs)
    judged([run.log_evidence_interval for run in runs], [run.log_evidence for run in runs])


def test_interval_from_genealogy() -> None:
    runs = [smc(Skewed(), 480, Stream(seed)) for seed in range(RUNS)]
    assert all(math.isnan(run.log_evidence_stderr_islands) for run in runs)
    judged([run.log_evidence_interval for run in runs], [run.log_evidence for run in runs])


@pytest.mark.parametrize("v", [0.05, 1.0])
def test_interval_of_log_normal_islands(v: float) -> None:
    """Where log Ẑ_r is normal with mean −v/2, the interval covers 0 in 95 % of 2000 runs, to 4 standard errors."""
    values = math.sqrt(v) * Stream(0).normal(2000, (8,), dtype=torch.float64) - v / 2
    intervals = [Evidence(row, torch.zeros(8)).interval_islands() for row in values]
    covered = sum(low < 0 < high for low, high in intervals) / 2000
    assert (
        abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000) + 0.02 * v
    )  # Cox's method is a little short at large v


def test_one_island_has_no_spread() -> None:
    one = Evidence(Tensor([3.0]).double(), Tensor([0.2]).double())
    assert math.isnan(one.stderr_islands) and all(math.isnan(end) for end in one.interval_islands())
    low, high = one.interval()
    assert low == pytest.approx(3.02 - 1.96 * 0.2, abs=1e-4) and high == pytest.approx(3.02 + 1.96 * 0.2, abs=1e-4)
