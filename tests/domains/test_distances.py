"""Distances and radii as collective variables: values, profiles, basins and divergences, each against a closed form."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mdtraj
import numpy as np
import openmm
import pytest
import torch
import xarray as xr
from openmm import app
from scipy.integrate import quad
from scipy.stats import maxwell
from torch import Tensor

from sciflow.data.arrays import from_xarray
from sciflow.domains.molecules.alanine import alanine_dipeptide
from sciflow.domains.molecules.collective import Collective, collective_of
from sciflow.domains.molecules.collective_metrics import N_PROFILE, Conformations
from sciflow.domains.molecules.dynamics import Langevin
from sciflow.domains.molecules.law import N_CELLS, Law
from sciflow.domains.molecules.molecule import BOLTZMANN, Atom
from sciflow.domains.molecules.systems import OpenMMSystem
from sciflow.domains.protocol import Row
from sciflow.errors import InputError
from sciflow.metrics.boltzmann import js_divergence
from sciflow.random import Stream
from tests.domains.free_energies import check_errors
from tests.tiny import MOLECULES, Place, change

KT = 2.5
FOUR = tuple(Atom(name, "C", "X1", 0) for name in "ABCD")
ENDS: dict[str, tuple[str | int, str | int]] = {"d": (0, 1)}
NEAR = {"near": {"d": (0.0, 0.25)}, "far": {"d": (0.25, 2.0)}}
WIDTH = 0.1  # [nm] of each coordinate of an atom; their difference is wider by √2


def test_a_distance_and_a_radius_are_those_of_known_bodies() -> None:
    """A regular tetrahedron of edge a: every distance is a, the radius of gyration a √(3/8)."""
    corners = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    turn = torch.linalg.qr(Stream(0).normal(3, (3,), dtype=torch.float64))[0]
    edge = torch.tensor([0.15, 0.3, 4.0], dtype=torch.float64)
    x = edge[:, None, None] / math.sqrt(8) * corners @ turn + torch.tensor([5.0, -2.0, 1.0])
    wanted = Collective(distances={"ab": ("X1-A", "X1-B"), "cd": (3, 2)}, radii={"all": "all", "ab only": (0, 1)})
    found = wanted.values(x, FOUR)
    assert wanted.names == ["ab", "cd", "all", "ab only"]
    exact = torch.stack([edge, edge, edge * math.sqrt(3 / 8), edge / 2], 1)
    assert float((found - exact).abs().max()) < 1e-14  # rounding of coordinates near 5


def test_distances_and_radii_are_those_of_mdtraj() -> None:
    molecule = alanine_dipeptide("ff96_obc1")
    x = molecule.positions + 0.03 * Stream(0).normal(20, (22, 3), dtype=torch.float64)
    asked = Collective(distances={"end": ("ACE1-CH3", 18)}, radii={"size": "all"})
    found = asked.values(x, molecule.atoms).numpy()
    trajectory = mdtraj.Trajectory(x.numpy(), mdtraj.Topology.from_openmm(molecule.topology))
    pair = [asked.atoms(molecule.atoms)["end"]]
    assert np.abs(found[:, 0] - mdtraj.compute_distances(trajectory, pair)[:, 0]).max() < 1e-6  # theirs is float32
    assert np.abs(found[:, 1] - mdtraj.compute_rg(trajectory)).max() < 1e-6  # equal masses are their default too


def test_variables_of_all_kinds_stand_side_by_side() -> None:
    x = Stream(1).normal(6, (4, 3), dtype=torch.float64)
    alone = [Collective(torsions={"t": (0, 1, 2, 3)}), Collective(distances=ENDS), Collective(radii={"r": "all"})]
    together = Collective({"t": (0, 1, 2, 3)}, {}, ENDS, {"r": "all"})
    assert torch.equal(together.values(x, FOUR), torch.cat([one.values(x, FOUR) for one in alone], 1))
    assert [axis.unit for axis in together.axes] == ["°", "nm", "nm"] and together.unit == "variable_unit"
    assert [one.unit for one in alone] == ["°", "nm", "nm"]
    assert Collective().values(x, FOUR).shape == (6, 0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"distances": {"d": (0, 4)}}, "distances.d: there is no atom 4, the molecule has atoms 0 to 3"),
        ({"distances": {"d": (-1, 0)}}, "distances.d: there is no atom -1"),
        ({"distances": {"d": ("X1-A", "X1-E")}}, r"distances.d: there is no atom 'X1-E'.*Did you mean X1-"),
        ({"distances": {"d": (2, "X1-C")}}, r"distances.d names an atom twice: \[2, 'X1-C'\]. A distance has two"),
        ({"radii": {"r": (0, 1, 0)}}, "radii.r names an atom twice"),
        ({"radii": {"r": (3,)}}, "radii.r has 1 atoms, needs two or more, or `all`"),
        ({"radii": {"r": ()}}, "radii.r has 0 atoms"),
        ({"distances": ENDS, "radii": {"d": "all"}}, "two variables are called d"),
        ({"distances": ENDS, "ranges": {"e": (0, 1)}}, r"ranges.e: there is no collective variable 'e', known are \['"),
        ({"torsions": {"t": (0, 1, 2, 3)}, "ranges": {"t": (0, 1)}}, "'t' is a torsion, all of its circle is shown"),
        ({"distances": ENDS, "ranges": {"d": (0.5, 0.5)}}, r"ranges.d is \[0.5, 0.5\]: give nm, 0 or more, the"),
        ({"distances": ENDS, "basins": {"A": {"d": (0.6, 0.2)}}}, r"basins.A.d is \[0.6, 0.2\]: give nm"),
        ({"distances": ENDS, "basins": {"A": {"d": (-1, 0.2)}}}, r"basins.A.d is \[-1, 0.2\]: give nm"),
        ({"distances": ENDS, "basins": {"A": {"e": (0, 1)}}}, "basins.A.e: there is no collective variable 'e'"),
        ({"distances": ENDS, "basins": {"A": {"d": (0, 0.3)}, "B": {"d": (0.2, 1)}}}, "'A' and 'B' overlap"),
    ],
)
def test_wrong_distances_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Collective(**given).atoms(FOUR)


def test_a_basin_of_a_distance_is_half_open_and_joins_those_of_torsions() -> None:
    both = Collective({"t": (0, 1, 2, 3)}, {"A": {"t": (150, -150), "d": (0.2, 0.4)}, "B": {"d": (0.4, 0.9)}}, ENDS)
    values = torch.tensor([[170.0, 0.2], [170.0, 0.4], [0.0, 0.3], [-160.0, 0.39], [0.0, 0.9]], dtype=torch.float64)
    assert both.basin(values).tolist() == [0, 1, -1, 0, -1]


def pairs(n_chains: int, n_frames: int, memory: int, seed: int) -> Tensor:
    """Distances of two free Gaussian atoms, each for `memory` frames, (chain, frame, 1): Maxwell's law."""
    x = WIDTH * Stream(seed).normal(n_chains * n_frames // memory, (2, 3), dtype=torch.float64)
    distances = Collective(distances=ENDS).values(x, FOUR[:2])
    return distances.unflatten(0, (n_chains, -1)).repeat_interleave(memory, 1)


def asked(frames: Tensor, seed: int = 0, **given: Any) -> Conformations:
    collective = Collective(basins=NEAR, distances=ENDS, **given).spanning(frames.flatten(0, 1))
    return Conformations(collective, KT, frames, {}, {}, None, Stream(seed))


def covered(found: Conformations, exact: np.ndarray) -> tuple[int, int]:
    """Cells whose profile lies within two errors of the exact one, and cells that hold draws enough to ask."""
    pmf, stderr = (part[0].numpy() for part in found._profile(found.frames))
    seen = exact > 2e-3  # of 64 × 100 draws: twelve and more, so that logarithms are nearly normal
    theirs = -KT * np.log(exact)
    gap = pmf - theirs
    gap = np.abs(gap[seen] - np.average(gap[seen], weights=exact[seen])) / stderr[seen]  # the zero of a profile is free
    assert gap.max() < 6  # the largest of some forty of one set
    return int((gap < 2).sum()), int(seen.sum())


@pytest.mark.parametrize("given", [{}, {"ranges": {"d": (0.05, 0.5)}}], ids=["of the frames", "of the run file"])
def test_the_band_of_a_profile_of_a_distance_covers_the_exact_one(given: dict[str, Any]) -> None:
    """p(r) ∝ r² e^{−r²/4s²}: the profile of a free pair has the factor r² inside."""
    inside = count = 0
    for seed in range(20):
        found = asked(pairs(64, 400, 4, seed), **given)
        (axis,) = found.collective.axes
        assert (axis.unit, axis.is_circle) == ("nm", False)
        assert (axis.low, axis.high) == given.get("ranges", {}).get("d", (axis.low, axis.high)) and axis.low >= 0
        edges = axis.edges(N_PROFILE).numpy()
        hits, cells = covered(found, np.diff(maxwell.cdf(edges, scale=WIDTH * math.sqrt(2))))
        inside, count = inside + hits, count + cells
    # 95.4 % within two errors; cells of one seed are nearly independent, and few draws in a cell cost some points
    assert 0.954 - 4 * math.sqrt(0.954 * 0.046 / count) - 0.03 < inside / count


def test_what_lies_beyond_a_range_is_not_counted_in_its_last_cell() -> None:
    frames = torch.tensor([[[0.05], [0.15], [0.25], [0.95]], [[0.15], [0.35], [0.99], [0.1]]], dtype=torch.float64)
    found = asked(frames, ranges={"d": (0.1, 0.4)})
    flat = torch.full((8,), -math.log(8), dtype=torch.float64)
    shares = found._shares(frames.flatten(0, 1), flat)[0]
    assert shares.shape == (N_PROFILE,) and float(shares.sum()) == pytest.approx(5 / 8, abs=1e-12)
    assert float(shares[-1]) == 0
    nowhere = asked(frames, ranges={"d": (2.0, 3.0)})._profile(frames)[0]
    assert bool((nowhere == math.inf).all())


def test_the_free_energy_between_basins_of_a_distance_is_exact_within_its_error() -> None:
    """Frames that repeat ten times: an error that did not know of it would be √10 too small."""
    near = float(maxwell.cdf(0.25, scale=WIDTH * math.sqrt(2)))
    exact = -KT * math.log((1 - near) / near)

    def row_of(seed: int) -> Row:
        (row,) = asked(pairs(32, 100, 10, seed), seed).basin_rows()
        assert row.metric == "free_energy_far" and row.score.unit == "kJ/mol" and "above near" in row.score.note
        return row

    check_errors(row_of, exact)


def test_the_divergence_of_distances_is_that_of_the_exact_laws() -> None:
    """Two pairs of other widths, on 24 cells and one more for what lies outside."""
    n, wide = 20_000, 1.4
    molecule = SimpleNamespace(atoms=FOUR[:2])
    found, exact = [], 0.0
    for seed in range(16):
        frames, other = (WIDTH * Stream(seed).child(k).normal(2 * n, (2, 3), dtype=torch.float64) for k in (0, 1))
        collective = Collective(distances=ENDS, ranges={"d": (0.0, 0.6)})
        law = Law(SimpleNamespace(molecule=molecule, shape=(2, 3)), frames, 0, Stream(seed), None, collective)
        found.append(law.collective_js(wide * other[:n]))
        edges = collective.axes[0].edges(N_CELLS).numpy()
        shares = [maxwell.cdf(edges, scale=WIDTH * math.sqrt(2) * width) for width in (1.0, wide)]
        exact = js_divergence(*(torch.tensor([*np.diff(cdf), 1 - cdf[-1]]) for cdf in shares))
    # 16 sets tell the mean; empty counts add less than cells/4n nats to each
    assert abs(np.mean(found) - exact) < 4 * np.std(found, ddof=1) / 4 + (N_CELLS + 1) / (4 * n)
    assert exact > 0.05  # a hundred times what is left of the noise


STIFFNESS, LENGTH = 1.0e4, 0.3  # kJ/mol/nm², nm: a spread of 0.016 nm at 300 K


@pytest.fixture
def dimer(tmp_path: Path) -> OpenMMSystem:
    """Two argon atoms on a spring, as PDB and XML."""
    topology = app.Topology()
    residue = topology.addResidue("PAR", topology.addChain())
    for name in ("A1", "A2"):
        topology.addAtom(name, app.Element.getBySymbol("Ar"), residue)
    system, spring = openmm.System(), openmm.HarmonicBondForce()
    for _ in range(2):
        system.addParticle(39.948)
    spring.addBond(0, 1, LENGTH, STIFFNESS)
    system.addForce(spring)
    with (tmp_path / "dimer.pdb").open("w") as file:
        app.PDBFile.writeFile(topology, np.array([[0, 0, 0], [0, 0, LENGTH]]) * openmm.unit.nanometer, file)
    (tmp_path / "dimer.xml").write_text(openmm.XmlSerializer.serialize(system))
    return OpenMMSystem(str(tmp_path / "dimer.pdb"), str(tmp_path / "dimer.xml"))


def frames_of(data: xr.Dataset) -> Tensor:
    """Held-out values of the variables, (chain, frame, variable)."""
    held_out = data.isel(sample=np.flatnonzero(data["split"].to_numpy() == "test"))
    order = np.argsort(held_out["unit"].to_numpy(), kind="stable")
    values = from_xarray(held_out["collective"][order], ("sample", "variable"), torch.float64)
    return values.unflatten(0, (len(set(held_out["unit"].to_numpy().tolist())), -1))


def test_the_profile_of_a_harmonic_dimer_is_its_closed_form(dimer: OpenMMSystem) -> None:
    """p(r) ∝ r² e^{−k(r − r₀)²/2kT}, from Langevin dynamics of the user's own System."""
    collective = Collective(distances={"bond": ("PAR1-A1", "PAR1-A2")}, ranges={"bond": (0.24, 0.37)})
    bath = Langevin(dimer, n_chains=160, n_frames=40, every=100, warm_up=800, step=0.002, collective=collective)
    data = bath.simulate(Stream(5))
    assert data["collective"].attrs["units"] == "nm" and data["variable"].to_numpy().tolist() == ["bond"]
    asked_of = Conformations(collective_of(data), BOLTZMANN * 300.0, frames_of(data), {}, {}, None, Stream(0))
    (pmf,), (stderr,) = (part.numpy() for part in asked_of._profile(asked_of.frames))

    def weight(r: float) -> float:
        return r**2 * math.exp(-STIFFNESS * (r - LENGTH) ** 2 / (2 * BOLTZMANN * 300.0))

    edges = asked_of.collective.axes[0].edges(N_PROFILE).tolist()
    mass = np.array([quad(weight, low, high)[0] for low, high in itertools.pairwise(edges)])
    mass /= quad(weight, 0.15, 0.45)[0]
    seen = mass > 0.005  # of 64 × 40 frames that hardly remember one another: a dozen and more in a cell
    gap = pmf + BOLTZMANN * 300.0 * np.log(mass)
    z = (gap[seen] - np.average(gap[seen], weights=mass[seen])) / stderr[seen]
    # h = 2 fs is (hω)²/12 = 2e-4 of the spring, far below the error of a cell; the largest of forty is below 4.5
    assert seen.sum() > 30 and np.abs(z).max() < 4.5
    assert np.mean(z**2) < 1 + 4 * math.sqrt(2 / seen.sum()) + 0.2  # few draws in a cell: tails of Student's t


def test_distances_of_your_own_molecule_reach_the_report(dimer: OpenMMSystem, place: Place) -> None:
    collective = {
        "distances": {"bond": ["PAR1-A1", "PAR1-A2"]},
        "radii": {"size": "all"},
        "basins": {"short": {"bond": [0.2, 0.3]}, "long": {"bond": [0.3, 0.4]}},
    }
    dataset = {
        "kind": "langevin", "molecule": {"kind": "openmm_system", "pdb": dimer.pdb, "system": dimer.system},
        "n_chains": 64, "n_frames": 4, "every": 50, "warm_up": 300, "collective": collective,
    }  # fmt: skip
    results = place.build(change(MOLECULES, {"dataset": dataset}))
    with xr.open_dataset(results / "metrics.nc") as arrays:
        assert arrays["collective"].attrs["units"] == "nm" and arrays["surface"].shape == (36, 36)
        assert arrays["variable_unit"].to_numpy().tolist() == ["nm", "nm"]
        at = arrays["collective_at"].sel(variable="size").to_numpy()
        assert np.allclose(2 * at, arrays["collective_at"].sel(variable="bond"), atol=1e-3)  # r = 2 Rg, of two atoms
    text = (results / "metrics.csv").read_text()
    assert "free_energy_long" in text and "collective_js_z" in text
    report = (results / "report.html").read_text()
    assert "free energy of long above short" in report and "No held-out frame" not in report
    collective["ranges"] = {"bond": [1.0, 2.0]}  # nm for Å, say: it is told, and the other figures are there
    results = place.build(change(MOLECULES, {"dataset": dataset}), "elsewhere")
    report = (results / "report.html").read_text()
    assert "No held-out frame has bond between 1 and 2 nm: they lie between 0." in report
    with xr.open_dataset(results / "metrics.nc") as arrays:
        assert bool(np.isinf(arrays["collective_pmf"].sel(variable="bond")).all()) and np.isinf(arrays["surface"]).all()
    for wrong, message in (
        ({"distances": {"bond": ["PAR1-A1", "PAR1-A3"]}}, "there is no atom 'PAR1-A3'"),
        ({"distances": {"bond": [0, 2]}}, "there is no atom 2, the molecule has atoms 0 to 1"),
        ({"distances": {"bond": [0, 0]}}, "names an atom twice"),
        ({"distance": {"bond": [0, 1]}}, "distance"),
    ):
        file = place.write(change(MOLECULES, {"dataset": {**dataset, "collective": wrong}}), "wrong")
        outcome = place.sciflow("check", file)
        assert outcome.status == 2 and message in outcome.text
