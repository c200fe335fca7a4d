"""The cost of a stage counts the attempts that were cut short at the same work, and all of its ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sciflow import journal
from sciflow.data.store import read_provenance
from sciflow.stages.costs import of_attempts
from tests.tiny import FORECAST, IMAGING, ROOT, Place, change

TOOK = {"seconds": 1.0, "cpu_seconds": 2.0, "peak_memory_mb": 300.0}


def attempt(process: int, minute: int, *entries: dict[str, Any], key: str = "a", ranks: int = 1) -> list[dict]:
    """The lines of one process that begins at a minute, a second apart."""
    lines = [{"event": "start"}, {"event": "work", "key": key, "ranks": ranks}, *entries]
    return [
        {"time": f"2026-11-30T12:{minute:02}:{second:02}+00:00", "process": process, **line}
        for second, line in enumerate(lines)
    ]


def step(cpu_seconds: float, memory: float = 100.0) -> dict[str, Any]:
    return {"event": "step", "cpu_seconds": cpu_seconds, "memory_mb": memory}


def end(outcome: str, cpu_seconds: float) -> dict[str, Any]:
    return {"event": "end", "outcome": outcome, "cpu_seconds": cpu_seconds, "memory_mb": 400.0}


MINE = attempt(os.getpid(), 50)


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ([], {}),
        (  # stopped, and killed after a step: 3 s and 2 s from the first line to the last
            [*attempt(7, 1, step(5.0), end("stopped", 8.0)), *attempt(8, 2, step(3.0, 900.0))],
            {"attempts": 3, "seconds": 6.0, "cpu_seconds": 13.0, "peak_memory_mb": 900.0},
        ),
        (  # four ranks, of which the first keeps the journal
            attempt(7, 1, step(5.0), ranks=4),
            {"attempts": 2, "seconds": 3.0, "cpu_seconds": 22.0, "peak_memory_mb": 300.0},
        ),
        ([*attempt(7, 1, end("stopped", 8.0)), *attempt(8, 2, end("done", 9.0))], {}),  # of an artefact before
        ([*attempt(7, 1, end("stopped", 8.0)), *attempt(8, 2, end("stopped", 9.0), key="b")], {}),  # its state is gone
        (  # the processes of a restarted machine may have our number
            attempt(os.getpid(), 1, end("stopped", 8.0)),
            {"attempts": 2, "seconds": 3.0, "cpu_seconds": 10.0, "peak_memory_mb": 400.0},
        ),
        (  # a duplicate that was refused writes between our lines
            [*attempt(7, 1, step(5.0)), *attempt(9, 2, end("failed", 1.0)), *attempt(7, 3, end("stopped", 6.0))[2:]],
            {"attempts": 3, "seconds": 125.0, "cpu_seconds": 9.0, "peak_memory_mb": 400.0},
        ),
        ([*attempt(7, 1)[:1]], {}),  # killed before it knew what it works on
    ],
    ids=["none", "stopped and killed", "ranks", "done", "other work", "a number twice", "a duplicate", "at once"],
)
def test_attempts_at_the_same_work_are_added_up(before: list[dict], expected: dict, tmp_path: Path) -> None:
    file = tmp_path / journal.FILE
    file.write_text("".join(json.dumps(line) + "\n" for line in [*before, *MINE]))
    assert of_attempts(TOOK, file) == expected


def test_devices_are_counted_in_cut_short_attempts(tmp_path: Path) -> None:
    file, took = tmp_path / journal.FILE, {**TOOK, "gpu_seconds": 2.0, "peak_gpu_memory_mb": 50.0}
    lines = [*attempt(7, 1, {**step(5.0), "gpu_memory_mb": 70.0}, ranks=2), *MINE]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = of_attempts(took, file)
    assert (told["gpu_seconds"], told["peak_gpu_memory_mb"]) == (2.0 + 2 * 2.0, 70.0)


def test_without_a_journal_one_attempt_stands_for_all(tmp_path: Path) -> None:
    assert of_attempts(TOOK, tmp_path / journal.FILE) == {}


def test_a_training_of_several_attempts_tells_the_cost_of_all(place: Place) -> None:
    """Three attempts, the first two cut short after a step."""
    place.build(change(IMAGING, {"train.optimisation.n_steps": 3}), "imaging", until="dataset")
    statuses = [place.sciflow("train", "imaging.yaml", "--time-limit", "1e-9").status for _ in range(3)]
    assert statuses == [75, 75, 0]
    entries = journal.read(place.results("imaging") / ".state/train" / journal.FILE)
    assert len({entry["key"] for entry in entries if entry["event"] == "work"}) == 1
    told = read_provenance(place.results("imaging") / "model.pt")
    first, second, last = (entry["cpu_seconds"] for entry in entries if entry["event"] == "end")
    assert told["attempts"] == 3 and told["network_rows"] == 3 * 16
    assert first + second < told["cpu_seconds"] <= first + second + last + 0.01  # an end is told to 10 ms


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_ranks_of_forecasters_are_counted(place: Place) -> None:
    values = {**FORECAST, "resources": {"train": {"ranks": 2}}}
    results = place.build(values, until="dataset")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-m", "sciflow.cli", "train", "run.yaml"]
    ended = subprocess.run(
        call, cwd=place.folder, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert ended.returncode == 0, ended.stderr
    told = read_provenance(results / "model.pt")
    (last,) = [entry for entry in journal.read(results / ".state/train" / journal.FILE) if entry["event"] == "end"]
    assert told["ranks"] == 2 and told["network_rows"] == (2 + 3) * 16
    assert told["cpu_seconds"] > 1.5 * last["cpu_seconds"], "each of them imports torch, at least"
    assert told["peak_memory_mb"] > 100
