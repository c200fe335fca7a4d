"""Killed at any moment, with shuffling and dropout on, a run continues to the bits of one that was left alone."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from sciflow.journal import FILE, read
from tests.tiny import IMAGING, Place, change, copy_repository

TIME_LIMIT = 400  # seconds for one Snakemake call: it takes 20 CPU s, and a shared core may be ten times slower
ARTEFACTS = ("data.nc", "model.pt", "samples.nc")
N_STEPS = 12
GUIDED = {"kind": "guided", "guidance": {"kind": "faulty"}, "solver": {"kind": "heun"}}
RUN = {
    **change(
        IMAGING,
        {
            "train.loss": {"kind": "faulty"},
            "train.optimisation.n_steps": N_STEPS,
            "train.optimisation.validate_every": N_STEPS,
            "train.optimisation.checkpoint_every": 0,
            "sample.posteriors": {"a": GUIDED},
        },
    ),
    "plugins": ["faults.py"],
    "resources": {"sample": {"shards": 1}},
}
PER_OBSERVATION = 2 * 3 + 1 + 1  # guidance calls: a Heun run of three steps, one for the start, one for the end
STRAIGHT = "import sys; from sciflow.cli import _run; sys.exit(max(_run([s, 'kill.yaml'])[0] for s in sys.argv[1:]))"


@dataclass(frozen=True)
class Killable:
    """A copy of the repository, so that nothing changes under a run, with a plugin that kills as planned."""

    folder: Path
    variables: dict[str, str]

    @property
    def environment(self) -> dict[str, str]:
        return {**self.variables, "FAULTY_WRITES": "1"}

    def copy(self, folder: Path) -> Killable:
        """The same elsewhere."""
        shutil.copytree(self.folder, folder)
        return Killable(folder, {**self.variables, "PYTHONPATH": str(folder)})

    def start(self, *options: str, targets: Sequence[str] = ("results/kill/samples.nc",)) -> subprocess.Popen[str]:
        """Snakemake in a process group of its own, all of its output in one pipe."""
        target = targets if "--unlock" not in options else []
        call = [
            sys.executable,
            "-m",
            "snakemake",
            "--cores",
            "2",
            "--config",
            "runs=[kill.yaml]",
            *options,
            "--",
            *target,
        ]
        return subprocess.Popen(
            call, cwd=self.folder, env=self.environment, text=True, stdout=-1, stderr=-2, start_new_session=True
        )

    def snakemake(self, *options: str, plan: str = "", **targets: Sequence[str]) -> tuple[int, str]:
        """Exit status and output of one call, in which what is planned happens."""
        (self.folder / "plan").write_text(plan)
        process = self.start(*options, **targets)
        try:
            text, _ = process.communicate(timeout=TIME_LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        assert not (self.folder / "plan").read_text(), f"not all of it happened: {text}"
        return process.returncode, text

    def artefacts(self) -> dict[str, bytes]:
        return {name: (self.folder / "results/kill" / name).read_bytes() for name in ARTEFACTS}

    def calls(self, where: str) -> list[int]:
        """How often each process called it, in order."""
        lines = [line.split() for line in (self.folder / "trace").read_text().splitlines()]
        return list(Counter(process for name, process in lines if name == where).values())

    def leftovers(self) -> list[Path]:
        return [path for path in (self.folder / "results").rglob("*") if path.name.startswith(".tmp")]


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Killable:
    """The repository as it is now: what all runs of this module are made of, never run itself."""
    folder = tmp_path_factory.mktemp("snapshot") / "copy"
    variables = copy_repository(folder)
    shutil.copy(Path(__file__).parents[1] / "stages" / "faults.py", folder)
    Place(folder).write(RUN, "kill")
    (folder / "trace").touch()
    return Killable(folder, variables)


@pytest.fixture
def killed(snapshot: Killable, tmp_path: Path) -> Killable:
    """A run that is to be killed."""
    return snapshot.copy(tmp_path / "copy")


@pytest.fixture(scope="module")
def straight(snapshot: Killable, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The artefacts of the run that nothing interrupts, made by the commands alone."""
    left = snapshot.copy(tmp_path_factory.mktemp("straight") / "copy")
    call = [sys.executable, "-c", STRAIGHT, "dataset", "train", "sample"]
    subprocess.run(call, cwd=left.folder, env=left.environment, check=True, timeout=TIME_LIMIT)
    assert left.calls("guidance") == [3 * PER_OBSERVATION]
    return left.artefacts()


