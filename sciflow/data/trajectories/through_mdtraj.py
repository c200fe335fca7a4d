"""PDB, XTC, DCD, TRR and NetCDF files, which mdtraj reads and writes."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sciflow.data.trajectories.frames import Atoms, Frames, Residue, as_json
from sciflow.errors import InputError

WITH_TOPOLOGY = (".pdb", ".gro", ".cif")
BARE = (".xtc", ".dcd", ".trr", ".nc", ".netcdf", ".ncdf")


def need_mdtraj() -> Any:
    """The library.

    Raises:
        InputError: it is not installed.
    """
    try:
        import mdtraj
    except ImportError:
        raise InputError(
            "PDB, XTC and DCD files need mdtraj. Install the extra: pip install 'sciflow[molecule]'."
        ) from None
    return mdtraj


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without mdtraj's advice to install netCDF4: scipy reads and writes these files as well."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*netCDF4.*", category=UserWarning)
        yield


def _loaded(path: Path, topology: Any = None) -> Any:
    mdtraj = need_mdtraj()
    try:
        with quiet():
            return mdtraj.load(str(path)) if topology is None else mdtraj.load(str(path), top=topology)
    except (OSError, ValueError, TypeError, KeyError, IndexError, RuntimeError, EOFError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{path} cannot be read as {path.suffix} with this topology, or is damaged ({reason}). Give its own `top`."
        ) from error


def atoms(topology: Any) -> Atoms:
    """Names of mdtraj's topology."""
    listed = [*topology.atoms]
    elements = [_symbol(atom) for atom in listed]
    residues = [f"{atom.residue.name}{atom.residue.resSeq}" for atom in listed]
    indices = [atom.residue.index for atom in listed]
    told = as_json([map(_residue, chain.residues) for chain in topology.chains],
                   [(a.index, b.index) for a, b in topology.bonds])  # fmt: skip
    return Atoms([atom.name for atom in listed], elements, residues, indices, told)


def _residue(residue: Any) -> Residue:
    atoms = [(atom.index, atom.name, _symbol(atom)) for atom in residue.atoms]
    return Residue(residue.name, residue.resSeq, residue.segment_id, atoms)


def _symbol(atom: Any) -> str:
    return atom.element.symbol if atom.element is not None else ""


def as_topology(told: str) -> Any:
    """mdtraj's topology of that form."""
    mdtraj = need_mdtraj()
    topology, listed, told_whole = mdtraj.Topology(), {}, json.loads(told)
    for chain in told_whole["chains"]:
        here = topology.add_chain()
        for residue in chain["residues"]:
            there = topology.add_residue(residue["name"], here, residue.get("resSeq"), residue.get("segmentID", ""))
            for atom in residue["atoms"]:
                symbol = atom["element"]
                element = mdtraj.element.get_by_symbol(symbol) if symbol else mdtraj.element.virtual
                listed[atom["index"]] = topology.add_atom(atom["name"], element, there)
    for a, b in told_whole.get("bonds", []):
        topology.add_bond(listed[a], listed[b])
    return topology


def read(path: Path, top: Path | None) -> Frames:
    """Frames; mdtraj gives nm and ps whatever the format stores.

    Raises:
        InputError: the format stores no topology, and none was given.
    """
    if path.suffix.lower() in BARE and top is None:
        raise InputError(f"{path}: {path.suffix} files hold no topology. Give one: `top: molecule.pdb`.")
    loaded = _loaded(path, None if top is None else _loaded(top).topology)
    others = {} if loaded.unitcell_vectors is None else {"cell": loaded.unitcell_vectors}
    return Frames(atoms(loaded.topology), loaded.xyz, np.asarray(loaded.time, float), others)


def write(path: Path, frames: Frames) -> None:
    """A file in the format that the ending of its name says.

    Raises:
        InputError: the topology is not known.
    """
    mdtraj = need_mdtraj()
    if not frames.atoms.topology:
        raise InputError(f"{path}: only names of atoms are known, no topology. Read the trajectory with `top`.")
    trajectory = mdtraj.Trajectory(frames.positions, as_topology(frames.atoms.topology), time=frames.time)
    if "cell" in frames.others:
        trajectory.unitcell_vectors = frames.others["cell"]
    with quiet():
        trajectory.save(str(path))
