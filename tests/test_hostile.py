"""Files that mean harm are refused in one sentence: nothing of them is run, and no memory is filled for them."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml

from sciflow import yamlfile
from sciflow.data import formats
from sciflow.data.layouts import TheWell
from sciflow.data.measured import read_measured
from sciflow.data.store import open_dataset
from sciflow.data.trajectories import open_trajectory
from sciflow.diffusion.model import load
from sciflow.errors import InputError
from sciflow.solvers.model_statistics import ModelStatistics
from sciflow.training import checkpoint, own
from tests.data.test_layouts import well
from tests.data.test_scans import SHAPE, fastmri
from tests.data.test_trajectories import hdf5
from tests.tiny import Place


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Callable, tuple]:
        return os.mkdir, (str(self.sprung),)


def bomb(path: Path, **shapes: tuple[int, ...]) -> Path:
    """A netCDF file of some kB that declares arrays of terabytes, chunks that nobody wrote, along short dims."""
    with h5py.File(path, "w") as file:
        for name, shape in shapes.items():
            stored = file.create_dataset(
                name, shape, dtype="f8", chunks=tuple(min(n, 64) for n in shape), fillvalue=1.0
            )
            for axis in range(len(shape)):
                scale = f"{name}_{axis}"
                file.create_dataset(scale, (2,), dtype="f4")
                file[scale].make_scale(scale)
                stored.dims[axis].attach_scale(file[scale])
    assert path.stat().st_size < 100_000
    return path


def lying(path: Path, **shapes: tuple[int, ...]) -> Path:
    """An NPZ archive whose headers promise what is not there."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, shape in shapes.items():
            content = io.BytesIO()
            np.lib.format.write_array_header_1_0(content, {"descr": "<f8", "fortran_order": False, "shape": shape})
            archive.writestr(f"{name}.npy", content.getvalue() + bytes(8 * min(np.prod(shape), 100)))
    return path


@pytest.mark.parametrize("stage", ["sample", "report", "train"])
def test_a_model_or_checkpoint_that_holds_code_does_not_run_it(stage: str, copied: Place) -> None:
    sprung, evil = copied.folder / "sprung", copied.folder / "evil.pt"
    if stage == "train":  # the checkpoint that it would go on from
        (key,) = [entry for entry in (copied.results("imaging") / ".state/train").iterdir() if entry.is_dir()]
        evil = key / "checkpoint.pt"
    torch.save({"sciflow": "training checkpoint" if stage == "train" else "model", "weights": Trap(sprung)}, evil)
    outcome = copied.sciflow(stage, "imaging.yaml", *(() if stage == "train" else ("--model", evil)))
    assert outcome.status == 2 and "cannot be read as a" in outcome.text, outcome.text
    assert not sprung.exists()


def deflated(path: Path, content: dict) -> Path:
    """What torch writes, compressed, which it never does: zeros shrink a thousandfold."""
    stored = io.BytesIO()
    torch.save(content, stored)
    with zipfile.ZipFile(stored) as plain, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for part in plain.infolist():
            archive.writestr(part.filename, plain.read(part))
    return path


def overlapping(path: Path, content: dict) -> Path:
    """Two names for the bytes of one part: what is unpacked is more than the file, though nothing is compressed."""
    torch.save(content, path)
    with zipfile.ZipFile(path, "a") as archive:
        largest = max(archive.infolist(), key=lambda part: part.file_size)
        for k in range(3):
            again = zipfile.ZipInfo(f"archive/data/{k + 7}")
            again.header_offset, again.CRC = largest.header_offset, largest.CRC
            again.file_size = again.compress_size = largest.file_size
            archive.filelist.append(again)
        archive._didModify = True
    return path


