"""HDF5 files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from sciflow.data.formats.mapping import blank, check_size, choose, existing, named
from sciflow.errors import InputError

if TYPE_CHECKING:
    import h5py
    import xarray as xr


@dataclass(frozen=True)
class HDF5:
    """Data set of an HDF5 file, with its axes named.

    Exactness: values are kept as they are
    Cost: the whole array in memory, refused above `max_gigabytes` before it is read
    Bias: none; data sets that lie in another file (external or virtual) are refused

    Args:
        variable: path of the data set in the file, e.g. scans/density; empty takes the only one.
        dims: name -> axis of the array, e.g. {sample: 0, channel: null, y: 1, x: 2}; empty guesses from the shape.
        units: of the values.
        split_by: path of a data set with the id of the patient, writer or trajectory of each sample.
        max_gigabytes: largest array that is read.

    Source: the HDF5 library, through h5py.
    """

    variable: str = ""
    dims: dict[str, int | None] = field(default_factory=dict)
    units: str = "1"
    split_by: str = ""
    max_gigabytes: Annotated[float, Field(gt=0)] = 8.0

    def read(self, path: str | Path, look_inside: bool = True) -> xr.Dataset:
        """Read, name and check. Raises InputError in words for every way in which the file can be wrong.

        Args:
            path: the file.
            look_inside: false reads headers only, and gives zeros for values.
        """
        import h5py

        path = existing(path)
        try:
            with h5py.File(path, "r") as file:
                names = _datasets(file)
                candidates = [name for name in names if name != self.split_by.strip("/")]
                values = self._array(path, file, choose(path, self.variable.strip("/"), candidates), look_inside)
                unit = None
                if self.split_by:
                    chosen = choose(path, self.split_by.strip("/"), names, "split_by")
                    unit = self._array(path, file, chosen, look_inside)
        except (OSError, RuntimeError, KeyError, TypeError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"{path} is no HDF5 file, or damaged ({reason}). Write it again.") from error
        return named(path, values, self.dims, self.units, unit, look_inside)

    def _array(self, path: Path, file: h5py.File, name: str, look_inside: bool) -> np.ndarray:
        """One data set; text becomes str."""
        stored = file[name]
        if stored.external or stored.is_virtual:
            raise InputError(f"{path}: data set {name!r} lies in another file. Copy it into this one.")
        if stored.shape is None:
            raise InputError(f"{path}: data set {name!r} is empty. Give at least one sample.")
        check_size(path, stored.size * stored.dtype.itemsize, self.max_gigabytes)
        if not look_inside:
            return blank(stored.shape, stored.dtype)
        return stored.asstr()[()] if stored.dtype.kind == "O" else stored[()]


def _datasets(file: h5py.File) -> list[str]:
    """Paths of all data sets that lie in this file; soft and external links are not followed."""
    import h5py

    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return names
