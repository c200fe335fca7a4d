"""Periodic boxes in run files: what is refused because it would be silently wrong, and what is right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
import torch
import xarray as xr
from openmm import app, unit
from torch import Tensor

from sciflow.data.trajectories import open_trajectory, write_trajectory
from sciflow.data.trajectories.mdtraj_hdf5 import cell, lengths_and_angles
from sciflow.domains.molecules import images
from sciflow.domains.molecules.collective import Collective
from sciflow.domains.molecules.dynamics import DIFFERENCE, Langevin, TrajectoryFile, steepness
from sciflow.domains.molecules.force_field_terms import Box, between
from sciflow.domains.molecules.images import check_cells, check_whole, mean_distance, molecules_of
from sciflow.domains.molecules.systems import OpenMMSystem
from sciflow.errors import InputError
from sciflow.random import Stream
from tests.tiny import MOLECULES, Place, change

NM = unit.nanometer
WIDTH = 1.0  # nm


def topology_and_positions() -> tuple[app.Topology, Tensor]:
    """TIP3P in a cube of 1 nm."""
    modeller = app.Modeller(app.Topology(), [] * NM)
    modeller.addSolvent(app.ForceField("tip3p.xml"), boxSize=openmm.Vec3(WIDTH, WIDTH, WIDTH) * NM)
    return modeller.topology, torch.from_numpy(np.array(modeller.positions.value_in_unit(NM)))


def written(
    folder: Path,
    positions: Tensor | None = None,
    width: float | None = WIDTH,
    name: str = "water",
    method: Any = app.PME,
) -> Any:
    """The two files of a molecule; the box of the PDB file may be another one, or none."""
    topology, own = topology_and_positions()
    system = app.ForceField("tip3p.xml").createSystem(
        topology, nonbondedMethod=method, nonbondedCutoff=0.45 * NM, constraints=None, rigidWater=False
    )
    (folder / "water.xml").write_text(openmm.XmlSerializer.serialize(system))
    vectors = None if width is None else np.eye(3) * width * NM
    topology.setPeriodicBoxVectors(vectors)
    with (folder / f"{name}.pdb").open("w") as file:
        app.PDBFile.writeFile(topology, (own if positions is None else positions).numpy() * NM, file)
    return OpenMMSystem(str(folder / f"{name}.pdb"), str(folder / "water.xml"))


@pytest.fixture
def water(tmp_path: Path) -> OpenMMSystem:
    made: OpenMMSystem = written(tmp_path)
    return made


def test_the_box_of_both_files_is_one_and_molecules_in_it_are_whole(water: OpenMMSystem, tmp_path: Path) -> None:
    molecule, x = water.molecule, topology_and_positions()[1]
    assert molecule.field.box is not None and molecule.field.box.volume == pytest.approx(WIDTH**3)
    assert molecule.molecules.bincount().unique().tolist() == [3]
    assert list(water.observables(x[None])) == ["radius of gyration of the largest molecule [nm]"]
    with pytest.raises(InputError, match=r"the box of the PDB file is \[\[1.2, .* that of the System \[\[1.0, "):
        _ = written(tmp_path, width=1.2, name="other").molecule
    assert written(tmp_path, width=None, name="untold").molecule.field.box is not None  # the System says it
    broken = x.clone()
    broken[1, 0] += WIDTH
    with pytest.raises(InputError, match=r"not whole in frame 0: .*H1 of HOH1.* different cells"):
        _ = written(tmp_path, broken, name="broken").molecule
    meeting = x.clone()
    meeting[3:6] += x[0] - x[3] + torch.tensor([WIDTH, 0.0, 0.01])  # in the next cell
    with pytest.raises(InputError, match=r"atoms overlap: O of HOH1 and O of HOH2 are 0.01\d+ nm apart"):
        _ = written(tmp_path, meeting, name="meeting").molecule


def test_atoms_without_bonds_are_observed_by_their_distances_and_a_box_must_be_set(tmp_path: Path) -> None:
    """A System that was made by hand: its box is what OpenMM begins with, unless it is set."""
    topology, x = topology_and_positions()
    system, force = openmm.System(), openmm.NonbondedForce()
    force.setNonbondedMethod(force.CutoffPeriodic)
    force.setCutoffDistance(0.4)
    for _ in range(len(x)):
        system.addParticle(1.0)
        force.addParticle(0.0, 0.1, 0.1)
    system.addForce(force)
    (tmp_path / "hand.xml").write_text(openmm.XmlSerializer.serialize(system))
    topology.setPeriodicBoxVectors(None)
    with (tmp_path / "hand.pdb").open("w") as file:
        app.PDBFile.writeFile(topology, x.numpy() * NM, file)
    with pytest.raises(InputError, match="the cube of 2 nm that OpenMM takes where none is set, and the PDB"):
        _ = OpenMMSystem(str(tmp_path / "hand.pdb"), str(tmp_path / "hand.xml")).molecule
    topology.setPeriodicBoxVectors(2 * np.eye(3) * NM)
    with (tmp_path / "told.pdb").open("w") as file:
        app.PDBFile.writeFile(topology, x.numpy() * NM, file)
    atoms = OpenMMSystem(str(tmp_path / "told.pdb"), str(tmp_path / "hand.xml"))
    moved = x + 2.0 * (3 * Stream(2).uniform(len(x), (3,), dtype=torch.float64)).floor()
    one, other = (atoms.observables(at[None])["mean distance [nm]"] for at in (x, moved))
    assert torch.allclose(one, other, rtol=1e-12) and 0.3 < float(one) <= float(torch.pdist(x).mean())


def frames_file(path: Path, water: OpenMMSystem, frames: Tensor, width: float | None) -> TrajectoryFile:
    topology = open_trajectory(water.pdb).attrs["topology"]
    made = open_trajectory(water.pdb).isel(frame=[0] * len(frames))
    made["positions"] = made["positions"].dims, frames[None].numpy()
    made = made.drop_vars("cell")
    if width is not None:
        made["cell"] = ("chain", "frame", "row", "xyz"), np.broadcast_to(np.eye(3) * width, (1, len(frames), 3, 3))
    write_trajectory(
        path, made.assign_coords(time=("frame", np.arange(float(len(frames))))).assign_attrs(topology=topology)
    )
    return TrajectoryFile(str(path), water.pdb, molecule=water)


@pytest.mark.parametrize("suffix", ["h5", "trr"])
def test_frames_of_files_have_the_box_and_whole_molecules(water: OpenMMSystem, tmp_path: Path, suffix: str) -> None:
    x = water.molecule.positions
    frames = x + 0.002 * Stream(0).normal(16, tuple(x.shape), dtype=torch.float64)
    cells = (5 * Stream(1).uniform(16, (int(water.molecule.molecules.max()) + 1, 3), dtype=torch.float64)).floor() - 2
    moved = frames + WIDTH * cells[:, water.molecule.molecules]
    found = frames_file(tmp_path / f"a.{suffix}", water, moved, WIDTH)
    found.look()
    energy = np.sort(found.simulate(Stream(0))["potential_energy"].to_numpy())
    # float32 positions of 2 nm are off by 1e-7 nm; forces of 10⁴ kJ/mol/nm on 260 coordinates at random
    assert np.allclose(energy, np.sort(water.energy(frames).numpy()), atol=0.05)
    with pytest.raises(InputError, match=r"the box of frame 0 differs by 0.1 nm from that of the System"):
        frames_file(tmp_path / f"b.{suffix}", water, frames, WIDTH + 0.1).look()
    frames[5, 4, 2] -= WIDTH
    with pytest.raises(InputError, match=r"c.* not whole in frame 5: .* of HOH2"):
        frames_file(tmp_path / f"c.{suffix}", water, frames, WIDTH).look()


def test_the_boxes_of_a_folder_are_those_of_each_file(
    water: OpenMMSystem, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames, folder = water.molecule.positions.repeat(16, 1, 1), tmp_path / "chains"
    folder.mkdir()
    found = replace(frames_file(folder / "a.h5", water, frames, WIDTH), path=str(folder))
    frames_file(folder / "b.h5", water, frames, WIDTH)
    found.look()
    assert "no box" not in caplog.text
    frames_file(folder / "b.h5", water, frames, None)
    with pytest.raises(InputError, match=r"b\.h5 has no box, .*a\.h5 has one\. Write that of the System into all"):
        found.look()
    frames_file(folder / "a.h5", water, frames, None)
    found.look()
    assert f"no box in {folder}, the System's is assumed" in caplog.text
    frames_file(folder / "a.h5", water, frames, WIDTH)
    frames_file(folder / "b.h5", water, frames, WIDTH + 0.1)
    with pytest.raises(InputError, match=r"b\.h5: the box of frame 0 differs by 0.1 nm"):  # and not frame 16 of all
        found.look()
    assert water.molecule.field.box is not None
    with pytest.raises(InputError, match=r"c\.h5: the box of frame 1 differs by nan nm"):
        check_cells(water.molecule.field.box, np.stack([np.eye(3), np.full((3, 3), np.nan)]), "c.h5")


def test_boxes_are_told_by_lengths_and_angles_and_back() -> None:
    cells = np.array([[[2.0, 0, 0], [0.5, 1.9, 0], [-0.4, 0.6, 1.8]], np.eye(3)])
    assert np.allclose(cell(*lengths_and_angles(cells)), cells, atol=1e-14)


@pytest.mark.parametrize("shape", ["dodecahedron", "octahedron"])
def test_a_box_is_that_of_its_images_whatever_vectors_a_file_has(shape: str, tmp_path: Path) -> None:
    """Of the half-way vectors of a rhombic dodecahedron PDB files read −a/2 where OpenMM wrote a/2."""
    modeller = app.Modeller(*(topology_and_positions()[0], topology_and_positions()[1].numpy() * NM))
    modeller.delete(list(modeller.topology.residues())[1:])
    modeller.addSolvent(app.ForceField("tip3p.xml"), boxShape=shape, padding=0.55 * NM)
    system = app.ForceField("tip3p.xml").createSystem(
        modeller.topology, nonbondedMethod=app.PME, nonbondedCutoff=0.35 * NM, constraints=None, rigidWater=False
    )
    (tmp_path / "a.xml").write_text(openmm.XmlSerializer.serialize(system))
    with (tmp_path / "a.pdb").open("w") as file:
        app.PDBFile.writeFile(modeller.topology, modeller.positions, file)
    water = OpenMMSystem(str(tmp_path / "a.pdb"), str(tmp_path / "a.xml"))
    box = water.molecule.field.box
    assert box is not None and float(box.vectors[2, :2].abs().min()) > 0.1
    TrajectoryFile(str(tmp_path / "a.pdb"), molecule=water).look()
    double = box.vectors.numpy() * [[2], [1], [1]]
    with pytest.raises(InputError, match="the box of frame 1 differs by"):
        check_cells(box, np.stack([box.vectors.numpy(), double]), "md.xtc")


def test_variables_are_of_one_molecule(water: OpenMMSystem, tmp_path: Path) -> None:
    Langevin(water, collective=Collective(distances={"O–H": (0, 1)}, radii={"w": (3, 4, 5)})).look()
    for collective in (Collective(distances={"O–O": (0, 3)}), Collective(radii={"all": "all"})):
        with pytest.raises(InputError, match="names atoms of several molecules, which have images in a periodic box"):
            Langevin(water, collective=collective).look()
    frames = frames_file(tmp_path / "a.h5", water, water.molecule.positions.repeat(16, 1, 1), WIDTH)
    between = replace(frames, collective=Collective(distances={"O–O": (0, 3)}))
    for ask in (between.look, lambda: between.simulate(Stream(0))):
        with pytest.raises(InputError, match="'O–O' names atoms of several molecules"):
            ask()
    own = replace(frames, collective=Collective(distances={"O–H": (0, 1)})).simulate(Stream(0))
    assert own["collective"].shape == (16, 1)


@pytest.mark.parametrize(
    "vectors", [[[2.0, 0, 0], [0.9, 1.9, 0], [-0.9, 0.9, 1.8]], [[3.0, 0, 0], [1, 2, 0], [1, 0.3, 0.5]]]
)
def test_the_mean_distance_in_a_sheared_box_is_that_of_the_nearest_images(
    vectors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of pairs further apart than half of the box, and in parts of the batch."""
    box = Box(torch.tensor(vectors, dtype=torch.float64))
    x = 3 * Stream(6).uniform(3, (40, 3), dtype=torch.float64)
    i, j = torch.triu_indices(40, 40, 1)
    moves = torch.cartesian_prod(*[torch.arange(-9.0, 10.0, dtype=torch.float64)] * 3) @ box.vectors
    brute = torch.stack([torch.cdist(row[i] - row[j], moves).min(1).values for row in x])
    near = between(x.permute(1, 2, 0), i, j, box).norm(dim=1).T
    assert float((near - brute).max()) > 0.05  # what `nearest` alone misses
    assert torch.allclose(mean_distance(x, box), brute.mean(1), rtol=1e-10)
    monkeypatch.setattr(images, "AT_ONCE", 2 * len(i))
    assert torch.allclose(mean_distance(x, box), brute.mean(1), rtol=1e-10)


