"""Several runs of a sweep in one process: the same files, costs of each, and failures that stay with their run."""

from __future__ import annotations

import contextlib
import csv
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sciflow import devices, starting
from sciflow.data.store import provenance_path
from sciflow.errors import InputError, OutOfTime
from sciflow.resources import Resources
from sciflow.runs import STAGES, resolve
from sciflow.starting import one_after_another
from tests.tiny import ANALYTIC, PDE, Place, change, restored_tables

SWEEP = {"sweep": {"sample.n_samples": [8, 12, 16]}}
CHILDREN = [f"run~sample.n_samples={n}" for n in (8, 12, 16)]


def swept(place: Place, values: dict[str, Any]) -> list[str]:
    """A sweep whose data and model are there; run.yaml of each child."""
    place.build(values, until="train")
    file = place.write(change(values, SWEEP))
    for name, run in resolve(place.folder / file).items():
        folder = place.results(name)
        folder.mkdir(exist_ok=True)
        (folder / "run.yaml").write_text(run.text())
    return [f"results/{name}/run.yaml" for name in CHILDREN]


@pytest.fixture
def children(tmp_path: Path) -> tuple[Place, list[str]]:
    """A sweep of closed forms."""
    place = Place(tmp_path)
    return place, swept(place, ANALYTIC)


def test_several_runs_give_what_each_gives_alone(children: tuple[Place, list[str]]) -> None:
    place, runs = children
    begun = time.process_time()
    for stage in STAGES[2:]:
        assert place.sciflow("together", stage, *runs).status == 0
    spent = time.process_time() - begun
    found = [file for name in CHILDREN for file in place.results(name).iterdir() if file.suffix in (".nc", ".csv")]
    files = {file: file.read_bytes() for file in found}
    assert len(files) == 3 * 3  # samples.nc, metrics.csv and metrics.nc
    costs = [
        json.loads(provenance_path(file).read_text())["cpu_seconds"] for file in files if file.name != "metrics.nc"
    ]
    assert 0 < sum(costs[1:]) < spent  # each tells of its own seconds; those of the first count what was before it, too
    for name in CHILDREN:
        assert "</html>" in (place.results(name) / "report.html").read_text()
        place.forget(name)
    for file in files:
        file.unlink()
    for run in runs:
        for stage in ("sample", "evaluate"):
            assert place.sciflow(stage, run, "--out", Path(run).parent / starting.ARTEFACTS[stage]).status == 0
    assert {file: file.read_bytes() for file in files} == files


def test_what_one_run_lacks_stops_no_other(children: tuple[Place, list[str]], caplog: pytest.LogCaptureFixture) -> None:
    place, runs = children
    broken = place.folder / runs[1]
    broken.write_text(broken.read_text().replace("sigma: 0.5", "sigma: -0.5"))
    outcome = place.sciflow("together", "sample", *runs)
    assert outcome.status == 2
    assert "sigma" in caplog.text and f"{Path(runs[1])}" in caplog.text
    assert f"1 of 3 runs failed: {CHILDREN[1]}" in caplog.text
    assert [(place.results(name) / "samples.nc").is_file() for name in CHILDREN] == [True, False, True]


def test_finished_work_is_put_back(children: tuple[Place, list[str]]) -> None:
    """As where Snakemake deleted it, since another run of the job had failed."""
    place, runs = children
    assert place.sciflow("together", "sample", *runs).status == 0
    files = [place.results(name) / "samples.nc" for name in CHILDREN]
    kept = {file: file.stat().st_ino for file in files}
    for file in files[:2]:
        file.unlink()
    assert place.sciflow("together", "sample", *runs[:2]).status == 0
    assert {file: file.stat().st_ino for file in files} == kept


PLUGIN = """from dataclasses import replace
from sciflow.metrics import METRICS
base = METRICS["crps"]
METRICS["crps"] = lambda *args, **options: {
    name: replace(score, note=score.note + " wrapped") for name, score in base(*args, **options).items()
}
"""


