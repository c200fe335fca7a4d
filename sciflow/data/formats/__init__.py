"""Readers of the user's own files, which give their axes names."""

from __future__ import annotations

from sciflow.data.formats.dicom import DICOM
from sciflow.data.formats.fastmri import FastMRI
from sciflow.data.formats.hdf5 import HDF5
from sciflow.data.formats.netcdf import NetCDF
from sciflow.data.formats.npz import NPZ
from sciflow.data.formats.ome_zarr import OMEZarr
from sciflow.data.formats.pictures import Pictures
from sciflow.data.formats.suffix import format_of

FORMATS: dict[str, type] = {
    "netcdf": NetCDF,
    "hdf5": HDF5,
    "npz": NPZ,
    "pictures": Pictures,
    "ome_zarr": OMEZarr,
    "dicom": DICOM,
    "fastmri": FastMRI,
}

__all__ = ["DICOM", "FORMATS", "HDF5", "NPZ", "FastMRI", "NetCDF", "OMEZarr", "Pictures", "format_of"]
