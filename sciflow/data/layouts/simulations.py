"""Simulated fields as arrays with the axes that every layout shares, and their crossing to named dims."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from sciflow.data.schema import not_finite, suggestion
from sciflow.errors import InputError

if TYPE_CHECKING:
    import h5py
    import xarray as xr

AXES = ("x", "y", "z")
CONSTANT, PARAMETER = "constant_", "parameter_"  # prefixes of variables of each sample
OBSERVED, OBSERVED_CONSTANT = "observed_" + PARAMETER, "observed_" + CONSTANT  # of what is known of each observation
OFFSET, SCALE = "offset", "scale"  # of each of several variables, in its own unit
EACH_UNIT = "units_of_each"  # attribute of `channel`: the unit of each variable, as JSON
UNEVEN = 1e-3  # of a step: coordinates in single precision round by a tenth of that where an axis has 1000 points


@dataclass(frozen=True)
class Part:
    """What is read of a file; the rest stays on the disk, and may be larger than the memory.

    Args:
        variables: these fields, in this order; empty reads all.
        samples: which simulations.
        times: which times.
    """

    variables: tuple[str, ...] = ()
    samples: slice = field(default_factory=lambda: slice(None))
    times: slice = field(default_factory=lambda: slice(None))

    def chosen(self, path: str | Path, names: Sequence[str]) -> list[str]:
        """Those of the fields in a file that are read.

        Raises:
            InputError: one that is asked for is not there, or named twice.
        """
        for name in self.variables:
            if name not in names:
                hint = suggestion(name, [*names]) or " Say which one: `variable: <name>`."
                raise InputError(f"{path}: no field {name!r}, found {[*names]}.{hint}")
        if len({*self.variables}) < len(self.variables):
            raise InputError(f"{path}: {[*self.variables]} names a field twice. Name each once.")
        return [*(self.variables or names)]


WHOLE = Part()


@dataclass(frozen=True)
class Simulations:
    """What a file of simulations holds, whatever its layout.

    Args:
        fields: name → (sample, time, *space), all of one shape.
        time: (time,).
        space: axis → coordinates (points,), in the order of the axes of a field.
        constants: name → (sample, *space), fields that do not change.
        parameters: name → (sample,), numbers of each simulation.
        boundary: axis → "periodic", "wall" or "open"; an axis that the file says nothing of is not there.
        facts: whatever else the file says of itself, name → text or number.
        units: field, "time" or axis → its unit, where the file says it.
    """

    fields: Mapping[str, np.ndarray]
    time: np.ndarray
    space: Mapping[str, np.ndarray]
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    parameters: Mapping[str, np.ndarray] = field(default_factory=dict)
    boundary: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """(sample, time, *space)."""
        return next(iter(self.fields.values())).shape

    def checked(self, path: str | Path, look_inside: bool = True) -> Simulations:
        """Itself, if its shapes agree and its numbers are finite.

        Raises:
            InputError: they do not.
        """
        wanted = (self.shape[0], len(self.time), *(len(places) for places in self.space.values()))
        if 0 in wanted:
            raise InputError(f"{path}: the fields are empty, shape {wanted}. Give at least one of each.")
        for name, values in self.fields.items():
            if values.shape != wanted:
                axes = ", ".join(("sample", "time", *self.space))
                raise InputError(
                    f"{path}: {name!r} has shape {values.shape}, its axes say ({axes}) = {wanted}. Write its axes in "
                    "this order, and as many coordinates along each as it has points."
                )
        for name, values in self.constants.items():
            if values.shape != (wanted[0], *wanted[2:]):
                needed = (wanted[0], *wanted[2:])
                raise InputError(
                    f"{path}: {name!r} has shape {values.shape}, needs {needed}. Give one for each sample."
                )
        if look_inside:
            for name, values in (*self.fields.items(), *self.constants.items()):
                if bad := not_finite(values, ("sample", "time", *self.space)[-values.ndim :]):
                    raise InputError(
                        f"{path}: {name!r} has {bad}. The simulation blew up, or a mask was stored in it: leave out "
                        "that sample, or what comes after, or fill in what the mask hides."
                    )
        return self

    def to_dataset(self) -> xr.Dataset:
        """`data` (sample, time, channel, z, y, x), `constant_…`, `parameter_…`, with coordinates.

        Fields of several units have none together.
        """
        import xarray as xr

        space = tuple(self.space)
        order = tuple(axis for axis in reversed(AXES) if axis in space)
        stacked = np.stack(list(self.fields.values()), -1)
        units = [self.units.get(name, "1") for name in self.fields]
        same = {"units": units[0]} if len(set(units)) == 1 else {}
        data = xr.Variable(("sample", "time", *space, "channel"), stacked, same)
        variables = {"data": data.transpose("sample", "time", "channel", *order)}
        for name, values in self.constants.items():
            variables[CONSTANT + name] = xr.Variable(("sample", *space), values).transpose("sample", *order)
        for name, values in self.parameters.items():
            variables[PARAMETER + name] = xr.Variable(("sample",), values)
        coords: dict[str, Any] = {"channel": ("channel", list(self.fields), {EACH_UNIT: json.dumps(units)})}
        for name, places in {"time": self.time, **self.space}.items():
            coords[name] = xr.Variable((name,), places, {"units": self.units[name]} if name in self.units else {})
        coords["unit"] = ("sample", np.arange(self.shape[0]))
        attrs = {"boundary": json.dumps(dict(self.boundary), sort_keys=True), **self.facts}
        return xr.Dataset(variables, coords, attrs)

    @classmethod
    def of(cls, dataset: xr.Dataset) -> Simulations:
        """Back from named dims; `channel` and coordinates may be missing.

        Raises:
            InputError: there is no `data` (sample, time, …) with an axis of space.
        """
        if "data" not in dataset or not {"sample", "time"} < set(dataset["data"].dims):
            raise InputError(
                f"simulations need `data` with dims (sample, time, …, x), found {dict(dataset.sizes)}. Rename its dims."
            )
        data = dataset["data"]
        space = [axis for axis in AXES if axis in data.dims]
        names = [str(name) for name in data["channel"].to_numpy()] if "channel" in data.coords else []
        if "channel" not in data.dims:
            data, names = data.expand_dims("channel"), ["u"]
        names = names or [f"u{i}" for i in range(data.sizes["channel"])]
        unknown = set(map(str, data.dims)) - {"sample", "time", "channel", *space}
        if unknown or not space:
            raise InputError(f"`data` has dims {data.dims}, needs (sample, time, channel, z, y, x) or fewer of these.")
        values = data.transpose("channel", "sample", "time", *space).to_numpy()
        coords = {
            d: dataset[d].to_numpy() if d in dataset.coords else np.arange(data.sizes[d]) for d in ("time", *space)
        }
        with_prefix = {
            prefix: {str(n).removeprefix(prefix): dataset[n] for n in dataset.data_vars if str(n).startswith(prefix)}
            for prefix in (CONSTANT, PARAMETER)
        }
        return cls(
            dict(zip(names, values, strict=True)), coords["time"], {axis: coords[axis] for axis in space},
            {name: v.transpose("sample", *space).to_numpy() for name, v in with_prefix[CONSTANT].items()},
            {name: v.to_numpy() for name, v in with_prefix[PARAMETER].items()},
            json.loads(dataset.attrs.get("boundary", "{}")),
            {str(k): v for k, v in dataset.attrs.items() if k != "boundary"},
            {
                **{name: str(data.attrs["units"]) for name in names if "units" in data.attrs},
                **{d: str(dataset[d].attrs["units"]) for d in coords if "units" in dataset[d].attrs},
            },
        )  # fmt: skip


def grid_of(data: xr.Dataset) -> tuple[str, ...]:
    """The axes of the grid of `data`, in their order: all but sample, time and channel."""
    return tuple(str(dim) for dim in data["data"].dims if dim not in ("sample", "time", "channel"))


def steps(coordinates: np.ndarray) -> tuple[float, float]:
    """The mean step of an axis, and the largest deviation from it over its size; (nan, 0) for a single point."""
    if len(coordinates) < 2:
        return float("nan"), 0.0
    difference = np.diff(np.asarray(coordinates, dtype=np.float64))
    mean = float(difference.mean())
    return mean, float(np.abs(difference - mean).max() / abs(mean)) if mean else float("inf")


def check_uniform(where: str, coordinates: Mapping[str, np.ndarray], why: str) -> None:
    """Refuse axes whose points are not equally far apart.

    Args:
        where: file or artefact, for the message.
        coordinates: axis → (points,).
        why: what needs it, as in "a Fourier network".

    Raises:
        InputError: one is not, with the smallest and the largest step.
    """
    for axis, values in coordinates.items():
        if steps(values)[1] > UNEVEN:
            sizes = np.abs(np.diff(values))
            raise InputError(
                f"{where}: {why} needs equal steps, but those of {axis!r} go from {sizes.min():.4g} to "
                f"{sizes.max():.4g}. Interpolate the fields to a uniform grid, or use the unet or mlp network."
            )


def unknown_layout(path: str | Path, found: Sequence[str], known: Mapping[str, str]) -> InputError:
    """The error for a file whose keys no layout knows.

    Args:
        path: of the file.
        found: its keys.
        known: layout → the keys it needs, in words.
    """
    shown = ", ".join(sorted(found)[:12]) + (", …" if len(found) > 12 else "")
    needed = "; ".join(f"{name}: {keys}" for name, keys in known.items())
    return InputError(
        f"{path} has another layout: found the keys [{shown}], but need {needed}. "
        "Rename what is there, or read one array with `sciflow.data.FORMATS`."
    )


class Keyed(Protocol):
    """A layout that is known by its keys."""

    keys: ClassVar[str]

    def knows(self, file: h5py.File) -> bool:
        """Whether a file has them."""
        ...


def require(path: str | Path, file: h5py.File, layout: Keyed) -> None:
    """Raise InputError unless a file has the keys of a layout."""
    if not layout.knows(file):
        raise unknown_layout(path, list(file), {type(layout).__name__: layout.keys})