@pytest.mark.parametrize("make", [deflated, overlapping])
def test_a_file_of_torch_that_unpacks_to_more_than_it_is_is_refused(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what it declares: no part of it is opened."""
    file = make(tmp_path / "model.pt", {"sciflow": "model", "weights": torch.zeros(500_000)})
    opened = []
    monkeypatch.setattr(torch, "load", lambda *_, **__: opened.append("by torch"))
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_, **__: opened.append("by zipfile"))
    for read in (lambda: checkpoint.load(file, "model"), lambda: own.weights(str(file)), lambda: load(file)):
        with pytest.raises(InputError, match=r"model.pt has [\d.]+ MB and unpacks to [\d.]+ MB, but torch.save"):
            read()
    assert not opened


def test_a_compressed_model_is_refused_by_the_command(copied: Place) -> None:
    model = copied.results("imaging") / "model.pt"
    deflated(copied.folder / "evil.pt", torch.load(model, weights_only=True))
    outcome = copied.sciflow("sample", "imaging.yaml", "--model", "evil.pt")
    assert outcome.status == 2 and "evil.pt has" in outcome.text and len(outcome.text.splitlines()) == 1, outcome.text


def test_statistics_of_a_model_that_declare_terabytes_are_refused(tmp_path: Path) -> None:
    file = lying(tmp_path / "a.npz", log_snr=(4,), slopes=(10**6, 1000, 1000), means=(4,), spreads=(4,))
    with pytest.raises(ValueError, match=r"a\.npz: its slopes take 8e\+03 GB, the limit is 8 GB"):
        ModelStatistics.load(file)
    (tmp_path / "b.npz").write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"no model statistics in .*b\.npz: File is not a zip file"):
        ModelStatistics.load(tmp_path / "b.npz")


TAGS = (
    "title: !!python/object/apply:os.mkdir [sprung]",
    "title: !!python/object/new:os.mkdir [[sprung]]",
    "title: !!python/name:os.mkdir",
    "title: !!python/module:os",
)


@pytest.mark.parametrize("line", TAGS)
def test_yaml_tags_build_no_objects(line: str, place: Place) -> None:
    (place.folder / "run.yaml").write_text(f"domain: imaging\n{line}\n")
    for command in (("check",), ("dataset",)):
        outcome = place.sciflow(*command, "run.yaml")
        assert outcome.status == 2 and "run.yaml:2: not valid YAML: could not determine a constructor" in outcome.text
    assert not (place.folder / "sprung").exists()
    with pytest.raises(yaml.YAMLError):
        yaml.load(line, Loader=yamlfile._Loader)


def test_yaml_that_unfolds_is_refused_before_it_does(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 9)]
    file.write_text("\n".join(lines))
    with pytest.raises(
        InputError, match=r"run.yaml: not valid YAML: its aliases stand for \d+ values, at most 1000000"
    ):
        yamlfile.load(file)
    for words in ("a: &a [*a]", "a: " + "[" * 5000 + "]" * 5000):
        file.write_text(words)
        with pytest.raises(InputError, match=r"run.yaml: is nested too deeply, or holds itself."):
            yamlfile.load(file)
    file.write_text("a: &a {x: [1, 2]}\nb: *a\nc: {<<: *a, y: 3}\n")
    assert yamlfile.load(file) == {"a": {"x": [1, 2]}, "b": {"x": [1, 2]}, "c": {"x": [1, 2], "y": 3}}


def test_an_artefact_that_declares_terabytes_is_refused(copied: Place) -> None:
    bomb(copied.folder / "bomb.nc", data=(10**6, 1000, 1000))
    said = "bomb.nc declares 8e+03 GB in a file of "
    with pytest.raises(InputError, match=f"{said.replace('+', '.')}"):
        open_dataset(copied.folder / "bomb.nc")
    outcome = copied.sciflow("train", "imaging.yaml", "--data", "bomb.nc")
    assert outcome.status == 2 and said in outcome.text and len(outcome.text.splitlines()) == 1


@pytest.mark.parametrize("name", ["image", "operator_mask"])
@pytest.mark.parametrize("make", [bomb, lying])
def test_a_measurement_that_declares_terabytes_is_refused(make: Callable[..., Path], name: str, copied: Place) -> None:
    suffix = "nc" if make is bomb else "npz"
    make(copied.folder / f"scan.{suffix}", **{"measured": (3,), name: (10**6, 1000, 1000)})
    outcome = copied.sciflow("apply", "imaging.yaml", f"scan.{suffix}")
    named = f" '{name}'" if make is bomb else ""
    assert outcome.status == 2 and f"scan.{suffix}: the array{named} takes 8e+03 GB, the limit is 8 GB." in outcome.text


@pytest.mark.parametrize("kind", ["netcdf", "hdf5", "npz"])
def test_a_data_set_or_its_units_that_declare_terabytes_are_refused(kind: str, tmp_path: Path) -> None:
    make = lying if kind == "npz" else bomb
    with pytest.raises(InputError, match=r"takes 8e\+03 GB, the limit is 8 GB"):
        formats.FORMATS[kind](variable="a").read(make(tmp_path / "a", a=(10**6, 1000, 1000)))
    file = make(tmp_path / "b", a=(2, 2), ids=(10**12,))
    with pytest.raises(InputError, match=r"takes 8e\+03 GB, the limit is 8 GB"):
        formats.FORMATS[kind](variable="a", split_by="ids").read(file)


BESIDE = {
    "topology": (hdf5, open_trajectory, "topology"),
    "mask of a scan": (fastmri, lambda path: read_measured(path, SHAPE), "mask"),
    "header of a scan": (fastmri, lambda path: read_measured(path, SHAPE), "ismrmrd_header"),
    "scalar of The Well": (well, TheWell().read, "scalars/Re"),
}


@pytest.mark.parametrize("what", BESIDE)
def test_what_lies_beside_the_arrays_and_declares_terabytes_is_refused(what: str, tmp_path: Path) -> None:
    """A good file, in which one small entry is replaced by one that is small on the disk alone."""
    make, read, key = BESIDE[what]
    path = make(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        attributes = dict(file[key].attrs)
        del file[key]
        file.create_dataset(key, (10**6, 1000, 1000), dtype="f8", chunks=(64, 64, 64))
        file[key].attrs.update(attributes)
    with pytest.raises(InputError, match=rf"a\.h5: the array '/?{key}' takes 8e\+03 GB, the limit is 8 GB"):
        read(path)
