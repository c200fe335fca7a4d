"""Denoising MCMC has the laws it should have on N(0, c²I): of the level, of the state, and of Langevin itself."""

from __future__ import annotations

import math

import pytest
import torch

from sciflow.diffusion.mixture import GaussianDenoiser, GaussianMixture, MixtureDenoiser
from sciflow.diffusion.schedule import EDM, VariancePreserving
from sciflow.random import Stream
from sciflow.search.gaussian import Moments
from sciflow.search.markov import Chain, DenoisingMCMC, effective_size, gaussian_law, level_law, moments_law

C, DIMENSION = 0.5, 2
TIMES = tuple(EDM().time(-torch.linspace(math.log(0.05), math.log(5.0), 12, dtype=torch.float64)).tolist())


def white(schedule: object = None) -> MixtureDenoiser:
    mean = torch.zeros(DIMENSION, dtype=torch.float64)
    return GaussianDenoiser(mean, C**2 * torch.eye(DIMENSION, dtype=torch.float64), schedule or EDM())


def ratios() -> torch.Tensor:
    return EDM().sigma(torch.tensor(TIMES, dtype=torch.float64))


def test_the_level_is_drawn_from_its_law() -> None:
    denoiser, n = white(), 4000
    chain = DenoisingMCMC(denoiser, TIMES, level_law(denoiser, TIMES))
    y = torch.tensor([[0.8, -0.6]], dtype=torch.float64).expand(n, 2)
    spread = C**2 + ratios() ** 2
    law = (spread ** (-DIMENSION / 2) * torch.exp(-1.0 / (2 * spread))).double()  # |y|² = 1
    law = law / law.sum()
    uniform = Stream(0).uniform(n, dtype=torch.float64)
    found = chain.relevel(Chain(y, torch.zeros(n, dtype=torch.long)), uniform).level.bincount(minlength=12) / n
    assert ((found - law).abs() < 4 * (law * (1 - law) / n).sqrt() + 1e-9).all()  # 4 standard errors of a share


def test_exact_and_gaussian_laws_agree_up_to_a_constant() -> None:
    for schedule in (EDM(), VariancePreserving()):
        times = tuple(schedule.time(torch.linspace(-1, 2, 5, dtype=torch.float64)).tolist())
        y = Stream(1).normal(6, (2,), dtype=torch.float64)
        exact = level_law(white(schedule), times)(y)
        mean = torch.zeros(2, dtype=torch.float64)
        other = gaussian_law(white(schedule), times, mean + C**2, mean)(y)
        gap = exact - other
        assert torch.allclose(gap, gap[:, :1].expand_as(gap), atol=1e-11)  # rounding


def test_the_law_by_moments_is_that_of_a_gaussian_in_any_directions() -> None:
    """Correlated coordinates; and with one direction of three left to the floor."""
    factor = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.5, 0.0], [-0.4, 0.2, 0.3]], dtype=torch.float64)
    mean, y = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), Stream(1).normal(6, (3,), dtype=torch.float64)
    covariance = factor @ factor.T
    found = moments_law(Moments.of_law(mean, covariance), EDM(), TIMES)(y)
    exact = level_law(GaussianDenoiser(mean, covariance, EDM()), TIMES)(y)
    gap = exact - found
    assert torch.allclose(gap, gap[:, :1].expand_as(gap), rtol=0, atol=1e-11)  # rounding, up to a constant
    thin = Moments(mean, torch.tensor([2.0, 0.5]).double(), torch.eye(3).double()[:, :2], floor=0.25)
    full = Moments(mean, torch.tensor([2.0, 0.5, 0.25]).double(), torch.eye(3).double())
    assert torch.allclose(*(moments_law(moments, EDM(), TIMES)(y) for moments in (thin, full)), rtol=0, atol=1e-11)


def test_langevin_has_its_known_variance() -> None:
    denoiser, n, step, level = white(), 4000, 0.8, 5
    chain = DenoisingMCMC(denoiser, TIMES, level_law(denoiser, TIMES), step=step)
    u = float(ratios()[level])
    v, eta = C**2 + u**2, step * u**2
    state = Chain(math.sqrt(v) * Stream(2).normal(n, (2,), dtype=torch.float64), torch.full((n,), level))
    for k in range(40):
        state = chain.move(state, Stream(3).normal(n, (2,), step=k, dtype=torch.float64))
    # 4 standard errors of a variance over 8000 numbers
    assert float(state.y.var()) == pytest.approx(v / (1 - eta / (4 * v)), rel=4 * math.sqrt(2 / (2 * n)))
    assert eta / (4 * v) > 4 * math.sqrt(2 / (2 * n))  # so that the bias itself is seen