def test_a_plugin_that_wraps_an_entry_wraps_it_once(place: Place) -> None:
    """As in a process of its own, for every child."""
    (place.folder / "mine.py").write_text(PLUGIN)
    with restored_tables():  # as where each of these commands is a process
        runs = swept(place, change(PDE, {"plugins": ["mine.py"], "evaluate": {"metrics": ["crps"]}}))
        assert place.sciflow("together", "sample", *runs).status == 0
    assert place.sciflow("together", "evaluate", *runs).status == 0
    for name in CHILDREN:
        with (place.results(name) / "metrics.csv").open(newline="") as file:
            notes = [row["note"] for row in csv.DictReader(file) if row["metric"] == "crps"]
        assert notes and all(note.count("wrapped") == 1 for note in notes), notes


def test_each_run_keeps_the_source_that_it_is_told(children: tuple[Place, list[str]]) -> None:
    """As the rules tell it: of a frozen run, that of its artefact. Work that is kept under it is put back."""
    place, runs = children
    told = ["--source", "old new newer"]
    assert place.sciflow("together", "sample", *runs, *told).status == 0
    files = [place.results(name) / "samples.nc" for name in CHILDREN]
    assert [json.loads(provenance_path(file).read_text())["source_digest"] for file in files] == told[1].split()
    kept = [file.stat().st_ino for file in files]
    for file in files:
        file.unlink()
    assert place.sciflow("together", "sample", *runs, *told).status == 0
    assert [file.stat().st_ino for file in files] == kept
    outcome = place.sciflow("together", "sample", *runs, "--source", "old new")
    assert outcome.status == 2 and "3 runs and 2 digests" in outcome.text


def test_no_time_is_left(children: tuple[Place, list[str]]) -> None:
    place, runs = children
    assert place.sciflow("together", "sample", *runs, "--time-limit", "0").status == 75
    assert not any((place.results(name) / "samples.nc").exists() for name in CHILDREN)


@pytest.mark.parametrize(
    ("error", "called", "expected"),
    [
        (InputError("no"), 3, SystemExit),
        (ZeroDivisionError("a bug"), 3, SystemExit),
        (OutOfTime("over"), 1, OutOfTime),
        (MemoryError(), 1, MemoryError),  # the next would be refused memory, too
        (KeyboardInterrupt(), 1, KeyboardInterrupt),
    ],
)
def test_what_ends_the_work_on_all(
    error: BaseException, called: int, expected: type[BaseException], children: tuple[Place, list[str]]
) -> None:
    place, runs = children
    given: list[dict[str, Any]] = []

    def work(file: Path, **options: Any) -> None:
        given.append({**options, "deadline": time.monotonic() + 60 * options["time_limit"] * (1 - starting.MARGIN)})
        time.sleep(0.3)
        raise error

    with pytest.raises(expected):
        one_after_another("sample", work, [place.folder / run for run in runs], limit=30.0)
    assert len(given) == called
    # one deadline, as far from the limit for the last as for the first; 0.05 s: a moment between two clocks
    assert given[-1]["deadline"] == pytest.approx(given[0]["deadline"], abs=0.05)
    assert given[0]["data"] == place.results() / "data.nc"
    assert given[0]["out"] == place.results(CHILDREN[0]) / "samples.nc"
    assert 29.9 < given[-1]["time_limit"] < 30.0  # of half an hour, less than six seconds are gone


def test_cards_are_held_for_all_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second claim would wait for the first, of the same process, for ever."""
    claims = []

    @contextlib.contextmanager
    def claimed(n: int, *rest: Any) -> Iterator[None]:
        claims.append(n)
        yield
        claims.append(-n)

    monkeypatch.setattr(devices, "claimed", claimed)
    for _ in range(2):
        with starting.held:
            for _ in range(3):
                starting._claim(2, None)
    assert claims == [2, -2, 2, -2]


def test_a_stage_that_is_none_is_refused(place: Place) -> None:
    outcome = place.sciflow("together", "sampling", "results/run/run.yaml")
    assert outcome.status == 2 and "must be one of" in outcome.text


def test_several_runs_and_several_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match="together is 4 with 2 ranks"):
        Resources(together=4, ranks=2)
