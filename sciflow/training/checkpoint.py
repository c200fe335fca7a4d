"""Torch files that are whole or absent, and never run code when they are read."""

from __future__ import annotations

import logging
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sciflow.archives import check_stored
from sciflow.data.scratch import Carrier
from sciflow.data.store import atomic_path, temporary_path
from sciflow.errors import InputError, is_passing

logger = logging.getLogger(__name__)

KIND = "training checkpoint"

UNREADABLE = (
    OSError, zipfile.BadZipFile, RuntimeError, pickle.UnpicklingError, EOFError,
    ValueError, LookupError, TypeError, AttributeError, AssertionError, OverflowError,
)  # fmt: skip
"""What torch makes of a file that is none of its own, damaged or made to do harm."""


def save(path: Path, content: Mapping[str, Any], kind: str) -> None:
    """Write tensors, numbers, strings and containers of them; equal content gives equal bytes.

    Args:
        path: the file; until the new one is complete on disk, the old one stays.
        content: what to write.
        kind: what the file is, checked by `load`.

    Raises:
        OSError: of the file; a full disk says that the old one is whole.
    """
    with atomic_path(path) as temporary:
        _write(temporary, content, kind)


def _write(path: Path, content: Mapping[str, Any], kind: str) -> None:
    with path.open("wb") as file:  # an open file: no name enters the bytes
        try:
            torch.save({"sciflow": kind, **content}, file)
        except RuntimeError as error:  # what torch makes of a file that cannot be written
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load(path: Path, kind: str, where: str | Callable[[Any, str], Any] | None = "cpu") -> dict[str, Any]:
    """Read what `save` wrote, after verifying every checksum.

    Args:
        path: the file.
        kind: what it must be.
        where: device of its tensors, or what `torch.load` asks for that of each; None leaves each on that which it was
            saved from.

    Raises:
        InputError: the file cannot be read, is damaged, unpacks to more than it is, or is something else.
        OSError, RuntimeError: reading failed for a reason that may pass, as want of memory.
    """
    remedy = "Delete it to start afresh, or restore it from a copy."
    check_stored(path)
    try:
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:
                raise InputError(f"{path}: {kind} is damaged at {damaged}. {remedy}")
        content = torch.load(path, map_location=where, weights_only=True)
    except InputError:
        raise
    except UNREADABLE as error:
        if is_passing(error):  # the machine's, not the file's: whoever deletes the file loses what is good
            raise
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
        scratch: a folder of this node; with it, `save` waits for the node alone, and training goes on while the state
            is carried to `path`.
    """

    path: Path
    scratch: Path | None = None
    _carrier: Carrier = field(default_factory=Carrier, init=False, repr=False, compare=False)

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace what is there, at once or, with scratch, before the next `save` or `settle` returns.

        Raises:
            OSError: of this state or, with scratch, of the one before.
        """
        if self.scratch is None:
            save(self.path, state, KIND)
            return
        self.settle()  # of two states under way the older could arrive last
        local = temporary_path(self.scratch / self.path.name)
        try:
            _write(local, state, KIND)
        except OSError as error:
            local.unlink(missing_ok=True)
            reason = error.strerror
            logger.warning("%s takes no checkpoint (%s): it goes to %s at once", self.scratch, reason, self.path)
            save(self.path, state, KIND)
        else:
            self._carrier.carry(local, self.path)

    def settle(self) -> None:
        """Wait until the last saved state is where it belongs.

        Raises:
            OSError: it is not; the one before is.
        """
        self._carrier.settle()

    def load(self) -> dict[str, Any] | None:
        """The last saved state, or None if there is none."""
        self.settle()
        return load(self.path, KIND) if self.path.exists() else None

    def __str__(self) -> str:
        return str(self.path)
