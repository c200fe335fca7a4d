"""The header of a magnetic resonance scan: the grid that it encodes, the lines that were acquired, the part shown."""

from __future__ import annotations

import xml.parsers.expat
from dataclasses import dataclass
from pathlib import Path

from sciflow.errors import InputError

LARGEST_HEADER = 10**6  # bytes
DEEPEST = 32  # elements in one another; a header has six
LARGEST = 2**20  # of a matrix


@dataclass(frozen=True)
class Encoding:
    """The first encoding of a scan.

    Args:
        encoded: x (readout), y and z of the grid of k-space.
        shown: x, y and z of the reconstruction, the middle of the image of that grid.
        first: number of the first acquired line along y.
        last: that of the last one.
        centre: that of the line through the middle of k-space; None, as all three, where the header does not say.
    """

    encoded: tuple[int, int, int]
    shown: tuple[int, int, int]
    first: int | None = None
    last: int | None = None
    centre: int | None = None

    @property
    def acquired(self) -> tuple[int, int] | None:
        """First acquired column of the grid, and the one after the last; k-space has its middle at column y // 2."""
        if self.first is None or self.last is None or self.centre is None:
            return None
        left = self.encoded[1] // 2 - self.centre
        return left + self.first, left + self.last + 1


def read_encoding(path: Path, header: bytes) -> Encoding:
    """The encoding that a header in XML tells; it may declare no entities.

    Args:
        path: of the scan, for messages.
        header: as stored.

    Raises:
        InputError: no XML, one with a document type, no matrix sizes, or lines outside the grid.

    Source: Inati et al. (2017), ISMRM raw data format; its schema of headers.
    """
    found = _texts(path, header)
    encoded, shown = (_matrix(path, found, name) for name in ("encodedSpace", "reconSpace"))
    limits = [_number(path, found, f"encodingLimits/kspace_encoding_step_1/{name}") for name in LIMITS]
    told = [limit for limit in limits if limit is not None]
    if told and len(told) < len(LIMITS):
        raise InputError(f"{path}: `ismrmrd_header` has not all of {LIMITS} of kspace_encoding_step_1. Complete it.")
    encoding = Encoding(encoded, shown, *limits)
    if told:
        first, last, centre = told
        start, stop = encoding.acquired or (0, 0)
        if not first <= centre <= last or start < 0 or stop > encoding.encoded[1]:
            raise InputError(
                f"{path}: `ismrmrd_header` has lines {first} to {last}, the middle of k-space at {centre}, which are "
                f"columns {start} to {stop - 1} of a grid of {encoding.encoded[1]}. Copy the header of the scanner."
            )
    return encoding


LIMITS = ("minimum", "maximum", "center")


def _matrix(path: Path, found: dict[str, str], space: str) -> tuple[int, int, int]:
    sizes = [_number(path, found, f"{space}/matrixSize/{axis}") for axis in "xyz"]
    x, y, z = (size or 0 for size in sizes)
    if not (x and y and z):
        raise InputError(f"{path}: `ismrmrd_header` names no matrix size of {space}. Copy the header of the scanner.")
    return x, y, z


def _number(path: Path, found: dict[str, str], name: str) -> int | None:
    text = found.get(f"encoding/{name}")
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or int(text[:9]) > LARGEST or len(text) > 9:
        raise InputError(f"{path}: `ismrmrd_header` has {text[:20]!r} as {name}, needs a whole number. Mend it.")
    return int(text)


def _texts(path: Path, header: bytes) -> dict[str, str]:
    """Text of the first element at each place below the root, by local names: "encoding/encodedSpace/…"."""
    if len(header) > LARGEST_HEADER:
        raise InputError(f"{path}: `ismrmrd_header` has {len(header)} bytes, more than a header has. Write it again.")
    place: list[str] = []
    found: dict[str, str] = {}
    closed: set[str] = set()
    parser = xml.parsers.expat.ParserCreate()
    parser.buffer_text = True

    def is_first() -> bool:
        """Whether neither this element nor one around it is a repetition, such as a second encoding."""
        return not any("/".join(place[1:depth]) in closed for depth in range(2, len(place) + 1))

    def opened(name: str, _: object) -> None:
        place.append(name.rpartition(":")[2])
        if len(place) > DEEPEST:
            raise InputError(f"{path}: `ismrmrd_header` is {DEEPEST} elements deep, more than a header is. Mend it.")
        if is_first():
            found["/".join(place[1:])] = ""

    def ended(_: str) -> None:
        if is_first():
            key = "/".join(place[1:])
            found[key] = found[key].strip()
            closed.add(key)
        place.pop()

    def text(data: str) -> None:
        if is_first():
            found["/".join(place[1:])] += data

    def declared(*_: object) -> None:
        raise InputError(f"{path}: `ismrmrd_header` declares a document type, as no header does. Take it out.")

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = opened, ended, text
    parser.StartDoctypeDeclHandler = declared
    try:
        parser.Parse(header, True)
    except xml.parsers.expat.ExpatError as error:
        raise InputError(f"{path}: `ismrmrd_header` is no XML ({error}). Copy the header of the scanner.") from None
    return found
