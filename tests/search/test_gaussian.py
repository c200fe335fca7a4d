"""Gaussian teleportation against the flow it replaces."""

from __future__ import annotations

import math

import pytest
import torch
from torchdiffeq import odeint

from sciflow.diffusion.denoiser import Counted
from sciflow.diffusion.flow import probability_flow
from sciflow.diffusion.mixture import GaussianDenoiser, GaussianMixture, MixtureDenoiser
from sciflow.diffusion.schedule import EDM, Linear, VariancePreserving
from sciflow.random import Stream
from sciflow.search.gaussian import MomentDenoiser, Moments, Teleport, departure, skipped, teleport, teleported

MEAN = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
FACTOR = torch.tensor([[1.0, 0.0], [0.6, 0.5], [-0.4, 0.2]], dtype=torch.float64)  # rank 2 in three dimensions
FULL = FACTOR @ FACTOR.T + 0.1 * torch.eye(3, dtype=torch.float64)


def thin() -> Moments:
    directions, values, _ = torch.linalg.svd(FACTOR, full_matrices=False)
    return Moments(MEAN, values**2, directions)


@pytest.mark.parametrize("schedule", [Linear(), VariancePreserving(), EDM(0.05, 5.0)], ids=str)
@pytest.mark.parametrize("moments", [thin(), Moments.of_law(MEAN, FULL)], ids=["thin", "full"])
def test_teleport_is_the_flow(schedule: object, moments: Moments) -> None:
    ends = schedule.time(torch.tensor([-1.0, 1.0], dtype=torch.float64))
    x = Stream(0).normal(4, (3,), dtype=torch.float64)
    full = torch.linspace(float(ends[0]), float(ends[1]), 513, dtype=torch.float64)
    denoiser = MomentDenoiser(moments, schedule)
    drift = probability_flow(denoiser).drift
    path = odeint(lambda t, x: drift(float(t), x), x, full[:: 1 if schedule == EDM(0.05, 5.0) else 2], method="rk4")
    # RK4 with 256 steps or more errs by less than 1e-11
    assert torch.allclose(teleport(x, moments, schedule, float(full[0]), float(full[-1])), path[-1], rtol=0, atol=1e-10)


def test_moment_denoiser_is_the_gaussian_one() -> None:
    x = Stream(1).normal(5, (3,), dtype=torch.float64)
    exact = GaussianDenoiser(MEAN, FULL, Linear())(x, 0.6)
    assert torch.allclose(MomentDenoiser(Moments.of_law(MEAN, FULL), Linear())(x, 0.6), exact, atol=1e-13)  # rounding


def test_semigroup_and_return() -> None:
    x, schedule, moments = Stream(2).normal(4, (3,), dtype=torch.float64), Linear(), thin()
    half = teleport(x, moments, schedule, 0.1, 0.4)
    direct = teleport(x, moments, schedule, 0.1, 0.9)
    assert torch.allclose(teleport(half, moments, schedule, 0.4, 0.9), direct, atol=1e-13)  # rounding
    assert torch.allclose(teleport(direct, moments, schedule, 0.9, 0.1), x, atol=1e-12)  # stretched tenfold back


def test_pushforward_has_the_covariance_of_its_time() -> None:
    moments, schedule = thin(), VariancePreserving()
    covariance = FACTOR @ FACTOR.T

    def marginal(t: float) -> torch.Tensor:
        return schedule.alpha(t) ** 2 * covariance + schedule.sigma(t) ** 2 * torch.eye(3, dtype=torch.float64)

    start = schedule.alpha(0.2) * MEAN
    linear = teleport(start + torch.eye(3, dtype=torch.float64), moments, schedule, 0.2, 0.8)
    jacobian = (linear - teleport(start[None], moments, schedule, 0.2, 0.8)).T
    assert torch.allclose(jacobian @ marginal(0.2) @ jacobian.T, marginal(0.8), atol=1e-13)  # rounding


def test_across_the_directions_only_the_noise_shrinks() -> None:
    moments = Moments(MEAN, torch.zeros(1, dtype=torch.float64), torch.eye(3, dtype=torch.float64)[:, :1])
    x = Stream(3).normal(2, (3,), dtype=torch.float64)
    moved = teleport(x + 0.5 * MEAN, moments, Linear(), 0.5, 0.75)
    assert torch.allclose(moved, 0.75 * MEAN + 0.5 * x, atol=1e-14)  # rounding; σ falls by one half


def test_moments_of_data() -> None:
    data = GaussianMixture(torch.ones(1, dtype=torch.float64), MEAN[None], FULL[None]).sample(40, Stream(4))
    moments = Moments.of(data)
    rebuilt = moments.directions @ moments.variances.diag() @ moments.directions.T
    assert torch.allclose(rebuilt, data.T.cov(), atol=1e-13)  # rounding
    assert Moments.of(data[:2]).variances.shape == (1,)
    kept = Moments.of(data, rank=2)
    assert kept.floor + float(kept.variances.sum()) == pytest.approx(float(data.T.cov().trace()), rel=1e-12)
    with pytest.raises(ValueError, match="1 ≤ rank ≤ 3"):
        Moments.of(data, rank=4)


def test_collapse_onto_the_span_is_refused() -> None:
    with pytest.raises(ValueError, match="Teleport to an earlier time"):
        teleport(torch.zeros(1, 3), thin(), Linear(), 0.1, 1.0)


