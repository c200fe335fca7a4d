"""Two-sided interpolants: targets, ends, and the laws that their ODE and SDEs carry, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from problems import mixture

from sciflow.diffusion.denoiser import velocity as one_sided_velocity
from sciflow.diffusion.mixture import GaussianMixture, MixtureDenoiser
from sciflow.diffusion.schedule import Linear, Trigonometric
from sciflow.diffusion.two_sided import (
    MixtureTwoSided,
    RegressedTwoSided,
    TwoSided,
    expected_data,
    noise_loss,
    transport,
    transport_sde,
    velocity_loss,
)
from sciflow.random import Stream
from sciflow.solvers import EulerMaruyama, RungeKutta4, solve

IDENTITY = torch.eye(2, dtype=torch.float64)
KINDS = [TwoSided(path, noise, 0.7) for path in ("linear", "trigonometric") for noise in ("brownian", "sine")]


def normal(mean: list[float], factor: list[list[float]]) -> GaussianMixture:
    root = torch.tensor(factor, dtype=torch.float64)
    means = torch.tensor([mean], dtype=torch.float64)
    return GaussianMixture(torch.ones(1, dtype=torch.float64), means, (root @ root.T)[None])


BASE = normal([1.0, -1.0], [[0.8, 0.0], [0.3, 0.5]])
DATA = normal([-2.0, 0.5], [[0.4, 0.0], [-0.2, 1.1]])


def moments(interpolant: TwoSided, t: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of a x₀ + b x₁ + γ z."""
    a, b, *_, gamma, _ = interpolant.weights(t)
    square = a**2 * BASE.covariance() + b**2 * DATA.covariance() + gamma**2 * IDENTITY
    return a * BASE.mean() + b * DATA.mean(), square


@pytest.mark.parametrize("interpolant", KINDS, ids=str)
def test_rates_are_derivatives_and_both_ends_are_reached(interpolant: TwoSided) -> None:
    t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    slopes = torch.autograd.functional.jvp(lambda t: tuple(interpolant.weights(t)), t, torch.ones_like(t))[1]
    weights = interpolant.weights(t)
    assert torch.allclose(weights.base_rate, slopes[0], atol=1e-13)  # float64, a few operations
    assert torch.allclose(weights.data_rate, slopes[1], atol=1e-13)
    assert torch.allclose(weights.product, weights.gamma * slopes[4], atol=1e-13)
    for end, point in ((0.0, "x0"), (1.0, "x1")):
        ends = dict(zip(("x0", "x1", "z"), torch.eye(3, dtype=torch.float64)[:, None], strict=True))
        assert torch.equal(interpolant.draw(t=end, **ends).x, ends[point])


@pytest.mark.parametrize("interpolant", KINDS, ids=str)
def test_flow_carries_one_gaussian_into_the_other(interpolant: TwoSided) -> None:
    """The flow of Gaussians is affine: three points give its matrix, so mean and covariance have no sampling error."""
    model = MixtureTwoSided(interpolant, BASE, DATA)
    corners = torch.cat([torch.zeros(1, 2), torch.eye(2)]).double()
    for stop in (0.6, 1.0):
        ends = solve(transport(model), corners, torch.linspace(0, stop, 61, dtype=torch.float64), RungeKutta4())
        matrix = (ends[1:] - ends[0]).T
        mean, square = moments(interpolant, stop)
        # h⁴ = 1e-7 for 60 steps, times the fourth power of the rate 2π of the sine over 5!
        assert torch.allclose(ends[0] + matrix @ BASE.mean(), mean, rtol=0, atol=1e-6)
        assert torch.allclose(matrix @ BASE.covariance() @ matrix.T, square, rtol=0, atol=1e-6)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("noise_level", [0.5, 2.0, lambda t: 0.3 + t**2], ids=["half", "two", "function"])
