"""DPM-Solver-v3: what its statistics are for a Gaussian, which method it is without them, and that order survives."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from problems import gaussian, mixture, solution

from sciflow.diffusion.flow import probability_flow
from sciflow.diffusion.mixture import GaussianMixture, MixtureDenoiser
from sciflow.diffusion.schedule import Linear, VariancePreserving
from sciflow.random import Stream
from sciflow.solvers import EABM, DPMSolverV3, linear, solve
from sciflow.solvers.model_statistics import ModelStatistics, fit_statistics

ROUNDING = 1e-12  # float64, some tens of operations of order one
MEAN, VARIANCE = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64)


@cache
def independent() -> MixtureDenoiser:
    one = torch.ones(1, dtype=torch.float64)
    return MixtureDenoiser(GaussianMixture(one, MEAN[None], VARIANCE.diag()[None]), VariancePreserving())


def times_of(*log_snr: float) -> list[float]:
    return VariancePreserving().time(torch.tensor(log_snr, dtype=torch.float64)).tolist()


@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_without_statistics_it_is_the_multistep_method_of_dpm_solver_pp(order: int, corrector: bool) -> None:
    denoiser = MixtureDenoiser(mixture(), Linear())
    x = denoiser.initial(0.1, 8, Stream(0), torch.float64)
    past, grid = [(0.04, 0.9 * x), (0.07, 0.95 * x)], [0.1, 0.2, 0.35, 0.4, 0.6, 0.8]
    ends = [
        solve(probability_flow(denoiser), x, grid, solver, past=past)
        for solver in (DPMSolverV3(order, corrector), EABM(order, "data", corrector))
    ]
    assert torch.allclose(*ends, rtol=0, atol=ROUNDING)


def test_the_slope_of_independent_gaussians_is_their_signal_to_noise() -> None:
    """D = m + S (y − m)/(S + u²): l = u²/(S + u²), N = l m whatever the state, and so it does not vary."""
    denoiser, times = independent(), times_of(-3.0, 3.0)
    x = denoiser.initial(times[0], 32, Stream(0), torch.float64)
    found = fit_statistics(probability_flow(denoiser), x, times, Stream(1), width=0.5)
    u2 = np.exp(-2 * found.log_snr)[:, None]
    assert found.slopes == pytest.approx(u2 / (VARIANCE.numpy() + u2), abs=ROUNDING)
    assert found.means == pytest.approx(found.slopes * MEAN.numpy(), abs=ROUNDING)
    assert np.ptp(np.log(found.spreads), axis=0).max() < 1e-3  # rounding, 1e-15, beside the floor of 1e-6


def test_one_step_is_exact_for_independent_gaussians_up_to_the_spline() -> None:
    """From λ = −3 to 3. What remains is the cubic spline through l: sixteen times less at half the width."""
    denoiser, times = independent(), times_of(-3.0, 3.0)
    x = denoiser.initial(times[0], 16, Stream(2), torch.float64)
    (alpha_a, alpha_b), (sigma_a, sigma_b) = (
        denoiser.schedule.alpha(torch.tensor(times)),
        denoiser.schedule.sigma(torch.tensor(times)),
    )
    gain = ((alpha_b**2 * VARIANCE + sigma_b**2) / (alpha_a**2 * VARIANCE + sigma_a**2)).sqrt()
    exact = alpha_b * MEAN + gain * (x - alpha_a * MEAN)
    errors = []
    for width in (0.2, 0.1):
        end = solve(probability_flow(denoiser), x, times, DPMSolverV3(1, n_samples=16, width=width))
        errors.append(float((end - exact).abs().max()))
    plain = float((solve(probability_flow(denoiser), x, times, DPMSolverV3(1)) - exact).abs().max())
    assert errors[1] < 1e-5 < 1e-1 < plain  # width⁴/384 = 3e-7, times derivatives of l up to 16 and six units of λ
    assert errors[1] < errors[0] / 8  # 16 but for the spline's ends


@cache
def fitted(per_coordinate: bool, folder: Path) -> str:
    denoiser, times = MixtureDenoiser(mixture(), VariancePreserving()), times_of(-1.8, 1.6)
    x = denoiser.initial(times[0], 64, Stream(3), torch.float64)
    path = folder / f"{per_coordinate}.npz"
    fit_statistics(probability_flow(denoiser), x, times, Stream(4), 0.2, per_coordinate).save(path)
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("per_coordinate", [True, False])
@pytest.mark.parametrize("solver", [(1, False), (2, False), (3, False), (2, True)])
def test_order_with_fitted_statistics(
    solver: tuple[int, bool], per_coordinate: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    method = DPMSolverV3(*solver, fitted(per_coordinate, tmp_path_factory.getbasetemp()))
    denoiser, grid, path = solution("mixture", VariancePreserving())
    errors = []
    for stride in (8, 4):
        past = [(float(grid[i]), path[i]) for i in (64 - 2 * stride, 64 - stride)]
        with torch.no_grad():
            end = solve(probability_flow(denoiser), path[64], grid[64::stride], method, past=past)
        errors.append(float((end - path[-1]).square().mean().sqrt()))
    # 0.15: the bend of a slope at h = 1/64; statistics that are inconsistent with the step would leave order 0
    assert math.log2(errors[0] / errors[1]) == pytest.approx(method.convergence, abs=0.15)


def test_the_scale_integrates_the_papers_s() -> None:
    """d log sd N/dλ = Cov(N, N')/Var N, with N' by differences along the paths of the same states."""
    denoiser, times = MixtureDenoiser(mixture(), VariancePreserving()), times_of(-1.0, -0.5)
    flow, h = probability_flow(denoiser), 1e-3
    x = denoiser.initial(times[0], 256, Stream(5), torch.float64)
    found = fit_statistics(flow, x, times, Stream(6), width=0.05)
    middle, values = -0.75, []
    for level in (middle - h, middle, middle + h):
        (t,) = times_of(level)
        state = solve(flow, x, torch.linspace(times[0], t, 60), EABM(4, "noise"))
        alpha = float(denoiser.schedule.alpha(t))
        values.append(denoiser(state, t) - (1 - torch.from_numpy(found.slope(level))) * state / alpha)
    rate, centred = (values[2] - values[0]) / (2 * h), values[1] - values[1].mean(0)
    s = (centred * rate).mean(0) / centred.square().mean(0)
    logs = [np.log(found.spread(middle + d)) for d in (-h, h)]
    # 1e-3 of 1.04: the spline's derivative errs by width³/24 = 5e-6 times derivatives of order ten to a hundred
    assert (logs[1] - logs[0]) / (2 * h) == pytest.approx(s.numpy(), abs=1e-3)


def test_the_last_step_may_reach_the_data() -> None:
    denoiser = independent()
    flow, x = probability_flow(denoiser), denoiser.initial(0.3, 4, Stream(0), torch.float64)
    for solver in (DPMSolverV3(), DPMSolverV3(1, n_samples=8, width=0.5)):
        before = solve(flow, x, [0.3, 0.5], solver)
        end = solve(flow, x, [0.3, 0.5, 1.0], solver)
        assert torch.allclose(end, denoiser(before, 0.5), rtol=0, atol=ROUNDING)


def test_rows_and_seeds(tmp_path: Path) -> None:
    denoiser, times = MixtureDenoiser(mixture(), VariancePreserving()), times_of(-1.0, 0.0, 1.0)
    x = denoiser.initial(times[0], 5, Stream(0), torch.float64)
    solver = DPMSolverV3(2, n_samples=16, width=0.25, seed=7)
    whole = solve(probability_flow(denoiser), x, times, solver)
    assert torch.equal(whole[1:3], solve(probability_flow(denoiser), x[1:3], times, solver))
    other = solve(probability_flow(denoiser), x, times, DPMSolverV3(2, n_samples=16, width=0.25, seed=8))
    assert not torch.equal(whole, other)


def test_refusals(tmp_path: Path) -> None:
    flow, times = probability_flow(independent()), times_of(-1.0, 1.0)
    levels = np.linspace(-1.0, 0.5, 8)
    path = str(tmp_path / "s.npz")
    ModelStatistics(levels, *np.ones((3, 8, 2))).save(path)
    for solver, message in (
        (DPMSolverV3(statistics=path), "wider grid"),
        (DPMSolverV3(statistics=path, n_samples=4), "not both"),
        (DPMSolverV3(statistics=str(tmp_path / "none.npz")), "no model statistics"),
    ):
        with pytest.raises(ValueError, match=message):
            solver.plan(flow, times)
    with pytest.raises(ValueError, match="Fit them again"):
        solve(flow, torch.zeros(1, 3, dtype=torch.float64), times_of(-1.0, 0.0), DPMSolverV3(statistics=path))
    with pytest.raises(ValueError, match="no frame"):
        DPMSolverV3().plan(linear(-1.0, lambda t, x: x), [0.0, 1.0])
    with pytest.raises(ValueError, match="Start the grid later"):
        DPMSolverV3().plan(probability_flow(MixtureDenoiser(gaussian(), Linear())), [0.0, 0.5])
    with pytest.raises(ValueError, match="two times"):
        DPMSolverV3(n_samples=4).plan(flow, [0.5, 1.0])
