"""Momentum methods: which Adams–Bashforth method they are at β = 1, and the order that their averages leave."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from problems import gaussian, mixture
from torchdiffeq import odeint

from sciflow.diffusion.flow import FrameSplit, probability_flow
from sciflow.diffusion.mixture import MixtureDenoiser
from sciflow.diffusion.schedule import EDM, VariancePreserving
from sciflow.random import Stream
from sciflow.solvers import EABM, GHVB, HeavyBall, solve
from sciflow.solvers.momentum import adapted_weights, constant_weights

ROUNDING = 1e-12  # float64, some tens of operations of order one
PUBLISHED = {  # Wizadwongsa et al. (2023): weights of v, times β
    2: lambda b: [(2 + b) / 2, -(2 - b) / 2],
    3: lambda b: [(18 + 5 * b) / 12, -(24 - 8 * b) / 12, (6 - b) / 12],
    4: lambda b: [(46 + 9 * b) / 24, -(78 - 19 * b) / 24, (42 - 5 * b) / 24, -(10 - b) / 24],
}


@pytest.mark.parametrize("order", PUBLISHED)
@pytest.mark.parametrize("beta", [0.3, 0.8, 1.0])
def test_constant_weights_are_those_of_the_paper(order: int, beta: float) -> None:
    assert beta * np.array(constant_weights(order, beta)) == pytest.approx(PUBLISHED[order](beta), abs=ROUNDING)


@pytest.mark.parametrize("order", PUBLISHED)
def test_adapted_weights_become_the_constant_ones_on_an_equidistant_grid(order: int) -> None:
    ratio, beta = np.linspace(1.0, 0.5, 81), 0.5
    *_, last = adapted_weights(ratio, ratio, order, beta)
    # after 80 steps the start is forgotten to 2⁻⁸⁰; 1e-10 is rounding times the condition of the moments
    assert last == pytest.approx(constant_weights(order, beta), abs=1e-10)


def test_adapted_weights_integrate_polynomials_on_any_grid() -> None:
    """y' = c^k, k < p: every step is exact, whatever the spacing and however short the history."""
    ratio = np.array([1.0, 0.93, 0.9, 0.7, 0.66, 0.5, 0.41, 0.4])
    order, beta = 3, 0.6
    for power in range(order):
        averages: list[float] = []
        for k, weights in enumerate(adapted_weights(ratio, ratio, order, beta)):
            value = ratio[k] ** power
            averages.insert(0, (1 - beta) * averages[0] + beta * value if averages else value)
            if k >= power:  # p conditions need p averages
                exact = (ratio[k + 1] ** (power + 1) - ratio[k] ** (power + 1)) / (power + 1)
                slope = sum(w * v for w, v in zip(weights, averages, strict=False))
                assert (ratio[k + 1] - ratio[k]) * slope == pytest.approx(exact, abs=ROUNDING)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("method", [GHVB, HeavyBall])
def test_without_momentum_they_are_adams_bashforth(method: type, order: int) -> None:
    denoiser = MixtureDenoiser(mixture(), EDM(sigma_min=0.05, sigma_max=5.0))
    levels = torch.linspace(2.0, 0.5, 13, dtype=torch.float64)  # u = σ: α = 1
    times = denoiser.schedule.time(-levels.log()).tolist()
    x = denoiser.initial(times[0], 8, Stream(0), torch.float64)
    for nodes in ("log_snr", "ratio"):
        same = solve(probability_flow(denoiser, nodes), x, times, EABM(order, "noise"))
        assert torch.allclose(
            solve(probability_flow(denoiser), x, times, method(order, 1.0, nodes=nodes)), same, atol=ROUNDING
        )
    constant = solve(probability_flow(denoiser), x, times, method(order, 1.0, "constant"))
    # equidistant in u: `same`, with nodes in u, has the textbook weights
    assert torch.allclose(constant, same, rtol=0, atol=1e-11)  # its grid is equidistant to rounding of t, times 1/h


