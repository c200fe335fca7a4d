"""Coverage and ranks are exact for exchangeable draws, with ties, and see ensembles that are too narrow or too low."""

from __future__ import annotations

import pytest
import torch

from sciflow.metrics.calibration import coverage, coverage_curve, rank_counts, rank_histogram, relative_rank, snap
from sciflow.metrics.score import Score, checked
from sciflow.random import Stream

N, MEMBERS, ELEMENTS = 1200, 9, 4


def exchangeable(kind: str) -> torch.Tensor:
    """Draws (observation, member + 1, element) that share a random centre: elements of one observation depend."""
    stream = Stream(11, (kind,))
    draws = stream.child("draw").normal(N, (MEMBERS + 1, ELEMENTS), dtype=torch.float64)
    draws[..., 1] = draws[..., 0]  # fully dependent elements: only a clustered standard error is right
    draws = draws + stream.child("centre").normal(N, (1, 1), dtype=torch.float64)
    if kind == "grey levels":
        return snap(draws, torch.linspace(0, 2, 5))  # most draws tie at 0
    return draws.clamp(min=0.5) if kind == "mostly constant" else draws


KINDS = ["continuous", "grey levels", "mostly constant"]


@pytest.mark.parametrize("kind", KINDS)
def test_coverage_is_nominal_for_exchangeable_draws(kind):
    draws = exchangeable(kind)
    scores = coverage(draws[:, 0], draws[:, 1:], stream=Stream(12))
    for name, level in (("coverage_50", 0.5), ("coverage_90", 0.9)):
        assert scores[name].stderr < 0.02
        assert abs(scores[name].value - level) < 4 * scores[name].stderr  # 4 standard errors
        assert "calibrated" in scores[name].note


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_are_uniform_for_exchangeable_draws(kind):
    draws = exchangeable(kind)
    for score in rank_histogram(draws[:, 0], draws[:, 1:], stream=Stream(13)).values():
        assert abs(score.value) < 4 * score.stderr  # 4 standard errors; the expectation is 0
    histogram = rank_counts(draws[:, 0], draws[:, 1:], stream=Stream(13))
    assert len(histogram.density) == MEMBERS + 1
    assert histogram.density.mean() == pytest.approx(1, abs=1e-12)  # shares sum to one, up to round-off
    assert ((histogram.density - 1).abs() < 4 * histogram.stderr).all()  # 4 standard errors, each of ten bins


def test_the_clustered_standard_error_is_the_scatter_of_repetitions():
    """Four equal elements for each observation: errors that ignore it would claim half the scatter."""
    draws = Stream(14).normal(200 * 100, (MEMBERS + 1, 1), dtype=torch.float64).expand(-1, -1, 4)
    parts = [coverage(part[:, 0], part[:, 1:])["coverage_50"] for part in draws.split(100)]
    claimed = sum(part.stderr for part in parts) / len(parts)
    inside = torch.tensor([part.value for part in parts])
    assert abs(float(inside.std()) / claimed - 1) < 4 / (2 * 199) ** 0.5  # 4 standard errors of a standard deviation


def test_narrow_wide_and_low_ensembles_are_named():
    draws = Stream(15).normal(400, (MEMBERS + 1, 2), dtype=torch.float64)
    truth, samples = draws[:, 0], draws[:, 1:]
    narrow = coverage(truth, 0.5 * samples)["coverage_90"]
    assert narrow.value < 0.8 and "over-confident" in narrow.note
    wide = coverage(truth, 3 * samples)["coverage_50"]
    assert wide.value > 0.6 and "under-confident" in wide.note
    assert rank_histogram(truth, 0.5 * samples)["rank_dispersion"].value > 0.2  # 0 if calibrated
    assert rank_histogram(truth, 3 * samples)["rank_dispersion"].value < -0.2
    low = rank_histogram(truth, samples - 1)
    assert low["rank_bias"].value > 0.1
    assert low["rank_distance"].value > 10 * low["rank_distance"].stderr


def test_relative_rank_by_hand():
    data = checked(torch.tensor([[1.0]]), torch.tensor([[[0.0], [1.0], [2.0]]]))  # one below, one tie
    place = Stream(0, ("ties",)).uniform(1, (1,), dtype=torch.float64)
    assert relative_rank(data).item() == pytest.approx((1 + 2 * place.item()) / 4, abs=1e-15)  # one rounding


def test_all_draws_equal_gives_a_uniform_rank():
    data = checked(torch.zeros(5000, 1), torch.zeros(5000, 6, 1))
    u = relative_rank(data)
    assert abs(u.mean() - 0.5) < 4 / (12 * 5000) ** 0.5  # 4 standard errors of a uniform mean
    assert u.min() >= 0 and u.max() < 1


def test_the_rank_of_an_observation_does_not_depend_on_the_others():
    draws = exchangeable("grey levels")
    some, every = (relative_rank(checked(d[:, 0], d[:, 1:])) for d in (draws[:70], draws))
    assert torch.equal(some, every[:70])


def test_rank_distance_equals_its_definition_by_pairs():
    draws = exchangeable("continuous")[:12] * torch.tensor([2.0] + [1.0] * MEMBERS)[:, None]
    mask = Stream(16).uniform(12, (ELEMENTS,)) > 0.4
    truth, samples = draws[:, 0], draws[:, 1:]
    u = relative_rank(checked(truth, samples, mask))
    index = (u * (MEMBERS + 1)).long()

    def distance(kept: list[int]) -> float:
        numerator = denominator = 0.0
        for i in kept:
            for j in kept:
                if i != j:
                    a = torch.bincount(index[i][mask[i]], minlength=MEMBERS + 1) - mask[i].sum() / (MEMBERS + 1)
                    b = torch.bincount(index[j][mask[j]], minlength=MEMBERS + 1) - mask[j].sum() / (MEMBERS + 1)
                    numerator += float((a.double() * b.double()).sum())
                    denominator += float(mask[i].sum() * mask[j].sum())
        return (MEMBERS + 1) * numerator / denominator

    counted = [i for i in range(12) if mask[i].any()]
    score = rank_histogram(truth, samples, mask=mask)["rank_distance"]
    assert score.value == pytest.approx(distance(counted), abs=1e-6)  # the sums above pass through float32
    left_out = torch.tensor([distance([j for j in counted if j != i]) for i in counted])
    k = len(counted)
    jackknife = ((k - 1) / k * ((left_out - left_out.mean()) ** 2).sum()).sqrt()
    assert score.stderr == pytest.approx(float(jackknife), abs=1e-5)  # float32 as above


def test_the_curve_agrees_with_the_two_levels():
    draws = exchangeable("continuous")
    curve = coverage_curve(draws[:, 0], draws[:, 1:])
    scores = coverage(draws[:, 0], draws[:, 1:])
    for name, index in (("coverage_50", 9), ("coverage_90", 17)):
        assert curve.coverage[index] == pytest.approx(scores[name].value, abs=1e-7)  # stored in float32
        assert curve.stderr[index] == pytest.approx(scores[name].stderr, abs=1e-7)
    assert len(curve.levels) == 19 and (curve.coverage.diff() >= 0).all()


def test_snap_rounds_and_clips():
    assert snap([-0.3, 0.05, 0.07, 0.93, 7.0], torch.linspace(0, 1, 9)).tolist() == [0, 0, 0.125, 0.875, 1]


def test_a_score_prints_its_error():
    assert str(Score(0.8931, 0.0123, 64)) == "0.8931 ± 0.012"
    assert str(Score(21.3, 0.5, 64, "dB")) == "21.3 ± 0.5 dB"
