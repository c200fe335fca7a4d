"""Kicked fields as hidden chains: the data set's own draws, the exact Kalman filter, what is stored and refused."""

from __future__ import annotations

import csv
import functools
import io
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

from sciflow import config
from sciflow.diffusion import model as stored_model
from sciflow.diffusion.known import CHAINS, KnownDynamics
from sciflow.diffusion.model import load, pack, unpack
from sciflow.domains import filtered
from sciflow.domains.pde.chain import KickedChain
from sciflow.domains.pde.equations import Advection, Burgers, KuramotoSivashinsky
from sciflow.domains.pde.kicked import Kicked
from sciflow.domains.pde.kicks import Kicks
from sciflow.domains.pde.navier_stokes import NavierStokes
from sciflow.domains.pde.network import dynamics
from sciflow.errors import InputError, NonFiniteError
from sciflow.inverse import EnsembleKalmanFilter, GaussianLikelihood, GaussianNoise, ParticleFilter
from sciflow.inverse.observe import Observation
from sciflow.inverse.sensors import Sensors
from sciflow.particles.filtering import LinearMeasurements
from sciflow.particles.kalman import Gaussians, LinearChain
from sciflow.random import Stream
from tests.tiny import FORECAST, Place, change

LAW = Kicks(Burgers(0.3), size=16, gust_width=0.8, gust_rate=1.0, n_times=3, kicks=2, spin_up=1.0)
CHAIN = KickedChain(LAW)
SEEN = Observation(Sensors(stride=4, channels=4), GaussianNoise(0.1))
MEASURED = Kicked(
    equation=Burgers(0.3), size=16, gust_width=0.8, gust_rate=1.0, n_times=3, kicks=2, spin_up=1.0, n_samples=60,
    n_observations=3, test=0.1, validation=0.1, observation=SEEN,
)  # fmt: skip


# The chain is the data set's ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("equation", [Burgers(0.3), NavierStokes(viscosity=0.3)], ids=repr)
def test_the_chain_draws_what_the_data_set_draws(equation: Any) -> None:
    """The same stream of kicks gives the same bytes, from rest and from one field to the next."""
    law, stream = replace(LAW, equation=equation), Stream(3)
    chain, kicks, rest = KickedChain(law), stream.child("kicks"), torch.zeros(5, *law.box.shape, dtype=torch.float64)
    past = law.first_kick // law.kicks
    path = law.follow(rest, lambda k: law.kick(5, kicks, k), past + law.n_times, law.step, {})[:, past:].flatten(2)
    rows = [chain.initial(5, stream)]
    for k in range(chain.n_steps):
        rows.append(chain.forecast(k, rows[-1], stream))
    assert torch.equal(torch.stack(rows, 1), path) and float(path.std()) > 0.1
    assert chain.shape == law.box.shape and chain.n_steps == 3 and chain.is_random


def test_paths_have_the_law_of_the_data() -> None:
    """Mean energy at each place, at the first and the last time, of 400 paths and of 400 other trajectories."""
    data = replace(MEASURED, n_samples=400, n_observations=2).simulate(Stream(1))["data"].to_numpy()
    paths = CHAIN.simulate(400, Stream(2))
    for time in (0, -1):
        ours, theirs = paths[:, time].square().mean(1), torch.as_tensor(data[:, time]).double().square().mean(1)
        stderr = math.hypot(float(ours.std()), float(theirs.std())) / 20  # of a difference of means of 400 each
        assert abs(float(ours.mean() - theirs.mean())) < 4 * stderr


def test_a_row_does_not_depend_on_the_others() -> None:
    x = CHAIN.initial(70, Stream(1))
    whole = CHAIN.forecast(1, x, Stream(2))
    parts = [CHAIN.forecast(1, x[i:j], Stream(2).rows_from(i)) for i, j in ((0, 1), (1, 6), (6, 70))]
    assert torch.equal(torch.cat(parts), whole)
    operator = Sensors(stride=4, channels=4).bind({}, (4, 16))
    likelihood = GaussianLikelihood(torch.zeros(16, dtype=torch.float64), operator, 0.5)
    tiles = [ParticleFilter(96, tile=t)(KnownDynamics(CHAIN), likelihood, [0.0, 1.0], 5, Stream(1)) for t in (96, 7)]
    assert torch.equal(tiles[0].x, tiles[1].x) and tiles[0].log_evidence == tiles[1].log_evidence
    single = CHAIN.beside(torch.empty(0, dtype=torch.float32))
    assert single.initial(3, Stream(1)).dtype == torch.float32
    assert torch.equal(single.initial(3, Stream(1)), x[:3].float())


