"""Files of trajectories, written here in the layouts of others: read with names and units, or refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import h5py
import mdtraj
import numpy as np
import pytest

from sciflow.data.trajectories import open_trajectory, write_trajectory
from sciflow.data.trajectories.mdtraj_hdf5 import cell
from sciflow.errors import InputError

T, N = 5, 4
DRAWN = np.random.default_rng(0)
X = DRAWN.normal(size=(T, N, 3)).astype(np.float32)  # nm
F = DRAWN.normal(size=(T, N, 3)).astype(np.float32)  # kJ/mol/nm
NAMES, ELEMENTS = ["N", "CA", "C", "O"], ["N", "C", "C", "O"]
TOPOLOGY = {
    "chains": [
        {
            "index": 0,
            "residues": [
                {
                    "index": 0,
                    "name": "GLY",
                    "resSeq": 7,
                    "segmentID": "",
                    "atoms": [
                        {"index": i, "name": name, "element": element}
                        for i, (name, element) in enumerate(zip(NAMES, ELEMENTS, strict=True))
                    ],
                }
            ],
        }
    ],
    "bonds": [[0, 1], [1, 2], [2, 3]],
}


def hdf5(path: Path, without: str = "", positions: np.ndarray = X) -> Path:
    """mdtraj's own layout, with the forces that bgmol adds."""
    with h5py.File(path, "w") as file:
        file.attrs.update({"conventions": "Pande", "conventionVersion": "1.1", "program": "MDTraj"})
        for name, value, unit in (
            ("coordinates", positions, "nanometers"),
            ("time", 2.0 * np.arange(len(positions), dtype=np.float32), "picoseconds"),
            ("potentialEnergy", np.arange(len(positions), dtype=np.float32), "kilojoules/mole"),
            ("forces", F[: len(positions)], "kilojoules/mole/nanometer"),
            ("velocities", F[: len(positions)], "nanometers/picosecond"),
        ):
            file[name] = value
            if without != f"units of {name}":
                file[name].attrs["units"] = unit
        if without != "topology":
            file["topology"] = np.array([json.dumps(TOPOLOGY).encode()])
        if without == "coordinates":
            del file["coordinates"]
    return path


def pdb(path: Path, n: int = N) -> Path:
    """One model, columns as the format has them; positions in Å."""
    lines = [
        f"ATOM  {i + 1:5d} {NAMES[i]:^4s} GLY A   7    {10 * x:8.3f}{10 * y:8.3f}{10 * z:8.3f}  1.00  0.00"
        f"          {ELEMENTS[i]:>2s}"
        for i, (x, y, z) in enumerate(X[0][:n])
    ]
    path.write_text("\n".join([*lines, "END", ""]))
    return path


