"""What machines do to a run: a duplicate, a disk that takes nothing, clocks that disagree, a second workflow."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sciflow.runs import STAGES
from sciflow.training.checkpoint import load
from tests.pipeline.conftest import TIME_LIMIT, Project
from tests.tiny import IMAGING, Place, change, copy_repository

DAY = 86_400.0
HOLD = """
import sys
from sciflow.data.state import State
with State(*sys.argv[1:]) as state:
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("stage", STAGES)
def test_a_duplicate_is_refused_while_an_orphan_works(stage: str, copied: Place) -> None:
    """The lock decides: the duplicate writes nothing, and names the process that it would have stood beside."""
    results = copied.results("imaging")
    keys = [entry.name for entry in (results / ".state" / stage).iterdir() if entry.is_dir()]
    assert len(keys) == (stage != "report"), "a report is over too soon to keep a state"
    call = [sys.executable, "-c", HOLD, str(results / ".state" / stage), *(keys or [16 * "0"])]
    with subprocess.Popen(call, stdin=-1, stdout=-1, text=True) as orphan:
        assert orphan.stdout is not None and orphan.stdout.readline() == "held\n"
        before = {file: file.read_bytes() for file in results.iterdir() if file.is_file()}
        outcome = copied.sciflow(stage, "imaging.yaml")
        assert outcome.status == 2
        assert f"/.state/{stage} is in use by process {orphan.pid} on " in outcome.text
        assert {file: file.read_bytes() for file in results.iterdir() if file.is_file()} == before
        orphan.kill()
    assert copied.sciflow(stage, "imaging.yaml").status == 0


@pytest.mark.slow
@pytest.mark.timeout(4 * TIME_LIMIT)
def test_an_orphan_and_its_duplicate_never_both_write(tmp_path: Path) -> None:
    """SIGKILL to Snakemake alone: its training runs on, the next workflow's is refused, the orphan's model stays."""
    place, environment = Place(tmp_path / "copy"), copy_repository(tmp_path / "copy")
    shutil.copy(Path(__file__).parents[1] / "slurm" / "held.py", place.folder)
    place.write({**change(IMAGING, {"train.loss": {"kind": "held"}}), "plugins": ["held.py"]}, "orphan")
    trace, hold = place.folder / "trace", place.folder / "hold"
    hold.touch()

    target = "results/orphan/model.pt"
    call = [sys.executable, "-m", "snakemake", "--cores", "1", "--config", "runs=[orphan.yaml]"]
    options = {"cwd": place.folder, "env": environment, "stdout": -1, "stderr": -2, "text": True}
    with subprocess.Popen([*call, "--", target], **options) as first:
        end = time.monotonic() + TIME_LIMIT
        while not trace.is_file() or len(trace.read_text().splitlines()) < 3:
            assert first.poll() is None and time.monotonic() < end, "the training has not begun"
            time.sleep(0.05)
        first.kill()
        first.wait()
        again = [*call, "--nolock", "--retries", "0", "--", target]
        said = subprocess.run(again, **options, check=False, timeout=2 * TIME_LIMIT).stdout
        assert f"/.state/train is in use by process {trace.read_text().split()[0]} on " in said, said
        hold.unlink()
        first.communicate(timeout=TIME_LIMIT)  # the pipe is the orphan's too: it has come to its end
    assert len(set(trace.read_text().split())) == 1, "only the orphan has trained"
    model = load(place.folder / target, "model")  # every checksum in it is right
    assert len(model["history"]["loss"]) == IMAGING["train"]["optimisation"]["n_steps"]


@pytest.fixture
def read_only(copied: Place, tmp_path: Path) -> Iterator[Place]:
    """The built runs on a file system that takes no writes, where mounting is allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine does not let us mount a disk")
    try:
        place = Place(copied.copy(disk / "place"))
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        yield place
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("stage", ["dataset", "train", "sample", "evaluate", "report"])
def test_a_read_only_folder_is_named_and_nothing_is_lost(stage: str, read_only: Place) -> None:
    before = read_only.files()
    outcome = read_only.sciflow(stage, "imaging.yaml")
    assert outcome.status == 1, outcome.text
    assert "results/imaging/" in outcome.text and len(outcome.text.splitlines()) == 1, outcome.text
    assert "Read-only file system. Nothing finished is lost." in outcome.text
    assert read_only.files() == before


def skewed(copied: Place, skew: float) -> dict[str, bytes]:
    """The finished artefacts, whose times are set to those of another clock."""
    results = copied.results("imaging")
    before = {name: (results / name).read_bytes() for name in ("model.pt", "samples.nc", "metrics.csv")}
    for file in results.rglob("*"):
        os.utime(file, (time.time() + skew, time.time() + skew))
    return before


@pytest.mark.parametrize("stage", ["train", "sample", "evaluate"])
def test_a_clock_that_is_late_changes_no_result(stage: str, copied: Place) -> None:
    """Files of a node whose clock is of yesterday: stages go by content, never by time."""
    before = skewed(copied, -DAY)
    outcome = copied.sciflow(stage, "imaging.yaml")
    assert outcome.status == 0, outcome.text
    assert {name: (copied.results("imaging") / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("stage", ["train", "sample", "evaluate"])
def test_a_clock_that_is_ahead_is_named_and_nothing_is_lost(stage: str, copied: Place) -> None:
    """What is made of files of tomorrow would be older than they, and Snakemake would delete it."""
    before = skewed(copied, DAY)
    outcome = copied.sciflow(stage, "imaging.yaml")
    assert outcome.status == 2 and "1440 min ahead of the clock of this machine" in outcome.text, outcome.text
    assert {name: (copied.results("imaging") / name).read_bytes() for name in before} == before


@pytest.mark.slow
@pytest.mark.timeout(3 * TIME_LIMIT)
def test_a_second_workflow_in_the_folder_is_refused(project: Project) -> None:
    """The first is held while it works, the second says why it does nothing, and the first ends well."""
    environment = {**os.environ, "PATH": f"{project.folder / 'bin'}:{os.environ['PATH']}"}
    environment["PYTHONPATH"] = str(project.folder)
    call = [sys.executable, "-m", "snakemake", "--cores", "1"]
    with subprocess.Popen(call, cwd=project.folder, env=environment, stdout=-1, stderr=-2, text=True) as first:
        while not project.calls():
            assert first.poll() is None, first.communicate()
            time.sleep(0.01)
        first.send_signal(signal.SIGSTOP)
        done = project.calls()
        second = project.snakemake()
        assert second.status == 1 and "Directory cannot be locked." in second.text, second.text
        assert project.calls() == done, "the second worked"
        first.send_signal(signal.SIGCONT)
        said, _ = first.communicate(timeout=TIME_LIMIT)
    assert first.returncode == 0, said
    assert project.snakemake("--dry-run").jobs == {}
