"""What a stage says of itself while it works: one JSON object a line, for people who watch and for `sciflow status`.

    {"time": …, "event": "start", "process": 812, "host": "n1", "run": "digits", "stage": "train", "shard": ""}
    {"time": …, "event": "work", "process": 812, "key": "0f2a…", "ranks": 1}
    {"time": …, "event": "step", "process": 812, "what": "train", "done": 120, "total": 400, "per_second": 3.1,
     "left": 90.3, "loss": 0.21, "cpu_seconds": 40.2, "memory_mb": 512.0}
    {"time": …, "event": "warning", "process": 812, "message": …}
    {"time": …, "event": "end", "process": 812, "outcome": "done", "message": "", "cpu_seconds": …, "memory_mb": …}

A process that was killed writes no end. Attempts at one work (run file, source, inputs) have one key.
Lines are appended whole, so that attempts, and whoever reads, never meet.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import platform
import resource
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sciflow import progress
from sciflow.errors import OutOfTime

FILE = "progress.jsonl"
earlier = {"cpu_seconds": 0.0}
"""What this process had spent when the last journal was closed: on other runs, of which it does several."""
LONGEST = 500  # characters of a message: a line stays a line


@dataclass(frozen=True)
class Journal:
    """The lines of one stage (and shard).

    Args:
        path: the file; attempts append to it.
    """

    path: Path

    def write(self, event: str, **facts: object) -> None:
        """Append one line. A disk that takes none must not stop the work: what is lost is a line."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "event": event, "process": os.getpid(), **facts}, ensure_ascii=False)
        with suppress(OSError), self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def step(self, moment: progress.Moment) -> None:
        """What a loop tells now and then."""
        self.write("step", **moment.facts(), **spent())


def spent() -> dict[str, float]:
    """CPU seconds of this process since the last journal was closed, its peak memory [MB], and that of its device."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = time.process_time() - earlier["cpu_seconds"]
    facts = {"cpu_seconds": round(seconds, 3), "memory_mb": round(peak / 1024, 1)}
    torch = sys.modules.get("torch")  # nothing here loads it
    if torch is not None and torch.cuda.is_initialized():
        facts["gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return facts


@contextmanager
def recorded(path: Path, **facts: object) -> Iterator[Journal]:
    """Keep a journal: start, steps of every loop (`progress.track`), warnings, and how it ended.

    Args:
        path: the file; its folder is made.
        facts: of the start: run, stage, shard.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    journal = Journal(path)
    handler = _Warnings(journal)
    shown = warnings.showwarning

    def show(message: Warning | str, *rest: Any, **options: Any) -> None:
        journal.write("warning", message=str(message)[:LONGEST])
        shown(message, *rest, **options)

    journal.write("start", host=platform.node(), **facts)
    logging.getLogger().addHandler(handler)
    try:
        # a warning is told once in a process, but of each run that the process does
        with warnings.catch_warnings(), progress.told_to(journal.step):
            warnings.showwarning = show
            yield journal
    except BaseException as error:
        journal.write("end", outcome=outcome(error), message=_message(error), **spent())
        raise
    else:
        journal.write("end", outcome="done", message="", **spent())
    finally:
        earlier["cpu_seconds"] = time.process_time()
        logging.getLogger().removeHandler(handler)


class _Warnings(logging.Handler):
    """Puts what is logged as a warning, or worse, into a journal."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(logging.WARNING)
        self.journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        self.journal.write("warning", message=record.getMessage()[:LONGEST])


def outcome(error: BaseException) -> str:
    """done, stopped (the same command goes on) or failed."""
    if isinstance(error, SystemExit):
        return "stopped" if error.code in (75, 130) else "failed" if error.code else "done"
    return "stopped" if isinstance(error, OutOfTime | KeyboardInterrupt) else "failed"


def _message(error: BaseException) -> str:
    return "" if type(error) is SystemExit else f"{type(error).__name__}: {error}"[:LONGEST]


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a journal, oldest first; a line that is not complete yet, or damaged, is left out."""
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError, RecursionError):
            lines.append(json.loads(line))
    return [line for line in lines if isinstance(line, dict) and _is_ours(line)]


def _is_ours(line: dict[str, Any]) -> bool:
    """Whether a line has what every line has: an event, a process that the system can be asked for, a time and zone."""
    with suppress(KeyError, TypeError, ValueError):
        is_placed = datetime.datetime.fromisoformat(line["time"]).tzinfo is not None
        is_process = isinstance(line["process"], int) and 0 < line["process"] < 2**31
        return is_placed and is_process and isinstance(line["event"], str)
    return False