def archive(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def trajectory(path: Path) -> Path:
    """What mdtraj writes."""
    topology = mdtraj.Topology()
    residue = topology.add_residue("GLY", topology.add_chain(), 7)
    for name, element in zip(NAMES, ELEMENTS, strict=True):
        topology.add_atom(name, mdtraj.element.get_by_symbol(element), residue)
    mdtraj.Trajectory(X, topology, time=2.0 * np.arange(T)).save(str(path))
    return path


def test_hdf5_of_mdtraj_is_read_by_h5py_alone(tmp_path: Path) -> None:
    found = open_trajectory(hdf5(tmp_path / "a.h5"))
    assert found["positions"].dims == ("chain", "frame", "atom", "xyz") and found.sizes["chain"] == 1
    assert found["positions"].attrs["units"] == "nm" and found["forces"].attrs["units"] == "kJ/mol/nm"
    for name, value in (("positions", X), ("forces", F), ("velocities", F)):
        assert np.array_equal(found[name].to_numpy()[0], value)
    assert found["time"].to_numpy().tolist() == [0, 2, 4, 6, 8] and found["time"].attrs["units"] == "ps"
    assert found["potential_energy"].to_numpy().tolist() == [[0, 1, 2, 3, 4]]
    assert found["atom_name"].to_numpy().tolist() == NAMES and set(found["residue"].to_numpy()) == {"GLY7"}
    assert len(found.attrs["source"]) == 64


def test_chains_are_joined_and_must_match(tmp_path: Path) -> None:
    a, b = hdf5(tmp_path / "a.h5"), hdf5(tmp_path / "b.h5", positions=X[::-1])
    found = open_trajectory([a, b])
    assert np.array_equal(found["positions"].to_numpy(), np.stack([X, X[::-1]]))
    with pytest.raises(InputError, match=r"c\.h5 has 3 frames, .*a\.h5 has 5"):
        open_trajectory([a, hdf5(tmp_path / "c.h5", positions=X[:3])])
    other = archive(tmp_path / "d.npz", positions=X, z=np.array([6, 6, 6, 6]))
    with pytest.raises(InputError, match="has other atoms than"):
        open_trajectory([a, other], units={"length": "nm"})


@pytest.mark.parametrize(
    ("without", "message"),
    [
        ("topology", "has no topology. Give one: `top: molecule.pdb`"),
        ("coordinates", "a trajectory of mdtraj has `coordinates` and `topology`"),
        ("units of coordinates", "`coordinates` has no attribute `units`"),
        ("units of forces", "`forces` has no attribute `units`"),
    ],
)
def test_what_is_missing_in_hdf5_is_named(tmp_path: Path, without: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_trajectory(hdf5(tmp_path / "a.h5", without))


def test_a_topology_can_come_from_a_pdb(tmp_path: Path) -> None:
    found = open_trajectory(hdf5(tmp_path / "a.h5", "topology"), pdb(tmp_path / "top.pdb"))
    assert found["element"].to_numpy().tolist() == ELEMENTS
    with pytest.raises(InputError, match=r"positions have shape \(5, 4, 3\), the topology needs \(frame, 3, 3\)"):
        open_trajectory(hdf5(tmp_path / "a.h5", "topology"), pdb(tmp_path / "small.pdb", 3))


def test_npz_of_timewarp_and_of_sgdml(tmp_path: Path) -> None:
    top = pdb(tmp_path / "top.pdb")
    timewarp = archive(tmp_path / "t.npz", positions=X, velocities=F, forces=F, time=np.arange(T))
    found = open_trajectory(timewarp, top, {"length": "nm", "time": "ps", "energy": "kJ/mol"})
    assert np.array_equal(found["positions"].to_numpy()[0], X) and np.array_equal(found["forces"].to_numpy()[0], F)
    sgdml = archive(tmp_path / "s.npz", R=10 * X, F=F, E=np.arange(T)[:, None], z=np.array([7, 6, 6, 8]))
    found = open_trajectory(sgdml, units={"length": "angstrom", "energy": "kcal/mol"})
    assert np.allclose(found["positions"].to_numpy()[0], X, rtol=1e-6)  # float32 there and back
    assert np.allclose(found["forces"].to_numpy()[0], 41.84 * F, rtol=1e-6)  # kcal/mol/Å
    assert found["potential_energy"].to_numpy()[0].tolist() == pytest.approx([0, 4.184, 8.368, 12.552, 16.736])
    assert found["element"].to_numpy().tolist() == ELEMENTS and "time" not in found.coords
    flat = archive(tmp_path / "f.npz", positions=X.reshape(T, -1))
    assert np.array_equal(open_trajectory(flat, top, {"length": "nm"})["positions"].to_numpy()[0], X)


def test_npz_without_topology_or_unit_is_refused(tmp_path: Path) -> None:
    top, bare = pdb(tmp_path / "top.pdb"), archive(tmp_path / "a.npz", positions=X)
    with pytest.raises(InputError, match=r"does not say what its atoms are. Give a topology: `top: molecule.pdb`"):
        open_trajectory(bare, units={"length": "nm"})
    with pytest.raises(InputError, match=r"has positions but not their unit. Say it: `units: {length: nm}`"):
        open_trajectory(bare, top)
    with pytest.raises(InputError, match=r"unknown unit of length 'angstrm', known are .*Did you mean 'angstrom'"):
        open_trajectory(bare, top, {"length": "angstrm"})
    with pytest.raises(InputError, match="units names \\['mass'\\], known are"):
        open_trajectory(bare, top, {"mass": "Da"})
    with_forces = archive(tmp_path / "b.npz", positions=X, forces=F)
    with pytest.raises(InputError, match="has forces but not their unit"):
        open_trajectory(with_forces, top, {"length": "nm"})
    with pytest.raises(InputError, match=r"has \['x'\], but positions are called one of"):
        open_trajectory(archive(tmp_path / "c.npz", x=X), top, {"length": "nm"})
    broken = X.copy()
    broken[3, 1, 0] = np.nan
    with pytest.raises(InputError, match=r"positions is not finite in frame 3 \(1 in all\)"):
        open_trajectory(archive(tmp_path / "d.npz", positions=broken), top, {"length": "nm"})


@pytest.mark.parametrize(
    ("suffix", "error"),  # of the formats: XTC rounds to 0.001 nm, PDB to 0.001 Å, DCD and NetCDF store float32 Å
    [(".xtc", 5.1e-4), (".dcd", 1e-6), (".trr", 1e-6), (".nc", 1e-6), (".pdb", 5.1e-5)],
)
def test_files_of_mdtraj_are_read_in_nm(tmp_path: Path, suffix: str, error: float) -> None:
    with warnings.catch_warnings(action="ignore"):  # mdtraj would rather have netCDF4
        path = trajectory(tmp_path / f"a{suffix}")
    top = pdb(tmp_path / "top.pdb")
    found = open_trajectory(path, None if suffix == ".pdb" else top)
    assert float(np.abs(found["positions"].to_numpy()[0] - X).max()) < error
    assert found["atom_name"].to_numpy().tolist() == NAMES and found.sizes["frame"] == T
    if suffix != ".pdb":
        with pytest.raises(InputError, match=f"\\{suffix} files hold no topology. Give one: `top: molecule.pdb`"):
            open_trajectory(path)


@pytest.mark.parametrize("suffix", [".h5", ".xtc", ".dcd", ".pdb"])
def test_what_is_written_is_read_again(tmp_path: Path, suffix: str) -> None:
    first, top = open_trajectory(hdf5(tmp_path / "a.h5")), pdb(tmp_path / "top.pdb")
    write_trajectory(tmp_path / f"b{suffix}", first)
    again = open_trajectory(tmp_path / f"b{suffix}", None if suffix in (".h5", ".pdb") else top)
    assert np.allclose(again["positions"], first["positions"], atol=5.1e-4)  # XTC
    if suffix == ".h5":
        assert again.drop_attrs().equals(first.drop_attrs()) and again.attrs["topology"] == first.attrs["topology"]
    with pytest.raises(InputError, match=r"unknown format '\.xyz'"):
        write_trajectory(tmp_path / "b.xyz", first)
    with pytest.raises(InputError, match="a file holds one chain, the data set has 2"):
        write_trajectory(tmp_path / "c.h5", open_trajectory([tmp_path / "a.h5"] * 2))


def test_other_and_damaged_files_are_refused(tmp_path: Path) -> None:
    top = pdb(tmp_path / "top.pdb")
    for name, message in (("a.xyz", "unknown format '.xyz'"), ("a.xtc", "cannot be read as .xtc"),
                          ("a.h5", "is no HDF5 file"), ("a.npz", "is no NumPy archive")):  # fmt: skip
        path = tmp_path / name
        path.write_bytes(b"not this")
        with pytest.raises(InputError, match=message):
            open_trajectory(path, top, {"length": "nm"})
    with pytest.raises(InputError, match="is no file"):
        open_trajectory(tmp_path / "nowhere.xtc", top)
    with pytest.raises(InputError, match="Give at least one path"):
        open_trajectory([])


def test_boxes_are_rows_with_the_given_lengths_and_angles() -> None:
    lengths, angles = np.array([[1.0, 2.0, 3.0]]), np.array([[80.0, 95.0, 110.0]])
    (box,) = cell(lengths, angles)
    assert np.linalg.norm(box, axis=1) == pytest.approx(lengths[0])
    unit = box / lengths[0][:, None]
    found = [np.rad2deg(np.arccos(unit[i] @ unit[j])) for i, j in ((1, 2), (0, 2), (0, 1))]
    assert found == pytest.approx(angles[0]) and box[0, 1:].tolist() == [0, 0] and box[1, 2] == 0
