"""Torch files that are whole or absent, and never run code when they are read."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sciflow.data.store import atomic_path
from sciflow.errors import InputError


def save(path: Path, content: Mapping[str, Any], kind: str) -> None:
    """Write tensors, numbers, strings and containers of them; equal content gives equal bytes.

    Args:
        path: the file; until the new one is complete on disk, the old one stays.
        content: what to write.
        kind: what the file is, checked by `load`.

    Raises:
        OSError: of the file; a full disk says that the old one is whole.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:  # an open file: no name enters the bytes
        try:
            torch.save({"sciflow": kind, **content}, file)
        except RuntimeError as error:  # what torch makes of a file that cannot be written
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load(path: Path, kind: str) -> dict[str, Any]:
    """Read what `save` wrote, onto the CPU, after verifying every checksum.

    Raises:
        InputError: the file cannot be read, is damaged, or is something else.
    """
    remedy = "Delete it to start afresh, or restore it from a copy."
    try:
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:
                raise InputError(f"{path}: {kind} is damaged at {damaged}. {remedy}")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, zipfile.BadZipFile, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: cannot be read as a {kind} ({reason}). {remedy}") from error
    if not isinstance(content, dict) or content.pop("sciflow", None) != kind:
        raise InputError(f"{path}: is not a sciflow {kind}. Give the path of one, or delete the file to start afresh.")
    return content


@dataclass(frozen=True)
class Checkpoint:
    """The saved state of one training run: one file, replaced as a whole.

    Args:
        path: the file.
    """

    path: Path

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace what is there."""
        save(self.path, state, "training checkpoint")

    def load(self) -> dict[str, Any] | None:
        """The last saved state, or None if there is none."""
        return load(self.path, "training checkpoint") if self.path.exists() else None

    def __str__(self) -> str:
        return str(self.path)
