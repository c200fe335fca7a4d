"""Every row of the tables runs with the common signature and says what it is."""

from __future__ import annotations

import math

import pytest

from sciflow.metrics import METRICS, PARTICLE_METRICS
from sciflow.random import Stream
from sciflow.types import facts


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_runs_with_the_common_signature(name):
    truth = Stream(1).uniform(6, (1, 5, 5))
    samples = Stream(2).uniform(6, (4, 1, 5, 5))
    mask = Stream(3).uniform(6, (1, 5, 5)) > 0.3
    for chosen in (None, mask):
        scores = METRICS[name](truth, samples, mask=chosen, stream=Stream(4), unit="K")
        assert scores
        for score in scores.values():
            assert math.isfinite(score.value) and score.n == 6
            assert math.isnan(score.stderr) if name == "sbc" else score.stderr > 0  # a p-value has none


@pytest.mark.parametrize("name", METRICS)
def test_float32_numpy_and_order_of_observations_do_not_matter(name):
    truth, samples = Stream(1).uniform(6, (1, 5, 5)), Stream(2).uniform(6, (4, 1, 5, 5))
    for key, score in METRICS[name](truth, samples).items():
        assert METRICS[name](truth.numpy(), samples.numpy())[key] == score
        if name not in ("coverage", "rank_histogram", "sbc", "tarp"):  # these draw a place within each rank, row by row
            backwards = METRICS[name](truth.flip(0), samples.flip(0))[key]
            assert backwards.value == pytest.approx(score.value, abs=1e-12)  # order of a float64 sum


@pytest.mark.parametrize("name", [*METRICS, *PARTICLE_METRICS])
def test_every_metric_states_its_facts(name):
    said = facts({**METRICS, **PARTICLE_METRICS}[name])
    assert {"summary", "exactness", "cost", "bias"} <= set(said)