def test_marginals_do_not_depend_on_the_noise(noise_level, backward: bool) -> None:
    interpolant, n, n_steps = TwoSided(), 8000, 100
    model = MixtureTwoSided(interpolant, BASE, DATA)
    start, goal = (DATA, BASE) if backward else (BASE, DATA)
    x, laws = start.sample(n, Stream(1)), {n_steps // 2: moments(interpolant, 0.5), n_steps: None}
    laws[n_steps] = goal.mean(), goal.covariance()
    seen = {}
    with torch.no_grad():
        equation = transport_sde(model, noise_level, backward)
        solve(equation, x, torch.linspace(0, 1, n_steps + 1), EulerMaruyama(), stream=Stream(2),
              on_step=lambda k, t, x: seen.__setitem__(k + 1, x.clone()))  # fmt: skip
    for step, (mean, square) in laws.items():
        spread = square.diagonal().sqrt()
        # standard errors s/√n and s²√(2/n); the bias of 100 Euler–Maruyama steps is O(h), 3 % at most here
        assert ((seen[step].mean(0) - mean).abs() < 4 * spread / math.sqrt(n) + 0.03 * spread).all()
        assert ((seen[step].var(0) / spread**2 - 1).abs() < 4 * math.sqrt(2 / n) + 0.03).all()


@pytest.mark.parametrize(("path", "schedule"), [("linear", Linear()), ("trigonometric", Trigonometric())])
def test_without_noise_it_is_the_one_sided_interpolant(path, schedule) -> None:
    white = normal([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])
    denoiser = MixtureDenoiser(mixture(), schedule)
    t, scales, errors = 0.4, (1e-3, 1e-4), []
    x = denoiser.initial(t, 32, Stream(0), torch.float64)
    for scale in scales:
        model = MixtureTwoSided(TwoSided(path, "brownian", scale), white, mixture())
        errors.append(float((transport(model).drift(t, x) - one_sided_velocity(denoiser, x, t)).abs().max()))
        assert torch.allclose(expected_data(model, x, t), denoiser(x, t), atol=100 * scale)  # linear in c
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.02)  # the difference is linear in c


def test_flow_between_mixtures_keeps_the_law() -> None:
    """The continuity equation ∂p/∂t + ∇·(p b) = 0 at points, with p the mixture of all pairs."""
    interpolant, t = TwoSided("trigonometric", "sine"), 0.3
    model = MixtureTwoSided(interpolant, mixture(), DATA)
    points = Stream(0).normal(8, (2,), dtype=torch.float64)

    def log_p(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a, b, *_, gamma, _ = interpolant.weights(t)
        square = a**2 * mixture().covariances + b**2 * DATA.covariances + gamma**2 * IDENTITY
        means = a * mixture().means + b * DATA.means
        normals = torch.distributions.MultivariateNormal(means, square, validate_args=False)
        return (mixture().weights.log() + normals.log_prob(x)).logsumexp(-1)

    drift = transport(model).drift
    for x in points:
        jacobian, score = torch.func.jacrev(log_p, (1, 0))(x, torch.tensor(t, dtype=torch.float64))
        divergence = torch.func.jacrev(lambda x: drift(t, x[None])[0])(x).trace()
        assert torch.allclose(model.score(x[None], t)[0], score, atol=1e-10)
        assert abs(float(jacobian + divergence + drift(t, x[None])[0] @ score)) < 1e-10  # float64


def test_both_losses_have_the_conditional_means_as_minimisers() -> None:
    """Moving v or η in any direction raises its loss: the slope there has mean zero; and η has a plus sign."""
    interpolant, n = TwoSided(), 20_000
    model = MixtureTwoSided(interpolant, BASE, mixture())
    x0, x1 = BASE.sample(n, Stream(0)), mixture().sample(n, Stream(1))

    def noise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return -interpolant.weights(t).gamma[:, None] * model.score(x, t)

    for loss, regression in ((velocity_loss, model.velocity), (noise_loss, noise)):
        up, down = (
            loss(
                interpolant, lambda x, t, e=e, f=regression: f(x, t) + e * torch.tensor([1.0, -1.0]), x0, x1, Stream(2)
            )
            for e in (0.1, -0.1)
        )
        difference = up - down
        assert abs(float(difference.mean())) < 4 * float(difference.std()) / math.sqrt(n)
    flipped = noise_loss(interpolant, lambda x, t: -noise(x, t), x0, x1, Stream(2))
    assert float(flipped.mean()) > 1.1 * float(noise_loss(interpolant, noise, x0, x1, Stream(2)).mean())


@pytest.mark.parametrize("interpolant", KINDS, ids=str)
def test_regressions_are_solved_from_end_to_end(interpolant: TwoSided) -> None:
    exact = MixtureTwoSided(interpolant, BASE, mixture())

    def noise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return -interpolant.weights(t).gamma * exact.score(x, t)

    model = RegressedTwoSided(interpolant, exact.velocity, noise)
    x, times = BASE.sample(16, Stream(0)), torch.linspace(0, 1, 41)
    ends = [solve(transport(m), x, times, RungeKutta4()) for m in (model, exact)]
    # the score of both ends is that of the margin 1e-3 inside, in two of 41 steps: 1e-3 · scores below 10 · h
    assert torch.allclose(*ends, rtol=0, atol=2e-3)
    noisy = solve(transport_sde(model, 1.0), x, times, EulerMaruyama(), stream=Stream(1))
    assert torch.isfinite(noisy).all()


def test_negative_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="≥ 0"):
        transport_sde(MixtureTwoSided(TwoSided(), BASE, DATA), -1.0)
