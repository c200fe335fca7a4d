"""The best start of a restoration: zero where everything is linear and Gaussian, whatever the observation."""

from __future__ import annotations

import pytest
import torch

from sciflow.diffusion.flow import probability_flow
from sciflow.diffusion.mixture import GaussianMixture, MixtureDenoiser
from sciflow.diffusion.schedule import EDM
from sciflow.random import Stream
from sciflow.search.boundary import best_start, descend, mean_loss, squared_error, typical_norm
from sciflow.solvers.exponential import EABM
from sciflow.solvers.solve import solve

MATRIX = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
LAW = GaussianMixture(
    torch.ones(1, dtype=torch.float64),
    torch.zeros(1, 2, dtype=torch.float64),
    torch.tensor([[[1.0, 0.3], [0.3, 0.5]]], dtype=torch.float64),
)
SIGMA, TOP = 0.3, 40.0
SCHEDULE = EDM(0.01, TOP)
TIMES = torch.linspace(0, 1, 12, dtype=torch.float64)


CENTRED = GaussianMixture(LAW.weights, LAW.means, LAW.posterior(MATRIX, torch.zeros(1).double(), SIGMA)[0].covariances)
GAIN = LAW.posterior(MATRIX, torch.ones(1).double(), SIGMA)[0].means[0]  # the posterior mean is y times this


def pairs(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Observations of both signs, and for each truths on both sides of the posterior mean: no sampling error."""
    y = Stream(seed).normal(n, (1,), dtype=torch.float64)
    off = CENTRED.sample(n, Stream(seed, ("off",)))
    y, off = torch.cat([y, y, -y, -y]), torch.cat([off, -off, off, -off])
    return y, y * GAIN + off


def restore(start: torch.Tensor, observations: torch.Tensor) -> torch.Tensor:
    """The flow of the exact posterior of each observation, N(GAIN y, C): that of N(0, C), shifted (α = 1)."""
    mean = observations * GAIN
    flow = probability_flow(MixtureDenoiser(CENTRED, SCHEDULE))
    return mean + solve(flow, start - mean, TIMES, EABM(2, "data"))


def test_zero_is_the_best_start_for_a_linear_gaussian_posterior() -> None:
    """h = M y + L x_T, so the mean loss is tr C + ‖L x_T‖², averaged over the posterior, for every y."""
    known, others = pairs(30, 0), pairs(30, 1)
    zero = torch.zeros(1, 2, dtype=torch.float64)
    at_zero = float(mean_loss(restore, zero, *known, squared_error))
    base = restore(zero, torch.zeros(1, 1, dtype=torch.float64))
    for x in (zero + 30.0, torch.tensor([[-40.0, 10.0]], dtype=torch.float64)):
        moved = restore(x.expand(3, 2), known[0][:3]) - restore(zero.expand(3, 2), known[0][:3])
        assert torch.allclose(moved, moved[:1].expand(3, 2), atol=1e-10)  # L x_T is the same for every y
        law = at_zero + float((restore(x, torch.zeros(1, 1, dtype=torch.float64)) - base).square().mean())
        assert float(mean_loss(restore, x, *known, squared_error)) == pytest.approx(law, rel=1e-12)
    found = descend(restore, known, others, 20.0 + zero, n_steps=40, rate=4.0)
    assert found.loss == pytest.approx(at_zero, rel=1e-3)  # Adam has settled
    assert float(found.x.norm()) < 0.1 * 20


def test_the_best_of_many_is_found() -> None:
    known, others = pairs(4, 2), pairs(4, 3)
    found = best_start(restore, known, others, (2,), Stream(4), n_candidates=8, scale=TOP)
    starts = TOP * Stream(4).normal(8, (2,), dtype=torch.float64)
    losses = [float(mean_loss(restore, start[None], *known, squared_error)) for start in starts]
    assert found.loss == min(losses) and torch.equal(found.x[0], starts[losses.index(min(losses))])
    assert found.held_out != found.loss
    with pytest.raises(ValueError, match="at least 1"):
        best_start(restore, known, others, (2,), Stream(4), n_candidates=0)


def test_the_norm_is_kept() -> None:
    known = (torch.zeros(3, 1, dtype=torch.float64), torch.ones(3, 4, dtype=torch.float64))
    start = Stream(5).normal(1, (4,), dtype=torch.float64)
    norm = typical_norm((4,), 1.0)
    found = descend(lambda x, y: x, known, known, start, n_steps=200, norm=norm)
    assert float(found.x.norm()) == pytest.approx(norm, rel=1e-12)
    assert torch.allclose(found.x, torch.ones(1, 4, dtype=torch.float64), atol=0.02)  # Adam at rate 0.1 has settled
    assert squared_error(found.x, torch.ones(1, 4)).shape == (1,)


def test_two_modes_make_the_best_start_depend_on_the_observation() -> None:
    law = GaussianMixture(
        torch.tensor([0.5, 0.5]).double(), torch.tensor([[-1.0], [1.0]]).double(), 0.01 * torch.ones(2, 1, 1).double()
    )
    denoiser = MixtureDenoiser(law, SCHEDULE)

    def unguided(start: torch.Tensor, observations: torch.Tensor) -> torch.Tensor:
        return solve(probability_flow(denoiser), start, TIMES, EABM(2, "data"))

    starts = torch.tensor([[-TOP], [TOP]], dtype=torch.float64)
    y, left, right = torch.zeros(1, 1), *torch.tensor([[[-1.0]], [[1.0]]], dtype=torch.float64)
    on_left, on_right = (
        [float(mean_loss(unguided, x[None], y, truth, squared_error)) for x in starts] for truth in (left, right)
    )
    assert on_left[0] < 0.1 < on_left[1] and on_right[1] < 0.1 < on_right[0]
