"""Artefacts: byte-stable, whole or not at all, readable by plain xarray, refused when they are not what they seem."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from sciflow.data import store
from sciflow.data.sink import sink
from sciflow.data.store import (
    Header,
    atomic_path,
    open_dataset,
    read_header,
    read_provenance,
    remove_temporaries,
    sha256,
    write_dataset,
    write_provenance,
)
from sciflow.errors import InputError

HEADER = Header("digits", "dataset", "dataset:\n  kind: dígitos\n", "ab12", 7, {"torch": "2.13.0"}, {"raw": "00ff"})

WRITE = """
import sys, numpy as np, xarray as xr
from sciflow.data.store import Header, write_dataset
n = 40
names = ["data", "truth", "weights"] if sys.argv[2] == "forward" else ["weights", "truth", "data"]
table = np.arange(2.0 * n).reshape(n, 2)
values = {name: (("sample", "x"), table + len(name), {"units": "K", "long_name": name}) for name in names}
values["is_kept"] = ("sample", np.arange(n) % 2 == 0)
split = np.array(["train", "test"] * (n // 2))
coords = {"split": ("sample", split), "unit": ("sample", np.arange(n)), "x": [0.5, 1.5]}
write_dataset(sys.argv[1], xr.Dataset(values, coords), Header("r", "dataset", "kind: digits", seed=3))
"""


@pytest.fixture
def dataset() -> xr.Dataset:
    values = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    values[1, 2] = np.nan
    split = ("sample", np.array(["train", "test", "train"]))
    return xr.Dataset({"data": (("sample", "x"), values, {"units": "K"})}, coords={"split": split})


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".tmp")]


def test_who_holds_the_lock_removes_what_lost_nodes_left(tmp_path):
    """The artefact's own and what lies beside it under its stem, not that of another."""
    gone = [f".tmp-lost_node-7-ab-metrics.{end}" for end in ("csv", "nc", "csv.provenance.json")]
    other = [".tmp-lost_node-7-ab-metrics2.csv", "metrics.csv", "metrics.nc", ".tmp-lost_node-7-ab-report.html"]
    for name in (*gone, *other):
        (tmp_path / name).touch()
    remove_temporaries(tmp_path / "metrics.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(other)


def test_round_trip_with_header(tmp_path, dataset):
    write_dataset(tmp_path / "new" / "data.nc", dataset, HEADER)
    back = open_dataset(tmp_path / "new" / "data.nc", stage="dataset", run="digits")
    xr.testing.assert_equal(back, dataset)
    assert back["data"].dtype == np.float32 and back["data"].attrs == {"units": "K"}
    assert read_header(tmp_path / "new" / "data.nc") == HEADER
    assert leftovers(tmp_path / "new") == []


def test_reading_on_demand(tmp_path, dataset):
    write_dataset(tmp_path / "data.nc", dataset)
    with open_dataset(tmp_path / "data.nc", load=False) as lazy:
        assert float(lazy["data"][0, 1]) == 1.0


def test_large_arrays_begin_at_a_line_of_the_cache(tmp_path):
    """The memory copies from there in a fifth less of the time; what stands before them has any length."""
    path, large = tmp_path / "data.nc", 2**16 // 8
    arrays = {f"large {i}": (("y" * (i + 1),), np.zeros(large + i)) for i in range(3)}
    write_dataset(path, xr.Dataset({"odd": ("x", np.zeros(3, np.int8)), **arrays}), HEADER)
    with h5py.File(path) as file:
        assert [file[name].id.get_offset() % 64 for name in arrays] == [0, 0, 0]


def test_same_content_same_bytes_in_other_processes_and_orders(tmp_path):
    digests = set()
    for number, order in enumerate(("forward", "backward", "forward")):
        path = tmp_path / f"{number}.nc"
        environment = {**os.environ, "PYTHONHASHSEED": str(number), "TZ": f"UTC+{number}"}
        subprocess.run([sys.executable, "-c", WRITE, path, order], check=True, env=environment)
        digests.add(sha256(path))
    assert len(digests) == 1
    again = tmp_path / "again.nc"
    write_dataset(again, open_dataset(path), read_header(path))  # what was read is written back
    assert sha256(again) in digests


def test_plain_xarray_reads_it_without_sciflow(tmp_path, dataset):
    write_dataset(tmp_path / "data.nc", dataset, HEADER)
    code = (
        "import sys, xarray as xr; d = xr.open_dataset(sys.argv[1]); "
        "assert d.data.dims == ('sample', 'x') and d.attrs['stage'] == 'dataset' and d.attrs['seed'] == 7; "
        "assert list(d.split.values) == ['train', 'test', 'train'] and 'sciflow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "data.nc"], check=False, cwd=tmp_path)
    assert done.returncode == 0


# --- atomic -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["write", "last write", "fsync", "replace"])
@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO])
def test_a_failure_at_any_stage_leaves_the_previous_file_whole(tmp_path, monkeypatch, dataset, stage, fault):
    path = tmp_path / "data.nc"
    write_dataset(path, dataset, HEADER)
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError(fault, os.strerror(fault))

    calls, pwrite = [], os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda *arguments: calls.append(1) or pwrite(*arguments))
    write_dataset(tmp_path / "twin.nc", dataset * 2, HEADER)
    n_writes = len(calls)

    def fail_at_last(*arguments: object) -> int:
        calls.append(1)
        return pwrite(*arguments) if len(calls) < 2 * n_writes else fail()

    name = {"write": "pwrite", "last write": "pwrite"}.get(stage, stage)
    monkeypatch.setattr(os, name, fail_at_last if stage == "last write" else fail)
    with pytest.raises(OSError) as caught:
        write_dataset(path, dataset * 2, HEADER)
    monkeypatch.undo()
    assert caught.value.errno == fault
    assert ("disk full; the previous file, if any, is whole" in str(caught.value)) == (fault == errno.ENOSPC)
    assert path.read_bytes() == before
    assert leftovers(tmp_path) == []
    write_dataset(path, dataset * 2, HEADER)  # HDF5 has noticed nothing, and works on
    assert path.read_bytes() == (tmp_path / "twin.nc").read_bytes()


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(tmp_path, monkeypatch, dataset):
    path = tmp_path / "data.nc"
    write_dataset(path, dataset, HEADER)
    before, usage = path.read_bytes(), shutil.disk_usage(tmp_path)
    monkeypatch.setattr(os, "pwrite", None)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=dataset.nbytes))
    with pytest.raises(OSError, match="disk full; the previous file, if any, is whole"):
        write_dataset(path, dataset, HEADER)
    assert path.read_bytes() == before and leftovers(tmp_path) == []