# Its law, beside Kalman's ---------------------------------------------------------------------------------------------

LINEAR = KickedChain(
    Kicks(Advection(1.0), size=12, n_times=4, kicks=2, gust_rate=0.0, stirring=1.0, waves=2, spin_up=1.0), noise=0.1
)
SIGMA, N, RUNS = 0.6, 400, 40


def kicked_covariance(law: Kicks) -> tuple[Tensor, Tensor]:
    """A of one interval of advection, column by column, and the covariance of what its Gaussian kicks become."""
    identity = torch.eye(12, dtype=torch.float64)
    a = KickedChain(replace(law, stirring=0.0)).forecast(0, identity, Stream(0)).T
    one = replace(law, kicks=1, interval=law.between, stirring=0.0)
    b = KickedChain(one).forecast(0, identity, Stream(0)).T  # from one kick to the next
    waves, angles = law.box.waves(law.waves)
    basis = torch.cat([angles.cos(), angles.sin()])
    kick = law.stirring**2 * law.between / len(waves) * basis.T @ basis
    assert torch.allclose(b @ b, a, atol=1e-12)
    return a, b @ (kick + b @ kick @ b.T) @ b.T


@functools.cache
def problem() -> tuple[GaussianLikelihood, Gaussians, Gaussians]:
    """Measurements of one path, and the exact filter and smoother: the start is what two intervals make of rest."""
    a, noise = kicked_covariance(LINEAR.law)
    start = noise + a @ noise @ a.T
    operator = Sensors(stride=6, channels=5, every=2).bind({}, (5, 12))
    truth = LINEAR.simulate(1, Stream(7))
    y = (operator(truth) + SIGMA * Stream(8).normal(1, (6,), dtype=torch.float64))[0]
    matrix, nothing = torch.eye(12, dtype=torch.float64)[::6], torch.empty(0, dtype=torch.float64)
    seen = LinearMeasurements(
        (y[:2], nothing, y[2:4], nothing, y[4:]),
        (matrix, matrix[:0], matrix, matrix[:0], matrix),
        SIGMA,
    )
    q = LINEAR.noise**2 * torch.eye(12, dtype=torch.float64)
    chain = LinearChain(a, noise + q, torch.zeros(12, dtype=torch.float64), start, seen)
    return GaussianLikelihood(y, operator, SIGMA), chain.filtered(), chain.smoothed()


@pytest.mark.parametrize(
    ("sampler", "bias"),
    [
        # O(1/n) of means and variances: the first measurement leaves about a tenth of the particles
        (ParticleFilter(N), 10 / N),
        (ParticleFilter(N, law="smoothing"), 10 / N),
        # O(1/n) of a covariance of the four directions of two waves, and of the mean
        (EnsembleKalmanFilter(N), 5 / N),
        (EnsembleKalmanFilter(N, "transform"), 5 / N),
    ],
    ids=["bootstrap", "smoothing", "stochastic", "transform"],
)
def test_a_stirred_wave_is_filtered_as_kalman_does(sampler: Any, bias: float) -> None:
    """Advection under Gaussian stirring is a linear Gaussian chain: means, variances and evidence over 40 runs."""
    likelihood, forward, backward = problem()
    exact = backward if getattr(sampler, "law", "") == "smoothing" else forward
    runs = [sampler(KnownDynamics(LINEAR), likelihood, [0.0, 1.0], N, Stream(5, (seed,))) for seed in range(RUNS)]
    means, variances = (torch.stack([getattr(run.x, name)(0) for run in runs]) for name in ("mean", "var"))
    wanted = exact.covariance.diagonal(dim1=1, dim2=2)
    for found, right in (((means - exact.mean) / wanted.sqrt(), 0.0), (variances / wanted, 1.0)):
        # four standard errors over the runs, of 60 numbers at once, and the bias
        assert bool(((found.mean(0) - right).abs() < 4 * found.std(0) / math.sqrt(RUNS) + bias).all())
    ratio = torch.tensor([math.exp(run.log_evidence - exact.log_evidence) for run in runs], dtype=torch.float64)
    allowed = 4 * float(ratio.std()) / math.sqrt(RUNS) + (0.0 if isinstance(sampler, ParticleFilter) else 3 * bias)
    assert abs(float(ratio.mean()) - 1) < allowed  # unbiased for particles; else O(1/n) in each of three densities
    assert allowed < 0.5, "the law would see nothing"


