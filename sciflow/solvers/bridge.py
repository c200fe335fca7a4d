"""Noise that stays the same path when the steps are halved: pass it to `solve` as the stream."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from sciflow.random import Stream


@dataclass(frozen=True)
class BrownianPath(Stream):
    """A stream whose step k on a grid halved `level` times belongs to the path of the coarse grid.

        z_left = (z + z′)/√2,   z_right = (z − z′)/√2

    is Lévy's bridge for the normalised increments z = ΔW/√h of a step and its two halves: the increments of the halves
    sum to that of the whole. Every step of the coarse grid must be cut into 2^level equal parts.

    Exactness: increments are independent N(0, h) at every level; sums agree to rounding.
    Cost: level + 1 draws per step.
    Bias: none.
    Args:
        level: how often the coarse grid was halved.
    Raises:
        ValueError: negative level.
    Source: Lévy (1948), Processus stochastiques et mouvement brownien, chapter 1.
    """

    level: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.level < 0:
            raise ValueError(f"level must be ≥ 0, got {self.level}.")

    def refined(self, times: Sequence[float]) -> list[float]:
        """The coarse grid with every step cut into 2^level equal parts."""
        parts = 2**self.level
        ends = itertools.pairwise(times)
        return [*(a + (b - a) * k / parts for a, b in ends for k in range(parts)), times[-1]]

    def halved(self) -> BrownianPath:
        """The same path on the grid with half the step."""
        return replace(self, level=self.level + 1)

    def normal(self, n: int, shape: Sequence[int] = (), *, step: int = 0, **options) -> Tensor:
        """Normalised increments of step `step` of the halved grid, shape (n, *shape)."""
        z = super().normal(n, shape, step=step >> self.level, **options)
        for depth in range(1, self.level + 1):
            half = step >> (self.level - depth)
            own = Stream(self.seed, (*self.purpose, "bridge", depth), self.tile, self.first)
            other = own.normal(n, shape, step=half >> 1, **options)
            z = (z.sub_(other) if half & 1 else z.add_(other)).mul_(math.sqrt(0.5))
        return z
