"""Every solver converges at the order it declares: with exact starting values, on problems with known solutions."""

from __future__ import annotations

import math

import pytest
import torch
from problems import FINEST, HISTORY, SOLVER_VARIANTS, gaussian, solution

from sciflow.diffusion.denoiser import Counted
from sciflow.diffusion.flow import FRAMES, probability_flow, reverse_sde
from sciflow.diffusion.mixture import MixtureDenoiser
from sciflow.diffusion.schedule import EDM, Linear, VariancePreserving
from sciflow.random import Stream
from sciflow.solvers import (
    EABM,
    AdaptiveRungeKutta,
    Auto,
    Dopri5,
    DPMSolver12,
    DPMSolver23,
    Equation,
    ExponentialRosenbrock,
    ExponentialRungeKutta,
    TorchDiffEq,
    solve,
)

# the error follows the tolerance, not the grid: `test_adaptive_error_follows_the_tolerance`, test_adaptive.py and
# test_torchdiffeq.py
ADAPTIVE = (Dopri5, TorchDiffEq, AdaptiveRungeKutta, DPMSolver12, DPMSolver23)
# times wider grids: a forward-mode derivative costs as much as 14 calls here; errors of order 6 fall below 1e-13
COARSER = {ExponentialRosenbrock: 4, Auto: 2}


def is_for(solver: object, dynamics: Equation) -> bool:
    try:
        solver.plan(dynamics, [0.4, 0.5])
    except ValueError:
        return False
    return True


def draws(solver: object) -> bool:
    """Whether it adds noise of its own to the probability flow."""
    try:
        solve(FLOW, torch.zeros(1, 3), [0.4, 0.5], solver)
    except ValueError:
        return True
    return False


FLOW, SDE = (make(MixtureDenoiser(gaussian(), Linear())) for make in (probability_flow, reverse_sde))
ODE_SOLVERS = [s for s in SOLVER_VARIANTS if is_for(s, FLOW) and not isinstance(s, ADAPTIVE)]
NOISY = [s for s in ODE_SOLVERS if draws(s)]
ODE_SOLVERS = [s for s in ODE_SOLVERS if s not in NOISY]
SDE_SOLVERS = [s for s in SOLVER_VARIANTS if is_for(s, SDE)]


def test_every_solver_is_tested() -> None:
    assert all(s in [*ODE_SOLVERS, *SDE_SOLVERS, *NOISY] or isinstance(s, ADAPTIVE) for s in SOLVER_VARIANTS)


def error(solver: object, law: str, schedule: object, stride: int, n_past: int | None = None) -> float:
    """Root mean square error at the end, with exact values at the times before the first, unless n_past = 0."""
    denoiser, grid, path = solution(law, schedule)
    stride *= COARSER.get(type(solver), 1)
    first = round(HISTORY * FINEST)
    n_past = getattr(solver, "order", 1) - 1 if n_past is None else n_past
    earlier = [first - j * stride for j in range(n_past, 0, -1)]
    past = [(float(grid[i]), path[i]) for i in earlier]
    with torch.no_grad():
        end = solve(probability_flow(denoiser), path[first], grid[first::stride], solver, past=past)
    return float((end - path[-1]).square().mean().sqrt())


@pytest.mark.slow
@pytest.mark.parametrize("solver", ODE_SOLVERS, ids=str)
def test_order_on_a_mixture(solver: object) -> None:
    errors = [error(solver, "mixture", VariancePreserving(), stride) for stride in (4, 2)]
    slope = math.log2(errors[0] / errors[1])
    if abs(slope - solver.convergence) > 0.15:  # not yet asymptotic: the finest grid decides
        slope = math.log2(errors[1] / error(solver, "mixture", VariancePreserving(), 1))
    # 0.15: the slope at h = 1/256 still bends by about 0.1 for the highest orders; a wrong coefficient costs a whole 1
    if isinstance(
        solver, Auto
    ):  # its error of order 6 is some 0.04/h of that of order 7, which alone is above rounding
        assert solver.convergence - 0.15 < slope < solver.convergence + 2
    else:
        assert slope == pytest.approx(solver.convergence, abs=0.15)


@pytest.mark.parametrize("solver", ODE_SOLVERS, ids=str)
def test_order_on_a_gaussian_is_at_least_the_declared_one(solver: object) -> None:
    coarse, fine = (error(solver, "gaussian", Linear(), stride) for stride in (4, 2))
    # 1e-12 is what rounding leaves of 1000 steps: a solver may be exact on a Gaussian
    assert fine < 1e-12 or math.log2(coarse / fine) > solver.convergence - 0.15


