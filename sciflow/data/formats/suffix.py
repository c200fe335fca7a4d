"""The format that the suffix of a file names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sciflow.data.formats.dicom import DCM, DICOM
from sciflow.data.formats.fastmri import FastMRI, holds_kspace, volumes
from sciflow.data.formats.hdf5 import HDF5
from sciflow.data.formats.netcdf import NetCDF
from sciflow.data.formats.npz import NPZ
from sciflow.data.formats.ome_zarr import OMEZarr
from sciflow.data.formats.pictures import Pictures
from sciflow.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

SUFFIXES: dict[str, type] = {
    ".nc": NetCDF, ".nc4": NetCDF, ".cdf": NetCDF, ".h5": HDF5, ".hdf5": HDF5, ".npz": NPZ,
    ".png": Pictures, ".tif": Pictures, ".tiff": Pictures, ".zarr": OMEZarr, DCM: DICOM,
}  # fmt: skip


class Reader(Protocol):
    """A file format with its options."""

    def read(self, path: str | Path, look_inside: bool = True) -> xr.Dataset:
        """`data` with named axes, and `unit` of each sample."""
        ...


def format_class(path: str | Path) -> type:
    """The format that the suffix of a file asks for; a folder without one holds DICOM files, fastMRI's or pictures.

    An HDF5 file with `kspace` at its top is one of fastMRI's.

    Raises:
        InputError: the suffix is not known.
    """
    suffix = Path(path).suffix.lower()
    if suffix in SUFFIXES:
        return FastMRI if holds_kspace(Path(path)) else SUFFIXES[suffix]
    if Path(path).is_dir():
        is_dicom = next(Path(path).rglob(f"*{DCM}"), None) is not None
        return DICOM if is_dicom else FastMRI if volumes(Path(path)) else Pictures
    raise InputError(f"{path} has suffix {suffix!r}, known are {sorted(SUFFIXES)}. Convert or rename the file.")


def format_of(path: str | Path) -> Reader:
    """The reader with default settings that the suffix of a file asks for.

    Raises:
        InputError: the suffix is not known.
    """
    return format_class(path)()
