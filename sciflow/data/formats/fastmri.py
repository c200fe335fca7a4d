"""fastMRI's volumes as images to learn from: complex, their coils put together, in two channels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
from pydantic import Field

from sciflow.data.formats.coils import calibrated_maps, images_of
from sciflow.data.formats.ismrmrd import Encoding
from sciflow.data.formats.mapping import blank, check_size, existing, named
from sciflow.data.formats.pictures import DIMS
from sciflow.data.formats.scans import array, cropped, header, maps_of, middle, placed, top
from sciflow.errors import InputError

if TYPE_CHECKING:
    import h5py
    import xarray as xr

H5 = (".h5", ".hdf5")


class _Head(NamedTuple):
    """What the head of a volume tells: its slices, coils, the grid of its images, its encoding, and whose it is."""

    slices: int
    coils: int
    grid: tuple[int, int]
    encoding: Encoding | None
    owner: str


@dataclass(frozen=True)
class FastMRI:
    """Complex images of fully measured k-space as fastMRI stores it, a file or a folder of volumes; slices are samples.

        x = Σ_c S_c* F⁻¹ y_c,   in two channels, the real and the imaginary part

    S are the coil maps in the file, `s_maps`, or those that the middle of k-space tells, as `sciflow apply` finds them
    for a scan: a prior of these images takes such scans. Images are the part that `ismrmrd_header` shows.

    Exactness: values in the units of the file, in float32; with maps of the file that of Σ_c |S_c|² = 1
    Cost: one Fourier transform per coil and slice; all slices in memory, refused above `max_gigabytes` before
    Bias: what a partial scan left out is zero; maps from the middle of k-space take the smooth phase out of the image
    Args:
        units: of the values.
        split_by: attribute of the files that says what belongs together; a file without it counts for itself.
        max_gigabytes: largest array that is read or made.
    Source: Zbontar et al. (2018), fastMRI; Roemer et al. (1990), The NMR phased array.
    """

    units: str = "1"
    split_by: str = "patient_id"
    max_gigabytes: Annotated[float, Field(gt=0)] = 8.0

    def read(self, path: str | Path, look_inside: bool = True) -> xr.Dataset:
        """Read, name and check. Raises InputError in words for every way in which a file can be wrong.

        Args:
            path: the file, or a folder; all files below it that end in .h5 or .hdf5, in the order of their names.
            look_inside: false reads headers only, and gives zeros for values.
        """
        path = Path(path)
        files = volumes(path) if path.is_dir() else [existing(path)]
        heads = [self._opened(file, False)[0] for file in files]
        for file, head in zip(files, heads, strict=True):
            if head.grid != heads[0].grid:
                raise InputError(
                    f"{file}: has images of {head.grid} (y, x), but {files[0]} of {heads[0].grid}. Give volumes of one "
                    "size, e.g. each in a folder of its own."
                )
        shape = (sum(head.slices for head in heads), 2, *heads[0].grid)
        check_size(path, math.prod(shape) * 4, self.max_gigabytes)
        parts = [self._opened(file, True)[1] for file in files] if look_inside else []
        values = np.concatenate(parts) if look_inside else blank(shape, np.dtype("f4"))
        _, owner = np.unique([head.owner for head in heads], return_inverse=True)  # and not who it is
        unit = np.repeat(owner, [head.slices for head in heads])
        return named(path, values, {name: k for k, name in enumerate(DIMS)}, self.units, unit, look_inside)

    def _opened(self, path: Path, look_inside: bool) -> tuple[_Head, np.ndarray]:
        """Head and images (slice, 2, y, x) of one volume; none of the latter unless asked for."""
        import h5py

        if "kspace" not in (found := top(path)):
            raise InputError(f"{path}: found the arrays {found}, needs `kspace` (slice, [coil,] y, x). Leave it out.")
        try:
            with h5py.File(path, "r") as file:
                head = self._head(path, file)
                return head, self._images(path, file, head) if look_inside else np.empty(0, np.float32)
        except (OSError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"{path} is no HDF5 file, or damaged ({reason}). Write it again.") from error

    def _head(self, path: Path, file: h5py.File) -> _Head:
        stored, (encoding, _) = file["kspace"], header(path, file, self.max_gigabytes)
        if stored.dtype.kind != "c" or stored.ndim not in (3, 4):
            got = f"{stored.dtype} {stored.shape}"
            raise InputError(f"{path}: `kspace` is {got}, needs complex numbers (slice, [coil,] y, x). Store it so.")
        if "mask" in file and not array(path, file, "mask", self.max_gigabytes).all():
            raise InputError(
                f"{path}: has a `mask` of columns that were left out. Learn from fully measured volumes, as those in "
                "fastMRI's folders train and val; `sciflow apply` takes this one."
            )
        grid = stored.shape[-2:]
        if encoding is not None and encoding.acquired is not None:
            grid = (grid[0], encoding.encoded[1])
        if encoding is not None and encoding.encoded[:2] == grid:
            grid = (min(encoding.shown[0], grid[0]), min(encoding.shown[1], grid[1]))
        owner = str(file.attrs.get(self.split_by, "") or path)
        return _Head(stored.shape[0], stored.shape[1] if stored.ndim == 4 else 1, grid, encoding, owner)

    def _images(self, path: Path, file: h5py.File, head: _Head) -> np.ndarray:
        """Float32, (slice, 2, y, x)."""
        space = array(path, file, "kspace", self.max_gigabytes)
        space, was_acquired = placed(path, space.reshape(head.slices, head.coils, *space.shape[-2:]), head.encoding)
        space = cropped(path, space, (2, *head.grid), head.encoding)
        shown = middle(space.shape[3], head.grid[1])
        if "s_maps" in file:
            stored = array(path, file, "s_maps", self.max_gigabytes)
            parts = maps_of(path, stored, space.shape[:2], (2, *head.grid), head.encoding)
            maps = parts[:, :, 0] + 1j * parts[:, :, 1]
        elif head.coils > 1:
            found = calibrated_maps(space, was_acquired)
            if found is None:
                raise InputError(
                    f"{path}: its coils cannot be told from {was_acquired.sum()} columns of k-space. Add their maps "
                    "as `s_maps` (slice, coil, y, x)."
                )
            maps = found[..., shown]
        else:
            maps = np.ones(1, complex)
        image = (maps.conj() * images_of(space)[..., shown]).sum(1)
        return np.stack([image.real, image.imag], 1).astype(np.float32)


def volumes(folder: Path) -> list[Path]:
    """HDF5 files below a folder, in the order of their names."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in H5)


def holds_kspace(path: Path) -> bool:
    """Whether a file is one of fastMRI's."""
    import h5py

    return path.is_file() and path.suffix.lower() in H5 and h5py.is_hdf5(path) and "kspace" in top(path)
