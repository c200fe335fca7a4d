"""The layout of PDEBench's incompressible flows: vectors with their components last, no coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from sciflow.data.formats.mapping import check_size
from sciflow.data.layouts.simulations import AXES, UNEVEN, WHOLE, Part, Simulations, require
from sciflow.data.layouts.stored import array, n_bytes, opened, text, written
from sciflow.errors import InputError

if TYPE_CHECKING:
    import h5py

PLACES = {"particles": ("particles", 0)} | {f"velocity_{axis}": ("velocity", i) for i, axis in enumerate(AXES)}
FORCES = {f"force_{axis}": i for i, axis in enumerate(AXES)}


@dataclass(frozen=True)
class PDEBenchIncompressible:
    """PDEBench's incompressible flows: `velocity` (sample, time, x, y, 2), `particles` (…, 1), `force`, `t`.

    Fields are `velocity_x`, `velocity_y` and `particles`; the force, which does not change, is `force_x`, `force_y`.
    The files have no coordinates: fields are on the centres of equal cells of a unit square, x_i = (i + ½)/n.

    Exactness: values are kept as they are
    Cost: what is asked for in memory, refused above `max_gigabytes` before it is read
    Bias: none; boundary conditions are not stored, so none are named
    Args:
        max_gigabytes: largest total that is read.
    Source: Takamoto et al. (2022), PDEBench, appendix D: inhomogeneous, incompressible Navier–Stokes.
    """

    max_gigabytes: Annotated[float, Field(gt=0)] = 8.0
    keys: ClassVar[str] = "`velocity` and `t`, with `particles` and `force` beside them"

    def knows(self, file: h5py.File) -> bool:
        """Whether a file has this layout."""
        return "velocity" in file and "t" in file and len(getattr(file["velocity"], "shape", ())) > 3

    def read(self, path: str | Path, look_inside: bool = True, part: Part = WHOLE) -> Simulations:
        """A part of the file. Raises InputError in words for every way in which it can be wrong."""
        with opened(path) as file:
            require(path, file, self)
            n_axes = file["velocity"].shape[-1]
            there = [n for n, (name, i) in PLACES.items() if name in file and (name != "velocity" or i < n_axes)]
            cut, names = (part.samples, part.times), part.chosen(path, there)
            size = sum(n_bytes(file[PLACES[n][0]], *cut, last=PLACES[n][1]) for n in names)
            check_size(Path(path), size, self.max_gigabytes)
            get = array(path, self.max_gigabytes, look_inside)
            fields = {n: get(file[PLACES[n][0]], *cut, last=PLACES[n][1]) for n in names}
            has_force = "force" in file
            constants = {
                n: get(file["force"], part.samples, last=i) for n, i in FORCES.items() if has_force and i < n_axes
            }
            time = _one_for_all(path, array(path, self.max_gigabytes, True)(file["t"]), part)
            sizes = file["velocity"].shape[2:-1]
            facts = {"config": text(file.attrs["config"])} if "config" in file.attrs else {}
        space = {axis: (np.arange(n) + 0.5) / n for axis, n in zip(AXES, sizes, strict=False)}
        return Simulations(fields, time, space, constants, facts=facts).checked(path, look_inside)

    def write(self, path: str | Path, simulations: Simulations) -> None:
        """A file in this layout.

        Raises:
            InputError: fields, constants or parameters that it has no place for, or another grid than its own.
        """
        axes = [*simulations.space]
        vector = [f"velocity_{axis}" for axis in axes]
        odd = {*simulations.fields} - {*vector, "particles"} | {*simulations.constants} - {*FORCES}
        odd |= {*simulations.parameters} | {*vector} - {*simulations.fields}
        if odd:
            raise InputError(
                f"PDEBench's incompressible layout has {vector}, `particles` and forces; {sorted(odd)} do not fit."
            )
        for axis, places in simulations.space.items():
            if not np.allclose(places, (np.arange(len(places)) + 0.5) / len(places), atol=1e-5):  # of a float32 file
                raise InputError(f"the layout has no coordinates: {axis!r} must be (i + ½)/n. Use the_well or cf.")
        with written(path) as file:
            file["velocity"] = np.stack([simulations.fields[name] for name in vector], -1).astype(np.float32)
            if "particles" in simulations.fields:
                file["particles"] = simulations.fields["particles"][..., None].astype(np.float32)
            if simulations.constants:
                forces = [simulations.constants[f"force_{axis}"] for axis in axes]
                file["force"] = np.stack(forces, -1).astype(np.float32)
            file["t"] = np.tile(simulations.time.astype(np.float32), (simulations.shape[0], 1))
            file.attrs["config"] = str(simulations.facts.get("config", ""))


def _one_for_all(path: str | Path, times: np.ndarray, part: Part) -> np.ndarray:
    """The times (time,) of all samples (sample, time) that are read. Raises InputError if they differ."""
    own = np.atleast_2d(times)[part.samples, part.times]
    if not np.allclose(own, own[:1], rtol=UNEVEN, atol=0):
        raise InputError(f"{path}: `t` differs from sample to sample. Interpolate to one grid of times.")
    return own[0]
