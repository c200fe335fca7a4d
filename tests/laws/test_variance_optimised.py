"""The variance-optimised step: what it is when nothing is optimised, and that no sample can break it."""

from __future__ import annotations

import pytest
import torch
from problems import mixture

from sciflow.diffusion.denoiser import FromView
from sciflow.diffusion.flow import probability_flow
from sciflow.diffusion.mixture import MixtureDenoiser
from sciflow.diffusion.schedule import EDM, Linear, VariancePreserving
from sciflow.random import Stream
from sciflow.solvers import VarianceOptimised, solve

ROUNDING = 1e-12  # float64, some tens of operations of order one


def test_without_spread_it_is_2m() -> None:
    """DPM-Solver++(2M), midpoint, written out."""
    denoiser = MixtureDenoiser(mixture(), VariancePreserving())
    times = torch.tensor([0.2, 0.3, 0.45, 0.5, 0.7], dtype=torch.float64)
    schedule = denoiser.schedule
    alpha, sigma, log_snr = (f(times) for f in (schedule.alpha, schedule.sigma, schedule.log_snr))
    x = start = denoiser.initial(0.2, 8, Stream(0), torch.float64)
    h, data = log_snr.diff(), []
    for k in range(4):
        data.append(denoiser(x, times[k]))
        slope = data[k] + (data[k] - data[k - 1]) * h[k] / (2 * h[k - 1]) if k else data[k]
        x = sigma[k + 1] / sigma[k] * x - alpha[k + 1] * torch.expm1(-h[k]) * slope
    end = solve(probability_flow(denoiser), start, times, VarianceOptimised(spread=0.0))
    assert torch.allclose(end, x, rtol=0, atol=ROUNDING)
    assert not torch.allclose(solve(probability_flow(denoiser), start, times, VarianceOptimised()), x, atol=1e-6)


def test_the_share_is_the_least_squares_one_per_row_and_stays_in_its_range() -> None:
    before = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    change = torch.tensor([[1.0, 5.0], [0.0, 1.0], [2.0, 1.0], [-9.0, 0.0]], dtype=torch.float64)
    share = VarianceOptimised(spread=1.0)._share(change, before, 2.0)
    # ⟨change, 2 before⟩/‖2 before‖²; nothing to compare with leaves 1; −4.5 is cut to 0
    assert share[:, 0].tolist() == pytest.approx([0.5, 0.25, 1.0, 0.0])


def test_a_constant_denoiser_is_exact_and_finite() -> None:
    """No difference to divide by, one channel of one number, and a last step into σ = 0."""
    value, schedule = torch.full((1, 1), 0.7, dtype=torch.float64), Linear()
    model = FromView(lambda x, t: value.expand_as(x), "data", schedule, (1,))
    x = torch.randn(5, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    end = solve(probability_flow(model), x, torch.linspace(0.1, 1.0, 40), VarianceOptimised())
    assert torch.allclose(end, value.expand(5, 1), rtol=0, atol=ROUNDING)


def test_rows_do_not_depend_on_the_batch_and_many_steps_are_finite() -> None:
    denoiser = MixtureDenoiser(mixture(), EDM(sigma_min=0.01, sigma_max=20.0))
    x = denoiser.initial(0.0, 9, Stream(0), torch.float64)
    times, flow, solver = torch.linspace(0.0, 1.0, 65), probability_flow(denoiser), VarianceOptimised()
    with torch.no_grad():
        whole = solve(flow, x, times, solver)
        alone = torch.cat([solve(flow, x[k : k + 1], times, solver) for k in range(9)])
    assert torch.isfinite(whole).all()
    assert torch.equal(whole, alone)
