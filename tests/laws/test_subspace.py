"""Mixtures along leading directions: their denoiser, their fit, and the posterior that they have in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sciflow.diffusion import Cosine, EmpiricalDenoiser, GaussianMixture, MixtureDenoiser
from sciflow.diffusion.model import pack, unpack
from sciflow.diffusion.subspace import SubspaceDenoiser, SubspaceMixture
from sciflow.errors import InputError
from sciflow.inverse import (
    Conjugate,
    Dense,
    GaussianLikelihood,
    LogPoissonLikelihood,
    NonlinearGaussianLikelihood,
    ParallelBeam,
    PhaseRetrieval,
)
from sciflow.random import Stream
from sciflow.training.mixture import fit_mixture

D, R = 9, 3
BASIS = torch.linalg.qr(Stream(0).normal(D, (R,), dtype=torch.float64)).Q
ROOTS = Stream(1).normal(2, (R, R), dtype=torch.float64)
INNER = GaussianMixture(
    torch.tensor([0.3, 0.7], dtype=torch.float64),
    Stream(2).normal(2, (R,), dtype=torch.float64),
    ROOTS @ ROOTS.transpose(1, 2) + 0.2 * torch.eye(R, dtype=torch.float64),
)
OUTSIDE = Stream(3).normal(1, (D,), dtype=torch.float64)[0]
LAW = SubspaceMixture(BASIS, INNER, OUTSIDE - BASIS @ (OUTSIDE @ BASIS), 0.4)


def whole() -> GaussianMixture:
    """The same law with all its covariances written out."""
    rest = 0.16 * (torch.eye(D, dtype=torch.float64) - BASIS @ BASIS.T)
    return GaussianMixture(INNER.weights, LAW.means(), BASIS @ INNER.covariances @ BASIS.T + rest)


@pytest.mark.parametrize("t", [0.01, 0.5, 0.97])
def test_the_denoiser_is_that_of_the_whole_mixture(t: float) -> None:
    ours, theirs = SubspaceDenoiser(LAW, Cosine(), (1, 3, 3)), MixtureDenoiser(whole(), Cosine())
    x = ours.initial(t, 20, Stream(4), torch.float64)
    assert torch.allclose(ours(x, t).flatten(1), theirs(x.flatten(1), t), atol=1e-11)  # rounding of 9 products
    times = torch.linspace(0.1, 0.9, 20, dtype=torch.float64)
    assert torch.allclose(ours(x, times).flatten(1), theirs(x.flatten(1), times), atol=1e-11)


def test_density_and_draws_are_those_of_the_whole_mixture() -> None:
    n = 20_000
    x = LAW.sample(n, Stream(5))
    assert torch.allclose(LAW.log_prob(x[:50]), whole().log_prob(x[:50]), atol=1e-10)
    covariance = whole().covariance()
    assert ((x.mean(0) - whole().mean()).abs() < 4 * (covariance.diagonal() / n).sqrt()).all()
    spread = (covariance.diagonal()[:, None] * covariance.diagonal() + covariance**2).sqrt() / math.sqrt(n)
    # a mixture has heavier fourth moments than the Gaussian of this standard error: twice it, at 4 sigma
    assert ((torch.cov(x.T) - covariance).abs() < 8 * spread).all()


def test_it_is_stored_and_read_back() -> None:
    ours = SubspaceDenoiser(LAW, Cosine(), (1, 3, 3))
    again = unpack(pack(ours))
    x = ours.initial(0.5, 3, Stream(6), torch.float64)
    assert torch.equal(again(x, 0.5), ours(x, 0.5))


def test_a_fit_finds_two_groups_along_few_directions() -> None:
    x = LAW.sample(4000, Stream(7))
    fitted = fit_mixture(x, 2, R, 100, seed=0)
    truth = float(LAW.log_prob(x).mean())
    # 38 parameters fitted to 4000 events gain 38/2/4000 = 0.005 on average; 0.02 for a direction not found exactly
    assert abs(float(fitted.log_prob(x).mean()) - truth) < 0.02
    assert fitted.basis.shape == (D, R) and abs(fitted.width - 0.4) < 0.02
    everything = fit_mixture(x, 1, 100, 10, seed=0)
    assert everything.basis.shape == (D, D) and everything.width == 0
    with pytest.raises(InputError, match="do not determine 2 covariances along 3 directions"):
        fit_mixture(x[:6], 2, R, 10, seed=0)


def drawn_posterior(prior: object, shape: tuple[int, ...], n: int = 40_000) -> tuple[Tensor, float]:
    matrix = Stream(8).normal(4, (D,), dtype=torch.float64)
    likelihood = GaussianLikelihood(torch.linspace(-1, 1, 4, dtype=torch.float64), Dense.of(matrix, shape), 0.3)
    particles = Conjugate()(prior, likelihood, [0.0, 1.0], n, Stream(9))  # type: ignore[arg-type]
    return particles.x.flatten(1), particles.log_evidence


@pytest.mark.parametrize("kind", ["subspace", "whole"])
def test_draws_are_those_of_the_exact_posterior(kind: str) -> None:
    matrix, n = Stream(8).normal(4, (D,), dtype=torch.float64), 40_000
    exact, log_evidence = whole().posterior(matrix, torch.linspace(-1, 1, 4, dtype=torch.float64), 0.3)
    priors = {
        "subspace": (SubspaceDenoiser(LAW, Cosine(), (1, 3, 3)), (1, 3, 3)),
        "whole": (MixtureDenoiser(whole(), Cosine()), (D,)),
    }
    x, found = drawn_posterior(*priors[kind], n)
    assert found == pytest.approx(float(log_evidence), abs=1e-9)  # rounding
    covariance = exact.covariance()
    assert ((x.mean(0) - exact.mean()).abs() < 4 * (covariance.diagonal() / n).sqrt()).all()
    spread = (covariance.diagonal()[:, None] * covariance.diagonal() + covariance**2).sqrt() / math.sqrt(n)
    assert ((torch.cov(x.T) - covariance).abs() < 8 * spread).all()  # fourth moments of a mixture, as above


def test_weights_correct_the_draws_for_counts() -> None:
    """One number, few photons: against quadrature; evidence too."""
    law = GaussianMixture(*(torch.tensor(v, dtype=torch.float64) for v in ([1.0], [[0.5]], [[[0.09]]])))
    prior, photons = MixtureDenoiser(law, Cosine()), 12.0
    measured = torch.tensor([-math.log(5 / photons)], dtype=torch.float64)
    likelihood = LogPoissonLikelihood(measured, Dense.of(torch.ones(1, 1).double()), photons)
    grid = torch.linspace(-1.5, 2.5, 40_001, dtype=torch.float64)[:, None]
    log_joint = likelihood.on((1,)).log_prob(grid) + law.log_prob(grid)
    weight = (log_joint - log_joint.logsumexp(0)).exp()
    mean = float((weight * grid[:, 0]).sum())
    sd = float((weight * (grid[:, 0] - mean) ** 2).sum().sqrt())
    evidence = float(log_joint.logsumexp(0)) + math.log(4.0 / 40_000)
    particles = Conjugate(20_000)(prior, likelihood, [0.0, 1.0], 10, Stream(10))
    assert len(particles) == 20_000 and 2_000 < particles.ess() < 19_999
    assert abs(float(particles.mean()[0]) - mean) < 4 * sd / math.sqrt(particles.ess())
    assert abs(particles.log_evidence - evidence) < 4 * particles.log_evidence_stderr
    gaussian = Conjugate()(prior, likelihood.on((1,)).gaussian(), [0.0, 1.0], 20_000, Stream(10))
    assert (
        abs(float(gaussian.mean()[0]) - mean) > 0.05 * sd
    )  # seven standard errors of 20 000 draws: there is something to correct


def test_what_has_no_closed_form_is_refused() -> None:
    likelihood = GaussianLikelihood(torch.zeros(16), ParallelBeam(4, n_detectors=4))
    points = EmpiricalDenoiser(torch.zeros(3, 1, 4, 4), Cosine())
    with pytest.raises(InputError, match="needs a prior that is a Gaussian mixture, got EmpiricalDenoiser"):
        Conjugate()(points, likelihood, [0.0, 1.0], 4, Stream(0))
    white = GaussianMixture(torch.ones(1), torch.zeros(1, 16), torch.eye(16)[None])
    images = SubspaceDenoiser(SubspaceMixture.whole(white), Cosine(), (1, 4, 4))
    phases = NonlinearGaussianLikelihood(torch.zeros(64), PhaseRetrieval())
    with pytest.raises(InputError, match="needs a GaussianLikelihood, got NonlinearGaussianLikelihood"):
        Conjugate()(images, phases, [0.0, 1.0], 4, Stream(0))
