"""How a command starts: its imports, the clocks of those who made its inputs, its part of the work, its ranks."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from sciflow.errors import InputError
from sciflow.runs import Run

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


def start_ranks(run: Run, stage: str) -> None:
    """Start the ranks of this node and end with their exit status, unless this process is one of them or all there is.

    Args:
        run: whose.
        stage: which.

    Raises:
        SystemExit: the ranks have done the work.
    """
    from sciflow.training.launch import rank_environment, relaunch

    n_ranks = int(run.resource(stage, "ranks") or run.resource(stage, "gpu"))
    if n_ranks > 1 and not rank_environment(os.environ):
        raise SystemExit(relaunch(n_ranks, ["-m", "sciflow.cli", *sys.argv[1:]]))


def part_of(stage: str, shard: str, gather: bool, parts: list[Path] | None) -> tuple[int, int]:
    """Which of how many shards; the whole, where they are joined.

    Raises:
        InputError: no such shard, shards to join without --gather, or some that were written in the future.
    """
    check_clock(part for part in parts or () if part.is_file())
    if gather != bool(parts):
        raise InputError(f"--gather and the shards to join go together: sciflow {stage} RUN.yaml --gather A B")
    index, _, count = shard.partition("/")
    if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
        raise InputError(f"--shard must be i/n with 1 ≤ i ≤ n, got {shard!r}.")
    return (1, 1) if gather else (int(index), int(count))
