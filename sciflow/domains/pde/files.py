"""What is the data? Your own simulations, from a file whose layout says what its axes are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from pydantic import Field

from sciflow.data.arrays import to_xarray
from sciflow.data.layouts.layout import LAYOUTS, Layout, layout_of
from sciflow.data.layouts.simulations import OFFSET, SCALE, Part, Simulations
from sciflow.data.schema import suggestion
from sciflow.data.split import shares
from sciflow.diffusion.forecast import SAME
from sciflow.domains.pde.observed import held_out
from sciflow.errors import InputError
from sciflow.inverse.likelihood import GaussianNoise
from sciflow.inverse.observe import Observation
from sciflow.inverse.sensors import Sensors
from sciflow.random import Stream

if TYPE_CHECKING:
    import xarray as xr

Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]


def _sensors() -> Observation:
    return Observation(Sensors(stride=8, channels=1), GaussianNoise(0.05))


@dataclass(frozen=True)
class SimulationFile:
    """Your own simulations: fields of a PDEBench, The Well, CF netCDF or Zarr file, in one or two dimensions.

    Of a file that is larger than the memory, the fields, simulations and times that are asked for are read alone.

    Events are (time, x) or (time, y, x); of several variables (time, channel, …), each less its mean, over its standard
    deviation, of the training split: `offset` and `scale` (channel) of data.nc, which also turn draws back. The numbers
    of each simulation come along as `parameter_…` and fields that do not change as `constant_…`, those of the observed
    ones as `observed_parameter_…` and `observed_constant_…`, boundary conditions as an attribute.

    Exactness: values as stored, in float32, but for the scaling of several variables
    Cost: what is asked for in memory, refused above `max_gigabytes` before it is read; several variables four times
    Bias: none; each trajectory counts as independent of the others
    Args:
        path: of the file.
        layout: a name of LAYOUTS; empty takes the one that its keys show.
        variable: the field, one of those in the file, or a list of several; empty takes the only one.
        n_samples: how many simulations to keep, the first; null keeps all.
        n_times: how many times to keep; null keeps all.
        every: keep each so-manieth time.
        max_gigabytes: largest total that is read.
        n_observations: held-out trajectories that are observed.
        validation: share for the validation loss.
        test: share held out.
        observation: how they are observed; the first channel is the first time.
    Source: the layouts' own documentation; see sciflow.data.layouts.
    """

    path: str = ""
    layout: str = ""
    variable: str | tuple[str, ...] = ""
    n_samples: Count | None = None
    n_times: Count | None = None
    every: Count = 1
    max_gigabytes: Annotated[float, Field(gt=0)] = 8.0
    n_observations: Count = 4
    validation: Share = 0.1
    test: Share = 0.1
    observation: Observation = field(default_factory=_sensors)

    def __post_init__(self) -> None:
        if self.layout and self.layout not in LAYOUTS:
            known = sorted(LAYOUTS)
            hint = suggestion(self.layout, known)
            raise InputError(f"dataset.layout must be one of {known} or empty, got {self.layout!r}.{hint}")
        shares(self.test, self.validation)

    def look(self) -> None:
        """Raise InputError for whatever the header of the file shows to be wrong."""
        self._check(self._read(look_inside=False))

    def known_parameters(self) -> list[str]:
        """What a surrogate can be told of each trajectory, by the header of the file."""
        return [*self._read(look_inside=False).parameters]

    def known_constants(self) -> list[str]:
        """The fields that do not change, which a surrogate can be told of, by the header of the file."""
        return [*self._read(look_inside=False).constants]

    def known_boundary(self) -> Mapping[str, str]:
        """Axis → "periodic", "wall" or "open", by the header of the file; others it says nothing of."""
        return self._read(look_inside=False).boundary

    def _read(self, look_inside: bool = True) -> Simulations:
        layout: Any = LAYOUTS[self.layout]() if self.layout else layout_of(Path(self.path))
        reader: Layout = replace(layout, max_gigabytes=self.max_gigabytes)
        times = slice(None, self.n_times and self.n_times * self.every, self.every)
        asked = (self.variable,) if isinstance(self.variable, str) else self.variable
        return reader.read(self.path, look_inside, Part(tuple(filter(None, asked)), slice(self.n_samples), times))

    def _check(self, found: Simulations) -> None:
        """Raise InputError unless it was said which fields, on a line or in a plane."""
        if len(found.space) > 2:
            raise InputError(f"{self.path}: the fields have the axes {[*found.space]}. Give one or two: slice them.")
        if len(found.fields) > 1 and not self.variable:
            raise InputError(
                f"{self.path}: several fields, found {[*found.fields]}. Say which one: `variable: <name>`, or several: "
                "`variable: [<name>, <name>]`."
            )
        seen = self.observation.operator
        if len(found.fields) > 1 and isinstance(seen, Sensors) and (seen.stride > 1 or seen.first):
            raise InputError(
                "dataset.observation: sensors that leave out points would leave out variables, too. Use `stride: 1` "
                "and `first: 0` for several variables, or one variable."
            )

    def simulate(self, stream: Stream) -> xr.Dataset:
        self.look()  # of several fields none is read
        named = self._read().to_dataset()
        n = named.sizes["sample"]
        labels, chosen = held_out(n, self.test, self.validation, self.n_observations, stream.child("split"))
        if named.sizes["channel"] == 1:
            named = named.isel(channel=0, drop=True)
        else:
            named = self._scaled(named, labels == "train")
        event = tuple(map(str, named["data"].dims[1:]))
        data = torch.as_tensor(np.ascontiguousarray(named["data"].to_numpy()), dtype=torch.float32)
        records = self.observation.record(data[chosen], stream.child("observe"))
        values = {"data": data, "truth": data[chosen], **records}
        dims: dict[str, tuple[str, ...]] = {"data": ("sample", *event), "truth": ("observation", *event)}
        dims["measured"] = ("observation", "measurement")
        for name, value in records.items():
            dims.setdefault(name, ("observation", *(f"{name}_{axis}" for axis in range(value.ndim - 1))))
        coords: dict[str, Any] = {name: named[name] for name in (*event, *({OFFSET, SCALE} & {*named.coords}))}
        coords |= {"split": ("sample", labels.astype(str)), "unit": ("sample", np.arange(n))}
        unit = str(named["data"].attrs.get("units", "1"))  # sensors have it, too
        made = to_xarray(values, dims, coords, {name: unit for name in ("data", "truth", "measured")})
        others = [name for name in named.data_vars if name != "data"]
        known = {f"observed_{name}": named[name] for name in others}  # all have `sample` as their first dim
        made = made.assign({n: (("observation", *v.dims[1:]), v.to_numpy()[chosen]) for n, v in known.items()})
        return made.merge(named[others].drop_vars("unit", errors="ignore")).assign_attrs(named.attrs)

    def _scaled(self, named: xr.Dataset, is_train: np.ndarray) -> xr.Dataset:
        """Every variable less its mean, over its standard deviation; what these are comes along."""
        train = named["data"][is_train].astype(np.float64)
        others = [dim for dim in train.dims if dim != "channel"]
        mean, std = train.mean(others), train.std(others)
        if bool((is_still := std <= SAME * abs(mean)).any()):
            still = named["channel"].to_numpy()[is_still.to_numpy()].tolist()
            raise InputError(f"{self.path}: {still} never change. Leave them out of `variable`.")
        scaled = ((named["data"] - mean) / std).transpose(*named["data"].dims).assign_attrs(units="1")
        return named.assign(data=scaled).assign_coords({OFFSET: ("channel", mean.data), SCALE: ("channel", std.data)})
