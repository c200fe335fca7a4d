"""Gradients through a solve: by autograd, by repetition, by the continuous adjoint, against closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from problems import mixture
from torch import Tensor, nn

from sciflow.diffusion.flow import probability_flow, reverse_sde
from sciflow.diffusion.framed import FrameFlow, framed_adjoint
from sciflow.diffusion.mixture import MixtureDenoiser
from sciflow.diffusion.schedule import Trigonometric, VariancePreserving
from sciflow.random import Stream
from sciflow.solvers import DDIM, EABM, DPMSolver2, Equation, EulerMaruyama, Heun, RungeKutta4, solve
from sciflow.solvers.adjoint import solve_adjoint, solve_checkpointed, solve_reversible
from sciflow.solvers.invertible import BDIA

ROUNDING = 1e-12  # the same operations in the same order, summed up in another


class Learned(nn.Module):
    """A small network in float64 that answers D(x, t)."""

    schedule, shape = Trigonometric(), (3,)

    def __init__(self) -> None:
        super().__init__()
        layers = nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)
        self.network = nn.Sequential(*layers).double()
        for k, p in enumerate(self.network.parameters()):
            p.data = 0.5 * Stream(k).normal(len(p), p.shape[1:], dtype=torch.float64)

    def forward(self, x: Tensor, t: float) -> Tensor:
        return self.network(torch.cat([x, x.new_full((len(x), 1), float(t))], 1))


@dataclass(frozen=True)
class Centred:
    """The denoiser of N(0, v I), with a v that can be differentiated with respect to."""

    variance: Tensor
    schedule = VariancePreserving()
    shape = (2,)

    def __call__(self, x: Tensor, t: float) -> Tensor:
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return alpha * self.variance / (alpha**2 * self.variance + sigma**2) * x


def gradients(run: Callable[[Tensor], Tensor], x: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """Of a loss with unequal weights, with respect to x and the parameters."""
    x = x.clone().requires_grad_()
    end = run(x)
    weights = torch.linspace(0.5, 2.0, end.numel(), dtype=end.dtype).reshape(end.shape)
    return list(torch.autograd.grad((weights * end).sin().sum(), [x, *parameters]))


def gap(a: list[Tensor], b: list[Tensor]) -> float:
    """The largest difference relative to the largest entry."""
    return max(float((u - v).abs().max() / v.abs().max()) for u, v in zip(a, b, strict=True))


def start(n: int = 5) -> Tensor:
    return Stream(11).normal(n, (3,), dtype=torch.float64)


GRID = torch.linspace(0.1, 0.9, 11, dtype=torch.float64)


def test_autograd_goes_through_a_solve() -> None:
    model = Learned()

    def run(x: Tensor) -> Tensor:
        return solve(probability_flow(model), x, GRID, EABM(2, "data", corrector=True))

    (gradient,) = gradients(run, start(1), [])
    weights = torch.linspace(0.5, 2.0, 3, dtype=torch.float64)
    for i, step in enumerate(1e-5 * torch.eye(3, dtype=torch.float64)):
        up, down = (float((weights * run(start(1) + s)).sin().sum().detach()) for s in (step, -step))
        # central difference: h² = 1e-10 and rounding 1e-16/h = 1e-11, times derivatives of order one
        assert float(gradient[0, i]) == pytest.approx((up - down) / 2e-5, abs=1e-8)


ODE = [RungeKutta4(), EABM(3, "noise"), EABM(3, "data", corrector=True), DPMSolver2()]


@pytest.mark.parametrize("every", [None, 1, 4, 100])
@pytest.mark.parametrize("solver", [*ODE, EulerMaruyama(), DDIM(eta=1.0)], ids=str)
def test_checkpointed_gradients_are_those_of_autograd(solver: object, every: int | None) -> None:
    """Random solvers included: the repetition meets the same noise."""
    model = Learned()
    dynamics = reverse_sde(model) if isinstance(solver, EulerMaruyama) else probability_flow(model)
    plain, kept = (
        gradients(run, start(), list(model.parameters()))
        for run in (
            lambda x: solve(dynamics, x, GRID, solver, stream=Stream(2)),
            lambda x: solve_checkpointed(dynamics, x, GRID, solver, every=every, stream=Stream(2)),
        )
    )
    assert gap(kept, plain) < ROUNDING


def test_checkpointing_changes_no_value_and_needs_no_graph() -> None:
    flow = probability_flow(Learned())
    with torch.no_grad():
        values = [run(flow, start(), GRID, EABM()) for run in (solve, solve_checkpointed)]
    assert torch.equal(*values)
    with pytest.raises(ValueError, match="every must be at least 1"):
        solve_checkpointed(flow, start(), GRID, EABM(), every=0)


def test_the_adjoint_of_a_gaussian_in_closed_form() -> None:
    """y = x/α, κ = σ/α: y₀ = R y_T with R² = (v + κ₀²)/(v + κ_T²), and ∂y₀/∂v = y_T R/2 (1/(v+κ₀²) − 1/(v+κ_T²))."""
    variance = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    model = Centred(variance)
    clock = torch.linspace(math.log(20.0), math.log(0.1), 129, dtype=torch.float64).exp()
    times = model.schedule.time(-clock.log())
    x = start(1)[:, :2].requires_grad_()
    ends = [float(model.schedule.alpha(t)) for t in (times[0], times[-1])]
    y = framed_adjoint(model, x, times, RungeKutta4(), parameters=[variance]) / ends[1]
    of_x, of_variance = torch.autograd.grad(y[0, 0], [x, variance])
    x, y, v = x.detach(), y.detach(), float(variance.detach())
    far, near = float(clock[0]) ** 2, float(clock[-1]) ** 2
    ratio = math.sqrt((v + near) / (v + far))
    exact = float(x[0, 0]) / ends[0] * 0.5 * ratio * (1 / (v + near) - 1 / (v + far))
    # RK4 with 128 steps whose κ differ by 4 %: 1e-6 of the values
    assert float(y[0, 0]) == pytest.approx(ratio * float(x[0, 0]) / ends[0], rel=1e-6)
    assert of_x.tolist()[0] == pytest.approx([ratio / ends[0], 0.0], rel=1e-6)
    assert float(of_variance) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize(("solver", "order"), [(Heun(), 2), (EABM(2, "time"), 2), (RungeKutta4(), 4)], ids=str)
def test_the_gap_of_the_adjoint_to_the_discrete_gradient_falls_at_the_order(solver: object, order: int) -> None:
    """And faster for some: the state that Heun re-computes backwards misses by O(h³) only."""
    model = MixtureDenoiser(mixture(), VariancePreserving())
    x = 3 * start()[:, :2]

    def found(n_steps: int) -> float:
        times = model.schedule.time(-torch.linspace(3.0, 0.3, n_steps + 1, dtype=torch.float64).log())
        flow = FrameFlow(model, tuple(times.tolist()), "noise")
        clocks, scales = [-flow.clock(t) for t in flow.times], [flow.scale(t) for t in flow.times]

        def discrete(v: Tensor) -> Tensor:
            return scales[-1] * solve(flow.equation(), v / scales[0], clocks, solver)

        return gap(gradients(lambda v: framed_adjoint(model, v, times, solver), x, []), gradients(discrete, x, []))

    n = 128 if order == 2 else 64
    # 0.3: terms of the next order at h = 0.04 and 0.08
    assert math.log2(found(n // 2) / found(n)) > order - 0.3


def test_the_adjoint_of_any_ode_reaches_its_parameters() -> None:
    """ẋ = −k x + sin x, k with respect to which nothing is closed: against autograd on the same grid."""
    rate = torch.tensor([0.5, 1.0, 0.2], dtype=torch.float64, requires_grad=True)
    equation = Equation(lambda t, x: -rate * x + x.sin())
    grid = torch.linspace(0, 1, 33, dtype=torch.float64)
    plain = gradients(lambda x: solve(equation, x, grid, RungeKutta4()), start(), [rate])
    adjoint = gradients(lambda x: solve_adjoint(equation, x, grid, RungeKutta4(), parameters=[rate]), start(), [rate])
    assert gap(adjoint, plain) < 1e-7  # fourth order at h = 1/32, on slopes of order one


def test_the_adjoint_of_a_network_agrees_with_its_discrete_gradient() -> None:
    model = Learned()
    parameters = list(model.parameters())
    grid = torch.linspace(0.1, 0.9, 65, dtype=torch.float64)
    plain = gradients(lambda x: solve(probability_flow(model), x, grid, RungeKutta4()), start(), parameters)
    for frame in ("noise", "velocity"):
        adjoint = gradients(
            lambda x, f=frame: framed_adjoint(model, x, grid, RungeKutta4(), frame=f, parameters=parameters),
            start(),
            parameters,
        )
        assert gap(adjoint, plain) < 1e-4  # fourth order in t and in the clock, 64 steps


@pytest.mark.parametrize(("gamma", "tolerance"), [(1.0, 1e-12), (0.7, 1e-9)])
def test_reversible_gradients_are_those_of_autograd(gamma: float, tolerance: float) -> None:
    """States are found again by inversion; its rounding grows like γ^{−N}: 0.7^{−20} = 1e3."""
    model = Learned()
    parameters, grid = list(model.parameters()), torch.linspace(0.1, 0.9, 21, dtype=torch.float64)
    flow, solver = probability_flow(model), BDIA(gamma)
    plain = gradients(lambda x: solve(flow, x, grid, solver), start(), parameters)
    replayed = gradients(lambda x: solve_reversible(flow, x, grid, solver, parameters=parameters), start(), parameters)
    assert gap(replayed, plain) < tolerance
    with torch.no_grad():
        values = [run(flow, start(), grid, solver) for run in (solve, solve_reversible)]
    assert torch.equal(*values)


def test_what_the_adjoint_cannot_do_is_refused() -> None:
    model = Learned()
    end = framed_adjoint(model, start().requires_grad_(), GRID, Heun())
    with pytest.raises(ValueError, match="`parameters`"):
        end.sum().backward()
    with pytest.raises(ValueError, match=r"Use solve_checkpointed\(\)"):
        solve_adjoint(reverse_sde(model), start(), GRID, EulerMaruyama())
    with pytest.raises(ValueError, match="frame"):
        solve_adjoint(probability_flow(model), start(), GRID, EABM(2, "noise"))
    with pytest.raises(ValueError, match=r"Use BDIA\(\)"):
        solve_reversible(probability_flow(model), start(), GRID, Heun())
    end = solve_reversible(probability_flow(model), start().requires_grad_(), GRID, BDIA())
    with pytest.raises(ValueError, match="`parameters`"):
        end.sum().backward()
