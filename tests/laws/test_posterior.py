"""Posterior samplers against closed forms; no Monte Carlo where the sampler is affine.

With a Gaussian prior and a linear measurement every guided flow is an affine map of its start. The map is read off from
the images of 0 and the unit vectors, and carries mean and covariance exactly: what is left is the sampler's own error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from problems import gaussian
from scipy.special import dawsn
from torch import Tensor

from sciflow.diffusion.flow import probability_flow
from sciflow.diffusion.mixture import GaussianDenoiser, GaussianMixture, MixtureDenoiser
from sciflow.diffusion.schedule import EDM, Cosine, Linear, Scaled, Schedule
from sciflow.diffusion.times import LogSNR
from sciflow.inverse import DPS, GUIDANCE, POSTERIORS, Dense, GaussianLikelihood, Guided, MomentMatching, PiGDM
from sciflow.inverse.descent import Descent
from sciflow.inverse.steered import SteeredPosterior
from sciflow.random import Stream
from sciflow.solvers import EABM, EulerMaruyama, Solver, solve
from sciflow.types import facts

MATRIX = torch.tensor([[1.0, 0.5, -0.3], [0.2, -1.0, 0.8]], dtype=torch.float64)
OBSERVATION = torch.tensor([1.5, 0.3], dtype=torch.float64)
SIGMA = 0.4
SCHEDULES = {"edm": EDM(), "cosine": Cosine(), "linear": Linear()}

likelihood = GaussianLikelihood(OBSERVATION, Dense.of(MATRIX), SIGMA)


def isotropic(variance: float, schedule: Schedule) -> MixtureDenoiser:
    mean = torch.tensor([0.7, -0.4, 0.2], dtype=torch.float64)
    return GaussianDenoiser(mean, variance * torch.eye(3, dtype=torch.float64), schedule)


@dataclass
class Opaque:
    """A denoiser without `covariance`, like a network; starts where it is told, if it is."""

    prior: MixtureDenoiser
    start: Tensor | None = None

    def __post_init__(self) -> None:
        self.schedule, self.shape = self.prior.schedule, self.prior.shape

    def __call__(self, x: Tensor, t: float | Tensor) -> Tensor:
        return self.prior(x, t)

    def initial(self, t: float, n: int, stream: Stream, dtype: torch.dtype) -> Tensor:
        return self.prior.initial(t, n, stream, dtype) if self.start is None else self.start


def affine(function: Callable[[Tensor], Tensor], d: int = 3) -> tuple[Tensor, Tensor]:
    """F and f of x ↦ F x + f."""
    images = function(torch.cat([torch.zeros(1, d), torch.eye(d)]).double())
    return (images[1:] - images[0]).T, images[0]


def noised(law: GaussianMixture, schedule: Schedule, t: float) -> tuple[Tensor, Tensor]:
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    eye = torch.eye(law.means.shape[1], dtype=torch.float64)
    return alpha * law.means[0], alpha**2 * law.covariances[0] + sigma**2 * eye


def carried(guided: object, times: Tensor, start: GaussianMixture, solver: Solver) -> tuple[Tensor, Tensor]:
    """Mean and covariance at the data of a guided flow that starts from the law of α x₁ + σ x₀, x₁ ~ `start`."""

    def flow(x: Tensor) -> Tensor:
        return guided(solve(probability_flow(guided), x, times, solver), float(times[-1]))

    matrix, offset = affine(flow)
    mean, covariance = noised(start, guided.schedule, float(times[0]))
    return matrix @ mean + offset, matrix @ covariance @ matrix.T


def error(got: tuple[Tensor, Tensor], law: GaussianMixture) -> float:
    """Largest error of the mean and covariance, in units of the posterior's own size."""
    size = law.covariances[0].diagonal().sqrt()
    mean = (got[0] - law.means[0]) / size
    covariance = (got[1] - law.covariances[0]) / (size[:, None] * size)
    return float(torch.maximum(mean.abs().max(), covariance.abs().max()))


def grid(schedule: Schedule, n_steps: int, low: float = 1e-3) -> Tensor:
    return LogSNR(n_steps, ratio_max=100.0, ratio_min=low)(schedule)


@pytest.mark.slow
@pytest.mark.parametrize("closed_form", [True, False], ids=["covariance", "conjugate gradients"])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_moment_matching_is_exact_for_any_gaussian(kind: str, closed_form: bool) -> None:
    """Full covariance; the error falls with the order of the solver, down to the noise of the last level."""
    schedule = SCHEDULES[kind]
    prior = MixtureDenoiser(gaussian(), schedule)
    posterior, _ = gaussian().posterior(MATRIX, OBSERVATION, SIGMA)
    guided = MomentMatching(prior, likelihood, tolerance=1e-14, closed_form=closed_form)
    errors = [error(carried(guided, grid(schedule, n), posterior, EABM(2)), posterior) for n in (60, 120)]
    assert errors[0] / errors[1] > 2**1.7  # order 2, less the start-up step of order 1
    assert errors[1] < 3e-3  # (0.1 in λ)² times an error constant of 0.2
    finest = error(carried(guided, grid(schedule, 120), posterior, EABM(3)), posterior)
    assert finest < 1e-4  # third order; the last level adds u²/v = 1e-6/0.02 for the thinnest direction of the prior


