"""Where a collective variable lives: a torsion on a circle, a distance on a stretch of a line."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Interval = tuple[float, float]
"""From one value up to another; of angles [°], from 150 to −150 leads through ±180."""

FULL: Interval = (-180.0, 180.0)


def wrapped(degrees: Tensor) -> Tensor:
    """Angles in [−180, 180)."""
    return (degrees + 180).remainder(360) - 180


@dataclass(frozen=True)
class Axis:
    """The values that are shown of one variable.

    Args:
        name: of the variable.
        unit: ° or nm.
        low, high: ends; of a circle −180 and 180.
        is_circle: whether the ends are one place.
    """

    name: str
    unit: str
    low: float
    high: float
    is_circle: bool

    def edges(self, n: int) -> Tensor:
        """Edges of n equal cells, (n + 1,), float64."""
        return torch.linspace(self.low, self.high, n + 1, dtype=torch.float64)

    def cells(self, values: Tensor, n: int) -> Tensor:
        """Number of the cell of each value; n beyond the ends of a line."""
        cells = ((values - self.low) * (n / (self.high - self.low))).floor()
        if self.is_circle:  # wrapped angles: rounding alone can leave the circle
            return cells.clamp(0, n - 1).long()
        return torch.where((cells >= 0) & (cells < n), cells, n).long()

    def within(self, values: Tensor, interval: Interval) -> Tensor:
        """Which values lie in an interval, its first end included."""
        low, high = interval
        if self.is_circle:
            return (values - low).remainder(360) < ((high - low) % 360 or 360)
        return (values >= low) & (values < high)

    def overlap(self, a: Interval, b: Interval) -> bool:
        """Whether two intervals have a stretch in common: then the start of one lies in the other."""
        starts = torch.tensor([b[0], a[0]], dtype=torch.float64)
        return bool(self.within(starts[:1], a).any() or self.within(starts[1:], b).any())
