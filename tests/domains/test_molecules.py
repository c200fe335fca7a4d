"""Molecules: certified references, what a wrong one looks like, and a run that is compared with the law itself."""

from __future__ import annotations

import csv
import functools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

from sciflow.diffusion.centred import free
from sciflow.diffusion.denoiser import score as denoiser_score
from sciflow.diffusion.model import load
from sciflow.domains.molecules.clusters import DW4, LJ13ECNF, pair_distances
from sciflow.domains.molecules.figures import certificate, verdicts
from sciflow.domains.molecules.law import Law
from sciflow.domains.molecules.metrics import evaluate
from sciflow.domains.molecules.network import score
from sciflow.domains.molecules.reference import Reference, Tempered, restarted
from sciflow.domains.molecules.simulate import Boltzmann
from sciflow.domains.molecules.stored_potential import packed, potential_of
from sciflow.domains.molecules.systems import AlanineDipeptide
from sciflow.domains.molecules.wells import DoubleWell, ManyWell, MullerBrown
from sciflow.domains.protocol import Evidence
from sciflow.errors import InputError
from sciflow.random import Stream
from tests.tiny import MOLECULES, Place, change

SMALL = Tempered(n_chains=2048, n_moves=2, share=0.9)


@functools.cache
def dw4() -> Reference:
    with torch.no_grad():
        return replace(SMALL, n_chains=4096)(DW4(), 4, Stream(7))


def groups(values: Tensor, n: int = 8) -> tuple[float, float]:
    """Mean, and its standard error from the islands."""
    means = values.reshape(n, -1).mean(1)
    return float(means.mean()), float(means.std()) / math.sqrt(n)


def test_the_reference_of_muller_brown_is_the_exact_law_and_says_so() -> None:
    potential = MullerBrown()
    with torch.no_grad():
        made = SMALL(potential, 4, Stream(1))
    found = made.certificate
    assert made.frames.shape == (2048, 4, 2) and found.acceptance > 0.3
    assert found.drift < 5 and found.distance < 5  # of Student's t with 7 degrees, and of 20 splits
    # Student's t with 7 degrees exceeds 6 with probability 5e-4
    assert abs(found.log_partition - potential.log_partition()) < 6 * found.log_partition_stderr
    upper, stderr = groups((potential.basins(made.frames.flatten(0, 1)) == 0).double())
    exact = Law(potential, made.frames[:, -1], 64, Stream(0)).free_energy
    assert abs(upper - 1 / (1 + math.exp(-exact))) < 6 * stderr


def test_too_few_particles_do_not_get_a_certificate() -> None:
    """2¹⁶ modes and 128 particles."""
    with torch.no_grad():
        found = Tempered(128, share=0.7, n_moves=1)(ManyWell(), 1, Stream(0)).certificate
    assert not found.holds and found.log_partition_stderr > 0.05
    attributes = found.attributes()
    assert attributes["reference_holds"] == 0
    said = certificate({**attributes, "log_partition": 164.696})
    assert "DOES NOT HOLD: take more chains" in said and f"log Z {found.log_partition:.3f}" in said
    assert "exact 164.696;" in said
    with pytest.raises(InputError, match="Take a multiple of those"):
        Tempered(100, 8)


def test_the_reference_of_dw4_has_the_known_averages() -> None:
    """Three independent SMC runs of 20 000 particles: log Z 29.66 to 29.69, distance 4.040 to 4.048, energy −22.535."""
    made, potential = dw4(), DW4()
    frames = made.frames
    assert float(frames.mean(2).abs().max()) < 1e-9  # the centre is at 0
    assert abs(made.certificate.log_partition - 29.68) < 6 * made.certificate.log_partition_stderr + 0.02
    distance, error = groups(pair_distances(frames.flatten(0, 1)).mean(1))
    assert abs(distance - 4.044) < 6 * error + 0.004
    energy, error = groups(potential.energy(frames.flatten(0, 1)))
    assert abs(energy + 22.535) < 6 * error + 0.008


def test_shipped_dw4_frames_are_not_the_law() -> None:
    """The known defect: 10⁵ frames that published code takes for the law, of mean distance 3.974 and energy −22.477."""
    frames = dw4().frames.flatten(0, 1)
    distance, error = groups(pair_distances(frames).mean(1))
    assert distance - 3.974 > 4 * math.hypot(error, 0.5 / math.sqrt(1e5))  # a frame has a spread of 0.5