def test_localisation_on_the_ring_forgets_what_is_far() -> None:
    """One sensor at point 0: beyond twice the length nothing moves; without localisation everything does."""
    like = torch.empty(0, dtype=torch.float64)
    operator = Sensors(stride=12, channels=1).bind({}, (5, 12))
    likelihood = GaussianLikelihood(torch.ones(1).to(like), operator, SIGMA)
    prior, free = KnownDynamics(LINEAR), LINEAR.initial(20, Stream(3).child("initial"))
    for variant in ("stochastic", "transform"):
        local, whole = (
            EnsembleKalmanFilter(20, variant, localisation=length)(prior, likelihood, [0.0, 1.0], 20, Stream(3)).x[:, 0]
            for length in (2.0, None)
        )
        is_far = [4, 5, 6, 7, 8]  # 4 points or more from 0 on a ring of 12
        assert torch.allclose(local[:, is_far], free[:, is_far], rtol=0, atol=1e-12)
        assert float((local[:, [0, 1, 11]] - free[:, [0, 1, 11]]).abs().max()) > 0.01
        assert float((whole[:, is_far] - free[:, is_far]).abs().max()) > 0.01


def test_planes_are_filtered_as_rows_and_come_back_as_planes() -> None:
    """Vorticity on a torus: draws have its axes, and go by what was measured."""
    law = replace(LAW, equation=NavierStokes(viscosity=0.3), size=8, gust_rate=0.0, stirring=1.0, waves=2, n_times=2)
    prior, operator = KnownDynamics(KickedChain(law)), Sensors(stride=2, channels=3).bind({}, (3, 8, 8))
    assert prior.shape == (3, 8, 8) and prior.initial(1.0, 2, Stream(0)).shape == (2, 3, 8, 8)
    truth = KickedChain(law).simulate(1, Stream(9)).reshape(1, 3, 8, 8)
    likelihood = GaussianLikelihood(operator(truth)[0], operator, 0.3)
    for sampler in (ParticleFilter(2048), EnsembleKalmanFilter(128)):
        draws = sampler(prior, likelihood, [0.0, 1.0], 16, Stream(1))
        assert draws.x.shape[1:] == (3, 8, 8) and math.isfinite(draws.log_evidence)
        left = (draws.x.mean(0) - truth[0]).square().mean() / truth.square().mean()
        assert float(left) < 0.5  # sixteen sensors of a field of twelve modes; without them it is 1 or more
    with pytest.raises(InputError, match=r"along a ring of coordinates, but states have the shape \(8, 8\)"):
        EnsembleKalmanFilter(16, localisation=3.0)(prior, likelihood, [0.0, 1.0], 16, Stream(1))


# The data set, and what is stored -------------------------------------------------------------------------------------


