"""Particles that are moved some rows at a time, in the memory that they have: what else a move takes is small."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sciflow.particles.feynman_kac import State


def rows_of(n: int, size: int) -> list[slice]:
    """The rows 0 … n − 1, `size` at a time."""
    return [slice(first, min(first + size, n)) for first in range(0, n, size)]


def taken(state: State, rows: slice) -> State:
    """These rows of every entry, in the memory of the state."""
    return {name: value[rows] for name, value in state.items()}


def put(state: State, rows: slice, n: int, part: Mapping[str, Tensor]) -> None:
    """These rows of every entry that the part has; n rows of memory are made for an entry that is new."""
    for name, value in part.items():
        if name not in state:
            state[name] = value.new_empty(n, *value.shape[1:])
        state[name][rows] = value
