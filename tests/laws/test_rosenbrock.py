"""Exponential Rosenbrock steps: the Krylov action against dense matrices, and what is solved exactly."""

from __future__ import annotations

import math

import pytest
import torch
from problems import gaussian, mixture

from sciflow.diffusion.denoiser import Counted
from sciflow.diffusion.flow import probability_flow, reverse_sde
from sciflow.diffusion.mixture import MixtureDenoiser
from sciflow.diffusion.schedule import Linear
from sciflow.random import Stream
from sciflow.solvers import Equation, ExponentialRosenbrock, solve
from sciflow.solvers.rosenbrock import derivative, phi_1_action

ROUNDING = 1e-12  # float64, matrices of norm about one


def matrix(n: int = 4) -> torch.Tensor:
    return Stream(7).normal(n, (n,), dtype=torch.float64) - torch.eye(n, dtype=torch.float64)


def phi_1(a: torch.Tensor) -> torch.Tensor:
    return torch.linalg.solve(a, torch.linalg.matrix_exp(a) - torch.eye(len(a), dtype=a.dtype))


@pytest.mark.parametrize("dimension", [4, 7])
def test_a_whole_space_gives_the_dense_function(dimension: int) -> None:
    a, v = matrix(), Stream(1).normal(5, (4,), dtype=torch.float64)
    v[1] = torch.linalg.eig(a @ a.T).eigenvectors.real[:, 0]
    v[2] = 0.0  # an empty space
    result = phi_1_action(lambda v: v @ a.T, v, dimension)
    assert torch.allclose(result, v @ phi_1(a).T, rtol=0, atol=ROUNDING * math.exp(float(a.norm())))


def test_a_small_space_agrees_to_as_many_terms_as_it_has_dimensions() -> None:
    a, v = matrix(8), Stream(1).normal(3, (8,), dtype=torch.float64)
    errors = []
    for h in (0.1, 0.05):
        dense = v @ phi_1(h * a).T
        errors.append(float((phi_1_action(lambda v, h=h: h * v @ a.T, v, 3) - dense).norm()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(3, abs=0.3)  # 0.3: the next term at ‖hA‖ about 1/3


def test_linear_equations_are_solved_in_one_step() -> None:
    """x' = A x + b exactly with m = d; x' = A x + b t with one dimension more, for time."""
    a, b = matrix(), torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
    x, h = Stream(2).normal(6, (4,), dtype=torch.float64), 0.7
    steady = torch.linalg.solve(a, b)
    exact = (x + steady) @ torch.linalg.matrix_exp(h * a).T - steady
    constant = Equation(lambda t, x: x @ a.T + b)
    assert torch.allclose(solve(constant, x, [0.2, 0.2 + h], ExponentialRosenbrock(4)), exact, rtol=0, atol=1e-11)
    # x = −A⁻¹ b t − A⁻² b is a solution of the second; 1e-11: two solves and an exponential of norm about ten
    particular = [-(t * steady + torch.linalg.solve(a, steady)) for t in (0.2, 0.2 + h)]
    exact = particular[1] + (x - particular[0]) @ torch.linalg.matrix_exp(h * a).T
    moving = Equation(lambda t, x: x @ a.T + b * t)
    assert torch.allclose(solve(moving, x, [0.2, 0.2 + h], ExponentialRosenbrock(5)), exact, rtol=0, atol=1e-11)


def test_it_is_stable_where_explicit_methods_are_not() -> None:
    """A stiff mode of rate −10⁴ beside a slow nonlinear one: 10 steps."""
    stiff = Equation(lambda t, x: torch.stack([-1e4 * (x[:, 0] - x[:, 1].cos()), -(x[:, 1] ** 2)], 1))
    x = torch.ones(1, 2, dtype=torch.float64)
    end = solve(stiff, x, torch.linspace(0, 1, 11), ExponentialRosenbrock(3))
    # x₁ = 1/(1 + t) to second order; x₀ follows its cosine at a distance 1e-4 of the slow rate
    assert torch.allclose(end, torch.tensor([[math.cos(0.5), 0.5]], dtype=torch.float64), atol=2e-3)


def test_calls_are_counted_and_rows_do_not_depend_on_the_batch() -> None:
    counted = Counted(MixtureDenoiser(mixture(), Linear()))
    flow, solver = probability_flow(counted), ExponentialRosenbrock(3)
    x = counted.initial(0.1, 9, Stream(0), torch.float64)
    times = [0.1, 0.3, 0.5, 0.7]
    whole = solve(flow, x, times, solver)
    assert counted.rows == 9 * 3 * (3 + 2)
    alone = torch.cat([solve(flow, x[k : k + 1], times, solver) for k in range(9)])
    assert torch.equal(whole, alone)
    with torch.no_grad():
        assert torch.equal(solve(flow, x, times, solver), whole)


def test_gradients_pass_and_noise_is_refused() -> None:
    flow = probability_flow(MixtureDenoiser(gaussian(), Linear()))
    x = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(solve(flow, x, [0.2, 0.4], ExponentialRosenbrock(4)).sum(), x)
    h = 1e-5
    lifted = [solve(flow, x.detach() + s * h, [0.2, 0.4], ExponentialRosenbrock(4)).sum() for s in (1, -1)]
    # 1e-8: central difference of a function of order one, h² = 1e-10 plus rounding / h
    assert float(gradient.sum()) == pytest.approx(float(lifted[0] - lifted[1]) / (2 * h), rel=1e-8)
    a = matrix()
    x = torch.ones(1, 4, dtype=torch.float64, requires_grad=True)  # no change in time, and a space that ends early
    (gradient,) = torch.autograd.grad(
        solve(Equation(lambda t, x: x @ a.T), x, [0.0, 1.0], ExponentialRosenbrock(6)).sum(), x
    )
    assert torch.allclose(gradient, torch.linalg.matrix_exp(a).sum(0)[None], rtol=1e-9)
    with pytest.raises(ValueError, match="solves ODEs"):
        ExponentialRosenbrock().plan(reverse_sde(MixtureDenoiser(gaussian(), Linear())), [0.1, 0.2])
    with pytest.raises(ValueError, match="a gradient of its own"):
        derivative(lambda x: x.clone().requires_grad_(), torch.ones(1, 1), torch.ones(1, 1))