@pytest.mark.slow
@pytest.mark.timeout(2 * TIME_LIMIT)
def test_a_job_that_is_killed_is_tried_again_from_its_state(
    straight: dict[str, bytes], killed: Killable, record_property: Callable[[str, object], None]
) -> None:
    """SIGKILL to the job alone, as an out-of-memory killer does, in a step and in a write, and a SIGTERM."""
    plan = ["loss 4 die", "model.pt 1 die", f"guidance {PER_OBSERVATION + 3} term", "samples.nc 1 die"]
    status, text = killed.snakemake(plan="\n".join(plan))
    assert status == 0, text
    assert killed.artefacts() == straight
    first, second = killed.calls("loss")  # the third process finds all steps done
    assert first == 4 and second == killed_calls(straight) - 3, "it went on after the third step, the last one saved"
    assert killed.calls("guidance") == [PER_OBSERVATION + 3, 2 * PER_OBSERVATION]
    assert "Trying to restart job" in text
    assert not killed.leftovers()
    record_property("kills", "\n".join(plan).count("die"))


def killed_calls(straight: dict[str, bytes]) -> int:
    """Loss calls of a whole training: one for each step, and the batches of the validation at the end."""
    import io

    import xarray as xr

    with xr.open_dataset(io.BytesIO(straight["data.nc"]), engine="h5netcdf") as data:
        n_validation = int((data["split"] == "validation").sum())
    return N_STEPS + -(-n_validation // IMAGING["train"]["optimisation"]["batch_size"])


@pytest.mark.slow
@pytest.mark.timeout(4 * TIME_LIMIT)
def test_killed_with_its_snakemake_it_resumes_at_the_next_call(
    straight: dict[str, bytes], killed: Killable, record_property: Callable[[str, object], None]
) -> None:
    """SIGKILL to all of it, in the writing of data, in a step of training and of sampling.

    Snakemake's own lock survives a SIGKILL: `snakemake --unlock` takes it away, as Snakemake says and the profile too.
    """
    plans = ("data.nc 1 kill", "loss 7 kill", f"guidance {2 * PER_OBSERVATION + 5} kill")
    for plan in plans:
        status, text = killed.snakemake("--rerun-incomplete", *(["--nolock"] if plan[0] != "d" else []), plan=plan)
        assert status == -signal.SIGKILL, text
    status, text = killed.snakemake("--rerun-incomplete")
    assert status == 1 and "It can be removed with the --unlock argument." in text
    assert killed.snakemake("--unlock")[0] == 0
    status, text = killed.snakemake("--rerun-incomplete")
    assert status == 0, text
    assert killed.artefacts() == straight
    assert killed.calls("loss") == [7, killed_calls(straight) - 6]
    assert killed.calls("guidance") == [2 * PER_OBSERVATION + 5, PER_OBSERVATION]
    assert not killed.leftovers()
    record_property("kills", len(plans))


@pytest.mark.soak
@pytest.mark.timeout(4 * TIME_LIMIT)
def test_children_that_are_together_go_on_where_they_were_killed(
    snapshot: Killable, killed: Killable, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """In the second of three, which one process samples: the first is put back, the second resumed."""
    sizes = (2, 3, 4)  # a tile each
    swept = change(RUN, {"sweep": {"sample.n_samples": list(sizes)}, "resources": {"sample": {"together": 3}}})
    files = [f"results/kill~sample.n_samples={n}/samples.nc" for n in sizes]
    left = snapshot.copy(tmp_path / "left")
    for each in (left, killed):
        Place(each.folder).write(swept, "kill")
    status, text = left.snakemake(targets=files)
    assert status == 0, text
    in_all = 3 * PER_OBSERVATION  # of one child
    assert left.calls("guidance") == [3 * in_all]
    at = in_all + PER_OBSERVATION + 5  # in its second observation
    status, text = killed.snakemake(plan=f"guidance {at} die", targets=files)
    assert status == 0 and "Trying to restart job" in text, text
    assert killed.calls("guidance") == [at, 2 * in_all - PER_OBSERVATION]
    assert [(killed.folder / file).read_bytes() for file in files] == [
        (left.folder / file).read_bytes() for file in files
    ]
    assert not killed.leftovers()
    record_property("kills", 1)


KILLS = 8  # of each seed, and
PER_STAGE = 5  # of each stage: with one of a group, and the 35 of tests/training, 85


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(3))
def test_killed_again_and_again_at_any_moment(
    seed: int, straight: dict[str, bytes], killed: Killable, record_property: Callable[[str, object], None]
) -> None:
    """Start-up, reading, steps, checkpoints, writes, joining of shards: whatever is going on when the signal comes.

    A run that comes to its end first is compared and begun anew.
    """
    moments, n_kills, n_ends = random.Random(seed), 0, 0
    (killed.folder / "plan").touch()
    while n_kills < KILLS or n_ends == 0:
        process = killed.start("--rerun-incomplete", "--nolock")
        patience = moments.uniform(2, 12) + n_kills if n_kills < KILLS else TIME_LIMIT  # later ones get further
        try:
            text, _ = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            n_kills += 1
            assert n_kills <= KILLS, "the last one was not to be killed"
            continue
        assert process.returncode == 0, text
        assert killed.artefacts() == straight
        assert not killed.leftovers()
        n_ends += 1
        shutil.rmtree(killed.folder / "results")
    record_property("kills", n_kills)


STAGES = {
    "dataset": ("data.nc",),
    "train": ("model.pt",),
    "sample": ("samples.nc",),
    "evaluate": ("metrics.csv", "metrics.nc"),
    "report": ("report.html",),
}


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_killed_at_any_moment_of_its_work(
    stage: str, built: Place, snapshot: Killable, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The command alone, between its first line in the journal and its end: what is there is whole, or is not there."""
    place, moments, n_kills = Place(built.copy(tmp_path / "copy")), random.Random(stage), 0
    results = place.results("imaging")
    files, journal = [results / name for name in STAGES[stage]], results / ".state" / stage / FILE
    call = [sys.executable, "-m", "sciflow.cli", stage, "imaging.yaml"]

    def begun() -> subprocess.Popen[bytes]:
        if all(file.exists() for file in files):  # it came to its end: all anew
            place.forget("imaging")
        for file in files:
            file.unlink(missing_ok=True)
        journal.unlink(missing_ok=True)
        return subprocess.Popen(call, cwd=place.folder, env=snapshot.environment, stderr=subprocess.DEVNULL)

    assert begun().wait(TIME_LIMIT) == 0
    straight = [file.read_bytes() for file in files]
    start, *_, end = (datetime.fromisoformat(line["time"]) for line in read(journal))
    for _ in range(10 * PER_STAGE):  # some come to their end first
        process = begun()
        while process.poll() is None and not journal.is_file():
            time.sleep(0.001)
        time.sleep(moments.uniform(0, (end - start).total_seconds()))
        process.kill()
        n_kills += process.wait() == -signal.SIGKILL
        assert all(not file.exists() or file.read_bytes() == made for file, made in zip(files, straight, strict=True))
        if n_kills == PER_STAGE:
            break
    assert n_kills == PER_STAGE
    assert begun().wait(TIME_LIMIT) == 0
    assert [file.read_bytes() for file in files] == straight
    assert not [path for path in results.rglob("*") if path.name.startswith(".tmp")]
    record_property("kills", n_kills)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 160 kB, where mounting is allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine does not let us mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_leaves_the_previous_artefact_whole(stage: str, built: Place, tiny_disk: Path) -> None:
    out = tiny_disk / STAGES[stage][0]
    previous = b"an artefact of an earlier run"
    out.write_bytes(previous)
    (tiny_disk / "filler").write_bytes(bytes(100_000 if stage in ("dataset", "report") else 150_000))
    outcome = built.sciflow(stage, "imaging.yaml", "--out", out)
    assert outcome.status == 1, outcome.text
    assert "disk full; the previous file, if any, is whole. Free space and run the same command again" in outcome.text
    assert len(outcome.text.splitlines()) == 1
    assert out.read_bytes() == previous
    assert not [path for path in tiny_disk.rglob("*") if path.name.startswith(".tmp")]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("stage", STAGES)
def test_a_write_that_fails_leaves_the_previous_artefact_whole(
    stage: str, code: int, copied: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that fails as a disk, a quota or a cable does; afterwards the same command ends well."""
    from sciflow.data import store

    out = copied.results("imaging") / STAGES[stage][0]
    before = out.read_bytes()

    def failing(path: Path) -> None:
        raise OSError(code, os.strerror(code), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(store, "_flush", failing)
        outcome = copied.sciflow(stage, "imaging.yaml")
    assert outcome.status == 1
    assert ("disk full" in outcome.text) == (code != errno.EIO)
    assert "Nothing finished is lost." in outcome.text
    assert out.read_bytes() == before
    assert not [path for path in copied.folder.rglob("*") if path.name.startswith(".tmp")]
    if code == errno.ENOSPC and stage != "report":
        assert copied.sciflow(stage, "imaging.yaml").status == 0
        assert out.read_bytes() == before


@pytest.mark.slow
def test_a_terminated_command_exits_with_75(built: Place, tmp_path: Path) -> None:
    """The signal comes from outside, as a scheduler sends it; the state it leaves is taken up again."""
    place = Place(built.copy(tmp_path / "copy"))
    place.write(change(IMAGING, {"train.optimisation.n_steps": 100_000}), "imaging")
    process = subprocess.Popen(
        [sys.executable, "-m", "sciflow.cli", "train", "imaging.yaml"], cwd=place.folder, text=True, stderr=-1
    )
    key = place.results("imaging") / ".state/train"
    while not (key / "holder").is_file() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(2)  # into the loop: the signal is caught there
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert "out of time: run imaging, train: training stopped after step " in said
    assert list(key.glob("*/checkpoint.pt")) and "OutOfTime" in (key / "log").read_text()
