"""How far every run below a folder is, from the journals that its stages keep."""

from __future__ import annotations

import datetime
import itertools
import os
import platform
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow import journal
from sciflow.errors import IN_USE, InputError
from sciflow.results import look
from sciflow.runs import ARTEFACTS, STAGES, Run, builders

if TYPE_CHECKING:
    from rich.table import Table

EVERY = 2.0  # seconds between two looks
MOST_SHARDS = 10_000  # a run.yaml that asks for more is no plan to draw
WIDE, LONGEST = 200, 100  # columns where there is no terminal, and of a message
SILENT = 15 * 60.0  # seconds after which a process on another machine is no longer said to run
STYLES = {
    **{"done": "green", "running": "cyan", "silent": "magenta", "stopped": "yellow"},
    **{"failed": "red", "killed": "red", "waiting": "dim"},
}
ASIDE = ("time", "event", "process", "what", "done", "total", "per_second", "left", "cpu_seconds", "memory_mb")


@dataclass(frozen=True)
class Line:
    """One stage (or shard) of one run.

    Args:
        run, stage, shard: which.
        state: running, done, stopped (it goes on when it is called again), failed, killed: it left no word, and its
            process is not on this machine any more; silent: on another machine, where it may be dead, and unheard for
            `SILENT` seconds; or waiting: it has not begun.
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
    """Every stage of every run below `results`, or of the run whose folder it is.

    Stages that have not begun are known where a run.yaml says which run, or sweep, they belong to.
    """
    now, results = now or datetime.datetime.now(datetime.UTC), results.absolute()
    is_run = (results / ".state").is_dir()
    above = results.parent if is_run else results
    names = {results.name} if is_run else {path.name for path in results.iterdir() if path.is_dir()}
    planned = _planned(above, {name.split("~")[0] for name in names})
    names |= set() if is_run else planned.keys()
    return [line for name in sorted(names) for line in _of_run(above / name, planned.get(name, {}), now)]


def _planned(results: Path, bases: Iterable[str]) -> dict[str, Mapping[str, int]]:
    """Run → each stage that it is to build, and in how many shards."""
    planned: dict[str, Mapping[str, int]] = {}
    for base in bases:
        with suppress(InputError):  # a folder of something else, or a run.yaml that is damaged
            found = look(results / base)
            if found.sweep is not None and found.sweep.is_planned:
                stages = builders(base, found.sweep.values)
            else:
                stages = {base: STAGES} if found.run is not None and found.sweep is None else {}
            for name, own in stages.items():
                planned[name] = {stage: _shards(found.run, stage) for stage in own}
    return planned


def _shards(run: Run | None, stage: str) -> int:
    asked = run.resource(stage, "shards", 1) if run is not None else 1
    return asked if isinstance(asked, int) and 0 < asked <= MOST_SHARDS else 1


def _waiting(run: str, stage: str, n_shards: int, begun: Iterable[Line]) -> Iterator[Line]:
    """The shards of a stage that have not begun, and what joins them; nothing once they are joined."""
    known = {line.shard for line in begun}
    shards = [f"{k}/{n_shards}" for k in range(1, n_shards + 1)] if n_shards > 1 else []
    if "" not in known:
        yield from (Line(run, stage, shard, "waiting") for shard in [*shards, ""] if shard not in known)


def _of_run(folder: Path, planned: Mapping[str, int], now: datetime.datetime) -> Iterator[Line]:
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
        if stage in planned:
            yield from _waiting(folder.name, stage, planned[stage], kept)


def _by_number(name: str) -> tuple[int, str]:
    digits = name.partition(".part")[2].partition("of")[0]
    return (int(digits) if digits.isdigit() else 0, name)


def _of_journal(run: str, stage: str, entries: list[dict[str, Any]], now: datetime.datetime) -> Line | None:
    """What the last attempt says."""
    attempts = _attempts(entries)
    if not attempts:
        return None
    last = next((one for one in reversed(attempts) if not _is_refused(one)), attempts[-1])
    begin, latest = last[0], last[-1]
    step: dict[str, Any] = next((entry for entry in reversed(last) if entry["event"] == "step"), {})
    heard = (now - _time(latest)).total_seconds()
    state = latest["outcome"] if latest["event"] == "end" else _going(begin, heard)
    warned = [entry["message"] for entry in last if entry["event"] == "warning"]
    is_over = state not in ("running", "silent")
    left = step.get("left") if state == "running" else None
    return Line(
        run, stage, str(begin.get("shard", "")), state, step.get("done"), step.get("total"),
        None if left is None else max(left - (now - _time(step)).total_seconds(), 0.0),
        ((_time(latest) if is_over else now) - _time(begin)).total_seconds(),
        latest.get("cpu_seconds", step.get("cpu_seconds")), latest.get("memory_mb", step.get("memory_mb")),
        {key: value for key, value in step.items() if key not in ASIDE}, heard, len(attempts),
        str(latest.get("message") or (warned[-1] if warned else "")),
    )  # fmt: skip


def _attempts(entries: Iterable[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The lines of each attempt, which several may write at once."""
    attempts: list[list[dict[str, Any]]] = []
    of_process: dict[int, list[dict[str, Any]]] = {}
    for entry in entries:
        if entry["event"] == "start":
            of_process[entry["process"]] = []  # anew, where the number is that of a process that has ended
            attempts.append(of_process[entry["process"]])
        if entry["process"] in of_process:
            of_process[entry["process"]].append(entry)
    return attempts


