"""Every schedule: its derivative is autograd's, its inverse inverts, its ends are where it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sciflow.diffusion import SCHEDULES, TIMES, EmpiricalDenoiser, Scaled, data_separation
from sciflow.diffusion.paths import KineticOptimal, SubVariancePreserving
from sciflow.diffusion.schedule import EDM, Linear, Trigonometric
from sciflow.random import Stream

ENTRIES = [*(cls() for cls in SCHEDULES.values()), *(Scaled(cls(), 0.3) for cls in SCHEDULES.values())]
ENTRIES += [SCHEDULES["follmer"](power=1.5)]  # a power that is no product
TIMES_INSIDE = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)


@pytest.mark.parametrize("schedule", ENTRIES, ids=str)
def test_derivative_is_autograd(schedule) -> None:
    t = TIMES_INSIDE.clone().requires_grad_()
    for value, rate in ((schedule.alpha, schedule.alpha_rate), (schedule.sigma, schedule.sigma_rate)):
        y = value(t)
        expected = torch.autograd.grad(y.sum(), t)[0] if y.requires_grad else torch.zeros_like(t)
        assert torch.allclose(rate(TIMES_INSIDE), expected, rtol=1e-10, atol=1e-12)  # float64, ten operations


@pytest.mark.parametrize("schedule", ENTRIES, ids=str)
def test_time_inverts_the_log_signal_to_noise_ratio(schedule) -> None:
    log_snr = schedule.log_snr(TIMES_INSIDE)
    assert (log_snr.diff() > 0).all()
    assert torch.allclose(schedule.time(log_snr), TIMES_INSIDE, rtol=0, atol=1e-11)  # the slope of λ is above 1e-1
    assert torch.allclose(schedule.log_snr(0.37), schedule.log_snr(torch.tensor(0.37, dtype=torch.float64)))


@pytest.mark.parametrize("schedule", ENTRIES, ids=str)
def test_a_time_has_the_same_bits_alone_and_among_others(schedule) -> None:
    """Some functions of torch differ in the last bit where a number ends a vector: rows would see each other."""
    t = Stream(0).uniform(67, dtype=torch.float64).clamp(0.01, 0.99)
    log_snr = schedule.log_snr(t)
    asked = {"alpha": t, "sigma": t, "alpha_rate": t, "sigma_rate": t, "log_snr": t, "time": log_snr}
    for name, at in asked.items():
        alone = torch.cat([getattr(schedule, name)(at[k : k + 1]) for k in range(len(at))])
        assert torch.equal(alone, getattr(schedule, name)(at)), name


@pytest.mark.parametrize("kind", ["variance_preserving", "cosine", "trigonometric"])
def test_variance_is_preserved(kind: str) -> None:
    schedule, t = SCHEDULES[kind](), torch.linspace(0, 1, 101, dtype=torch.float64)
    total = schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2
    assert torch.allclose(total, torch.ones_like(t), rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", ["cosine", "linear", "trigonometric", "kinetic_optimal"])
def test_both_ends_are_reached(kind: str) -> None:
    schedule = SCHEDULES[kind]()
    assert float(schedule.alpha(0.0)) == 0.0
    assert float(schedule.sigma(1.0)) == 0.0
    assert float(schedule.alpha(1.0)) == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("times", [cls(n_steps=7) for cls in TIMES.values()], ids=str)
@pytest.mark.parametrize("schedule", ENTRIES, ids=str)
def test_grids_increase_between_their_noise_levels(schedule, times) -> None:
    grid = times(schedule)
    assert grid.shape == (8,) and grid.dtype == torch.float64
    assert (grid.diff() > 0).all() and grid[0] >= 0 and grid[-1] <= 1
    base = schedule.base if isinstance(schedule, Scaled) else schedule
    ratio = torch.exp(-base.log_snr(grid))
    # at most what was asked for; a schedule that reaches less far ends where it can
    assert ratio[0] <= times.ratio_max * (1 + 1e-9) and ratio[-1] >= times.ratio_min * (1 - 1e-9)


def test_noise_of_the_sub_variance_preserving_equation() -> None:
    """The kernel's σ = 1 − α² belongs to dx = −½βx ds + √(β(1 − e^{−2∫β})) dW: g² = 2σ²(α̇/α − σ̇/σ) says the same."""
    schedule, t = SubVariancePreserving(), TIMES_INSIDE
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    squared = 2 * sigma * (sigma * schedule.alpha_rate(t) / alpha - schedule.sigma_rate(t))
    beta = schedule.beta_min + (1 - t) * (schedule.beta_max - schedule.beta_min)
    assert torch.allclose(squared, beta * (1 - alpha**4), rtol=1e-12, atol=0)


