"""What stages say of themselves is whole lines, and the table of all of them tells who works, waits and failed."""

from __future__ import annotations

import datetime
import json
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from sciflow import progress, status
from sciflow.errors import InputError, NonFiniteError, OutOfTime, Terminated
from sciflow.journal import FILE, read, recorded
from sciflow.progress import track
from tests.tiny import IMAGING, Place, change


def path(folder: Path, run: str = "digits", stage: str = "train") -> Path:
    return folder / run / ".state" / stage / FILE


def keep(file: Path, *errors: BaseException) -> None:
    """An attempt at the stage that ends well, or by an error."""
    with recorded(file, run=file.parts[-4], stage=file.parts[-2], shard=""):
        for _ in track(range(2, 4), "train", done=2, numbers=lambda: {"loss": 0.25, "ess": float("nan")}):
            pass
        for error in errors:
            raise error


def test_a_journal_holds_start_steps_warnings_and_end(tmp_path: Path) -> None:
    with pytest.warns(UserWarning), recorded(tmp_path / "new" / FILE, run="r", stage="train", shard="1/2"):
        for _ in track(range(3), "train", numbers=lambda: {"loss": 0.5, "ess": float("inf")}):
            pass
        logging.getLogger("sciflow.x").warning("the batch is small")
        warnings.warn("a line of a library", stacklevel=1)
    entries = read(tmp_path / "new" / FILE)
    assert [entry["event"] for entry in entries] == ["start", "step", "step", "warning", "warning", "end"]
    assert (entries[0]["run"], entries[0]["shard"], entries[0]["process"]) == ("r", "1/2", os.getpid())
    assert (entries[2]["done"], entries[2]["total"], entries[2]["loss"], entries[2]["left"]) == (3, 3, 0.5, 0.0)
    assert "ess" not in entries[2], "JSON has no infinity"
    assert [entry["message"] for entry in entries[3:5]] == ["the batch is small", "a line of a library"]
    assert entries[5]["outcome"] == "done" and entries[5]["memory_mb"] > 10 and entries[5]["cpu_seconds"] > 0


ONCE = """import warnings
from pathlib import Path
from sciflow.journal import read, recorded
for name in ("a", "b"):
    with recorded(Path(name), run=name, stage="train", shard=""):
        warnings.warn("a line of a library", stacklevel=1)
    print([entry["event"] for entry in read(Path(name))])
"""


def test_a_warning_is_told_of_each_run_that_a_process_does(tmp_path: Path) -> None:
    """Python alone would tell it once; in a process of its own, since pytest has every warning told."""
    done = subprocess.run([sys.executable, "-c", ONCE], cwd=tmp_path, stdout=-1, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["['start', 'warning', 'end']"] * 2


def test_steps_are_told_every_few_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    told = []
    with progress.told_to(told.append):
        for _ in track(range(20, 40), "train", done=20):
            now[0] += 2
    assert [moment.done for moment in told] == [21, 24, 27, 30, 33, 36, 39, 40]  # 5 s are over after three items of 2 s
    assert told[1].facts() == {"what": "train", "done": 24, "total": 40, "per_second": 0.5, "left": 32.0}
    for _ in track(range(3), "train"):
        pass
    assert len(told) == 8, "nobody listens any more"


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (OutOfTime("soon"), "stopped"),
        (SystemExit(75), "stopped"),
        (Terminated("SIGTERM came"), "stopped"),
        (SystemExit(0), "done"),
        (SystemExit(2), "failed"),
        (SystemExit(130), "stopped"),  # what the command line makes of Ctrl-C
        (NonFiniteError("loss"), "failed"),
        (KeyboardInterrupt(), "stopped"),
    ],
)
def test_how_it_ended(error: BaseException, outcome: str, tmp_path: Path) -> None:
    with pytest.raises(type(error)):
        keep(path(tmp_path), error)
    assert read(path(tmp_path))[-1]["outcome"] == outcome
    (line,) = status.lines(tmp_path)
    assert (line.state, line.done, line.total, line.left, line.numbers) == (outcome, 4, 4, None, {"loss": 0.25})


