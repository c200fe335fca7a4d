"""What a stage is given: wrong artefacts are refused in one sentence before any work, and nothing on disk is lost."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from sciflow.data.store import read_header, read_provenance, sha256
from sciflow.errors import InputError
from sciflow.memory import RETRY_VARIABLE
from sciflow.starting import AHEAD
from tests.tiny import IMAGING, Place, change

RESULTS = "results/imaging"
OTHER = "results/other"
WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "no data": (("train", "--data", "nowhere.nc"), "nowhere.nc is not there. Run `sciflow dataset imaging.yaml` first"),
    "no model": (("sample", "--model", "nowhere.pt"), "nowhere.pt is not there. Run `sciflow train imaging.yaml`"),
    "no samples": (("evaluate", "--samples", "nowhere.nc"), "nowhere.nc is not there. Run `sciflow sample imaging"),
    "no metrics": (("report", "--metrics", "nowhere.csv"), "nowhere.csv is not there. Run `sciflow evaluate imaging"),
    "samples for data": (
        ("train", "--data", f"{RESULTS}/samples.nc"),
        f"{RESULTS}/samples.nc belongs to stage 'sample', needs stage 'dataset'.",
    ),
    "data for samples": (
        ("evaluate", "--samples", f"{RESULTS}/data.nc"),
        f"{RESULTS}/data.nc belongs to stage 'dataset', needs stage 'sample'.",
    ),
    "a file of someone else": (("train", "--data", "foreign.nc"), "foreign.nc was not written by sciflow"),
    "truncated data": (("train", "--data", "truncated.nc"), "truncated.nc is truncated or damaged"),
    "text for data": (("train", "--data", "imaging.yaml"), "imaging.yaml is no netCDF4 file."),
    "text for a model": (("sample", "--model", "imaging.yaml"), "imaging.yaml: cannot be read as a model"),
    "data for a model": (("sample", "--model", f"{RESULTS}/data.nc"), f"{RESULTS}/data.nc: cannot be read as a model"),
    "text for the report's model": (("report", "--model", "imaging.yaml"), "imaging.yaml: cannot be read as a model"),
    "truncated model": (("sample", "--model", "truncated.pt"), "truncated.pt: cannot be read as a model"),
    "model of other data": (
        ("sample", "--model", f"{OTHER}/model.pt"),
        f"{OTHER}/model.pt was not made from {RESULTS}/data.nc, but from another data file.",
    ),
    "data of another run": (
        ("sample", "--data", f"{OTHER}/data.nc"),
        f"{RESULTS}/model.pt was not made from {OTHER}/data.nc, but from another data file.",
    ),
    "samples of other data": (
        ("evaluate", "--samples", f"{OTHER}/samples.nc"),
        f"{OTHER}/samples.nc was not made from {RESULTS}/data.nc, but from another data file.",
    ),
    "samples of another run": (
        ("report", "--samples", f"{OTHER}/samples.nc"),
        f"{OTHER}/samples.nc was not made from {RESULTS}/data.nc",
    ),
    "metrics of another run": (
        ("report", "--metrics", f"{OTHER}/metrics.csv"),
        f"{OTHER}/metrics.csv was not made from {RESULTS}/data.nc",
    ),
    "a shard for all samples": (
        ("evaluate", "--samples", "shard.nc"),
        "shard.nc is shard 1/2 of the samples. Join all shards first",
    ),
    "metrics that are none": (("report", "--metrics", "noted.csv"), "noted.csv is no metrics table"),
    "another domain": (
        ("train", "--data", "results/analytic/data.nc"),
        "results/analytic/data.nc is of domain 'analytic', this run of 'imaging'. Give the data of this run.",
    ),
}


@pytest.fixture(scope="module")
def mixed(built: Place, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The built runs beside another one, and files that are not what they seem."""
    place = Place(built.copy(tmp_path_factory.mktemp("mixed") / "place"))
    place.build(change(IMAGING, {"seed": 9, "train": {"kind": "closed_form"}}), "other", until="evaluate")
    folder, results = place.folder, place.results("imaging")
    xr.Dataset({"data": ("x", np.zeros(3))}).to_netcdf(folder / "foreign.nc", engine="h5netcdf")
    for name, source in (("truncated.nc", "data.nc"), ("truncated.pt", "model.pt")):
        (folder / name).write_bytes((results / source).read_bytes()[:9000])
    assert place.sciflow("sample", "imaging.yaml", "--shard", "1/2", "--out", "shard.nc").status == 0
    (folder / "noted.csv").write_text("run,posterior\nimaging,PiGDM\n")
    (folder / "noted.nc").write_bytes((results / "metrics.nc").read_bytes())
    return place


