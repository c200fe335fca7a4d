"""Row k of a solution is the same bits in any batch, in any chunk and in any shard, for every solver of the table."""

from __future__ import annotations

import pytest
import torch
from problems import SOLVER_VARIANTS
from torch import Tensor

from sciflow.diffusion.denoiser import FromView
from sciflow.diffusion.flow import probability_flow, reverse_sde
from sciflow.diffusion.schedule import VariancePreserving
from sciflow.random import Stream
from sciflow.solvers import Dopri5, DPMSolverV3, Dynamics, Solver, TorchDiffEq, TorchSDE, solve
from sciflow.types import Time, broadcast

SCHEDULE = VariancePreserving()
TIMES = [0.3, 0.4, 0.55, 0.6, 0.7, 0.8, 0.9]
WHOLE_BATCH = (Dopri5, TorchDiffEq, TorchSDE)  # of libraries that take the batch as one: see below


def elementwise(x: Tensor, t: Time) -> Tensor:
    """A smooth denoiser of which no bit depends on the batch, so that what does is the solver's doing."""
    sigma = broadcast(SCHEDULE.sigma(t), x)
    return x * (1.3 / (x * x + sigma * sigma + 1) + 0.2 / (1 + sigma))


DENOISER = FromView(elementwise, "data", SCHEDULE, (5,))
FLOW, SDE = probability_flow(DENOISER), reverse_sde(DENOISER)


def dynamics_of(solver: Solver) -> Dynamics:
    """The flow, or the SDE where the solver wants one."""
    try:
        solver.plan(FLOW, TIMES)
    except ValueError:
        return SDE
    return FLOW


def run(solver: Solver, x: Tensor, stream: Stream) -> Tensor:
    with torch.no_grad():
        return solve(dynamics_of(solver), x, TIMES, solver, stream=stream)


@pytest.mark.parametrize("solver", [s for s in SOLVER_VARIANTS if not isinstance(s, WHOLE_BATCH)], ids=str)
def test_rows_do_not_depend_on_batch_chunk_or_shard(solver: Solver) -> None:
    n, stream = 23, Stream(1, tile=4)
    x = Stream(0).normal(n, (5,), dtype=torch.float64)
    whole = run(solver, x, stream)
    for first in (3, 10):
        assert torch.equal(run(solver, x[:first], stream), whole[:first])
    chunks = [run(solver, x[k : k + 7], stream.rows_from(k)) for k in range(0, n, 7)]
    assert torch.equal(torch.cat(chunks), whole)


@pytest.mark.parametrize("solver", [cls() for cls in WHOLE_BATCH], ids=str)
def test_solvers_whose_rows_depend_on_the_batch_say_so(solver: Solver) -> None:
    x, stream = Stream(0).normal(8, (5,), dtype=torch.float64), Stream(1)
    assert not torch.equal(run(solver, x[:3], stream), run(solver, x, stream)[:3])
    assert "batch" in (type(solver).__doc__ or "").partition("Bias:")[2].partition("Args:")[0]


def test_statistics_fitted_by_a_solver_do_not_depend_on_the_batch() -> None:
    solver, x = DPMSolverV3(n_samples=4), Stream(0).normal(8, (5,), dtype=torch.float64)
    assert torch.equal(run(solver, x[:3], Stream(1)), run(solver, x, Stream(1))[:3])
