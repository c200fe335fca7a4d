"""Every schedule: its derivative is autograd's, its inverse inverts, its ends are where it says."""

from __future__ import annotations

import pytest
import torch

from sciflow.diffusion import SCHEDULES, TIMES, Scaled

ENTRIES = [*(cls() for cls in SCHEDULES.values()), *(Scaled(cls(), 0.3) for cls in SCHEDULES.values())]
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


@pytest.mark.parametrize("kind", ["variance_preserving", "cosine", "trigonometric"])
def test_variance_is_preserved(kind: str) -> None:
    schedule, t = SCHEDULES[kind](), torch.linspace(0, 1, 101, dtype=torch.float64)
    total = schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2
    assert torch.allclose(total, torch.ones_like(t), rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", ["cosine", "linear", "trigonometric"])
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
