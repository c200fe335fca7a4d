"""A denoiser that was trained elsewhere is the same denoiser in every convention, and is tried before it is used."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from problems import gaussian, mixture
from torch import Tensor, nn

from sciflow import inverse
from sciflow.diffusion import SCHEDULES, GaussianMixture, Karras, MixtureDenoiser, OwnDenoiser, Scaled
from sciflow.diffusion.denoiser import VIEWS
from sciflow.diffusion.own import Predicts, Told
from sciflow.diffusion.schedule import EDM, Cosine, Schedule, VariancePreserving
from sciflow.errors import InputError
from sciflow.random import Stream
from sciflow.training.own import WORST, examined
from sciflow.types import broadcast

OFFSET, SCALE = 0.7, 1.9  # units of the network, other than those of the data
STATED = EDM(), "data", "sigma"


class Exact(nn.Module):
    """The denoiser of a mixture as somebody else would have it: in units, levels and answers of its own."""

    def __init__(self, law: GaussianMixture, schedule: Schedule, predicts: Predicts, told: Told) -> None:
        super().__init__()
        own = GaussianMixture(law.weights, (law.means - OFFSET) / SCALE, law.covariances / SCALE**2)
        self.denoiser, self.predicts, self.told = MixtureDenoiser(own, schedule), predicts, told

    def time(self, c: Tensor) -> Tensor:
        schedule = self.denoiser.schedule
        return {
            "sigma": lambda: schedule.time(-c.log()),
            "log_sigma": lambda: schedule.time(-c),
            "t": lambda: c,
            "s": lambda: 1 - c,
        }[self.told]()

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        t, schedule = self.time(c), self.denoiser.schedule
        if self.predicts == "v":
            alpha, sigma = broadcast(schedule.alpha(t), z), broadcast(schedule.sigma(t), z)
            return alpha * VIEWS["noise"](self.denoiser, z, t) - sigma * self.denoiser(z, t)
        answer = VIEWS[self.predicts](self.denoiser, z, t)
        return -answer if self.predicts == "velocity" and self.told != "t" else answer


def own(law: GaussianMixture, schedule: Schedule, predicts: Predicts, told: Told, **changes) -> OwnDenoiser:
    std = float(law.covariance().trace() / len(law.mean())) ** 0.5
    network = changes.pop("module", None) or Exact(law, schedule, predicts, told)
    conventions = {"offset": OFFSET, "scale": SCALE, "predicts": predicts, "told": told, **changes}
    return OwnDenoiser(network, Scaled(schedule, std), tuple(law.mean().shape), float(law.mean().mean()), **conventions)


@pytest.mark.parametrize("told", get_args(Told))
@pytest.mark.parametrize("predicts", get_args(Predicts))
@pytest.mark.parametrize("kind", SCHEDULES)
def test_every_convention_is_the_same_denoiser(kind: str, predicts: Predicts, told: Told) -> None:
    theirs = own(mixture(), SCHEDULES[kind](), predicts, told)
    ours = MixtureDenoiser(mixture(), theirs.schedule)
    for t in (0.2, 0.5, 0.9):
        x = ours.initial(t, 16, Stream(0), torch.float64)
        # answers are divided by α ≥ 0.005 (at t = 0.2, variance-preserving), times come back from levels: 1e-16/0.005²
        assert torch.allclose(theirs(x, t), ours(x, t), rtol=0, atol=1e-10)
        times = torch.full((16,), t, dtype=torch.float64)
        assert torch.allclose(theirs(x, times), ours(x, times), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("schedule", "predicts", "told"), [STATED, (Cosine(), "v", "s"), (VariancePreserving(), "noise", "t")]
)
def test_draws_and_evidence_are_those_of_the_built_in_prior(schedule: Schedule, predicts: Predicts, told: Told) -> None:
    """From the same starts to the same draws; and against the closed form of both."""
    theirs = own(mixture(), schedule, predicts, told)

    class BuiltIn(MixtureDenoiser):
        def initial(self, t: float, n: int, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
            return theirs.initial(t, n, stream, dtype)

    ours = BuiltIn(mixture(), theirs.schedule)
    matrix, y = torch.tensor([[1.0, 0.5]], dtype=torch.float64), torch.tensor([0.8], dtype=torch.float64)
    likelihood = inverse.GaussianLikelihood(y, inverse.Dense.of(matrix), 0.5)
    times, n = Karras(n_steps=60)(theirs.schedule), 1024
    options = {"likelihood": likelihood, "times": times, "n": n, "stream": Stream(7)}
    drawn = inverse.TwistedSMC(n, twist="jacobian")(theirs, **options)
    expected = inverse.TwistedSMC(n)(ours, **options)  # with the covariance in closed form
    # rounding, 1e-15, through 60 steps each of which stretches a difference by a few at most
    assert torch.allclose(drawn.x, expected.x, rtol=0, atol=1e-7)
    assert drawn.log_evidence == pytest.approx(expected.log_evidence, abs=1e-7)
    exact, log_evidence = mixture().posterior(matrix, y, 0.5)
    # 4 standard errors, and 0.02 for the 60 steps of the prior's chain (README: 0.03 at 50, falling with the steps)
    assert abs(drawn.log_evidence - float(log_evidence)) < 4 * drawn.log_evidence_stderr + 0.02
    stderr = (exact.covariance().diagonal() / drawn.ess()).sqrt()
    assert ((drawn.mean() - exact.mean()).abs() < 4 * 2 * stderr + 0.02).all()  # 2: the ESS is an upper bound


def test_a_white_gaussian_cannot_be_denoised_better_than_by_shrinking() -> None:
    """And not worse: the measure of the examination is 1 at every level."""
    law = GaussianMixture(torch.ones(1), torch.full((1, 4), 0.3), 0.25 * torch.eye(4)[None])
    ratios = examined(own(law, *STATED), law.sample(64, Stream(1), torch.float32), Stream(2))
    assert list(ratios) == ["0.1", "0.3", "1", "3", "10"]
    assert all(abs(ratio - 1) < 1e-3 for ratio in ratios.values())  # float32; at level 10 of a hundredfold difference


def test_an_exact_denoiser_beats_shrinking() -> None:
    """At the level of the gaps between the modes by much; nowhere is it worse, but for the luck of 64 rows."""
    rows = mixture().sample(64, Stream(3), torch.float32)
    ratios = examined(own(mixture(), *STATED), rows, Stream(4))
    assert ratios["0.3"] < 0.9
    # squared errors of 128 numbers fluctuate by √(2/128) = 0.125 of themselves, on common noise by less
    assert max(ratios.values()) < 1 + 4 * 0.125


@pytest.mark.parametrize("predicts", get_args(Predicts))
@pytest.mark.parametrize("told", ["sigma", "s"])
def test_wrong_conventions_are_told_and_the_right_ones_named(
    predicts: Predicts, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the network answers, no other reading of it passes without a word; most are refused."""
    law, schedule, refused = gaussian(), VariancePreserving(), 0
    network, rows = Exact(law, schedule, predicts, told), law.sample(64, Stream(5), torch.float32)
    assert max(examined(own(law, schedule, predicts, told), rows, Stream(6)).values()) < WORST
    assert not caplog.text
    for other in set(get_args(Predicts)) - {predicts}:
        caplog.clear()
        try:
            examined(own(law, schedule, other, told, module=network), rows, Stream(6))
            said = caplog.text
        except InputError as error:
            said, refused = str(error), refused + 1
        assert f"With `predicts: {predicts}, told: {told}` it is " in said, other
    assert refused >= 2


