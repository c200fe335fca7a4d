"""How many equations the operators of a likelihood solved: what they cost, where a denoiser costs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class Solves:
    """A tally.

    Attributes:
        rows: equations that were solved, one for each state, forwards and by the adjoint alike.
    """

    rows: int = 0


_TALLY: ContextVar[Solves | None] = ContextVar("solves", default=None)


@contextmanager
def tallied() -> Iterator[Solves]:
    """Count the solves until the block ends; of blocks inside one another the innermost counts."""
    token = _TALLY.set(found := Solves())
    try:
        yield found
    finally:
        _TALLY.reset(token)


def solved(rows: int) -> None:
    """Said by an operator that solved an equation for so many states."""
    tally = _TALLY.get()
    if tally is not None:
        tally.rows += rows