def test_a_restart_finds_frames_that_are_not_the_law_and_leaves_those_that_are() -> None:
    frames, potential = dw4().frames[:, -1], DW4()
    distance = pair_distances(frames).mean(1)
    kept = frames[distance < distance.median()]  # the smaller clusters, by 0.8 of a spread: t is 12 to 15
    n = len(kept) // 8 * 8
    wrong, right = (restarted(potential, part[:n], Stream(2), n_frames=8, n_tuning=8) for part in (kept, frames))
    # Student's t with 7 degrees exceeds 5 with probability 0.0016
    assert wrong["mean distance"] > 5 > max(right.values())
    with pytest.raises(InputError, match="a multiple of 8"):
        restarted(potential, frames[:10], Stream(0))


def test_lennard_jones_is_sampled_without_overlaps() -> None:
    with torch.no_grad():
        made = Tempered(64, 4, n_moves=1, share=0.7)(LJ13ECNF(), 1, Stream(0))
    shortest = pair_distances(made.frames.flatten(0, 1)).amin(1)
    assert made.certificate.acceptance > 0.2
    assert float(shortest.min()) > 0.7 and float(shortest.max()) < 1.2  # the well of a pair is at 1


def test_a_data_set_knows_its_law_and_splits_by_chain() -> None:
    made = Boltzmann(DoubleWell(1), 500, 3, 10, reference=Tempered(128, share=0.8)).simulate(Stream(0))
    assert dict(made.sizes) == {"sample": 500, "coordinate": 1, "observation": 3}
    splits = {name: set(made["unit"].to_numpy()[made["split"].to_numpy() == name]) for name in ("train", "test")}
    assert not splits["train"] & splits["test"] and 28 <= len(splits["test"]) <= 36
    assert potential_of(made) == DoubleWell(1)
    law = Law.of(made, Stream(0))
    assert float(law.masses.sum()) == pytest.approx(1, abs=1e-9) and law.free_energy == pytest.approx(0, abs=1e-9)
    x = torch.as_tensor(made["data"].to_numpy()).double()
    energy = DoubleWell(1).energy(x)
    assert np.allclose(energy, made["potential_energy"], rtol=0, atol=1e-5)  # positions are kept in float32
    again = Boltzmann(DoubleWell(1), 500, 3, 10, reference=Tempered(128, share=0.8)).simulate(Stream(0))
    assert again.identical(made)
    with pytest.raises(InputError, match="names the potential None"):
        potential_of(made.drop_attrs())
    with pytest.raises(InputError, match="leave nothing to train on"):
        Boltzmann(test=0.6, validation=0.5)


def rows_of(results: object) -> dict[tuple[str, str], dict[str, str]]:
    with open(results / "metrics.csv", newline="") as file:
        return {(row["posterior"], row["metric"]): row for row in csv.DictReader(file)}


def test_a_run_scores_every_sampler_beside_perfect_draws(place: Place) -> None:
    """The empirical prior returns training frames, blurred by the last level: close to the law, and seen to be so."""
    small = {"dataset.n_samples": 2048, "dataset.reference.n_chains": 1024, "sample.n_samples": 256}
    fine = {"sample.times.n_steps": 16, "sample.times.ratio_min": 0.02}
    rows = rows_of(place.build(change(MOLECULES, {**small, **fine})))
    for metric in ("js", "pmf_error", "energy_w2", "observable_w2"):
        assert float(rows["perfect draws", metric]["value"]) > 0
        # two repeats of one training set: the shift of that set is in the z of both
        assert abs(float(rows["flow", f"{metric}_z"]["value"])) < 6
    error = rows["flow", "free_energy_error"]
    assert abs(float(error["value"])) < 5 * float(error["stderr"]) + 0.2  # and that of 1024 chains
    report = (place.results() / "report.html").read_text()
    assert "Certificate of the data: log Z" in report and report.count("data:image/png") >= 3


