"""A sweep on the disk: every child has its place in the grid, built or not, and nothing is passed over."""

from __future__ import annotations

import math
import subprocess
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import sciflow
from sciflow.catalogue import leaves
from sciflow.errors import InputError
from sciflow.results import look
from sciflow.runs import Run, label, resolve
from sciflow.yamlfile import text

TOY: dict[str, Any] = {
    "domain": "analytic",
    "seed": 0,
    "dataset": {"kind": "mixture_grid"},
    "train": {"kind": "closed_form", "schedule": {"kind": "cosine"}},
    "sample": {"times": {"kind": "karras", "n_steps": 5}, "precision": "float64"},
    "evaluate": {},
    "report": {},
}
STEPS, SIGMAS = [40, 5, 10], [0.5, 0.25]  # not in order
TWO = {"sample.times.n_steps": STEPS, "sample.times.sigma": SIGMAS}
HEAD = "run,posterior,metric,value,stderr,n,unit,note\n"


def family(folder: Path, sweep: dict[str, Any], base: str = "toy") -> dict[str, Run]:
    """The runs of a sweep, none of them on the disk."""
    file = folder / f"{base}.yaml"
    file.write_text(text({**TOY, "sweep": sweep}))
    return resolve(file)


def score(run: Run) -> float:
    """A number that only this child has."""
    return sum(zlib.crc32(label(value).encode()) % 1000 / 7 for _, value in run.assignments) + len(run.name)


def build(folder: Path, runs: Iterable[Run], metrics: bool = True, recorded: bool = True) -> None:
    """run.yaml, and if asked for metrics.csv, as the workflow lays them out."""
    for run in runs:
        (folder / run.name).mkdir(parents=True, exist_ok=True)
        values = {key: value for key, value in run.values.items() if recorded or key != "sweep"}
        (folder / run.name / "run.yaml").write_text(text(values))
        if metrics:
            rows = [
                f'"{run.name}",{sampler},error,{score(run) + k!r},{0.5 + k},{10 + k},nat,\n'
                for k, sampler in enumerate("ab")
            ]
            (folder / run.name / "metrics.csv").write_text(HEAD + "".join(rows))


def assert_placed(dataset: Any, runs: Iterable[Run]) -> None:
    """Each child's number stands at its swept values."""
    for run in runs:
        at = dataset.sel({**dict(run.assignments), "metric": "error"})
        assert str(at["run"].item()) == run.name and bool(at["is_built"])
        for k, sampler in enumerate("ab"):
            one = at.sel(posterior=sampler)
            assert (float(one["value"]), float(one["stderr"]), int(one["n"])) == (score(run) + k, 0.5 + k, 10 + k)


@pytest.mark.parametrize("recorded", [True, False], ids=["planned", "by its children alone"])
def test_a_sweep_opens_over_its_keys(recorded: bool, tmp_path: Path) -> None:
    runs = leaves(family(tmp_path, TWO))
    build(tmp_path, runs, recorded=recorded)
    tree = sciflow.open(tmp_path / "toy")  # the base has no folder of its own yet
    dataset = tree["sweep"].to_dataset()
    assert dict(dataset.sizes) == {"sample.times.n_steps": 3, "sample.times.sigma": 2, "posterior": 2, "metric": 1}
    assert dataset["sample.times.n_steps"].to_numpy().tolist() == sorted(STEPS), "numbers, in order"
    assert dataset["sample.times.sigma"].to_numpy().tolist() == sorted(SIGMAS)
    assert_placed(dataset, runs)
    assert not dataset.attrs["missing"] and not dataset.attrs["left_out"]
    assert dataset.attrs["is_planned"] == recorded
    assert dataset["unit"].to_numpy().tolist() == ["nat"]


