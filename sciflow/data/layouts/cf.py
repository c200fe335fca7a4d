"""netCDF and Zarr by the CF conventions: dims that say their axis, variables with units."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from sciflow.data.formats.mapping import check_declared, check_size, existing
from sciflow.data.layouts.simulations import AXES, WHOLE, Part, Simulations
from sciflow.data.store import atomic_path
from sciflow.errors import InputError, is_passing

if TYPE_CHECKING:
    import xarray as xr

logger = logging.getLogger(__name__)

STANDARD = {
    "longitude": "x", "projection_x_coordinate": "x", "latitude": "y", "projection_y_coordinate": "y", "altitude": "z",
    "height": "z", "depth": "z", "time": "time",
}  # fmt: skip
NAMES = {
    "lon": "x",
    "lat": "y",
    "lev": "z",
    "t": "time",
    "trajectory": "sample",
    "realization": "sample",
    "batch": "sample",
}
ZARR = ".zarr"


@dataclass(frozen=True)
class CF:
    """netCDF files and Zarr stores whose dims are known by the attribute `axis`, a standard name, or their own name.

    Variables with a time are fields, those with space and no time constants, and numbers of each sample parameters. A
    dim of samples may be missing: then there is one. Times are numbers in the units that the file says; a calendar is
    not decoded. Variables with other dims, such as bounds of cells, and without numbers are left out, with a warning.

    Exactness: values as xarray decodes them (scale factor, offset and fill value applied)
    Cost: what is asked for in memory, refused above `max_gigabytes` before it is read; Zarr needs the extra `zarr`
    Bias: none
    Args:
        max_gigabytes: largest total that is read.
    Source: CF conventions 1.11, sections 4 and 5.
    """

    max_gigabytes: Annotated[float, Field(gt=0)] = 8.0
    keys: ClassVar[str] = "variables with dims `time` and `x` (or `axis`/`standard_name` that say so)"

    def read(self, path: str | Path, look_inside: bool = True, part: Part = WHOLE) -> Simulations:
        """A part of the file. Raises InputError in words for every way in which it can be wrong."""
        import xarray as xr

        path = Path(path) if Path(path).is_dir() else existing(path)
        engine = "zarr" if path.is_dir() else None
        if engine:
            _need_zarr()
        try:
            if not engine:
                check_declared(path, _coordinates(path), self.max_gigabytes)  # read as the file is opened
            with xr.open_dataset(path, engine=engine, decode_times=False) as file:
                cut = {"sample": part.samples, "time": part.times}
                whole = _asked(path, _renamed(path, file), part.variables)
                asked = whole.isel(cut, missing_dims="ignore")
                check_size(path, sum(int(v.nbytes) for v in asked.data_vars.values()), self.max_gigabytes)
                if not engine:
                    read = {str(n): file[n].shape for n in (*file.coords, *asked.data_vars) if n in file.variables}
                    _check_shapes(path, read)
                found = _simulations(path, asked, look_inside)
        except InputError:
            raise
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            if is_passing(error):
                raise
            reason = str(error).partition("\n")[0]
            raise InputError(
                f"{path} is no netCDF file or Zarr store, or damaged ({reason}). Write it again."
            ) from error
        return found.checked(path, look_inside)

    def write(self, path: str | Path, simulations: Simulations) -> None:
        """A netCDF-4 file, or a Zarr store if the name ends in .zarr; an existing store is replaced."""
        path, dataset = Path(path), _conventional(simulations)
        if path.suffix != ZARR:
            with atomic_path(path) as temporary:
                temporary.write_bytes(dataset.to_netcdf(engine="h5netcdf"))
            return
        _need_zarr()
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".tmp-") as folder:
            dataset.to_zarr(Path(folder) / path.name, zarr_format=2, consolidated=True)
            shutil.rmtree(path, ignore_errors=True)
            (Path(folder) / path.name).replace(path)


def _coordinates(path: Path) -> list[str]:
    """Data sets of one axis in a file that HDF5 reads."""
    import h5py

    if not h5py.is_hdf5(path):
        return []
    with h5py.File(path, "r") as file:
        return [name for name, stored in file.items() if len(getattr(stored, "shape", None) or ()) == 1]


def _check_shapes(path: Path, said: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse HDF5 whose data sets are larger than their dims say: a slice of such a one may take all memory."""
    import h5py

    if not h5py.is_hdf5(path):
        return
    with h5py.File(path, "r") as file:
        for name, shape in said.items():
            stored = file.get(name)
            if isinstance(stored, h5py.Dataset) and any(n > m for n, m in zip(stored.shape or (), shape, strict=False)):
                raise InputError(
                    f"{path}: {name!r} has shape {stored.shape}, its dims say {shape}. Write the file again."
                )


def _need_zarr() -> None:
    """Raise InputError where the library is not installed."""
    try:
        import zarr  # noqa: F401
    except ImportError:
        raise InputError("Zarr stores need the extra: pip install 'sciflow[zarr]', or convert to netCDF.") from None


