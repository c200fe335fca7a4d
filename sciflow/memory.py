"""How much memory the next attempt of a job asks for, and whether there should be one.

More only after one that was killed, as for want of memory; none after one that failed for good.

Imports neither torch nor xarray: a Snakefile asks.
"""

from __future__ import annotations

import os
from pathlib import Path

KINDEST = 3  # doublings at most: eight times what the run file asks for
FAILED = "failed.json"
"""File in a state that says why every attempt must fail."""

RETRY_VARIABLE = "SCIFLOW_RETRY_FAILED"
"""Environment variable that, set to anything, forgets recorded failures."""


def megabytes(asked: int, state: Path, attempt: int) -> int:
    """The memory [MB] for one attempt.

        asked · 2^min(kills, attempt − 1)

    A kill is a process that left no word in its state: SIGKILL, as of an out-of-memory killer, or an allocation that
    failed. SIGTERM, running out of time, wrong input, a bug or a duplicate that was refused asks for no more.

    Args:
        asked: of the run file.
        state: directory of the stage (and shard) that `sciflow.data.state.State` keeps.
        attempt: 1 for the first of this call of Snakemake, which forgets earlier kills.
    """
    return asked << min(kills(state), attempt - 1, KINDEST)


def fails(state: Path) -> bool:
    """Whether it is recorded that every attempt must fail, until something that the work depends on changes.

    Args:
        state: directory of the stage (and shard) that `sciflow.data.state.State` keeps.
    """
    return not os.environ.get(RETRY_VARIABLE) and any(state.glob(f"*/{FAILED}"))


def kills(state: Path) -> int:
    """How many attempts in a row have been killed, the last one included if it was."""
    count, holder, refused = (state / name for name in ("killed", "holder", "refused"))
    gone = named(holder)
    is_alive = refused.is_file() and bool(gone) and refused.stat().st_mtime_ns >= holder.stat().st_mtime_ns
    return counted(count) + (0 if is_alive else len(gone))


def named(holder: Path) -> list[str]:
    """Those who left their names; somebody where a full disk left none."""
    if not holder.is_file():
        return []
    return [line for line in holder.read_text(errors="replace").splitlines() if line] or ["a process"]


def counted(file: Path) -> int:
    """The number in a file; 0 if there is none, as where a disk was full when it was written."""
    text = file.read_text(errors="replace").strip() if file.is_file() else ""
    return int(text) if text.isdecimal() else 0
