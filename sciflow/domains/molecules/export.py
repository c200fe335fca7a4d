"""Draws of a finished run, and frames of its data, as trajectories that other programs of molecular science read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sciflow.data.arrays import from_xarray
from sciflow.data.schema import BOX, suggestion
from sciflow.data.trajectories.frames import Atoms, Frames, atoms_of_json
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
        what: it holds, as "draws of SAMPLER, repeat 0" or "frames of chain 0".
        n_frames: how many.
    """

    path: Path
    what: str
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
    every = [str(name) for name in samples["posterior"].to_numpy()]
    _check_format(suffix)
    for name in posteriors:
        if name not in every:
            raise InputError(f"no sampler is called {name!r}, only {every}.{suggestion(name, every)}")
    files, written = file_names(every), []
    atoms = _begun(data, folder, suffix)
    for name in posteriors or every:
        own = samples["samples"].sel(posterior=name)
        for repeat, drawn in zip(own["observation"].to_numpy().tolist(), own, strict=True):
            positions = from_xarray(drawn, ("member", "particle", "axis")).numpy()
            path = folder / f"{files[name]}-{repeat}{suffix}"
            write_trajectory(path, _trajectory(atoms, positions, data))
            written.append(Written(path, f"draws of {name}, repeat {repeat}", len(positions)))
    return written


def export_frames(data: xr.Dataset, folder: Path, suffix: str) -> list[Written]:
    """The frames of the data, each chain as a file of its own: what the model learned from and is compared with.

    `chain-NUMBER.suffix` holds them in the order of time, and `hottest-NUMBER.suffix` those of the highest temperature,
    where replicas were exchanged. Times are those since the first frame [ps] where the dynamics has one, else frame k
    has time k. The centre of the atoms is at 0.

    Args:
        data: frames [nm] with their chains, names of atoms and the topology.
        folder, suffix: as for `export`.

    Raises:
        InputError: another format, data that are not of a molecule, mdtraj is not installed.
    """
    _check_format(suffix)
    atoms, every = _begun(data, folder, suffix), float(data.attrs.get("frame_interval", 1.0))
    chains, frame = data["unit"].to_numpy(), data["frame"].to_numpy()
    written = []
    for variable, name in (("data", "chain"), ("hottest", "hottest")):
        if variable not in data.variables:
            continue
        found = from_xarray(data[variable], ("sample", "particle", "axis")).numpy()
        for chain in np.unique(chains).tolist():
            rows = np.flatnonzero(chains == chain)
            rows = rows[np.argsort(frame[rows])]
            path = folder / f"{name}-{chain}{suffix}"
            write_trajectory(path, _trajectory(atoms, found[rows], data, every))
            of = f"chain {chain}" if variable == "data" else f"the hottest replicas of ladder {chain}"
            written.append(Written(path, f"frames of {of}", len(rows)))
    return written


def _check_format(suffix: str) -> None:
    if suffix not in WRITTEN:
        known = [name.removeprefix(".") for name in WRITTEN]
        raise InputError(f"format {suffix.removeprefix('.')!r} is not known, only {known}. Choose one of them.")
    if suffix not in HDF5:
        need_mdtraj()


def _begun(data: xr.Dataset, folder: Path, suffix: str) -> Atoms:
    """The atoms, after the folder and, where the format does not say what they are, their PDB file were made."""
    if "topology" not in data.variables:
        raise InputError(
            "data.nc has no topology: it is not of a molecule, or was made before topologies were kept. Make the data "
            "anew, or take positions from samples.nc."
        )
    atoms = atoms_of_json(Path("data.nc"), str(data["topology"].to_numpy()))
    folder.mkdir(parents=True, exist_ok=True)
    if suffix not in SELF_TOLD:
        first = from_xarray(data["data"][:1], ("sample", "particle", "axis")).numpy()
        write_trajectory(folder / TOPOLOGY, _trajectory(atoms, first, data))
    return atoms


def _trajectory(atoms: Atoms, positions: np.ndarray, data: xr.Dataset, every: float = 1.0) -> xr.Dataset:
    """One chain of positions (frame, atom, xyz) [nm], with a time [ps] between frames, and the box of the data."""
    n, others = len(positions), {}
    if BOX in data.attrs:
        others["cell"] = np.broadcast_to(np.reshape(data.attrs[BOX], (3, 3)), (n, 3, 3))
    return dataset([Frames(atoms, positions.astype(np.float32), every * np.arange(n, dtype=float), others)])


def file_names(names: Sequence[str]) -> dict[str, str]:
    """Names as files can have them; with their number in front where two would become one."""
    clean = [re.sub(r"[^\w.+-]+", "-", name) for name in names]
    is_unique = len({name.casefold() for name in clean}) == len(clean)
    return {name: own if is_unique else f"{k}-{own}" for k, (name, own) in enumerate(zip(names, clean, strict=True))}