@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("order", [2, 3, 4])
def test_single_steps_start_the_multistep_family_at_its_full_order(order: int, frame: str, corrector: bool) -> None:
    solver = EABM(order, frame, corrector, start="single_step")
    strides = (4, 2) if solver.convergence == 5 else (2, 1)
    coarse, fine = (error(solver, "mixture", VariancePreserving(), stride, n_past=0) for stride in strides)
    # 0.15: as for exact history; order 5 at h = 1/128 errs by 1e-10, a hundred times the reference
    assert math.log2(coarse / fine) == pytest.approx(solver.convergence, abs=0.15)


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("order", [3, 4])
def test_a_ramp_caps_the_order_at_two(order: int, frame: str) -> None:
    coarse, fine = (error(EABM(order, frame), "mixture", VariancePreserving(), stride, n_past=0) for stride in (4, 2))
    assert math.log2(coarse / fine) == pytest.approx(2, abs=0.15)  # 0.15: order 3 at h = 1/128 is still 2.1


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_single_steps_without_a_linear_part_are_runge_kutta_methods(order: int) -> None:
    """x' = t − x² from 1 at 0, against the finest grid of the order above."""
    equation, x = Equation(lambda t, x: t - x**2), torch.ones(1, 1, dtype=torch.float64)
    exact = solve(equation, x, torch.linspace(0, 1, 201, dtype=torch.float64), ExponentialRungeKutta(6, "time"))
    ends = [
        solve(equation, x, torch.linspace(0, 1, n + 1, dtype=torch.float64), ExponentialRungeKutta(order, "time"))
        for n in (16, 32)
    ]
    coarse, fine = (float((end - exact).abs()) for end in ends)
    # 0.3: one coordinate at h = 1/16; order 6 at h = 1/200 errs by less than 1e-13
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.3)


@pytest.mark.parametrize(("order", "calls"), [(1, 1), (2, 2), (3, 3), (4, 6)])
def test_single_steps_cost_what_they_say(order: int, calls: int) -> None:
    denoiser = Counted(MixtureDenoiser(gaussian(), VariancePreserving()))
    solve(probability_flow(denoiser), torch.zeros(1, 3), [0.3, 0.4, 0.5], ExponentialRungeKutta(order))
    assert denoiser.rows == 2 * calls


@pytest.mark.parametrize("tolerance", [1e-4, 1e-8])
def test_adaptive_error_follows_the_tolerance(tolerance: float) -> None:
    denoiser, grid, path = solution("gaussian", VariancePreserving())
    solver = Dopri5(relative_tolerance=tolerance, absolute_tolerance=tolerance)
    end = solve(probability_flow(denoiser), path[0], [grid[0], grid[-1]], solver)
    # local errors add up over some dozens of steps and are stretched by the flow: a factor 100 is generous, and 1e4
    # smaller than the distance between the two tolerances
    assert float((end - path[-1]).abs().max()) < 100 * tolerance


@pytest.mark.slow
@pytest.mark.parametrize("solver", [*SDE_SOLVERS, *NOISY], ids=str)
def test_weak_error_of_stochastic_solvers_on_a_gaussian(solver: object) -> None:
    """Mean and variance at the end against N(m, C): the reverse SDE of a Gaussian is linear, its law is known."""
    law = gaussian()
    denoiser = MixtureDenoiser(law, EDM(sigma_min=0.05, sigma_max=5.0))
    n, n_steps = 20_000, 200
    x = denoiser.initial(0.0, n, Stream(3), torch.float64)
    stop = float(denoiser.schedule.time(-math.log(0.05)))
    with torch.no_grad():
        dynamics = (probability_flow if solver in NOISY else reverse_sde)(denoiser)
        end = solve(dynamics, x, torch.linspace(0, stop, n_steps + 1), solver, stream=Stream(4))
    variance = law.covariances[0] + 0.05**2 * torch.eye(3)
    spread = variance.diagonal().sqrt()
    # Standard errors: s/√n for a mean, s²√(2/n) for a variance; 3 % besides is the O(h) bias of 200 steps
    assert ((end.mean(0) - law.means[0]).abs() < 4 * spread / math.sqrt(n) + 0.03 * spread).all()
    assert ((end.var(0) / spread**2 - 1).abs() < 4 * math.sqrt(2 / n) + 0.03).all()
