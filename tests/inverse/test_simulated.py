"""Simulation with the score of a model: its equilibrium is the law of the model at the last level."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from sciflow.diffusion import (
    EDM,
    Counted,
    Denoiser,
    GaussianDenoiser,
    NetworkDenoiser,
    Scaled,
    VariancePreserving,
)
from sciflow.diffusion.schedule import Linear
from sciflow.errors import InputError, NonFiniteError
from sciflow.inverse import GaussianLikelihood, Simulated, Unguided
from sciflow.networks import MLP, EnergyMLP
from sciflow.random import Stream
from sciflow.solvers import EABM, MALA, OBABO

MEAN = torch.tensor([0.5, -1.0], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.0, 0.5], [0.5, 0.6]], dtype=torch.float64)
ANY = GaussianLikelihood(torch.zeros(2, dtype=torch.float64), sigma=1.0)  # not looked at
QUICK = Simulated(n_chains=1000, thinning=100, step=0.1)


@pytest.mark.parametrize(("schedule", "end"), [(EDM(sigma_max=5.0), 0.5), (VariancePreserving(), 0.85)], ids=str)
def test_chains_have_the_law_of_the_data_blurred_by_the_last_level(schedule: object, end: float) -> None:
    """For α ≠ 1 too, in data units; one frame of each chain, so that frames are independent."""
    prior, n = GaussianDenoiser(MEAN, COVARIANCE, schedule), QUICK.n_chains
    ratio = float(schedule.sigma(end) / schedule.alpha(end))
    variance = COVARIANCE.diagonal() + ratio**2
    drawn = QUICK(prior, ANY, [0.1, 0.25, 0.4, end], n, Stream(1)).x
    assert 0.05 < ratio < 2  # so that the blur is seen, and is not all there is
    # standard errors s/√n and √(2/n); 1 % besides, of steps of 0.1 widths: those of BAOAB have none in a Gaussian
    assert ((drawn.mean(0) - MEAN).abs() < 4 * (variance / n).sqrt() + 0.01).all()
    assert ((drawn.var(0) / variance - 1).abs() < 4 * math.sqrt(2 / n) + 0.01).all()
    correlation = torch.corrcoef(drawn.T)[0, 1]
    assert float(correlation) == pytest.approx(float(0.5 / variance.prod().sqrt()), abs=4 / math.sqrt(n))


def test_the_equilibrium_does_not_remember_a_wrong_start() -> None:
    prior = GaussianDenoiser(MEAN, COVARIANCE, EDM())
    dynamics = QUICK._dynamics(prior, 1.0, 0.99, 64)
    frames = QUICK._frames(dynamics, torch.full((1000, 2), 3.0, dtype=torch.float64), 2, Stream(0), None)
    last = frames[:, -1]  # 20 time units later, at rates of 0.3 and above: e^{−6}
    spread = COVARIANCE.diagonal().sqrt()
    assert ((last.mean(0) - MEAN).abs() < 4 * spread / math.sqrt(1000) + 0.01 * spread).all()


def test_frames_come_chain_after_chain_in_the_order_of_time() -> None:
    prior, times = GaussianDenoiser(MEAN, COVARIANCE, EDM()), [0.5, 0.9]
    short = Simulated(n_chains=4, thinning=1, step=1e-3, method=OBABO())
    drawn = short(prior, ANY, times, 12, Stream(2)).x.reshape(4, 3, 2)
    assert float((drawn[:, 1:] - drawn[:, :-1]).norm(dim=2).max()) < 0.02  # a thousandth of a time unit, at speed 1
    assert float((drawn[1:, 0] - drawn[:-1, 0]).norm(dim=1).min()) > 0.02
    fewer = short(prior, ANY, times, 10, Stream(2)).x
    assert torch.equal(fewer, drawn.reshape(12, 2)[:10])


def test_a_density_network_is_simulated_without_keeping_a_graph() -> None:
    torch.manual_seed(0)
    module = EnergyMLP(8, 2).build((2,)).eval()
    prior = NetworkDenoiser(module, Scaled(EDM(), 0.7), (2,), 0.3)
    single = GaussianLikelihood(torch.zeros(2), sigma=1.0)
    drawn = Simulated(n_chains=8, thinning=2, solver=EABM(2))(prior, single, [0.5, 0.9], 16, Stream(0))
    assert drawn.x.dtype == torch.float32 and not drawn.x.requires_grad


def energy_network(schedule: object) -> NetworkDenoiser:
    """Untrained: the exact density of N(0.3, 0.7²) in both coordinates at every level."""
    return NetworkDenoiser(EnergyMLP(8, 2).build((2,)).double().eval(), Scaled(schedule, 0.7), (2,), 0.3)


def gaussian(schedule: object) -> GaussianDenoiser:
    return GaussianDenoiser(MEAN, COVARIANCE, schedule)


@pytest.mark.parametrize(("schedule", "end"), [(EDM(sigma_max=5.0), 0.5), (VariancePreserving(), 0.85)], ids=str)
@pytest.mark.parametrize("make", [energy_network, gaussian])
def test_mala_has_the_exact_law_at_a_step_at_which_euler_has_not(
    make: Callable[[object], Denoiser], schedule: object, end: float
) -> None:
    """Steps of which the same move without its test makes a Gaussian wider by half of the step over its variance."""
    prior, n = make(schedule), 2000
    ratio = float(prior.schedule.sigma(end) / prior.schedule.alpha(end))
    exact = COVARIANCE if make is gaussian else 0.49 * torch.eye(2, dtype=torch.float64)
    mean = MEAN if make is gaussian else torch.full((2,), 0.3, dtype=torch.float64)
    covariance = exact + ratio**2 * torch.eye(2, dtype=torch.float64)
    least = float(torch.linalg.eigvalsh(covariance).min())
    steep = replace(QUICK, n_chains=n, thinning=60, step=least, friction=2.0, speed=1.2, method=MALA(), solver=EABM(2))
    wide = 1 / (1 - least * 1.2**2 / 2.0 / (2 * least)) - 1  # of the narrowest direction, without the test: 56 %
    drawn = steep(prior, ANY, [0.1, 0.3, end], n, Stream(3, tile=n)).x
    variance = covariance.diagonal()
    axis = torch.linalg.eigh(covariance).eigenvectors[:, 0]
    assert ((drawn.mean(0) - mean).abs() < 4 * (variance / n).sqrt()).all()  # s.e. s/√n of independent chains
    assert ((drawn.var(0) / variance - 1).abs() < 4 * math.sqrt(2 / n)).all()  # s.e. √(2/n), 3 %
    assert abs(float((drawn @ axis).var()) / least - 1) < 4 * math.sqrt(2 / n) < 0.25 * wide


def test_mala_asks_once_a_step_and_refuses_a_model_without_a_density() -> None:
    steep = Simulated(n_chains=8, thinning=3, method=MALA(), solver=EABM(2))
    counted = Counted(energy_network(EDM()))
    steep(counted, ANY, [0.5, 0.9], 16, Stream(0))
    flow = Counted(energy_network(EDM()))
    Unguided(solver=EABM(2))(flow, ANY, [0.5, 0.9], 8, Stream(0))
    # two frames of three steps, and a first look at the start of each
    assert counted.rows - flow.rows == 8 * 2 * (3 + 1)
    plain = NetworkDenoiser(MLP(8, 2).build((2,)).double().eval(), Scaled(EDM(), 0.7), (2,), 0.3)
    with pytest.raises(InputError, match="knows no density, which this asks for"):
        steep(plain, ANY, [0.5, 0.9], 16, Stream(0))


def test_wrong_uses_are_refused() -> None:
    prior = GaussianDenoiser(MEAN, COVARIANCE, Linear())
    with pytest.raises(InputError, match="needs noise at the last time"):
        QUICK(prior, ANY, [0.5, 1.0], 10, Stream(0))
    with pytest.raises(InputError, match="at least 1"):
        QUICK(prior, ANY, [0.5, 0.9], 0, Stream(0))
    wild = Simulated(n_chains=4, thinning=300, step=50.0)
    with pytest.raises(NonFiniteError, match="Take a shorter step"):
        wild(prior, ANY, [0.5, 0.99], 8, Stream(0))
