"""Charts: mean reversion and multiplicative noise are plain diffusion in other coordinates, for every solver."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from problems import mixture

from sciflow.diffusion.chart import Charted, GeometricBrownian, Logarithm, MeanReverting, Recentred
from sciflow.diffusion.flow import probability_flow
from sciflow.diffusion.mixture import GaussianDenoiser, GaussianMixture, MixtureDenoiser
from sciflow.diffusion.schedule import EDM, Linear, Scaled, VarianceExploding, VariancePreserving
from sciflow.random import Stream
from sciflow.solvers import EABM, DPMSolverPP2M, SDEDPMSolverPP1, solve

SIGN = torch.tensor([1.0, -1.0], dtype=torch.float64)
LAW, MU = mixture(), torch.tensor([0.7, -1.2], dtype=torch.float64)
SCHEDULE = Scaled(VariancePreserving(), 0.4)  # σ_∞ = 0.4
RESTORED = Recentred(MixtureDenoiser(LAW, SCHEDULE), MU)
CHART = MeanReverting(MU)
GRID = SCHEDULE.time(torch.linspace(-1, 3, 9, dtype=torch.float64))


@pytest.mark.parametrize(
    "chart", [MeanReverting(MU), Logarithm(torch.tensor([1.0, -1.0], dtype=torch.float64))], ids=str
)
def test_charts_are_invertible_and_know_their_determinant(chart) -> None:
    x = Stream(0).normal(5, (2,), dtype=torch.float64).abs() * SIGN
    assert torch.allclose(chart.inverse(chart.forward(x)), x, rtol=1e-14, atol=0)
    for row, log_det in zip(x, chart.log_det(x), strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda x: chart.forward(x[None])[0], row)
        assert torch.allclose(jacobian.det().abs().log(), log_det, rtol=1e-13, atol=1e-13)


def test_recentred_denoiser_is_that_of_the_shifted_law() -> None:
    shifted = MixtureDenoiser(GaussianMixture(LAW.weights, LAW.means - MU, LAW.covariances), SCHEDULE)
    y = shifted.initial(0.4, 16, Stream(0), torch.float64)
    assert torch.allclose(RESTORED(y, 0.4), shifted(y, 0.4), rtol=1e-12, atol=1e-12)
    rows = torch.full((16,), 0.4, dtype=torch.float64)
    assert torch.allclose(RESTORED(y, rows), shifted(y, 0.4), rtol=1e-12, atol=1e-12)
    # mean reversion: the variance of the base is σ_∞², whatever the data
    assert float(SCHEDULE.alpha(0.3) ** 2 * 0.16 + SCHEDULE.sigma(0.3) ** 2) == pytest.approx(0.16, rel=1e-14)


def published(x: torch.Tensor, stream: Stream | None) -> torch.Tensor:
    """The solvers of MRS with data prediction in the coordinates of x, with their coefficient of μ written out.

    stream None: its ODE solver of second order (first step of first order); otherwise its SDE solver of first order.
    """
    older = None
    for k, (a, b) in enumerate(itertools.pairwise(GRID.tolist())):
        (alpha_a, alpha_b), (sigma_a, sigma_b) = (
            [float(rule(t)) for t in (a, b)] for rule in (SCHEDULE.alpha, SCHEDULE.sigma)
        )
        h = math.log(alpha_b / sigma_b) - math.log(alpha_a / sigma_a)
        data = RESTORED(x - MU, a) + MU  # E[x₁ | x_t]
        if stream is None:
            kept, gained = sigma_b / sigma_a, -alpha_b * math.expm1(-h)
            guess = data if older is None else data + (data - older[0]) * h / (2 * older[1])
            x = kept * x + (1 - kept - gained) * MU + gained * guess
        else:
            kept, gained = sigma_b / sigma_a * math.exp(-h), -alpha_b * math.expm1(-2 * h)
            z = stream.normal(len(x), (2,), step=k, dtype=torch.float64)
            x = kept * x + (1 - kept - gained) * MU + gained * data + sigma_b * math.sqrt(-math.expm1(-2 * h)) * z
        older = data, h
    return x


@pytest.mark.parametrize(
    ("solver", "stream"), [(DPMSolverPP2M(), None), (SDEDPMSolverPP1(), Stream(3))], ids=["ode 2", "sde 1"]
)
def test_mean_reverting_solvers_are_ours_in_the_shifted_chart(solver, stream) -> None:
    start = CHART.inverse(RESTORED.initial(float(GRID[0]), 16, Stream(1), torch.float64))
    end = solve(probability_flow(RESTORED), CHART.forward(start), GRID, solver, stream=stream)
    # eight steps of a dozen operations each, in two orders of summation
    assert torch.allclose(CHART.inverse(end), published(start, stream), rtol=1e-12, atol=1e-12)


M, V = torch.tensor([0.3, -0.5], dtype=torch.float64), torch.tensor([0.25, 0.09], dtype=torch.float64)


def log_normal(schedule) -> MixtureDenoiser:
    """The denoiser of log |X_0| ~ N(m, v)."""
    return GaussianDenoiser(M, V.diag(), schedule)


def test_any_solver_in_the_logarithmic_chart_gives_the_log_normal_law() -> None:
    schedule = VarianceExploding(sigma_min=1e-3, sigma_max=20.0)
    model = Charted(log_normal(schedule), Logarithm(SIGN))
    times = torch.linspace(0, 1, 81, dtype=torch.float64)
    x = model.generate(times, 64, EABM(order=3, frame="velocity"), Stream(4), torch.float64)
    start = model.denoiser.initial(0.0, 64, Stream(4).child("initial"), torch.float64)
    # the flow of a Gaussian keeps quantiles: y₁ = m + (y_0 − m) √((v + σ_min²)/(v + σ_max²))
    exact = M + (start - M) * ((V + 1e-6) / (V + 400)).sqrt()
    assert ((x > 0) == (SIGN > 0)).all()
    assert torch.allclose(x * SIGN, exact.exp(), rtol=2e-3)  # 80 steps of 0.12 in λ, started at order 1
    normal = torch.distributions.Normal(M, V.sqrt())
    density = model.log_prob(x, lambda y: normal.log_prob(y).sum(1))
    expected = torch.distributions.LogNormal(M, V.sqrt()).log_prob(x.abs()).sum(1)
    assert torch.allclose(density, expected, rtol=1e-12, atol=1e-12)


def test_events_of_another_sign_are_refused() -> None:
    with pytest.raises(ValueError, match="own sign, got 1 numbers"):
        Logarithm().forward(torch.tensor([[1.0, -2.0]]))


PROCESS = GeometricBrownian(drift=0.4, volatility=0.8)


def test_law_of_geometric_brownian_motion() -> None:
    """log |X_τ| ~ N(m + (μ − ς²/2)τ, v + ς²τ) from its kernel, and the multiplicative score is that law's."""
    n, tau = 20_000, 1.5
    x0 = SIGN * (M + V.sqrt() * Stream(5).normal(n, (2,), dtype=torch.float64)).exp()
    x = PROCESS.noised(x0, tau, Stream(6).normal(n, (2,), dtype=torch.float64))
    y = x.abs().log()
    mean, variance = M + (0.4 - 0.32) * tau, V + 0.64 * tau
    assert torch.equal(x.sign(), x0.sign())
    assert ((y.mean(0) - mean).abs() < 4 * (variance / n).sqrt()).all()  # 4 standard errors
    assert ((y.var(0) / variance - 1).abs() < 4 * math.sqrt(2 / n)).all()
    magnitude = x[:8].abs().requires_grad_()
    law = torch.distributions.LogNormal(mean, variance.sqrt()).log_prob(magnitude).sum()
    exact = magnitude.detach() * torch.autograd.grad(law, magnitude)[0]
    for schedule in (EDM(), Linear()):
        assert torch.allclose(PROCESS.score(log_normal(schedule), x[:8], tau), exact, rtol=1e-10, atol=1e-10)


