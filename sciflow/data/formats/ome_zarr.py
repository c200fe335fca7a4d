"""OME-Zarr: pictures in chunks, several resolutions, with the size of a pixel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from sciflow.data.formats.mapping import blank, check_size, choose, named
from sciflow.data.formats.pictures import DIMS, arranged, pixel_size, scale, scaled_type
from sciflow.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

VERSIONS = "0.4 and 0.5"


@dataclass(frozen=True)
class OMEZarr:
    """One resolution of an OME-Zarr image, whose axes, units and pixel size the store says itself.

    Planes (along z or t, one of which has size one) are samples. Whole numbers are scaled as in `pictures`.

    Exactness: stored values, correctly rounded where they are scaled
    Cost: the whole array in memory, refused above `max_gigabytes` before it is read; needs the extra `zarr`
    Bias: planes count as independent, though neighbours resemble one another; a chunk that is missing reads as the
        fill value, as Zarr has it

    Args:
        variable: path of the resolution in the store, e.g. "1"; empty takes the first, which is the finest.
        units: of the values, after scaling.
        scaling: "full" for values in [0, 1], or "stored"; floating-point numbers are kept as they are.
        max_gigabytes: largest array that is read.

    Source: OME-NGFF 0.4 and 0.5, through zarr; Moore et al. (2021), OME-NGFF.
    """

    variable: str = ""
    units: str = "1"
    scaling: Literal["full", "stored"] = "full"
    max_gigabytes: Annotated[float, Field(gt=0)] = 8.0

    def read(self, path: str | Path, look_inside: bool = True) -> xr.Dataset:
        """Read, name and check. Raises InputError in words for every way in which the store can be wrong.

        Args:
            path: the folder of the store.
            look_inside: false reads metadata only, and gives zeros for values.
        """
        path = Path(path)
        if not path.is_dir():
            raise InputError(f"{path} is no folder of a Zarr store. Correct the path, or unpack it.")
        try:
            import zarr
        except ImportError:
            raise InputError(f"{path}: OME-Zarr needs zarr: pip install 'sciflow[zarr]'.") from None
        try:
            group = zarr.open_group(str(path), mode="r")
            image = _multiscales(path, group.attrs.asdict())
            datasets = {str(entry["path"]): entry for entry in image["datasets"]}
            axes = [axis if isinstance(axis, Mapping) else {"name": axis} for axis in image["axes"]]
            name = choose(path, self.variable or next(iter(datasets), ""), [*datasets])
            stored = group[name] if _is_inside(name) else None
            if not isinstance(stored, zarr.Array) or len(stored.shape) != len(axes):
                raise InputError(f"{path}: {name!r} is no array with the axes {axes}. Write the store again.")
            check_size(path, math.prod(stored.shape) * scaled_type(stored.dtype).itemsize, self.max_gigabytes)
            values = np.array(stored[...]) if look_inside else blank(stored.shape, stored.dtype)
            letters = "".join(str(axis["name"])[:1].upper() for axis in axes)
            facts = _facts(axes, [*datasets[name].get("coordinateTransformations", []),
                                  *image.get("coordinateTransformations", [])])  # fmt: skip
        except (OSError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
            if isinstance(error, InputError):
                raise
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise InputError(f"{path} is no OME-Zarr store, or damaged ({reason}). Write it again.") from error
        scaled, factor = scale(arranged(path, letters, values.shape, "C")(values), self.scaling)
        read = named(path, scaled, {dim: k for k, dim in enumerate(DIMS)}, self.units, None, look_inside)
        read["data"].attrs.update({"scaling": self.scaling, "stored_value_of_one": factor, **facts})
        return read


def _is_inside(name: str) -> bool:
    """Whether a path stays within its store."""
    return bool(name) and not name.startswith("/") and ".." not in Path(name).parts


def _multiscales(path: Path, attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """The one image of the store.

    Raises:
        InputError: none, several, or one of a version that says nothing of its axes.
    """
    images = attributes.get("ome", attributes).get("multiscales")
    if not isinstance(images, Sequence) or len(images) != 1:
        found = sorted(attributes.get("ome", attributes))
        raise InputError(
            f"{path}: needs one entry of `multiscales` in the attributes of the group, found {found}. Give the path of "
            "an image within the store, not of a plate or a collection."
        )
    if "axes" not in images[0] or not images[0].get("datasets"):
        raise InputError(f"{path}: its `multiscales` names no axes or no datasets. Write OME-Zarr {VERSIONS}.")
    return images[0]


def _facts(axes: Sequence[Mapping[str, Any]], transformations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The pixel size, where the scales of y and x and one unit for both are given."""
    names = [str(axis["name"]) for axis in axes]
    steps = [entry["scale"] for entry in transformations if entry.get("type") == "scale"]
    units = {str(axis.get("unit", "")) for axis in axes if axis["name"] in ("y", "x")}
    total = np.prod(np.array(steps, dtype=float).reshape(len(steps), len(names)), axis=0)
    sizes = {name: float(total[k]) for k, name in enumerate(names) if name in ("y", "x") and steps}
    return pixel_size(sizes, units.pop() if len(units) == 1 else "")
