"""Torsions, basins, free energies with errors, MBAR, replica exchange and cooling, each against a closed form."""

from __future__ import annotations

import itertools
import math
import sys
from dataclasses import replace

import mdtraj
import numpy as np
import pytest
import torch
from scipy.stats import vonmises
from torch import Tensor

from sciflow.diffusion import SCHEDULES
from sciflow.diffusion.mixture import EmpiricalDenoiser
from sciflow.domains.molecules.alanine import placed
from sciflow.domains.molecules.collective import Collective
from sciflow.domains.molecules.collective_metrics import N_PROFILE, Conformations
from sciflow.domains.molecules.law import Law
from sciflow.domains.molecules.metrics import METRICS
from sciflow.domains.molecules.molecule import Atom
from sciflow.domains.molecules.quadrature import draws
from sciflow.domains.molecules.replicas import ReplicaExchange, exchanged
from sciflow.domains.molecules.reweighting import Replicas, mbar
from sciflow.domains.molecules.systems import AlanineDipeptide
from sciflow.domains.molecules.target import Colder
from sciflow.domains.molecules.wells import DoubleWell
from sciflow.domains.protocol import Row
from sciflow.errors import InputError
from sciflow.inverse.tempered import Tempered
from sciflow.metrics.convergence import pareto_shape
from sciflow.particles.kernels import HMC
from sciflow.particles.tempering import Cooling
from sciflow.random import Stream
from tests.domains.free_energies import check_errors

PHI = ("ACE1-C", "ALA2-N", "ALA2-CA", "ALA2-C")
PSI = ("ALA2-N", "ALA2-CA", "ALA2-C", "NME3-N")
FOUR = tuple(Atom(name, "C", "X1", 0) for name in "ABCD")
TURN = {"turn": (0, 1, 2, 3)}
SIDES = {"left": {"turn": (-90.0, 90.0)}, "right": {"turn": (90.0, -90.0)}}
KT = 2.5