def test_children_that_are_not_built_are_nan_and_named(tmp_path: Path) -> None:
    """One not begun, one begun, and a value of which nothing has begun: the plan knows it."""
    runs = leaves(family(tmp_path, TWO))
    begun, *rest = [run for run in runs if dict(run.assignments)["sample.times.n_steps"] != 40]
    build(tmp_path, rest[1:])
    build(tmp_path, [begun], metrics=False)
    tree = sciflow.open(tmp_path / "toy")
    dataset = tree["sweep"].to_dataset()
    missing = {run.name for run in runs} - {run.name for run in rest[1:]}
    assert len(missing) == 4 and set(dataset.attrs["missing"].splitlines()) == missing
    assert {f"{name} (child)" for name in missing} <= set(tree.sciflow.missing)
    assert_placed(dataset, rest[1:])
    at = dataset.sel({"sample.times.n_steps": 40})
    assert bool(at["value"].isnull().all()) and bool(at["stderr"].isnull().all()) and int(abs(at["n"]).max()) == 0
    assert int(dataset["is_built"].sum()) == 2
    for run in runs:
        assert str(dataset["run"].sel(dict(run.assignments)).item()) == run.name


def test_without_a_plan_the_grid_is_what_the_children_span(tmp_path: Path) -> None:
    runs = leaves(family(tmp_path, TWO))
    corner = next(run for run in runs if dict(run.assignments) == dict(zip(TWO, (5, 0.5), strict=True)))
    rest = [run for run in runs if run is not corner]
    build(tmp_path, rest, recorded=False)
    dataset = sciflow.open(tmp_path / "toy")["sweep"].to_dataset()
    assert dataset.attrs["missing"].splitlines() == [corner.name] and not dataset.attrs["is_planned"]
    assert_placed(dataset, rest)


def test_a_sweep_that_grew_shrank_or_turned_loses_no_child(tmp_path: Path) -> None:
    """Older children keep their place, over the same keys; over others they are named."""
    old = leaves(family(tmp_path, {"sample.times.n_steps": [5, 10]}))
    new = family(tmp_path, {"sample.times.n_steps": [10, 20]})
    other = leaves(family(tmp_path, {"sample.precision": ["float32", "float64"]}))
    build(tmp_path, [*old, new["toy"]])
    build(tmp_path, other, recorded=False)
    (tmp_path / "toy~stray=1").mkdir()
    dataset = sciflow.open(tmp_path / "toy")["sweep"].to_dataset()
    assert dataset["sample.times.n_steps"].to_numpy().tolist() == [5, 10, 20]
    assert_placed(dataset, old)
    assert dataset.attrs["missing"] == "toy~sample.times.n_steps=20"
    left_out = dataset.attrs["left_out"].splitlines()
    assert sorted(left_out) == [
        "toy~sample.precision=float32 (swept over sample.precision)",
        "toy~sample.precision=float64 (swept over sample.precision)",
        "toy~stray=1 (no run.yaml)",
    ]


def test_values_that_are_no_numbers_stand_by_their_label(tmp_path: Path) -> None:
    """Mappings, words and names with a slash, which a tree would read as a group."""
    times = [{"kind": "karras", "n_steps": 3}, {"kind": "uniform", "n_steps": 4}]
    sweep = {"sample.times": times, "sample.a/b": ["x", "y"]}
    build(tmp_path, leaves(family(tmp_path, sweep)))
    dataset = sciflow.open(tmp_path / "toy")["sweep"].to_dataset()
    assert dataset["sample.times"].to_numpy().tolist() == ["karras,n_steps=3", "uniform,n_steps=4"]
    assert dataset["sample.a∕b"].to_numpy().tolist() == ["x", "y"]
    assert bool(dataset["is_built"].all())


def test_a_run_between_base_and_children_shows_its_part(tmp_path: Path) -> None:
    runs = family(tmp_path, {"seed": [0, 1], "sample.times.n_steps": [5, 10]})
    build(tmp_path, leaves(runs))
    build(tmp_path, [runs["toy~seed=1"]], metrics=False)
    dataset = sciflow.open(tmp_path / "toy~seed=1")["sweep"].to_dataset()
    assert dataset["seed"].to_numpy().tolist() == [1] and dataset.sizes["sample.times.n_steps"] == 2
    assert_placed(dataset, [run for run in leaves(runs) if dict(run.assignments)["seed"] == 1])
    assert not dataset.attrs["left_out"]
    last = look(tmp_path / leaves(runs)[0].name)
    assert last.sweep is None and str(last.files["metrics"].parent.name) == leaves(runs)[0].name


