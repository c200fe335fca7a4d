"""Measurements of the user's own, without a ground truth."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sciflow.data.arrays import to_xarray
from sciflow.data.formats.dicom import DCM, DICOM
from sciflow.data.formats.mapping import check_declared, check_size
from sciflow.data.formats.npz import BROKEN, member
from sciflow.data.formats.ome_zarr import OMEZarr
from sciflow.data.formats.pictures import PNG, TIFF, read_picture, scale
from sciflow.data.formats.scans import read_scan, top
from sciflow.data.layouts.layout import layout_of
from sciflow.data.layouts.simulations import (
    CONSTANT,
    OBSERVED,
    OBSERVED_CONSTANT,
    OFFSET,
    PARAMETER,
    SCALE,
    UNEVEN,
    Part,
    Simulations,
    grid_of,
)
from sciflow.errors import InputError, is_passing

if TYPE_CHECKING:
    import xarray as xr

PREFIX = "operator_"
SCANS = (".h5", ".hdf5")
STORE = ".zarr"
MOST_GIGABYTES = 8.0  # of one array


def read_measured(
    path: str | Path,
    shape: tuple[int, ...],
    scaling: Literal["full", "stored"] = "full",
    given: Sequence[float] = (),
    trained: xr.Dataset | None = None,
    constants: Sequence[str] = (),
) -> xr.Dataset:
    """Observations from netCDF or NPZ, a picture (PNG, TIFF, OME-Zarr, DICOM), or HDF5 of fastMRI or LoDoPaB-CT.

    Either `measured` (measurement,) or (observation, measurement) with what the operator needs beside it as
    `operator_<name>` and, of a forecaster's parameters, `parameter_<name>`, which have the axis `observation` where
    `measured` has it, and `constant_<name>` (*grid) or (observation, *grid); or `image` (*event) or
    (observation, *event) with NaN where nothing was measured. A picture of the size of the model is an `image`, which
    was not measured where it is transparent (PNG) or NaN (TIFF); one of another size is `measured`. For a forecaster
    also simulations in a known layout, whose first fields, parameters and constant fields are taken.

    Args:
        path: the file.
        shape: event shape of the model.
        scaling: of whole numbers in pictures, that of the data that the model learned from.
        given: times of the fields that a forecaster is given, from 0; none for another model.
        trained: the data that a forecaster learned from, whose grid and boundaries simulations must have; null looks
            at neither.
        constants: fields that do not change and that a forecaster is told of; others are left where they are.

    Raises:
        InputError: neither is there, shapes do not fit, or values that should be finite are not.
    """
    path = Path(path)
    is_scan = path.suffix.lower() in SCANS and path.is_file() and not {"measured", "image"} & set(top(path))
    if given and (is_scan or path.suffix.lower() == STORE):
        return _first_fields(path, shape, given, trained, constants)
    if is_scan:
        scanned, facts = read_scan(path, shape, MOST_GIGABYTES)
        if not np.isfinite(scanned["measured"]).all():
            raise InputError(f"{path}: the measurement has NaN or infinite values. Leave those slices out.")
        return _named(scanned).assign_attrs(facts)
    if path.suffix.lower() in (*PNG, *TIFF, STORE, DCM):
        pictures, facts = _pictures(path, scaling)
        if pictures.shape[1:] == tuple(shape):
            return _from_image(path, pictures, shape).assign_attrs(facts)
        if not np.isfinite(pictures).all():
            raise InputError(
                f"{path}: has holes and the shape {pictures.shape[1:]} (channel, y, x), but the model has events of "
                f"shape {tuple(shape)}. Crop it to the model, or fill the holes."
            )
        return _named({"measured": pictures.reshape(len(pictures), -1)}).assign_attrs(facts)
    arrays = _arrays(path)
    if "image" in arrays:
        return _from_image(path, _numbers(path, "image", arrays), shape)
    if "measured" not in arrays and given and path.suffix != ".npz":
        return _first_fields(path, shape, given, trained, constants)
    if "measured" not in arrays:
        raise InputError(f"{path}: needs `measured` or `image`, found {sorted(arrays)}. Name the array so.")
    values = _of_arrays(path, arrays)
    if given and trained is not None and SCALE in trained.coords:
        values["measured"] = _scaled(path, values["measured"], (len(given), *shape[1:]), trained)
    named = _named(values)
    held = {name: _numbers(path, CONSTANT + name, arrays) for name in constants if CONSTANT + name in arrays}
    return named if trained is None else named.assign(_maps(path, held, len(values["measured"]), trained))


def _maps(path: Path, held: dict[str, np.ndarray], n: int, trained: xr.Dataset) -> dict[str, Any]:
    """Constant fields (observation, *grid) of n observations, from one for all or one for each."""
    axes = grid_of(trained)
    grid, found = tuple(trained.sizes[axis] for axis in axes), {}
    for name, values in held.items():
        if values.shape not in (grid, (n, *grid)):
            raise InputError(
                f"{path}: {CONSTANT}{name} has shape {values.shape}, needs ({', '.join(axes)}) = {grid}, or "
                f"{(n, *grid)} for one of each observation. Give it on the model's grid."
            )
        found[OBSERVED_CONSTANT + name] = (("observation", *axes), np.broadcast_to(values, (n, *grid)))
    return found


def _of_arrays(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """`measured` (observation, measurement), and what the operator and a forecaster are told of each."""
    measured = _numbers(path, "measured", arrays)
    if measured.ndim not in (1, 2) or measured.size == 0 or not np.isfinite(measured).all():
        raise InputError(
            f"{path}: `measured` has shape {measured.shape}, needs (measurement,) or (observation, measurement), not "
            "empty, without NaN. An image with holes is given as `image`."
        )
    values: dict[str, Any] = {"measured": np.atleast_2d(measured)}
    for name, value in arrays.items():
        if name.startswith((PREFIX, PARAMETER)):
            own, is_number = (value if measured.ndim == 2 else value[None]), name.startswith(PARAMETER)
            values[OBSERVED + name.removeprefix(PARAMETER) if is_number else name] = own
            if own.shape[: own.ndim if is_number else 1] != values["measured"].shape[:1]:
                raise InputError(
                    f"{path}: {name} has shape {value.shape}, but `measured` has shape {measured.shape}. Give one "
                    f"{name} for each observation."
                )
    return values


def _first_fields(
    path: Path,
    shape: tuple[int, ...],
    given: Sequence[float],
    trained: xr.Dataset | None,
    constants: Sequence[str],
) -> xr.Dataset:
    """The first fields of each trajectory of a file of simulations, as measurements, and what is known of each."""
    several = trained if trained is not None and SCALE in trained.coords else None
    names = () if several is None else tuple(map(str, several["channel"].to_numpy()))
    found = layout_of(path).read(path, part=Part(names))
    if len(found.fields) > 1 and not names:
        raise InputError(f"{path}: several fields, {[*found.fields]}, but a forecast starts from one. Keep that one.")
    times = found.time[: len(given)] - found.time[0]
    whole = found.to_dataset()
    fields = whole["data"].isel(time=slice(len(given)))
    if several is None:
        fields = fields.isel(channel=0)
    else:
        fields = ((fields - several[OFFSET]) / several[SCALE]).transpose(*fields.dims)
    if fields.shape[1:] != (needed := (len(given), *shape[1:])):
        axes = ", ".join(map(str, fields.dims[1:]))
        raise InputError(f"{path}: ({axes}) = {fields.shape[1:]}, needs {needed}. Give fields on the model's grid.")
    if not np.allclose(times, given, rtol=UNEVEN, atol=0):
        raise InputError(
            f"{path}: the given fields are at {times.tolist()}, counted from the first, but the model learned from "
            f"fields at {[*given]}. Take such fields."
        )
    if trained is not None:
        _check_place(path, found, trained)
    numbers = {OBSERVED + name: values for name, values in found.parameters.items()}
    named = _named({"measured": fields.to_numpy().reshape(len(fields), -1).astype(np.float64), **numbers})
    held = {name: whole[CONSTANT + name].to_numpy() for name in constants if name in found.constants}
    return named if trained is None else named.assign(_maps(path, held, len(fields), trained))


def _scaled(path: Path, measured: np.ndarray, shape: tuple[int, ...], trained: xr.Dataset) -> np.ndarray:
    """Fields of several variables, in their own units, as the model learned them; `shape` (time, channel, *grid)."""
    if measured.size % int(np.prod(shape)):
        raise InputError(
            f"{path}: `measured` has shape {measured.shape}, but fields of shape {shape} are given. Mend it."
        )
    offset, scale = (trained[name].to_numpy().reshape(-1, *[1] * (len(shape) - 2)) for name in (OFFSET, SCALE))
    return ((measured.reshape(-1, *shape) - offset) / scale).reshape(measured.shape)


def _check_place(path: Path, found: Simulations, trained: xr.Dataset) -> None:
    """Refuse fields of another grid or other boundaries than the data that a model learned from.

    Where an axis starts does not matter, and what either file does not say is not asked for.
    """
    known = json.loads(trained.attrs.get("boundary", "{}"))
    for axis, places in found.space.items():
        own, learned = np.diff(places), np.diff(trained[axis].to_numpy()) if axis in trained.coords else None
        if learned is not None and not np.allclose(own, learned, rtol=UNEVEN, atol=0):
            raise InputError(
                f"{path}: the points of {axis!r} are {_range(own)} apart, but the model learned from fields whose "
                f"points are {_range(learned)} apart. Interpolate to those, or train on such fields."
            )
        kinds = found.boundary.get(axis), known.get(axis)
        if None not in kinds and kinds[0] != kinds[1]:
            raise InputError(
                f"{path}: the boundary of {axis!r} is {kinds[0]!r}, but the model learned from fields with "
                f"{kinds[1]!r}. Train on such fields."
            )


def _range(steps: np.ndarray) -> str:
    """The steps of an axis in words: one number, or the smallest and the largest."""
    low, high = f"{steps.min():.4g}", f"{steps.max():.4g}"
    return low if low == high else f"{low} to {high}"


def _pictures(path: Path, scaling: Literal["full", "stored"]) -> tuple[np.ndarray, dict[str, Any]]:
    """Pictures (observation, channel, y, x) in double precision, NaN where they are transparent, and their facts."""
    if path.suffix.lower() in (STORE, DCM):
        store = OMEZarr(scaling=scaling, max_gigabytes=MOST_GIGABYTES)
        read = (DICOM(max_gigabytes=MOST_GIGABYTES) if path.suffix.lower() == DCM else store).read(path)["data"]
        return read.to_numpy().astype(np.float64), {k: v for k, v in read.attrs.items() if k != "units"}
    picture = read_picture(path, MOST_GIGABYTES)
    values = scale(picture.values, scaling)[0].astype(np.float64)
    if picture.has_alpha:
        values = np.where(picture.values[:, -1:] > 0, values[:, :-1], np.nan)
    return values, picture.facts


def _named(values: dict[str, Any]) -> xr.Dataset:
    dims = {name: ("observation", *(f"{name}_{axis}" for axis in range(v.ndim - 1))) for name, v in values.items()}
    return to_xarray(values, dims)


def _numbers(path: Path, name: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """One array in double precision."""
    if arrays[name].dtype.kind not in "fiub":
        raise InputError(f"{path}: `{name}` holds {arrays[name].dtype}, needs real numbers. Convert it.")
    return arrays[name].astype(np.float64)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The named arrays of a file."""
    import xarray as xr

    if not path.is_file():
        raise InputError(f"{path}: there is no such file. Check the path; it starts at the working directory.")
    try:
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
                return {name: member(path, archive, name, MOST_GIGABYTES) for name in names}
        check_declared(path, None, MOST_GIGABYTES)
        with xr.open_dataset(path) as opened:
            for variable in opened.variables.values():
                check_size(path, variable.nbytes, MOST_GIGABYTES)
            return {str(name): variable.to_numpy() for name, variable in opened.variables.items()}
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, *BROKEN) as error:
        if is_passing(error):
            raise
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: is no readable NPZ or netCDF file ({reason}). Write it again.") from error


def _from_image(path: Path, image: np.ndarray, shape: tuple[int, ...]) -> xr.Dataset:
    """An image with holes as measurements and their mask."""
    fits = image.size > 0 and any(image.shape[-k:] == shape[-k:] for k in (len(shape), len(shape) - 1) if k)
    if not fits or image.size % int(np.prod(shape)):
        raise InputError(f"{path}: `image` has shape {image.shape}, but the model has events of shape {shape}.")
    images = image.reshape(-1, *shape)
    if np.isinf(images).any():
        raise InputError(f"{path}: `image` has infinite values. Write NaN where nothing was measured.")
    mask = np.isfinite(images)
    counts = mask.reshape(len(mask), -1).sum(1)
    if counts.min() == 0 or counts.min() != counts.max():
        raise InputError(f"{path}: images have {counts.tolist()} measured pixels. Give images with equally many, > 0.")
    dims = ("observation", *(f"axis_{i}" for i in range(images.ndim - 1)))
    return to_xarray(
        {"measured": images[mask].reshape(len(images), -1), "operator_mask": mask.astype(np.uint8)},
        {"measured": ("observation", "measurement"), "operator_mask": dims},
    )
