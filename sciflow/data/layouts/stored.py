"""HDF5 files of simulations, by h5py alone: opened, read within a limit, and written whole."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from sciflow.data.formats.mapping import blank, check_size, existing
from sciflow.data.store import atomic_path
from sciflow.errors import InputError, is_passing

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
        if isinstance(error, InputError) or is_passing(error):
            raise
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} is no HDF5 file of this layout, or damaged ({reason}). Write it again.") from error


class Read(Protocol):
    """How a data set is read: these positions along its first axes, and this one along its last."""

    def __call__(self, stored: h5py.Dataset, *first: slice, last: int | None = None) -> np.ndarray:
        """The numbers, or zeros in their place."""
        ...


def array(path: str | Path, max_gigabytes: float, look_inside: bool) -> Read:
    """How data sets of a file are read: within a limit, real numbers only, and not from another file."""

    def read(stored: h5py.Dataset, *first: slice, last: int | None = None) -> np.ndarray:
        name = stored.name
        if stored.external or stored.is_virtual:
            raise InputError(f"{path}: data set {name!r} lies in another file. Copy it into this one.")
        if stored.shape is None or stored.dtype.kind not in "fiub":
            raise InputError(f"{path}: data set {name!r} holds {stored.dtype}, needs real numbers. Convert it.")
        check_size(Path(path), n_bytes(stored, *first, last=last), max_gigabytes, name)
        if not look_inside and len(stored.shape) > 1:  # a field, not its coordinates
            return blank(_cut(stored.shape, first, last), stored.dtype)
        return stored[first if last is None else (*first, ..., last)]

    return read


def n_bytes(stored: h5py.Dataset, *first: slice, last: int | None = None) -> int:
    """Size in memory of what is read, as the header declares it."""
    return math.prod(_cut(stored.shape or (0,), first, last)) * int(stored.dtype.itemsize)


def _cut(shape: Sequence[int], first: Sequence[slice], last: int | None) -> tuple[int, ...]:
    """The shape of what is read."""
    cut = (*(len(range(*part.indices(n))) for n, part in zip(shape, first, strict=False)), *shape[len(first) :])
    return cut if last is None else cut[:-1]


def text(value: object) -> str:
    """An attribute as text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


@contextlib.contextmanager
def written(path: str | Path) -> Iterator[h5py.File]:
    """A new file that takes its place when the block ends well."""
    import h5py

    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        yield file