def _is_refused(attempt: list[dict[str, Any]]) -> bool:
    """Whether it ended because another process does the work, which is the one to tell of."""
    return attempt[-1]["event"] == "end" and IN_USE in str(attempt[-1].get("message"))


def _time(entry: dict[str, Any]) -> datetime.datetime:
    return datetime.datetime.fromisoformat(entry["time"])


def _going(begin: dict[str, Any], heard: float) -> str:
    """What becomes of a process that wrote no end: known on its own machine, guessed of another by its silence."""
    if begin.get("host") != platform.node():
        return "silent" if heard > SILENT else "running"
    try:
        os.kill(int(begin["process"]), 0)
    except ProcessLookupError:
        return "killed"
    except PermissionError:  # of another user
        return "running"
    return "running"


def table(found: Iterable[Line]) -> Table:
    """For people: a row for each line, one for all stages of a run that wait, and how many there are of each state."""
    from rich.table import Table
    from rich.text import Text

    found = list(found)
    counts = Counter(line.state for line in found)
    said = ", ".join(f"{counts[state]} {state}" for state in STYLES if counts[state])
    caption = f"{len(found)} stages and shards: {said}" if found else None
    shown = Table(box=None, caption=caption, caption_justify="left")
    for head in ("run", "stage", "state", "progress", "left", "took", "heard", "CPU s", "MB", "", "last word"):
        shown.add_column(head, no_wrap=head != "last word")
    previous = ""
    for line in _rows(found):
        numbers = " ".join(f"{name} {value:.4g}" for name, value in (line.numbers or {}).items())
        tries = f" ({line.attempts})" if line.attempts > 1 else ""
        cells = (
            line.run if line.run != previous else "",
            f"{line.stage} {line.shard}".strip(),
            Text(line.state + tries, style=STYLES.get(line.state, "")),
            "" if line.done is None else f"{line.done}/{line.total}" if line.total else str(line.done),
            _clock(line.left), _clock(line.seconds), "" if line.state == "done" else _ago(line.heard),
            _number(line.cpu_seconds), _number(line.memory_mb), numbers,
            Text(textwrap.shorten(line.message, LONGEST, placeholder=" …")),
        )  # fmt: skip
        shown.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))
        previous = line.run
    return shown


def _rows(found: Iterable[Line]) -> Iterator[Line]:
    """The lines, those of a run that wait drawn together."""
    for (_, waits), group in itertools.groupby(found, lambda line: (line.run, line.state == "waiting")):
        lines = list(group)
        if waits and len(lines) > 1:
            words = [f"{line.stage} {line.shard}".strip() for line in (lines[0], lines[-1])]
            yield replace(lines[0], stage=" … ".join(words), shard="")
        else:
            yield from lines


def _ago(seconds: float | None) -> str:
    return "" if seconds is None else f"{_clock(max(seconds, 0.0))} ago"  # another machine's clock may be ahead


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