@pytest.fixture
def unharmed(mixed: Place) -> Iterator[Place]:
    """The same, which must be as it was afterwards: only locks may have been added."""
    before = mixed.files()
    yield mixed
    after = mixed.files()
    assert {file: after.get(file) for file in before} == before, "something was lost"
    assert all(".state" in file.parts for file in set(after) - set(before)), "something was written"


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_artefact_is_refused(what: str, unharmed: Place) -> None:
    (stage, *options), message = WRONG[what]
    outcome = unharmed.sciflow(stage, "imaging.yaml", *options)
    assert outcome.status == 2, outcome.text
    assert outcome.text.startswith("error: ")
    assert message in outcome.text
    assert len(outcome.text.splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"sample": torch.zeros(1, 2)}, "variable 'data' is missing"),
        ({"data": torch.zeros(4, 1, 8, 8)}, "variable 'split' is missing"),
        ({"data": torch.full((4, 1, 8, 8), torch.nan)}, "256 of 256 values NaN or infinite"),
        ({"data": torch.zeros(0, 1, 8, 8)}, "variable 'data' is empty: sizes {'sample': 0,"),
    ],
)
def test_a_damaged_data_set_is_refused_before_training(content: dict, message: str, copied: Place) -> None:
    """Written by us, and yet not what training needs."""
    from sciflow.data.store import provenance_path, write_dataset

    file = copied.results("imaging") / "data.nc"
    header = read_header(file)
    dims = {"data": ("sample", "channel", "y", "x"), "sample": ("a", "b")}
    write_dataset(file, xr.Dataset({name: (dims[name], array.numpy()) for name, array in content.items()}), header)
    provenance_path(file).unlink()  # taken as it is
    model = (copied.results("imaging") / "model.pt").read_bytes()
    outcome = copied.sciflow("train", "imaging.yaml")
    assert outcome.status == 2, outcome.text
    assert message in outcome.text
    assert (copied.results("imaging") / "model.pt").read_bytes() == model


