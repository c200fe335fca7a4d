"""PNG, TIFF and OME-Zarr, written here by the libraries that others write them with, and read back."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import xarray as xr
from PIL import Image

from sciflow.data.formats import OMEZarr, Pictures, format_of
from sciflow.data.measured import read_measured
from sciflow.errors import InputError

zarr = pytest.importorskip("zarr")
RANDOM = np.random.default_rng(0)
BYTES = RANDOM.integers(0, 256, (5, 6), dtype=np.uint8)
WORDS = RANDOM.integers(0, 65536, (3, 5, 6), dtype=np.uint16)
COLOURS = RANDOM.integers(0, 256, (5, 6, 3), dtype=np.uint8)
AXES = [
    {"name": "c", "type": "channel"},
    {"name": "z", "type": "space", "unit": "micrometer"},
    {"name": "y", "type": "space", "unit": "micrometer"},
    {"name": "x", "type": "space", "unit": "micrometer"},
]


def values(read: xr.Dataset) -> np.ndarray:
    assert read["data"].dims == ("sample", "channel", "y", "x")
    return read["data"].to_numpy()


def png(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def tiff(path: Path, array: np.ndarray, **options: Any) -> Path:
    tifffile.imwrite(path, array, **{"photometric": "minisblack", **options})
    return path


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def header(path: Path, width: int, height: int, depth: int, colour: int) -> Path:
    """A PNG that promises more than it holds."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    )
    return path


def ome_zarr(path: Path, array: np.ndarray, version: str = "0.4", **changes: Any) -> Path:
    """A store of two resolutions, (c, z, y, x), pixels of 0.5 × 0.25 µm at the finer one."""
    group = zarr.open_group(str(path), mode="w", zarr_format=2 if version == "0.4" else 3)
    levels = []
    for k, level in enumerate((array, array[..., ::2, ::2])):
        group.create_array(str(k), data=level, chunks=(1, 1, *level.shape[-2:])[-level.ndim :])
        step = [1.0, 1.0, 0.5 * 2**k, 0.25 * 2**k]
        levels.append({"path": str(k), "coordinateTransformations": [{"type": "scale", "scale": step}]})
    image = {"axes": AXES, "datasets": levels, **changes}
    image = {name: value for name, value in image.items() if value is not None}
    group.attrs.update(
        {"multiscales": [image]} if version == "0.4" else {"ome": {"version": "0.5", "multiscales": [image]}}
    )
    return path


def test_grey_and_colour_of_eight_bits_are_shares_of_white(tmp_path: Path) -> None:
    read = Pictures(units="grey").read(png(tmp_path / "a.png", BYTES))
    assert np.array_equal(values(read)[0, 0], (BYTES / 255).astype(np.float32)) and read["data"].dtype == np.float32
    assert read["data"].attrs == {"units": "grey", "scaling": "full", "stored_value_of_one": 255.0}
    read = Pictures().read(png(tmp_path / "b.png", COLOURS))
    assert np.array_equal(values(read)[0], np.moveaxis(COLOURS / 255, -1, 0).astype(np.float32))


def test_sixteen_bits_are_kept(tmp_path: Path) -> None:
    assert np.array_equal(values(Pictures(scaling="stored").read(png(tmp_path / "a.png", WORDS[0])))[0, 0], WORDS[0])
    read = Pictures().read(tiff(tmp_path / "a.tif", WORDS))
    assert np.array_equal(values(read)[:, 0], (WORDS / 65535).astype(np.float32)) and read.sizes["sample"] == 3
    assert read["data"].attrs["stored_value_of_one"] == 65535 and read["unit"].values.tolist() == [0, 1, 2]
    deep = RANDOM.integers(0, 65536, (2, 5, 6, 3), dtype=np.uint16)
    read = Pictures(scaling="stored").read(tiff(tmp_path / "rgb.tiff", deep, photometric="rgb"))
    assert np.array_equal(values(read), np.moveaxis(deep, -1, 1))


