"""Every solver converges at the order it declares: with exact starting values, on problems with known solutions."""

from __future__ import annotations

import math

import pytest
import torch
from problems import FINEST, HISTORY, SOLVER_VARIANTS, gaussian, solution

from sciflow.diffusion.flow import probability_flow, reverse_sde
from sciflow.diffusion.mixture import MixtureDenoiser
from sciflow.diffusion.schedule import EDM, Linear, VariancePreserving
from sciflow.random import Stream
from sciflow.solvers import Dopri5, Equation, solve

ADAPTIVE = (Dopri5,)  # the error follows the tolerance, not the grid: `test_adaptive_error_follows_the_tolerance`


def is_for(solver: object, dynamics: Equation) -> bool:
    try:
        solver.plan(dynamics, [0.4, 0.5])
    except ValueError:
        return False
    return True


FLOW, SDE = (make(MixtureDenoiser(gaussian(), Linear())) for make in (probability_flow, reverse_sde))
ODE_SOLVERS = [s for s in SOLVER_VARIANTS if is_for(s, FLOW) and not isinstance(s, ADAPTIVE)]
SDE_SOLVERS = [s for s in SOLVER_VARIANTS if is_for(s, SDE)]


def test_every_solver_is_tested() -> None:
    assert all(s in ODE_SOLVERS or s in SDE_SOLVERS or isinstance(s, ADAPTIVE) for s in SOLVER_VARIANTS)


def error(solver: object, law: str, schedule: object, stride: int) -> float:
    """Root mean square error at the end, with exact values at the times before the first."""
    denoiser, grid, path = solution(law, schedule)
    first = round(HISTORY * FINEST)
    earlier = [first - j * stride for j in range(getattr(solver, "order", 1) - 1, 0, -1)]
    past = [(float(grid[i]), path[i]) for i in earlier]
    with torch.no_grad():
        end = solve(probability_flow(denoiser), path[first], grid[first::stride], solver, past=past)
    return float((end - path[-1]).square().mean().sqrt())


@pytest.mark.parametrize("solver", ODE_SOLVERS, ids=str)
def test_order_on_a_mixture(solver: object) -> None:
    coarse, fine = (error(solver, "mixture", VariancePreserving(), stride) for stride in (2, 1))
    slope = math.log2(coarse / fine)
    # 0.15: the slope at h = 1/256 still bends by about 0.1 for the highest orders; a wrong coefficient costs a whole 1
    assert slope == pytest.approx(solver.convergence, abs=0.15)


@pytest.mark.parametrize("solver", ODE_SOLVERS, ids=str)
def test_order_on_a_gaussian_is_at_least_the_declared_one(solver: object) -> None:
    coarse, fine = (error(solver, "gaussian", Linear(), stride) for stride in (4, 2))
    # 1e-12 is what rounding leaves of 1000 steps: a solver may be exact on a Gaussian
    assert fine < 1e-12 or math.log2(coarse / fine) > solver.convergence - 0.15


@pytest.mark.parametrize("tolerance", [1e-4, 1e-8])
def test_adaptive_error_follows_the_tolerance(tolerance: float) -> None:
    denoiser, grid, path = solution("gaussian", VariancePreserving())
    solver = Dopri5(relative_tolerance=tolerance, absolute_tolerance=tolerance)
    end = solve(probability_flow(denoiser), path[0], [grid[0], grid[-1]], solver)
    # local errors add up over some dozens of steps and are stretched by the flow: a factor 100 is generous, and 1e4
    # smaller than the distance between the two tolerances
    assert float((end - path[-1]).abs().max()) < 100 * tolerance


@pytest.mark.parametrize("solver", SDE_SOLVERS, ids=str)
def test_weak_error_of_stochastic_solvers_on_a_gaussian(solver: object) -> None:
    """Mean and variance at the end against N(m, C): the reverse SDE of a Gaussian is linear, its law is known."""
    law = gaussian()
    denoiser = MixtureDenoiser(law, EDM(sigma_min=0.05, sigma_max=5.0))
    n, n_steps = 20_000, 200
    x = denoiser.initial(0.0, n, Stream(3), torch.float64)
    stop = float(denoiser.schedule.time(-math.log(0.05)))
    with torch.no_grad():
        end = solve(reverse_sde(denoiser), x, torch.linspace(0, stop, n_steps + 1), solver, stream=Stream(4))
    variance = law.covariances[0] + 0.05**2 * torch.eye(3)
    spread = variance.diagonal().sqrt()
    # Standard errors: s/√n for a mean, s²√(2/n) for a variance; 3 % besides is the O(h) bias of 200 steps
    assert ((end.mean(0) - law.means[0]).abs() < 4 * spread / math.sqrt(n) + 0.03 * spread).all()
    assert ((end.var(0) / spread**2 - 1).abs() < 4 * math.sqrt(2 / n) + 0.03).all()