@pytest.mark.parametrize("changes", [{"scale": 2.5 * SCALE}, {"scale": SCALE / 2.5}, {"offset": OFFSET + 2.0}])
def test_other_units_are_refused(changes: dict[str, float]) -> None:
    law = gaussian()
    network, rows = Exact(law, *STATED), law.sample(64, Stream(5), torch.float32)
    with pytest.raises(InputError, match=r"No other `predicts` and `told` would do better. Check train.schedule"):
        examined(own(law, *STATED, module=network, **changes), rows, Stream(6))


class Narrow(nn.Module):
    """x/2 where it is told a number up to a largest one; beyond, it fails."""

    def __init__(self, most: float) -> None:
        super().__init__()
        self.most = most

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        if float(c.max()) > self.most:
            raise KeyError("no such level")
        return 0.5 * x


def test_a_reading_that_the_network_cannot_be_told_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """A network for times from 0 to 1 fails when it is told σ = 10: that is one reading less, and no silence."""
    law = GaussianMixture(torch.ones(1), torch.zeros(1, 4), torch.eye(4)[None])
    network, rows = Narrow(1.0), law.sample(64, Stream(7), torch.float32)
    with caplog.at_level(logging.INFO), pytest.raises(InputError, match="no denoiser of these data"):
        examined(own(law, VariancePreserving(), "data", "t", module=network), rows, Stream(8))
    assert "told: sigma is not tried as another reading: the network raised KeyError: 'no such level'" in caplog.text
    assert "told: s is" not in caplog.text