def test_numbers_of_tiff_are_kept_as_they_are(tmp_path: Path) -> None:
    numbers = RANDOM.normal(size=(2, 5, 6)).astype(np.float32)
    read = Pictures(units="HU").read(tiff(tmp_path / "a.tif", numbers))
    assert np.array_equal(values(read)[:, 0], numbers) and read["data"].attrs["stored_value_of_one"] == 1


@pytest.mark.parametrize("kind", ["tags", "imagej", "ome", "none"])
def test_the_pixel_size_comes_along(kind: str, tmp_path: Path) -> None:
    """0.25 wide, 0.5 high, as three kinds of writers say it; a resolution without a unit says nothing."""
    options: dict[str, dict[str, Any]] = {
        "tags": {"resolution": (4.0, 2.0), "resolutionunit": "CENTIMETER"},
        "imagej": {"imagej": True, "resolution": (4.0, 2.0), "metadata": {"unit": "um", "axes": "ZYX"}},
        "ome": {
            "ome": True,
            "metadata": {
                "axes": "ZYX",
                "PhysicalSizeX": 0.25,
                "PhysicalSizeXUnit": "µm",
                "PhysicalSizeY": 0.5,
                "PhysicalSizeYUnit": "µm",
            },
        },
        "none": {"resolution": (4.0, 2.0), "resolutionunit": "NONE"},
    }
    read = Pictures().read(tiff(tmp_path / "a.tif", WORDS, **options[kind]))
    assert np.array_equal(values(read)[:, 0], (WORDS / 65535).astype(np.float32))
    wanted = {"tags": "cm", "imagej": "um", "ome": "µm"}
    if kind == "none":
        assert "pixel_size_unit" not in read["data"].attrs
        return
    assert read["data"].attrs["pixel_size_unit"] == wanted[kind]
    sizes = read["data"].attrs["pixel_size_y"], read["data"].attrs["pixel_size_x"]
    assert sizes == pytest.approx((0.5, 0.25), rel=1e-6)  # a tag is a ratio of whole numbers of 32 bits


def test_a_folder_is_read_in_the_order_of_its_names_and_split_by_file_or_subfolder(tmp_path: Path) -> None:
    for patient in ("bert", "anna"):
        for k in range(2):
            png(tmp_path / "scans" / patient / f"{k}.png", BYTES + k)
    (tmp_path / "scans" / "notes.txt").write_text("not a picture")
    read = Pictures().read(tmp_path / "scans")
    assert np.array_equal(values(read)[1, 0], ((BYTES + 1) / 255).astype(np.float32)) and read.sizes["sample"] == 4
    assert Pictures(split_by="folder").read(tmp_path / "scans")["unit"].values.tolist() == ["anna"] * 2 + ["bert"] * 2
    stacks = tmp_path / "stacks"
    stacks.mkdir()
    tiff(stacks / "a.tif", WORDS)
    tiff(stacks / "b.tif", WORDS)
    assert Pictures().read(stacks)["unit"].values.tolist() == ["a.tif"] * 3 + ["b.tif"] * 3
    assert isinstance(format_of(stacks), Pictures) and isinstance(format_of("a.TIFF"), Pictures)
    assert not values(Pictures().read(stacks, look_inside=False)).any(), "values were read"