def test_two_samplers_are_compared_with_each_other() -> None:
    """Four repeats of 2000: exact draws cannot be told apart, draws that moved by a fifth of their spread can."""
    data = Boltzmann(DoubleWell(1), 500, 3, 10, reference=Tempered(128, share=0.8)).simulate(Stream(0))
    law, n = Law.of(data, Stream(1)), 2000
    sets = torch.stack([law.perfect(k, n) for k in range(12)]).reshape(3, 4, n, 1)
    sets[2] += 0.2 * float(sets.std())
    names, dims = ["sampling", "simulation", "moved"], ("posterior", "observation", "member", "coordinate")
    samples = xr.Dataset({"samples": (dims, sets.numpy())}, {"posterior": names})
    found = evaluate(["consistency_js"], data, samples, None, Stream(2))
    rows = {(row.posterior, row.metric): row.score for row in found.rows}
    # z of one repeat is about N(0, 1), and of eight sets the floor: 4 is six standard deviations of the mean of four
    assert abs(rows["simulation", "consistency_js_z"].value) < 4 < 10 < rows["moved", "consistency_js_z"].value
    assert rows["simulation", "consistency_js"].note == "from 2000 samples of sampling"
    assert ("sampling", "consistency_js") not in rows and rows["perfect draws", "consistency_js"].value > 0
    shown = [{"posterior": row.posterior, "metric": row.metric, "value": row.score.value} for row in found.rows]
    said = verdicts(Evidence(data, samples, found.arrays, shown, {}, None))
    assert any(one.startswith("simulation and sampling agree") for one in said)
    assert any(one.startswith("moved and sampling differ, ") for one in said)


def test_a_cluster_is_compared_with_held_out_frames(place: Place) -> None:
    values = change(MOLECULES, {"dataset.potential": {"kind": "dw4"}, "dataset.test": 0.5})
    results = place.build(values, until="evaluate")
    rows = rows_of(results)
    assert {metric for _, metric in rows} == {"energy_w2", "energy_w2_z", "observable_w2", "observable_w2_z"}
    assert rows["flow", "energy_w2"]["note"] == "64 samples"
    with xr.open_dataset(results / "samples.nc") as samples:
        assert samples["samples"].dims == ("posterior", "observation", "member", "particle", "axis")


def test_samplers_that_need_a_measurement_say_so(place: Place) -> None:
    guided = {"guided": {"kind": "guided", "guidance": {"kind": "pigdm"}}}
    values = change(MOLECULES, {"sample.posteriors": guided})
    place.build(values, until="train")
    outcome = place.sciflow("sample", "run.yaml")
    assert outcome.status == 2 and "Unobserved" in outcome.text


def test_perfect_draws_of_frames_are_two_halves_without_repeats() -> None:
    frames = torch.arange(100.0, dtype=torch.float64).reshape(50, 2)
    law = Law(replace(DoubleWell(), dimension=3), frames, 0, Stream(0))
    assert law.size(1000) == 25 and not law.is_exact
    first, second = (set(law.perfect(k, 25)[:, 0].tolist()) for k in (0, 1))
    assert len(first) == len(second) == 25 and not first & second


def test_a_centred_network_gives_positions_with_their_centre_at_zero(place: Place) -> None:
    """And its model is the prior of another run."""
    network = {"kind": "egnn", "width": 8, "depth": 2}
    centred = {"kind": "network", "network": network, "optimisation": {"n_steps": 3}, "centred": True}
    cluster = change(MOLECULES, {"dataset.potential": {"kind": "dw4"}, "train": centred})
    drawn = {}
    for name, train in (("own", centred), ("again", {"kind": "checkpoint", "path": "results/own/model.pt"})):
        with xr.open_dataset(place.build({**cluster, "train": train}, name, until="sample") / "samples.nc") as samples:
            drawn[name] = samples["samples"].load()
    assert drawn["own"].dims[-2:] == ("particle", "axis") and drawn["own"].shape[-2:] == (4, 2)
    assert float(abs(drawn["own"].mean("particle")).max()) < 1e-5  # four numbers of about 3 in float32
    assert float(drawn["own"].std()) > 1
    np.testing.assert_array_equal(drawn["own"], drawn["again"])