ANGLES, WEIGHTS = (torch.from_numpy(values) for values in np.polynomial.hermite_e.hermegauss(120))


def two_points() -> tuple[float, ...]:
    """Λ of ±1 in one dimension, E tanh²(s² + s z) with s = tan θ, by Gauss–Hermite quadrature."""
    s = torch.linspace(0, 0.5 * math.pi, 257, dtype=torch.float64).tan()[:, None]
    return tuple(((s**2 + s * ANGLES).tanh() ** 2 @ WEIGHTS / math.sqrt(2 * math.pi)).tolist())


def energy(schedule, eigenvalues: tuple[float, float]) -> float:
    """∫ E‖v‖² dt / d for Gaussian data: v = ½ (ln v_k)˙ x in each eigendirection, v_k = α²λ_k + σ²."""
    t = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    alpha, sigma, alpha_rate, sigma_rate = (
        rule(t)[:, None] for rule in (schedule.alpha, schedule.sigma, schedule.alpha_rate, schedule.sigma_rate)
    )
    values = torch.tensor(eigenvalues, dtype=torch.float64)
    half_rate = alpha * alpha_rate * values + sigma * sigma_rate
    return float((half_rate**2 / (alpha**2 * values + sigma**2)).mean())


def test_kinetic_optimum_of_two_eigenvalues_is_optimal_transport() -> None:
    values = (1.9, 0.1)
    schedule, exact = KineticOptimal(values), sum((math.sqrt(v) - 1) ** 2 for v in values) / 2
    assert schedule.kinetic_energy == pytest.approx(exact, rel=1e-4)  # √ℓ is interpolated on 513 angles: 1e-5
    # the midpoint rule of 20 000 cells meets α ~ √t at the start, where the floor of √ℓ bends it: 1e-3
    assert energy(schedule, values) == pytest.approx(exact, rel=1e-3)
    assert energy(Linear(), values) == pytest.approx(0.669, abs=5e-4)
    assert energy(Trigonometric(), values) == pytest.approx(0.377, abs=5e-4)


def test_kinetic_optimum_of_two_points() -> None:
    schedule = KineticOptimal(separation=two_points())
    # by a trapezoidal rule over 2·10⁵ values of z and 512 angles; the floor of √ℓ adds 1e-5 to Φ
    assert schedule.span == pytest.approx(0.691264, abs=2e-5)
    assert schedule.kinetic_energy == pytest.approx(0.459119, abs=3e-5)


@pytest.mark.parametrize(
    ("schedule", "limit"),
    [(KineticOptimal(separation=(1.0,) * 65), Linear()), (KineticOptimal((2.0,)), Trigonometric())],
    ids=["separated", "gaussian"],
)
def test_limits_of_the_kinetic_optimum(schedule, limit) -> None:
    for name in ("alpha", "sigma", "alpha_rate", "sigma_rate"):
        # the floor of √ℓ stands for ℓ = 0 of Gaussian data: Φ = 1.6e-6, squared in the path
        assert torch.allclose(getattr(schedule, name)(TIMES_INSIDE), getattr(limit, name)(TIMES_INSIDE), atol=1e-10)


def test_separation_is_measured_by_the_loss_of_a_denoiser() -> None:
    points = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    denoiser, n = EmpiricalDenoiser(points, Linear()), 20_000
    measured = torch.tensor(data_separation(denoiser, points.repeat(n // 2, 1), Stream(0), n_angles=9))
    exact = torch.tensor(two_points()[::32])
    # each Λ is one minus a mean of n numbers within [0, 4] and of variance below 1: 4 standard errors
    assert ((measured - exact).abs() < 4 / math.sqrt(n)).all()
    with pytest.raises(ValueError, match="reaches further"):
        data_separation(EmpiricalDenoiser(points, EDM(sigma_max=2.0)), points, Stream(0))


def test_a_table_needs_three_angles() -> None:
    with pytest.raises(ValueError, match="at least three angles"):
        KineticOptimal(separation=(0.0, 1.0))