WRONG: dict[str, tuple[Any, str]] = {
    "16-bit colours": (lambda p: header(p / "a.png", 4, 4, 16, 2), "a PNG of 16 bits, RGB; known are"),
    "palette": (
        lambda p: Image.fromarray(COLOURS).convert("P").save(p / "a.png"),
        "a PNG of 8 bits, palette; known are",
    ),
    "transparent": (
        lambda p: png(p / "a.png", np.dstack([COLOURS, BYTES])),
        "has an alpha channel, which says nothing of its values",
    ),
    "no PNG": (lambda p: (p / "a.png").write_bytes(b"GIF89a" + bytes(50)), "a.png is no PNG file"),
    "cut short": (
        lambda p: (p / "a.png").write_bytes(png(p / "a.png", BYTES).read_bytes()[:60]),
        "a.png is no picture that can be read",
    ),
    "terabytes": (lambda p: header(p / "a.png", 2**30, 2**10, 8, 0), "takes 1.1e+03 GB, the limit is 8 GB"),
    "more than Pillow opens": (lambda p: header(p / "a.png", 20000, 20000, 8, 0), "are more than Pillow opens"),
    "no TIFF": (lambda p: (p / "a.tif").write_bytes(b"GIF89a" + bytes(50)), "a.tif is no picture that can be read"),
    "no page": (lambda p: (p / "a.tif").write_bytes(b"II*\0" + bytes(50)), "holds 0 pictures, of shapes []; needs one"),
    "two axes that count": (
        lambda p: tiff(p / "a.tif", np.zeros((2, 3, 1, 5, 6), np.uint16), imagej=True),
        "has axes 'TZYX' of sizes (2, 3, 5, 6); needs Y and X",
    ),
    "white is 0": (lambda p: tiff(p / "a.tif", BYTES, photometric="miniswhite"), "holds uint8, MINISWHITE; known are"),
    "complex": (lambda p: tiff(p / "a.tif", np.ones((4, 5), np.complex64)), "holds complex64"),
    "NaN": (lambda p: tiff(p / "a.tif", np.full((4, 5), np.nan, np.float32)), "20 of 20 values NaN or infinite"),
    "two sizes": (
        lambda p: (png(p / "a.png", BYTES), png(p / "b.png", BYTES[1:])),
        "b.png: holds uint8 (1, 4, 6) (channel, y, x), but ",
    ),
    "nothing": (lambda p: (p / "a.gif").touch(), "holds no picture, found files ending in ['.gif']"),
}