def test_half_a_line_and_foreign_lines_are_left_out(tmp_path: Path) -> None:
    keep(path(tmp_path))
    n = len(read(path(tmp_path)))
    with path(tmp_path).open("ab") as file:
        file.write(b'[1]\n"x"\n\xff\xfe\n{"event": "start"}\n{"event": "start", "process": 1, "time": "noon"}\n')
        file.write(b'{"event": "end", "process": 1, "time": "2026-01-01T00:00:00"}\n' + 100_000 * b"[" + b"\n")
        for process in (b"0", b"-1", 23 * b"9"):
            file.write(b'{"event": "start", "process": ' + process + b', "time": "2026-01-01T00:00:00+00:00"}\n')
        file.write(b'{"event": "end", "process": ' + 9000 * b"9" + b'}\n{"event": "st')
    assert len(read(path(tmp_path))) == n
    path(tmp_path, "empty").parent.mkdir(parents=True)
    path(tmp_path, "empty").touch()
    assert [line.run for line in status.lines(tmp_path)] == ["digits"]


def test_a_full_disk_stops_no_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with recorded(tmp_path / FILE):
        monkeypatch.setattr(
            Path, "open", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        )
        assert list(track(range(3), "train")) == [0, 1, 2]


HOLD = """
import sys, time
from pathlib import Path
from sciflow.journal import recorded
from sciflow.progress import track
with recorded(Path(sys.argv[1]), run="digits", stage="train", shard=""):
    for k in track(range(100), "train"):
        print(k, flush=True)
        time.sleep(60 if k == 1 else 0)
"""


def test_the_table_tells_running_from_killed(tmp_path: Path) -> None:
    with pytest.raises(OutOfTime):
        keep(path(tmp_path), OutOfTime("training stopped"))
    call = [sys.executable, "-c", HOLD, str(path(tmp_path))]
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True) as process:
        assert [process.stdout.readline() for _ in range(2)] == ["0\n", "1\n"]
        (line,) = status.lines(tmp_path)
        assert (line.state, line.done, line.total, line.attempts, line.message) == ("running", 1, 100, 2, "")
        assert line.left is not None and line.seconds is not None and 0 <= line.left < 99 * line.seconds + 1
        process.send_signal(signal.SIGKILL)
    assert [(line.state, line.left) for line in status.lines(tmp_path)] == [("killed", None)]
    entries = path(tmp_path).read_text().replace('"host": "', '"host": "another-')
    path(tmp_path).write_text(entries)
    now = datetime.datetime.now(datetime.UTC)
    (soon,) = status.lines(tmp_path, now)
    (later,) = status.lines(tmp_path, now + datetime.timedelta(hours=1))
    assert soon.state == "running" and soon.left is not None, "nobody here can know"
    assert (later.state, later.left) == ("silent", None) and later.heard is not None and later.heard >= 3600
    shown = cells(later)
    assert shown["state"] == "silent (2)" and shown["heard"].startswith("1:00:") and shown["left"] == ""


def test_a_process_that_was_refused_hides_nobody(tmp_path: Path) -> None:
    keep(path(tmp_path))
    with pytest.raises(InputError):
        keep(
            path(tmp_path), InputError("results/digits/.state/train is in use by process 1 on n1. Wait for it to end.")
        )
    (line,) = status.lines(tmp_path)
    assert (line.state, line.done, line.attempts) == ("done", 4, 2)
    with pytest.raises(InputError):
        keep(path(tmp_path), InputError("data.nc is damaged."))
    assert [line.state for line in status.lines(tmp_path)] == ["failed"]


def cells(*lines: status.Line) -> dict[str, str]:
    """The last row of the table, by its heads."""
    return {str(column.header): str([*column.cells][-1]) for column in status.table(lines).columns}


def plan(results: Path, name: str, **values: object) -> None:
    """The run.yaml that a run of the workflow begins with."""
    (results / name).mkdir(exist_ok=True)
    (results / name / "run.yaml").write_text(json.dumps({"name": name, "domain": "imaging", **values}))


def states(results: Path) -> list[tuple[str, str, str, str]]:
    return [(line.run, line.stage, line.shard, line.state) for line in status.lines(results)]


