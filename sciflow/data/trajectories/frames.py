"""What a file of a trajectory holds, whatever its format: atoms, and arrays in nm, ps and kJ/mol."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sciflow.data.schema import suggestion
from sciflow.errors import InputError

LENGTHS = {"nm": 1.0, "nanometers": 1.0, "nanometer": 1.0, "angstrom": 0.1, "angstroms": 0.1, "bohr": 0.0529177210544}
TIMES = {"ps": 1.0, "picoseconds": 1.0, "picosecond": 1.0, "fs": 1e-3, "ns": 1e3}
ENERGIES = {"kJ/mol": 1.0, "kilojoules/mole": 1.0, "kcal/mol": 4.184, "eV": 96.48533212331, "hartree": 2625.4996394799}
"""Unit → how many nm, ps, kJ/mol it is. Source: CODATA 2022."""
KINDS = {"length": LENGTHS, "time": TIMES, "energy": ENERGIES}
UNITS = {"positions": "nm", "velocities": "nm/ps", "forces": "kJ/mol/nm", "potential_energy": "kJ/mol", "cell": "nm",
         "time": "ps"}  # fmt: skip
SYMBOLS = [
    "H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "Ar", "K", "Ca",
    "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As", "Se", "Br", "Kr", "Rb", "Sr", "Y",
    "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd", "In", "Sn", "Sb", "Te", "I", "Xe",
]  # fmt: skip


class Atoms(NamedTuple):
    """Names of the atoms, one entry for each."""

    name: list[str]
    element: list[str]
    residue: list[str]  # with its number, as ALA2
    residue_index: list[int]
    topology: str = ""  # mdtraj's JSON, if it is known


@dataclass(frozen=True)
class Frames:
    """One chain of frames.

    Args:
        atoms: names.
        positions: (frame, atom, 3) [nm].
        time: (frame,) [ps]; None where the file has none.
        others: `velocities`, `forces` like the positions, `potential_energy` (frame,), `cell` (frame, 3, 3).
    """

    atoms: Atoms
    positions: np.ndarray
    time: np.ndarray | None = None
    others: Mapping[str, np.ndarray] = field(default_factory=dict)


def factor(path: Path, kind: str, unit: str) -> float:
    """What a value in this unit is multiplied by.

    Raises:
        InputError: the unit is not known.
    """
    known = KINDS[kind]
    if unit not in known:
        raise InputError(f"{path}: unknown unit of {kind} {unit!r}, known are {[*known]}.{suggestion(unit, [*known])}")
    return known[unit]


def asked(path: Path, units: Mapping[str, str], kind: str, what: str) -> float:
    """The same for a unit that the user has said.

    Raises:
        InputError: the file has something whose unit was not said.
    """
    if kind not in units:
        raise InputError(
            f"{path} has {what} but not their unit. Say it: `units: {{{kind}: {next(iter(KINDS[kind]))}}}`, one of "
            f"{[*KINDS[kind]]}."
        )
    return factor(path, kind, units[kind])


class Residue(NamedTuple):
    """One residue of a topology, its atoms as (index, name, element)."""

    name: str
    number: int
    segment: str
    atoms: list[tuple[int, str, str]]


def as_json(chains: Iterable[Iterable[Residue]], bonds: Iterable[tuple[int, int]]) -> str:
    """A topology in the form in which mdtraj stores it in HDF5.

    Args:
        chains: residues of each chain.
        bonds: pairs of atoms.
    """
    found: list[dict[str, Any]] = []
    n_residues = 0
    for k, chain in enumerate(chains):
        found.append({"index": k, "residues": []})
        for residue in chain:
            atoms = [{"index": index, "name": name, "element": element} for index, name, element in residue.atoms]
            found[-1]["residues"].append({"index": n_residues, "name": residue.name, "resSeq": residue.number,
                                          "segmentID": residue.segment, "atoms": atoms})  # fmt: skip
            n_residues += 1
    return json.dumps({"chains": found, "bonds": [list(pair) for pair in bonds]})


def atoms_of_json(path: Path, text: str) -> Atoms:
    """Names from a topology as mdtraj writes it.

    Raises:
        InputError: it is none.
    """
    try:
        told = json.loads(text)
        rows = [(atom, residue, i) for i, residue in enumerate(_residues(told)) for atom in residue["atoms"]]
        rows.sort(key=lambda row: int(row[0]["index"]))
        names = [str(atom["name"]) for atom, _, _ in rows]
        elements = [str(atom["element"]) for atom, _, _ in rows]
        residues = [f"{residue['name']}{residue.get('resSeq', residue['index'])}" for _, residue, _ in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: its topology is not that of mdtraj ({error}). Give one: `top: molecule.pdb`."
        ) from error
    return Atoms(names, elements, residues, [i for _, _, i in rows], text)


def _residues(told: Any) -> list[Any]:
    return [residue for chain in told["chains"] for residue in chain["residues"]]


def atoms_of_numbers(numbers: np.ndarray) -> Atoms:
    """Names from atomic numbers, C1 H2 …: all of one residue."""
    elements = [SYMBOLS[int(z) - 1] for z in numbers]
    n = len(elements)
    return Atoms([f"{symbol}{i + 1}" for i, symbol in enumerate(elements)], elements, ["MOL1"] * n, [0] * n)


def check(path: Path, frames: Frames) -> Frames:
    """The frames, if they are whole.

    Raises:
        InputError: another number of atoms than the topology, no frames, or values that are not finite.
    """
    shape, n = frames.positions.shape, len(frames.atoms.name)
    if len(shape) != 3 or shape[2] != 3 or shape[1] != n or shape[0] == 0:
        raise InputError(f"{path}: positions have shape {shape}, the topology needs (frame, {n}, 3). Give its own.")
    wanted = {"potential_energy": shape[:1], "cell": (shape[0], 3, 3), "velocities": shape, "forces": shape}
    for name, value in {"positions": frames.positions, **frames.others}.items():
        if value.shape != wanted.get(name, shape):
            raise InputError(f"{path}: {name} has shape {value.shape}, needs {wanted[name]}. Write it again.")
        bad = np.flatnonzero(~np.isfinite(value.reshape(len(value), -1)).all(1))
        if len(bad):
            raise InputError(f"{path}: {name} is not finite in frame {bad[0]} ({len(bad)} in all). Leave those out.")
    if frames.time is not None and frames.time.shape != shape[:1]:
        raise InputError(f"{path}: time has shape {frames.time.shape}, needs {shape[:1]}. Write it again.")
    return frames
