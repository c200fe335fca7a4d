"""HDF5 files of simulations, by h5py alone: opened, read within a limit, and written whole."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sciflow.data.formats.mapping import blank, check_size, existing
from sciflow.data.store import atomic_path
from sciflow.errors import InputError

if TYPE_CHECKING:
    import h5py


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[h5py.File]:
    """The file, with what h5py raises in words.

    Raises:
        InputError: missing, no HDF5 file, damaged, or without what its layout needs.
    """
    import h5py

    path = existing(path)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} is no HDF5 file of this layout, or damaged ({reason}). Write it again.") from error


def array(path: str | Path, max_gigabytes: float, look_inside: bool) -> Callable[[h5py.Dataset], np.ndarray]:
    """How data sets of a file are read: within a limit, real numbers only, and not from another file."""

    def read(stored: h5py.Dataset) -> np.ndarray:
        name = stored.name
        if stored.external or stored.is_virtual:
            raise InputError(f"{path}: data set {name!r} lies in another file. Copy it into this one.")
        if stored.shape is None or stored.dtype.kind not in "fiub":
            raise InputError(f"{path}: data set {name!r} holds {stored.dtype}, needs real numbers. Convert it.")
        check_size(Path(path), n_bytes(stored), max_gigabytes, name)
        is_field = len(stored.shape) > 1
        return stored[()] if look_inside or not is_field else blank(stored.shape, stored.dtype)

    return read


def n_bytes(stored: h5py.Dataset) -> int:
    """Size in memory, as the header declares it."""
    return int(stored.size or 0) * stored.dtype.itemsize


def text(value: object) -> str:
    """An attribute as text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


@contextlib.contextmanager
def written(path: str | Path) -> Iterator[h5py.File]:
    """A new file that takes its place when the block ends well."""
    import h5py

    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        yield file