def test_the_ball_of_first_order_is_the_generalised_one() -> None:
    denoiser = MixtureDenoiser(mixture(), VariancePreserving())
    x = denoiser.initial(0.2, 8, Stream(0), torch.float64)
    times = [0.2, 0.3, 0.45, 0.5, 0.7]
    ends = [solve(probability_flow(denoiser), x, times, m(1, 0.7)) for m in (GHVB, HeavyBall)]
    assert torch.allclose(*ends, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("order", [2, 3])
def test_constant_weights_have_order_p_where_the_grid_is_equidistant_in_u_and_the_start_forgotten(order: int) -> None:
    """y' = e^u: with the averages of an infinite past, the declared claim of the docstring."""
    beta, errors = 0.6, []
    for n in (64, 128):
        h = 1.0 / n
        past = 60 + order  # 0.4^60 is below rounding
        ratio, total, average, averages = -past * h, 1.0, math.exp(-past * h), []
        for k in range(past + n):
            average = (1 - beta) * average + beta * math.exp(ratio + k * h)
            averages = [average, *averages][:order]
            if k >= past:
                total += h * sum(w * v for w, v in zip(constant_weights(order, beta), averages, strict=True))
        errors.append(abs(total - math.e))
    # 0.1: the next term of the error is of relative size h = 1/64 times the memory of the average
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("method", [GHVB(3, weights="constant"), GHVB(4, 0.8, "constant"), GHVB(2, 0.8, "constant")])
def test_constant_weights_lose_their_order_on_other_grids(method: GHVB) -> None:
    denoiser = MixtureDenoiser(mixture(), VariancePreserving())
    flow, log_snr = probability_flow(denoiser), torch.linspace(-1.0, 1.0, 1025, dtype=torch.float64)
    times = denoiser.schedule.time(log_snr)
    x = denoiser.initial(float(times[0]), 16, Stream(1), torch.float64)
    with torch.no_grad():
        exact = odeint(lambda t, x: flow.drift(float(t), x), x, times[::2], method="rk4")[-1]
        errors = [float((solve(flow, x, times[::k], method) - exact).square().mean().sqrt()) for k in (8, 4)]
    # 0.15: the usual bend of a measured slope at h = 1/64 … 1/128
    assert math.log2(errors[0] / errors[1]) == pytest.approx(method.convergence, abs=0.15)


def stable_step(order: int, beta: float) -> float:
    """The largest h with |y_n| bounded for y' = −y, from the roots of y_{n+1} = y_n − h Σ w_j v_{n−j}."""
    weights = constant_weights(order, beta)
    for h in np.linspace(0.01, 4.0, 400):
        # state (y_n, v_{n−1}, …, v_{n−p+1}): v_n = (1 − β) v_{n−1} + β y_n
        newest = np.zeros(max(order, 2))
        newest[:2] = beta, 1 - beta
        rows = np.zeros((len(newest), len(newest)))
        rows[0] = -h * weights[0] * newest
        rows[0, 0] += 1
        rows[0, 1:order] -= h * np.array(weights[1:])
        rows[1] = newest
        rows[2:, 1:-1] = np.eye(len(newest) - 2)
        if np.abs(np.linalg.eigvals(rows)).max() > 1 + 1e-9:
            return float(h)
    return 4.0


@pytest.mark.parametrize(("order", "adams"), [(2, 1.0), (3, 6 / 11), (4, 0.3)])
def test_momentum_makes_larger_steps_stable(order: int, adams: float) -> None:
    """What momentum is for. At β = 1 the bounds are those of Adams–Bashforth: 1, 6/11, 3/10."""
    assert stable_step(order, 1.0) == pytest.approx(adams, abs=0.011)  # the scan's step is 0.01
    assert stable_step(order, 1.0) + 0.05 < stable_step(order, 0.8) + 0.02 < stable_step(order, 0.6)


def test_refusals_name_the_end_of_the_grid() -> None:
    denoiser = MixtureDenoiser(gaussian(), VariancePreserving())
    x = torch.zeros(1, 3, dtype=torch.float64)
    assert FrameSplit(denoiser, "noise", "ratio").levels(1.0)[1] == 0.0
    assert torch.isfinite(solve(probability_flow(denoiser), x, [0.5, 0.8, 1.0], GHVB(nodes="ratio"))).all()
    with pytest.raises(ValueError, match="nodes: ratio"):
        GHVB().plan(probability_flow(denoiser), [0.5, 0.8, 1.0])
