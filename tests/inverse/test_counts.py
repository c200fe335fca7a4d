"""Counts of photons: their noise, their density, its gradient, and the Gaussian that stands for it."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Poisson

from sciflow.diffusion import Cosine, GaussianDenoiser
from sciflow.errors import InputError
from sciflow.inverse import (
    Dense,
    GaussianLikelihood,
    Guided,
    Identity,
    LogPoissonLikelihood,
    LogPoissonNoise,
    NonlinearGaussianLikelihood,
    ParallelBeam,
    PhaseRetrieval,
    PiGDM,
    PoissonLikelihood,
    PoissonNoise,
    TwistedSMC,
)
from sciflow.random import Stream

SHAPE = (1, 6, 6)
OPERATOR = ParallelBeam(5, pixel_size=0.1).on(SHAPE)
IMAGES = Stream(0).uniform(3, SHAPE, dtype=torch.float64)


def test_counts_have_the_mean_and_variance_of_a_poisson_law() -> None:
    rate = torch.tensor([0.3, 4.0, 250.0], dtype=torch.float64)
    n = 20_000
    counts = PoissonNoise(gain=1.0).sample(rate.expand(n, 3), Stream(1))
    assert torch.equal(counts, counts.round())
    assert ((counts.mean(0) - rate).abs() < 4 * (rate / n).sqrt()).all()
    spread = (rate * (1 + 2 * rate) / n).sqrt()  # standard error of the variance: (μ₄ − λ²)/n = (λ + 2λ²)/n
    assert ((counts.var(0) - rate).abs() < 4 * spread).all()


def test_empty_bins_have_a_finite_logarithm_and_are_read_back_as_empty() -> None:
    measured = LogPoissonNoise(photons=20.0).sample(torch.full((1, 500), 4.0), Stream(2))[0]
    assert measured.isfinite().all() and float(measured.max()) == pytest.approx(math.log(200), rel=1e-6)
    likelihood = LogPoissonLikelihood(measured, Identity(), photons=20.0)
    counts = likelihood.counts()
    assert int((counts == 0).sum()) > 250  # e^{−20 e^{−4}} = 69 % are empty
    assert torch.equal(counts, counts.round())


def test_log_prob_is_that_of_the_counts() -> None:
    photons = 300.0
    measured = LogPoissonNoise(photons).sample(OPERATOR(IMAGES[:1]), Stream(3))[0]
    likelihood = LogPoissonLikelihood(measured, OPERATOR, photons)
    law = Poisson(photons * torch.exp(-OPERATOR(IMAGES)))
    assert torch.allclose(likelihood.log_prob(IMAGES), law.log_prob(likelihood.counts()).sum(1), rtol=1e-12)

    measured = PoissonNoise(40.0, 0.1).sample(OPERATOR(IMAGES[:1]), Stream(3))[0]
    plain = PoissonLikelihood(measured, OPERATOR, 40.0, 0.1)
    law = Poisson(40 * (OPERATOR(IMAGES) + 0.1))
    assert torch.allclose(plain.log_prob(IMAGES), law.log_prob(plain.counts()).sum(1), rtol=1e-12)


@pytest.mark.parametrize("kind", ["log_poisson", "poisson"])
def test_the_gradient_is_the_adjoint_of_what_is_missing(kind: str) -> None:
    """Aᵀ(λ − N) for the logarithm, Aᵀ gain (N/λ − 1) for counts themselves."""
    x = IMAGES.clone().requires_grad_()
    if kind == "log_poisson":
        measured = LogPoissonNoise(300.0).sample(OPERATOR(IMAGES[:1]), Stream(3))[0]
        likelihood = LogPoissonLikelihood(measured, OPERATOR, 300.0)
        expected = OPERATOR.adjoint(300 * torch.exp(-OPERATOR(IMAGES)) - likelihood.counts())
    else:
        measured = PoissonNoise(40.0, 0.1).sample(OPERATOR(IMAGES[:1]), Stream(3))[0]
        likelihood = PoissonLikelihood(measured, OPERATOR, 40.0, 0.1)
        expected = OPERATOR.adjoint(40 * (likelihood.counts() / (40 * (OPERATOR(IMAGES) + 0.1)) - 1))
    (found,) = torch.autograd.grad(likelihood.log_prob(x).sum(), x)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-9)  # rounding of sums of counts up to 300


def test_the_score_of_the_true_image_has_mean_zero() -> None:
    """Over 500 draws of the noise: within 4 standard errors in each pixel of 36 (a false alarm in 1 of 400 runs)."""
    x, n = IMAGES[:1].clone().requires_grad_(), 500
    measured = LogPoissonNoise(50.0).sample(OPERATOR(IMAGES[:1]).expand(n, -1), Stream(4))
    scores = []
    for y in measured:
        (score,) = torch.autograd.grad(LogPoissonLikelihood(y, OPERATOR, 50.0).log_prob(x).sum(), x)
        scores.append(score)
    stacked = torch.cat(scores)
    assert (stacked.mean(0).abs() < 4 * stacked.std(0) / math.sqrt(n)).all()


@pytest.mark.parametrize("kind", ["log_poisson", "poisson"])
def test_the_gaussian_is_that_of_many_photons(kind: str) -> None:
    """Differences of log p between images near the truth agree to O(1/√photons): 1e6 photons, misfits of order one."""
    near = IMAGES[:1] + 1e-3 * Stream(5).normal(2, SHAPE, dtype=torch.float64)
    if kind == "log_poisson":
        measured = LogPoissonNoise(1e6).sample(OPERATOR(IMAGES[:1]), Stream(6))[0]
        likelihood = LogPoissonLikelihood(measured, OPERATOR, 1e6)
    else:
        measured = PoissonNoise(1e6, 0.1).sample(OPERATOR(IMAGES[:1]), Stream(6))[0]
        likelihood = PoissonLikelihood(measured, OPERATOR, 1e6, 0.1)
    exact, gaussian = likelihood.log_prob(near), likelihood.gaussian().log_prob(near)
    assert float((exact[0] - exact[1] - (gaussian[0] - gaussian[1])).abs()) < 0.05
    assert float((exact[0] - exact[1]).abs()) > 0.5  # there is something to agree on


def test_guidance_and_weighted_samplers_take_counts() -> None:
    prior = GaussianDenoiser(torch.full((6,), 0.5), 0.04 * torch.eye(6), Cosine())
    operator = Dense.of(Stream(7).uniform(8, (6,)).double())
    measured = LogPoissonNoise(1e4).sample(operator(torch.full((1, 6), 0.6)), Stream(8))[0].float()
    likelihood = LogPoissonLikelihood(measured, operator, 1e4)
    times = torch.linspace(0.02, 0.99, 21)
    exact = likelihood.gaussian()  # of a Gaussian prior the posterior is known
    matrix = exact.operator(torch.eye(6).float()).T.double()
    covariance = torch.linalg.inv(25 * torch.eye(6).double() + matrix.T @ matrix)
    mean = covariance @ (25 * torch.full((6,), 0.5).double() + matrix.T @ exact.observation.double())
    for posterior in (Guided(), TwistedSMC(256)):
        drawn = posterior(prior, likelihood, times, 256, Stream(9)).x.double()
        error = (covariance.diagonal() / 256).sqrt()
        assert ((drawn.mean(0) - mean).abs() < 4 * error + 0.05 * covariance.diagonal().sqrt()).all()  # and of 20 steps


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PoissonNoise().sample(torch.tensor([[-1.0]]), Stream(0)), "rates ≥ 0, got -100 photons"),
        (lambda: PoissonLikelihood(torch.tensor([-0.1])), "counts cannot be negative, got -0.1"),
        (lambda: PoissonLikelihood(torch.ones(2), gain=0.0), "gain > 0"),
        (lambda: LogPoissonLikelihood(torch.ones(2), photons=math.inf), "finite photons > 0"),
        (lambda: LogPoissonLikelihood(torch.ones(2)).on((3,)), "2 measurements, but Identity makes 3"),
        (lambda: GaussianLikelihood(torch.ones(2, dtype=torch.complex64)), "must be real, got torch.complex64"),
        (lambda: GaussianLikelihood(torch.ones(2), PhaseRetrieval()), "needs a linear operator, got PhaseRetrieval"),
        (
            lambda: PiGDM(
                GaussianDenoiser(torch.zeros(4), torch.eye(4), Cosine()),
                NonlinearGaussianLikelihood(torch.ones(4), Identity()),
            ),
            "PiGDM needs a GaussianLikelihood, got NonlinearGaussianLikelihood",
        ),
    ],
)
def test_bad_input(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
