"""mdtraj's HDF5 files, by h5py alone: mdtraj itself needs PyTables for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sciflow.data.formats.mapping import check_declared
from sciflow.data.layouts.stored import array, opened, text, written
from sciflow.data.trajectories.frames import UNITS, Atoms, Frames, atoms_of_json, factor
from sciflow.errors import InputError

NAMES = {"velocities": "velocities", "forces": "forces", "potential_energy": "potentialEnergy"}
"""Ours → the file's."""


def read(path: Path, top: Atoms | None, max_gigabytes: float) -> Frames:
    """Frames of a file of the conventions "Pande".

    Raises:
        InputError: without coordinates, topology or units.
    """
    with opened(path) as file:
        if "coordinates" not in file:
            raise InputError(f"{path} has {[*file]}, but a trajectory of mdtraj has `coordinates` and `topology`.")
        get = array(path, max_gigabytes, True)
        if top is None:
            if "topology" not in file:
                raise InputError(f"{path} has no topology. Give one: `top: molecule.pdb`.")
            check_declared(path, ["topology"], max_gigabytes)
            top = atoms_of_json(path, text(np.atleast_1d(file["topology"][()])[0]))
        positions = get(file["coordinates"]) * _unit(path, file, "coordinates", "length")
        time = get(file["time"]) * _unit(path, file, "time", "time") if "time" in file else None
        others = {}
        for ours, theirs in NAMES.items():
            if theirs in file:
                others[ours] = get(file[theirs]) * _rate(path, file, theirs)
        if "cell_lengths" in file and "cell_angles" in file:
            lengths = get(file["cell_lengths"]) * _unit(path, file, "cell_lengths", "length")
            others["cell"] = cell(lengths, get(file["cell_angles"]))
    return Frames(top, positions, time, others)


def _unit(path: Path, file: Any, name: str, kind: str) -> float:
    return factor(path, kind, _said(path, file, name))


def _said(path: Path, file: Any, name: str) -> str:
    if "units" not in file[name].attrs:
        raise InputError(f"{path}: `{name}` has no attribute `units`. Add it, e.g. nanometers or picoseconds.")
    return text(file[name].attrs["units"])


def _rate(path: Path, file: Any, name: str) -> float:
    """Units such as nanometers/picosecond and kilojoules/mole/nanometer."""
    said = _said(path, file, name)
    if name == "velocities":
        length, _, time = said.partition("/")
        return factor(path, "length", length) / factor(path, "time", time)
    if name == "potentialEnergy":
        return factor(path, "energy", said.removesuffix("s") if said.endswith("moles") else said)
    energy, _, length = said.rpartition("/")
    return factor(path, "energy", energy) / factor(path, "length", length)


def cell(lengths: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Rows a, b, c of boxes (frame, 3, 3), a along x and b in the plane xy.

    Args:
        lengths: of a, b, c, (frame, 3).
        angles: α between b and c, β, γ [°], (frame, 3).
    """
    alpha, beta, gamma = np.cos(np.deg2rad(angles)).T
    sine = np.sqrt(1 - gamma**2)
    height = (alpha - beta * gamma) / sine
    zero, one = np.zeros_like(sine), np.ones_like(sine)
    rows = [[one, zero, zero], [gamma, sine, zero], [beta, height, np.sqrt(1 - beta**2 - height**2)]]
    return np.array(rows).transpose(2, 0, 1) * lengths[:, :, None]


def lengths_and_angles(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What `cell` makes boxes of: lengths (frame, 3), and angles α, β, γ [°], (frame, 3)."""
    lengths = np.linalg.norm(cells, axis=2)
    units = cells / lengths[:, :, None]
    cosines = [(units[:, i] * units[:, j]).sum(1) for i, j in ((1, 2), (0, 2), (0, 1))]
    return lengths, np.rad2deg(np.arccos(np.stack(cosines, 1)))


def write(path: Path, frames: Frames) -> None:
    """A file of the conventions "Pande", with a box where the frames have one.

    Raises:
        InputError: the topology is not known.
    """
    if not frames.atoms.topology:
        raise InputError(f"{path}: HDF5 needs the topology, and only names of atoms are known. Read with `top`.")
    others = {"velocities": "nanometers/picosecond", "forces": "kilojoules/mole/nanometer",
              "potential_energy": "kilojoules/mole"}  # fmt: skip
    with written(path) as file:
        said = {"conventions": "Pande", "conventionVersion": "1.1", "program": "MDTraj", "programVersion": "1.11.1"}
        file.attrs.update({**said, "application": "sciflow"})
        file["coordinates"] = frames.positions.astype(np.float32)
        file["coordinates"].attrs["units"] = "nanometers"
        time = np.arange(len(frames.positions)) if frames.time is None else frames.time
        file["time"] = np.asarray(time, np.float32)
        file["time"].attrs["units"] = "picoseconds"
        file["topology"] = np.array([frames.atoms.topology.encode()])
        for name, unit in others.items():
            if name in frames.others and name in UNITS:
                file[NAMES[name]] = frames.others[name].astype(np.float32)
                file[NAMES[name]].attrs["units"] = unit
        if "cell" in frames.others:
            for name, values, unit in zip(("cell_lengths", "cell_angles"), lengths_and_angles(frames.others["cell"]),
                                          ("nanometers", "degrees"), strict=True):  # fmt: skip
                file[name] = values.astype(np.float32)
                file[name].attrs["units"] = unit
