"""PFGM++: the law of its noise, its two limits, and that its flow carries its law."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import beta, kstest

from sciflow.diffusion.denoiser import velocity
from sciflow.diffusion.flow import probability_flow
from sciflow.diffusion.mixture import EmpiricalDenoiser
from sciflow.diffusion.network import NetworkDenoiser
from sciflow.diffusion.poisson_flow import PoissonFlow, PoissonFlowDenoiser, PoissonFlowPrior, student_noise
from sciflow.diffusion.schedule import EDM, Cosine, Linear, Scaled
from sciflow.random import Stream
from sciflow.solvers import EABM, solve

POINTS = Stream(0).normal(6, (3,), dtype=torch.float64)
LEVEL = EDM(rho=1.0, sigma_min=0.01, sigma_max=10.0)


@pytest.mark.parametrize("dimension", [0.5, 1.0, 3.5, 128.0])
def test_radius_has_its_beta_law(dimension: float) -> None:
    n, size = 10_000, 5
    noise = student_noise(n, (size,), dimension, Stream(1, tile=2500), dtype=torch.float64)
    share = 1 / (1 + dimension / noise.square().sum(1))
    distance = kstest(share.numpy(), beta(size / 2, dimension / 2).cdf).statistic
    assert distance < 2.3 / math.sqrt(n)  # Kolmogorov: exceeded with probability 2 exp(−2 · 2.3²) = 5e-5, 4 sigma


@pytest.mark.parametrize("dimension", [2.0**17, math.inf])
def test_noise_of_many_dimensions_is_finite_and_nearly_gaussian(dimension: float) -> None:
    size = 3072
    noise = student_noise(200, (3, 32, 32), dimension, Stream(2))
    assert noise.dtype == torch.float32 and torch.isfinite(noise).all()
    mean_square = noise.double().square().mean()
    # E = D/(D − 2); standard error √(2/(200 · 3072) + 2/(200 D)) from normal and χ² numbers
    stderr = math.sqrt(2 / (200 * size) + 2 / (200 * dimension))
    assert abs(float(mean_square) - 1) < 4 * stderr + 2 / dimension


def test_rows_of_the_noise_do_not_depend_on_the_batch() -> None:
    whole = student_noise(10, (3,), 5.0, Stream(3, tile=4))
    assert torch.equal(student_noise(4, (3,), 5.0, Stream(3, tile=4), first=4), whole[4:8])


def test_many_augmented_dimensions_are_diffusion() -> None:
    exact = EmpiricalDenoiser(POINTS, LEVEL)
    x, t = exact.initial(0.7, 64, Stream(4), torch.float64), 0.7
    many, all_of_them = (PoissonFlowDenoiser(POINTS, LEVEL, dimension) for dimension in (1e6, math.inf))
    # log-weights differ by ‖x − x_i‖⁴/(4Dσ⁴) + N‖x − x_i‖²/(2Dσ²), some 10/D
    assert torch.allclose(many(x, t), exact(x, t), rtol=0, atol=1e-4)
    assert torch.allclose(all_of_them(x, t), exact(x, t), rtol=1e-12, atol=1e-12)
    times, solver = torch.linspace(0, 1, 33, dtype=torch.float64), EABM(order=2)
    start = exact.initial(0.0, 8, Stream(5), torch.float64)
    ends = [solve(probability_flow(model), start, times, solver) for model in (many, exact)]
    assert torch.allclose(*ends, rtol=0, atol=1e-3)  # the same difference, summed along the path


def test_one_augmented_dimension_is_the_poisson_flow() -> None:
    """dx/dz = E_x/E_z, with the field of point charges at z = 0 in N + 1 dimensions."""
    model, t = PoissonFlowDenoiser(POINTS, LEVEL, 1.0), 0.8
    x = model.initial(t, 32, Stream(6), torch.float64)
    z = float(LEVEL.sigma(t))
    away = x[:, None] - POINTS
    strength = (away.square().sum(-1) + z**2) ** (-0.5 * (3 + 1))
    along, across = (strength[..., None] * away).sum(1), (strength * z).sum(1)
    expected = along / across[:, None] * float(LEVEL.sigma_rate(t))
    assert torch.allclose(velocity(model, x, t), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dimension", [1.0, 7.5])
def test_flow_keeps_the_law(dimension: float) -> None:
    """∂p/∂t + ∇·(p v) = 0 at points, with p the mean of the kernels and v from the denoiser, under any schedule."""
    schedule, t = Linear(), torch.tensor(0.6, dtype=torch.float64)
    model = PoissonFlowDenoiser(POINTS, schedule, dimension)

    def log_p(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        squared = (x - alpha * POINTS).square().sum(-1) / sigma**2
        return (-0.5 * (3 + dimension) * torch.log1p(squared / dimension)).logsumexp(0) - 3 * sigma.log()

    def drift(x: torch.Tensor) -> torch.Tensor:
        return velocity(model, x[None], float(t))[0]

    for x in model.initial(0.6, 6, Stream(7), torch.float64):
        slope, score = torch.func.jacrev(log_p, (1, 0))(x, t)
        divergence = torch.autograd.functional.jacobian(drift, x).trace()
        assert abs(float(slope + divergence + drift(x) @ score)) < 1e-9  # float64, densities of order one


def test_times_may_differ_from_row_to_row() -> None:
    model = PoissonFlowDenoiser(POINTS, Linear(), 3.0)
    x, times = Stream(8).normal(4, (3,), dtype=torch.float64), torch.tensor([0.0, 0.3, 0.6, 0.9], dtype=torch.float64)
    rows = torch.cat([model(x[k : k + 1], float(t)) for k, t in enumerate(times)])
    assert torch.allclose(model(x, times), rows, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dimension", [3.0, 2048.0])
def test_loss_has_the_denoiser_of_its_own_noise_as_minimiser(dimension: float) -> None:
    """Moving the exact answer either way raises the loss alike; the denoiser of Gaussian noise has a higher loss."""
    n, schedule, std = 20_000, Cosine(), 0.8
    x1 = POINTS[(Stream(9).uniform(n) * 6).long()]

    def loss(model: object, shift: float) -> torch.Tensor:
        class Exact(torch.nn.Module):
            def forward(self, x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
                ratio = level.exp()[:, None]
                t = schedule.time(-level)
                root = (1 + ratio**2).sqrt()
                data = model(root * std * x * schedule.alpha(t)[:, None], t)
                return (data / std - x / root) * root / ratio + shift

        network = NetworkDenoiser(Exact(), Scaled(schedule, std), (3,), 0.0)
        return PoissonFlow(dimension)(network, x1, Stream(10, tile=1000), 0)

    own = PoissonFlowDenoiser(POINTS, Scaled(schedule, std), dimension)
    difference = loss(own, 0.1) - loss(own, -0.1)
    assert abs(float(difference.mean())) < 4 * float(difference.std()) / math.sqrt(n)
    if dimension == 3.0:
        worse = loss(EmpiricalDenoiser(POINTS, Scaled(schedule, std)), 0.0) - loss(own, 0.0)
        assert float(worse.mean()) > 4 * float(worse.std()) / math.sqrt(n)


def test_prior_starts_from_the_noise_it_was_trained_with() -> None:
    prior = PoissonFlowPrior(EmpiricalDenoiser(POINTS, EDM()), 5.0)
    x = prior.initial(0.0, 8, Stream(11), torch.float64)
    level = float(EDM().sigma(0.0))  # 80 up to rounding, which is the processor's
    assert torch.equal(x, level * student_noise(8, (3,), 5.0, Stream(11), dtype=torch.float64))
    assert torch.equal(prior(x, 0.5), prior.denoiser(x, 0.5))
