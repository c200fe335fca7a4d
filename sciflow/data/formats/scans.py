"""Measurements as the scanners' own data sets store them: fastMRI k-space and LoDoPaB-CT sinograms, in HDF5."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.data.formats.coils import along, calibrated_maps
from sciflow.data.formats.ismrmrd import Encoding, read_encoding
from sciflow.data.formats.mapping import check_size
from sciflow.errors import InputError

if TYPE_CHECKING:
    import h5py

ATTENUATION = 81.35858
"""Of 3071 HU [1/m], by which LoDoPaB-CT divides its images and sinograms."""
LARGEST_INTEGRAL = math.log(4096 / 0.1)  # of LoDoPaB-CT: 4096 photons are sent, and an empty bin counts as 0.1


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
    zero, and of these only what `ismrmrd_header` says was acquired; where it shows the middle of a larger grid, the
    readout y is cropped to it; coil maps of your own as `s_maps` (slice, coil, y, x), else those that the middle of
    k-space tells, where 8 columns or more of it were measured.

    LoDoPaB-CT: `data` (scan, view, detector), line integrals over 81.35858/m, which are multiplied by it: the logarithm
    of the share of photons is left, negative.

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
                return {"measured": _sinograms(path, array(path, file, "data", max_gigabytes))}, {}
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} is no HDF5 file, or damaged ({reason}). Write it again.") from error
    raise InputError(
        f"{path}: found the arrays {found}. A scan in HDF5 is known by `kspace` (slice, [coil,] y, x), as in fastMRI, "
        "or by `data` (scan, view, detector), as in LoDoPaB-CT; else write `measured` into netCDF or NPZ."
    )


def array(path: Path, file: h5py.File, name: str, max_gigabytes: float) -> np.ndarray:
    """One array of the file.

    Raises:
        InputError: it is empty, lies in another file, or is larger than the limit.
    """
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
    encoding, facts = header(path, file, max_gigabytes)
    space = array(path, file, "kspace", max_gigabytes)
    if space.dtype.kind != "c":
        raise InputError(
            f"{path}: `kspace` holds {space.dtype}, needs complex numbers: its phase is lost. Store it so."
        )
    space = space[:, None] if space.ndim == 3 else space
    if space.ndim != 4:
        raise InputError(f"{path}: `kspace` has shape {space.shape}, needs (slice, [coil,] y, x). Name no other axis.")
    mask = array(path, file, "mask", max_gigabytes).astype(bool) if "mask" in file else None
    if mask is not None and mask.shape not in (space.shape[3:], encoding and encoding.encoded[1:2]):
        raise InputError(f"{path}: `mask` has shape {mask.shape}, needs {space.shape[3:]}, a number for each column.")
    space, was_acquired = placed(path, space, encoding)
    columns = np.abs(space).any((0, 1, 2)) if mask is None else _spread(mask, was_acquired)
    space = cropped(path, space, shape, encoding)
    if shape[0] != 2:
        raise InputError(
            f"{path}: k-space is of complex images, but the model has {shape[0]} channel(s). Train one of two "
            "channels, the real and the imaginary part."
        )
    columns = columns & was_acquired
    if not columns.any():
        raise InputError(f"{path}: no column of `kspace` was measured. Give a `mask` that is not all zero.")
    kept = space[..., columns]
    arrays = {
        "measured": np.stack([kept.real, kept.imag], 2).reshape(len(kept), -1).astype(np.float64),
        "operator_lines": np.broadcast_to(columns.astype(np.uint8), (len(kept), len(columns))),
    }
    if "s_maps" in file:
        maps = array(path, file, "s_maps", max_gigabytes)
        arrays["operator_maps"] = maps_of(path, maps, space.shape[:2], shape, encoding)
    elif space.shape[1] > 1 and (told := calibrated_maps(space, columns)) is not None:
        told = told[..., middle(told.shape[3], shape[2])]
        arrays["operator_maps"] = np.stack([told.real, told.imag], 2).astype(np.float64)
        facts["coil_maps"] = "from the middle of k-space"
    if was_acquired.sum() < len(was_acquired):
        facts["acquired_columns"] = f"{np.flatnonzero(was_acquired)[0]}-{np.flatnonzero(was_acquired)[-1]}"
    return arrays, facts


def _spread(mask: np.ndarray, was_acquired: np.ndarray) -> np.ndarray:
    """A mask of the stored columns as one of the grid."""
    if len(mask) == len(was_acquired):
        return mask
    whole = np.zeros_like(was_acquired)
    whole[was_acquired] = mask
    return whole


def placed(path: Path, space: np.ndarray, encoding: Encoding | None) -> tuple[np.ndarray, np.ndarray]:
    """k-space with each line in its column of the encoded grid, and which columns were acquired.

    fastMRI stores the whole grid, with zeros where partial or asymmetric scans have no line: those are not measured.
    Other writers store the acquired lines alone.
    """
    stored = space.shape[3]
    if encoding is None or encoding.acquired is None:
        return space, np.ones(stored, bool)
    (start, stop), n = encoding.acquired, encoding.encoded[1]
    was_acquired = np.zeros(n, bool)
    was_acquired[start:stop] = True
    if stored == n:
        return space, was_acquired
    if stored != stop - start:
        raise InputError(
            f"{path}: `kspace` has {stored} columns, but its header encodes {n} and {stop - start} of them acquired. "
            "Store one or the other, or mend the header."
        )
    whole = np.zeros((*space.shape[:3], n), space.dtype)
    whole[..., start:stop] = space
    return whole, was_acquired


def cropped(path: Path, space: np.ndarray, shape: tuple[int, ...], encoding: Encoding | None) -> np.ndarray:
    """k-space of the middle of the image along y, where that is what the header shows and the model has.

    The readout is measured whole, so that this is exact: the transform back is unitary, and white noise stays white.
    Columns of a wider grid are left as they are: the operator knows of them.
    """
    grid, size = tuple(shape[1:]), space.shape[2:]
    is_image = len(shape) == 3
    is_shown = is_image and encoding is not None and encoding.shown[:2] == grid and encoding.encoded[:2] == size
    if is_shown and size != grid and size[0] >= grid[0] and size[1] >= grid[1]:
        return along(np.fft.fft, along(np.fft.ifft, space, 2)[:, :, middle(size[0], grid[0])], 2)
    if not is_image or size != grid:
        known = (
            "" if encoding is None else f"; its header encodes {encoding.encoded[:2]} and shows {encoding.shown[:2]}"
        )
        raise InputError(
            f"{path}: `kspace` has the grid {size}{known}. It needs (slice, coil, y, x) with the grid of the model, "
            f"{grid}, or a header that shows that part of it. Train on images of that grid, or crop it in image space."
        )
    return space


def middle(whole: int, part: int) -> slice:
    """The middle of an axis; index n // 2 of both is the same place."""
    return slice(whole // 2 - part // 2, whole // 2 - part // 2 + part)


def maps_of(
    path: Path, maps: np.ndarray, stack: tuple[int, ...], shape: tuple[int, ...], encoding: Encoding | None
) -> np.ndarray:
    """Coil maps on the grid of the model, (slice, coil, 2, y, x); of the encoded grid, its middle."""
    if (
        encoding is not None
        and maps.ndim == 4
        and maps.shape[2:] == encoding.encoded[:2]
        and encoding.shown[:2] == shape[1:]
    ):
        maps = maps[:, :, middle(maps.shape[2], shape[1]), middle(maps.shape[3], shape[2])]
    wanted = (*stack, *shape[1:])
    if maps.shape != wanted or maps.dtype.kind != "c":
        raise InputError(f"{path}: `s_maps` is {maps.dtype} {maps.shape}, needs complex numbers {wanted}.")
    return np.stack([maps.real, maps.imag], 2).astype(np.float64)


def header(path: Path, file: h5py.File, max_gigabytes: float) -> tuple[Encoding | None, dict[str, Any]]:
    """What the header encodes, and acquisition and matrix sizes, where the file tells them."""
    facts = {name: str(file.attrs[name]) for name in ("acquisition",) if name in file.attrs}  # and not whose scan it is
    if "ismrmrd_header" not in file:
        return None, facts
    stored: Any = array(path, file, "ismrmrd_header", max_gigabytes)
    encoding = read_encoding(path, stored if isinstance(stored, bytes) else str(stored).encode())
    facts |= {
        f"matrix_{name}": "x".join(map(str, sizes))
        for name, sizes in (("encodedSpace", encoding.encoded), ("reconSpace", encoding.shown))
    }
    return encoding, facts