def test_a_row_does_not_depend_on_the_batch() -> None:
    x = Stream(5).normal(9, (3,))
    together = teleport(x, thin(), Linear(), 0.1, 0.7)
    assert torch.equal(together[4:5], teleport(x[4:5], thin(), Linear(), 0.1, 0.7))


@pytest.mark.parametrize(("weights", "slope"), [((0.2, 0.8), -2.0), ((0.5, 0.5), -4.0)], ids=["skewed", "symmetric"])
def test_departure_falls_with_the_noise(weights: tuple[float, float], slope: float) -> None:
    ones = torch.ones(2, 1, 1, dtype=torch.float64)
    law = GaussianMixture(torch.tensor(weights).double(), torch.tensor([[-1.0], [1.0]]).double(), 0.05 * ones)
    denoiser = MixtureDenoiser(law, EDM(0.05, 80.0))
    moments = Moments.of_law(law.mean(), law.covariance())
    times = denoiser.schedule.time(-torch.tensor([32.0, 16.0, 1.0]).double().log())
    ratios = departure(denoiser, moments, law.sample(4000, Stream(6)), times, Stream(7))
    # 0.15: the next order of the expansion, of relative size 1/σ² = 0.4 %, and 4000 draws of a fourth moment
    assert math.log2(ratios[0] / ratios[1]) == pytest.approx(slope, abs=0.15)
    assert skipped(ratios, tolerance=float(ratios[1])) == 1
    assert skipped(ratios, tolerance=0.0) == 0


def test_a_gaussian_model_is_skipped_whole() -> None:
    denoiser, moments = GaussianDenoiser(MEAN, FULL, Linear()), Moments.of_law(MEAN, FULL)
    grid = [0.01, 0.3, 0.6, 0.99]
    ratios = departure(denoiser, moments, denoiser.mixture.sample(10, Stream(8)), grid, Stream(9))
    assert float(ratios.max()) < 1e-24 and skipped(ratios) == 3  # rounding, squared
    x, left = teleported(torch.ones(2, 3, dtype=torch.float64), moments, Linear(), grid, 2)
    assert left == [0.6, 0.99] and torch.equal(x, teleport(torch.ones(2, 3).double(), moments, Linear(), 0.01, 0.6))


@pytest.mark.parametrize("schedule", [VariancePreserving(), EDM(0.05, 20.0)], ids=str)
def test_a_gaussian_model_shows_its_moments(schedule: object) -> None:
    denoiser = GaussianDenoiser(MEAN, FULL, schedule)
    moments = Moments.of_model(denoiser, 0.02, Stream(1), n=4, like=FULL)
    rebuilt = moments.directions @ moments.variances.diag() @ moments.directions.T
    # D − μ is λ/u of rounding 1e-16 |D|: at u = 20 some hundreds of units in the last place, times the condition of x
    assert torch.allclose(rebuilt, FULL, rtol=0, atol=1e-9)
    assert torch.allclose(moments.mean, MEAN, rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match=r"to 4 draws or more, where α > 0; got 3 draws"):
        Moments.of_model(denoiser, 0.02, Stream(1), n=3, like=FULL)
    with pytest.raises(ValueError, match="got 70 draws at α = 0"):
        Moments.of_model(GaussianDenoiser(MEAN, FULL, Linear()), 0.0, Stream(1), like=FULL)


def test_on_a_gaussian_one_step_is_left_and_its_start_is_exact() -> None:
    denoiser = GaussianDenoiser(MEAN, FULL, VariancePreserving())
    grid = [0.05, 0.2, 0.4, 0.8, 0.9]
    x = denoiser.initial(grid[0], 6, Stream(2), torch.float64)
    found, left = Teleport()(denoiser, x, grid, Stream(3))
    assert left == [0.8, 0.9]
    exact = teleport(x, Moments.of_law(MEAN, FULL), denoiser.schedule, 0.05, 0.8)
    assert torch.allclose(found, exact, rtol=0, atol=1e-8)  # the moments are known to 1e-9
    few, _ = Teleport()(denoiser, x[:2], grid, Stream(3))
    assert torch.equal(few, found[:2])


def test_on_a_mixture_it_stops_where_the_model_departs_and_costs_what_it_says() -> None:
    ones = torch.ones(2, 1, 1, dtype=torch.float64)
    law = GaussianMixture(torch.tensor([0.4, 0.6]).double(), torch.tensor([[-1.0], [1.0]]).double(), 0.05 * ones)
    denoiser = Counted(MixtureDenoiser(law, EDM(0.05, 80.0)))
    grid = denoiser.schedule.time(-torch.linspace(4.0, -3.0, 15, dtype=torch.float64)).tolist()
    x = denoiser.initial(grid[0], 200, Stream(4), torch.float64)
    ends, lengths = [], []
    drift = probability_flow(denoiser.denoiser).drift
    for tolerance in (1e-3, 1e-2):
        denoiser.rows = 0
        start, left = Teleport(tolerance)(denoiser, x, grid, Stream(5))
        lengths.append(len(left))
        assert denoiser.rows == 2 + 64 + 32 * (len(grid) - len(left) + 2)
        assert 2 < len(left) < len(grid)
        for t, y in ((grid[0], x), (left[0], start)):
            fine = torch.linspace(t, grid[-1], 2001, dtype=torch.float64)
            ends.append(odeint(lambda t, x: drift(float(t), x), y, fine, method="rk4")[-1])
    assert lengths[1] <= lengths[0]
    error = float((ends[1] - ends[0]).abs().median())
    # relative error √tolerance of D over the levels left out, where D has moved by less than the data's spread of 1
    assert error < math.sqrt(1e-3)
