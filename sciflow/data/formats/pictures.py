"""PNG and TIFF files, one picture or a folder of them."""

from __future__ import annotations

import math
import re
import struct
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from sciflow.data.formats.mapping import blank, check_size, existing, named
from sciflow.errors import InputError

if TYPE_CHECKING:
    import tifffile
    import xarray as xr

PNG, TIFF = (".png",), (".tif", ".tiff")
SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # of the colour types of PNG that hold values: grey, RGB, and both with alpha
UNITS = {2: "inch", 3: "cm"}  # of the tag ResolutionUnit
DIMS = ("sample", "channel", "y", "x")


class Picture(NamedTuple):
    """Stored values (sample, channel, y, x), whether the last channel says what is opaque, and facts such as its pixel
    size."""

    values: np.ndarray
    has_alpha: bool
    facts: dict[str, Any]


@dataclass(frozen=True)
class Pictures:
    """PNG and TIFF: grey or RGB, of 8 or 16 bits, or numbers of TIFF; one file, a stack of planes, or a folder.

    Whole numbers are divided by the largest that their type holds, so that white is 1, unless `scaling` is "stored";
    the factor becomes an attribute. The planes of a stack are samples; its pixel size becomes an attribute.

    Exactness: stored values, correctly rounded where they are scaled; no gamma curve is undone
    Cost: all pictures in memory, refused above `max_gigabytes` before they are read
    Bias: planes of one file count as independent, unless there are several files: then each file is one unit

    Args:
        units: of the values, after scaling.
        split_by: "folder" if the pictures of one subfolder (a patient, a slide) belong together; empty: each file.
        scaling: "full" for values in [0, 1], or "stored"; floating-point numbers are kept as they are.
        max_gigabytes: largest array that is read.

    Source: PNG specification, third edition; TIFF revision 6.0, through Pillow and tifffile.
    """

    units: str = "1"
    split_by: Literal["", "folder"] = ""
    scaling: Literal["full", "stored"] = "full"
    max_gigabytes: Annotated[float, Field(gt=0)] = 8.0

    def read(self, path: str | Path, look_inside: bool = True) -> xr.Dataset:
        """Read, name and check. Raises InputError in words for every way in which a file can be wrong.

        Args:
            path: the file, or a folder; all pictures below it, in the order of their names.
            look_inside: false reads headers only, and gives zeros for values.
        """
        path = Path(path)
        files = _below(path) if path.is_dir() else [existing(path)]
        heads = [read_picture(file, self.max_gigabytes, look_inside=False) for file in files]
        first = heads[0]
        for file, head in zip(files, heads, strict=True):
            if head.has_alpha:
                raise InputError(f"{file}: has an alpha channel, which says nothing of its values. Save it without.")
            if head.values.shape[1:] != first.values.shape[1:] or head.values.dtype != first.values.dtype:
                raise InputError(
                    f"{file}: holds {head.values.dtype} {head.values.shape[1:]} (channel, y, x), but {files[0]} "
                    f"{first.values.dtype} {first.values.shape[1:]}. Crop or convert them to one size and type."
                )
        counts = [len(head.values) for head in heads]
        shape = (sum(counts), *first.values.shape[1:])
        check_size(path, math.prod(shape) * scaled_type(first.values.dtype).itemsize, self.max_gigabytes)
        if look_inside:
            values = np.concatenate([read_picture(file, self.max_gigabytes).values for file in files])
        else:
            values = blank(shape, first.values.dtype)
        owner = [file.parent.name if self.split_by else file.name for file in files]
        unit = np.repeat(np.array(owner), counts) if self.split_by or len(files) > 1 else None
        scaled, factor = scale(values, self.scaling)
        read = named(path, scaled, {name: k for k, name in enumerate(DIMS)}, self.units, unit, look_inside)
        read["data"].attrs.update({"scaling": self.scaling, "stored_value_of_one": factor, **first.facts})
        return read


def scale(values: np.ndarray, scaling: str) -> tuple[np.ndarray, float]:
    """Values in [0, 1] where their type is one of whole numbers and `scaling` is "full", and the stored value of 1."""
    if values.dtype.kind not in "ui" or scaling == "stored":
        return values, 1.0
    largest, dtype = float(np.iinfo(values.dtype).max), scaled_type(values.dtype)
    if values.strides and not any(values.strides):  # a blank
        return blank(values.shape, dtype), largest
    return np.divide(values, dtype.type(largest), dtype=dtype), largest


def scaled_type(dtype: np.dtype) -> np.dtype:
    """What scaled values are kept in: whole numbers of 16 bits are exact in single precision."""
    return np.dtype(np.float32) if dtype.itemsize <= 2 else np.dtype(np.float64)


def _below(folder: Path) -> list[Path]:
    """All pictures of a folder.

    Raises:
        InputError: there is none.
    """
    found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in (*PNG, *TIFF) and file.is_file())
    if not found:
        others = sorted({file.suffix for file in folder.rglob("*") if file.is_file()})
        raise InputError(
            f"{folder}: this folder holds no picture, found files ending in {others}. Known are {[*PNG, *TIFF]}."
        )
    return found


def read_picture(path: Path, max_gigabytes: float, look_inside: bool = True) -> Picture:
    """One file, as it is stored.

    Args:
        path: of the file.
        max_gigabytes: largest array that is read.
        look_inside: false reads the header only, and gives zeros for values.

    Raises:
        InputError: damaged, too large, or a kind of picture whose values cannot be had without loss.
    """
    path = existing(path)
    try:
        if path.suffix.lower() in PNG:
            return _png(path, max_gigabytes, look_inside)
        return _tiff(path, max_gigabytes, look_inside)
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, SyntaxError, struct.error) as error:
        if isinstance(error, InputError):
            raise
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} is no picture that can be read ({reason}). Write it again, uncompressed.") from error


