"""Means over seeds against their definition, and their error against the spread of repeated experiments."""

from __future__ import annotations

import numpy as np

from sciflow.data.seeds import over_seeds


def test_two_seeds_differ_by_twice_their_error() -> None:
    """Of two values a and b the standard error of the mean is |a − b|/2."""
    mean, stderr, n = over_seeds([[1.0, 5.0], [3.0, 5.0]])
    assert (mean.tolist(), stderr.tolist(), n.tolist()) == ([2.0, 5.0], [1.0, 0.0], [2, 2])


def test_a_seed_that_is_missing_does_not_count_and_one_that_failed_does() -> None:
    values = np.array([[1.0, 1.0, 1.0, 9.0], [3.0, np.nan, np.nan, 9.0]])
    there = np.array([[True, True, True, False], [True, False, True, False]])
    mean, stderr, n = over_seeds(values, there)
    np.testing.assert_array_equal(mean, [2.0, 1.0, np.nan, np.nan])
    np.testing.assert_array_equal(stderr, [1.0, np.nan, np.nan, np.nan])
    assert n.tolist() == [2, 1, 2, 0]


def test_the_error_is_that_of_the_mean() -> None:
    """Of 4000 experiments with five seeds of N(0, 1), E[se²] = 1/5 and E[m²] = 1/5."""
    draws = np.random.default_rng(0).normal(size=(4000, 5))
    mean, stderr, _ = over_seeds(draws, axis=1)
    # var(m²) = 2/25, var(se²) = 2/(4 · 25): four standard errors of an average of 4000
    assert abs(float((mean**2).mean()) - 0.2) < 4 * np.sqrt(2 / 25 / 4000)
    assert abs(float((stderr**2).mean()) - 0.2) < 4 * np.sqrt(2 / 100 / 4000)
