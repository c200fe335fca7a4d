"""Skipped calls: exact where nothing changes, of known order where something does, and each sample for itself."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from sciflow.diffusion.denoiser import Counted
from sciflow.diffusion.flow import probability_flow
from sciflow.diffusion.mixture import EmpiricalDenoiser, MixtureDenoiser
from sciflow.diffusion.schedule import Linear, VariancePreserving
from sciflow.diffusion.times import LogSNR
from sciflow.random import Stream
from sciflow.solvers.exponential import EABM
from sciflow.solvers.skipping import Skipping
from sciflow.solvers.solve import solve


@pytest.mark.parametrize("view", ["noise", "data"])
@pytest.mark.parametrize("terms", [1, 3])
def test_a_point_is_reached_by_any_pattern_of_skips(view: Any, terms: int) -> None:
    point = torch.tensor([[1.5, -0.5]], dtype=torch.float64)
    denoiser = EmpiricalDenoiser(point, Linear())
    times = LogSNR(8, 20.0, 0.05)(denoiser.schedule)
    x = denoiser.initial(float(times[0]), 3, Stream(0), torch.float64)
    exact = solve(probability_flow(denoiser), x, times, EABM(1, "data"))
    for forced in itertools.chain.from_iterable(itertools.combinations(range(3, 8), n) for n in (0, 1, 2, 5)):
        found = solve(probability_flow(denoiser), x, times, Skipping(2, terms, view, forced=forced))
        assert torch.allclose(found, exact, rtol=0, atol=1e-12)  # rounding
    found = solve(probability_flow(denoiser), x, times, Skipping(2, terms, view))
    assert torch.allclose(found, exact, rtol=0, atol=1e-12)


def test_no_skip_is_eabm(mixture: MixtureDenoiser) -> None:
    times = LogSNR(10, 20.0, 0.05)(mixture.schedule)
    x = mixture.initial(float(times[1]), 4, Stream(1), torch.float64)
    past = [(float(times[0]), mixture.initial(float(times[0]), 4, Stream(1), torch.float64))]
    ends = [
        solve(probability_flow(mixture), x, times[1:], s, past=past) for s in (Skipping(3, forced=()), EABM(3, "data"))
    ]
    assert torch.allclose(*ends, rtol=0, atol=1e-12)  # rounding


def test_a_row_does_not_depend_on_the_batch(mixture: MixtureDenoiser) -> None:
    times = LogSNR(30, 20.0, 0.05)(mixture.schedule)
    x = mixture.initial(float(times[0]), 12, Stream(2), torch.float64)
    counted = Counted(mixture)
    together = solve(probability_flow(counted), x, times, Skipping())
    alone = [solve(probability_flow(mixture), x[k : k + 1], times, Skipping()) for k in range(12)]
    # closed-form denoisers round differently in batches; a decision that depended on mates would cost 1e-3
    assert torch.allclose(together, torch.cat(alone), rtol=0, atol=1e-12)
    skipped = 1 - counted.rows / (12 * 30)
    assert 0.15 < skipped <= 0.5  # never two in a row


@pytest.mark.parametrize("view", ["noise", "data"])
@pytest.mark.parametrize("terms", [1, 2, 3])
def test_error_of_one_forced_skip(view: Any, terms: int, mixture: MixtureDenoiser) -> None:
    """The extrapolated value errs by h^terms, and counts for a step of length h."""
    flow = probability_flow(MixtureDenoiser(mixture.mixture, VariancePreserving()))
    errors = []
    for n_steps in (64, 128):
        times = VariancePreserving().time(torch.linspace(-1.5, 1.5, n_steps + 1, dtype=torch.float64))
        x = Stream(3).normal(16, (2,), dtype=torch.float64)
        ends = [solve(flow, x, times, Skipping(3, terms, view, forced=forced)) for forced in ((), (n_steps // 2,))]
        errors.append(float((ends[0] - ends[1]).square().mean().sqrt()))
    # 0.2: the slope at 128 steps still bends
    assert math.log2(errors[0] / errors[1]) == pytest.approx(terms + 1, abs=0.2)


def test_a_quarter_of_the_calls_is_saved_without_loss(mixture: MixtureDenoiser) -> None:
    times = LogSNR(40, 20.0, 0.05)(mixture.schedule)
    x = mixture.initial(float(times[0]), 200, Stream(4), torch.float64)
    truth = solve(probability_flow(mixture), x, LogSNR(400, 20.0, 0.05)(mixture.schedule), EABM(3, "data", True))

    def error(solver: Skipping) -> tuple[float, float]:
        counted = Counted(mixture)
        end = solve(probability_flow(counted), x, times, solver)
        return float((end - truth).norm(dim=-1).median()), counted.rows / len(x)

    (guided, calls), (plain, whole) = error(Skipping()), error(Skipping(forced=()))
    assert whole == 40 and calls < 30
    assert guided < 1.2 * plain


def test_other_weights_and_refusals(mixture: MixtureDenoiser) -> None:
    times = LogSNR(12, 20.0, 0.05)(mixture.schedule)
    x = mixture.initial(float(times[0]), 8, Stream(5), torch.float64)
    flow = probability_flow(mixture)
    published = solve(flow, x, times, Skipping(weights=(5 / 8, 3 / 4, -3 / 8)))
    assert not torch.equal(published, solve(flow, x, times, Skipping()))
    # on a uniform grid in u the exact weights are those of Adams and Bashforth
    even = torch.linspace(1.0, 0.2, 5).tolist()

    class Levels:
        def levels(self, t: float) -> tuple[float, float]:
            return 1.0, t

    found = Skipping()._criterion(Levels(), even[2::-1], even[3])
    assert found.extrapolated == pytest.approx([-0.2 * w / 12 for w in (23, -16, 5)], abs=1e-7)  # float32 grid
    assert found.difference == pytest.approx([12.5, -25.0, 12.5], rel=1e-5)
    with pytest.raises(ValueError, match="forced must name steps from 2 to 11"):
        Skipping(terms=2, forced=(12,)).plan(flow, times.tolist())
