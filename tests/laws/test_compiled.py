"""A compiled solve is the solve."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from sciflow.diffusion.denoiser import FromView
from sciflow.diffusion.flow import probability_flow
from sciflow.diffusion.network import NetworkDenoiser
from sciflow.diffusion.schedule import EDM, Scaled, VariancePreserving
from sciflow.networks import NETWORKS
from sciflow.solvers import (
    DDIM,
    EABM,
    Auto,
    DPMSolverPP2M,
    Equation,
    ExponentialRungeKutta,
    Solver,
    solve,
)
from sciflow.solvers.compiled import compiled

TIMES = torch.linspace(0, 0.9, 4, dtype=torch.float64)


def flow() -> Equation:
    torch.manual_seed(0)
    module = NETWORKS["mlp"]().build((4,)).eval().requires_grad_(False)
    return probability_flow(NetworkDenoiser(module, Scaled(EDM(), 1.0), (4,), 0.0))


FAMILY = [
    EABM(3, "velocity"),
    EABM(2, "noise", True),
    Auto(),
    DDIM(),
    DPMSolverPP2M(),
]


@pytest.mark.slow
@pytest.mark.parametrize("solver", FAMILY, ids=str)
def test_steps_from_a_table_are_the_steps(solver: Solver) -> None:
    """The same graphs serve 6 and 24 steps: one for each number of nodes, and one for a last step without corrector."""
    dynamics, x, order = flow(), 80 * torch.ones(8, 4).cumsum(0), 3
    counts = []
    for n_steps in (6, 24):
        times = torch.linspace(0.01, 0.9, n_steps + 1, dtype=torch.float64)
        torch._dynamo.reset()
        counter = CompileCounter()
        with torch.no_grad():
            end = compiled(dynamics, times, solver, backend=counter)(x)
            exact = solve(dynamics, x, times, solver)
        # 24 steps of some ten float32 operations, measured 7e-7
        assert torch.allclose(end, exact, rtol=0, atol=1e-5 * float(exact.abs().max()))
        assert 1 <= counter.frame_count <= order + 1
        counts.append(counter.frame_count)
    assert counts[0] == counts[1] or isinstance(
        solver, Auto
    )  # auto has a node more where steps are many: one graph more


@pytest.mark.filterwarnings("ignore")  # of the compiler, about itself
def test_a_table_keeps_the_digits_of_float64() -> None:
    denoiser = FromView(lambda x, t: x / (1 + x * x), "data", VariancePreserving(), (4,))
    dynamics, x = probability_flow(denoiser), torch.ones(8, 4, dtype=torch.float64).cumsum(0)
    times = torch.linspace(0.2, 0.9, 9, dtype=torch.float64)
    with torch.no_grad():
        end = compiled(dynamics, times, EABM(3, "noise", True), backend="aot_eager")(x)
        exact = solve(dynamics, x, times, EABM(3, "noise", True))
    assert torch.allclose(end, exact, rtol=0, atol=1e-12)  # rounding of 8 steps on numbers below 10


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler, about itself
def test_methods_without_a_table_are_one_graph_with_the_bits_of_the_loop() -> None:
    dynamics, x = flow(), 80 * torch.ones(8, 4).cumsum(0)
    counter = CompileCounter()
    with torch.no_grad():
        solver = ExponentialRungeKutta(2)
        end = compiled(dynamics, TIMES, solver, backend="aot_eager")(x)
        assert torch.equal(end, solve(dynamics, x, TIMES, solver))
        compiled(dynamics, TIMES, solver, backend=counter)(x)
    assert counter.frame_count == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_captured_graph_gives_what_the_loop_gives() -> None:
    torch.manual_seed(0)
    module = NETWORKS["mlp"]().build((4,)).eval().requires_grad_(False).cuda()
    dynamics = probability_flow(NetworkDenoiser(module, Scaled(EDM(), 1.0), (4,), 0.0))
    x = 80 * torch.ones(8, 4, device="cuda").cumsum(0)
    with torch.no_grad():
        captured = compiled(dynamics, TIMES, EABM(3), backend="cudagraphs")
        for start in (x, x + 1, x[:3]):  # the second replays what the first has recorded
            assert torch.equal(captured(start), solve(dynamics, start, TIMES, EABM(3)))


def test_a_graph_on_the_processor_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a state on a GPU"):
        compiled(flow(), TIMES, EABM(3), backend="cudagraphs")(torch.ones(8, 4))


def test_what_the_solver_refuses_is_refused_before_compiling() -> None:
    noisy = Equation(lambda t, x: -x, lambda t, x: 1.0, "scalar")
    with pytest.raises(ValueError, match="noise"):
        compiled(noisy, TIMES, EABM(3))
