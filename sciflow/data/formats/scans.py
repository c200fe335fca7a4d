"""Measurements as the scanners' own data sets store them: fastMRI k-space and LoDoPaB-CT sinograms, in HDF5."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.data.formats.mapping import check_size
from sciflow.errors import InputError

if TYPE_CHECKING:
    import h5py

LARGEST_HEADER = 10**6  # bytes
ATTENUATION = 81.35858
"""Of 3071 HU [1/m], by which LoDoPaB-CT divides its images and sinograms."""
LARGEST_INTEGRAL = math.log(4096 / 0.1)  # of LoDoPaB-CT: 4096 photons are sent, and an empty bin counts as 0.1
SIZE = r"<{0}>\s*<matrixSize>\s*<x>(\d+)</x>\s*<y>(\d+)</y>\s*<z>(\d+)</z>"


def top(path: Path) -> list[str]:
    """Names of the arrays at the top of an HDF5 file.

    Raises:
        InputError: it is none.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return sorted(name for name in file if isinstance(file.get(name), h5py.Dataset))
    except (OSError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} is no HDF5 file, or damaged ({reason}). Write it again.") from error


def read_scan(path: Path, shape: tuple[int, ...], max_gigabytes: float) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """`measured` and the operator's parameters from a fastMRI or a LoDoPaB-CT file, and facts of its header.

    fastMRI: `kspace` (slice, [coil,] y, x), complex; columns of k-space are those of `mask`, or those that are not
    zero; coil maps of your own as `s_maps` (slice, coil, y, x). LoDoPaB-CT: `data` (scan, view, detector), line
    integrals over 81.35858/m, which are multiplied by it: the logarithm of the share of photons is left, negative.

    Args:
        path: the file.
        shape: event shape of the model.
        max_gigabytes: largest array that is read.

    Raises:
        InputError: neither layout, a sinogram beyond what LoDoPaB-CT can hold, complex and real numbers mixed up, or
            sizes that do not fit the model.
    """
    import h5py

    found = top(path)
    try:
        with h5py.File(path, "r") as file:
            if "kspace" in found:
                return _kspace(path, file, shape, max_gigabytes)
            if "data" in found and file["data"].ndim == 3:
                return {"measured": _sinograms(path, _array(path, file, "data", max_gigabytes))}, {}
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} is no HDF5 file, or damaged ({reason}). Write it again.") from error
    raise InputError(
        f"{path}: found the arrays {found}. A scan in HDF5 is known by `kspace` (slice, [coil,] y, x), as in fastMRI, "
        "or by `data` (scan, view, detector), as in LoDoPaB-CT; else write `measured` into netCDF or NPZ."
    )


def _array(path: Path, file: h5py.File, name: str, max_gigabytes: float) -> np.ndarray:
    stored = file[name]
    if stored.external or stored.is_virtual or stored.shape is None:
        raise InputError(f"{path}: {name!r} is empty, or lies in another file. Copy it into this one.")
    check_size(path, stored.size * stored.dtype.itemsize, max_gigabytes, name)
    return stored[()]


def _sinograms(path: Path, values: np.ndarray) -> np.ndarray:
    """Line integrals without a unit (scan, measurement), as `log_poisson` takes them."""
    if values.dtype.kind != "f":
        raise InputError(f"{path}: `data` holds {values.dtype}, a sinogram after the logarithm is real.")
    integrals = values.reshape(len(values), -1).astype(np.float64) * ATTENUATION
    if (largest := integrals.max(initial=0)) > LARGEST_INTEGRAL * (1 + 1e-5):  # stored in single precision
        raise InputError(
            f"{path}: `data` goes up to {largest / ATTENUATION:.4g}, but LoDoPaB-CT divides its sinograms by "
            f"{ATTENUATION}/m, which leaves {LARGEST_INTEGRAL / ATTENUATION:.4g} at most. If these are line integrals "
            "of your own, write them as `measured` into netCDF or NPZ."
        )
    return integrals


def _kspace(
    path: Path, file: h5py.File, shape: tuple[int, ...], max_gigabytes: float
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    space = _array(path, file, "kspace", max_gigabytes)
    if space.dtype.kind != "c":
        raise InputError(
            f"{path}: `kspace` holds {space.dtype}, needs complex numbers: its phase is lost. Store it so."
        )
    if space.ndim == 3:
        space = space[:, None]
    if space.ndim != 4 or len(shape) != 3 or space.shape[2:] != tuple(shape[1:]):
        raise InputError(
            f"{path}: `kspace` has shape {space.shape}, needs (slice, coil, y, x) with the grid of the model, "
            f"{tuple(shape[1:])}. Crop or pad it in image space."
        )
    if shape[0] != 2:
        raise InputError(
            f"{path}: k-space is of complex images, but the model has {shape[0]} channel(s). Train one of two "
            "channels, the real and the imaginary part."
        )
    has_mask = "mask" in file
    columns = _array(path, file, "mask", max_gigabytes).astype(bool) if has_mask else np.abs(space).any((0, 1, 2))
    if columns.shape != space.shape[3:] or not columns.any():
        raise InputError(f"{path}: `mask` has shape {columns.shape}, needs {space.shape[3:]}, not all zero.")
    kept = space[..., columns]
    arrays = {
        "measured": np.stack([kept.real, kept.imag], 2).reshape(len(kept), -1).astype(np.float64),
        "operator_lines": np.broadcast_to(columns.astype(np.uint8), (len(kept), len(columns))),
    }
    if "s_maps" in file:
        maps = _array(path, file, "s_maps", max_gigabytes)
        if maps.shape != space.shape or maps.dtype.kind != "c":
            raise InputError(f"{path}: `s_maps` is {maps.dtype} {maps.shape}, needs complex numbers {space.shape}.")
        arrays["operator_maps"] = np.stack([maps.real, maps.imag], 2).astype(np.float64)
    return arrays, _header(path, file, max_gigabytes)


def _header(path: Path, file: h5py.File, max_gigabytes: float) -> dict[str, Any]:
    """Acquisition and matrix sizes, where the file tells them."""
    facts = {name: str(file.attrs[name]) for name in ("acquisition", "patient_id") if name in file.attrs}
    if "ismrmrd_header" not in file:
        return facts
    stored: Any = _array(path, file, "ismrmrd_header", max_gigabytes)
    text = (stored if isinstance(stored, bytes) else str(stored).encode()).decode("utf-8", "replace")
    if len(text) > LARGEST_HEADER:
        raise InputError(f"{path}: `ismrmrd_header` has {len(text)} bytes, more than a header has. Write it again.")
    plain = re.sub(r"<(/?)\w+:", r"<\1", text)
    for name in ("encodedSpace", "reconSpace"):
        match = re.search(SIZE.format(name), plain)
        if match is None:
            raise InputError(
                f"{path}: `ismrmrd_header` names no matrix size of {name}. Copy the header of the scanner."
            )
        facts[f"matrix_{name}"] = "x".join(match.groups())
    return facts
