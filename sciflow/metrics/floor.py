"""The noise floor of a distance: what perfect samples score with as many samples, and how far a score is above it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sciflow.errors import InputError

FEWEST = 5
"""Sets of perfect samples: the standard deviation of fewer is not known to a factor of two."""


@dataclass(frozen=True)
class Floor:
    """Distances of independent sets of perfect samples, each as large as the set that is judged.

        z = (d − mean)/sd

    Args:
        mean: of the distances.
        std: their standard deviation.
        n: number of sets.
    """

    mean: float
    std: float
    n: int

    @property
    def stderr(self) -> float:
        """Of the mean."""
        return self.std / math.sqrt(self.n)

    def z(self, distance: float) -> float:
        """How many standard deviations a distance lies above the floor; that of perfect samples is about N(0, 1)."""
        return (distance - self.mean) / self.std if self.std > 0 else math.nan


def floor(distances: Sequence[float]) -> Floor:
    """The floor from the distances of perfect samples.

    Raises:
        InputError: fewer than five distances.
    """
    if len(distances) < FEWEST:
        raise InputError(f"a floor needs at least {FEWEST} sets of perfect samples, got {len(distances)}.")
    values = torch.tensor(list(distances), dtype=torch.float64)
    return Floor(float(values.mean()), float(values.std()), len(values))
