"""A file that HDF5 writes without ever meeting an error of the disk, after which it could not end cleanly.

A disk that is too small is refused first; what goes wrong all the same is kept until HDF5 has closed the file, and
raised then. Room is not reserved: that costs a tenth of a write in memory, and where a file system cannot do it the C
library writes the whole file instead.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

KEPT = 2**20  # bytes: pieces that HDF5 reads again before it closes are smaller; others are numbers and long texts


class Sink(io.RawIOBase):
    """What the file driver of h5py asks for. The file ends where HDF5 says, not where it was written last."""

    def __init__(self, handle: int) -> None:
        self._handle, self._place, self._end = handle, 0, 0
        self._lost: list[tuple[int, memoryview]] = []  # what the disk did not take
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
        view[n:] = bytes(len(view) - n)  # HDF5 has written there what was lost
        for place, content in self._lost:
            first, last = max(place, self._place), min(place + len(content), self._place + len(view))
            if first < last:
                view[first - self._place : last - self._place] = content[first - place : last - place]
        self._place += len(view)
        return len(view)

    def write(self, content: Any) -> int:
        rest = memoryview(content).cast("B")
        n = len(rest)
        try:
            while rest and self.error is None:
                done = os.pwrite(self._handle, rest, self._place + n - len(rest))
                rest = rest[done:]
        except OSError as error:
            self.error = error
        if 0 < len(rest) < KEPT:
            self._lost.append((self._place + n - len(rest), memoryview(bytes(rest))))
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
        room = shutil.disk_usage(path.parent)
        if size > room.free and room.total > 0:  # some file systems do not say how large they are
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        file = Sink(handle)
        try:
            yield file
        finally:
            if file.error is not None:
                raise file.error
        os.ftruncate(handle, file._end)
    finally:
        os.close(handle)
