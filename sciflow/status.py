"""How far every run below a folder is, from the journals that its stages keep."""

from __future__ import annotations

import datetime
import os
import platform
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow import journal
from sciflow.runs import ARTEFACTS, STAGES

if TYPE_CHECKING:
    from rich.table import Table

EVERY = 2.0  # seconds between two looks
WIDE, LONGEST = 200, 100  # columns where there is no terminal, and of a message
STYLES = {"running": "cyan", "done": "green", "stopped": "yellow", "failed": "red", "killed": "red"}
ASIDE = ("time", "event", "process", "what", "done", "total", "per_second", "left", "cpu_seconds", "memory_mb")


@dataclass(frozen=True)
class Line:
    """One stage (or shard) of one run.

    Args:
        run, stage, shard: which.
        state: running, done, stopped (it goes on when it is called again), failed, or killed: it left no word, and its
            process is not on this machine any more. What runs on another machine counts as running.
        done, total: how far its loop is; None where there is no loop.
        left: seconds it will still take.
        seconds: since it began, or that it took.
        cpu_seconds, memory_mb: of its last process.
        numbers: what it says of itself: loss, ess.
        heard: seconds since its last word.
        attempts: processes that have worked on it.
        message: its last warning, or why it ended.
    """

    run: str
    stage: str
    shard: str
    state: str
    done: int | None = None
    total: int | None = None
    left: float | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None
    memory_mb: float | None = None
    numbers: dict[str, float] | None = None
    heard: float | None = None
    attempts: int = 0
    message: str = ""

    def facts(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def lines(results: Path, now: datetime.datetime | None = None) -> list[Line]:
    """Every stage of every run below `results` (or of the run whose folder it is) that has begun."""
    now = now or datetime.datetime.now(datetime.UTC)
    folders = (
        [results] if (results / ".state").is_dir() else sorted(path for path in results.iterdir() if path.is_dir())
    )
    return [line for folder in folders for line in _of_run(folder, now)]


def _of_run(folder: Path, now: datetime.datetime) -> Iterator[Line]:
    for stage in STAGES:
        begun = sorted(
            (folder / ".state").glob(f"{stage}*/{journal.FILE}"), key=lambda path: _by_number(path.parent.name)
        )
        kept = [line for path in begun if (line := _of_journal(folder.name, stage, journal.read(path), now))]
        if not kept and (folder / ARTEFACTS[stage]).is_file():
            kept = [
                Line(folder.name, stage, "", "done")
            ]  # of a sciflow that kept no journal, or whose state was removed
        yield from kept


def _by_number(name: str) -> tuple[int, str]:
    digits = name.partition(".part")[2].partition("of")[0]
    return (int(digits) if digits.isdigit() else 0, name)


def _of_journal(run: str, stage: str, entries: list[dict[str, Any]], now: datetime.datetime) -> Line | None:
    """What the last attempt says."""
    starts = [k for k, entry in enumerate(entries) if entry["event"] == "start"]
    if not starts:
        return None
    process = entries[starts[-1]]["process"]
    last = [entry for entry in entries[starts[-1] :] if entry["process"] == process]
    begin, latest = last[0], last[-1]
    step: dict[str, Any] = next((entry for entry in reversed(last) if entry["event"] == "step"), {})
    state = latest["outcome"] if latest["event"] == "end" else "running" if _may_live(begin) else "killed"
    warned = [entry["message"] for entry in last if entry["event"] == "warning"]
    is_over = state != "running"
    left = step.get("left")
    heard = (now - _time(latest)).total_seconds()
    return Line(
        run, stage, str(begin.get("shard", "")), state, step.get("done"), step.get("total"),
        None if is_over or left is None else max(left - (now - _time(step)).total_seconds(), 0.0),
        ((_time(latest) if is_over else now) - _time(begin)).total_seconds(),
        latest.get("cpu_seconds", step.get("cpu_seconds")), latest.get("memory_mb", step.get("memory_mb")),
        {key: value for key, value in step.items() if key not in ASIDE}, heard, len(starts),
        str(latest.get("message") or (warned[-1] if warned else "")),
    )  # fmt: skip


def _time(entry: dict[str, Any]) -> datetime.datetime:
    return datetime.datetime.fromisoformat(entry["time"])


def _may_live(begin: dict[str, Any]) -> bool:
    """Whether the process works on: known on its own machine, believed of another."""
    if begin.get("host") != platform.node():
        return True
    try:
        os.kill(int(begin["process"]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True


def table(found: Iterable[Line]) -> Table:
    """For people."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None)
    for head in ("run", "stage", "state", "progress", "left", "took", "CPU s", "MB", "", "last word"):
        shown.add_column(head, no_wrap=head != "last word")
    previous = ""
    for line in found:
        numbers = " ".join(f"{name} {value:.4g}" for name, value in (line.numbers or {}).items())
        tries = f" ({line.attempts})" if line.attempts > 1 else ""
        cells = (
            line.run if line.run != previous else "",
            f"{line.stage} {line.shard}".strip(),
            Text(line.state + tries, style=STYLES.get(line.state, "")),
            "" if line.done is None else f"{line.done}/{line.total}" if line.total else str(line.done),
            _clock(line.left), _clock(line.seconds), _number(line.cpu_seconds), _number(line.memory_mb), numbers,
            Text(textwrap.shorten(line.message, LONGEST, placeholder=" …")),
        )  # fmt: skip
        shown.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))
        previous = line.run
    return shown


def _clock(seconds: float | None) -> str:
    return "" if seconds is None else str(datetime.timedelta(seconds=round(seconds)))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def show(results: Path, watch: bool) -> None:
    """Print the table; with `watch` again and again, until Ctrl-C."""
    from rich.console import Console
    from rich.live import Live

    console = Console(width=None if sys.stdout.isatty() else WIDE)
    if not watch:
        console.print(table(lines(results)))
        return
    with (
        Live(table(lines(results)), console=console, auto_refresh=False, vertical_overflow="visible") as live,
        suppress(KeyboardInterrupt),
    ):
        while True:
            time.sleep(EVERY)
            live.update(table(lines(results)), refresh=True)
