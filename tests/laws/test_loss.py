"""Losses: the interpolant's velocity, and each loss against the quantity it says it is."""

from __future__ import annotations

import math

import pytest
import torch
from problems import mixture

from sciflow.diffusion import (
    LOSSES,
    SCHEDULES,
    Denoising,
    GaussianMixture,
    MixtureDenoiser,
    NetworkDenoiser,
    Scaled,
    TargetScore,
    Velocity,
)
from sciflow.diffusion.denoiser import velocity
from sciflow.diffusion.interpolant import interpolant
from sciflow.diffusion.loss import Loss, Score, ScoredRows
from sciflow.errors import InputError
from sciflow.random import Stream

MEAN, STD = 0.3, 0.7


class Fixed(torch.nn.Module):
    """Any smooth function of input and noise level."""

    def forward(self, x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        return torch.sin(x) + 0.3 * torch.tanh(level)[:, None]

    def log_density(self, z: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        return torch.cos(z).sum(1) * (1 + torch.tanh(level))


def denoiser(kind: str) -> NetworkDenoiser:
    return NetworkDenoiser(Fixed(), Scaled(SCHEDULES[kind](), STD), (3,), MEAN)


def made(kind: str, score: Score, x1: torch.Tensor) -> Loss:
    """A loss of the table; one that asks for it knows the score of the data."""
    loss = LOSSES[kind]()
    return loss.on(score, x1, STD) if isinstance(loss, TargetScore) else loss


@pytest.mark.parametrize("kind", SCHEDULES)
def test_velocity_of_the_interpolant_is_its_derivative(kind: str) -> None:
    schedule, t = SCHEDULES[kind](), torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    x1, x0 = (Stream(seed).normal(5, (2,), dtype=torch.float64) for seed in (0, 1))
    slope = torch.autograd.functional.jvp(lambda t: interpolant(schedule, x1, x0, t).x, t, torch.ones_like(t))[1]
    assert torch.allclose(interpolant(schedule, x1, x0, t).velocity, slope, rtol=1e-10, atol=1e-12)  # float64


@pytest.mark.parametrize("kind", SCHEDULES)
def test_velocity_loss_is_the_squared_error_of_the_velocity(kind: str) -> None:
    """The weight in `Velocity` against ‖v(x_t) − ẋ_t‖² computed from the interpolant and the denoiser's own view."""
    model, loss, stream, n = denoiser(kind), Velocity(), Stream(2), 64
    x1 = MEAN + STD * Stream(0).normal(n, (3,), dtype=torch.float64)
    rows = {"step": 7, "first": 0, "dtype": torch.float64}
    t = loss.margin + (1 - 2 * loss.margin) * stream.child("time").uniform(n, **rows)
    x0 = stream.child("noise").normal(n, (3,), **rows)
    point = interpolant(model.schedule, x1, x0, t)
    expected = (velocity(model, point.x, t) - point.velocity).square().mean(1)
    # both sides divide by σ, which is 1e-3 at the margin
    assert torch.allclose(loss(model, x1, stream, 7), expected, rtol=1e-8)


def score_of(law: GaussianMixture) -> Score:
    """∇log p by automatic differentiation."""
    return torch.func.grad(lambda x: law.log_prob(x).sum())


@pytest.mark.parametrize("kind", LOSSES)
def test_rows_of_a_loss_do_not_depend_on_the_batch(kind: str) -> None:
    """What accumulation and ranks rely on: row k with first = k is row k of the whole batch."""
    model, stream = denoiser("cosine"), Stream(3, tile=4)
    x1 = Stream(0).normal(10, (3,), dtype=torch.float64)
    loss = made(kind, torch.neg, x1)
    whole = loss(model, x1, stream, 5)
    parts = torch.cat([loss(model, x1[k : k + 4], stream, 5, k) for k in (0, 4, 8)])
    assert torch.allclose(parts, whole, rtol=1e-12, atol=0)  # the same numbers, in other batch shapes


@pytest.mark.parametrize(
    "kind", [kind for kind in LOSSES if kind not in ("poisson_flow", "fokker_planck")]
)  # see theirs
def test_the_posterior_mean_is_the_minimiser(kind: str) -> None:
    """Moving the exact denoiser's answer in any direction raises the loss: its gradient there has mean zero."""
    law, schedule, n = mixture(), SCHEDULES["cosine"](), 40_000
    exact = MixtureDenoiser(law, Scaled(schedule, STD))

    class Exact(torch.nn.Module):
        """F such that `NetworkDenoiser` answers D* + shift · c_out."""

        def __init__(self, shift: torch.Tensor) -> None:
            super().__init__()
            self.shift = shift

        def forward(self, x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
            t = schedule.time(-level)
            alpha, sigma = exact.schedule.alpha(t)[:, None], exact.schedule.sigma(t)[:, None]
            root = (alpha**2 * STD**2 + sigma**2).sqrt()
            data = exact(alpha * MEAN + root * x, t)
            skip, out = alpha * STD / root, sigma / root
            return ((data - MEAN) / STD - skip * x) / out + self.shift

    x1, stream = law.sample(n, Stream(0)), Stream(4, tile=1000)
    loss, values = made(kind, score_of(law), x1), []
    for size in (-0.1, 0.1):
        model = NetworkDenoiser(Exact(torch.tensor([size, -size])), Scaled(schedule, STD), (2,), MEAN)
        values.append(loss(model, x1, stream, 0))
    difference = values[1] - values[0]
    stderr = float(difference.std()) / math.sqrt(n)
    assert abs(float(difference.mean())) < 4 * stderr  # a central difference of a quadratic about its minimum


def test_the_score_of_a_gaussian_leaves_nothing_to_chance() -> None:
    """The target is then the posterior mean itself, so that the exact network has no loss at all, row by row."""
    schedule, x1 = Scaled(SCHEDULES["cosine"](), STD), MEAN + STD * Stream(0).normal(50, (3,), dtype=torch.float64)

    class Silent(torch.nn.Module):
        """F of N(MEAN, STD²): c_skip alone denoises it."""

        def forward(self, x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(x)

    model = NetworkDenoiser(Silent(), schedule, (3,), MEAN)
    known = TargetScore(precision=1.0).on(lambda x: (MEAN - x) / STD**2, x1, STD)
    assert known(model, x1, Stream(1), 0).max() < 1e-25  # squares of rounding in float64


def test_a_target_score_has_less_variance_than_noise_at_small_noise() -> None:
    """What is left of the loss of the exact denoiser is the variance of the target: that of noise is of order one."""
    law, stream, n = mixture(), Stream(1), 2000
    x1, exact = law.sample(n, Stream(0)), MixtureDenoiser(law, Scaled(SCHEDULES["edm"](), STD))

    class Exact(torch.nn.Module):
        def forward(self, z: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
            ratio, root = level.exp()[:, None], (1 + (2 * level).exp()).sqrt()[:, None]
            data = (exact(MEAN + STD * root * z, exact.schedule.base.time(-level)) - MEAN) / STD
            noise = (root * z - data) / ratio
            return ratio * z - root * noise

    model = NetworkDenoiser(Exact(), exact.schedule, (2,), MEAN)
    narrow = {"mean": math.log(0.02), "spread": 0.1}
    told, drawn = TargetScore(**narrow).on(score_of(law), x1, STD), Denoising(**narrow)
    assert drawn(model, x1, stream, 0).mean() > 0.1 > 10 * told(model, x1, stream, 0).mean()


def test_a_target_score_refuses_what_it_cannot_know() -> None:
    x1 = STD * Stream(0).normal(4096, (3,), dtype=torch.float64)
    with pytest.raises(InputError, match="must know the score of the data"):
        TargetScore()(denoiser("cosine"), x1, Stream(0), 0)
    for precision in (None, 1.0):
        with pytest.raises(InputError, match=r"4096 of 4096 events have no finite score\. Do atoms overlap"):
            TargetScore(precision=precision).on(lambda x: x / 0, x1, STD)


@pytest.mark.parametrize("hotter", [1.0, 1.2])
def test_the_virial_tells_frames_of_another_temperature(hotter: float) -> None:
    """Of Gaussian data: its mean is the ratio of the temperatures, with a standard error of 0.013 here."""
    x1 = STD * Stream(0).normal(4096, (3,), dtype=torch.float64)

    def score(x: torch.Tensor) -> torch.Tensor:
        return -hotter * x / STD**2

    if hotter == 1:
        loss = TargetScore().on(score, x1, STD)
        assert isinstance(loss, ScoredRows) and abs(loss.precision - 1) < 4 * (2 / x1.numel()) ** 0.5
        return
    with pytest.raises(InputError, match=r"a virial of 1\.[12]\d* ± 0\.01\d*, their law has 1: they are of another"):
        TargetScore().on(score, x1, STD)