def test_states_are_measured_in_time_and_the_file_names_the_chain() -> None:
    data = MEASURED.simulate(Stream(1))
    truth = torch.as_tensor(data["truth"].to_numpy())
    assert data.attrs["n_given"] == 0 and "exact" not in data.variables
    assert data["measured"].shape == (3, 16) and data["sensor_time"].to_numpy().tolist() == sorted(
        [0.0, 0.5, 1, 1.5] * 4
    )
    off = torch.as_tensor(data["measured"].to_numpy()) - Sensors(4, 4)(truth)
    assert 0 < float(off.abs().max()) < 4.5 * 0.1  # 48 normal numbers: beyond 4.5 deviations once in 3000 files
    given = replace(MEASURED, observation=None).simulate(Stream(1))
    assert np.array_equal(given["truth"], data["truth"]) and "chain" not in given.attrs  # the same trajectories
    prior = dynamics(data)
    assert prior.space == MEASURED.space and prior.shape == (4, 16)
    assumed = dynamics(data, 40, 0.2).space
    assert isinstance(assumed, KickedChain) and assumed.law.step == 0.5 / 40 and assumed.noise == 0.2
    finer = assumed.forecast(0, CHAIN.initial(9, Stream(1)), Stream(2)) - CHAIN.forecast(
        0, CHAIN.initial(9, Stream(1)), Stream(2)
    )
    assert 0 < float(finer.abs().max()) < 1e-3  # the same kicks, in steps a quarter as long


