"""Time grids: increasing float64 numbers, from 0 (base) to 1 (data) unless said otherwise."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor


def times(n_steps: int, start: float = 0.0, stop: float = 1.0) -> Tensor:
    """n_steps + 1 equidistant times.

    Raises:
        ValueError: fewer than one step, or start ≥ stop.
    """
    if n_steps < 1:
        raise ValueError(f"n_steps must be at least 1, got {n_steps}.")
    if not start < stop:
        raise ValueError(f"times must increase, got start = {start} and stop = {stop}.")
    return torch.linspace(start, stop, n_steps + 1, dtype=torch.float64)


def checked(grid: Tensor | Sequence[float]) -> list[float]:
    """The grid as Python floats, so that no step reads a device.

    Raises:
        ValueError: fewer than two times, or times that do not increase.
    """
    values = grid.tolist() if isinstance(grid, Tensor) else [float(t) for t in grid]
    if len(values) < 2 or any(b <= a for a, b in itertools.pairwise(values)):
        raise ValueError(f"times must hold at least two increasing numbers, got {values[:6]}{'…' * (len(values) > 6)}.")
    return values