def four_atoms(degrees: float) -> Tensor:
    """A chain whose torsion is known by construction, (4, 3)."""
    a = torch.tensor([[-1.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    return torch.cat([a, placed(a[2], a[1], a[0], 1.3, math.radians(111), math.radians(degrees))[None]])


def test_a_torsion_is_the_angle_it_was_built_with() -> None:
    built = torch.tensor([-180.0, -179.999, -90.0, -1e-6, 0.0, 37.0, 120.0, 179.999])
    x = torch.stack([four_atoms(float(angle)) for angle in built])
    found = Collective({"a": (0, 1, 2, 3), "b": ("X1-D", "X1-C", "X1-B", "X1-A")}).values(x, FOUR)
    gap = (found - built[:, None].double() + 180).remainder(360) - 180
    assert float(gap.abs().max()) < 1e-5  # float32 angles of 180 have 8e-6; from the other end it is the same angle
    assert bool((found >= -180).all()) and bool((found < 180).all())


def test_torsions_are_those_of_mdtraj() -> None:
    molecule = AlanineDipeptide().molecule
    x = molecule.positions + 0.03 * Stream(0).normal(20, (22, 3), dtype=torch.float64)
    found = Collective({"phi": PHI, "psi": PSI}).values(x, molecule.atoms)
    top = mdtraj.Topology.from_openmm(molecule.topology)
    trajectory = mdtraj.Trajectory(x.numpy(), top)
    for column, of in zip(found.T, (mdtraj.compute_phi, mdtraj.compute_psi), strict=True):
        theirs = np.degrees(of(trajectory)[1][:, 0])
        assert np.abs((column.numpy() - theirs + 180) % 360 - 180).max() < 1e-3  # theirs is float32


def test_basins_lead_through_the_end_of_the_circle() -> None:
    two = Collective({"a": (0, 1, 2, 3), "b": (3, 2, 1, 0)},
                     {"A": {"a": (-180, 0), "b": (60, -120)}, "B": {"a": (0, 180)}})  # fmt: skip
    values = torch.tensor([[-80.0, 150.0], [-80.0, -150.0], [-80.0, 0.0], [10.0, 0.0], [0.0, 150.0], [-180.0, 60.0]])
    assert two.basin(values.double()).tolist() == [0, 0, -1, 1, 1, 0]


@pytest.mark.parametrize(
    ("torsions", "basins", "message"),
    [
        ({"a": ("X1-A", "X1-B", "X1-C", "X1-F")}, {}, r"torsions.a: there is no atom 'X1-F'.*Did you mean X1-"),
        ({"a": (0, 1, 2, 7)}, {}, "there is no atom 7, the molecule has atoms 0 to 3"),
        ({"a": (0, 1, 2, 2)}, {}, "names an atom twice"),
        (
            TURN,
            {"A": {"twist": (0, 90)}},
            r"basins.A.twist: there is no collective variable 'twist', known are \['turn'\]",
        ),
        (TURN, {"A": {"turn": (0, 190)}}, "angles are degrees between -180 and 180"),
        (TURN, {"A": {"turn": (90, 90)}}, "nothing lies there"),
        (TURN, {"A": {"turn": (150, -150)}, "B": {"turn": (-180, 0)}}, "'A' and 'B' overlap"),
    ],
)
def test_wrong_torsions_and_basins_are_refused(torsions: dict, basins: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Collective(torsions, basins).atoms(FOUR)


def test_two_atoms_of_one_name_are_told_apart_by_their_numbers() -> None:
    with pytest.raises(InputError, match="several atoms are called 'X1-A'"):
        Collective({"a": ("X1-A", "X1-B", "X1-C", "X1-D")}).atoms((*FOUR, FOUR[0]))
    assert Collective({"a": (4, "X1-B", "X1-C", "X1-D")}).atoms((*FOUR, FOUR[0])) == {"a": [4, 1, 2, 3]}


def two_wells(n_chains: int, n_frames: int, memory: int, seed: int) -> Tensor:
    """Angles [°] of 0.8 vonMises(0, 4) + 0.2 vonMises(180, 6), each for `memory` frames, (chain, frame, 1)."""
    rng = np.random.default_rng(seed)
    size = (n_chains, n_frames // memory)
    drawn = np.where(rng.random(size) < 0.8, rng.vonmises(0, 4, size), rng.vonmises(np.pi, 6, size))
    angles = (np.degrees(drawn) + 180) % 360 - 180
    return torch.from_numpy(angles).repeat_interleave(memory, 1)[..., None]


def share(low: float, high: float) -> float:
    """Of the law of `two_wells`, on an arc in degrees that does not pass ±180."""
    a, b = np.radians([low, high])
    first = vonmises.cdf(b, 4) - vonmises.cdf(a, 4)
    return float(0.8 * first + 0.2 * (vonmises.cdf(b, 6, loc=np.pi) - vonmises.cdf(a, 6, loc=np.pi)))


def asked(frames: Tensor, seed: int = 0) -> Conformations:
    return Conformations(Collective(TURN, SIDES), KT, frames, {}, {}, None, Stream(seed))


def test_the_free_energy_of_two_wells_is_exact_within_its_error() -> None:
    """Frames that repeat ten times: an error that did not know of it would be √10 too small."""
    left = share(-90, 90)
    exact = -KT * math.log((1 - left) / left)

    def row_of(seed: int) -> Row:
        (row,) = asked(two_wells(32, 100, 10, seed), seed).basin_rows()
        assert row.metric == "free_energy_right" and row.score.unit == "kJ/mol" and "95 % interval" in row.score.note
        return row

    check_errors(row_of, exact)


def test_a_basin_that_nothing_entered_is_said_and_not_guessed() -> None:
    frames = two_wells(16, 40, 1, 0)
    empty = replace(asked(frames.clamp(-60, 60)), drawn={"flow": frames.clamp(-60, 60)})
    rows = {(row.posterior, row.metric): row.score for row in empty.basin_rows()}
    for name in ("held-out frames", "flow"):
        score = rows[name, "free_energy_right"]
        assert math.isnan(score.value) and score.stderr == math.inf and "a basin is empty" in score.note
    assert math.isnan(rows["flow", "free_energy_right_z"].value)


def test_the_band_of_a_potential_of_mean_force_covers_the_exact_one() -> None:
    edges = np.linspace(-180, 180, N_PROFILE + 1)
    exact = np.array([share(low, high) for low, high in itertools.pairwise(edges)])
    assert exact.sum() == pytest.approx(1, abs=1e-9)
    inside, count = 0, 0
    for seed in range(20):
        frames = two_wells(64, 400, 4, seed)
        pmf, stderr = (part[0].numpy() for part in asked(frames)._profile(frames))
        found = np.exp(-pmf / KT) / np.exp(-pmf / KT).sum()
        seen = exact > 1e-3  # 64 × 100 draws: six of them and more, so that logarithms are nearly normal
        gap = np.abs(-KT * np.log(found[seen] / exact[seen])) / stderr[seen]
        assert gap.max() < 6  # the largest of fifty, where a bin holds some six draws
        inside, count = inside + int((gap < 2).sum()), count + int(seen.sum())
    # 95.4 % within two errors; bins of one seed are nearly independent, and few draws in a bin cost some points
    assert 0.954 - 4 * math.sqrt(0.954 * 0.046 / count) - 0.03 < inside / count


def oscillators(n_ladders: int, n_frames: int, dimension: int, seed: int) -> Replicas:
    """U = |x|²/2 in d dimensions at four temperatures; the torsion is the direction of the first two coordinates."""
    inverse = torch.tensor([1.0, 0.7, 0.5, 0.35], dtype=torch.float64)
    x = (
        Stream(seed)
        .normal(4 * n_ladders * n_frames, (dimension,), dtype=torch.float64)
        .unflatten(0, (4, n_ladders, n_frames))
    )
    x = x / inverse.sqrt()[:, None, None, None]
    return Replicas(inverse, 0.5 * x.square().sum(-1), torch.rad2deg(torch.atan2(x[..., 1], x[..., 0]))[..., None])


def test_mbar_of_harmonic_oscillators_is_exact_within_its_error() -> None:
    """f_k − f_0 = (d/2) log(b_k/b_0)."""
    replicas = oscillators(32, 25, 8, 1)
    found = replicas.all
    exact = 4 * (replicas.inverse / replicas.inverse[0]).log()
    resampled = replicas.bootstrap(Stream(2), lambda part, solved: solved.free_energies)
    z = (found.free_energies - exact)[1:] / resampled.std(0)[1:]
    assert float(z.abs().max()) < 4
    energies = replicas.energies.flatten()
    energy = float(found.log_weights.exp() @ energies)
    # 4 kT at kT = 1 with a variance of 4: the ESS tells how many draws the weighted frames are worth
    assert abs(energy - 4) < 4 * math.sqrt(4 / replicas.ess)
    assert replicas.ess > 1.3 * 32 * 25  # more than the frames of the first temperature alone
    assert torch.allclose(found.overlap.sum(1), torch.ones(4, dtype=torch.float64), atol=1e-9)
    assert pareto_shape(found.log_weights) < 0.5


def test_mbar_gives_the_free_energy_of_basins_of_the_first_temperature() -> None:
    """The direction is uniform at every temperature: two half circles weigh the same."""
    replicas = oscillators(32, 25, 8, 3)
    torsions = Conformations(Collective(TURN, SIDES), KT, replicas.collective[0], {}, {}, replicas, Stream(4))
    rows = {(row.posterior, row.metric): row.score for row in [*torsions.basin_rows(), *torsions.mbar_rows()]}
    by_mbar, counted = rows["MBAR", "free_energy_right"], rows["held-out frames", "free_energy_right"]
    assert abs(by_mbar.value) < 4 * by_mbar.stderr and by_mbar.stderr < counted.stderr
    assert rows["MBAR", "log_partition"].value == pytest.approx(4 * math.log(0.35), abs=0.2)
    assert rows["MBAR", "overlap_min"].value > 0.1 and rows["hottest, reweighted", "khat"].value > 0


def test_states_that_do_not_overlap_are_refused() -> None:
    """Two springs 100 widths apart."""
    x = torch.cat([torch.linspace(-1, 1, 50), torch.linspace(99, 101, 50)]).double()
    with pytest.raises(InputError, match="MBAR cannot join the states"):
        mbar(torch.stack([0.5 * x.square(), 0.5 * (x - 100).square()]), [50, 50])


def test_an_exchange_leaves_the_law_of_every_temperature_alone() -> None:
    n, inverse = 40_000, torch.tensor([1.0, 0.6, 0.4], dtype=torch.float64)
    chi = Stream(1).normal(n, (3, 6), dtype=torch.float64).square().sum(-1)
    energies = 0.5 * chi / inverse  # six coordinates: mean 3/b, variance 3/b²
    for first in (0, 1):
        uniform = Stream(2).child(first).uniform(n, (3,), dtype=torch.float64)
        places, probability = exchanged(energies, inverse, uniform, first)
        assert bool((places.sort(1).values == torch.arange(3)).all())
        lower = first
        ratio = ((inverse[lower] - inverse[lower + 1]) * (energies[:, lower] - energies[:, lower + 1])).exp()
        assert torch.allclose(probability[:, 0], ratio.clamp_max(1.0))
        assert torch.equal(places[:, lower] == lower + 1, uniform[:, lower] < probability[:, 0])
        energies = energies.gather(1, places)
    error = (energies.mean(0) - 3 / inverse) * inverse / math.sqrt(3 / n)
    assert float(error.abs().max()) < 4
    # a gamma law of shape 3 has an excess kurtosis of 2: Var(s²)/σ⁴ = (2 + 2)/n
    assert float((energies.var(0) * inverse.square() / 3 - 1).abs().max()) < 4 * math.sqrt(4 / n)


def test_cooling_finds_the_ratio_of_the_partition_functions_and_the_wells() -> None:
    """From draws at kT = 4 to kT = 1 in two wells whose partition functions are known by quadrature."""
    hot, cold = DoubleWell(2, temperature=4.0), DoubleWell(2, temperature=1.0)
    frames = draws(hot, 4096, Stream(0)).double()
    prior = EmpiricalDenoiser(frames, SCHEDULES["linear"]())
    likelihood = Colder(torch.zeros(1, dtype=torch.float64), cold, 4.0)
    sampler = Tempered(n_particles=2048, kernel=HMC(0.2, 8), metric="unit", n_moves=2)
    found = sampler(prior, likelihood, [0.0, 1.0], 2048, Stream(1))
    exact = cold.log_partition() - hot.log_partition()
    assert abs(found.log_evidence - exact) < 4 * found.log_evidence_stderr
    assert float(likelihood.log_prob(frames[:2])[0]) == pytest.approx(-0.75 * float(cold.energy(frames[:1])[0]))
    upper = float((found.weights * (found.x[:, 0] > 0)).sum())
    exact_upper = float((draws(cold, 100_000, Stream(2))[:, 0] > 0).double().mean())
    assert abs(upper - exact_upper) < 4 * math.sqrt(exact_upper * (1 - exact_upper) / found.n_families)
    with pytest.raises(InputError, match="0 < hot < cold"):
        Cooling(lambda n, stream: frames, cold.energy, 1.0, 0.5)


SHORT = ReplicaExchange(
    n_temperatures=3, n_ladders=16, n_frames=4, every=4, exchange_every=2, heating=4, warm_up=2,
    collective=Collective({"phi": PHI, "psi": PSI}),
)  # fmt: skip


def test_ladders_leave_frames_energies_and_torsions_that_belong_together() -> None:
    made = SHORT.simulate(Stream(3))
    assert dict(made["replica_energy"].sizes) == {"replica": 3, "sample": 64}
    assert made["replica_kelvin"].to_numpy() == pytest.approx([300, math.sqrt(300 * 900), 900])
    system, collective = SHORT.molecule, SHORT.collective
    for name, k in (("data", 0), ("hottest", 2)):
        x = torch.from_numpy(made[name].to_numpy()).double()
        energy = system.energy(x).numpy()
        assert np.abs(made["replica_energy"][k].to_numpy() - energy).max() < 0.1  # float32 positions, as stored
        gap = made["replica_collective"][k].to_numpy() - collective.values(x, system.molecule.atoms).numpy()
        assert np.abs((gap + 180) % 360 - 180).max() < 1e-2
    assert 0 <= made.attrs["exchange_acceptance"] <= 1 and "chains_rhat" in made.attrs
    assert SHORT.simulate(Stream(3)).identical(made) and not SHORT.simulate(Stream(4)).identical(made)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hottest": 250.0}, "dataset.hottest is 250.0 K, not above"),
        ({"n_ladders": 20}, "must be a multiple of 8, got 20"),
        ({"exchange_every": 3}, "dataset.exchange_every is 3; it must divide"),
        ({"test": 0.9, "validation": 0.2}, "leave nothing to train on"),
    ],
)
def test_wrong_ladders_are_refused(changed: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SHORT, **changed)


@pytest.mark.parametrize(("library", "message"), [("pymbar", "need pymbar"), ("openmm", "need OpenMM")])
def test_a_missing_extra_is_said_before_any_work(library: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from sciflow.domains.molecules.alanine import alanine_dipeptide

    alanine_dipeptide.cache_clear()
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError, match=rf"{message}.*pip install 'sciflow\[molecule\]'"):
        SHORT.look()


def test_mirror_images_and_cis_bonds_are_counted() -> None:
    """Of ten conformations: three in a mirror, two with the last peptide bond turned by half a turn."""
    system = AlanineDipeptide("ff99sbildn_obc2")
    frames = system.molecule.positions + 0.002 * Stream(0).normal(10, (22, 3), dtype=torch.float64)
    drawn, atoms = frames.clone(), {(atom.residue, atom.name): k for k, atom in enumerate(system.molecule.atoms)}
    drawn[:3, :, 0] *= -1
    carbon, nitrogen = atoms["ALA2", "C"], atoms["NME3", "N"]
    moved = [k for (residue, name), k in atoms.items() if residue == "NME3" and name != "N"]
    for x in drawn[2:4]:
        axis = (x[nitrogen] - x[carbon]) / (x[nitrogen] - x[carbon]).norm()
        arms = x[moved] - x[nitrogen]
        x[moved] = x[nitrogen] + 2 * (arms @ axis)[:, None] * axis - arms
    law = Law(system, frames, 0, Stream(0))
    rows = {(row.posterior, row.metric): row.score.value for row in METRICS["stereochemistry"](law, {"a": drawn[None]})}
    assert rows == {("held-out frames", "share_d_form"): 0, ("held-out frames", "share_cis"): 0,
                    ("a", "share_d_form"): 0.3, ("a", "share_cis"): 0.2}  # fmt: skip
    assert METRICS["stereochemistry"](Law(DoubleWell(), frames[:, 0, :2], 0, Stream(0)), {"a": drawn[None]}) == []
