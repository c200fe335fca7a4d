"""Archives are believed no further than their sizes: what they declare is read before anything in them is unpacked."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from sciflow.errors import InputError


def check_stored(path: Path | str) -> None:
    """Refuse a file of torch that unpacks to more than it is: `torch.save` stores, and never compresses.

    What is no archive, or a damaged one, is left to whoever reads it.

    Raises:
        InputError: a part is compressed, or all parts together are larger than the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (OSError, zipfile.BadZipFile, RuntimeError, ValueError):
        return
    declared, size = sum(part.file_size for part in parts), Path(path).stat().st_size
    if declared > size or any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise InputError(
            f"{path} has {size / 1e6:.3g} MB and unpacks to {declared / 1e6:.3g} MB, but torch.save compresses nothing."
            " Give the file that it wrote; if you trust this one, load it and save it again."
        )


def declared(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of an array of a NumPy archive, from its header alone.

    Raises:
        KeyError: there is no such array.
        ValueError: its header is none of NumPy's.
    """
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0
        shape, _, dtype = (read_header if version == (1, 0) else np.lib.format.read_array_header_2_0)(file)
    return shape, dtype
