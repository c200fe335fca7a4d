"""Filters of a field that obeys a partial differential equation: Kalman's answers, and the same by tiles and islands.

The heat equation on a ring, by second differences and Runge–Kutta, is linear: Kalman's formulae are exact for it.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.particles import BootstrapFilter, GuidedFilter, LinearChain, LinearMeasurements, filtered, smc
from sciflow.particles.kalman import Gaussians
from sciflow.random import Stream
from sciflow.solvers import EulerMaruyama, StateSpace
from sciflow.solvers.dynamics import Equation

POINTS, DIFFUSIVITY, NOISE, SIGMA = 8, 0.05, 0.3, 0.4
EYE = torch.eye(POINTS, dtype=torch.float64)


def heat(t: float, u: Tensor) -> Tensor:
    """ν u_xx on a ring of length 1; each row by itself, in sums of numbers alone."""
    return DIFFUSIVITY * POINTS**2 * (u.roll(1, -1) - 2 * u + u.roll(-1, -1))


START = torch.linspace(-1, 2, POINTS, dtype=torch.float64)  # nothing symmetric about it
SPACE = StateSpace(Equation(heat), (0.0, 0.1, 0.2, 0.3, 0.4), START, 0.7, NOISE, n_substeps=3)
FILTERS = pytest.mark.parametrize("kind", [BootstrapFilter, GuidedFilter])


@functools.cache
def measured() -> LinearMeasurements:
    """Two places of the ring at each time, and a mean over two others."""
    matrix = torch.stack([EYE[1], EYE[4], 0.5 * (EYE[5] + EYE[7])])
    truth = SPACE.simulate(1, Stream(5))[0]
    y = truth @ matrix.T + SIGMA * Stream(6).normal(len(truth), (3,), dtype=torch.float64)
    y[2, 1] = math.nan
    return LinearMeasurements.of(y, matrix, SIGMA)


@functools.cache
def exact() -> Gaussians:
    transition = SPACE.forecast(0, EYE, Stream(0)).T
    return LinearChain(transition, NOISE**2 * EYE, START, 0.7**2 * EYE, measured()).filtered()


def off(values: Tensor, expected: Tensor | float) -> Tensor:
    """Distance of a mean over independent runs from what it should be, in standard errors."""
    return ((values.mean(0) - expected) / values.std(0) * math.sqrt(len(values))).abs()


def test_the_transition_is_the_heat_equation() -> None:
    """Every wave of the grid decays at the rate of its second difference; RK4 to (rate · step)⁴/120 of it, 1e-3."""
    waves = torch.fft.fft(EYE).real  # rows: cosines
    rates = -DIFFUSIVITY * POINTS**2 * (2 - 2 * (2 * math.pi * torch.arange(POINTS) / POINTS).cos())
    found = SPACE.forecast(0, waves, Stream(0))
    assert torch.allclose(found, (0.1 * rates).exp().double()[:, None] * waves, rtol=0, atol=1e-3)


@FILTERS
def test_a_field_is_filtered_as_kalman_does(kind: type) -> None:
    """E[Ẑ_k] = Z_k and E[Ẑ_k (x̄_k − mean)] = 0 at all times, exactly, over 60 runs of 300 particles."""
    runs = [filtered(kind(SPACE, measured()), 300, Stream(1, (seed,))) for seed in range(60)]
    ratio = torch.tensor([run.particles.log_evidence - exact().log_evidence for run in runs], dtype=torch.float64).exp()
    assert float(off(ratio, 1.0)) < 4 and float(ratio.std()) < 1.5  # a heavy tail would hide a bias
    wrong = replace(measured(), values=tuple(-y for y in measured().values))
    chain = LinearChain(SPACE.forecast(0, EYE, Stream(0)).T, NOISE**2 * EYE, START, 0.7**2 * EYE, wrong)
    assert abs(chain.filtered().log_evidence - exact().log_evidence) > 1, "a wrong sign would be seen"
    passed = torch.stack([run.particles.evidence_trace for run in runs])  # log Ẑ_k
    share = (passed - passed.mean(0)).exp()[:, :, None]
    gaps = share * (torch.stack([run.marginals().mean(0) for run in runs]) - exact().mean)
    assert bool((off(gaps, 0.0) < 4).all())


@FILTERS
def test_tiles_are_the_whole_ensemble(kind: type) -> None:
    """The same bits for any tile, spin-up included: the equation looks at one row at a time."""
    space = replace(SPACE, spin_up=0.2)
    whole, *cut = (smc(kind(space, measured(), tile=tile), 100, Stream(0)) for tile in (1000, 64, 7))
    assert len(whole.x.unique(dim=0)) > 90, "rows have noise of their own"
    assert all(torch.equal(run.x, whole.x) and torch.equal(run.log_weights, whole.log_weights) for run in cut)
    with pytest.raises(InputError, match="tile ≥ 1 particles of one solve, got 0"):
        kind(space, measured(), tile=0)


def test_tiles_of_an_equation_with_noise_of_its_own() -> None:
    """Each row has its own noise, in whichever tile it comes."""
    noisy = Equation(heat, lambda t, x: 0.6, noise="scalar")
    space = replace(SPACE, dynamics=noisy, solver=EulerMaruyama(), noise=0.0)
    whole, cut = (smc(BootstrapFilter(space, measured(), tile), 100, Stream(0)) for tile in (1000, 30))
    assert torch.equal(whole.x, cut.x) and whole.log_evidence == cut.log_evidence


def test_islands_are_filters_of_their_own() -> None:
    """Equal shares of the states of every time; evidence pooled, unbiased, with the error that their spread states."""
    runs = [filtered(GuidedFilter(SPACE, measured()), 4 * 100, Stream(7, (seed,)), islands=4) for seed in range(40)]
    for run in runs[:5]:
        founders = run.particles.eve.view(4, 100) // 100
        assert torch.equal(founders, torch.arange(4)[:, None].expand(4, 100)), "no island descends from another"
        assert torch.allclose(run.particles.weights.view(4, 100).sum(1), torch.full((4,), 0.25).double())
        pooled = run.particles.island_log_evidence.logsumexp(0) - math.log(4)
        assert run.particles.log_evidence == pytest.approx(float(pooled), abs=1e-12)  # float64 sums
        assert run.particles.log_evidence_stderr_islands > 0
        source = (run.states[-1][:, None] == run.particles.x).all(2).int().argmax(1) // 100
        assert source.bincount().tolist() == [100] * 4, "draws of the last time are of all islands alike"
    numbers = torch.tensor([run.particles.log_evidence - exact().log_evidence for run in runs], dtype=torch.float64)
    assert float(off(numbers.exp(), 1.0)) < 4
    ends = torch.stack([4 * (run.particles.weights[:, None] * run.particles.x).view(4, 100, -1).sum(1) for run in runs])
    share = torch.stack([run.particles.island_log_evidence for run in runs]) - exact().log_evidence
    gaps = (share.exp()[..., None] * (ends - exact().mean[-1])).mean(1)  # mean 0 exactly, for each island
    assert bool((off(gaps, 0.0) < 4).all())
