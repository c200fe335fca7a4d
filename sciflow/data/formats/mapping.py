"""From an unnamed array of the user's file to `data(sample, …)` with named dims, checked before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sciflow.data.schema import not_finite, suggestion
from sciflow.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

GIGABYTE = 1e9


def existing(path: str | Path) -> Path:
    """The path of a file that is there.

    Raises:
        InputError: it is missing, a directory, or empty.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is no file. Correct `dataset.path`; it is relative to the working directory.")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty. Write it again.")
    return path


def choose(path: Path, variable: str, names: Sequence[str], key: str = "variable") -> str:
    """The name to read: the one that was asked for, or the only one there.

    Raises:
        InputError: it is not there, or there are several and none was asked for.
    """
    names = sorted(names)
    if variable in names:
        return variable
    if not variable and len(names) == 1:
        return names[0]
    asked = f"no variable {variable!r}" if variable else "several variables"
    hint = suggestion(variable, names) or f" Say which one: `{key}: <name>`."
    raise InputError(f"{path}: {asked}, found {names}.{hint}")


def check_size(path: Path, n_bytes: int, max_gigabytes: float, name: str = "") -> None:
    """Refuse an array that is larger than declared, before it is read; named if the file has names.

    Raises:
        InputError: it is.
    """
    if n_bytes > max_gigabytes * GIGABYTE:
        raise InputError(
            f"{path}: the array{name and f' {name!r}'} takes {n_bytes / GIGABYTE:.3g} GB, the limit is "
            f"{max_gigabytes:g} GB. Raise `max_gigabytes` if the machine has the memory, or give fewer samples."
        )


def check_declared(path: Path, names: Iterable[str] | None, max_gigabytes: float) -> None:
    """The same for data sets of a file that HDF5 reads, whatever its dims say; other files are left alone.

    Args:
        path: of the file.
        names: of the data sets; None for every one at the top.
        max_gigabytes: the limit of each.

    Raises:
        InputError: one is larger.
    """
    import h5py

    if not h5py.is_hdf5(path):
        return
    with h5py.File(path, "r") as file:
        for name in file if names is None else names:
            stored = file.get(name)
            if isinstance(stored, h5py.Dataset) and stored.shape is not None:
                check_size(path, stored.size * stored.dtype.itemsize, max_gigabytes, name)


def blank(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """An array of zeros that takes no memory: what stands for values that are not read."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def named(
    path: Path,
    values: np.ndarray,
    dims: Mapping[str, int | None],
    units: str,
    unit: np.ndarray | None = None,
    look_inside: bool = True,
) -> xr.Dataset:
    """Name, order and check the axes of an array.

    Args:
        path: of the file, for messages.
        values: the array.
        dims: name -> axis of the array, in the order that is wanted; None makes an axis of size one. Empty takes
            `sample` and then `dimension`, or `channel`, `y`, `x`, by the number of axes.
        units: of the values.
        unit: id of the patient, writer or trajectory of each sample, (sample,); None counts each for itself.
        look_inside: refuse NaN and infinite values; false for values that were not read.

    Returns:
        A data set with `data` and its coordinate `unit(sample)`.

    Raises:
        InputError: axes do not fit, values are no numbers, empty, NaN or infinite.
    """
    import xarray as xr

    if values.dtype.kind not in "fiub":
        raise InputError(f"{path}: the array holds {values.dtype}, needs real numbers. Convert it.")
    dims = dict(dims) or _default_dims(path, values.shape)
    axes = [axis for axis in dims.values() if axis is not None]
    if sorted(axes) != list(range(values.ndim)) or "sample" not in dims:
        raise InputError(
            f"{path}: the array has shape {values.shape} and `dims` is {dims}. "
            "Give each axis, from 0, one name, among them 'sample'; null makes a new axis of size one."
        )
    missing = tuple(place for place, axis in enumerate(dims.values()) if axis is None)
    values = np.expand_dims(values.transpose(axes), missing)
    if values.size == 0:
        raise InputError(f"{path}: the array is empty, shape {values.shape}. Give at least one sample.")
    order = tuple(dims)
    if look_inside and values.dtype.kind == "f" and (bad := not_finite(values, order)):
        raise InputError(f"{path}: {bad}. Remove or fill them, or mask them in the operator.")
    values = np.moveaxis(values, order.index("sample"), 0)
    order = ("sample", *(name for name in order if name != "sample"))
    unit = np.arange(len(values)) if unit is None else np.asarray(unit)
    if unit.shape != (len(values),):
        raise InputError(f"{path}: `split_by` has shape {unit.shape}, needs ({len(values)},), one id for each sample.")
    array = xr.Variable(order, values, {"units": units})
    return xr.Dataset({"data": array}, coords={"unit": ("sample", unit)})


def _default_dims(path: Path, shape: tuple[int, ...]) -> dict[str, int | None]:
    """sample, dimension for tables; sample, channel, y, x for pictures."""
    known: dict[int, dict[str, int | None]] = {
        2: {"sample": 0, "dimension": 1},
        3: {"sample": 0, "channel": None, "y": 1, "x": 2},
        4: {"sample": 0, "channel": 1, "y": 2, "x": 3},
    }
    if len(shape) not in known:
        raise InputError(f"{path}: the array has shape {shape}. Name its axes: `dims: {{sample: 0, …}}`.")
    return known[len(shape)]
