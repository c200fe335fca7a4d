"""Repetitions of one setting with other seeds: their mean, and the error that the spread between them gives."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

SEED = "seed"
"""The swept key over which runs are repetitions of one another."""


def over_seeds(
    value: ArrayLike, is_there: ArrayLike | None = None, axis: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over seeds, its standard error from the spread between them, and how many there are.

        m = Σ_s x_s / S        se² = Σ_s (x_s − m)² / (S (S − 1))

    A seed draws data, weights and samples anew: se knows of all three, the error inside one run only of its own.

    Exactness: unbiased for independent seeds; se itself is known to about 1/√(2(S − 1))
    Cost: O(values)
    Bias: none; a seed that gave NaN makes the mean NaN: to leave it out would flatter whoever failed

    Args:
        value: x, with seeds along `axis`.
        is_there: false where a seed has no value, and then does not count; shape of `value`. None counts all.
        axis: of the seeds.

    Returns:
        m (NaN without any seed), se (NaN for less than two) and S, without that axis.

    Source: definition.
    """
    x = np.asarray(value, dtype=float)
    counts = np.ones(x.shape, dtype=bool) if is_there is None else np.asarray(is_there, dtype=bool)
    n = counts.sum(axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(counts, x, 0.0).sum(axis) / n
        squares = np.where(counts, (x - np.expand_dims(mean, axis)) ** 2, 0.0).sum(axis)
        stderr = np.where(n > 1, np.sqrt(squares / (n * np.maximum(n - 1, 1))), np.nan)
    return mean, stderr, n
