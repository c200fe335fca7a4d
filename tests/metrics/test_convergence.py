"""Tails of weights and spreads of chains, against laws whose shape is known."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import genpareto

from sciflow.errors import InputError
from sciflow.metrics.convergence import pareto_shape, split_rhat


@pytest.mark.parametrize("k", [-0.3, 0.2, 0.5, 0.9])
def test_the_shape_of_a_pareto_tail_is_found(k: float) -> None:
    """Excesses of a generalised Pareto law above any level have the same shape."""
    n = 40_000
    weights = torch.from_numpy(genpareto.rvs(k, size=n, random_state=3))
    size = math.ceil(3 * math.sqrt(n))
    # standard error (1 + |k|)/√M (Zhang and Stephens 2009); ten observations at 0.5 pull by 10 (0.5 − k)/(M + 10)
    pull = 10 * abs(0.5 - k) / (size + 10)
    assert abs(pareto_shape(weights.log()) - k) < 4 * (1 + abs(k)) / math.sqrt(size) + pull


def test_weights_that_are_bounded_few_or_nothing() -> None:
    assert pareto_shape(torch.zeros(1000)) == -math.inf
    assert math.isnan(pareto_shape(torch.randn(20, generator=torch.Generator().manual_seed(0))))
    assert pareto_shape(torch.linspace(0, 1, 1000)) < 0  # no tail
    with pytest.raises(InputError, match="no importance weight is finite"):
        pareto_shape(torch.full((100,), -math.inf))


def test_chains_that_agree_have_one_and_shifted_ones_what_their_shift_says() -> None:
    x = torch.randn(16, 2000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    # the variance of 32 means of 1000 draws is 1/1000: R̂ = 1 ± √(2/31)/2000
    assert abs(split_rhat(x) - 1) < 4 * math.sqrt(2 / 31) / 2000
    shifted = x - x.unflatten(1, (2, -1)).mean(2).repeat_interleave(1000, 1) + torch.arange(16.0)[:, None]
    within = float(shifted.unflatten(1, (2, -1)).flatten(0, 1).var(1).mean())
    between = float(torch.arange(16.0).repeat(2).double().var())
    assert split_rhat(shifted) == pytest.approx(math.sqrt(999 / 1000 + between / within), rel=1e-9)
    drifting = x + torch.linspace(0, 3, 2000)  # one chain, whose halves disagree
    # a variance of 1 + 1.5²/12 within, means 1.5 apart; their error of 0.045 moves R̂ by 0.025
    assert abs(split_rhat(drifting[:1]) - math.sqrt(1 + 1.125 / 1.1875)) < 4 * 0.025
    assert math.isnan(split_rhat(torch.ones(4, 10))) and math.isnan(split_rhat(x[:, :3]))
