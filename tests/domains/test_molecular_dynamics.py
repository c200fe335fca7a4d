"""Molecules in run files: Langevin dynamics held against the law, files of the user's own, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch
import xarray as xr
from openmm import app

from sciflow.data.trajectories import open_trajectory
from sciflow.domains.molecules.dynamics import Langevin, TrajectoryFile, certificate, steepness
from sciflow.domains.molecules.molecule import BOLTZMANN
from sciflow.domains.molecules.stored_potential import potential_of
from sciflow.domains.molecules.systems import AlanineDipeptide, OpenMMSystem
from sciflow.errors import InputError
from sciflow.random import Stream
from tests.tiny import MOLECULES, Place, change

FIELD = "ff99sbildn_obc2"
SHORT = Langevin(AlanineDipeptide(FIELD), n_chains=64, n_frames=8, every=25, warm_up=800, friction=20.0)


@pytest.fixture(scope="module")
def made() -> xr.Dataset:
    return SHORT.simulate(Stream(1))


def steepness_of_energy(system: AlanineDipeptide, x: torch.Tensor, k: int) -> float:
    """∂²U/∂x_k² by second differences."""
    move = torch.zeros(66, dtype=torch.float64)
    move[k] = h = 1e-4
    low, middle, high = system.energy(torch.stack([x - move.reshape(22, 3), x, x + move.reshape(22, 3)])).tolist()
    return (low - 2 * middle + high) / h**2


def test_frames_have_names_units_and_form(made: xr.Dataset) -> None:
    assert made["data"].dims == ("sample", "particle", "axis") and made["data"].shape == (512, 22, 3)
    assert made["data"].attrs["units"] == "nm" and made["potential_energy"].attrs["units"] == "kJ/mol"
    assert made["phi of ALA2"].attrs["units"] == "°" and made["psi of ALA2"].shape == (512,)
    assert float(np.abs(made["data"].mean("particle")).max()) < 1e-6  # float32
    assert made.attrs["share_left_handed"] == 1 and made.attrs["share_cis"] == 0
    assert potential_of(made) == SHORT.molecule
    of_chain = {int(unit): set(part["split"].to_numpy()) for unit, part in made.groupby("unit")}
    assert len(of_chain) == 64 and all(len(splits) == 1 for splits in of_chain.values())


def test_carbon_hydrogen_bonds_have_the_thermal_spread(made: xr.Dataset) -> None:
    """Var r = kT/k: ten bonds, 64 chains, eight frames, two periods of the bond apart."""
    system = SHORT.molecule.molecule.system
    (bonds,) = (force for force in system.getForces() if isinstance(force, openmm.HarmonicBondForce))
    elements = [atom.element for atom in SHORT.molecule.molecule.atoms]
    x, ratios = torch.from_numpy(made["data"].to_numpy()).double(), []
    for k in range(bonds.getNumBonds()):
        i, j, length, stiffness = bonds.getBondParameters(k)
        if {elements[i], elements[j]} == {"C", "H"}:
            r = (x[:, i] - x[:, j]).norm(dim=1) - length._value
            ratios.append(r.var() * stiffness._value / SHORT.molecule.temperature)
    n = len(ratios) * len(x) / 2  # half of the frames, were they as slow as the bath
    assert len(ratios) == 10
    # √(2/n) = 2.8 %; the bond's neighbours and its turning (r² dr) change the spread by a percent or two
    assert abs(float(torch.stack(ratios).mean()) - 1) < 4 * math.sqrt(2 / n) + 0.02


def test_positions_have_the_temperature_of_the_bath(made: xr.Dataset) -> None:
    value, stderr = made.attrs["chains_temperature"], made.attrs["chains_temperature_stderr"]
    assert 0 < stderr < 9  # [K]: |∇U|² of some sixty stiff coordinates spreads by a fifth, 256 frames by an eightieth
    assert abs(value - 300) < 5.4 * stderr  # Student's t with 7 degrees: 1e-3
    assert made.attrs["chains_drift"] < 8  # the largest of four |t| with 7 degrees: 4e-4
    x = torch.from_numpy(made["data"].to_numpy()[:64]).double()
    hot, cold = (AlanineDipeptide(FIELD, kelvin) for kelvin in (3000.0, 300.0))
    (slope, curvature), (steeper, same) = steepness(hot, x), steepness(cold, x)
    assert torch.allclose(10 * slope, steeper) and torch.equal(curvature, same)
    coarse = [steepness_of_energy(cold, x[0], k) for k in range(66)]
    assert float(curvature[0]) == pytest.approx(sum(coarse), rel=1e-3)  # second differences of the energy
    assert certificate(hot, x.reshape(1, -1, 22, 3)) == {}  # one chain has no groups
    assert hot.temperature == pytest.approx(24.943, abs=1e-3) and pytest.approx(8.314e-3, rel=1e-4) == BOLTZMANN


def test_the_same_stream_gives_the_same_frames() -> None:
    small = Langevin(AlanineDipeptide(FIELD), n_chains=16, n_frames=2, every=3, warm_up=2)
    first, again, other = (small.frames(Stream(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_molecule_of_your_own_is_that_of_the_files(own: OpenMMSystem, tmp_path: Path) -> None:
    x = AlanineDipeptide(FIELD).molecule.positions[None]
    frames = x + 0.01 * Stream(0).normal(4, (22, 3), dtype=torch.float64)
    assert torch.allclose(own.energy(frames), AlanineDipeptide(FIELD).energy(frames), rtol=1e-12)
    assert list(own.observables(frames)) == ["phi of ALA2 [°]", "psi of ALA2 [°]", "radius of gyration [nm]"]
    for change_of, message in (
        ({"pdb": "no.pdb"}, "molecule.pdb: there is no file 'no.pdb'"),
        ({"system": ""}, "molecule.system: there is no file ''"),
        ({"system": own.pdb}, "is no System of OpenMM"),
        ({"pdb": own.system}, "cannot be read as PDB"),
    ):
        with pytest.raises(InputError, match=message):
            _ = OpenMMSystem(**{"pdb": own.pdb, "system": own.system, **change_of}).molecule
    text = Path(own.pdb).read_text()
    (tmp_path / "short.pdb").write_text("\n".join(line for line in text.splitlines() if " HB3 " not in line))
    with pytest.raises(InputError, match="numbers of atoms differ: topology 21, System 22"):
        _ = OpenMMSystem(str(tmp_path / "short.pdb"), own.system).molecule
    integrator = openmm.XmlSerializer.serialize(openmm.VerletIntegrator(0.001))
    (tmp_path / "other.xml").write_text(integrator)
    with pytest.raises(InputError, match="holds a VerletIntegrator and no System"):
        _ = OpenMMSystem(own.pdb, str(tmp_path / "other.xml")).molecule


def test_frames_of_your_own_are_read_and_checked(own: OpenMMSystem, made: xr.Dataset, tmp_path: Path) -> None:
    x = made["data"].to_numpy()[made["unit"].to_numpy() < 8]  # 64 frames
    np.savez(tmp_path / "a.npz", positions=10 * x)
    dataset = TrajectoryFile(str(tmp_path / "a.npz"), own.pdb, "angstrom", molecule=own)
    found = dataset.simulate(Stream(0))
    assert found.sizes["sample"] == 64 and len(set(found["unit"].to_numpy())) == 16
    assert np.allclose(
        np.sort(found["potential_energy"]), np.sort(made["potential_energy"][made["unit"] < 8]), atol=0.1
    )
    assert open_trajectory(tmp_path / "a.npz", own.pdb, {"length": "angstrom"}).sizes["frame"] == 64
    for changed, message in (
        (TrajectoryFile(dataset.path, own.pdb, molecule=own), "not their unit"),
        (TrajectoryFile(dataset.path, length="nm", molecule=own), "Give a topology"),
    ):
        with pytest.raises(InputError, match=message):
            changed.look()
    np.savez(tmp_path / "b.npz", positions=x[:4])
    with pytest.raises(InputError, match="has 4 frames, needs at least 16"):
        TrajectoryFile(str(tmp_path / "b.npz"), own.pdb, "nm", molecule=own).simulate(Stream(0))
    np.savez(tmp_path / "c.npz", positions=x[:, ::-1], z=[6] * 22)
    with pytest.raises(InputError, match=r"the atoms are CCCCCC.*, those of the molecule CHHH"):
        TrajectoryFile(str(tmp_path / "c.npz"), length="nm", molecule=own).look()


def test_a_folder_has_a_file_for_each_chain(own: OpenMMSystem, made: xr.Dataset, tmp_path: Path, caplog) -> None:
    """Every chain is cut into pieces; the topology beside them is none of them; names and overlaps are looked at."""
    x = made["data"].to_numpy()[made["unit"].to_numpy() < 8]
    folder = tmp_path / "chains"
    folder.mkdir()
    for k, part in enumerate(np.split(x, 4)):
        np.savez(folder / f"{k}.npz", positions=part)
    (folder / ".0.xtc_offsets.npz").touch()
    dataset = TrajectoryFile(str(folder), own.pdb, "nm", molecule=own)
    found = dataset.simulate(Stream(0))
    assert found.sizes["sample"] == 64 and len(set(found["unit"].to_numpy())) == 16
    for unit in range(16):
        rows = found["data"].to_numpy()[found["unit"].to_numpy() == unit]
        among = [k for k, part in enumerate(np.split(x, 4)) if np.abs(rows[0] - part).max((1, 2)).min() < 1e-6]
        assert among == [unit // 4], "pieces are of one chain"
    assert not caplog.records
    (folder / "own.pdb").write_text(Path(own.pdb).read_text().replace(" HB2 ", " HX2 "))
    with pytest.raises(InputError, match=r"formats \['.npz', '.pdb'\]"):
        dataset.look()
    TrajectoryFile(str(folder), str(folder / "own.pdb"), "nm", molecule=own).look()
    assert "'HX2', in the molecule 'HB2': is the order the same?" in caplog.text
    (folder / "own.pdb").unlink()
    x[15, 5] = x[15, 6]
    np.savez(folder / "0.npz", positions=x[:16])
    with pytest.raises(InputError, match=r"0.npz, last frame: atoms overlap: .* are 0.0000 nm apart"):
        dataset.look()


def test_shares_chains_and_force_fields_are_checked() -> None:
    with pytest.raises(InputError, match="leave nothing to train on"):
        Langevin(test=0.5, validation=0.5)
    with pytest.raises(InputError, match="must be a multiple of 8, got 20"):
        Langevin(n_chains=20)
    with pytest.raises(InputError, match="force_field must be one of"):
        AlanineDipeptide("ff14")


def test_a_tense_conformation_blows_up_in_words(tmp_path: Path) -> None:
    molecule = AlanineDipeptide(FIELD).molecule
    with (tmp_path / "tense.pdb").open("w") as file:
        app.PDBFile.writeFile(molecule.topology, 0.6 * molecule.positions.numpy() * openmm.unit.nanometer, file)
    (tmp_path / "own.xml").write_text(openmm.XmlSerializer.serialize(molecule.system))
    tense = OpenMMSystem(str(tmp_path / "tense.pdb"), str(tmp_path / "own.xml"))
    dataset = Langevin(tense, n_chains=16, n_frames=2, every=20, warm_up=0, step=0.002)
    with pytest.raises(InputError, match=r"dynamics blew up before frame 0: a step of 0.002 ps is too long"):
        dataset.frames(Stream(0))


def test_a_run_of_your_own_molecule_reaches_its_report(own: OpenMMSystem, place: Place) -> None:
    dataset = {
        "kind": "langevin",
        "molecule": {"kind": "openmm_system", "pdb": own.pdb, "system": own.system, "kelvin": 310.0},
        "n_chains": 64, "n_frames": 4, "every": 5, "warm_up": 20, "n_repeats": 1,
    }  # fmt: skip
    results = place.build(change(MOLECULES, {"dataset": dataset}))
    with xr.open_dataset(results / "data.nc") as data:
        told = json.loads(data.attrs["potential"])
        assert told["kind"] == "openmm_system" and told["kelvin"] == 310 and data.sizes["sample"] == 256
    rows = (results / "metrics.csv").read_text()
    assert "energy_w2_z" in rows and "observable_w2" in rows
    with xr.open_dataset(results / "metrics.nc") as arrays:
        assert arrays.attrs["known"] == "held-out frames"  # and not called exact
        assert arrays.attrs["coordinate"] == "phi of ALA2 [°]" and bool(np.isfinite(arrays["pmf_exact"]).any())
