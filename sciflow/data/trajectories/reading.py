"""A trajectory as named arrays, whatever the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.data.formats.mapping import check_size, existing
from sciflow.data.store import sha256
from sciflow.data.trajectories import archives, mdtraj_hdf5, through_mdtraj
from sciflow.data.trajectories.frames import KINDS, UNITS, Atoms, Frames, check
from sciflow.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

HDF5, ARCHIVE = (".h5", ".hdf5"), (".npz",)
FORMATS = (*HDF5, *ARCHIVE, *through_mdtraj.WITH_TOPOLOGY, *through_mdtraj.BARE)
DIMS = {"positions": ("chain", "frame", "atom", "xyz"), "potential_energy": ("chain", "frame"),
        "cell": ("chain", "frame", "row", "xyz")}  # fmt: skip


def open_trajectory(
    paths: str | Path | Sequence[str | Path],
    top: str | Path | None = None,
    units: Mapping[str, str] | None = None,
    max_gigabytes: float = 8.0,
) -> xr.Dataset:
    """Trajectories of one molecule, (chain, frame, atom, xyz), in nm, ps and kJ/mol.

    mdtraj's HDF5 is read by h5py alone, NPZ by numpy; PDB, XTC, DCD, TRR and NetCDF need the extra `molecule`.

    Args:
        paths: one file, or one for each chain, of equal lengths.
        top: a PDB file that says what the atoms are; not needed where the file itself does.
        units: `length`, `time` and `energy` of a NPZ, which cannot say them, e.g. {"length": "angstrom"}.
        max_gigabytes: largest array that is read, of all chains together.

    Returns:
        `positions`; `velocities`, `forces`, `potential_energy`, `cell` where the file has them; coordinates `time`,
        `atom_name`, `element`, `residue`, `residue_index`, and `has_cell`, which says of each chain whether its file
        has a box: `cell` is there where all have one; attributes `source` (sha256 of the files) and `topology`.

    Raises:
        InputError: a missing topology or unit, an unknown format, chains that differ, values that are not finite.
    """
    listed = [existing(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    if not listed:
        raise InputError("there is no file of a trajectory. Give at least one path.")
    said = dict(units or {})
    if set(said) - set(KINDS):
        raise InputError(f"units names {sorted(set(said) - set(KINDS))}, known are {[*KINDS]}.")
    chains = [check(path, _read(path, top, said, max_gigabytes / len(listed))) for path in listed]
    first = chains[0]
    for path, chain in zip(listed, chains, strict=True):
        if chain.atoms[:3] != first.atoms[:3]:
            raise InputError(f"{path} has other atoms than {listed[0]}. Open them apart.")
        if len(chain.positions) != len(first.positions):
            raise InputError(
                f"{path} has {len(chain.positions)} frames, {listed[0]} has {len(first.positions)}. Cut them to equal "
                "lengths, or open them apart."
            )
    return dataset(chains).assign_attrs(source=" ".join(map(sha256, listed)))


def trajectory_files(path: str | Path, top: str | Path | None = None) -> list[Path]:
    """The file itself, or of a folder its trajectories in the order of their names, without the topology.

    Raises:
        InputError: there is none in the folder, or they are of several formats.
    """
    path = Path(path)
    if not path.is_dir():
        return [existing(path)]
    found = sorted(
        file for file in path.iterdir() if file.suffix.lower() in FORMATS and not file.name.startswith(".")
    )  # hidden ones are what other programs leave beside their files
    if top:
        found = [file for file in found if not file.samefile(existing(top))]
    if len({file.suffix.lower() for file in found}) != 1:
        raise InputError(
            f"{path} has trajectories of the formats {sorted({file.suffix for file in found}) or 'none'}, known are "
            f"{[*FORMATS]}. Give a folder with files of one format, one for each chain."
        )
    return found


def _read(path: Path, top: str | Path | None, units: Mapping[str, str], max_gigabytes: float) -> Frames:
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise InputError(f"{path}: unknown format {suffix!r}, known are {[*FORMATS]}. Convert it.")
    if suffix in HDF5:
        return mdtraj_hdf5.read(path, _atoms(top), max_gigabytes)
    if suffix in ARCHIVE:
        return archives.read(path, _atoms(top), units, max_gigabytes)
    check_size(path, path.stat().st_size, max_gigabytes)
    return through_mdtraj.read(path, None if top is None else existing(top))


def _atoms(top: str | Path | None) -> Atoms | None:
    return None if top is None else through_mdtraj.read(existing(top), None).atoms


def dataset(chains: Sequence[Frames]) -> xr.Dataset:
    """Named arrays of chains of equal lengths; what one of them lacks is left out."""
    import xarray as xr

    first = chains[0]
    shared = [name for name in first.others if all(name in chain.others for chain in chains)]
    values = {name: np.stack([chain.others[name] for chain in chains]) for name in shared}
    values["positions"] = np.stack([chain.positions for chain in chains])
    variables = {
        name: xr.Variable(DIMS.get(name, DIMS["positions"]), value, {"units": UNITS[name]})
        for name, value in values.items()
    }
    coords: dict[str, Any] = {
        "xyz": ["x", "y", "z"],
        "has_cell": ("chain", np.array(["cell" in chain.others for chain in chains])),
        "atom_name": ("atom", np.array(first.atoms.name)),
        "element": ("atom", np.array(first.atoms.element)),
        "residue": ("atom", np.array(first.atoms.residue)),
        "residue_index": ("atom", np.array(first.atoms.residue_index)),
    }
    if first.time is not None:
        coords["time"] = ("frame", np.asarray(first.time, float), {"units": UNITS["time"]})
    return xr.Dataset(variables, coords, {"topology": first.atoms.topology})
