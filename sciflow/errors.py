"""The ways a stage may stop, each with its exit status."""

from __future__ import annotations

import errno
import re
import traceback
from collections.abc import Iterator

KILLED = 128 + 9
"""Exit status of a process that got SIGKILL, as of an out-of-memory killer; ours, too, where memory was refused."""

PASSING = (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ETIMEDOUT, errno.EAGAIN)
"""What a file system says that may answer at the next attempt."""

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


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether this machine, not a device, had no memory left."""
    if isinstance(error, RuntimeError):
        return any(words in str(error) for words in ("can't allocate memory", "std::bad_alloc"))  # torch's words
    return isinstance(error, MemoryError) or _number(error) == errno.ENOMEM


def is_passing(error: BaseException | None) -> bool:
    """Whether work failed for want of memory, here or on a card, or of a file system that answers."""
    return is_out_of_memory(error) or _is_of_a_card(error) or _number(error) in PASSING


def behind(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those that it was raised for."""
    while error is not None:
        yield error
        error = error.__context__


def _is_of_a_card(error: BaseException | None) -> bool:
    return type(error).__name__ == "OutOfMemoryError"  # torch's, which is not imported for it


def _number(error: BaseException | None) -> int | None:
    """What the system said; h5py has it in its text alone."""
    if not isinstance(error, OSError):
        return None
    written = re.search(r"errno = (\d+)", str(error))
    return int(written[1]) if error.errno is None and written else error.errno


def told(error: Exception) -> tuple[int, str]:
    """The exit status of a command that ended by this error, and what is said of it."""
    if any(is_out_of_memory(one) for one in behind(error)):
        advice = (
            "A retry on a cluster asks for twice as much; elsewhere take a smaller batch or tile, or fewer jobs at once"
        )
        return KILLED, f"out of memory: {error or type(error).__name__}. {advice}."
    if isinstance(error, InputError):
        return 2, f"error: {error}"
    if isinstance(error, OutOfTime):
        return 75, f"out of time: {error}"
    if isinstance(error, NonFiniteError):
        return 1, f"error: {error}"
    if _is_of_a_card(error):
        return 1, f"error: the card has no memory left: {error}. Make the batch or the tile smaller."
    if isinstance(error, OSError):
        words = [str(error.filename)] if error.filename else []
        return 1, f"error: {': '.join([*words, error.strerror or str(error)])}. Nothing finished is lost."
    # the last resort: nothing is hidden
    trace = "".join(traceback.format_exception(error))
    return 1, f"{trace}This is a bug in sciflow or in a plugin. Please report it with these lines."
