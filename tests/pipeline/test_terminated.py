"""Ended from outside: SIGTERM and the time limit end every stage with 75, SIGKILL alone asks for more memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sciflow.data import store
from sciflow.errors import KILLED
from sciflow.memory import megabytes
from sciflow.search.grids import DynamicProgramming
from sciflow.stages import mixtures
from tests.tiny import ANALYTIC, IMAGING, ROOT, Outcome, Place, change

TIME_LIMIT = 400  # seconds for one command: two ranks take 12 CPU s, and a shared core may be ten times slower
FAULTS = str(ROOT / "tests" / "stages" / "faults.py")
MIXTURE = {"kind": "mixture", "n_components": 2, "n_directions": 4, "n_iterations": 3}
SEARCH = {"kind": "dynamic_programming", "n_candidates": 12, "n_samples": 4}
SHARDS = {"sample": "part{}.nc", "evaluate": "part{}.csv"}


def asked(place: Place, name: str = "imaging") -> list[int]:
    """Memory of the next attempt of every stage (and shard) that has a state."""
    states = sorted((place.results(name) / ".state").glob("*/"))
    assert states
    return [megabytes(1000, state, 2) for state in states]


@pytest.fixture
def awaited() -> Iterator[None]:
    """A SIGTERM that nobody hears is an error, and does not end the tests."""

    def unheard(*_: object) -> None:
        raise AssertionError("the command does not listen")

    before = signal.signal(signal.SIGTERM, unheard)
    yield
    signal.signal(signal.SIGTERM, before)


def terminated_in(place: Place, owner: object, name: str, *command: str) -> Outcome:
    """A command that gets SIGTERM when it first calls a function."""
    with pytest.MonkeyPatch.context() as patch:
        called = getattr(owner, name)

        def calling(*arguments: object, **options: object) -> object:
            patch.setattr(owner, name, called)
            os.kill(os.getpid(), signal.SIGTERM)
            return called(*arguments, **options)

        patch.setattr(owner, name, calling)
        return place.sciflow(*command)


STAGES = {
    "dataset": ({}, store, "_flush", "data.nc"),
    "train": ({}, store, "_flush", "model.pt"),
    "mixture": ({"train": MIXTURE}, mixtures, "fit_mixture", "model.pt"),
    "search": ({"sample.search": SEARCH}, DynamicProgramming, "__call__", "samples.nc"),
    "sample": ({}, store, "_flush", "samples.nc"),
    "evaluate": ({}, store, "_flush", "metrics.csv"),
    "report": ({}, store, "_flush", "report.html"),
}
COMMANDS = {"mixture": "train", "search": "sample"}


@pytest.mark.usefixtures("awaited")
@pytest.mark.parametrize("case", STAGES)
def test_sigterm_ends_every_stage_with_75_and_asks_for_no_more_memory(case: str, copied: Place) -> None:
    changes, owner, function, artefact = STAGES[case]
    stage = COMMANDS.get(case, case)
    copied.write(change(IMAGING, changes), "imaging")
    assert copied.sciflow(stage, "imaging.yaml").status == 0
    out = copied.results("imaging") / artefact
    before = out.read_bytes()
    outcome = terminated_in(copied, owner, function, stage, "imaging.yaml")
    assert outcome.status == 75, outcome.text
    assert "un the same command again" in outcome.text
    assert not list(copied.results("imaging").glob(".state/*/holder"))
    assert set(asked(copied)) == {1000}
    assert out.read_bytes() == before
    assert not [path for path in copied.folder.rglob("*") if path.name.startswith(".tmp")]
    if case != "report":  # whose page tells when its inputs were written
        assert copied.sciflow(stage, "imaging.yaml").status == 0
        assert out.read_bytes() == before


@pytest.mark.usefixtures("awaited")
@pytest.mark.parametrize("stage", SHARDS)
def test_sigterm_in_the_joining_of_shards_leaves_them(stage: str, copied: Place) -> None:
    parts = [SHARDS[stage].format(k) for k in (1, 2)]
    for k, part in enumerate(parts, start=1):
        assert copied.sciflow(stage, "imaging.yaml", "--shard", f"{k}/2", "--out", part).status == 0
    call = (stage, "imaging.yaml", "--gather", *parts, "--out", f"joined{Path(parts[0]).suffix}")
    outcome = terminated_in(copied, store, "_flush", *call)
    assert outcome.status == 75, outcome.text
    assert not list(copied.folder.rglob("holder")) and not list(copied.folder.glob("joined*"))
    assert copied.sciflow(*call).status == 0


@pytest.mark.usefixtures("awaited")
@pytest.mark.parametrize("case", ["dataset", "mixture", "search", "evaluate"])
def test_work_that_keeps_nothing_ends_before_its_time_limit(case: str, copied: Place) -> None:
    stage = COMMANDS.get(case, case)
    copied.write(change(IMAGING, STAGES[case][0]), "imaging")
    if case == "search":
        assert copied.sciflow("sample", "imaging.yaml").status == 0
    outcome = copied.sciflow(stage, "imaging.yaml", "--time-limit", "1e-9")
    assert outcome.status == 75, outcome.text
    assert outcome.text.startswith(f"stopped: run imaging, {stage}: the time limit is near, and nothing is kept")
    assert f"raise resources.{stage}.runtime" in outcome.text
    assert not list(copied.results("imaging").glob(".state/*/holder"))


@dataclass(frozen=True)
class Faulty:
    """Commands in processes of their own, in which what is planned happens."""

    place: Place

    def run(self, plan: str, *command: str) -> tuple[int, str]:
        """Exit status and what was said."""
        (self.place.folder / "plan").write_text(plan)
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "FAULTY_WRITES": "1"}
        call = [sys.executable, "-m", "sciflow.cli", *command]
        done = subprocess.run(
            call, cwd=self.place.folder, env={**variables, "KEPT_AT_ONCE": "1"}, text=True, stdout=-1, stderr=-2,
            timeout=TIME_LIMIT, check=False,
        )  # fmt: skip
        assert not (self.place.folder / "plan").read_text(), done.stdout
        return done.returncode, done.stdout

    def calls(self, where: str) -> list[int]:
        """How often each process called it, in the order of their first calls; forgotten then."""
        trace = self.place.folder / "trace"
        found = Counter(line.split()[1] for line in trace.read_text().splitlines() if line.split()[0] == where)
        trace.write_text("")
        return list(found.values())


@pytest.fixture
def faulty(place: Place) -> Faulty:
    """In a folder that is empty but for the notes of the plugin."""
    (place.folder / "trace").touch()
    return Faulty(place)


@pytest.mark.slow
@pytest.mark.timeout(2 * TIME_LIMIT)
@pytest.mark.parametrize(
    ("stage", "files"), {"evaluate": ["metrics.csv", "metrics.nc"], "report": ["report.html"]}.items()
)
def test_a_stage_that_keeps_nothing_is_killed_while_it_writes(
    stage: str, files: list[str], copied: Place, record_property: Callable[[str, object], None]
) -> None:
    """By SIGKILL, and evaluate by SIGTERM from there on: the first alone asks for memory; both begin anew."""
    place, faulty = copied, Faulty(copied)
    place.write({**IMAGING, "plugins": [FAULTS]}, "imaging")
    assert place.sciflow(stage, "imaging.yaml").status == 0
    made = [place.results("imaging") / name for name in files]
    straight = [file.read_bytes() for file in made]
    state = place.results("imaging") / ".state" / stage
    status, said = faulty.run(f"{files[-1]} 1 die", stage, "imaging.yaml")
    assert status == -signal.SIGKILL, said
    assert [file.read_bytes() for file in made] == straight, "what was there is whole"
    assert (state / "holder").is_file() and megabytes(1000, state, 2) == 2000
    if stage == "evaluate":
        status, said = faulty.run(f"{files[0]} 1 term", stage, "imaging.yaml")
        assert status == 75, said
        assert not (state / "holder").is_file() and megabytes(1000, state, 3) == 2000, "no more than after one kill"
    for file in made:
        file.unlink()
    assert place.sciflow(stage, "imaging.yaml").status == 0
    assert [file.read_bytes() for file in made] == straight
    assert megabytes(1000, state, 4) == 1000
    assert not [path for path in place.folder.rglob("*") if path.name.startswith(".tmp")]
    record_property("kills", 1)


@pytest.mark.slow
@pytest.mark.timeout(4 * TIME_LIMIT)
def test_a_training_of_two_ranks_survives_the_loss_of_one_and_a_sigterm(
    faulty: Faulty, record_property: Callable[[str, object], None]
) -> None:
    """SIGKILL to the second rank, then SIGTERM to the launcher: the same model as that of two ranks left alone."""
    n_steps, place = 8, faulty.place
    changes = {"n_steps": n_steps, "validate_every": n_steps, "checkpoint_every": 0}
    values = change(IMAGING, {f"train.optimisation.{key}": value for key, value in changes.items()})
    values = {**change(values, {"train.loss": {"kind": "faulty"}}), "plugins": [FAULTS]}
    file = place.write({**values, "resources": {"train": {"ranks": 2}}}, "two")
    assert place.sciflow("dataset", file).status == 0
    status, said = faulty.run("", "train", file)
    assert status == 0, said
    assert "2 ranks work together" in said and "FutureWarning" not in said
    first, second = faulty.calls("loss")
    model, state = place.results("two") / "model.pt", place.results("two") / ".state/train"
    straight = model.read_bytes()
    model.unlink()
    place.forget("two")
    status, said = faulty.run("loss@1 3 die", "train", file)
    assert status == KILLED, said
    assert max(faulty.calls("loss")) == 3
    status, said = faulty.run("loss@1 3 stop", "train", file)
    assert status == 75, said
    assert not (state / "holder").is_file()
    assert faulty.calls("loss") == [3, 3], "steps 3 to 5"
    assert not model.exists()
    status, said = faulty.run("", "train", file)
    assert status == 0, said
    assert sorted(faulty.calls("loss")) == sorted([first - 5, second - 5])
    assert model.read_bytes() == straight
    record_property("kills", 1)


@pytest.mark.slow
@pytest.mark.timeout(3 * TIME_LIMIT)
def test_an_ensemble_of_two_ranks_survives_the_loss_of_one_and_a_sigterm(
    faulty: Faulty, record_property: Callable[[str, object], None]
) -> None:
    """SIGKILL to the second rank, SIGTERM to the launcher of two more, and one process alone that ends it."""
    place, n_steps = faulty.place, 5
    posterior = {"kind": "faulty", "n_particles": 40, "tile": 8}
    changes = {"sample.posteriors": {"SMC": posterior}, "sample.tile": 8, "dataset.n_problems": 1}
    values = {**change(ANALYTIC, changes), "plugins": [FAULTS]}
    straight = (place.build(values, "two", until="sample") / "samples.nc").read_bytes()
    (n_all,) = faulty.calls("step")
    file = place.write({**values, "resources": {"sample": {"ranks": 2}}}, "two")
    samples, state = place.results("two") / "samples.nc", place.results("two") / ".state/sample"
    samples.unlink()
    place.forget("two")
    status, said = faulty.run("step@1 3 die", "sample", file)
    assert status == 128 + signal.SIGKILL, said
    assert {path.name.rpartition(".pt.")[2] for path in state.glob("*/ensemble-*")} == {"2.0of2", "2.1of2"}
    assert max(faulty.calls("step")) == 3
    status, said = faulty.run("step@1 2 stop", "sample", file)
    assert status == 75, said
    assert not (state / "holder").is_file()
    assert faulty.calls("step") == [2, 2], "steps 3 and 4"
    assert {path.name.rpartition(".pt.")[2] for path in state.glob("*/ensemble-*")} == {"4.0of2", "4.1of2"}
    assert place.sciflow("sample", place.write(values, "two")).status == 0
    assert faulty.calls("step") == [n_all - 4]
    assert samples.read_bytes() == straight and n_all > n_steps - 1
    record_property("kills", 1)
