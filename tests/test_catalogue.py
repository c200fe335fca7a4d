"""What the Snakefile asks: which runs, from which files, checked how, and how fast."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sciflow import checking, runs
from sciflow.catalogue import Catalogue
from sciflow.errors import InputError
from sciflow.runs import STAGES
from sciflow.yamlfile import load, text
from tests.pipeline.conftest import ROOT, RUN, SCHEMA


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "runs").mkdir()
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "default.yaml").write_text("runs: [toy]\ndefaults: {resources: {train: {mem_mb: 5}}}\n")
    (tmp_path / "config" / "schema.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "runs" / "toy.yaml").write_text(RUN)
    (tmp_path / "runs" / "swept.yaml").write_text(RUN + "sweep: {seed: [0, 1]}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checking, "PROGRAM", "raise SystemExit(3)")  # as where torch is not installed
    return tmp_path


def test_runs_are_found_by_name_and_by_path(folder: Path) -> None:
    mine = folder / "mine.yaml"
    mine.write_text(RUN)
    catalogue = Catalogue(folder, {"runs": ["swept", str(mine)]})
    assert catalogue.asked == ["swept", "mine"]
    assert catalogue["mine"].file == mine
    assert catalogue["toy"].values["resources"] == {"train": {"mem_mb": 5}, "sample": {"shards": 2}}
    assert [run.name for run in catalogue.children("swept")] == ["swept~seed=0", "swept~seed=1"]
    assert [run.name for run in catalogue.children("toy")] == ["toy"]
    assert catalogue["swept~seed=1"].values["seed"] == 1


def test_smoke_takes_the_smoke_size_of_every_run(folder: Path) -> None:
    catalogue = Catalogue(folder, {"smoke": True})
    assert catalogue.asked == ["toy-smoke"]
    assert catalogue["toy-smoke"].values["train"]["n_steps"] == 1
    assert catalogue["toy"].values["train"]["n_steps"] == 5
    assert Catalogue(folder, {"smoke": "true"}).asked == ["toy-smoke"], "as --config gives it"
    assert Catalogue(folder, {"runs": "swept"}).asked == ["swept"]


def test_overrides_reach_the_runs_they_name(folder: Path) -> None:
    catalogue = Catalogue(folder, {"overrides": {"toy": {"seed": 5}, "every": {"train.n_steps": 7}}})
    assert (catalogue["toy"].values["seed"], catalogue["swept"].values["seed"]) == (5, 0)
    assert catalogue["swept"].values["train"]["n_steps"] == 7


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"runns": []}, "config: unknown key 'runns'.*Did you mean 'runs'"),
        ({"overrides": {"tyo": {}}}, "overrides: there is no run 'tyo'.*Did you mean 'toy'"),
        ({"overrides": {"toy": {"trian.n_steps": 1}}}, "overrides.toy: key .* no place.*Did you mean 'train'"),
        ({"overrides": {"toy": 3}}, "'toy' must be a mapping"),
        ({"runs": ["swepd"]}, "there is no run 'swepd', only .*Did you mean 'swept'"),
        ({"runs": ["nowhere/x.yaml"]}, "nowhere/x.yaml: cannot be read"),
    ],
)
def test_mistakes_in_the_settings(config: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(InputError, match=message):
        catalogue = Catalogue(folder, config)
        for name in catalogue.asked:
            catalogue.children(name)


def test_two_files_of_one_name_are_refused(folder: Path) -> None:
    (folder / "toy.yaml").write_text(RUN)
    with pytest.raises(InputError, match="have one name, 'toy'"):
        Catalogue(folder, {"runs": [str(folder / "toy.yaml")]})


def test_children_are_done_together_with_those_of_the_same_plugins(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / f"{name}.py").touch()
    sweep = "sweep: {plugins: [[a.py], [b.py]], seed: [0, 1, 2]}\n"
    together = RUN.replace("resources: {sample: {shards: 2}}", "resources: {sample: {together: 2}}")
    (folder / "runs" / "swept.yaml").write_text(together + sweep)
    catalogue = Catalogue(folder, {"runs": ["swept", "toy", "swept"]}, check=False)
    names = [run.name for run in catalogue.children("swept")]
    assert catalogue.batches("sample") == [names[:2], names[3:5]]  # the third of each is alone
    assert catalogue.batches("evaluate") == []


def test_an_unknown_child_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"no child 'swept~seed=9'.*Did you mean 'swept~seed="):
        Catalogue(folder)["swept~seed=9"]


def test_a_run_is_checked_before_it_is_handed_out(folder: Path) -> None:
    (folder / "runs" / "bad.yaml").write_text("domain: toy\ntrain: {n_steps: 0}\n")
    with pytest.raises(InputError, match=r"bad.yaml: train\.n_steps: 0 is less than the minimum of 1"):
        Catalogue(folder)["bad"]
    assert Catalogue(folder, check=False)["bad"].name == "bad", "a job of a checked workflow does not check again"


def test_a_wrong_value_in_any_place_of_a_sweep_is_found(folder: Path) -> None:
    (folder / "runs" / "bad.yaml").write_text(RUN + "sweep: {seed: [0, 1, 2], train.n_steps: [1, 2, 0]}\n")
    with pytest.raises(InputError, match=r"train\.n_steps"):
        Catalogue(folder)["bad"]


def test_a_missing_data_file_is_found(folder: Path) -> None:
    (folder / "runs" / "own.yaml").write_text(RUN.replace("{n_samples: 4}", "{kind: file, path: scan.nc}"))
    catalogue = Catalogue(folder)
    with pytest.raises(InputError, match=r"own.yaml: dataset names the file 'scan.nc', which is not there"):
        catalogue.check_files(["own"])
    (folder / "scan.nc").touch()
    catalogue.check_files(["own"])
    assert catalogue["own"].files("dataset") == ["scan.nc"]


@pytest.mark.parametrize("content", ['{"source_digest": "ab', "[1]", "1"])
def test_the_sidecar_of_a_frozen_run_that_was_cut_short_is_named(content: str, folder: Path) -> None:
    """Its stage is not run again in silence: freezing asks that it be kept."""
    (folder / "runs" / "toy.yaml").write_text(RUN + "freeze: true\n")
    (folder / "model.pt.provenance.json").write_text('{"source_digest": "abcd"}')
    assert Catalogue(folder).digest("toy", "train", folder / "model.pt") == "abcd"
    (folder / "model.pt.provenance.json").write_text(content)
    with pytest.raises(InputError, match=r"model\.pt\.provenance\.json is no JSON object .* run 'toy' is frozen"):
        Catalogue(folder).digest("toy", "train", folder / "model.pt")


def test_a_resolved_run_is_stored_under_its_content(folder: Path) -> None:
    catalogue = Catalogue(folder)
    file = catalogue.stored("swept~seed=1")
    assert file == catalogue.stored("swept~seed=1") != catalogue.stored("swept~seed=0")
    assert runs.read(file).values == catalogue["swept~seed=1"].values
    assert len(list(file.parent.iterdir())) == 2


def test_the_workflow_side_imports_neither_torch_nor_pydantic() -> None:
    program = (
        "import sys; import sciflow.catalogue; "
        f"c = sciflow.catalogue.Catalogue({str(ROOT / 'workflows')!r}, check=False); "
        "[c.digest(name, 'train') for name in c.files]; "
        "print({'torch', 'pydantic', 'xarray', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, text=True, capture_output=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr


def test_a_sweep_of_200_runs_is_parsed_in_half_a_cpu_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each shipped run with its real schema, swept over 200 seeds: resolved, recalled as checked, cut and digested."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checking, "PROGRAM", "")  # all are right
    (tmp_path / "runs").mkdir()
    for name in ("config",):
        (tmp_path / name).symlink_to(ROOT / "workflows" / name)
    for file in (ROOT / "workflows" / "runs").glob("*.yaml"):
        (tmp_path / "runs" / file.name).write_text(text({**load(file), "sweep": {"seed": [*range(200)]}}))
        spent = []
        for _ in range(2):  # the lesser of two: other work on the core can only add
            start = time.process_time()
            catalogue = Catalogue(tmp_path)
            children = catalogue.children(file.stem)
            answers = {(run.identity(stage), catalogue.digest(run.name, stage)) for run in children for stage in STAGES}
            spent.append(time.process_time() - start)
        assert len(children) == 200
        assert len(answers) == 1000
        assert min(spent) < 0.5, file.stem
