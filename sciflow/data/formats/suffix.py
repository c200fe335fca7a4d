"""The format that the suffix of a file names."""

from __future__ import annotations

from pathlib import Path

from sciflow.data.formats.hdf5 import HDF5
from sciflow.data.formats.netcdf import NetCDF
from sciflow.data.formats.npz import NPZ
from sciflow.errors import InputError

SUFFIXES = {".nc": NetCDF, ".nc4": NetCDF, ".cdf": NetCDF, ".h5": HDF5, ".hdf5": HDF5, ".npz": NPZ}


def format_of(path: str | Path) -> NetCDF | HDF5 | NPZ:
    """The reader with default settings that the suffix of a file asks for.

    Raises:
        InputError: the suffix is not known.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path} has suffix {suffix!r}, known are {sorted(SUFFIXES)}. Convert or rename the file.")
    return SUFFIXES[suffix]()