@pytest.mark.parametrize(
    ("solver", "noise_level", "bias"), [(EulerMaruyama(), 1.0, 0.05), (EABM(2, "data", eta=1.0), 0.0, 0.01)], ids=str
)
def test_a_guided_sde_draws_the_posterior(solver: Solver, noise_level: float, bias: float) -> None:
    """Noise of the equation or noise of the solver: the law is that of the flow."""
    n, law = 4000, gaussian().posterior(MATRIX, OBSERVATION, SIGMA)[0]
    sampler = Guided(MomentMatching, solver, noise_level=noise_level)
    times = grid(SCHEDULES["edm"], 150)
    x = sampler(MixtureDenoiser(gaussian(), EDM()), likelihood, times, n, Stream(6, tile=n)).x
    variance = law.covariances[0].diagonal()
    # standard errors s/√n and s²√(2/n); besides the bias of 150 steps of 0.08 in λ, first order and second
    assert ((x.mean(0) - law.means[0]).abs() < (4 / math.sqrt(n) + bias) * variance.sqrt()).all()
    assert ((x.var(0) / variance - 1).abs() < 4 * math.sqrt(2 / n) + bias).all()


@pytest.mark.parametrize("variance", [0.3, 4.0])
def test_pigdm_is_exact_for_isotropic_gaussians(variance: float) -> None:
    """v ≠ 1, from the schedule's scale or as an option; the published v = 1 is wrong and is seen to be."""
    schedule = Scaled(EDM(), math.sqrt(variance))
    prior = isotropic(variance, schedule)
    posterior, _ = prior.mixture.posterior(MATRIX, OBSERVATION, SIGMA)
    times = grid(schedule, 200)

    def wrong_by(guided: PiGDM) -> float:
        return error(carried(guided, times, posterior, EABM(3)), posterior)

    assert wrong_by(PiGDM(prior, likelihood)) < 2e-4  # third order at 0.06 in λ, as moment matching above
    unscaled = isotropic(variance, EDM())
    assert wrong_by(PiGDM(unscaled, likelihood, variance=variance)) < 5e-4  # u ends at 1e-3, not at 1e-3 √v
    assert wrong_by(PiGDM(prior, likelihood, variance=1.0)) > 0.05


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_dps_has_its_known_bias(scale: float) -> None:
    """For N(m, v I) and A = U S Vᵀ the flow ends, along each v_i with a² = scale v s_i²/2σ_y², at

        variance v e^{−2a²},   mean m_i + 2a F(a) (y_i/s_i − m_i),   F Dawson's integral,

    in place of v/(1 + 2a²) and m_i + 2a²/(1 + 2a²) (y_i/s_i − m_i): over-confident, and past the posterior mean.
    """
    variance = 0.5
    prior = isotropic(variance, EDM(sigma_max=1e4, sigma_min=1e-4))
    times = LogSNR(800, ratio_max=1e4, ratio_min=1e-3)(prior.schedule)
    mean, covariance = carried(DPS(prior, likelihood, scale=scale), times, prior.mixture, EABM(3))
    left, singular, right = torch.linalg.svd(MATRIX, full_matrices=True)
    singular = torch.cat([singular, torch.zeros(1, dtype=torch.float64)])
    a = math.sqrt(0.5 * scale * variance) * singular / SIGMA
    prior_mean = right @ prior.mixture.means[0]
    target = torch.cat([left.T @ OBSERVATION / singular[:2], torch.zeros(1, dtype=torch.float64)])
    expected_mean = prior_mean + 2 * a * torch.from_numpy(dawsn(a.numpy())) * (target - prior_mean)
    expected_variance = variance * torch.exp(-2 * a**2)
    rotated = right @ covariance @ right.T
    # third order at 0.02 in λ; the first level leaves v/U² = 5e-9, the last u²/v = 2e-6
    assert torch.allclose(right @ mean, expected_mean, atol=1e-4)
    assert torch.allclose(rotated.diagonal(), expected_variance, rtol=2e-3, atol=1e-5)
    exact, _ = prior.mixture.posterior(MATRIX, OBSERVATION, SIGMA)
    true_variance = (right @ exact.covariances[0] @ right.T).diagonal()
    if scale == 1.0:  # over-confident wherever something is measured, right where nothing is
        assert (expected_variance[:2] < 0.9 * true_variance[:2]).all()
    assert torch.allclose(rotated[2, 2], true_variance[2], rtol=1e-3)


