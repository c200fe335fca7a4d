"""The restoration from the best start: near the mean of a Gaussian posterior, one for all draws, counted."""

from __future__ import annotations

import pytest
import torch

from sciflow.diffusion.denoiser import Counted
from sciflow.diffusion.mixture import GaussianDenoiser
from sciflow.diffusion.schedule import EDM
from sciflow.diffusion.times import Karras
from sciflow.errors import InputError
from sciflow.inverse import Dense, GaussianLikelihood, Restoration
from sciflow.random import Stream

MATRIX = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.0, 0.3], [0.3, 0.5]], dtype=torch.float64)
PRIOR = GaussianDenoiser(torch.zeros(2, dtype=torch.float64), COVARIANCE, EDM())
TIMES = Karras(12)(EDM())


def likelihood(y: float) -> GaussianLikelihood:
    return GaussianLikelihood(torch.tensor([y], dtype=torch.float64), Dense.of(MATRIX), 0.3)


def test_it_is_nearer_to_the_posterior_mean_than_draws_are() -> None:
    """Of a Gaussian posterior the best start is the one that ends in the mean, for every observation."""
    sampler, squares = Restoration(n_candidates=64, n_reference=64), []
    for y in (-1.0, 0.4, 2.0):
        exact, _ = PRIOR.mixture.posterior(MATRIX, likelihood(y).observation, 0.3)
        x = sampler(PRIOR, likelihood(y), TIMES, 3, Stream(0)).x
        assert torch.equal(x, x[:1].expand(3, 2))
        squares.append(float((x[0] - exact.means[0]).square().sum() / exact.covariances[0].trace()))
    # a draw has 1 in the mean; 64 known answers leave an excess of 1/64, 64 candidates some hundredths
    assert max(squares) < 0.2
    assert torch.tensor(squares) == pytest.approx(squares[0], rel=0.1), "one start serves every observation"


def test_calls_are_as_many_as_it_says() -> None:
    counted = Counted(PRIOR)
    Restoration(n_candidates=5, n_reference=3)(counted, likelihood(1.0), TIMES, 7, Stream(0))
    per_solve = 12 + 1  # steps, and the last denoising
    assert counted.rows == per_solve * (3 + (5 + 2) * 3 + 1)


def test_nothing_to_return_is_refused() -> None:
    with pytest.raises(InputError, match="at least 1"):
        Restoration()(PRIOR, likelihood(1.0), TIMES, 0, Stream(0))
