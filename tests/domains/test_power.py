"""The power of a mixture as a data set: the target it names is exact, and metrics are read against it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sciflow.diffusion.mixture_algebra import power, product
from sciflow.domains.analytic.metrics import answers
from sciflow.domains.analytic.network import law, target
from sciflow.domains.analytic.simulate import MixturePower
from sciflow.inverse.likelihood import GaussianLikelihood
from sciflow.random import Stream

DATASET = MixturePower(n_components=5, side=6.0, power=3, n_problems=2, n_samples=64)


def test_the_target_is_the_power_on_a_grid() -> None:
    """log p³ = log Z + log target at every point, and Z is the integral of p³."""
    data = DATASET.simulate(Stream(0))
    prior, named = law(data), target(data)
    assert named is not None and len(named.weights) <= math.comb(5 + 2, 3)
    axis = torch.linspace(-16, 16, 321, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    cubed = 3 * prior.log_prob(points)
    log_constant = float(data["target_log_evidence"])
    likely = cubed > cubed.max() - 12  # components below 1e-7 of the whole are left out: e^−16
    assert torch.allclose(cubed[likely], log_constant + named.log_prob(points)[likely], atol=1e-2)
    # the trapezoid on a grid of 0.1 is exact to rounding for sums of Gaussians of width 1.2, which end inside
    assert float(cubed.logsumexp(0)) + 2 * math.log(0.1) == pytest.approx(log_constant, abs=1e-6)


def test_products_and_powers_agree() -> None:
    prior = law(DATASET.simulate(Stream(1)))
    once, again = power(prior, 2), product(prior, prior)
    points = prior.sample(20, Stream(2))
    assert torch.allclose(once.law.log_prob(points), again.law.log_prob(points), rtol=1e-10)
    assert once.log_constant == pytest.approx(again.log_constant, abs=1e-10)
    assert len(again.law.weights) == 25 and len(once.law.weights) == 15
    with pytest.raises(ValueError, match="whole powers"):
        power(prior, 0)


def test_metrics_are_read_against_the_target_and_its_modes() -> None:
    data = DATASET.simulate(Stream(0))
    known = answers(data, lambda *, observation: GaussianLikelihood(observation), 4000, Stream(3))
    assert known.weights.shape == (2, int(np.max(data["target_mode"].to_numpy())) + 1)
    assert torch.allclose(known.weights.sum(1), torch.ones(2, dtype=torch.float64))
    shares = known.responsibilities(known.draws).mean(1)
    assert ((shares - known.weights).abs() < 4 * (known.weights / 4000).sqrt() + 1e-9).all()  # binomial, 4 errors
    assert known.log_evidence.tolist() == [float(data["target_log_evidence"])] * 2