def test_the_file_is_what_hdf5_would_hold_in_memory(tmp_path, monkeypatch, dataset):
    """To the byte. A file system that does not say how large it is may be large enough."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 0))
    write_dataset(tmp_path / "data.nc", dataset, HEADER)
    made = store._canonical(dataset, HEADER.attributes()).to_netcdf(engine="h5netcdf")
    assert (tmp_path / "data.nc").read_bytes() == bytes(made)


def test_hdf5_reads_back_what_the_disk_did_not_take(tmp_path, monkeypatch):
    """Whatever write is the first to fail, in whole or half-way: its structure is read again from what was kept."""
    pwrite, calls, allowed = os.pwrite, [], [0]

    def until(handle: int, content: memoryview, place: int) -> int:
        calls.append(1)
        if len(calls) > allowed[0] + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        n = len(content) if len(calls) <= allowed[0] else max(len(content) // 2, 1)
        return pwrite(handle, content[:n], place)

    monkeypatch.setattr(os, "pwrite", until)
    names = [f"variable {i}" for i in range(100)]
    for allowed[0] in (0, 1, 2, 3, 5, 10, 100):
        calls.clear()
        read = []
        with pytest.raises(OSError, match="No space left"), sink(tmp_path / "a.h5", 0) as file:
            with h5py.File(file, "w") as content:
                for i, name in enumerate(names):
                    content.create_dataset(name, data=np.full(1000, i)).attrs["unit"] = "m" * i
                    content.flush()
            with h5py.File(file, "r") as content:
                read += [(int(content[name][-1]), len(content[name].attrs["unit"])) for name in names]
        assert read == [(i, i) for i in range(100)]
        assert len(calls) == allowed[0] + 2  # one half-way, one refused; then the disk is left alone


def test_a_real_write_error_of_the_kernel_leaves_the_previous_file_whole(tmp_path):
    """A limit on the file size makes the kernel refuse the write half-way, as a full disk does."""
    code = """
import resource, signal, sys, numpy as np, xarray as xr
from sciflow.data.store import write_dataset
write_dataset(sys.argv[1], xr.Dataset({"a": ("x", np.zeros(10))}))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    write_dataset(sys.argv[1], xr.Dataset({"a": ("x", np.ones(100_000))}))
except OSError as error:
    sys.exit(7 if "disk full" in str(error) else 8)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.nc"], check=False)
    assert done.returncode == 7  # not a crash of the interpreter
    assert open_dataset(tmp_path / "a.nc")["a"].values.tolist() == [0.0] * 10
    assert leftovers(tmp_path) == []


