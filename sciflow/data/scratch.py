"""Scratch of a node: what is written often goes there, and is carried to the results while the work goes on.

The results lie where all nodes see them, on a file system that a job should not have to wait for; what lies on a node
is lost with it. So what was written counts once it is in the results, where it replaces what was there as a whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from string import Template

from sciflow.data.store import atomic_path
from sciflow.errors import InputError

VARIABLE = "SCIFLOW_SCRATCH"
"""Environment variable that names the folder. It may name other variables, which are those of the job: '$TMPDIR'."""


def folder(environment: Mapping[str, str]) -> Path | None:
    """The scratch folder of this node; None if there is none to be used.

    Args:
        environment: of the process.

    Raises:
        InputError: it is not there, or takes no files.
    """
    said = environment.get(VARIABLE, "")
    if not said:
        return None
    path = Path(Template(said).safe_substitute(environment))
    if not path.is_dir() or not os.access(path, os.W_OK | os.X_OK):
        raise InputError(
            f"{VARIABLE} is {said!r}, but {path} is no folder on this node that this process may write in. Name one "
            "that each job has, or unset it."
        )
    return path


class Carrier:
    """Carries files from scratch to where they belong, one at a time, beside the work."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sciflow-scratch")
        self._under_way: Future[None] | None = None

    def carry(self, source: Path, destination: Path) -> None:
        """Begin to move a file; the one before has arrived when this returns.

        Raises:
            OSError: of the one before.
        """
        self.settle()
        self._under_way = self._pool.submit(_carry, source, destination)

    def settle(self) -> None:
        """Wait until everything has arrived.

        Raises:
            OSError: it has not; what it was to replace is whole.
        """
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()


def _carry(source: Path, destination: Path) -> None:
    try:
        with atomic_path(destination) as temporary:
            shutil.copyfile(source, temporary)
    finally:
        source.unlink(missing_ok=True)
