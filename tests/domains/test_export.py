"""Draws of a run as trajectories: read back they are the samples, with units, atoms, chains and samplers named."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import openmm
import pytest
import xarray as xr
from openmm import app

from sciflow.data.trajectories import open_trajectory
from sciflow.domains.molecules.export import file_names
from tests.tiny import IMAGING, MOLECULES, Place, change

POSTERIORS = {
    "the flow/Heun": {"kind": "unguided", "solver": {"kind": "heun"}},
    "flow": {"kind": "unguided", "solver": {"kind": "eabm", "order": 2}},
}
ROUNDED = 2**-23  # DCD and NetCDF hold Å: half of this is lost of each number on the way there, half on the way back
# what is lost [nm], and of each nm: XTC rounds to 0.001 nm, PDB to 0.001 Å; TRR and HDF5 hold float32 nm as they are
LOST = {"xtc": (5e-4, ROUNDED), "pdb": (5e-5, ROUNDED), "dcd": (0, ROUNDED), "nc": (0, ROUNDED), "trr": (0, 0),
        "h5": (0, 0)}  # fmt: skip


def two_chains(folder: Path) -> dict[str, Any]:
    """A dataset section: two molecules of two atoms in two chains, on springs."""
    topology, system = app.Topology(), openmm.System()
    spring = openmm.HarmonicBondForce()
    for name, number in (("GLY", "7"), ("ALA", "9")):
        residue = topology.addResidue(name, topology.addChain(), number)
        for atom, symbol in (("CA", "C"), ("N", "N")):
            topology.addAtom(atom, app.Element.getBySymbol(symbol), residue)
            system.addParticle(12.0)
    atoms = list(topology.atoms())
    topology.addBond(atoms[0], atoms[1])
    for i, j, length in ((0, 1, 0.15), (2, 3, 0.15), (0, 2, 0.4), (1, 3, 0.4)):
        spring.addBond(i, j, length, 2.0e4)
    system.addForce(spring)
    positions = np.array([[0, 0, 0], [0, 0, 0.15], [0.4, 0, 0], [0.4, 0, 0.15]]) * openmm.unit.nanometer
    with (folder / "two.pdb").open("w") as file:
        app.PDBFile.writeFile(topology, positions, file, keepIds=True)
    (folder / "two.xml").write_text(openmm.XmlSerializer.serialize(system))
    molecule = {"kind": "openmm_system", "pdb": str(folder / "two.pdb"), "system": str(folder / "two.xml")}
    sizes = {"n_chains": 64, "n_frames": 2, "every": 20, "warm_up": 50, "step": 0.0005}
    return {"kind": "langevin", "molecule": molecule, "n_repeats": 2, **sizes}


@pytest.fixture
def results(place: Place, tmp_path: Path) -> Path:
    run = change(MOLECULES, {"dataset": two_chains(tmp_path)})
    return place.build({**run, "sample": {**run["sample"], "posteriors": POSTERIORS}}, until="sample")


def test_what_is_written_reads_back_as_the_samples(results: Path, place: Place) -> None:
    with xr.open_dataset(results / "samples.nc") as samples:
        drawn = samples["samples"].load()
    for suffix, (absolute, relative) in LOST.items():
        outcome = place.sciflow("export", results, "--to", suffix, "--format", suffix)
        assert outcome.status == 0, outcome.text
        folder = place.folder / suffix
        topology = folder / "topology.pdb"
        assert topology.is_file() == (suffix not in ("pdb", "h5"))  # those say themselves what their atoms are
        for name, file in (("the flow/Heun", "the-flow-Heun"), ("flow", "flow")):
            for repeat in (0, 1):
                path = folder / f"{file}-{repeat}.{suffix}"
                assert f"64 draws of {name}, repeat {repeat}" in outcome.text and path.name in outcome.text
                found = open_trajectory(path, topology if topology.is_file() else None)
                exact = drawn.sel(posterior=name, observation=repeat).to_numpy()
                assert found["positions"].attrs["units"] == "nm" and exact.shape == (64, 4, 3)
                gap = np.abs(found["positions"].to_numpy()[0] - exact)
                assert bool((gap <= absolute + relative * np.abs(exact)).all()), suffix
                if suffix in ("xtc", "trr", "h5"):  # draws have no time: it counts them
                    assert np.array_equal(found["time"].to_numpy(), np.arange(64))
                assert found["atom_name"].to_numpy().tolist() == ["CA", "N", "CA", "N"]
                assert found["residue"].to_numpy().tolist() == ["GLY7", "GLY7", "ALA9", "ALA9"]


def test_frames_of_the_data_are_written_chain_by_chain_in_the_order_of_time(place: Place, tmp_path: Path) -> None:
    """Before anything is trained: data.nc is enough."""
    results = place.build(change(MOLECULES, {"dataset": {**two_chains(tmp_path), "n_frames": 3}}), until="dataset")
    with xr.open_dataset(results / "data.nc") as data:
        exact, units = data["data"].load(), data["unit"].to_numpy()
    for suffix in ("xtc", "dcd", "h5"):
        outcome = place.sciflow("export", results, "--to", suffix, "--format", suffix, "--frames")
        assert outcome.status == 0, outcome.text
        folder, (absolute, relative) = place.folder / suffix, LOST[suffix]
        assert len(list(folder.glob(f"chain-*.{suffix}"))) == 64 and "chain-9." in outcome.text
        assert "3 frames of chain 63" in outcome.text
        topology = folder / "topology.pdb"
        for chain in (0, 41):
            found = open_trajectory(folder / f"chain-{chain}.{suffix}", topology if topology.is_file() else None)
            own = exact[np.flatnonzero(units == chain)].sortby("frame").to_numpy()
            assert own.shape == (3, 4, 3) and float(np.abs(own[0] - own[2]).max()) > 1e-3  # atoms move between frames
            gap = np.abs(found["positions"].to_numpy()[0] - own)
            assert bool((gap <= absolute + relative * np.abs(own)).all()), suffix
            if suffix != "dcd":  # 20 steps of 0.5 fs; XTC and HDF5 hold float32
                assert np.allclose(found["time"].to_numpy(), [0, 0.01, 0.02], rtol=1e-6)
    both = place.sciflow("export", results, "--to", "out", "--frames", "--posterior", "flow")
    assert both.status == 2 and "--frames writes no draws" in both.text


def test_hot_frames_of_replicas_are_written_beside_the_cold_ones(place: Place, tmp_path: Path) -> None:
    sizes = {"n_ladders": 16, "n_temperatures": 2, "n_frames": 4, "every": 2, "exchange_every": 2, "heating": 2,
             "warm_up": 2, "step": 0.0005}  # fmt: skip
    replicas = {"kind": "replica_exchange", "molecule": two_chains(tmp_path)["molecule"], "n_repeats": 1, **sizes}
    results = place.build(change(MOLECULES, {"dataset": replicas}), until="dataset")
    assert place.sciflow("export", results, "--to", "out", "--format", "h5", "--frames").status == 0
    with xr.open_dataset(results / "data.nc") as data:
        rows = np.flatnonzero(data["unit"].to_numpy() == 5)
        hot, cold = (data[name][rows].sortby("frame").to_numpy() for name in ("hottest", "data"))
    for name, own in (("hottest", hot), ("chain", cold)):
        assert np.array_equal(open_trajectory(place.folder / "out" / f"{name}-5.h5")["positions"].to_numpy()[0], own)
    assert not np.array_equal(hot, cold)


def test_units_on_disk_are_those_of_the_formats_and_chains_stay_apart(results: Path, place: Place) -> None:
    with xr.open_dataset(results / "samples.nc") as samples, xr.open_dataset(results / "data.nc") as data:
        exact, first = samples["samples"].sel(posterior="flow", observation=1).to_numpy(), data["data"].to_numpy()[0]
    assert place.sciflow("export", results, "--to", "out", "--format", "dcd", "--posterior", "flow").status == 0
    assert {path.name for path in (place.folder / "out").iterdir()} == {"topology.pdb", "flow-0.dcd", "flow-1.dcd"}
    with mdtraj.formats.DCDTrajectoryFile(str(place.folder / "out" / "flow-1.dcd")) as file:
        assert np.allclose(file.read()[0], 10 * exact, rtol=ROUNDED, atol=0)  # Å
    lines = (place.folder / "out" / "topology.pdb").read_text().splitlines()
    atoms = [line for line in lines if line.startswith("ATOM") or line.startswith("HETATM")]
    assert [line[21] for line in atoms] == ["A", "A", "B", "B"]
    named = [(line[12:16].strip(), line[17:20], int(line[22:26])) for line in atoms]
    assert named[1:3] == [("N", "GLY", 7), ("CA", "ALA", 9)]
    written = np.array([[float(line[k : k + 8]) for k in (30, 38, 46)] for line in atoms])
    assert np.abs(written - 10 * first).max() < 5.1e-4  # Å with three decimals
    assert place.sciflow("export", results, "--to", "whole", "--format", "h5").status == 0
    told = json.loads(open_trajectory(place.folder / "whole" / "flow-0.h5").attrs["topology"])
    assert [len(chain["residues"]) for chain in told["chains"]] == [1, 1]
    assert told["bonds"] == [[0, 1], [2, 3]]  # standard ones, as OpenMM finds them in the PDB file


def test_what_cannot_be_exported_is_said(results: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object) -> str:
        outcome = place.sciflow("export", *arguments)
        assert outcome.status == 2 and not (place.folder / "out").exists()
        return outcome.text

    assert "format 'xyzw' is not known, only ['h5'" in refused(results, "--to", "out", "--format", "xyzw")
    assert "no sampler is called 'flo'" in refused(results, "--to", "out", "--posterior", "flo")
    assert "is not there" in refused("results/other", "--to", "out")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "mdtraj", None)
        assert "need mdtraj. Install the extra: pip install 'sciflow[molecule]'" in refused(results, "--to", "out")
        assert place.sciflow("export", results, "--to", "h5", "--format", "h5").status == 0  # needs h5py alone
    place.sciflow("dataset", place.write(change(MOLECULES, {}), "points"))
    assert "points lacks samples.nc. Run its stages first" in refused("results/points", "--to", "out")
    for stage in ("train", "sample"):
        assert place.sciflow(stage, "points.yaml").status == 0
    assert "data.nc has no topology: it is not of a molecule" in refused("results/points", "--to", "out")
    place.sciflow("dataset", place.write(IMAGING, "pictures"))
    assert "is a run of the domain 'imaging'" in refused("results/pictures", "--to", "out")
    run = change(MOLECULES, {"dataset": {**two_chains(place.folder), "n_frames": 3}})
    assert place.sciflow("dataset", place.write(run)).status == 0
    assert "samples.nc was made from another data.nc: run its stage again" in refused(results, "--to", "out")


def test_two_samplers_never_share_a_file() -> None:
    assert file_names(["flow", "SMC N=64"]) == {"flow": "flow", "SMC N=64": "SMC-N-64"}
    assert file_names(["a/b", "a b", "A-b"]) == {"a/b": "0-a-b", "a b": "1-a-b", "A-b": "2-A-b"}
