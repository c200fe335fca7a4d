"""Edges of the resampling schemes: zero weights, sizes, precision, bad weights. Their laws are in tests/laws."""

from __future__ import annotations

import math
import time

import pytest
import torch

from sciflow.errors import InputError
from sciflow.particles import RESAMPLERS, ess, log_mean_exp
from sciflow.random import Stream

every_scheme = pytest.mark.parametrize("scheme", RESAMPLERS)


@every_scheme
def test_particles_of_weight_zero_are_never_drawn(scheme: str) -> None:
    log_weights = torch.full((64,), -math.inf)
    log_weights[[0, 20, 63]] = torch.tensor([-800.0, -800.5, -801.0])  # exp underflows; only differences matter
    for seed in range(50):
        assert set(RESAMPLERS[scheme](log_weights, 64, Stream(seed)).tolist()) <= {0, 20, 63}
    only = torch.full((5,), -math.inf)
    only[0] = 3.0  # the last particles weigh nothing: rounding at the end must not reach them
    assert RESAMPLERS[scheme](only, 100, Stream(0)).tolist() == [0] * 100


@every_scheme
@pytest.mark.parametrize("n", [1, 3, 1000])
def test_any_number_from_any_number(scheme: str, n: int) -> None:
    ancestors = RESAMPLERS[scheme](torch.zeros(10), n, Stream(1))
    assert ancestors.shape == (n,) and ancestors.dtype == torch.int64
    assert ancestors.min() >= 0 and ancestors.max() <= 9
    assert torch.equal(ancestors, ancestors.sort().values)
    assert torch.equal(ancestors, RESAMPLERS[scheme](torch.zeros(10), n, Stream(1)))


@every_scheme
def test_weights_are_left_alone_and_may_have_gradients(scheme: str) -> None:
    """One of the schemes sums in place: not in the memory of the caller."""
    log_weights = Stream(0).normal(20, dtype=torch.float64).requires_grad_()
    before = log_weights.detach().clone()
    ancestors = RESAMPLERS[scheme](log_weights, 20, Stream(1))
    assert torch.equal(log_weights, before) and not ancestors.requires_grad


def test_a_million_systematic_copies_are_exact_to_one() -> None:
    """Float64 sums: |copies − n w| < 1 for every one of 10⁶ particles, in well under the 0.5 s that were asked for."""
    n = 1_000_000
    log_weights = Stream(0, tile=n).normal(n)
    start = time.process_time()
    ancestors = RESAMPLERS["systematic"](log_weights, n, Stream(1))
    seconds = time.process_time() - start
    copies = torch.bincount(ancestors, minlength=n)
    # rounding of a float64 cumulative sum of 10⁶ terms: below 1e-9 of a particle
    assert (copies - n * log_weights.double().softmax(0)).abs().max() < 1 + 1e-9
    assert seconds < 0.5


@every_scheme
@pytest.mark.parametrize(
    "log_weights",
    [
        torch.tensor([0.0, math.nan]),
        torch.tensor([0.0, math.inf]),
        torch.full((3,), -math.inf),
        torch.zeros(2, 2),
        torch.empty(0),
    ],
    ids=["nan", "inf", "all dead", "matrix", "empty"],
)
def test_bad_weights(scheme: str, log_weights: torch.Tensor) -> None:
    with pytest.raises(InputError, match="log_weights"):
        RESAMPLERS[scheme](log_weights, 4, Stream(0))


def test_ess_and_log_mean_exp() -> None:
    assert ess(torch.zeros(10) - 5000) == pytest.approx(10)
    assert ess(torch.tensor([0.0, -math.inf, -math.inf])) == pytest.approx(1)
    weights = torch.tensor([0.5, 0.25, 0.25])
    assert ess(weights.log() + 7) == pytest.approx(1 / (0.25 + 0.0625 + 0.0625))
    assert log_mean_exp(weights.log() + 800) == pytest.approx(800 - math.log(3))