@pytest.mark.parametrize(
    ("stage", "artefact"),
    [("train", "data.nc"), ("sample", "model.pt"), ("evaluate", "samples.nc"), ("report", "metrics.csv")],
)
def test_one_changed_bit_is_noticed(stage: str, artefact: str, copied: Place) -> None:
    """A number that changed on the disk breaks no structure: only a checksum tells."""
    file = copied.results("imaging") / artefact
    content = bytearray(file.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    file.write_bytes(content)
    outcome = copied.sciflow(stage, "imaging.yaml")
    assert outcome.status == 2, outcome.text
    assert f"{artefact} is not the file that its stage wrote: its SHA-256 is" in outcome.text
    assert len(outcome.text.splitlines()) == 1


def change_a_number(file: Path) -> None:
    """One bit of the longest array of a netCDF file, where HDF5 has no checksum."""
    with xr.open_dataset(file) as opened:
        numbers = max((array.to_numpy() for array in opened.data_vars.values()), key=lambda array: array.nbytes)
    content = bytearray(file.read_bytes())
    content[content.index(numbers.tobytes()) + 5] ^= 1
    file.write_bytes(content)


def test_one_changed_bit_behind_the_figures_is_noticed(copied: Place) -> None:
    change_a_number(copied.results("imaging") / "metrics.nc")
    outcome = copied.sciflow("report", "imaging.yaml")
    assert outcome.status == 2
    assert "metrics.nc is not the file that its stage wrote: its SHA-256 is" in outcome.text
    assert "metrics.csv.provenance.json says" in outcome.text


@pytest.mark.parametrize(("stage", "name"), [("train", "data.nc"), ("evaluate", "samples.nc"), ("report", "model.pt")])
def test_an_input_from_the_future_is_refused_before_any_work(stage: str, name: str, copied: Place) -> None:
    """As by the clock of another machine: after the work, Snakemake would take the result for older and delete it."""
    file, before = copied.results("imaging") / name, copied.files()
    for ahead in (3600, 30):
        os.utime(file, (time.time() + ahead, time.time() + ahead))
        outcome = copied.sciflow(stage, "imaging.yaml")
        if ahead > AHEAD:
            assert outcome.status == 2
            assert f"results/imaging/{name} was changed 60 min ahead of the clock of this machine." in outcome.text
            assert copied.files() == before
        else:
            assert outcome.status == 0, outcome.text


@pytest.mark.parametrize("stage", ["dataset", "evaluate"])
def test_a_stage_that_fails_for_good_says_so_at_once(
    stage: str, copied: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Snakemake tries each failed job again: without a record all of the work would be done again in vain."""
    n_calls = 0

    def failing(*_: object) -> None:
        nonlocal n_calls
        n_calls += 1
        raise InputError("the data are wrong")

    with monkeypatch.context() as patch:
        patch.setattr(f"sciflow.stages.{stage}.write_dataset", failing)
        first, again = (copied.sciflow(stage, "imaging.yaml") for _ in range(2))
    assert (first.status, first.text) == (2, "error: the data are wrong")
    assert again.status == 2 and "error: the data are wrong\nThis is a recorded failure" in again.text
    assert n_calls == 1
    monkeypatch.setenv(RETRY_VARIABLE, "1")
    assert copied.sciflow(stage, "imaging.yaml").status == 0


def test_a_sidecar_that_was_cut_short_is_named(copied: Place) -> None:
    sidecar = copied.results("imaging") / "model.pt.provenance.json"
    sidecar.write_bytes(sidecar.read_bytes()[:-20])
    outcome = copied.sciflow("sample", "imaging.yaml")
    assert outcome.status == 2 and "model.pt.provenance.json is no JSON (" in outcome.text
    assert len(outcome.text.splitlines()) == 1
    sidecar.unlink()
    assert copied.sciflow("sample", "imaging.yaml").status == 0


def test_one_changed_bit_of_a_shard_is_noticed(copied: Place) -> None:
    before = (copied.results("imaging") / "samples.nc").read_bytes()
    for shard in ("1", "2"):
        call = ("sample", "imaging.yaml", "--shard", f"{shard}/2", "--out", f"part{shard}.nc")
        assert copied.sciflow(*call).status == 0
    change_a_number(copied.folder / "part2.nc")
    outcome = copied.sciflow("sample", "imaging.yaml", "--gather", "part1.nc", "part2.nc")
    assert outcome.status == 2
    assert "part2.nc is not the file that its stage wrote: its SHA-256 is" in outcome.text
    assert (copied.results("imaging") / "samples.nc").read_bytes() == before


def test_an_artefact_names_its_inputs_section_and_source(built: Place) -> None:
    results = built.results("imaging")
    data, samples, metrics = (read_header(results / name) for name in ("data.nc", "samples.nc", "metrics.nc"))
    model = torch.load(results / "model.pt", weights_only=True)["header"]
    hashes = {name: sha256(results / file) for name, file in (("data", "data.nc"), ("model", "model.pt"))}
    assert data.inputs == {}
    assert json.loads(model["inputs"]) == {"data": hashes["data"]}
    assert samples.inputs == hashes
    assert metrics.inputs == {"data": hashes["data"], "samples": sha256(results / "samples.nc")}
    assert json.loads(samples.section)["sample"] == IMAGING["sample"]
    assert (data.run, samples.stage, metrics.seed) == ("imaging", "sample", 3)
    for file, header in (("data.nc", data), ("samples.nc", samples)):
        facts = read_provenance(results / file)
        assert facts["source_digest"] == header.source_digest and len(header.source_digest) == 16
        assert facts["seconds"] > 0 and facts["peak_memory_mb"] > 50
    assert read_provenance(results / "model.pt")["source_digest"] == model["source_digest"]


def test_the_users_own_files_are_part_of_the_identity(place: Place) -> None:
    """A model that could not be read is tried again once the file is another one."""
    good = place.build(change(IMAGING, {"train": {"kind": "closed_form"}}), "good", until="train") / "model.pt"
    mine = Path(place.folder / "mine.pt")
    mine.write_bytes(good.read_bytes()[:500])
    file = place.write(change(IMAGING, {"train": {"kind": "checkpoint", "path": "mine.pt"}}), "good2")
    assert place.sciflow("dataset", file).status == 0
    for _ in range(2):
        assert "mine.pt: cannot be read as a model" in place.sciflow("train", file).text
    mine.write_bytes(good.read_bytes())
    assert place.sciflow("train", file).status == 0
    stored = torch.load(place.results("good2") / "model.pt", weights_only=True)
    assert json.loads(stored["header"]["inputs"])["file mine.pt"] == sha256(mine)
    mine.unlink()
    assert "train names the file 'mine.pt', which is not there." in place.sciflow("train", file).text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.parametrize("stage", ["train", "sample"])
def test_a_missing_device_is_said_and_not_remembered(stage: str, copied: Place) -> None:
    asked = {"resources": {stage: {"gpu": 1}}}
    copied.write({**IMAGING, **asked}, "imaging")
    before = copied.files()
    outcome = copied.sciflow(stage, "imaging.yaml")
    assert outcome.status == 2
    assert outcome.text.startswith("error: device is 'cuda', but torch sees no CUDA device here.")
    assert copied.files() == before
    copied.write(IMAGING, "imaging")
    assert copied.sciflow(stage, "imaging.yaml").status == 0


def test_shards_are_joined_where_there_is_no_device(copied: Place) -> None:
    """Joining runs on a login node, whatever the sampling needs."""
    assert copied.sciflow("sample", "imaging.yaml", "--shard", "1/1", "--out", "part.nc").status == 0
    copied.write({**IMAGING, "resources": {"sample": {"gpu": 1}}}, "imaging")
    outcome = copied.sciflow("sample", "imaging.yaml", "--gather", "part.nc", "--out", "joined.nc")
    assert outcome.status == 0, outcome.text
