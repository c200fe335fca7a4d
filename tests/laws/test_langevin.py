"""Churn and Langevin corrections: what their noise does to a law that is known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from problems import gaussian, mixture

from sciflow.diffusion.flow import probability_flow, reverse_sde
from sciflow.diffusion.mixture import GaussianDenoiser, MixtureDenoiser
from sciflow.diffusion.schedule import EDM, Linear, VariancePreserving
from sciflow.random import Stream
from sciflow.solvers import (
    EABM,
    EDMSampler,
    Equation,
    ExponentialEuler,
    Heun,
    Midpoint,
    PredictorCorrector,
    RFSolver,
    langevin,
    solve,
)

ROUNDING = 1e-12  # float64, some twenty operations on numbers of order one
N = 40_000
SPREADS = torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64)  # standard deviations of the coordinates


def diagonal(schedule: object) -> MixtureDenoiser:
    return GaussianDenoiser(torch.zeros(3, dtype=torch.float64), torch.diag(SPREADS**2), schedule)


def test_midpoint_is_the_taylor_step_of_rf_solver() -> None:
    flow = probability_flow(MixtureDenoiser(mixture(), Linear()))
    x, a, b = Stream(0).normal(8, (2,), dtype=torch.float64), 0.2, 0.35
    v = flow.drift(a, x)
    slope = (flow.drift(a + (b - a) / 2, x + (b - a) / 2 * v) - v) / ((b - a) / 2)
    published = x + (b - a) * v + (b - a) ** 2 / 2 * slope
    for solver in (Midpoint(), RFSolver()):
        assert torch.allclose(solve(flow, x, [a, b], solver), published, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("schedule", [VariancePreserving(), EDM(), Linear()], ids=str)
def test_without_churn_the_edm_sampler_is_heun_in_the_noise_level(schedule: object) -> None:
    denoiser = MixtureDenoiser(mixture(), schedule)
    grid = schedule.time(torch.linspace(-2, 2, 9, dtype=torch.float64))
    alpha, u = schedule.alpha(grid), schedule.sigma(grid) / schedule.alpha(grid)
    x = float(alpha[0]) * Stream(0).normal(8, (2,), dtype=torch.float64) * math.exp(2)

    def rise(negative: float, y: torch.Tensor) -> torch.Tensor:
        """dy/d(−u) = −(y − D)/u."""
        k = int((u + negative).abs().argmin())
        return -(y - denoiser(float(alpha[k]) * y, float(grid[k]))) / float(u[k])

    by_heun = solve(Equation(rise), x / float(alpha[0]), (-u).tolist(), Heun()) * float(alpha[-1])
    end = solve(probability_flow(denoiser), x, grid, EDMSampler())
    assert torch.allclose(end, by_heun, rtol=0, atol=100 * ROUNDING)  # 8 steps, states of the size of e²


def test_the_last_step_to_sigma_zero_is_the_denoiser() -> None:
    denoiser = MixtureDenoiser(mixture(), Linear())
    x = denoiser.initial(0.6, 8, Stream(0), torch.float64)
    flow = probability_flow(denoiser)
    assert torch.allclose(solve(flow, x, [0.6, 1.0], EDMSampler()), denoiser(x, 0.6), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("noise", [1.0, 1.05])
def test_churn_has_the_variance_of_its_affine_recursion(noise: float) -> None:
    """Each coordinate of Gaussian data is an affine map of itself and the noise: its variance is a recursion."""
    denoiser, n_steps = diagonal(EDM(sigma_min=0.05, sigma_max=10.0)), 8
    grid = torch.linspace(0, 1, n_steps + 1, dtype=torch.float64)
    solver = EDMSampler(churn=4.0, noise_min=0.1, noise_max=5.0, noise=noise)
    x = denoiser.initial(0.0, N, Stream(0), torch.float64)
    with torch.no_grad():
        end = solve(probability_flow(denoiser), x, grid, solver, stream=Stream(1))
    u, variance = denoiser.schedule.sigma(grid).tolist(), SPREADS**2 + 100.0
    for a, b in itertools.pairwise(u):
        high = a * (1 + min(4.0 / n_steps, math.sqrt(2) - 1)) if 0.1 <= a <= 5.0 else a
        first = high / (SPREADS**2 + high**2)  # slope of a unit of y
        euler = 1 + (b - high) * first
        gain = 1 + (b - high) / 2 * (first + euler * b / (SPREADS**2 + b**2))
        variance = gain**2 * (variance + noise**2 * (high**2 - a**2))
    # standard error of a variance: √(2/n) of it
    assert ((end.var(0) / variance - 1).abs() < 4 * math.sqrt(2 / N)).all()


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_langevin_steps_settle_at_their_stationary_variance(share: float) -> None:
    """At a fixed level x' = (1 − ε/v) x + √(2ε) z: the variance settles at v/(1 − ε/2v), ε = share · σ²."""
    denoiser, t = diagonal(VariancePreserving()), 0.5
    alpha, sigma = float(denoiser.schedule.alpha(t)), float(denoiser.schedule.sigma(t))
    v = alpha**2 * SPREADS**2 + sigma**2
    step = share * sigma**2
    exact = v / (1 - step / (2 * v))
    stream = Stream(3)
    x = exact.sqrt() * stream.child("start").normal(N, (3,), dtype=torch.float64) * 1.1
    n_steps = math.ceil(math.log(1e-3) / (2 * math.log(1 - step / float(v.max()))))  # forgets the start's 1.21
    for k in range(n_steps):
        z = stream.normal(N, (3,), step=k, dtype=torch.float64)
        x = langevin(x, x - alpha * denoiser(x, t), sigma, math.sqrt(share / 2), z)
    # standard error of a variance: √(2/n) of it, and 2e-4 is left of the start
    assert ((x.var(0) / exact - 1).abs() < 4 * math.sqrt(2 / N) + 3e-4).all()


