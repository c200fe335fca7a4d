"""Every closed-form denoiser is the posterior mean of its own law, and its four views are one."""

from __future__ import annotations

import pytest
import torch
from problems import gaussian, mixture

from sciflow.diffusion import (
    SCHEDULES,
    EmpiricalDenoiser,
    GaussianMixture,
    MixtureDenoiser,
    NetworkDenoiser,
    Scaled,
    Tiled,
)
from sciflow.diffusion.denoiser import VIEWS, Converted, Counted, FromView, data_from, score
from sciflow.diffusion.flow import probability_flow
from sciflow.diffusion.loss import regression_error
from sciflow.diffusion.schedule import EDM, Cosine, Linear
from sciflow.networks import MLP
from sciflow.random import Stream
from sciflow.solvers import EABM, solve

T = 0.55


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("kind", SCHEDULES)
def test_views_round_trip(kind: str, view: str) -> None:
    schedule = SCHEDULES[kind]()
    denoiser = MixtureDenoiser(mixture(), schedule)
    x = denoiser.initial(T, 16, Stream(0), torch.float64)
    value = VIEWS[view](denoiser, x, T)
    # conversions divide by σ and by α̇σ − ασ̇; both are above 1e-2 at this time
    assert torch.allclose(data_from(view, value, x, T, schedule), denoiser(x, T), rtol=1e-10, atol=1e-10)
    again = FromView(lambda x, t: VIEWS[view](denoiser, x, t), view, schedule, denoiser.shape)
    times = torch.full((16,), T, dtype=torch.float64)
    assert torch.allclose(again(x, times), denoiser(x, T), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_score_is_the_gradient_of_the_log_density(kind: str) -> None:
    denoiser = MixtureDenoiser(mixture(), SCHEDULES[kind]())
    x = denoiser.initial(T, 16, Stream(0), torch.float64).requires_grad_()
    gradient = torch.autograd.grad(denoiser.log_prob(x, T).sum(), x)[0]
    assert torch.allclose(score(denoiser, x, T), gradient, rtol=1e-9, atol=1e-9)  # σ⁻² ≤ 1e2 amplifies rounding


@pytest.mark.parametrize("law", [gaussian, mixture])
def test_covariance_is_the_jacobian(law) -> None:
    """Cov[x₁ | x] = (σ²/α) ∂D/∂x, the second-order Tweedie formula, against autograd."""
    denoiser = MixtureDenoiser(law(), Cosine())
    x = denoiser.initial(T, 5, Stream(0), torch.float64)
    alpha, sigma = float(denoiser.schedule.alpha(T)), float(denoiser.schedule.sigma(T))
    for row, covariance in zip(x, denoiser.covariance(x, T), strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda y: denoiser(y[None], T)[0], row)
        assert torch.allclose(covariance, sigma**2 / alpha * jacobian, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("t", [1e-4, 0.1, T, 0.9999])
def test_one_covariance_for_all_components_is_a_shortcut_only(t: float) -> None:
    """Times of their own for the rows, all the same, take the general way."""
    d, k, generator = 8, 25, torch.Generator().manual_seed(0)
    factor = torch.randn(d, d, generator=generator, dtype=torch.float64)
    covariance = (factor @ factor.T / d + 0.1 * torch.eye(d)).repeat(k, 1, 1)
    means = 3 * torch.randn(k, d, generator=generator, dtype=torch.float64)
    weights = torch.rand(k, generator=generator, dtype=torch.float64)
    law = GaussianMixture(weights / weights.sum(), means, covariance)
    assert law.is_common
    denoiser = MixtureDenoiser(law, Cosine())
    x, times = denoiser.initial(t, 64, Stream(0), torch.float64), torch.full((64,), t, dtype=torch.float64)
    # rounding of numbers up to 10 and, in a product of two, up to 100
    assert torch.allclose(denoiser(x, t), denoiser(x, times), rtol=0, atol=1e-12)
    assert torch.allclose(denoiser.covariance(x, t), denoiser.covariance(x, times), rtol=0, atol=1e-11)


def test_shortcut_is_not_taken_where_it_would_lose_digits() -> None:
    narrow = GaussianMixture(torch.ones(2) / 2, torch.tensor([[-1.0], [1.0]]), torch.full((2, 1, 1), 1e-6))
    unlike = GaussianMixture(narrow.weights, narrow.means, torch.tensor([1.0, 2.0]).reshape(2, 1, 1))
    assert not narrow.is_common and not unlike.is_common


def test_mixture_denoiser_is_the_posterior_mean_by_quadrature() -> None:
    """E[x₁ | x_t] by summing over a fine grid of x₁ in the plane."""
    law, schedule = mixture(), Linear()
    denoiser = MixtureDenoiser(law, schedule)
    alpha, sigma = float(schedule.alpha(T)), float(schedule.sigma(T))
    axis = torch.linspace(-9, 9, 721, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    x = denoiser.initial(T, 4, Stream(2), torch.float64)
    log_weights = law.log_prob(points) - 0.5 * torch.cdist(x, alpha * points) ** 2 / sigma**2
    # a rectangle rule on a smooth density that vanishes at the edge converges faster than any power of the mesh
    assert torch.allclose(denoiser(x, T), log_weights.softmax(-1) @ points, rtol=0, atol=1e-9)


@pytest.mark.parametrize("width", [0.0, 0.4])
def test_empirical_denoiser_is_the_mixture_of_its_points(width: float) -> None:
    points = Stream(0).normal(7, (3,), dtype=torch.float64)
    schedule = EDM()
    mixture_of_points = MixtureDenoiser(
        type(mixture())(torch.full((7,), 1 / 7), points, width**2 * torch.eye(3, dtype=torch.float64).expand(7, 3, 3)),
        schedule,
    )
    empirical = EmpiricalDenoiser(points, schedule, width)
    x = empirical.initial(T, 16, Stream(1), torch.float64)
    assert torch.allclose(empirical(x, T), mixture_of_points(x, T), rtol=1e-10, atol=1e-10)


def test_initial_draws_have_the_law_of_the_noisy_state() -> None:
    denoiser, n = MixtureDenoiser(mixture(), Linear()), 40_000
    x = denoiser.initial(T, n, Stream(5), torch.float64)
    alpha, sigma = float(denoiser.schedule.alpha(T)), float(denoiser.schedule.sigma(T))
    covariance = alpha**2 * denoiser.mixture.covariance() + sigma**2 * torch.eye(2)
    spread = covariance.diagonal().sqrt()
    assert ((x.mean(0) - alpha * denoiser.mixture.mean()).abs() < 4 * spread / n**0.5).all()  # 4 standard errors
    fourth = (x - x.mean(0)).pow(4).mean(0)
    stderr = ((fourth - spread**4) / n).sqrt()
    assert ((x.var(0) - spread**2).abs() < 4 * stderr).all()


def test_posterior_of_a_mixture_by_quadrature() -> None:
    law, sigma = mixture(), 0.4
    matrix, y = torch.tensor([[1.0, -0.5]], dtype=torch.float64), torch.tensor([0.8], dtype=torch.float64)
    posterior, log_evidence = law.posterior(matrix, y, sigma)
    axis = torch.linspace(-9, 9, 721, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    normal = torch.distributions.Normal(points @ matrix[0], sigma)
    log_joint = law.log_prob(points) + normal.log_prob(y)
    cell = 2 * torch.log(axis[1] - axis[0])
    assert float(log_joint.logsumexp(0) + cell) == pytest.approx(float(log_evidence), abs=1e-9)
    assert torch.allclose(posterior.mean(), log_joint.softmax(0) @ points, rtol=0, atol=1e-9)


def test_untrained_network_denoiser_is_that_of_a_gaussian() -> None:
    """F = 0 gives D of N(m, s² I): preconditioning is right at every level before any training."""
    mean, std, schedule = 0.3, 0.5, Cosine()
    network = NetworkDenoiser(MLP().build((4,)), Scaled(schedule, std), (4,), mean)
    law = type(mixture())(torch.ones(1), torch.full((1, 4), mean), std**2 * torch.eye(4)[None])
    exact = MixtureDenoiser(law, Scaled(schedule, std))
    x = exact.initial(T, 9, Stream(0), torch.float32)
    with torch.no_grad():
        assert torch.allclose(network(x, T), exact(x, T), rtol=0, atol=1e-6)  # float32
        rows = network(x, torch.full((9,), T))
    assert torch.allclose(rows, exact(x, T), rtol=0, atol=1e-6)


def test_the_regression_target_is_the_best_network() -> None:
    """Where the loss is zero the denoiser returns x₁: the target F* and the preconditioning invert each other."""
    x1, x0, ratio = Stream(0).normal(5, (4,)), Stream(1).normal(5, (4,)), torch.tensor([0.01, 0.3, 1.0, 4.0, 50.0])
    mean, std, schedule = 0.3, 0.5, EDM()
    data, root = (x1 - mean) / std, (1 + ratio[:, None] ** 2).sqrt()

    class Target(torch.nn.Module):
        def forward(self, x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
            return (ratio[:, None] * data - x0) / root

    denoiser = NetworkDenoiser(Target(), Scaled(schedule, std), (4,), mean)
    assert float(regression_error(denoiser, x1, ratio, x0).max()) < 1e-10  # float32 squared
    t = schedule.time(-ratio.log())
    assert torch.allclose(denoiser(x1 + std * ratio[:, None] * x0, t), x1, rtol=0, atol=2e-4)  # 50 σ in float32


@pytest.mark.parametrize("n", [1, 4, 5, 11])
def test_tiles_make_rows_independent_of_the_batch(n: int) -> None:
    denoiser = Tiled(MixtureDenoiser(mixture(), Cosine()), tile=4)
    x = denoiser.initial(T, 11, Stream(0, tile=4))
    assert torch.equal(denoiser(x[:n], T), denoiser(x, T)[:n])
    times = torch.linspace(0.4, 0.6, 11)
    assert torch.equal(denoiser(x[:n], times[:n]), denoiser(x, times)[:n])


def test_counting() -> None:
    counted = Counted(MixtureDenoiser(mixture(), Cosine()))
    x = counted.initial(T, 6, Stream(0), torch.float64)
    counted(x, T)
    score(counted, x, T)
    assert counted.rows == 12
    assert counted.covariance(x, T).shape == (6, 2, 2)


def test_rows_that_fill_a_tile_are_not_counted() -> None:
    counted = Counted(MixtureDenoiser(mixture(), Cosine()))
    x = counted.initial(T, 11, Stream(0), torch.float64)
    Tiled(counted, tile=4)(x, T)
    Tiled(counted, tile=64)(x, torch.full((11,), T, dtype=torch.float64))
    counted(x, T)
    assert counted.rows == 3 * 11


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_velocity_field_is_sampled_under_any_schedule(kind: str) -> None:
    """Trained on one schedule, run under another: the same denoiser, and the same curves in (x/α, u)."""
    trained, other = MixtureDenoiser(mixture(), Linear()), SCHEDULES[kind]()
    field = FromView(lambda x, t: VIEWS["velocity"](trained, x, t), "velocity", Linear(), (2,))
    converted, exact = Converted(field, other), MixtureDenoiser(mixture(), other)
    levels = torch.linspace(-2, 3, 6, dtype=torch.float64)
    own, times = Linear().time(levels), other.time(levels)
    x = trained.initial(float(own[0]), 16, Stream(0), torch.float64)
    start = x * other.alpha(times[0]) / Linear().alpha(own[0])
    assert torch.allclose(converted(start, float(times[0])), exact(start, float(times[0])), rtol=1e-11, atol=1e-11)
    rows = times[:1].expand(16)
    assert torch.allclose(converted(start, rows), exact(start, rows), rtol=1e-11, atol=1e-11)
    ends = [
        solve(probability_flow(model), begin, grid, EABM(order=2, frame="data")) / model.schedule.alpha(grid[-1])
        for model, begin, grid in ((trained, x, own), (converted, start, times))
    ]
    # five steps of order 2 are far from the solution, and far from it alike: rounding of some hundred operations
    assert torch.allclose(*ends, rtol=1e-12, atol=1e-12)


def test_conversion_keeps_the_covariance_and_the_ends() -> None:
    model = Converted(MixtureDenoiser(mixture(), EDM()), Linear())
    exact = MixtureDenoiser(mixture(), Linear())
    x = exact.initial(T, 4, Stream(0), torch.float64)
    assert torch.allclose(model.covariance(x, T), exact.covariance(x, T), rtol=1e-10, atol=1e-12)
    mean = mixture().mean().expand(4, 2)
    # u = 1e13 in place of ∞, times rounding of x: D is the mean to 1e-12 of the spread
    assert torch.allclose(model(x, 0.0), mean, rtol=0, atol=1e-10)
    assert torch.allclose(model(x, 1.0), x, rtol=0, atol=1e-10)
    assert not hasattr(
        Converted(NetworkDenoiser(MLP().build((2,)), Scaled(EDM(), 1.0), (2,), 0.0), EDM()), "covariance"
    )
