"""Named arrays of a trajectory as files that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sciflow.data.trajectories import mdtraj_hdf5, through_mdtraj
from sciflow.data.trajectories.frames import Atoms, Frames
from sciflow.data.trajectories.reading import HDF5
from sciflow.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

WRITTEN = (*HDF5, ".pdb", ".xtc", ".dcd", ".trr", ".nc")


def write_trajectory(path: str | Path, trajectory: xr.Dataset) -> None:
    """One chain as HDF5 (by h5py), or as PDB, XTC, DCD, TRR or NetCDF (by mdtraj).

    XTC rounds positions to 0.001 nm: too coarse for energies and forces. A `cell` goes into every format.

    Args:
        path: the ending of its name says the format.
        trajectory: as `open_trajectory` gives it, with one chain.

    Raises:
        InputError: another format, several chains, or no topology.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITTEN:
        raise InputError(f"{path}: unknown format {path.suffix!r}, known are {[*WRITTEN]}.")
    if trajectory.sizes["chain"] != 1:
        raise InputError(
            f"{path}: a file holds one chain, the data set has {trajectory.sizes['chain']}. Select one: "
            "`.isel(chain=[0])`."
        )
    names = ("atom_name", "element", "residue", "residue_index")
    name, element, residue, index = (trajectory[key].to_numpy().tolist() for key in names)
    atoms = Atoms(name, element, residue, index, str(trajectory.attrs.get("topology", "")))
    others = {name: trajectory[name].to_numpy()[0] for name in ("velocities", "forces", "potential_energy", "cell")
              if name in trajectory}  # fmt: skip
    time = np.asarray(trajectory["time"]) if "time" in trajectory.coords else None
    frames = Frames(atoms, trajectory["positions"].to_numpy()[0], time, others)
    (mdtraj_hdf5.write if path.suffix.lower() in HDF5 else through_mdtraj.write)(path, frames)
