"""What a stage took: all its ranks together, and the attempts that were cut short before the one that finished it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from sciflow import journal
from sciflow.particles.ranks import Group
from sciflow.stages.shares import numbers

ADDED = ("seconds", "cpu_seconds", "gpu_seconds")
SHORT = {"memory_mb": "peak_memory_mb", "gpu_memory_mb": "peak_gpu_memory_mb"}
"""Word of a journal → that of a sidecar."""


def of_ranks() -> dict[str, Any]:
    """How many ranks there are, CPU seconds of all, and peak memory [MB] of the largest; nothing of one.

    Every rank asks, at the same place.
    """
    together, spent = Group.here(), journal.spent()
    of_each = {key: numbers(together, value) for key, value in spent.items()}
    if together.size == 1:
        return {}
    largest = {SHORT[key]: max(values) for key, values in of_each.items() if key in SHORT}
    return {"ranks": together.size, "cpu_seconds": round(sum(of_each["cpu_seconds"]), 3), **largest}


def of_attempts(took: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """What changes in the cost of this attempt when the ones before it at the same work are counted, too.

    They are those since the stage was last done, or since it began other work (`key` in the journal). Of one that was
    killed the last word counts; of its ranks and devices the first kept a journal, and stands for all.

    Args:
        took: cost of this attempt: `seconds`, `cpu_seconds`, `peak_memory_mb`; with devices, `gpu_seconds` and
            `peak_gpu_memory_mb`.
        file: the journal of the stage, in which this process is the last to have begun.

    Returns:
        The sums, the largest memory, and `attempts`, how many there were; nothing where this is the only one.
    """
    earlier = _cut_short(journal.read(file) if file.is_file() else [])
    if not earlier:
        return {}
    changed: dict[str, Any] = {"attempts": len(earlier) + 1}
    for key in ADDED:
        if key in took:
            changed[key] = round(took[key] + sum(one[key] for one in earlier), 3)
    for key in SHORT.values():
        if key in took:
            changed[key] = max(took[key], *(one[key] for one in earlier))
    return changed


def _cut_short(entries: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The cost of each attempt before this one that did not end this work, nor any other."""
    attempts: list[list[dict[str, Any]]] = []
    for entry in entries:  # two processes may write side by side: a duplicate is refused at once
        if entry["event"] == "start":
            attempts.append([entry])
        elif own := next((one for one in reversed(attempts) if one[0]["process"] == entry["process"]), None):
            own.append(entry)
    mine = next((k for k in reversed(range(len(attempts))) if attempts[k][0]["process"] == os.getpid()), None)
    if mine is None or (key := _work(attempts[mine]).get("key")) is None:
        return []
    found = []
    for attempt in reversed(attempts[:mine]):
        if "key" not in _work(attempt):  # killed before it knew
            continue
        if _work(attempt)["key"] != key or attempt[-1].get("outcome") == "done":
            break
        found.append(_cost(attempt))
    return found


def _work(attempt: list[dict[str, Any]]) -> dict[str, Any]:
    """What an attempt works on, and with how many ranks."""
    return next((entry for entry in attempt if entry["event"] == "work"), {})


def _cost(attempt: list[dict[str, Any]]) -> dict[str, float]:
    n_ranks = int(_work(attempt).get("ranks", 1))
    told: dict[str, Any] = next((entry for entry in reversed(attempt) if "cpu_seconds" in entry), {})
    begin, end = (datetime.fromisoformat(attempt[k]["time"]) for k in (0, -1))
    seconds = max((end - begin).total_seconds(), 0.0)  # a clock may have been set back
    largest = {ours: float(told.get(theirs, 0.0)) for theirs, ours in SHORT.items()}
    cpu_seconds = n_ranks * float(told.get("cpu_seconds", 0.0))
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "gpu_seconds": n_ranks * seconds, **largest}