def test_a_chain_is_stored_and_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for equation in (Burgers(0.3), NavierStokes(viscosity=0.3, drag=0.1), KuramotoSivashinsky()):
        prior = KnownDynamics(KickedChain(replace(LAW, equation=equation), 0.1))
        file = io.BytesIO()
        torch.save(pack(prior), file)
        again = unpack(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
        assert isinstance(again, KnownDynamics) and again.space == prior.space
        assert again.space == KickedChain.restored(json.loads(json.dumps(prior.space.stored())))
    fields = pack(KnownDynamics(CHAIN))
    with pytest.raises(InputError, match=r"equation 'ether' is not known, only \['advection'"):
        unpack({**fields, "equation": {"kind": "ether"}})
    monkeypatch.delitem(CHAINS, "kicked")
    with pytest.raises(InputError, match=r"its chain 'kicked' is not known, only \[\]. `import sciflow.domains` first"):
        unpack(fields)
    with pytest.raises(TypeError, match="KickedChain has no stored form"):
        stored_model.pack(KnownDynamics(CHAIN))


# Refusals -------------------------------------------------------------------------------------------------------------

FILTERED: dict[str, Any] = change(
    FORECAST,
    {
        "dataset.stirring": 0.5,
        "dataset.observation": {
            "operator": {"kind": "sensors", "stride": 4, "channels": 4}, "noise": {"kind": "gaussian", "sigma": 0.1}
        },
        "train": {"kind": "dynamics"},
        "sample.likelihood": {
            "kind": "gaussian", "operator": {"kind": "sensors", "stride": 4, "channels": 4}, "sigma": 0.1
        },
        "sample.posteriors": {
            "particles": {"kind": "particle_filter", "n_particles": 128},
            "EnKF": {"kind": "ensemble_kalman", "n_members": 16, "localisation": 4.0},
        },
        "sample.n_samples": 8,
    },
)  # fmt: skip
FLOW = {"kind": "navier_stokes", "viscosity": 0.3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset.observation": None}, r"`kicked` gives the first field whole and no later one. Say how fields are"),
        ({"dataset.varied": {"viscosity": [0.3, 0.6]}}, r"one equation, but dataset.varied draws \['viscosity'\] anew"),
        ({"dataset.n_given": 2}, "n_given is 2, but dataset.observation says what is measured"),
        ({"train.n_substeps": 5}, "train.n_substeps is 5, but steps must end at each of the 2 kicks .* multiple of 2"),
        ({"train": {"kind": "closed_form"}}, "'particles', 'EnKF' follow an equation in time, which only"),
        (
            {"sample.posteriors.EnKF": {"kind": "guided"}},
            "EnKF asks a denoiser, and `train: {kind: dynamics}` has none",
        ),
        ({"sample.posteriors.particles.proposal": "guided"}, "particles: a guided filter needs .* random moves"),
        (
            {"sample.posteriors.particles.proposal": "guided", "train.model_noise": 0.1},
            "particles: a guided filter needs .* got noise = 0.1 and random moves",
        ),
        ({"sample.posteriors.particles.law": "smoothing"}, "particles: smoothing draws backwards through additive"),
        ({"dataset.equation": FLOW}, r"EnKF: localisation knows distances along a ring .* shape \(16, 16\)"),
        (
            {"dataset": {"kind": "evolving"}, "sample.likelihood": {"kind": "gaussian"}},
            "the data set Evolving was made by no equation that a filter could follow. Use `lorenz63`",
        ),
    ],
)
def test_what_cannot_be_followed_is_refused_before_any_work(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        config.parse(change(FILTERED, changes), "run.yaml")


def test_smoothing_is_taken_where_noise_is_assumed() -> None:
    changes = {"sample.posteriors.particles.law": "smoothing", "train.model_noise": 0.1}
    parsed = config.parse(change(FILTERED, changes), "run.yaml")
    assert parsed.train.chain(parsed.dataset).noise == 0.1  # type: ignore[attr-defined]


def test_data_without_a_chain_are_refused() -> None:
    varied = replace(MEASURED, varied={"viscosity": (0.3, 0.6)}).simulate(Stream(1))  # for windows: it has no chain
    with pytest.raises(InputError, match="names no chain that made it"):
        dynamics(varied)
    with pytest.raises(InputError, match="model noise of a chain must be ≥ 0, got -1"):
        KickedChain(LAW, -1.0)


def test_the_five_stages_filter_a_field(place: Place) -> None:
    """From a run file to a report; every field counts, the first too, and measurements bring the mean to the truth."""
    results = place.build(FILTERED)
    assert load(results / "model.pt").shape == (4, 16)
    with (results / "metrics.csv").open(newline="") as file:
        rows = {(row["posterior"], row["metric"]): row for row in csv.DictReader(file)}
    with xr.open_dataset(results / "data.nc") as data, xr.open_dataset(results / "samples.nc") as samples:
        truth, drawn = data["truth"].to_numpy(), samples["samples"].to_numpy()
        assert samples["samples"].dims == ("posterior", "observation", "member", "time", "x")
    for name, members in zip(("particles", "EnKF"), drawn, strict=True):
        off = ((members.mean(1) - truth) ** 2).mean((1, 2))
        assert float(rows[name, "rmse"]["value"]) == pytest.approx(math.sqrt(off.mean()), rel=1e-5)
        assert off.mean() < 0.5 * (truth**2).mean(), "what is left of the prior's variance"
        assert math.isfinite(float(rows[name, "log_evidence"]["value"])) and (name, "correlation_time") not in rows
    assert 1 <= float(rows["particles", "ess_min"]["value"]) <= 128 and ("EnKF", "ess_min") not in rows
    with xr.open_dataset(results / "metrics.nc") as arrays:
        assert arrays["lead"].to_numpy().tolist() == [0.0, 0.5, 1.0, 1.5]
    report = (results / "report.html").read_text()
    assert report.count("data:image/png") >= 5 and "A filter looks back only" in report
    assert "How wrong is each forecast?" not in report and "no forecast can know" not in report


def test_a_chain_that_is_not_known_or_not_whole_is_refused() -> None:
    data = MEASURED.simulate(Stream(1))
    told = json.loads(data.attrs["chain"])
    with pytest.raises(InputError, match="is a 'mine', which is not known, only"):
        dynamics(data.assign_attrs(chain=json.dumps({**told, "kind": "mine"})))
    with pytest.raises(InputError, match=r"says nothing of \['length'\]"):
        dynamics(data.assign_attrs(chain=json.dumps({k: v for k, v in told.items() if k != "length"})))


def test_fields_that_blow_up_name_the_keys_that_set_the_steps() -> None:
    wild = KickedChain(replace(LAW, step=0.25, gust_strength=1e4, gust_rate=4.0))
    with pytest.raises(NonFiniteError, match=r"Raise train\.n_substeps, or lower dataset\.step"):
        wild.simulate(20, Stream(1))


def test_evidence_is_not_compared_with_a_sampler_that_has_none() -> None:
    own = {"log_evidence": torch.tensor([1.0, 2.0], dtype=torch.float64)}
    nothing = torch.full((2,), torch.nan, dtype=torch.float64)
    assert set(filtered.log_evidence(own, nothing)) == {"log_evidence"}
    assert set(filtered.log_evidence(own, own["log_evidence"] + 1)) == {"log_evidence", "log_evidence_gap"}
