"""What survives a failed job: checkpoints, log and failures in a directory that no rule declares, under a lock.

directory/lock                  held by the one process that works here
directory/holder                who that is; left behind by one that was killed. A job adds a line for a process that
                                was killed, or refused memory, and left no name
directory/killed                how many that were, one after another
directory/refused               touched by whoever found the lock taken
directory/log                   appended by every attempt
directory/<key>/<name>          what the next attempt continues from
directory/<key>/failed.json     why every attempt must fail
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from sciflow.data.store import atomic_path
from sciflow.errors import IN_USE, InputError, LaunchError, NonFiniteError, behind, is_passing
from sciflow.memory import FAILED, RETRY_VARIABLE, counted, named
from sciflow.progress import deaf, time_limit

KEY = re.compile("[0-9a-f]{16}")
"""What `state_key` returns, so that no other folder is ever deleted."""

PERMANENT = (InputError, NonFiniteError)
"""Errors that the same section, source and inputs will meet again."""


def is_permanent(error: BaseException | None) -> bool:
    """Whether every attempt at the same work must fail so, however and wherever it is started.

    Not where a package was missing, which may be there at the next attempt, or what passes stands behind the failure.
    """
    if not isinstance(error, PERMANENT) or isinstance(error, LaunchError):
        return False
    return not any(isinstance(one, ImportError) or is_passing(one) for one in behind(error))


def state_key(section: str, source: str, inputs: Mapping[str, str]) -> str:
    """The key of a state: any change of section, source digest or input hashes gives another one."""
    text = json.dumps([section, source, dict(inputs)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextlib.contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Be the only process that works in `directory`, for work that is over too soon to keep a state.

    Args:
        directory: of the stage, as for `State`.

    Raises:
        InputError: another process works here, as an orphan of a workflow that was killed.
    """
    lock, holder = FileLock(directory / "lock"), directory / "holder"
    _acquire(lock, directory)
    try:
        _count_kills(directory)
        holder.write_text(_name())
        yield
        (directory / "killed").unlink(missing_ok=True)
    finally:
        with deaf():
            with contextlib.suppress(OSError):  # as in State: not instead of the error that is on its way
                holder.unlink(missing_ok=True)
            lock.release()


def _acquire(lock: FileLock, directory: Path) -> None:
    """Take the lock of a stage at once, or say who has it."""
    directory.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        holder = directory / "holder"
        who = (holder.read_text() if holder.is_file() else "") or "another process"
        (directory / "refused").touch()
        raise InputError(
            f"{directory}{IN_USE}{who}. Wait for it to end, or stop it, and run the same command again."
        ) from None


def _count_kills(directory: Path) -> None:
    """Whoever left its name here did not come to an end of its own (`sciflow.memory` reads the count)."""
    gone, count = named(directory / "holder"), directory / "killed"
    if gone:
        with atomic_path(count) as temporary:  # every parsing of the Snakefile reads it
            temporary.write_text(str(counted(count) + len(gone)))
        _log(directory, f"{', '.join(gone)} was killed, or had no memory left")


def _log(directory: Path, line: str) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with (directory / "log").open("a", encoding="utf-8") as file:
        file.write(f"{now} {os.getpid()} {line}\n")


def _name() -> str:
    return f"process {os.getpid()} on {platform.node()}"


@dataclass(frozen=True)
class State:
    """The state of one stage of one run (and shard), for `with State(directory, key) as state:`.

    Entering takes the lock, removes the state of other keys and repeats a recorded failure. Leaving by an error that
    every retry would meet (`InputError`, `NonFiniteError`) records it; leaving by any other keeps the state.

    Args:
        directory: of the stage, e.g. results/{run}/.state/train.
        key: from `state_key`.

    Raises:
        InputError: another process works here, or this key has failed for good before.
    """

    directory: Path
    key: str
    _lock: FileLock = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "directory", Path(self.directory))
        object.__setattr__(self, "_lock", FileLock(self.directory / "lock"))

    def __enter__(self) -> State:
        _acquire(self._lock, self.directory)
        holder, is_named = self.directory / "holder", False
        try:
            with time_limit(None):  # a SIGTERM waits until it is known who is here
                _count_kills(self.directory)
                holder.write_text(_name())
                is_named = True
                self._remove_stale()
                self._repeat_failure()
                self._folder.mkdir(exist_ok=True)
        except BaseException:
            if is_named:  # nobody killed this one
                holder.unlink(missing_ok=True)
            self._lock.release()
            raise
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with deaf():
            try:
                # a full disk must not hide the error that is on its way, nor keep a name here that can go
                with contextlib.suppress(OSError):
                    if error is not None:
                        self.log(f"{type(error).__name__}: {error}")
                with contextlib.suppress(OSError):
                    if is_permanent(error):
                        self.fail(str(error))
                with contextlib.suppress(OSError):
                    (self.directory / "holder").unlink(missing_ok=True)
            finally:
                self._lock.release()

    @property
    def _folder(self) -> Path:
        return self.directory / self.key

    def path(self, name: str) -> Path | None:
        """Where `name` was saved, or None."""
        path = self._folder / name
        return path if path.is_file() else None

    def names(self, start: str) -> list[str]:
        """What was saved under names that start so."""
        return sorted(path.name for path in self._folder.glob(f"{start}*")) if self._folder.is_dir() else []

    def remove(self, name: str) -> None:
        """Forget what was saved under `name`, if anything."""
        (self._folder / name).unlink(missing_ok=True)

    def load(self, name: str) -> bytes | None:
        """What was saved under `name`, or None."""
        path = self.path(name)
        return path.read_bytes() if path else None

    def save(self, name: str, content: bytes | Callable[[Path], object]) -> None:
        """Save atomically: bytes, or a function that writes the path it is given."""
        with atomic_path(self._folder / name) as temporary:
            if callable(content):
                content(temporary)
            else:
                temporary.write_bytes(content)

    def clear(self) -> None:
        """Forget everything but the log: the stage is done."""
        shutil.rmtree(self._folder, ignore_errors=True)
        (self.directory / "killed").unlink(missing_ok=True)
        self._folder.mkdir(exist_ok=True)

    def keep(self, file: Path) -> None:
        """A second name here for a finished file, which costs no space; none where the file system has no links."""
        with contextlib.suppress(OSError):
            os.link(file, self._folder / file.name)

    def log(self, line: str) -> None:
        """Append one line with the time; it survives retries, whose log files Snakemake deletes."""
        _log(self.directory, line)

    def fail(self, message: str) -> None:
        """Record that every attempt with this key must fail: the next one repeats the message at once."""
        self.save(FAILED, json.dumps({"message": message}).encode())

    def _remove_stale(self) -> None:
        """Delete the states of other keys: a changed run never resumes old weights."""
        for folder in self.directory.iterdir():
            if folder.is_dir() and folder.name != self.key and KEY.fullmatch(folder.name):
                shutil.rmtree(folder)
                (self.directory / "killed").unlink(missing_ok=True)

    def _repeat_failure(self) -> None:
        recorded = self.load(FAILED)
        if recorded is None:
            return
        if os.environ.get(RETRY_VARIABLE):
            (self._folder / FAILED).unlink()
            return
        try:
            message = json.loads(recorded)["message"]
        except (ValueError, KeyError, TypeError, RecursionError):  # a bad disk's: the work meets the failure again
            self.log("failed.json is damaged; the work is tried again")
            (self._folder / FAILED).unlink()
            return
        raise InputError(
            f"{message}\nThis is a recorded failure: nothing it depends on has changed since. "
            f"To try again all the same, set {RETRY_VARIABLE}=1 or delete {self._folder}."
        )
