"""NumPy archives."""

from __future__ import annotations

import math
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from sciflow.archives import declared
from sciflow.data.formats.mapping import blank, check_size, choose, existing, named
from sciflow.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

BROKEN = (zipfile.BadZipFile, zlib.error, EOFError)
"""What zipfile raises for a damaged archive."""


@dataclass(frozen=True)
class NPZ:
    """Array of a NumPy archive (`numpy.savez`), with its axes named.

    Exactness: values are kept as they are
    Cost: the whole array in memory, refused above `max_gigabytes` before it is read
    Bias: none; archives of Python objects are refused, because reading them would run their code

    Args:
        variable: name of the array; empty takes the only one.
        dims: name -> axis of the array, e.g. {sample: 0, channel: null, y: 1, x: 2}; empty guesses from the shape.
        units: of the values.
        split_by: name of an array with the id of the patient, writer or trajectory of each sample.
        max_gigabytes: largest array that is read.

    Source: numpy.lib.format, version 1.0 to 3.0.
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
        path = existing(path)
        try:
            with zipfile.ZipFile(path) as archive:
                names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
                candidates = [name for name in names if name != self.split_by]
                values = member(path, archive, choose(path, self.variable, candidates), self.max_gigabytes, look_inside)
                unit = None
                if self.split_by:
                    chosen = choose(path, self.split_by, names, "split_by")
                    unit = member(path, archive, chosen, self.max_gigabytes, look_inside)
        except (*BROKEN, OSError, RuntimeError) as error:
            raise InputError(f"{path} is no NumPy archive, or damaged ({error}). Write it with numpy.savez.") from error
        return named(path, values, self.dims, self.units, unit, look_inside)


def member(
    path: Path, archive: zipfile.ZipFile, name: str, max_gigabytes: float, look_inside: bool = True
) -> np.ndarray:
    """One array of an archive; its header is believed only as far as the size limit.

    Raises:
        InputError: it is too large, or holds Python objects.
    """
    try:
        shape, dtype = declared(archive, name)
        check_size(path, math.prod(shape) * dtype.itemsize, max_gigabytes)
        if not look_inside:
            return blank(shape, dtype)
        with archive.open(f"{name}.npy") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except InputError:
        raise
    except ValueError as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: array {name!r} cannot be read ({reason}). Save plain numbers.") from error