def _png(path: Path, max_gigabytes: float, look_inside: bool) -> Picture:
    """Its header is read here: Pillow would give 16-bit colours with 8 bits, without a word."""
    with path.open("rb") as file:
        head = file.read(26)
    if head[:8] != SIGNATURE or len(head) < 26:
        raise InputError(f"{path} is no PNG file. Correct its ending, or write it again.")
    width, height, depth, colour = struct.unpack(">IIBB", head[16:26])
    if colour not in CHANNELS or depth not in (8, 16) or (depth == 16 and colour != 0):
        kind = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}.get(colour, f"{colour}")
        raise InputError(
            f"{path}: a PNG of {depth} bits, {kind}; known are grey of 8 and 16 bits, and RGB of 8, alpha allowed at "
            "8. Convert it; 16-bit colours keep their bits in TIFF."
        )
    n, dtype = CHANNELS[colour], np.dtype(np.uint8 if depth == 8 else np.uint16)
    check_size(path, width * height * n * dtype.itemsize, max_gigabytes)
    if not look_inside:
        return Picture(blank((1, n, height, width), dtype), colour in (4, 6), {})
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # its size was checked above
        try:
            with Image.open(path, formats=["PNG"]) as opened:
                values = np.asarray(opened).astype(dtype).reshape(height, width, n)
        except Image.DecompressionBombError as error:
            raise InputError(f"{path}: {width} × {height} pixels are more than Pillow opens. Cut it up.") from error
    return Picture(np.moveaxis(values, -1, 0)[None], colour in (4, 6), {})


def _tiff(path: Path, max_gigabytes: float, look_inside: bool) -> Picture:
    try:
        import tifffile
    except ImportError:
        raise InputError(f"{path}: TIFF needs tifffile: pip install 'sciflow[imaging]'.") from None
    with tifffile.TiffFile(path) as file:
        if len(file.series) != 1:
            shapes = [tuple(series.shape) for series in file.series]
            raise InputError(f"{path}: holds {len(shapes)} pictures, of shapes {shapes}; needs one stack. Split it up.")
        series = file.series[0]
        axes = series.axes
        check_size(path, math.prod(series.shape) * series.dtype.itemsize, max_gigabytes)
        page = series.keyframe
        shown = tifffile.PHOTOMETRIC(page.photometric).name
        if shown not in ("MINISBLACK", "RGB") or series.dtype.kind not in "fui":
            raise InputError(
                f"{path}: holds {series.dtype}, {shown}; known are real numbers, MINISBLACK (0 is black) or RGB. "
                "Convert it."
            )
        values = series.asarray() if look_inside else blank(series.shape, series.dtype)
        facts = _pixel_size(file, page)
        has_alpha = bool(page.extrasamples) and "S" in axes
    arrange = arranged(path, axes, values.shape, "S" if "S" in axes else "C")
    return Picture(arrange(values), has_alpha, facts)


def arranged(path: Path, axes: str, shape: tuple[int, ...], channel: str) -> Callable[[np.ndarray], np.ndarray]:
    """How an array with axes named by letters becomes (sample, channel, y, x): the one other axis counts samples.

    Raises:
        InputError: no y or x, or two axes that could count samples.
    """
    sizes = dict(zip(axes, shape, strict=True))
    others = [name for name in axes if name not in {"Y", "X", channel}]
    counting = [name for name in others if sizes[name] > 1]
    if "Y" not in sizes or "X" not in sizes or len(sizes) != len(shape) or len(counting) > 1:
        raise InputError(
            f"{path}: has axes {axes!r} of sizes {tuple(shape)}; needs Y and X, at most one axis of channels and at "
            "most one other, which counts samples. Slice it."
        )

    def arrange(values: np.ndarray) -> np.ndarray:
        order = [axes.index(name) for name in (*others, *([channel] if channel in sizes else []), "Y", "X")]
        moved = values.transpose(order)
        n = sizes[counting[0]] if counting else 1
        wanted = (n, sizes.get(channel, 1), sizes["Y"], sizes["X"])
        return moved.reshape(wanted) if any(values.strides) else blank(wanted, values.dtype)

    return arrange


def _pixel_size(file: tifffile.TiffFile, page: Any) -> dict[str, Any]:
    """Pixel size and its unit, where the file says both; OME-TIFF, ImageJ or plain tags."""
    if file.ome_metadata:
        found = {axis: re.search(rf'PhysicalSize{axis.upper()}="([^"]+)"', file.ome_metadata) for axis in "yx"}
        unit = re.search(r'PhysicalSizeXUnit="([^"]+)"', file.ome_metadata)
        sizes = {axis: float(match[1]) for axis, match in found.items() if match}
        return pixel_size(sizes, unit[1] if unit else "µm")
    said = UNITS.get(int(getattr(page.tags.get("ResolutionUnit"), "value", 1)), "")
    unit_of = str((file.imagej_metadata or {}).get("unit", said))
    tags = {axis: page.tags.get(f"{axis.upper()}Resolution") for axis in "yx"}
    pixels = {axis: tag.value for axis, tag in tags.items() if tag is not None}
    return pixel_size({axis: d / n for axis, (n, d) in pixels.items() if n}, unit_of)


def pixel_size(sizes: Mapping[str, float], unit: str) -> dict[str, Any]:
    """As attributes of an array; nothing without a unit, or for one axis alone."""
    if not unit or set(sizes) != {"y", "x"}:
        return {}
    return {"pixel_size_y": sizes["y"], "pixel_size_x": sizes["x"], "pixel_size_unit": unit}
