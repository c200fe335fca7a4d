"""The three ways a stage may stop, each with its exit status."""

from __future__ import annotations


class InputError(ValueError):
    """A configuration, file or value that the user must mend (exit status 2)."""


class OutOfTime(RuntimeError):
    """The time limit is near: state is saved, and the same command continues it (exit status 75)."""


class NonFiniteError(FloatingPointError):
    """A loss, sample or weight became NaN or infinite; the last good checkpoint is kept (exit status 1)."""