def test_a_network_that_fails_at_one_level_of_its_own_is_refused() -> None:
    law = GaussianMixture(torch.ones(1), torch.zeros(1, 4), torch.eye(4)[None])
    rows = law.sample(64, Stream(7), torch.float32)
    with pytest.raises(InputError, match=r"the network raised KeyError: 'no such level'.* told: sigma"):
        examined(own(law, EDM(), "data", "sigma", module=Narrow(2.0)), rows, Stream(8))


class Broken(nn.Module):
    """A network that answers x/2, spoilt."""

    def __init__(self, how: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor, c: Tensor) -> object:
        return self.how(0.5 * x)


def stopped(x: Tensor) -> Tensor:
    raise RuntimeError("the sizes do not match")


SPOILT = {
    "another shape": (lambda x: torch.cat([x, x], 1), r"answers \(64, 6\) float32 to \(64, 3\) float32"),
    "another precision": (lambda x: x.double(), r"answers \(64, 3\) float64 to \(64, 3\) float32"),
    "a pair": (lambda x: (x, x), "answers a tuple, not a tensor"),
    "nothing finite": (lambda x: x / 0, "not finite at σ/α = 0.1 standard deviations"),
    "chance": (lambda x: torch.nn.functional.dropout(x), "changes by .* from one call to the next"),
    "the batch": (lambda x: x - x.mean(0), "changes by .* with the rows beside it"),
    "no gradient": (lambda x: x.detach(), "has no gradient with respect to its input"),
    "an exception": (stopped, r"raised RuntimeError: the sizes do not match. It is called with \(64, 3\)"),
    "nothing useful": (lambda x: x * 0, "That is no denoiser of these data"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_broken_networks_are_refused(how: str) -> None:
    function, said = SPOILT[how]
    law = gaussian()
    with pytest.raises(InputError, match=said):
        examined(own(law, *STATED, module=Broken(function)), law.sample(64, Stream(5), torch.float32), Stream(6))


def test_levels_beyond_a_schedule_are_left_out_or_refused() -> None:
    law, rows = gaussian(), gaussian().sample(64, Stream(5), torch.float32)
    near = EDM(sigma_min=0.2, sigma_max=2.0)
    assert list(examined(own(law, near, "data", "sigma"), rows, Stream(6))) == ["0.3", "1"]
    nowhere = EDM(sigma_min=0.4, sigma_max=0.9)
    with pytest.raises(InputError, match=r"reaches from σ/α = 0.4 to 0.9 standard deviations"):
        examined(own(law, nowhere, "data", "sigma"), rows, Stream(6))
    assert math.isclose(WORST, 2.0)
