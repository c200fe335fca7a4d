"""The layout of The Well: fields by the order of their tensors, with what varies and what does not said of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from sciflow.data.formats.mapping import check_size
from sciflow.data.layouts.simulations import AXES, WHOLE, Part, Simulations, require
from sciflow.data.layouts.stored import Read, array, n_bytes, opened, text, written
from sciflow.errors import InputError

if TYPE_CHECKING:
    import h5py

ORDERS = {"t0_fields": 0, "t1_fields": 1, "t2_fields": 2}
BOUNDARIES = {"PERIODIC": "periodic", "WALL": "wall", "OPEN": "open"}


@dataclass(frozen=True)
class TheWell:
    """HDF5 files of The Well: `t0_fields`, `t1_fields`, `t2_fields`, `dimensions`, `boundary_conditions`, `scalars`.

    Vectors and tensors become one field for each component: `velocity` is `velocity_x`, `velocity_y`. Axes that a
    field does not have (`sample_varying`, `time_varying`, `dim_varying`) are filled by repeating it; fields that do
    not change in time are constants, and scalars that do not are parameters.

    Exactness: values are kept as they are
    Cost: what is asked for in memory, refused above `max_gigabytes` before it is read; of a vector all components
    Bias: none; scalars that change in time, and coordinates that change, are refused and not dropped
    Args:
        max_gigabytes: largest total that is read.
    Source: Ohana et al. (2024), The Well; the layout that its own checker accepts.
    """

    max_gigabytes: Annotated[float, Field(gt=0)] = 8.0
    keys: ClassVar[str] = "`t0_fields`, `dimensions` with `time` and its `spatial_dims`"

    def knows(self, file: h5py.File) -> bool:
        """Whether a file has this layout."""
        return "dimensions" in file and any(group in file for group in ORDERS)

    def read(self, path: str | Path, look_inside: bool = True, part: Part = WHOLE) -> Simulations:
        """A part of the file. Raises InputError in words for every way in which it can be wrong."""
        with opened(path) as file:
            require(path, file, self)
            dims = file["dimensions"]
            axes = [text(axis) for axis in dims.attrs["spatial_dims"]]
            _refuse_moving(path, dims, axes)
            names, cut = _asked(path, file, axes, part.variables), (part.samples, part.times)
            check_size(Path(path), sum(n_bytes(file[n], *_cut(file[n], cut)) for n in names), self.max_gigabytes)
            get = array(path, self.max_gigabytes, look_inside)
            space, all_times = {axis: get(dims[axis]) for axis in axes}, get(dims["time"])
            n, time = len(range(*part.samples.indices(int(file.attrs["n_trajectories"])))), all_times[part.times]
            sizes = (n, len(time), *(len(space[axis]) for axis in axes))
            fields: dict[str, np.ndarray] = {}
            constants: dict[str, np.ndarray] = {}
            for name in names:
                varies = bool(file[name].attrs["time_varying"])
                into = fields if varies else constants
                for key, values in _components(path, file[name], get, sizes, axes, cut):
                    into[key] = values if varies else values[:, 0]
            parameters = _scalars(path, file, get, part.samples, n)
            boundary = _boundaries(file)
            facts = {"dataset_name": text(file.attrs["dataset_name"])} if "dataset_name" in file.attrs else {}
        if not fields:
            raise InputError(f"{path}: no field varies in time, found {names}. Give simulations with times.")
        fields = {name: fields[name] for name in part.chosen(path, [*fields])}
        return Simulations(fields, time, space, constants, parameters, boundary, facts).checked(path, look_inside)

    def write(self, path: str | Path, simulations: Simulations) -> None:
        """A file in this layout; components of vectors are written as scalar fields of their names."""
        axes, n = list(simulations.space), simulations.shape[0]
        with written(path) as file:
            file.attrs["dataset_name"] = str(simulations.facts.get("dataset_name", "sciflow"))
            file.attrs["grid_type"], file.attrs["n_spatial_dims"] = "cartesian", len(axes)
            file.attrs["n_trajectories"] = n
            file.attrs["simulation_parameters"] = list(simulations.parameters) or np.array([], "S1")
            dims = file.create_group("dimensions")
            dims.attrs["spatial_dims"] = axes
            for axis, places in {"time": simulations.time, **simulations.space}.items():
                dims[axis] = places.astype(np.float32)
                dims[axis].attrs["sample_varying"] = dims[axis].attrs["time_varying"] = False
            _write_boundaries(file, simulations)
            _write_group(file, "scalars", simulations.parameters.items(), False)
            _write_group(file, "t0_fields", simulations.fields.items(), True, len(axes))
            _write_group(file, "t0_fields", simulations.constants.items(), False, len(axes))
            for group in ("t1_fields", "t2_fields"):
                _write_group(file, group, (), True)


def _names(group: h5py.Group) -> list[str]:
    """Fields of a group, in the order that it gives."""
    return [text(name) for name in group.attrs.get("field_names", list(group))]


def _asked(path: str | Path, file: h5py.File, axes: list[str], variables: tuple[str, ...]) -> list[str]:
    """Data sets of the fields that are asked for, or of all, and those that do not change in time."""
    names = [f"{group}/{name}" for group in ORDERS if group in file for name in _names(file[group])]
    if not variables:
        return names
    keys = {name: [key for key, _ in _keys(file[name], axes)] for name in names}
    moving = [name for name in names if bool(file[name].attrs["time_varying"])]
    Part(variables).chosen(path, [key for name in moving for key in keys[name]])
    return [name for name in names if name not in moving or {*variables} & {*keys[name]}]


def _keys(stored: h5py.Dataset, axes: list[str]) -> list[tuple[str, int]]:
    """Name and place of each component of a field."""
    group, _, name = stored.name.strip("/").partition("/")
    indices = product(range(len(axes)), repeat=ORDERS[group])
    return [(name + ((index and "_") or "") + "".join(axes[i] for i in index), k) for k, index in enumerate(indices)]


def _has(stored: h5py.Dataset) -> list[bool]:
    """Whether a field has the axes of samples and of times."""
    return [bool(stored.attrs[name]) for name in ("sample_varying", "time_varying")]


def _cut(stored: h5py.Dataset, cut: tuple[slice, slice]) -> list[slice]:
    """What is read along those of the first axes that a field has."""
    return [part for part, is_there in zip(cut, _has(stored), strict=True) if is_there]


def _refuse_moving(path: str | Path, dims: h5py.Group, axes: list[str]) -> None:
    """Raise InputError for coordinates that are not the same for all samples and times."""
    unknown = [axis for axis in axes if axis not in AXES]
    if unknown:
        raise InputError(f"{path}: the axes are {axes}, known are {AXES}. Only Cartesian grids are read.")
    for axis in ("time", *axes):
        if any(bool(dims[axis].attrs.get(name, False)) for name in ("sample_varying", "time_varying")):
            raise InputError(f"{path}: coordinates of {axis!r} vary from sample to sample. Interpolate to one grid.")


def _components(
    path: str | Path, stored: h5py.Dataset, get: Read, sizes: tuple[int, ...], axes: list[str],
    cut: tuple[slice, slice],
) -> Iterable[tuple[str, np.ndarray]]:  # fmt: skip
    """(name, (sample, time, *space)) for each component of a field; axes that it lacks are repeated."""
    has = [*_has(stored), *(bool(one) for one in stored.attrs["dim_varying"])]
    keys = _keys(stored, axes)
    tensor = (len(axes),) * ORDERS[stored.parent.name.strip("/")]
    wanted = (*(n for n, is_there in zip(sizes, has, strict=True) if is_there), *tensor)
    values = get(stored, *_cut(stored, cut))
    if values.shape != wanted:
        raise InputError(f"{path}: {stored.name!r} has shape {values.shape}, its attributes say {wanted}.")
    full = values.reshape(*(n if is_there else 1 for n, is_there in zip(sizes, has, strict=True)), len(keys))
    for key, place in keys:
        yield key, np.broadcast_to(full[..., place], sizes)


def _scalars(path: str | Path, file: h5py.File, get: Read, samples: slice, n: int) -> dict[str, np.ndarray]:
    """Scalars of each sample that is read."""
    group, found = file.get("scalars"), {}
    for name in _names(group) if group is not None else ():
        if bool(group[name].attrs.get("time_varying", False)):
            raise InputError(f"{path}: scalar {name!r} varies in time. Store it as a field, or leave it out.")
        values = np.asarray(get(group[name]), dtype=np.float64)
        found[name] = np.broadcast_to(values[samples] if values.ndim else values, (n,))
    return found


def _boundaries(file: h5py.File) -> dict[str, str]:
    """Axis → what its ends do."""
    found, group = {}, file.get("boundary_conditions")
    for one in group.values() if group is not None else ():
        for axis in one.attrs.get("associated_dims", ()):
            kind = text(one.attrs["bc_type"]).upper()
            found[text(axis)] = BOUNDARIES.get(kind, kind.lower())
    return found


def _write_boundaries(file: h5py.File, simulations: Simulations) -> None:
    group = file.create_group("boundary_conditions")
    for axis, kind in simulations.boundary.items():
        one = group.create_group(f"{axis}_{kind}")
        one.attrs["associated_dims"], one.attrs["associated_fields"] = [axis], np.array([], "S1")
        one.attrs["bc_type"] = kind.upper()
        one.attrs["sample_varying"] = one.attrs["time_varying"] = False
        mask = np.zeros(len(simulations.space[axis]), dtype=bool)
        mask[[0, -1]] = True
        one["mask"] = mask


def _write_group(
    file: h5py.File,
    name: str,
    values: Iterable[tuple[str, np.ndarray]],
    in_time: bool,
    n_axes: int = 0,
) -> None:
    """Fields with what varies said of each; the names of the group are extended."""
    group = file.require_group(name)
    names = _names(group) if "field_names" in group.attrs else []
    for key, value in values:
        stored = group.create_dataset(key, data=value.astype(np.float32))
        stored.attrs["sample_varying"], stored.attrs["time_varying"] = True, in_time
        if n_axes:
            stored.attrs["dim_varying"] = [True] * n_axes
        names.append(key)
    group.attrs["field_names"] = names or np.array([], "S1")
