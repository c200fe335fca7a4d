"""The Gaussian likelihood and noise: values, binding and refusals."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from sciflow.errors import InputError
from sciflow.inverse import LIKELIHOODS, NOISES, Dense, GaussianLikelihood, GaussianNoise, Identity, Inpainting
from sciflow.random import Stream

MATRIX = Stream(0).normal(3, (5,), dtype=torch.float64)
OBSERVATION = torch.tensor([0.2, -1.0, 3.0], dtype=torch.float64)


def test_log_prob_is_normalised() -> None:
    likelihood = GaussianLikelihood(OBSERVATION, Dense.of(MATRIX), 0.3)
    x = Stream(1).normal(6, (5,), dtype=torch.float64)
    expected = MultivariateNormal(x @ MATRIX.T, 0.09 * torch.eye(3, dtype=torch.float64)).log_prob(OBSERVATION)
    assert torch.allclose(likelihood.log_prob(x), expected, rtol=1e-12)
    assert torch.allclose(likelihood.residual(x), OBSERVATION - x @ MATRIX.T)


def test_log_prob_keeps_its_digits_in_float32() -> None:
    """10⁴ measurements: the sum is taken in float64, so only the residuals are rounded."""
    x = Stream(2, tile=16).normal(1, (10_000,))
    likelihood = GaussianLikelihood(torch.zeros(10_000), Identity(), 1.0)
    exact = -0.5 * float((x.double() ** 2).sum()) - 5000 * math.log(2 * math.pi)
    assert abs(float(likelihood.log_prob(x)) - exact) < 1e-7 * 1.5e4  # one rounding of the result, about −1.4e4


def test_noise_has_its_width() -> None:
    noisy = GaussianNoise(0.2).sample(torch.zeros(400, 50), Stream(0))
    assert abs(noisy.std() / 0.2 - 1) < 4 * math.sqrt(0.5 / 20_000)
    assert torch.equal(GaussianNoise(0.0).sample(torch.ones(2, 3), Stream(0)), torch.ones(2, 3))


@pytest.mark.parametrize("kind", NOISES)
def test_every_noise_works_without_options(kind: str) -> None:
    assert NOISES[kind]().sample(torch.zeros(3, 4), Stream(0)).isfinite().all()


@pytest.mark.parametrize("kind", LIKELIHOODS)
def test_every_likelihood_waits_for_its_observation_only(kind: str) -> None:
    model = functools.partial(LIKELIHOODS[kind])
    assert model(observation=torch.zeros(4)).on((4,)).log_prob(torch.zeros(2, 4)).shape == (2,)


def test_bind_restores_what_was_drawn() -> None:
    operator = Inpainting(0.5).draw((1, 4, 4), Stream(3))
    likelihood = GaussianLikelihood(torch.zeros(8), Inpainting(0.5))
    bound = likelihood.bind(operator.parameters(), (1, 4, 4))
    x = Stream(4).normal(2, (1, 4, 4))
    assert torch.equal(bound.residual(x), -operator(x))
    with pytest.raises(InputError, match="has not been drawn yet"):
        likelihood.on((1, 4, 4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianLikelihood(OBSERVATION, sigma=0.0), "sigma > 0"),
        (lambda: GaussianLikelihood(OBSERVATION, sigma=math.inf), "sigma > 0"),
        (lambda: GaussianLikelihood(OBSERVATION[None]), r"shape \(1, 3\)"),
        (lambda: GaussianLikelihood(torch.empty(0)), "finite floating-point vector"),
        (lambda: GaussianLikelihood(torch.tensor([1, 2])), "torch.int64"),
        (lambda: GaussianLikelihood(torch.tensor([1.0, math.nan])), "NaN or infinite"),
        (lambda: GaussianLikelihood(OBSERVATION).on((4,)), "3 measurements, but Identity makes 4"),
        (lambda: GaussianNoise(-0.1), "sigma ≥ 0"),
    ],
)
def test_bad_input(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