def test_an_exception_or_kill_in_the_block_changes_nothing(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.write_text("half of the n")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and leftovers(tmp_path) == []


def test_the_orphan_of_a_killed_process_is_swept_and_that_of_a_living_one_is_not(tmp_path):
    code = """
import os, signal, sys
from sciflow.data.store import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    path = tmp_path / "model [1].pt"
    path.write_text("old")
    subprocess.run([sys.executable, "-c", code, path], check=False)
    assert path.read_text() == "old" and len(leftovers(tmp_path)) == 1
    with atomic_path(path) as outer:
        outer.write_text("outer")
        with atomic_path(path) as inner:  # of this living process: two names that never collide
            inner.write_text("inner")
        assert path.read_text() == "inner"
    assert path.read_text() == "outer" and leftovers(tmp_path) == []


def test_the_temporary_name_keeps_the_suffix(tmp_path):
    with atomic_path(tmp_path / "a.npz") as temporary:
        np.savez(temporary, x=[1])
    assert np.load(tmp_path / "a.npz")["x"].tolist() == [1]


def test_the_order_on_disk_is_file_then_name_then_directory(tmp_path, monkeypatch):
    calls = []
    real_fsync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(os.readlink(f"/proc/self/fd/{fd}")), real_fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), real_replace(a, b)))
    with atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("x")
    assert calls == [str(temporary), "replace", str(tmp_path)]


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_missing_file_says_what_to_run(tmp_path):
    with pytest.raises(InputError, match=r"data.nc does not exist. Run the stage .* snakemake --cores all"):
        open_dataset(tmp_path / "data.nc")


@pytest.mark.parametrize(
    "content", [b"", b"CDF\x01classic", b"<html>", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + b"\0" * 90]
)
def test_files_that_are_no_netcdf_are_refused(tmp_path, content):
    (tmp_path / "data.nc").write_bytes(content)
    for read in (open_dataset, read_header):
        with pytest.raises(InputError, match=r"data.nc is (no netCDF4 file|truncated or damaged)"):
            read(tmp_path / "data.nc")


def test_a_truncated_file_is_refused_at_every_length(tmp_path, dataset):
    write_dataset(tmp_path / "whole.nc", dataset, HEADER)
    whole = (tmp_path / "whole.nc").read_bytes()
    for length in range(8, len(whole) - 1, len(whole) // 25):
        (tmp_path / "part.nc").write_bytes(whole[:length])
        with pytest.raises(InputError, match="truncated or damaged"):
            open_dataset(tmp_path / "part.nc")


def test_an_artefact_of_another_run_or_stage_is_refused(tmp_path, dataset):
    write_dataset(tmp_path / "data.nc", dataset, HEADER)
    with pytest.raises(InputError, match=r"belongs to run 'digits', needs run 'phantoms'"):
        open_dataset(tmp_path / "data.nc", run="phantoms")
    with pytest.raises(InputError, match=r"belongs to stage 'dataset', needs stage 'sample'"):
        open_dataset(tmp_path / "data.nc", stage="sample")


def test_a_foreign_file_and_another_layout_are_refused(tmp_path, dataset):
    dataset.to_netcdf(tmp_path / "foreign.nc", engine="h5netcdf")
    with pytest.raises(InputError, match="was not written by sciflow"):
        open_dataset(tmp_path / "foreign.nc", stage="dataset")
    assert open_dataset(tmp_path / "foreign.nc").sizes["sample"] == 3  # without a stage any netCDF4 file will do
    write_dataset(tmp_path / "new.nc", dataset, Header("r", "dataset", sciflow_schema=99))
    with pytest.raises(InputError, match=r"has layout 99, this sciflow reads layout 1"):
        read_header(tmp_path / "new.nc")


# --- provenance -------------------------------------------------------------------------------------------------------


def test_provenance_stands_beside_the_artefact(tmp_path):
    path = tmp_path / "samples.nc"
    assert read_provenance(path) == {}
    write_provenance(path, {"seconds": 1.5, "device": "cpu"})
    text = json.loads((tmp_path / "samples.nc.provenance.json").read_text())
    assert text == read_provenance(path)
    assert text["seconds"] == 1.5 and {"written", "host"} <= set(text)


@pytest.mark.parametrize("content", ['{"seconds": 1', "", "[1]", "null", "[" * 100_000], ids=lambda text: text[:12])
def test_a_sidecar_that_is_none_is_named(content, tmp_path):
    (tmp_path / "samples.nc.provenance.json").write_text(content)
    with pytest.raises(InputError, match=r"samples\.nc\.provenance\.json .*Delete it, or run its stage again\."):
        read_provenance(tmp_path / "samples.nc")


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a").startswith("ba7816bf8f01cfea")  # FIPS 180-2, example B.1


def test_neither_torch_nor_xarray_is_loaded_by_the_package():
    code = "import sys, sciflow.data; sys.exit('torch' in sys.modules or 'xarray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert store.SCHEMA_VERSION == 1