def _renamed(path: Path, file: xr.Dataset) -> xr.Dataset:
    """The data set with dims sample, time, z, y, x."""
    new: dict[str, str] = {}
    for dim in map(str, file.dims):
        attrs: dict[str, Any] = dict(file[dim].attrs) if dim in file.coords else {}
        said = {"X": "x", "Y": "y", "Z": "z", "T": "time"}.get(str(attrs.get("axis", "")).upper())
        found = said or STANDARD.get(str(attrs.get("standard_name", "")), NAMES.get(dim, dim))
        if found in new.values():
            raise InputError(
                f"{path}: the dims {[*new, dim]} would both be {found!r}. Correct their attributes `axis`."
            )
        new[dim] = found
    changed = {old: name for old, name in new.items() if old != name}
    return file.rename(changed) if changed else file


def _asked(path: Path, file: xr.Dataset, variables: tuple[str, ...]) -> xr.Dataset:
    """The variables whose dims are known, of the fields those that are asked for."""
    if "data" in file.data_vars and "channel" in file["data"].dims:  # our own
        numbered = [f"u{i}" for i in range(file.sizes["channel"])]
        names = [*map(str, file["channel"].to_numpy())] if "channel" in file.coords else numbered
        chosen = Part(variables).chosen(path, names)
        return file.isel(channel=[names.index(name) for name in chosen]).assign_coords(channel=chosen)
    space = {axis for axis in AXES if axis in file.dims}
    dims = {str(name): {str(dim) for dim in v.dims} for name, v in file.data_vars.items()}
    fits = {
        name: file[name].dtype.kind in "fiub"
        and own <= {"sample", "time", *space}
        and ("time" not in own or own & space)
        for name, own in dims.items()
        if not _is_description(file, name)
    }
    fields = [name for name, own in dims.items() if fits.get(name) and "time" in own]
    if not fields:
        raise InputError(
            f"{path} has the dims {[*map(str, file.sizes)]} and variables {[*dims]}, but needs {CF.keys}. Say "
            "`axis: T` and `axis: X` in the attributes of the coordinates."
        )
    if left := {name: file[name].dims for name, is_known in fits.items() if not is_known}:
        logger.warning("%s: left out %s: no numbers on a grid of %s", path, left, ["sample", "time", *sorted(space)])
    chosen = Part(variables).chosen(path, fields)
    return file[[*chosen, *(name for name in dims if fits.get(name) and name not in fields)]]


def _is_description(file: xr.Dataset, name: str) -> bool:
    """Whether a variable describes the cells of others or their projection."""
    said = [v.attrs.get(key) for v in file.variables.values() for key in ("bounds", "climatology", "grid_mapping")]
    return name in said or name.endswith(("_bnds", "_bounds"))


def _simulations(path: Path, file: xr.Dataset, look_inside: bool) -> Simulations:
    """Fields, constants and parameters by the dims that they have."""
    if "data" in file.data_vars and "channel" in file["data"].dims:
        return Simulations.of(file)
    space = [axis for axis in AXES if axis in file.dims]
    order = ("sample", "time", *space)
    groups: dict[str, dict[str, np.ndarray]] = {"fields": {}, "constants": {}, "parameters": {}}
    for key, variable in file.data_vars.items():
        dims, name = set(map(str, variable.dims)), str(key)
        kind = "fields" if "time" in dims else "constants" if dims & set(space) else "parameters"
        wanted = {"fields": order, "constants": ("sample", *space), "parameters": ("sample",)}[kind]
        sizes = [file.sizes.get(dim, 1) for dim in wanted]
        held = variable.transpose(*(dim for dim in wanted if dim in dims))
        values = held.to_numpy() if look_inside else np.broadcast_to(np.zeros((), held.dtype), held.shape)
        full = values.reshape([n if dim in dims else 1 for dim, n in zip(wanted, sizes, strict=True)])
        groups[kind][name] = np.broadcast_to(full, sizes)
    coords = {d: file[d].to_numpy() if d in file.coords else np.arange(file.sizes[d]) for d in ("time", *space)}
    boundary = json.loads(str(file.attrs.get("boundary", "{}")))
    facts = {str(k): v for k, v in file.attrs.items() if k not in ("boundary", "Conventions")}
    units = {str(n): str(v.attrs["units"]) for n, v in file.variables.items() if "units" in v.attrs}
    return Simulations(groups["fields"], coords["time"], {a: coords[a] for a in space}, groups["constants"],
                       groups["parameters"], boundary, facts, units)  # fmt: skip


def _conventional(simulations: Simulations) -> xr.Dataset:
    """A variable for each field, dims (sample, time, z, y, x), with the attributes that CF asks for."""
    import xarray as xr

    space = tuple(simulations.space)
    order = tuple(axis for axis in reversed(AXES) if axis in space)
    variables = {}
    for names, dims in (
        (simulations.fields, ("sample", "time", *space)),
        (simulations.constants, ("sample", *space)),
        (simulations.parameters, ("sample",)),
    ):
        wanted = tuple(dim for dim in ("sample", "time", *order) if dim in dims)
        for name, values in names.items():
            attrs = {"units": simulations.units.get(name, "1"), "long_name": name}
            variables[name] = xr.Variable(dims, values, attrs).transpose(*wanted)
    coords = {}
    for name, values in {"time": simulations.time, **simulations.space}.items():
        attrs = {"units": simulations.units.get(name, "1"), "axis": name[0].upper(), "long_name": name}
        coords[name] = xr.Variable((name,), values, attrs)
    about = {"Conventions": "CF-1.11", "title": "simulations", "boundary": json.dumps(dict(simulations.boundary))}
    return xr.Dataset(variables, coords, {**about, **simulations.facts})
