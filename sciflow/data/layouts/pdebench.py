"""The two layouts of PDEBench: flat arrays, and a group for each seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from sciflow.data.formats.mapping import check_size
from sciflow.data.layouts.simulations import AXES, WHOLE, Part, Simulations, require
from sciflow.data.layouts.stored import array, n_bytes, opened, text, written
from sciflow.errors import InputError
from sciflow.yamlfile import parse
from sciflow.yamlfile import text as as_yaml

if TYPE_CHECKING:
    import h5py

FLOW = ("density", "pressure", "Vx", "Vy", "Vz")
Gigabytes = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class PDEBench:
    """PDEBench's flat files: `tensor` (sample, time, x[, y]), or density, pressure, Vx, … for compressible flows.

    `t-coordinate` may hold one time more than there are fields. Darcy's files have no times, and `nu` (sample, x, y)
    as a constant. What the root says (`beta`, `Nu`, `eta`, …) becomes a parameter of all samples.

    Exactness: values are kept as they are
    Cost: what is asked for in memory, refused above `max_gigabytes` before it is read
    Bias: none; boundary conditions are not stored, so none are named
    Args:
        max_gigabytes: largest total that is read.
    Source: Takamoto et al. (2022), PDEBench; layout of the files of 2022 to 2024.
    """

    max_gigabytes: Gigabytes = 8.0
    keys: ClassVar[str] = "`tensor`, or `density`, `pressure` and `Vx`, with `x-coordinate`"

    def knows(self, file: h5py.File) -> bool:
        """Whether a file has this layout."""
        return "x-coordinate" in file and ("tensor" in file or {"density", "pressure", "Vx"} <= set(file))

    def read(self, path: str | Path, look_inside: bool = True, part: Part = WHOLE) -> Simulations:
        """A part of the file. Raises InputError in words for every way in which it can be wrong."""
        with opened(path) as file:
            require(path, file, self)
            there = ["tensor"] if "tensor" in file else [name for name in FLOW if name in file]
            names, cut = part.chosen(path, there), (part.samples, part.times)
            check_size(Path(path), sum(n_bytes(file[name], *cut) for name in names), self.max_gigabytes)
            get = array(path, self.max_gigabytes, look_inside)
            fields = {name: get(file[name], *cut) for name in names}
            space = {axis: get(file[f"{axis}-coordinate"]) for axis in AXES if f"{axis}-coordinate" in file}
            shape, times = file[names[0]].shape, file.get("t-coordinate")
            time = np.zeros(1) if times is None else get(times)[: shape[1] if len(shape) > 1 else None]
            constants = {"nu": get(file["nu"], part.samples)} if "nu" in file else {}
            numbers = {name: value for name, value in file.attrs.items() if np.ndim(value) == 0 and _is_number(value)}
            n = len(next(iter(fields.values())))
            parameters = {name: np.full(n, float(value)) for name, value in numbers.items()}
        return Simulations(fields, time[part.times], space, constants, parameters).checked(path, look_inside)

    def write(self, path: str | Path, simulations: Simulations) -> None:
        """A file in this layout.

        Raises:
            InputError: several fields that are none of a compressible flow, or parameters that differ by sample.
        """
        names = list(simulations.fields)
        if len(names) > 1 and not set(names) <= set(FLOW):
            raise InputError(f"PDEBench's flat layout holds one field or {FLOW}, got {names}. Use the_well or cf.")
        with written(path) as file:
            for name, values in simulations.fields.items():
                file["tensor" if len(names) == 1 else name] = values.astype(np.float32)
            for axis, places in simulations.space.items():
                file[f"{axis}-coordinate"] = places.astype(np.float32)
            if simulations.shape[1] > 1:
                file["t-coordinate"] = _with_end(simulations.time).astype(np.float32)
            for name, values in simulations.constants.items():
                file[name] = values.astype(np.float32)
            for name, numbers in simulations.parameters.items():
                if len(set(numbers.tolist())) > 1:
                    raise InputError(
                        f"PDEBench's flat layout has one {name!r} for a file, got {len(set(numbers.tolist()))} values. "
                        "Write a file for each, or use pdebench_seeds, the_well or cf."
                    )
                file.attrs[name] = float(numbers[0])


@dataclass(frozen=True)
class PDEBenchSeeds:
    """PDEBench's files with a group for each seed: `0000/data` (time, x[, y], channel), `0000/grid/{t, x, y}`.

    The group's attribute `config` is kept as text; where it is YAML, numbers under its `sim` become parameters.

    Exactness: values are kept as they are
    Cost: what is asked for in memory, refused above `max_gigabytes` before it is read
    Bias: none; fields have no names in these files, and are called u0, u1, …
    Args:
        max_gigabytes: largest total that is read.
    Source: Takamoto et al. (2022), PDEBench: diffusion-reaction, diffusion-sorption, radial dam break.
    """

    max_gigabytes: Gigabytes = 8.0
    keys: ClassVar[str] = "groups `0000`, `0001`, … with `data` and `grid/x`"

    def knows(self, file: h5py.File) -> bool:
        """Whether a file has this layout."""
        first = next((name for name in file if name.isdigit()), None)
        return first is not None and f"{first}/data" in file and f"{first}/grid/x" in file

    def read(self, path: str | Path, look_inside: bool = True, part: Part = WHOLE) -> Simulations:
        """A part of the file. Raises InputError in words for every way in which it can be wrong."""
        with opened(path) as file:
            require(path, file, self)
            seeds = sorted(name for name in file if name.isdigit())
            missing = [seed for seed in seeds if f"{seed}/data" not in file or f"{seed}/grid/x" not in file]
            if missing:
                raise InputError(f"{path}: group {missing[0]!r} has no `data` or `grid/x`. Write the file again.")
            names = [f"u{i}" for i in range(file[f"{seeds[0]}/data"].shape[-1])]
            chosen, seeds = part.chosen(path, names), seeds[part.samples] or seeds[:1]
            last = names.index(chosen[0]) if len(chosen) == 1 else None  # of several, all are read
            size = sum(n_bytes(file[f"{seed}/data"], part.times, last=last) for seed in seeds)
            check_size(Path(path), size, self.max_gigabytes)
            get = array(path, self.max_gigabytes, look_inside)
            first = file[seeds[0]]
            space = {axis: get(first[f"grid/{axis}"]) for axis in AXES if f"grid/{axis}" in first}
            n_times = first["data"].shape[0]
            time = get(first["grid/t"]) if "grid/t" in first else np.zeros(n_times)
            parts = [get(file[f"{seed}/data"], part.times, last=last) for seed in seeds]
            odd = next((i for i, part in enumerate(parts) if part.shape != parts[0].shape), None)
            if odd is not None:
                raise InputError(
                    f"{path}: group {seeds[odd]!r} has shape {parts[odd].shape}, {seeds[0]!r} has {parts[0].shape}. "
                    "Keep groups of one shape in a file."
                )
            configs = [text(file[seed].attrs.get("config", "")) for seed in seeds]
        stacked = np.stack(parts) if look_inside else np.broadcast_to(parts[0], (len(parts), *parts[0].shape))
        fields = {name: stacked if last is not None else stacked[..., names.index(name)] for name in chosen}
        facts = {"config": configs[0]} if configs[0] else {}
        found = Simulations(fields, time[:n_times][part.times], space, {}, _numbers(configs), {}, facts)
        return found.checked(path, look_inside)

    def write(self, path: str | Path, simulations: Simulations) -> None:
        """A file in this layout. Raises InputError if there are constants, for which it has no place."""
        if simulations.constants:
            raise InputError(f"the layout has no place for {list(simulations.constants)}. Use the_well or cf.")
        stacked = np.stack(list(simulations.fields.values()), -1).astype(np.float32)
        with written(path) as file:
            for i, values in enumerate(stacked):
                group = file.create_group(f"{i:04d}")
                group["data"] = values
                for axis, places in {"t": simulations.time, **simulations.space}.items():
                    group[f"grid/{axis}"] = places.astype(np.float32)
                numbers = {name: float(value[i]) for name, value in simulations.parameters.items()}
                group.attrs["config"] = as_yaml({"sim": numbers})


def _numbers(configs: list[str]) -> dict[str, np.ndarray]:
    """Numbers that stand under `sim` in the configuration of every seed."""
    found = [_simulation(config) for config in configs]
    names = [name for name in found[0] if all(_is_number(one.get(name)) for one in found)]
    return {name: np.array([float(one[name]) for one in found]) for name in names}


def _simulation(config: str) -> Mapping[str, Any]:
    """What a configuration says under `sim`; nothing where it is no plain YAML, and stays text."""
    try:
        values = parse(config)
    except InputError:
        return {}
    inside = values.get("sim") if isinstance(values, Mapping) else None
    return inside if isinstance(inside, Mapping) else {}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _with_end(time: np.ndarray) -> np.ndarray:
    """Times and the end of the last interval, as PDEBench stores them."""
    return np.append(time, 2 * time[-1] - time[-2])
