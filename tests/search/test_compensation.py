"""Dynamic compensation: nothing at ratio one, exact where one ratio can be, and better on what it was not fitted to."""

from __future__ import annotations

import math

import pytest
import torch

from sciflow.diffusion.flow import probability_flow
from sciflow.diffusion.mixture import GaussianDenoiser, MixtureDenoiser
from sciflow.diffusion.schedule import VariancePreserving
from sciflow.diffusion.times import LogSNR
from sciflow.random import Stream
from sciflow.search.compensation import best_ratio, compensate, predicted, reference
from sciflow.solvers.exponential import EABM
from sciflow.solvers.scheduled import Choice, Scheduled
from sciflow.solvers.solve import solve

FLOAT64 = torch.empty(0, dtype=torch.float64)
ONE = torch.ones(1, dtype=torch.float64)


@pytest.mark.parametrize("choice", [Choice(2), Choice(3, "noise"), Choice(2, "data", True)], ids=str)
def test_ratio_one_changes_no_bit(choice: Choice, mixture: MixtureDenoiser) -> None:
    times = LogSNR(6, 20.0, 0.05)(mixture.schedule)
    x = mixture.initial(float(times[0]), 5, Stream(0), torch.float32)
    plain = Scheduled((choice,))
    others = Scheduled((choice,) * 5 + (Choice(choice.order, choice.frame, choice.corrector, 1.0),))
    ends = [solve(probability_flow(mixture), x, times, solver) for solver in (plain, others)]
    assert torch.equal(*ends)
    moved = Scheduled((choice,) * 5 + (Choice(choice.order, choice.frame, choice.corrector, 1.1),))
    assert not torch.equal(ends[0], solve(probability_flow(mixture), x, times, moved))


@pytest.mark.parametrize("frame", ["data", "noise"])
def test_one_ratio_serves_every_sample_of_a_gaussian(frame: str) -> None:
    """Everything is linear in x: where the quadratic has a real root the local error is zero for all samples."""
    denoiser = GaussianDenoiser(0.3 * ONE, 0.25 * torch.eye(1, dtype=torch.float64), VariancePreserving())
    times = LogSNR(8, 20.0, 0.05)(denoiser.schedule)
    grid = times.tolist()
    solver = compensate(denoiser, grid, Stream(1), Choice(2, frame), n=10, like=FLOAT64)
    x = denoiser.initial(grid[0], 50, Stream(2), torch.float64)  # samples that no ratio was fitted to
    reached: list[torch.Tensor] = []
    solve(probability_flow(denoiser), x, grid, solver, on_step=lambda k, t, x: reached.append(x.clone()))
    truth = reference(denoiser, grid, x)
    errors = [float((a - b).square().mean()) for a, b in zip(reached, truth[1:], strict=True)]
    assert errors[1] > 1e-7  # no history yet, no ratio
    # the ratio of each step takes back the error of the steps before, up to rounding, squared
    assert max(errors[2:]) < 1e-20


def test_the_best_ratio_is_the_best(mixture: MixtureDenoiser) -> None:
    parts = [Stream(3, (k,)).normal(6, (2,), dtype=torch.float64) for k in range(4)]

    def end(ratio: float) -> torch.Tensor:
        return parts[0] + ratio * parts[1] + ratio**2 * parts[2]

    found = best_ratio([end(0.0), end(1.0), end(2.0)], parts[3])
    tried = torch.linspace(-1, 3, 4001).tolist()
    losses = [float((end(ratio) - parts[3]).square().sum()) for ratio in tried]
    assert found == pytest.approx(tried[losses.index(min(losses))], abs=1e-3)  # the grid's own width
    assert best_ratio([end(0.0)] * 3, parts[3]) == 1.0  # nothing depends on it: left alone


@pytest.mark.parametrize("choice", [Choice(2), Choice(2, "data", True)], ids=str)
def test_it_helps_samples_it_was_not_fitted_to(choice: Choice, mixture: MixtureDenoiser) -> None:
    grid = LogSNR(6, 20.0, 0.05)(mixture.schedule).tolist()
    solver = compensate(mixture, grid, Stream(4), choice, n=32, like=FLOAT64)
    x = mixture.initial(grid[0], 200, Stream(5), torch.float64)
    truth = reference(mixture, grid, x)[-1]
    errors = [
        float((solve(probability_flow(mixture), x, grid, s) - truth).square().mean().sqrt())
        for s in (solver, Scheduled((choice,)))
    ]
    assert errors[0] < 0.9 * errors[1]
    assert [c.ratio for c in solver.choices[:2]] == [1.0, 1.0] and len(solver.choices) == 6


def test_the_reference_is_the_flow() -> None:
    denoiser = GaussianDenoiser(0 * ONE, 0.25 * torch.eye(1, dtype=torch.float64), VariancePreserving())
    grid = LogSNR(6, 20.0, 0.05)(denoiser.schedule).tolist()
    x = denoiser.initial(grid[0], 3, Stream(6), torch.float64)
    path = reference(denoiser, grid, x)
    spread = [math.hypot(0.5 * float(denoiser.schedule.alpha(t)), float(denoiser.schedule.sigma(t))) for t in grid]
    for state, width in zip(path, spread, strict=True):
        assert torch.allclose(state, x * width / spread[0], atol=2e-4)  # fourth order, 96 steps


def test_ratios_are_predicted_for_other_numbers_of_steps() -> None:
    def law(i: int, n: int) -> float:
        return 1 + 0.3 * (i / n) ** 2 - 0.5 * (n / 50) * (i / n) + 0.2 * (n / 50) ** 2

    fitted = {n: [law(i, n) for i in range(n)] for n in (6, 10, 16, 20)}
    found = predicted(fitted, 12)
    assert found[:2] == [1.0, 1.0]
    assert found[2:] == pytest.approx([law(i, 12) for i in range(2, 12)], abs=1e-8)  # a polynomial of its degree
    assert predicted({6: fitted[6]}, 6)[2:] == pytest.approx(fitted[6][2:], abs=1e-8)
    with pytest.raises(ValueError, match="got none"):
        predicted({}, 5)


def test_eabm_is_the_solver_that_is_compensated(mixture: MixtureDenoiser) -> None:
    grid = LogSNR(6, 20.0, 0.05)(mixture.schedule).tolist()
    x = mixture.initial(grid[0], 4, Stream(7), torch.float64)
    flow = probability_flow(mixture)
    assert torch.allclose(
        solve(flow, x, grid, Scheduled((Choice(2),))), solve(flow, x, grid, EABM(2, "data")), atol=1e-12
    )