def test_norms_of_rows_inflate_the_variance_of_white_data_by_four_over_the_dimension() -> None:
    """ε = 2 r² ‖z‖²/‖x‖² for white data, as r → 0.

    ‖z‖² z zᵀ has 1 + 2/d times the trace of its factors' means, a temperature; and 1/‖x‖² makes ‖x‖² p stationary,
    which is another 1 + 2/d.
    """
    d, n, ratio, stream = 8, 4000, 0.1, Stream(5)
    inflated = (1 + 2 / d) ** 2
    x = stream.child("start").normal(n, (d,), dtype=torch.float64) * math.sqrt(inflated)
    for k in range(150):  # ε ≈ 0.02 d/‖x‖²: e^{−4} is left of the start
        z = stream.normal(n, (d,), step=k, dtype=torch.float64)
        x = langevin(x, x, 1.0, ratio, z, norm="row")
    # standard error √(2/nd) for independent coordinates, which norms couple by less than 2; 3 % is O(r²)
    assert float(x.square().mean()) / inflated == pytest.approx(1, abs=0.03 + 8 * math.sqrt(2 / (n * d)))


@pytest.mark.parametrize("norm", ["level", "row"])
def test_corrections_do_not_see_other_rows_nor_the_label_of_the_level(norm: str) -> None:
    log_snr, ends = torch.linspace(-1, 2, 7, dtype=torch.float64), []
    solver = PredictorCorrector(n_corrections=2, norm=norm)
    for schedule in (VariancePreserving(), Linear()):
        denoiser, grid = MixtureDenoiser(mixture(), schedule), schedule.time(log_snr)
        alpha = float(schedule.alpha(grid[0]))
        x = alpha * Stream(0).normal(8, (2,), dtype=torch.float64) * math.e
        flow = probability_flow(denoiser)
        end = solve(flow, x, grid, solver, stream=Stream(1))
        few = solve(flow, x[:3], grid, solver, stream=Stream(1))
        # the closed-form denoiser is a matrix product, whose last bits depend on the batch
        assert torch.allclose(end[:3], few, rtol=0, atol=ROUNDING)
        ends.append(end / float(schedule.alpha(grid[-1])))
    assert torch.allclose(*ends, rtol=0, atol=1e-10)  # times found by inverting λ(t)


def test_a_predictor_with_corrections_samples_a_gaussian() -> None:
    law = gaussian()
    denoiser = MixtureDenoiser(law, EDM(sigma_min=0.05, sigma_max=5.0))
    n, grid = 20_000, torch.linspace(0, 1, 41, dtype=torch.float64)
    x = denoiser.initial(0.0, n, Stream(3), torch.float64)
    with torch.no_grad():
        end = solve(probability_flow(denoiser), x, grid, PredictorCorrector(Heun()), stream=Stream(4))
    variance = (law.covariances[0] + 0.05**2 * torch.eye(3)).diagonal()
    # Standard errors: s/√n and √(2/n) of a variance; 3 % besides: ε/2v ≤ r² = 2.6 % of the last correction
    assert ((end.mean(0) - law.means[0]).abs() < 4 * (variance / n).sqrt() + 0.03 * variance.sqrt()).all()
    assert ((end.var(0) / variance - 1).abs() < 4 * math.sqrt(2 / n) + 0.03).all()


def test_without_corrections_the_predictor_is_left_and_wrong_uses_are_refused() -> None:
    denoiser = MixtureDenoiser(mixture(), Linear())
    flow, x = probability_flow(denoiser), denoiser.initial(0.3, 8, Stream(0), torch.float64)
    plain = PredictorCorrector(n_corrections=0)
    assert torch.equal(solve(flow, x, [0.3, 0.5], plain), solve(flow, x, [0.3, 0.5], ExponentialEuler()))
    last = solve(flow, x, [0.3, 1.0], PredictorCorrector(ExponentialEuler("data")))  # σ = 0: nothing to correct
    assert torch.isfinite(last).all()
    with pytest.raises(ValueError, match="Use a one-step predictor"):
        solve(flow, x, [0.3, 0.5], PredictorCorrector(EABM(2)), stream=Stream(0))
    with pytest.raises(ValueError, match="Pass stream"):
        solve(flow, x, [0.3, 0.5], PredictorCorrector())
    with pytest.raises(ValueError, match="Pass stream"):
        solve(flow, x, [0.3, 0.5], EDMSampler(churn=1.0))
    with pytest.raises(ValueError, match="takes the probability flow"):
        solve(reverse_sde(denoiser), x, [0.3, 0.5], EDMSampler())
    with pytest.raises(ValueError, match="infinite at t = 0"):
        solve(flow, x, [0.0, 0.5], EDMSampler())
