"""A file that HDF5 writes without ever meeting an error of the disk, after which it could not end cleanly.

Room for it is reserved first; what goes wrong all the same is kept until HDF5 has closed the file, and raised then.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NO_RESERVE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # file systems that cannot; they say so later, if they must


class Sink(io.RawIOBase):
    """What the file driver of h5py asks for. The file ends where HDF5 says, not where the reserved room does."""

    def __init__(self, handle: int) -> None:
        self._handle, self._place, self._end = handle, 0, 0
        self.error: OSError | None = None

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._end}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def truncate(self, size: int | None = None) -> int:
        self._end = self._place if size is None else size
        return self._end

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: max(self._end - self._place, 0)]
        n = os.preadv(self._handle, [view], self._place)
        self._place += n
        return n

    def write(self, content: Any) -> int:
        rest = memoryview(content).cast("B")
        n = len(rest)
        try:
            while rest and self.error is None:
                done = os.pwrite(self._handle, rest, self._place + n - len(rest))
                rest = rest[done:]
        except OSError as error:
            self.error = error
        self._place += n
        self._end = max(self._end, self._place)
        return n

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


@contextmanager
def sink(path: Path, size: int) -> Iterator[Sink]:
    """A new file for HDF5 to write.

    Args:
        path: of the file.
        size: bytes that it will have, about.

    Raises:
        OSError: there is no room, before HDF5 has begun; or what the disk said meanwhile.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        _reserve(handle, size)
        file = Sink(handle)
        try:
            yield file
        finally:
            if file.error is not None:
                raise file.error
        os.ftruncate(handle, file._end)
    finally:
        os.close(handle)


def _reserve(handle: int, size: int) -> None:
    if size == 0 or not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno not in NO_RESERVE:
            raise