@pytest.mark.parametrize("what", WRONG)
def test_pictures_that_do_not_fit_are_refused(what: str, tmp_path: Path) -> None:
    make, message = WRONG[what]
    make(tmp_path)
    with pytest.raises(InputError) as error:
        Pictures().read(tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_tiff_that_declares_terabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    whole = tiff(tmp_path / "a.tif", BYTES).read_bytes()
    for tag in (struct.pack("<HHI", 256, 4, 1), struct.pack("<HHI", 257, 4, 1)):  # ImageWidth, ImageLength
        place = whole.index(tag) + 8
        whole = whole[:place] + struct.pack("<I", 2**21) + whole[place + 4 :]
    (tmp_path / "a.tif").write_bytes(whole)
    with pytest.raises(InputError, match=r"takes 4\.4e\+03 GB, the limit is 8 GB"):
        Pictures().read(tmp_path / "a.tif")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_says_its_axes_and_its_pixel_size(version: str, tmp_path: Path) -> None:
    stack = np.stack([WORDS, WORDS[::-1]])  # (c, z, y, x)
    path = ome_zarr(tmp_path / "a.ome.zarr", stack, version)
    read = OMEZarr().read(path)
    assert np.array_equal(values(read), (stack.swapaxes(0, 1) / 65535).astype(np.float32))
    size = {"pixel_size_y": 0.5, "pixel_size_x": 0.25, "pixel_size_unit": "micrometer"}
    assert read["data"].attrs == {"units": "1", "scaling": "full", "stored_value_of_one": 65535.0, **size}
    coarse = OMEZarr(variable="1", scaling="stored").read(path)
    assert (
        np.array_equal(values(coarse), stack.swapaxes(0, 1)[..., ::2, ::2])
        and coarse["data"].attrs["pixel_size_x"] == 0.5
    )
    assert not values(OMEZarr().read(path, look_inside=False)).any(), "values were read"
    assert isinstance(format_of(path), OMEZarr)


WRONG_STORES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no such resolution": ({}, {"variable": "7"}, "no variable '7', found ['0', '1']"),
    "an old version": ({"axes": None}, {}, "names no axes or no datasets. Write OME-Zarr 0.4 and 0.5"),
    "no resolutions": ({"datasets": []}, {}, "names no axes or no datasets"),
    "fewer axes": ({"axes": AXES[1:]}, {}, "'0' is no array with the axes"),
    "outside of the store": ({"datasets": [{"path": "../b"}]}, {}, "'../b' is no array with the axes"),
    "no array": ({"datasets": [{"path": "nowhere"}]}, {}, "is no OME-Zarr store, or damaged (KeyError"),
    "two axes that count": ({"axes": [{"name": n} for n in "tzyx"]}, {}, "has axes 'TZYX' of sizes (2, 3, 5, 6)"),
    "a list for a scale": (
        {"datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 2]}]}]},
        {},
        "is no OME-Zarr store, or damaged (ValueError",
    ),
}


@pytest.mark.parametrize("what", WRONG_STORES)
def test_stores_that_do_not_fit_are_refused(what: str, tmp_path: Path) -> None:
    changes, options, message = WRONG_STORES[what]
    path = ome_zarr(tmp_path / "a.zarr", np.stack([WORDS, WORDS]), **changes)
    with pytest.raises(InputError) as error:
        OMEZarr(**options).read(path)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_folders_that_are_no_store_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(InputError, match=r"a\.zarr is no OME-Zarr store, or damaged"):
        OMEZarr().read(tmp_path / "a.zarr")
    with pytest.raises(InputError, match=r"b\.zarr is no folder of a Zarr store"):
        OMEZarr().read(tmp_path / "b.zarr")
    zarr.open_group(str(tmp_path / "c.zarr"), mode="w", attributes={"plate": {}})
    with pytest.raises(InputError, match=r"needs one entry of `multiscales` .* found \['plate'\]"):
        OMEZarr().read(tmp_path / "c.zarr")


def test_a_store_that_declares_terabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = ome_zarr(tmp_path / "a.zarr", np.stack([WORDS, WORDS]))
    head = json.loads((path / "0" / ".zarray").read_text())
    (path / "0" / ".zarray").write_text(json.dumps({**head, "shape": [1, 10**3, 10**5, 10**5]}))
    with pytest.raises(InputError, match=r"takes 4e\+04 GB, the limit is 8 GB"):
        OMEZarr().read(path)


def test_a_picture_of_ones_own_is_what_was_measured(tmp_path: Path) -> None:
    """Of the size of the model: an image, whose transparent pixels were not measured. Of another: a measurement."""
    opaque = np.where(RANDOM.random((5, 6)) < 0.5, 255, 0).astype(np.uint8)
    read = read_measured(png(tmp_path / "a.png", np.dstack([BYTES, opaque])), (1, 5, 6))
    assert np.array_equal(read["operator_mask"].to_numpy()[0, 0], opaque == 255)
    assert np.array_equal(read["measured"].to_numpy()[0], (BYTES / 255).astype(np.float32)[opaque == 255])
    holes = np.where(opaque == 255, BYTES, np.nan).astype(np.float32)
    read = read_measured(tiff(tmp_path / "a.tif", holes, resolution=(2, 2), resolutionunit="CENTIMETER"), (1, 5, 6))
    assert np.array_equal(read["measured"].to_numpy()[0], BYTES[opaque == 255]) and read.attrs["pixel_size_x"] == 0.5
    read = read_measured(tmp_path / "a.png", (1, 5, 6), "stored")
    assert np.array_equal(read["measured"].to_numpy()[0], BYTES[opaque == 255])
    read = read_measured(png(tmp_path / "b.png", COLOURS), (3, 10, 12))
    assert np.array_equal(
        read["measured"].to_numpy()[0], (np.moveaxis(COLOURS, -1, 0) / 255).astype(np.float32).ravel()
    )
    store = ome_zarr(tmp_path / "a.zarr", WORDS[None])
    read = read_measured(store, (1, 5, 6))
    assert read.sizes["observation"] == 3 and read.attrs["pixel_size_unit"] == "micrometer"
    with pytest.raises(InputError, match=r"a\.tif: has holes and the shape \(1, 5, 6\)"):
        read_measured(tmp_path / "a.tif", (1, 8, 8))