def test_multiplicative_score_matching_has_the_score_as_minimiser() -> None:
    n, tau = 20_000, 0.7
    x0 = (M + V.sqrt() * Stream(7).normal(n, (2,), dtype=torch.float64)).exp()
    z, model = Stream(8).normal(n, (2,), dtype=torch.float64), log_normal(EDM())
    up, down = (
        PROCESS.loss(lambda x, tau, s=shift: PROCESS.score(model, x, tau) + s, x0, tau, z) for shift in (0.1, -0.1)
    )
    difference = up - down
    assert abs(float(difference.mean())) < 4 * float(difference.std()) / math.sqrt(n)


def reverse(step, n_steps: int, n: int, fine: int) -> torch.Tensor:
    """X at τ = 0 from exact draws at τ = 1; noise of coarse steps is the sum of that of fine steps."""
    model, delta = log_normal(EDM()), 1 / n_steps
    y = M + (0.4 - 0.32) + (V + 0.64).sqrt() * Stream(9).normal(n, (2,), dtype=torch.float64)
    noise = Stream(10).normal(n, (fine, 2), dtype=torch.float64) / math.sqrt(fine)
    x = SIGN * y.exp()
    for k, part in enumerate(noise.split(fine // n_steps, dim=1)):
        x = step(x, PROCESS.score(model, x, 1 - k * delta), delta, part.sum(1) / math.sqrt(delta))
    return x


def test_both_published_ways_back_agree_as_steps_shrink() -> None:
    """The same noise, X or log X: the distance falls as √δ, and only the step in log X keeps signs at any length."""
    distances = []
    for n_steps in (256, 1024):
        ambient, lamperti = (
            reverse(step, n_steps, 500, 1024) for step in (PROCESS.ambient_step, PROCESS.lamperti_step)
        )
        assert (lamperti.sign() == SIGN).all()
        distances.append(float((ambient / lamperti - 1).square().mean().sqrt()))
    # strong order ½ of Euler–Maruyama in X; at these lengths higher orders of δ add 0.02 to the slope
    assert math.log(distances[0] / distances[1]) / math.log(4) == pytest.approx(0.5, abs=0.1)
    z = torch.full((1, 2), -2.0, dtype=torch.float64)
    x, score = SIGN[None], torch.zeros(1, 2, dtype=torch.float64)
    assert (PROCESS.ambient_step(x, score, 4.0, -z - 8).sign() == -SIGN).all()
    assert (PROCESS.lamperti_step(x, score, 4.0, -z - 8).sign() == SIGN).all()


def test_the_sign_preserving_sampler_returns_to_the_data() -> None:
    n = 4000
    y = reverse(PROCESS.lamperti_step, 64, n, 64).abs().log()
    # 4 standard errors, and the O(δ) bias of 64 steps: below 4 % of the spread
    assert ((y.mean(0) - M).abs() < 4 * (V / n).sqrt() + 0.04 * V.sqrt()).all()
    assert ((y.var(0) / V - 1).abs() < 4 * math.sqrt(2 / n) + 0.06).all()