def test_what_has_not_begun_is_shown(tmp_path: Path) -> None:
    keep(path(tmp_path, stage="dataset"))
    assert len(states(tmp_path)) == 1, "without a run.yaml nobody knows what is to come"
    keep(path(tmp_path, stage="sample.part2of3"))
    plan(tmp_path, "digits", resources={"sample": {"shards": 3}})
    assert [line[1:] for line in states(tmp_path)] == [
        ("dataset", "", "done"), ("train", "", "waiting"),
        ("sample", "", "done"),  # `keep` names no shard: where all are joined, none waits
        ("evaluate", "", "waiting"), ("report", "", "waiting"),
    ]  # fmt: skip
    assert states(tmp_path / "digits") == states(tmp_path)
    file = path(tmp_path, stage="sample.part2of3")
    file.write_text(file.read_text().replace('"shard": ""', '"shard": "2/3"'))
    found = [line[1:] for line in states(tmp_path)]
    assert found[2:6] == [("sample", "2/3", "done"), *(("sample", k, "waiting") for k in ("1/3", "3/3", ""))]
    assert cells(*status.lines(tmp_path))["stage"] == "sample 1/3 … report"
    assert status.table(status.lines(tmp_path)).caption == "8 stages and shards: 2 done, 6 waiting"
    (tmp_path / "digits" / "run.yaml").write_text("name: [")
    assert len(states(tmp_path)) == 2, "a damaged plan is none"


def test_a_sweep_shows_the_children_that_have_not_begun(tmp_path: Path) -> None:
    sweep = {"train.n": [1, 2], "sample.m": [3, 4]}
    keep(path(tmp_path, stage="dataset"))
    plan(tmp_path, "digits", sweep=sweep)
    found = states(tmp_path)
    names = [f"digits~train.n={n}" for n in (1, 2)]
    children = [f"{name}~sample.m={m}" for name in names for m in (3, 4)]
    assert [line[:2] for line in found if line[3] == "done"] == [("digits", "dataset")]
    assert [line[0] for line in found if line[1] == "train" and line[3] == "waiting"] == names
    for stage in ("sample", "evaluate", "report"):
        assert [line[0] for line in found if line[1] == stage and line[3] == "waiting"] == children
    assert len(found) == 1 + 2 + 3 * 4


def test_status_shows_every_stage_in_its_order(copied: Place) -> None:
    for shard in (1, 2):
        arguments = ("--shard", f"{shard}/2", "--out", f"part{shard}.nc", "--state", "results/imaging/.state")
        assert copied.sciflow("sample", "imaging.yaml", *arguments).status == 0
    copied.write(change(IMAGING, {"train.optimisation.learning_rate": 1e30}), "imaging")
    assert copied.sciflow("train", "imaging.yaml").status == 1
    (copied.folder / "results" / "old").mkdir()
    (copied.folder / "results" / "old" / "data.nc").touch()
    said = copied.sciflow("status")
    assert said.status == 0
    shown = [" ".join(line.split()) for line in said.text.splitlines()]
    assert shown[-1] == "13 stages and shards: 12 done, 1 failed"
    assert [line.split(" ")[0] for line in shown[1:-1]] == [
        *("analytic", "train", "sample", "evaluate", "report"),
        *("imaging", "train", "sample", "sample", "sample", "evaluate", "report", "old"),
    ]
    assert "NonFiniteError: run imaging, train: training step" in said.text.replace("\n", " ")
    facts = json.loads(copied.sciflow("status", "results/imaging", "--json").text)
    assert [(line["stage"], line["shard"], line["state"]) for line in facts] == [
        ("dataset", "", "done"),
        ("train", "", "failed"),
        ("sample", "", "done"),
        ("sample", "1/2", "done"),
        ("sample", "2/2", "done"),
        ("evaluate", "", "done"),
        ("report", "", "done"),
    ]
    assert facts[1]["attempts"] == 2 and facts[2]["numbers"]["ess"] > 0 and facts[2]["done"] == 6
    assert copied.sciflow("status", "nowhere").text == (
        "error: nowhere is no folder. Give the folder of results, or run something first."
    )


def test_it_is_shown_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    keep(path(tmp_path))
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    status.show(tmp_path, watch=True)
    assert "digits" in capsys.readouterr().out and len(looks) == 3
