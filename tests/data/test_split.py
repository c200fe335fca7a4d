"""Splits leak no unit, keep their shares, and depend on nothing but ids and stream."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciflow.data.split import shares, split
from sciflow.errors import InputError
from sciflow.random import Stream

SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}


@settings(max_examples=100, deadline=None, derandomize=True)
@given(units=st.lists(st.integers(0, 12), min_size=3, max_size=80), seed=st.integers(0, 5))
def test_no_unit_stands_in_two_sets_and_no_set_is_empty(units, seed):
    if len(set(units)) < 3:
        with pytest.raises(InputError, match="cannot fill 3 sets"):
            split(units, SHARES, Stream(seed))
        return
    sets = split(units, SHARES, Stream(seed))
    assert set(sets) == set(SHARES)
    for unit in set(units):
        assert len(set(sets[np.array(units) == unit])) == 1


def test_shares_are_kept_to_half_a_unit():
    units = np.repeat(np.arange(500), 2)
    sets = split(units, SHARES, Stream(0))
    for name, share in SHARES.items():
        assert abs(np.mean(sets == name) - share) <= 2 / 1000 + 1e-12  # each cut is off by at most half a unit of 2


def test_the_same_stream_gives_the_same_split_and_another_another():
    units = [f"writer {k % 40}" for k in range(400)]
    assert (split(units, SHARES, Stream(1)) == split(units, SHARES, Stream(1))).all()
    assert (split(units, SHARES, Stream(1)) != split(units, SHARES, Stream(2))).any()


def test_the_order_of_samples_does_not_matter():
    units = np.arange(400) % 40
    order = np.random.default_rng(0).permutation(400)
    assert (split(units, SHARES, Stream(1))[order] == split(units[order], SHARES, Stream(1))).all()


def test_every_unit_is_equally_likely_in_the_test_set():
    hits = sum((split(np.arange(20), SHARES, Stream(seed)) == "test").astype(int) for seed in range(400))
    stderr = np.sqrt(400 * 0.2 * 0.8)
    assert abs(hits - 80).max() < 4 * stderr  # 4 standard errors of a binomial count, for each of 20 units


def test_what_is_not_held_out_is_trained_on():
    assert shares(0.25, 0.125) == {"test": 0.25, "validation": 0.125, "train": 0.625}
    with pytest.raises(InputError, match=r"dataset.test 0.6 and dataset.validation 0.4 leave nothing to train on"):
        shares(0.6, 0.4)


@pytest.mark.parametrize("shares", [{}, {"train": 1.2, "test": -0.2}, {"train": 0.5, "test": 0.4}])
def test_shares_that_make_no_sense_are_refused(shares):
    with pytest.raises(InputError, match="must be positive and sum to 1"):
        split(np.arange(9), shares, Stream(0))