def test_long_names_are_found_by_their_digest(tmp_path: Path) -> None:
    sweep = {f"sample.{'x' * 90}_{k}": [1, 2] for k in range(2)}
    runs = leaves(family(tmp_path, sweep))
    assert all(len(run.name) < 100 for run in runs)
    build(tmp_path, runs[1:])
    dataset = sciflow.open(tmp_path / "toy")["sweep"].to_dataset()
    assert_placed(dataset, runs[1:])
    assert dataset.attrs["missing"] == runs[0].name


def test_a_stage_of_a_child_is_found_where_it_was_built(tmp_path: Path) -> None:
    runs = family(tmp_path, {"train.schedule.kind": ["cosine", "edm"], "sample.times.n_steps": [5]})
    build(tmp_path, runs.values(), metrics=False)
    child = leaves(runs)[0]
    places = {"data.nc": "toy", "model.pt": "toy~train.schedule.kind=cosine", "samples.nc": child.name}
    for file, owner in places.items():
        (tmp_path / owner / file).touch()
    found = look(tmp_path / child.name)
    assert {path.name: path.parent.name for path in found.files.values()} == places
    assert found.missing == (
        "metrics.csv (stage evaluate)",
        "metrics.nc (stage evaluate)",
        "report.html (stage report)",
    )


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("domain: analytic\n", "name must be that of its folder, got None"),
        ("name: ../../etc\n", "name must be that of its folder, got '../../etc'"),
        ("name: toy\nswept: 3\n", "swept must map dotted keys"),
        ("name: toy\nswept: {resources.x: 3}\n", "swept must map dotted keys"),
        ("name: toy\nsweep: {seed: 3}\n", "sweep must map dotted keys"),
        ("name: toy\nsweep: {seed: []}\n", "sweep must map dotted keys"),
        ("name: [\n", "not valid YAML"),
        ("name: !!python/object/apply:os.mkdir [sprung]\n", "not valid YAML"),
        (
            "name: toy\nsweep: {"
            + ", ".join(f"sample.k{k}: [{', '.join(map(str, range(100)))}]" for k in range(6))
            + "}\n",
            "plans 1000000000000 children, at most 100000 are read",
        ),
    ],
    ids=["run file", "way out", "swept", "key", "plan", "empty", "broken", "code", "bomb"],
)
def test_a_run_yaml_that_is_none_is_refused(written: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "run.yaml").write_text(written)
    with pytest.raises(InputError) as caught:
        sciflow.open(tmp_path / "toy")
    assert said in str(caught.value) and len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "sprung").exists()


def test_two_hundred_children_open_without_reading_each_run_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan of one names them all: a run.yaml takes ten times longer to read than a table."""
    runs = family(tmp_path, {"sample.times.n_steps": list(range(1, 51)), "sample.times.sigma": [0.1, 0.2, 0.3, 0.4]})
    build(tmp_path, leaves(runs))
    read: list[Path] = []
    original = sciflow.results.load  # type: ignore[attr-defined]
    monkeypatch.setattr("sciflow.results.load", lambda file: read.append(file) or original(file))
    dataset = sciflow.open(tmp_path / "toy")["sweep"].to_dataset()
    assert int(dataset["is_built"].sum()) == 200 and len(read) == 1
    assert_placed(dataset, leaves(runs)[::37])
    total = math.fsum(2 * score(run) + 1 for run in leaves(runs))
    assert math.isclose(float(dataset["value"].sum()), total, rel_tol=1e-12)  # 400 sums in float64


def test_looking_loads_neither_torch_nor_xarray(tmp_path: Path) -> None:
    build(tmp_path, leaves(family(tmp_path, TWO)))
    program = (
        "import sys; from sciflow.results import look; "
        f"found = look({str(tmp_path / 'toy')!r}); assert len(found.sweep.built) == 6; "
        "assert not {'torch', 'xarray', 'pydantic', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
