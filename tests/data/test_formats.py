"""The user's own files: read with named dims, or refused in words, before anything is trained."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from sciflow.data.formats import FORMATS, HDF5, NPZ, NetCDF, format_of
from sciflow.errors import InputError
from sciflow.types import facts

IMAGES = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
PATIENTS = np.array(["anna", "bert"])


def npz(path: Path, **arrays: object) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def hdf5(path: Path, **arrays: object) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            is_text = getattr(values, "dtype", None) is not None and values.dtype.kind == "U"
            file[f"scans/{name}"] = values.astype(object) if is_text else values
    return path


def netcdf(path: Path, **arrays: np.ndarray) -> Path:
    dims = ("time", "lat", "lon")
    named = {name: (dims if len(values) != 3 else ("lat",), values) for name, values in arrays.items()}
    named = {name: (axes[: values.ndim], values) for name, (axes, values) in named.items()}
    xr.Dataset(named).to_netcdf(path, engine="h5netcdf")
    return path


WRITERS = {"npz": npz, "hdf5": hdf5, "netcdf": netcdf}
FOLDER = {"npz": "", "hdf5": "scans/", "netcdf": ""}


@pytest.mark.parametrize("kind", WRITERS)
def test_axes_are_named_and_units_and_ids_come_along(tmp_path, kind):
    path = WRITERS[kind](tmp_path / "scans", images=IMAGES, patient=PATIENTS)
    path = path if path.exists() else path.with_name("scans.npz")
    dims = {"channel": None, "x": 2, "y": 1, "sample": 0}
    if kind == "netcdf":
        dims = {"channel": None, "x": "lon", "y": "lat", "sample": "time"}
    name, ids = f"{FOLDER[kind]}images", f"{FOLDER[kind]}patient"
    read = FORMATS[kind](variable=name, dims=dims, units="HU", split_by=ids).read(path)
    assert read["data"].dims == ("sample", "channel", "x", "y")
    assert (read["data"].to_numpy()[:, 0] == IMAGES.transpose(0, 2, 1)).all()
    assert read["data"].attrs["units"] == "HU" and read["data"].dtype == np.float32
    assert read["unit"].values.tolist() == ["anna", "bert"]


@pytest.mark.parametrize("kind", ["npz", "hdf5"])
def test_the_only_array_is_taken_and_its_axes_guessed(tmp_path, kind):
    path = WRITERS[kind](tmp_path / f"a.{kind}", images=IMAGES)
    read = FORMATS[kind]().read(path)
    assert dict(read["data"].sizes) == {"sample": 2, "channel": 1, "y": 3, "x": 4}
    assert read["unit"].values.tolist() == [0, 1] and read["data"].attrs["units"] == "1"


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        (
            {"images": IMAGES},
            {"variable": "image"},
            r"no variable 'image', found \['.*images'\]. Did you mean '.*images'",
        ),
        (
            {"a": IMAGES, "b": IMAGES},
            {},
            r"several variables, found \['.*a', '.*b'\]. Say which one: `variable: <name>`",
        ),
        (
            {"a": np.where(IMAGES == 13, np.nan, IMAGES)},
            "named",
            r"1 of 24 values NaN or infinite, the first at \(sample 1",
        ),
        ({"a": IMAGES[:0]}, "named", r"the array is empty, shape \(0, 3, 4\)"),
        ({"a": PATIENTS}, {"dims": {"sample": 0}}, "needs real numbers"),
        ({"a": IMAGES}, {"max_gigabytes": 1e-9}, "takes 9.6e-08 GB, the limit is 1e-09 GB"),
        (
            {"a": IMAGES, "b": np.arange(3)},
            {"variable": "a", "split_by": "b"},
            r"`split_by` has shape \(3,\), needs \(2,\)",
        ),
    ],
)
def test_what_is_wrong_is_said(tmp_path, kind, arrays, options, message):
    path = WRITERS[kind](tmp_path / "a.npz", **arrays)
    axes = {"sample": 0, "y": 1, "x": 2}
    if kind == "netcdf":
        axes = {"sample": "time", "y": "lat", "x": "lon"}
    options = {"dims": axes} if options == "named" else dict(options)
    for key in ("variable", "split_by"):
        if key in options and options[key] != "image":
            options[key] = FOLDER[kind] + options[key]
    if kind == "netcdf":
        options.setdefault("dims", axes)
        options["dims"] = {"sample": "time"} if arrays.get("a") is PATIENTS else options["dims"]
    with pytest.raises(InputError, match=message):
        FORMATS[kind](**options).read(path)


@pytest.mark.parametrize("dims", [{"sample": 0, "x": 1}, {"sample": 0, "y": 1, "x": 1}, {"y": 0, "x": 1, "z": 2}])
def test_axes_that_do_not_fit_are_refused(tmp_path, dims):
    with pytest.raises(InputError, match=r"the array has shape \(2, 3, 4\) and `dims` is"):
        NPZ(dims=dims).read(npz(tmp_path / "a.npz", a=IMAGES))


def test_five_axes_are_not_guessed(tmp_path):
    with pytest.raises(InputError, match="Name its axes"):
        NPZ().read(npz(tmp_path / "a.npz", a=np.ones((2, 1, 1, 1, 1))))


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("content", [b"no such format", b"\x89HDF\r\n\x1a\n" + b"\0" * 50, b"PK\x03\x04" + b"\0" * 50])
def test_damaged_files_are_refused(tmp_path, kind, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InputError, match=r"a is no .*, or damaged"):
        FORMATS[kind]().read(tmp_path / "a")


@pytest.mark.parametrize("kind", WRITERS)
def test_truncated_files_are_refused(tmp_path, kind):
    path = WRITERS[kind](tmp_path / "a.npz", a=IMAGES)
    whole = path.read_bytes()
    for length in range(1, len(whole) - 30, max(1, len(whole) // 20)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError):
            FORMATS[kind](dims={}).read(path)


@pytest.mark.parametrize("kind", WRITERS)
def test_missing_and_empty_files_are_refused(tmp_path, kind):
    with pytest.raises(InputError, match=r"is no file. Correct `dataset.path`"):
        FORMATS[kind]().read(tmp_path / "none")
    (tmp_path / "empty").touch()
    with pytest.raises(InputError, match="is empty"):
        FORMATS[kind]().read(tmp_path / "empty")


def test_python_objects_are_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    path = npz(tmp_path / "a.npz", a=np.array([Trap()], dtype=object))
    with pytest.raises(InputError, match="array 'a' cannot be read"):
        NPZ().read(path)
    assert not (tmp_path / "sprung").exists()


def test_a_header_that_lies_about_its_size_is_refused(tmp_path):
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", content.getvalue())
    with pytest.raises(InputError, match=r"takes 8e\+03 GB, the limit is 8 GB"):
        NPZ().read(tmp_path / "a.npz")


def test_hdf5_that_points_to_other_files_is_refused(tmp_path):
    secret = hdf5(tmp_path / "secret.h5", a=IMAGES)
    layout = h5py.VirtualLayout(shape=IMAGES.shape, dtype=IMAGES.dtype)
    layout[...] = h5py.VirtualSource(str(secret), "scans/a", shape=IMAGES.shape)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["link"] = h5py.ExternalLink(str(secret), "scans/a")
        file.create_virtual_dataset("virtual", layout)
    with pytest.raises(InputError, match="no variable 'link'"):
        HDF5(variable="link").read(tmp_path / "a.h5")
    with pytest.raises(InputError, match="lies in another file"):
        HDF5(variable="virtual").read(tmp_path / "a.h5")


def test_netcdf_takes_units_from_the_file_and_refuses_a_contradiction(tmp_path):
    array = xr.DataArray(IMAGES, dims=("sample", "y", "x"), name="a", attrs={"units": "K"})
    array.to_dataset().to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    assert NetCDF().read(tmp_path / "a.nc")["data"].attrs["units"] == "K"
    with pytest.raises(InputError, match="units are 'K' in the file, 'degC' in `units`"):
        NetCDF(units="degC").read(tmp_path / "a.nc")
    with pytest.raises(InputError, match=r"no dim 'yy', found \['sample', 'y', 'x'\]. Did you mean 'y'"):
        NetCDF(dims={"sample": "sample", "y": "yy", "x": "x"}).read(tmp_path / "a.nc")


def test_netcdf_of_version_3_is_read(tmp_path):
    xr.Dataset({"a": (("sample", "x"), IMAGES[0])}).to_netcdf(tmp_path / "a.nc", engine="scipy")
    assert NetCDF().read(tmp_path / "a.nc")["data"].sizes == {"sample": 3, "x": 4}


def test_the_suffix_chooses_the_reader():
    assert isinstance(format_of("a/b.NPZ"), NPZ) and isinstance(format_of("b.h5"), HDF5)
    with pytest.raises(InputError, match=r"suffix '.csv', known are"):
        format_of("b.csv")


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_states_its_facts(kind):
    assert {"summary", "exactness", "cost", "bias"} <= set(facts(FORMATS[kind]))