def test_the_chain_has_the_joint_law() -> None:
    denoiser, n = white(), 2000
    prior = torch.linspace(0, 1, 12, dtype=torch.float64)
    chain = DenoisingMCMC(denoiser, TIMES, level_law(denoiser, TIMES), tuple(prior.tolist()), step=0.1, least=C**2)
    state = Chain(torch.zeros(n, 2, dtype=torch.float64), torch.full((n,), 11))
    state = chain.run(state, 150, Stream(4))
    share = state.level.bincount(minlength=12) / n
    law = prior.softmax(0)
    # 4 standard errors of a share, and 1 % for the O(step) bias of Langevin, step/4 in variance
    assert ((share - law).abs() < 4 * (law * (1 - law) / n).sqrt() + 0.01).all()
    normal = state.y / (C**2 + ratios()[state.level] ** 2).sqrt()[:, None]
    assert float(normal.var()) == pytest.approx(1, abs=4 * math.sqrt(2 / (2 * n)) + 0.03)
    assert abs(float(normal.mean())) < 4 / math.sqrt(2 * n)
    again = chain.run(Chain(torch.zeros(64, 2, dtype=torch.float64), torch.full((64,), 11)), 5, Stream(4))
    more = chain.run(Chain(torch.zeros(128, 2, dtype=torch.float64), torch.full((128,), 11)), 5, Stream(4))
    assert torch.allclose(more.y[:64], again.y, atol=1e-12)


def test_states_are_denoised_from_their_own_level() -> None:
    denoiser, n = white(), 300
    chain = DenoisingMCMC(denoiser, TIMES, level_law(denoiser, TIMES))
    level = torch.arange(n) % 12
    spread = (C**2 + ratios()[level] ** 2).sqrt()[:, None]
    y = spread * Stream(5).normal(n, (2,), dtype=torch.float64)
    stop = float(EDM().time(-math.log(0.05)))
    end = chain.denoised(Chain(y, level), stop, 60)
    # the flow of a Gaussian keeps the quantile; 60 second-order steps err by less than 2e-3
    assert torch.allclose(end / math.hypot(C, 0.05), y / spread, rtol=4e-3, atol=1e-6)
    assert torch.equal(end[level == 0], y[level == 0])


def test_it_crosses_where_langevin_at_small_noise_does_not() -> None:
    law = GaussianMixture(
        torch.tensor([0.5, 0.5]).double(), torch.tensor([[-4.0], [4.0]]).double(), 0.01 * torch.ones(2, 1, 1).double()
    )
    denoiser = MixtureDenoiser(law, EDM())
    start = Chain(torch.full((200, 1), -4.0, dtype=torch.float64), torch.zeros(200, dtype=torch.long))
    joint = DenoisingMCMC(denoiser, TIMES, level_law(denoiser, TIMES))
    crossed = float((joint.run(start, 150, Stream(6)).y > 0).double().mean())
    assert crossed == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / 200) + 0.05)  # 4 standard errors, not quite mixed
    low = DenoisingMCMC(denoiser, TIMES[:1], level_law(denoiser, TIMES[:1]))
    assert float(low.run(start, 150, Stream(6)).y.max()) < 0


def test_effective_size_of_an_autoregression() -> None:
    n, rho = 20_000, 0.8
    z = Stream(7, tile=n).normal(n, dtype=torch.float64).tolist()
    chain = [z[0]]
    for value in z[1:]:
        chain.append(rho * chain[-1] + math.sqrt(1 - rho**2) * value)
    # n (1 − ρ)/(1 + ρ) = 2222; the estimate of the sum scatters by about 10 %
    assert effective_size(torch.tensor(chain)) == pytest.approx(n * (1 - rho) / (1 + rho), rel=0.3)
    assert effective_size(torch.ones(10)) == 10


def test_an_unstable_step_is_refused() -> None:
    with pytest.raises(ValueError, match="step must lie between 0 and 4"):
        DenoisingMCMC(white(), TIMES, level_law(white(), TIMES), step=4.0)
