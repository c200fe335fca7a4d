"""Train, validation and test sets that share no unit: no patient, writer or trajectory stands in two of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from sciflow.errors import InputError

if TYPE_CHECKING:
    from sciflow.random import Stream

SPLITS = ("test", "validation", "train")


def shares(test: float, validation: float) -> dict[str, float]:
    """Share of each of the three sets of a run; what is left is trained on.

    Raises:
        InputError: nothing is left.
    """
    if test + validation >= 1:
        raise InputError(
            f"dataset.test {test:g} and dataset.validation {validation:g} leave nothing to train on. Lower them."
        )
    return dict(zip(SPLITS, (test, validation, 1 - test - validation), strict=True))


def split(units: ArrayLike, fractions: Mapping[str, float], stream: Stream) -> np.ndarray:
    """Give each sample the name of its set, whole units at a time.

    Units stand in random order; each set takes units until it holds its share of the samples, and at least one.

    Args:
        units: id of the unit of each sample (patient, writer, trajectory, molecule), (sample,).
        fractions: name of a set -> share of the samples, summing to 1; the order decides who comes first.
        stream: of the random order. The same ids and stream give the same split.

    Returns:
        Name of the set of each sample, (sample,).

    Raises:
        InputError: shares that are not positive or do not sum to 1, or fewer units than sets.
    """
    shares = np.array(list(fractions.values()), dtype=float)
    if not len(shares) or (shares <= 0).any() or abs(shares.sum() - 1) > 1e-6:
        raise InputError(f"The shares of a split must be positive and sum to 1, got {dict(fractions)}. Correct them.")
    names, index, counts = np.unique(np.asarray(units), return_inverse=True, return_counts=True)
    if len(names) < len(shares):
        raise InputError(
            f"{len(names)} independent unit(s) cannot fill {len(shares)} sets {list(fractions)}. "
            "Give more units, or fewer sets."
        )
    order = np.random.default_rng(stream.key()).permutation(len(names))
    middle = (np.cumsum(counts[order]) - counts[order] / 2) / counts.sum()
    cuts = np.searchsorted(middle, np.cumsum(shares)[:-1])
    for k in range(len(cuts)):  # at least one unit in each set
        cuts[k] = np.clip(cuts[k], cuts[k - 1] + 1 if k else 1, len(names) - len(cuts) + k)
    chosen = np.empty(len(names), dtype=int)
    chosen[order] = np.searchsorted(cuts, np.arange(len(names)), side="right")
    return np.array(list(fractions))[chosen[index]]
