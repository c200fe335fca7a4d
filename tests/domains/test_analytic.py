"""Problems whose answer is known: what is written as exact is exact, and exact draws score as such."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import xarray as xr

from sciflow.diffusion.schedule import Cosine
from sciflow.domains.analytic.figures import verdicts
from sciflow.domains.analytic.metrics import METRICS, answers, evaluate
from sciflow.domains.analytic.network import closed_form, law
from sciflow.domains.analytic.simulate import MixtureGrid
from sciflow.domains.protocol import Evidence
from sciflow.inverse.dense import Dense
from sciflow.inverse.likelihood import GaussianLikelihood, GaussianNoise
from sciflow.inverse.observe import Observation
from sciflow.random import Stream

STREAM = Stream(0).child("dataset")
SIGMA, N = 0.5, 256
GRID = MixtureGrid(
    dimension=4, modes_per_axis=2, n_problems=3, n_samples=64, observation=Observation(Dense(2), GaussianNoise(SIGMA))
)


def assumed(*, observation: torch.Tensor) -> GaussianLikelihood:
    return GaussianLikelihood(observation, Dense(2), SIGMA)


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    return GRID.simulate(STREAM)


def test_the_law_is_the_one_described(data: xr.Dataset) -> None:
    mixture = law(data)
    assert float(mixture.weights.sum()) == pytest.approx(1, abs=1e-12)  # float64 sum of four numbers
    assert {tuple(mean) for mean in mixture.means.tolist()} == {(a, b, a, b) for a in (-4.0, 4.0) for b in (-4.0, 4.0)}
    assert torch.equal(mixture.covariances, torch.eye(4, dtype=torch.float64).expand(4, -1, -1))
    assert data["data"].shape == (64, 4) and data["truth"].shape == (3, 4) and data["measured"].shape == (3, 2)
    assert set(data["split"].to_numpy()) == {"train", "validation"}


def test_the_prior_is_the_exact_denoiser(data: xr.Dataset) -> None:
    """At a noise level far below the modes' width, E[x₁ | x_t] = x_t/α shrunk by 1/(1 + σ²/α²) towards its mode."""
    prior, t = closed_form(data, Cosine()), 0.9
    alpha, sigma = float(prior.schedule.alpha(t)), float(prior.schedule.sigma(t))
    mode = law(data).means[:1]
    x = alpha * (mode + 0.3)
    shrunk = mode + 0.3 / (1 + (sigma / alpha) ** 2)
    assert torch.allclose(prior(x, t), shrunk, atol=1e-9)  # the other modes weigh e^{-32}


def test_the_evidence_is_that_of_the_gaussian_sum(data: xr.Dataset) -> None:
    """log Σ_k w_k N(y; A m_k, A Aᵀ + σ² I), written out."""
    known, mixture = answers(data, assumed, 8, STREAM), law(data)
    for i in range(3):
        matrix = torch.as_tensor(data["operator_matrix"].to_numpy()[i], dtype=torch.float64)
        y = torch.as_tensor(data["measured"].to_numpy()[i], dtype=torch.float64)
        covariance = matrix @ matrix.T + SIGMA**2 * torch.eye(2, dtype=torch.float64)
        density = torch.distributions.MultivariateNormal(mixture.means @ matrix.T, covariance)
        direct = (mixture.weights.log() + density.log_prob(y)).logsumexp(0)
        assert float(known.log_evidence[i]) == pytest.approx(float(direct), abs=1e-8)  # two routes in float64


def test_exact_draws_cannot_be_told_from_exact_draws_and_others_can(data: xr.Dataset) -> None:
    """A sampler that draws from the posterior meets the floor; the prior misses it."""
    known = answers(data, assumed, N, STREAM.child("someone else"))
    prior = torch.stack([law(data).sample(N, STREAM.child("prior", i)) for i in range(3)])
    draws = torch.stack([known.draws, prior])
    empty = np.full((2, 3), math.nan)
    numbers = {name: (("posterior", "observation"), empty) for name in ("log_evidence", "log_evidence_stderr")}
    dims = ("posterior", "observation", "member", "dimension")
    samples = xr.Dataset(
        {"samples": (dims, draws.numpy()), **numbers, "ess": (("posterior", "observation"), np.full((2, 3), float(N)))},
        coords={"posterior": ["exact", "prior"]},
    )
    found = evaluate(tuple(METRICS), data, samples, assumed, STREAM.child("evaluate"))
    score = {(row.posterior, row.metric): row.score for row in found.rows}
    floor, exact, wrong = (score[name, "sliced_w2"] for name in ("exact draws", "exact", "prior"))
    stderr = math.hypot(exact.stderr, floor.stderr)
    assert abs(exact.value - floor.value) < 4 * stderr  # both are distances of independent exact draws
    assert wrong.value > 5 * floor.value
    assert score["prior", "mode_weight_tv"].value > 4 * score["exact", "mode_weight_tv"].value
    assert not any(metric.startswith("evidence") for _, metric in score), "none of the two estimates it"
    rows = [{"posterior": r.posterior, "metric": r.metric, **dataclasses.asdict(r.score)} for r in found.rows]
    said = verdicts(Evidence(data, samples, found.arrays, rows, {}, closed_form(data, Cosine())))
    assert said[0] == "exact cannot be told from exact draws at this sample size."
    assert said[1].startswith("prior is ") and "times as far from the exact posterior as exact draws are" in said[1]


def test_without_distances_nothing_is_claimed(data: xr.Dataset) -> None:
    assert verdicts(Evidence(data, data, data, [], {}, closed_form(data, Cosine()))) == []