def test_a_network_that_is_told_forces_learns_the_score_in_few_steps(place: Place) -> None:
    """Of DW4 at small noise: the forces of frames that it has not seen, nearer than one that is told noise alone."""
    network = {"kind": "egnn", "width": 16, "depth": 2}
    options = {"n_steps": 300, "learning_rate": 4e-3, "warm_up": 10, "optimiser": "soap", "ema_decay": 0.95}
    learned = {"kind": "network", "network": network, "optimisation": options, "schedule": {"kind": "edm"},
               "centred": True}  # fmt: skip
    cluster = change(MOLECULES, {"dataset.potential": {"kind": "dw4"}, "dataset.n_samples": 4096})
    missed = {}
    for kind in ("target_score", "denoising"):
        law = {"kind": kind, "mean": -2.0, "spread": 1.5}
        results = place.build({**cluster, "train": {**learned, "loss": law}}, kind, until="train")
        model = load(results / "model.pt")
        with xr.open_dataset(results / "data.nc") as data:
            x = torch.as_tensor(data["data"][data["split"] == "test"].values)
            known = free(score(data)(x.double()))
        t = float(model.schedule.time(torch.tensor(math.log(1 / 0.02), dtype=torch.float64)))
        with torch.no_grad():
            told = denoiser_score(model, free(x).float(), t)
        missed[kind] = float((told - known).square().sum() / known.square().sum())
    assert missed["target_score"] < 0.5 * missed["denoising"], missed


def test_forces_are_not_told_of_particles_that_move_as_a_whole(place: Place) -> None:
    learned = {"kind": "network", "network": {"kind": "mlp"}, "loss": {"kind": "target_score"}}
    for dataset in ({"kind": "boltzmann", "potential": {"kind": "dw4"}}, {"kind": "langevin"}):
        said = place.sciflow("check", place.write({**MOLECULES, "dataset": dataset, "train": learned}))
        assert said.status == 2 and "Add `train.centred: true`" in said.text


def test_the_score_of_atoms_that_overlap_is_not_a_number() -> None:
    """A force field, whose energy is infinite there, has force 0, which would be a score of 0."""
    pytest.importorskip("openmm")
    molecule = AlanineDipeptide()
    x = torch.as_tensor(molecule.molecule.positions).double().repeat(2, 1, 1)
    x[1, 5] = x[1, 0]
    told = score(xr.Dataset(attrs={"potential": packed(molecule)}))(x)
    assert bool(told[0].isfinite().all()) and bool(told[1].isnan().all())


@pytest.mark.slow
def test_a_second_run_file_cools_what_a_first_one_has_learned(place: Place) -> None:
    """As docs/molecules.md has it; a network that has learned nothing has N(0, s²), its square is N(0, s²/2)."""
    nothing = {"n_steps": 1, "learning_rate": 1e-9}
    learned = {"kind": "network", "network": {"kind": "egnn", "width": 8, "depth": 2}, "schedule": {"kind": "edm"},
               "optimisation": nothing, "centred": True}  # fmt: skip
    hot = change(MOLECULES, {"dataset.potential": {"kind": "dw4", "temperature": 2.0}, "train": learned})
    place.build(hot, "hot", until="train")
    cooled = {"kind": "annealed", "power": 2.0, "ensemble": {"n_particles": 512}}
    changes = {
        "dataset.potential": {"kind": "dw4", "temperature": 1.0},
        "train": {"kind": "checkpoint", "path": "results/hot/model.pt"},
        "sample.posteriors": {"cooled": cooled, "as it is": {"kind": "unguided"}},
        "sample.times": {"kind": "log_snr", "n_steps": 20, "ratio_max": 20.0, "ratio_min": 0.01},
        "sample.n_samples": 512,
        "dataset.n_repeats": 1,
        "evaluate.metrics": ["energy_w2"],
    }
    results = place.build(change(MOLECULES, changes), "cold", until="evaluate")
    square = load(place.results("hot") / "model.pt").std ** 2
    with xr.open_dataset(results / "samples.nc") as samples:
        drawn = samples["samples"].sel(observation=0).load()
    degrees = 3 * 2  # of four particles in the plane, whose centre stays
    for name, power in (("cooled", 2.0), ("as it is", 1.0)):
        found = float((drawn.sel(posterior=name) ** 2).sum(("particle", "axis")).mean()) / degrees
        # s.e. √(2/3072), 2.6 %; twenty steps of second order leave below 1 %
        assert found == pytest.approx(square / power, rel=4 * math.sqrt(2 / (512 * degrees)) + 0.01)
    metrics = (results / "metrics.csv").read_text()
    assert "cooled" in metrics and "energy_w2_z" in metrics  # against frames at the lower temperature
