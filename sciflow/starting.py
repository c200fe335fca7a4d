"""How a command starts: its imports, which nobody need look at again, and the clocks of those who made its inputs."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from sciflow.errors import InputError

AHEAD = 60  # seconds: a job that ends before its inputs began is tried again meanwhile


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Import without the garbage collector, and keep what is there at the end out of its sight.

    It looks at every object of torch, pydantic and the rest again and again, half a second in all, to find that none is
    garbage. Set aside is what the first of these blocks leaves: a later one may find the work of others.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        if not gc.get_freeze_count():
            gc.freeze()
    finally:
        if was_enabled:
            gc.enable()


def check_clock(files: Iterable[Path]) -> None:
    """Refuse what was written in the future, before any work: what is made of it would be older.

    Raises:
        InputError: a file is more than a minute ahead of the clock of this machine.
    """
    now = time.time()
    for path in files:
        ahead = path.stat().st_mtime - now
        if ahead > AHEAD:
            raise InputError(
                f"{path} was changed {ahead / 60:.0f} min ahead of the clock of this machine. What is made of it would "
                f"be older, and Snakemake would delete it. Set the clocks of the machines, then `touch {path}`."
            )
