"""Exact inversion: a forward run is recovered from its last pair, whatever the model."""

from __future__ import annotations

import math

import pytest
import torch
from problems import mixture, solution

from sciflow.diffusion.flow import probability_flow, reverse_sde
from sciflow.diffusion.mixture import MixtureDenoiser
from sciflow.diffusion.schedule import EDM, Linear, VariancePreserving
from sciflow.diffusion.times import Karras
from sciflow.random import Stream
from sciflow.solvers import BDIA, Euler, ExponentialEuler, integrate, invert, solve

SCHEDULES = [VariancePreserving(), EDM(), Linear()]


def start(schedule: object, n_steps: int) -> tuple:
    denoiser = MixtureDenoiser(mixture(), schedule)
    grid = Karras(n_steps)(schedule)
    return probability_flow(denoiser), denoiser.initial(float(grid[0]), 16, Stream(0), torch.float64), grid


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.5])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_the_start_is_recovered_from_the_last_pair(schedule: object, gamma: float) -> None:
    """To 1e-12 γ^{−N}: rounding of one step, blown up by 1/γ in each step back."""
    n_steps = 20
    (flow, x, grid), solver = start(schedule, n_steps), BDIA(gamma)
    with torch.no_grad():
        end = integrate(flow, x, grid, solver)
        kept = end.x.clone(), end.before.clone()
        first = invert(flow, end, grid, solver)
    size = float(x.abs().max())
    assert float((first.before - x).abs().max()) < 1e-12 * gamma**-n_steps * size
    assert torch.equal(end.x, kept[0]) and torch.equal(end.before, kept[1])
    assert torch.equal(end.x, solve(flow, x, grid, solver))


def test_any_data_are_encoded_and_decoded() -> None:
    """From data alone the first step back is DDIM; the pair it ends in leads to the same data."""
    flow, _, grid = start(VariancePreserving(), 30)
    data = mixture().sample(16, Stream(1))
    code = invert(flow, data, grid, BDIA())
    decoded = integrate(flow, code.x, grid, BDIA(), before=code.before)
    assert torch.allclose(decoded.x, data, rtol=0, atol=1e-12)  # 29 steps there and back
    assert not torch.allclose(code.before, data, atol=0.1)
    past = [(float(grid[0]), code.before)]
    with torch.no_grad():  # the pair is also what `solve` takes as earlier states, and leaves alone
        assert torch.allclose(solve(flow, code.x, grid[1:], BDIA(), past=past), data, rtol=0, atol=1e-12)


@pytest.mark.parametrize("gamma", [1.0, 0.7])
def test_the_order_is_two_for_leapfrog_and_one_below(gamma: float) -> None:
    denoiser, grid, path = solution("mixture", VariancePreserving())
    errors = []
    for stride in (4, 2):
        end = solve(probability_flow(denoiser), path[0], grid[::stride], BDIA(gamma))
        errors.append(float((end - path[-1]).square().mean().sqrt()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(BDIA(gamma).convergence, abs=0.15)


def test_the_first_step_is_ddim_and_small_gamma_stays_close_to_it() -> None:
    flow, x, grid = start(EDM(), 12)
    ddim = solve(flow, x, grid, ExponentialEuler("data"))
    assert torch.allclose(solve(flow, x, grid[:2], BDIA()), solve(flow, x, grid[:2], ExponentialEuler("data")))
    near = (solve(flow, x, grid, BDIA(1e-6)) - ddim).abs().max()
    # γ times what DDIM got wrong, at most its own error, which is of the size of the state
    assert 0 < float(near) < 1e-6 * float(x.abs().max())


def test_gradients_flow_through_forward_and_inverse_steps() -> None:
    flow, x, grid = start(Linear(), 4)
    x = x[:2].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: solve(flow, x, grid, BDIA(0.8)), x)
    back = invert(flow, integrate(flow, x, grid, BDIA(0.8)), grid, BDIA(0.8)).before
    (gradient,) = torch.autograd.grad(back.sum(), x)
    assert torch.allclose(gradient, torch.ones_like(x), rtol=0, atol=1e-9)  # the round trip is the identity


def test_impossible_inversions_are_refused_with_the_reason() -> None:
    flow, x, grid = start(Linear(), 4)
    with pytest.raises(ValueError, match="Euler has no exact inverse"):
        invert(flow, x, grid, Euler())
    with pytest.raises(ValueError, match="takes the probability flow"):
        solve(reverse_sde(MixtureDenoiser(mixture(), Linear())), x, grid, BDIA())
    with pytest.raises(ValueError, match="no way back from σ = 0"):
        invert(flow, x, [0.2, 0.6, 1.0], BDIA())
    with pytest.raises(ValueError, match="at least two steps"):
        invert(flow, x, [0.2, 0.6], BDIA())
    with pytest.raises(ValueError, match="γ"):
        BDIA(0.0)
