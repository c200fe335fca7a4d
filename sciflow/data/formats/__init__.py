"""Readers of the user's own files: `dataset: {kind: file, path: …, format: {kind: npz, dims: …}}`."""

from __future__ import annotations

from pathlib import Path

from sciflow.data.formats.hdf5 import HDF5
from sciflow.data.formats.netcdf import NetCDF
from sciflow.data.formats.npz import NPZ
from sciflow.errors import InputError

FORMATS = {"netcdf": NetCDF, "hdf5": HDF5, "npz": NPZ}

SUFFIXES = {".nc": "netcdf", ".nc4": "netcdf", ".cdf": "netcdf", ".h5": "hdf5", ".hdf5": "hdf5", ".npz": "npz"}


def format_of(path: str | Path) -> NetCDF | HDF5 | NPZ:
    """The reader with default settings that the suffix of a file asks for.

    Raises:
        InputError: the suffix is not known.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path} has suffix {suffix!r}, known are {sorted(SUFFIXES)}. Say `format: {{kind: …}}`.")
    return FORMATS[SUFFIXES[suffix]]()


__all__ = ["FORMATS", "HDF5", "NPZ", "NetCDF", "format_of"]
