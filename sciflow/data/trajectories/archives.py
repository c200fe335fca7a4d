"""NumPy archives of molecules: positions, velocities, forces; or the R, E, F, z of sGDML and MD17."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sciflow.data.formats.npz import BROKEN, member
from sciflow.data.trajectories.frames import Atoms, Frames, asked, atoms_of_numbers
from sciflow.errors import InputError

KEYS = {
    "positions": ("positions", "R", "coordinates"),
    "velocities": ("velocities",),
    "forces": ("forces", "F"),
    "potential_energy": ("potential_energy", "energies", "E"),
    "time": ("time",),
}
"""Ours → theirs."""


def read(path: Path, top: Atoms | None, units: Mapping[str, str], max_gigabytes: float) -> Frames:
    """Frames of an archive. Positions may be flat, (frame, 3 × atom).

    Raises:
        InputError: without positions, atoms or units.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            found = {ours: next((key for key in keys if key in names), "") for ours, keys in KEYS.items()}
            if not found["positions"]:
                raise InputError(f"{path} has {names}, but positions are called one of {[*KEYS['positions']]}.")
            values = {ours: member(path, archive, key, max_gigabytes) for ours, key in found.items() if key}
            if top is None and {"z", "atomic_numbers"} & set(names):
                key = "z" if "z" in names else "atomic_numbers"
                top = atoms_of_numbers(member(path, archive, key, max_gigabytes))
    except (*BROKEN, OSError, RuntimeError) as error:
        raise InputError(f"{path} is no NumPy archive, or damaged ({error}). Write it with numpy.savez.") from error
    if top is None:
        raise InputError(f"{path} does not say what its atoms are. Give a topology: `top: molecule.pdb`.")
    return _frames(path, values, top, units)


def _frames(path: Path, values: Mapping[str, np.ndarray], top: Atoms, units: Mapping[str, str]) -> Frames:
    """In nm, ps and kJ/mol."""
    length = asked(path, units, "length", "positions")
    positions = values["positions"] * length
    if positions.ndim == 2 and positions.shape[1] == 3 * len(top.name):
        positions = positions.reshape(len(positions), -1, 3)
    others = {}
    if "velocities" in values:
        others["velocities"] = values["velocities"] * length / asked(path, units, "time", "velocities")
    if "forces" in values:
        others["forces"] = values["forces"] * asked(path, units, "energy", "forces") / length
    if "potential_energy" in values:
        energy = asked(path, units, "energy", "energies")
        others["potential_energy"] = values["potential_energy"].reshape(len(positions), -1)[:, 0] * energy
    time = values["time"] * asked(path, units, "time", "times") if "time" in values else None
    shaped = {
        name: value.reshape(positions.shape) if name in ("forces", "velocities") and value.ndim == 2 else value
        for name, value in others.items()
    }
    return Frames(top, positions, time, shaped)