def test_frames_that_are_looked_at_in_parts_keep_their_numbers(
    water: OpenMMSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    molecule = water.molecule
    frames = molecule.positions.repeat(7, 1, 1)
    frames[5, 4, 2] -= WIDTH
    monkeypatch.setattr(images, "AT_ONCE", 2 * molecule.bonds.shape[1])
    with pytest.raises(InputError, match=r"^a: a molecule is not whole in frame 5: .* bonded to its own image"):
        check_whole(frames, molecule.bonds, molecule.field.box, molecule.atoms, "a: ")
    check_whole(frames[:5], molecule.bonds, molecule.field.box, molecule.atoms)


def test_molecules_are_what_bonds_join() -> None:
    bonds = torch.tensor([[0, 4, 2], [3, 0, 5]])
    labels = molecules_of(bonds, 7).tolist()
    assert [labels.index(label) for label in labels] == [0, 1, 2, 0, 0, 2, 6]


def test_the_curvature_by_random_signs_is_that_of_all_coordinates(water: OpenMMSystem) -> None:
    x = water.molecule.positions
    moves = DIFFERENCE * torch.eye(x.numel(), dtype=torch.float64).unflatten(1, x.shape)
    force = water.molecule.field.force
    exact = float(-((force(x + moves) - force(x - moves)).flatten(1).diagonal() / (2 * DIFFERENCE)).sum())
    slope, curvature = steepness(water, x.repeat(400, 1, 1))
    stderr = float(curvature.std()) / 20
    assert stderr < 0.02 * exact and abs(float(curvature.mean()) - exact) < 4 * stderr  # 6e-5 at random
    assert torch.allclose(slope, force(x[None]).square().sum() / water.temperature)


def section(water: OpenMMSystem) -> dict[str, Any]:
    molecule = {"kind": "openmm_system", "pdb": water.pdb, "system": water.system}
    sizes = {"n_chains": 64, "n_frames": 2, "every": 10, "warm_up": 10, "step": 0.0005}
    return {"kind": "langevin", "molecule": molecule, "n_repeats": 1, **sizes}


def test_a_network_is_refused_and_frames_are_not(water: OpenMMSystem, place: Place) -> None:
    run = change(MOLECULES, {"dataset": section(water)})
    assert place.sciflow("check", place.write(run)).status == 0
    network = {"kind": "network", "network": {"kind": "egnn", "width": 8, "depth": 1}, "centred": True}
    outcome = place.sciflow("check", place.write({**run, "train": network}))
    assert outcome.status == 2 and "the data are of a periodic box, in which an atom is the same" in outcome.text
    for stage, status in (("dataset", 0), ("train", 2)):  # data of which nobody asked before
        outcome = place.sciflow(stage, place.folder / "run.yaml")
        assert outcome.status == status, outcome.text
    assert "the data are of a periodic box, in which an atom is the same" in outcome.text


def test_a_run_in_a_box_reaches_its_report_and_its_files_have_the_box(water: OpenMMSystem, place: Place) -> None:
    results = place.build(change(MOLECULES, {"dataset": section(water)}))
    with xr.open_dataset(results / "data.nc") as data:
        x = torch.from_numpy(data["data"].to_numpy()).double()
        assert data.attrs["periodic_box"].tolist() == (WIDTH * np.eye(3)).flatten().tolist()
        # float32 positions: 6e-8 nm of each of 260 coordinates, with forces of 10⁴ kJ/mol/nm
        assert np.allclose(water.energy(x).numpy(), data["potential_energy"].to_numpy(), atol=0.05)
    assert "energy_w2" in (results / "metrics.csv").read_text()
    for suffix in ("h5", "xtc", "pdb", "dcd"):
        outcome = place.sciflow("export", results, "--to", suffix, "--format", suffix)
        assert outcome.status == 0, outcome.text
        top = place.folder / suffix / "topology.pdb"
        found = open_trajectory(place.folder / suffix / f"flow-0.{suffix}", top if top.is_file() else None)
        assert np.allclose(found["cell"].to_numpy(), WIDTH * np.eye(3), atol=1e-6), suffix  # float32


def test_replicas_in_a_box_are_cooled(place: Place, tmp_path: Path) -> None:
    """Replica exchange, and annealing from its hottest frames: what is drawn is whole water."""
    water = written(tmp_path, method=app.CutoffPeriodic)  # faster than waves
    told = section(water)
    sizes = {"n_ladders": 16, "n_temperatures": 2, "hottest": 303.0, "n_frames": 4, "every": 2, "exchange_every": 2,
             "heating": 20, "warm_up": 20, "step": 0.0005}  # fmt: skip
    dataset = {"kind": "replica_exchange", "molecule": told["molecule"], "n_repeats": 1, **sizes}
    kernel = {"kind": "hmc", "step": 0.0005, "n_leapfrog": 2}
    posteriors = {"cooled": {"kind": "tempered", "kernel": kernel, "n_moves": 1, "metric": "unit"}}
    run = change(MOLECULES, {"dataset": dataset})
    results = place.build({**run, "sample": {**run["sample"], "posteriors": posteriors}}, until="sample")
    with xr.open_dataset(results / "samples.nc") as samples, xr.open_dataset(results / "data.nc") as data:
        drawn = torch.from_numpy(samples["samples"].to_numpy()).double().reshape(-1, *water.shape)
        hottest = float(data["replica_energy"].max())
        assert data.attrs["exchange_acceptance"] > 0
    i, j = water.molecule.bonds
    assert float((drawn[:, i] - drawn[:, j]).norm(dim=2).max()) < 0.13  # nm: O–H of 0.096, nowhere across the box
    energies = water.energy(drawn)
    # no higher than any replica, but for four standard deviations of kT √(288/2) = 30 kJ/mol
    assert float(energies.max()) < hottest + 120 and float(energies.std()) > 1
