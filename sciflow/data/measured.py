"""Measurements of the user's own, without a ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.data.arrays import to_xarray
from sciflow.errors import InputError

if TYPE_CHECKING:
    import xarray as xr


def read_measured(path: str | Path, shape: tuple[int, ...]) -> xr.Dataset:
    """Observations from a netCDF or NPZ file.

    Either `measured` (measurement,) or (observation, measurement) with what the operator needs beside it as
    `operator_<name>`; or `image` (*event) or (observation, *event) with NaN where nothing was measured.

    Args:
        path: the file.
        shape: event shape of the model.

    Raises:
        InputError: neither is there, shapes do not fit, or values that should be finite are not.
    """
    arrays = _arrays(Path(path))
    if "image" in arrays:
        return _from_image(Path(path), np.asarray(arrays["image"], dtype=np.float64), shape)
    if "measured" not in arrays:
        raise InputError(f"{path}: needs `measured` or `image`, found {sorted(arrays)}. Name the array so.")
    measured = np.atleast_2d(np.asarray(arrays["measured"], dtype=np.float64))
    if measured.ndim != 2 or not np.isfinite(measured).all():
        raise InputError(f"{path}: `measured` has shape {measured.shape}, needs finite (observation, measurement).")
    values: dict[str, Any] = {"measured": measured}
    for name, value in arrays.items():
        if name.startswith("operator_"):
            values[name] = value if len(value) == len(measured) and len(measured) > 1 else np.asarray(value)[None]
    dims = {name: ("observation", *(f"{name}_{axis}" for axis in range(v.ndim - 1))) for name, v in values.items()}
    return to_xarray(values, dims)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The named arrays of a file."""
    import xarray as xr

    if not path.is_file():
        raise InputError(f"{path}: there is no such file. Check the path; it starts at the working directory.")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return dict(archive)
        with xr.open_dataset(path) as opened:
            return {str(name): variable.to_numpy() for name, variable in opened.variables.items()}
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: is no readable NPZ or netCDF file ({error}). Write it again.") from error


def _from_image(path: Path, image: np.ndarray, shape: tuple[int, ...]) -> xr.Dataset:
    """An image with holes as measurements and their mask."""
    images = image.reshape(-1, *shape) if image.size % int(np.prod(shape)) == 0 and image.size else None
    if images is None or tuple(image.shape[-2:]) != tuple(shape[-2:]):
        raise InputError(f"{path}: `image` has shape {image.shape}, but the model has images of shape {shape}.")
    mask = np.isfinite(images)
    counts = mask.reshape(len(mask), -1).sum(1)
    if counts.min() == 0 or counts.min() != counts.max():
        raise InputError(f"{path}: images have {counts.tolist()} measured pixels. Give images with equally many, > 0.")
    axes = ("observation", "channel", "y", "x")[: images.ndim] if images.ndim == 4 else None
    dims = axes or ("observation", *(f"axis_{i}" for i in range(images.ndim - 1)))
    return to_xarray(
        {"measured": images[mask].reshape(len(images), -1), "operator_mask": mask.astype(np.uint8)},
        {"measured": ("observation", "measurement"), "operator_mask": dims},
    )
