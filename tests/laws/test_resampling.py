"""Every resampling scheme, and its form that keeps one particle: expected copies, laws, and what each promises."""

from __future__ import annotations

import functools
import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.particles import CONDITIONAL, RESAMPLERS
from sciflow.particles.resampling import Scheme
from sciflow.random import Stream

every_scheme = pytest.mark.parametrize("scheme", RESAMPLERS)


def counts(scheme: str, log_weights: Tensor, n: int, seed: int) -> Tensor:
    ancestors = RESAMPLERS[scheme](log_weights, n, Stream(seed))
    assert ancestors.dtype == torch.int64 and ancestors.shape == (n,)
    return torch.bincount(ancestors, minlength=len(log_weights)).double()


@pytest.mark.slow
@every_scheme
@pytest.mark.parametrize("n", [7, 20])
def test_expected_copies(scheme: str, n: int) -> None:
    """E[copies of i] = n w_i within 4 standard errors; 12 of 12 weights, one of them zero, one of them large."""
    log_weights = torch.tensor([0.0, -1.0, 2.5, -math.inf, 0.3, -4.0, 1.0, 0.0, 0.7, -0.5, 0.1, -2.0]) + 300.0
    weights, runs = log_weights.double().softmax(0), 4000
    drawn = torch.stack([counts(scheme, log_weights, n, seed) for seed in range(runs)])
    standard_error = drawn.std(0) / math.sqrt(runs)
    off = (drawn.mean(0) - n * weights).abs()
    assert (off <= 4 * standard_error + 1e-9).all()  # 1e-9: copies that are certain have no spread
    assert (drawn[:, 3] == 0).all()
    assert (drawn.sum(1) == n).all()
    multinomial_variance = n * weights * (1 - weights)
    # no scheme spreads more than multinomial; a sample variance of 4000 has a relative standard error of √(2/4000)
    # for a normal count, and up to 5 times that for the rare ones
    assert (drawn.var(0) <= multinomial_variance * (1 + 20 * math.sqrt(2 / runs)) + 1e-9).all()


@pytest.mark.slow
def test_conditional_laws() -> None:
    """What each scheme promises of every single draw, and the whole law of the multinomial counts."""
    weights = torch.tensor([0.05, 0.31, 0.0, 0.44, 0.2], dtype=torch.float64)
    log_weights, n = weights.log(), 10
    drawn = {
        scheme: torch.stack([counts(scheme, log_weights, n, seed) for seed in range(3000)]) for scheme in RESAMPLERS
    }
    off = {scheme: (copies - n * weights).abs().max() for scheme, copies in drawn.items()}
    assert off["systematic"] < 1
    assert off["stratified"] < 2
    assert (drawn["residual"] >= (n * weights).floor()).all()
    copies = drawn["multinomial"]
    centred = copies - n * weights
    covariance = centred.T @ centred / len(copies)
    expected = n * (weights.diag() - weights[:, None] * weights)
    # 4 standard errors of variances ≤ 2.5
    assert torch.allclose(covariance, expected, atol=4 * 2.5 * math.sqrt(2 / 3000))
    # systematic copies are two-valued: ⌊nw⌋ or ⌊nw⌋ + 1, the latter with probability frac(nw)
    fraction = (n * weights) % 1
    above = (drawn["systematic"] > (n * weights).floor()).double().mean(0)
    assert ((above - fraction).abs() <= 4 * (fraction * (1 - fraction) / 3000).sqrt() + 1e-9).all()


@every_scheme
def test_equal_weights_are_kept(scheme: str) -> None:
    """n equal weights, 1/n not representable: all schemes but multinomial keep every particle exactly once."""
    copies = counts(scheme, torch.full((49,), -7.3), 49, 0)
    if scheme == "multinomial":
        assert copies.max() > 1
    elif scheme == "stratified":
        assert (copies - 1).abs().max() < 2
    else:
        assert (copies == 1).all()


def test_options_name_every_scheme() -> None:
    assert list(get_args(Scheme)) == list(RESAMPLERS)


# Conditional forms -----------------------------------------------------------------------------------------------


UNEVEN = torch.tensor([0.0, -0.6, 0.9, -math.inf, 0.3, -0.8, 0.5], dtype=torch.float64)


def test_every_scheme_has_a_conditional_form() -> None:
    assert list(CONDITIONAL) == list(RESAMPLERS)


@pytest.mark.slow
@every_scheme
@pytest.mark.parametrize(("n", "kept"), [(4, 5), (7, 2), (7, 5)])
def test_conditional_form_is_the_law_given_the_kept_particle(scheme: str, n: int, kept: int) -> None:
    """P(copies | kept) = P(copies) · copies of kept/(n w_kept): all first and second moments of the copies.

    Means over 1000 draws each way; every difference within 4.5 standard errors: of some 800 moments one in 150 000
    would lie outside by chance.
    """
    weights, runs = UNEVEN.softmax(0), 1000
    free = drawn(scheme, n, runs)
    held = torch.stack([conditional_counts(scheme, UNEVEN, n, runs + seed, kept) for seed in range(runs)])
    assert (held[:, kept] >= 1).all() and (held.sum(1) == n).all() and (held[:, 3] == 0).all()
    share = free[:, kept] / (n * weights[kept])
    for moment in (lambda copies: copies, lambda copies: (copies[:, :, None] * copies[:, None]).flatten(1)):
        expected, found = share[:, None] * moment(free), moment(held)
        error = ((expected.var(0) + found.var(0)) / runs).sqrt()
        assert ((expected.mean(0) - found.mean(0)).abs() <= 4.5 * error + 1e-9).all()


@functools.cache
def drawn(scheme: str, n: int, runs: int) -> Tensor:
    return torch.stack([counts(scheme, UNEVEN, n, seed) for seed in range(runs)])


def conditional_counts(scheme: str, log_weights: Tensor, n: int, seed: int, kept: int) -> Tensor:
    ancestors = CONDITIONAL[scheme](log_weights, n, Stream(seed), kept)
    assert ancestors.dtype == torch.int64 and ancestors.shape == (n,)
    assert (ancestors.diff() >= 0).all()
    return torch.bincount(ancestors, minlength=len(log_weights)).double()


@every_scheme
def test_the_kept_particle_survives_rounding(scheme: str) -> None:
    """Its weight is lost beside the others in every sum; only particle Gibbs on a long path would ever meet it."""
    log_weights = torch.zeros(50, dtype=torch.float64)
    log_weights[17] = -80.0
    for seed in range(20):
        assert 17 in CONDITIONAL[scheme](log_weights, 50, Stream(seed), 17)


@every_scheme
@pytest.mark.parametrize("kept", [-1, 3, 1])
def test_a_kept_particle_without_weight_is_refused(scheme: str, kept: int) -> None:
    log_weights = torch.tensor([0.0, -math.inf, 0.0])
    with pytest.raises(InputError, match="the kept particle must be one of 3 with a weight above zero"):
        CONDITIONAL[scheme](log_weights, 3, Stream(0), kept)
