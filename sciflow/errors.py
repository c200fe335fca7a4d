"""The ways a stage may stop, each with its exit status."""

from __future__ import annotations

IN_USE = " is in use by "
"""In the refusal of a second process at the same work, by which `sciflow status` knows it."""


class InputError(ValueError):
    """A configuration, file or value that the user must mend (exit status 2)."""


class LaunchError(InputError):
    """How an attempt was started must be mended, not the run: said, and never recorded (exit status 2)."""


class OutOfTime(RuntimeError):
    """The time limit is near: state is saved, and the same command continues it (exit status 75)."""


class Terminated(SystemExit):
    """SIGTERM came, or the time is over, where no loop could save its state (exit status 75).

    No `Exception`: whoever turns a failure of what he calls into one of his own must not take it for such a failure.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = 75


class NonFiniteError(FloatingPointError):
    """A loss, sample or weight became NaN or infinite; the last good checkpoint is kept (exit status 1)."""
