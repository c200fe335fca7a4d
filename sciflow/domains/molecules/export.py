"""Draws of a finished run as trajectories that other programs of molecular science read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sciflow.data.arrays import from_xarray
from sciflow.data.schema import suggestion
from sciflow.data.trajectories.frames import Frames, atoms_of_json
from sciflow.data.trajectories.reading import HDF5, dataset
from sciflow.data.trajectories.recording import WRITTEN, write_trajectory
from sciflow.data.trajectories.through_mdtraj import WITH_TOPOLOGY, need_mdtraj
from sciflow.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

TOPOLOGY = "topology.pdb"
SELF_TOLD = (*HDF5, *WITH_TOPOLOGY)
"""Formats that say themselves what their atoms are."""


class Written(NamedTuple):
    """One file, and what is in it.

    Attributes:
        path: of the file.
        posterior: sampler whose draws they are.
        repeat: which of its independent sets.
        n_frames: draws, in the order of `member` in samples.nc.
    """

    path: Path
    posterior: str
    repeat: int
    n_frames: int


def export(
    data: xr.Dataset, samples: xr.Dataset, folder: Path, suffix: str, posteriors: Sequence[str] = ()
) -> list[Written]:
    """Every set of draws of every sampler as a file of its own, beside a PDB file that says what the atoms are.

    `SAMPLER-REPEAT.suffix` holds the draws in the order of `samples.nc`; draws have no time, so that frame k has time
    k. The conformation in `topology.pdb` is the first frame of the data.

    Args:
        data: with names of atoms and the topology.
        samples: positions [nm].
        folder: made if it is not there; files of the same names are replaced.
        suffix: of the format, as .xtc.
        posteriors: samplers; none for all.

    Raises:
        InputError: another format, an unknown sampler, data that are not of a molecule, mdtraj is not installed.
    """
    if suffix not in WRITTEN:
        known = [name.removeprefix(".") for name in WRITTEN]
        raise InputError(f"format {suffix.removeprefix('.')!r} is not known, only {known}. Choose one of them.")
    if suffix not in HDF5:
        need_mdtraj()
    every = [str(name) for name in samples["posterior"].to_numpy()]
    for name in posteriors:
        if name not in every:
            raise InputError(f"no sampler is called {name!r}, only {every}.{suggestion(name, every)}")
    if "topology" not in data.variables:
        raise InputError(
            "data.nc has no topology: it is not of a molecule, or was made before topologies were kept. Make the data "
            "anew, or take positions from samples.nc."
        )
    topology = str(data["topology"].to_numpy())
    atoms = atoms_of_json(Path("data.nc"), topology)

    def as_trajectory(positions: np.ndarray) -> xr.Dataset:
        return dataset([Frames(atoms, positions.astype(np.float32), np.arange(len(positions), dtype=float))])

    files = file_names(every)
    folder.mkdir(parents=True, exist_ok=True)
    if suffix not in SELF_TOLD:
        first = from_xarray(data["data"][:1], ("sample", "particle", "axis")).numpy()
        write_trajectory(folder / TOPOLOGY, as_trajectory(first))
    written = []
    for name in posteriors or every:
        own = samples["samples"].sel(posterior=name)
        for repeat, drawn in zip(own["observation"].to_numpy().tolist(), own, strict=True):
            positions = from_xarray(drawn, ("member", "particle", "axis")).numpy()
            path = folder / f"{files[name]}-{repeat}{suffix}"
            write_trajectory(path, as_trajectory(positions))
            written.append(Written(path, name, int(repeat), len(positions)))
    return written


def file_names(names: Sequence[str]) -> dict[str, str]:
    """Names as files can have them; with their number in front where two would become one."""
    clean = [re.sub(r"[^\w.+-]+", "-", name) for name in names]
    is_unique = len({name.casefold() for name in clean}) == len(clean)
    return {name: own if is_unique else f"{k}-{own}" for k, (name, own) in enumerate(zip(names, clean, strict=True))}