@pytest.mark.parametrize("guidance", [MomentMatching, PiGDM])
def test_guided_end_to_end(guidance: type) -> None:
    """From prior draws to posterior draws through the public seam: start, flow and last denoising, one affine map."""
    variance, schedule = 2.0, Scaled(EDM(), math.sqrt(2.0))
    prior = isotropic(variance, schedule)
    posterior, _ = prior.mixture.posterior(MATRIX, OBSERVATION, SIGMA)
    times = grid(schedule, 200)

    def push(x: Tensor) -> Tensor:
        return Guided(guidance, EABM(3))(Opaque(prior, x), likelihood, times, len(x), Stream(0)).x

    matrix, offset = affine(push)
    mean, covariance = noised(prior.mixture, schedule, float(times[0]))
    got = matrix @ mean + offset, matrix @ covariance @ matrix.T
    assert error(got, posterior) < 5e-4  # third order at 0.06 in λ; the moved start is right to u_max⁻² = 1e-4


def test_the_start_is_moved_to_the_posterior() -> None:
    """At u = 20 an unmoved start would be wrong by 1/20 of a standard deviation; the moved one by 1/400."""
    prior = isotropic(1.0, EDM())
    posterior, _ = prior.mixture.posterior(MATRIX, OBSERVATION, SIGMA)
    t = float(EDM().time(-math.log(20.0)))

    def move(x: Tensor) -> Tensor:
        return MomentMatching(Opaque(prior, x), likelihood).initial(t, len(x), Stream(0), torch.float64)

    moved, offset = affine(move)
    mean, covariance = noised(prior.mixture, EDM(), t)
    wanted, spread = noised(posterior, EDM(), t)
    shift = (posterior.means[0] - prior.mixture.means[0]).abs().max()
    assert (moved @ mean + offset - wanted).abs().max() < shift / 400
    assert shift > 0.3  # there was something to move
    assert torch.allclose(moved @ covariance @ moved.T, spread, atol=2.0)  # of 400: off by α² (C − C_y) and less


@pytest.mark.parametrize("kind", GUIDANCE)
def test_draws_do_not_depend_on_how_many_there_are(kind: str) -> None:
    """Draw k is the same bits for 64, 100 or 640 draws: tiles, and sums that never cross rows."""
    prior = Opaque(MixtureDenoiser(gaussian(), EDM()))
    assumed = GaussianLikelihood(OBSERVATION.float(), Dense.of(MATRIX), 2.0)
    times = LogSNR(8, ratio_max=10.0, ratio_min=0.05)(EDM())
    sampler = Guided(GUIDANCE[kind])
    runs = {n: sampler(prior, assumed, times, n, Stream(5)).x for n in (64, 100, 640)}
    assert runs[640].dtype == torch.float32
    assert torch.equal(runs[64], runs[640][:64])
    assert torch.equal(runs[100], runs[640][:100])
    assert not torch.equal(runs[64], sampler(prior, assumed, times, 64, Stream(6)).x)


PRIOR = ("unguided", "denoising_mcmc", "simulated", "superdiff_or", "geometric", "product")  # y is not looked at
FILTERS = ("particle_filter", "ensemble_kalman", "rollout")  # in physical time: test_filtering.py, test_forecast.py
STEERED = [kind for kind, entry in POSTERIORS.items() if issubclass(entry, SteeredPosterior)]
DESCENTS = [kind for kind, entry in POSTERIORS.items() if issubclass(entry, Descent)]  # test_affine.py
ELSEWHERE = ["afdps", *FILTERS, *STEERED, *DESCENTS]
WITHOUT_TARGET = [kind for kind, entry in POSTERIORS.items() if facts(entry)["target"].rstrip(".") == "none"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in POSTERIORS if kind not in (*ELSEWHERE, *WITHOUT_TARGET)])
def test_every_posterior_recovers_a_gaussian(kind: str) -> None:
    """The whole table by Monte Carlo, with its defaults: mean within 4 standard errors, plus the flow's O(h³).

    Samplers that do not look at the observation recover the prior. Path-weighted samplers have a target of their own,
    the discretised prior: see test_steering_twisted.py; `afdps` has a bias of first order: test_steering_marginal.py.
    """
    prior = MixtureDenoiser(gaussian(), EDM())
    posterior = gaussian() if kind in PRIOR else gaussian().posterior(MATRIX, OBSERVATION, SIGMA)[0]
    if kind == "annealed":  # p² of a Gaussian
        posterior = GaussianMixture(posterior.weights, gaussian().means, gaussian().covariances / 2)
    n = 2000
    drawn = POSTERIORS[kind]()(prior, likelihood, grid(EDM(), 60), n, Stream(1))
    draws = drawn.resample(n, Stream(2)).x
    size = posterior.covariances[0].diagonal().sqrt()
    standard_error = math.sqrt(1 / drawn.ess() + 1 / n)  # of the weighted ensemble, and of drawing from it
    off = ((draws.mean(0) - posterior.means[0]) / size).abs().max()
    assert off < 4 * standard_error + 0.02  # measured bias of the flow at 0.2 in λ: 0.015
    ratio = (draws.var(0) / size**2 - 1).abs().max()
    assert ratio < 4 * math.sqrt(2) * standard_error + 0.02
