"""Splitting methods of Langevin dynamics: their law in a harmonic well is a recursion of matrices, without sampling."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.random import Stream
from sciflow.solvers import BAOAB, KINETIC_SOLVERS, OBABO, EulerMaruyama, Heun, Kinetic, solve
from sciflow.types import facts

ROUNDING = 1e-12  # float64, a few hundred operations on numbers of order one
STIFFNESS, MASS, TEMPERATURE, FRICTION = 3.0, 0.7, 1.3, 0.8
WELL = Kinetic(lambda x: -STIFFNESS * x, TEMPERATURE, FRICTION, MASS)
OMEGA = math.sqrt(STIFFNESS / MASS)
N_DRAWS = 3  # as many random numbers of one coordinate as a step may take


def recursion(solver: object, h: float) -> tuple[Tensor, Tensor]:
    """One step in the well as (x, v) ← M (x, v) + N ξ: M (2, 2) and N Nᵀ (2, 2)."""
    (step,) = solver.plan(WELL, [0.0, h])

    def moved(state: Tensor, draws: Tensor) -> Tensor:
        rows = state.reshape(-1, 2, 1)
        noise = [torch.stack([torch.full_like(z, 1e9), z], 1)[..., None] for z in draws.T]  # only that of v is used
        return solver.value(solver.step(WELL, step, solver.init(WELL, [0.0, h], rows), lambda k=0: noise[k]))[..., 0]

    unit, none = torch.eye(2, dtype=torch.float64), torch.zeros(2, N_DRAWS, dtype=torch.float64)
    matrix = moved(unit, none).T
    gain = moved(torch.zeros(N_DRAWS, 2, dtype=torch.float64), torch.eye(N_DRAWS, dtype=torch.float64)).T
    return matrix, gain @ gain.T


def stationary(matrix: Tensor, noise: Tensor) -> Tensor:
    """The covariance C = M C Mᵀ + Q."""
    system = torch.eye(4, dtype=torch.float64) - torch.kron(matrix, matrix)
    return torch.linalg.solve(system, noise.flatten()).reshape(2, 2)


@pytest.mark.parametrize("h", [0.05, 0.5, 1.9 / OMEGA])
def test_the_stationary_law_of_a_harmonic_well_is_as_declared(h: float) -> None:
    exact, off = (TEMPERATURE / STIFFNESS, TEMPERATURE / MASS), 1 - (h * OMEGA) ** 2 / 4
    for solver, positions, velocities in ((BAOAB(), 1.0, off), (OBABO(), 1 / off, 1.0)):
        found = stationary(*recursion(solver, h))
        wanted = torch.tensor([positions * exact[0], velocities * exact[1]], dtype=torch.float64)
        # the linear system is near singular where steps are short: its condition is about 1/(γh)
        assert torch.allclose(found.diagonal() / wanted, torch.ones(2, dtype=torch.float64), atol=1e3 * ROUNDING)
        assert abs(float(found[0, 1])) < 1e3 * ROUNDING


@pytest.mark.parametrize("solver", [make() for make in KINETIC_SOLVERS.values()], ids=str)
def test_weak_order_of_first_and_second_moments(solver: object) -> None:
    """The moments at time 1 of a start at (1, 0), against the exponential of the exact generator."""
    drift = torch.tensor([[0.0, 1.0], [-STIFFNESS / MASS, -FRICTION]], dtype=torch.float64)
    equilibrium = torch.diag(torch.tensor([TEMPERATURE / STIFFNESS, TEMPERATURE / MASS], dtype=torch.float64))
    flow = torch.linalg.matrix_exp(drift)
    start = torch.tensor([1.0, 0.0], dtype=torch.float64)
    mean, covariance = flow @ start, equilibrium - flow @ equilibrium @ flow.T
    errors = []
    for n in (16, 32):
        matrix, noise = recursion(solver, 1 / n)
        m, c = start, torch.zeros(2, 2, dtype=torch.float64)
        for _ in range(n):
            m, c = matrix @ m, matrix @ c @ matrix.T + noise
        errors.append([float((m - mean).norm()), float((c - covariance).norm())])
    slopes = [math.log2(coarse / fine) for coarse, fine in zip(*errors, strict=True)]
    # 0.1: what h = 1/16 leaves of the next order; a wrong coefficient costs a whole 1
    assert slopes == pytest.approx([solver.convergence] * 2, abs=0.1)


@pytest.mark.parametrize("solver", [make() for make in KINETIC_SOLVERS.values()], ids=str)
def test_without_a_bath_it_is_velocity_verlet(solver: object) -> None:
    """A pendulum: second order in its path, and the energy comes back although the steps are long."""
    pendulum = Kinetic(lambda x: -x.sin(), temperature=0.0, friction=0.0)
    start = pendulum.rest(torch.tensor([[1.5]], dtype=torch.float64))
    grid = [torch.linspace(0, 8, n + 1, dtype=torch.float64) for n in (64, 128, 4096)]
    coarse, fine, exact = (solve(pendulum, start, times, solver) for times in grid)
    assert math.log2(float((coarse - exact).norm() / (fine - exact).norm())) == pytest.approx(2, abs=0.1)
    back = solve(pendulum, torch.stack([fine[:, 0], -fine[:, 1]], 1), grid[1], solver)
    assert torch.allclose(back, start, rtol=0, atol=ROUNDING)  # reversible


def test_draws_follow_the_boltzmann_law_of_a_quartic_well() -> None:
    n, h = 4000, 0.1
    dynamics = Kinetic(lambda x: -4 * x**3, 1.0, 1.0)
    x = torch.zeros(n, 1, dtype=torch.float64)
    with torch.no_grad():
        end = solve(dynamics, dynamics.rest(x), torch.arange(0, 12 + h / 2, h), BAOAB(), stream=Stream(0))
    grid = torch.linspace(-4, 4, 4001, dtype=torch.float64)
    weight = torch.exp(-(grid**4))
    for power in (2, 4):
        exact = float((weight * grid**power).sum() / weight.sum())
        drawn = end[:, 0, 0] ** power
        # four standard errors; besides h² = 0.01, of which less than a third is seen at h = 0.2
        assert abs(float(drawn.mean()) - exact) < 4 * float(drawn.std()) / math.sqrt(n) + 0.005 * exact


def test_other_solvers_take_the_same_dynamics_and_rows_do_not_depend_on_the_batch() -> None:
    x = Stream(0).normal(8, (2,), dtype=torch.float64)
    start = WELL.thermal(x, Stream(1).normal(8, (2,), dtype=torch.float64))
    grid = torch.linspace(0, 0.5, 401, dtype=torch.float64)
    cold = Kinetic(WELL.force, 0.0, FRICTION, MASS)
    ends = [solve(cold, start, grid, solver) for solver in (Heun(), BAOAB())]
    assert torch.allclose(*ends, rtol=0, atol=1e-5)  # h² = 1.6e-6
    assert solve(WELL, start, grid[:5], EulerMaruyama(), stream=Stream(2)).isfinite().all()
    few, all_of_them = (solve(WELL, start[:n], grid[:5], BAOAB(), stream=Stream(2)) for n in (3, 8))
    assert torch.equal(few, all_of_them[:3])


def test_wrong_uses_are_refused_and_every_entry_states_its_facts() -> None:
    for entry in KINETIC_SOLVERS.values():
        assert {"summary", "order", "exactness", "cost", "bias", "source"} <= facts(entry).keys()
    with pytest.raises(ValueError, match="moves positions and velocities, got Lorenz63"):
        from sciflow.solvers import Lorenz63

        solve(Lorenz63(), torch.zeros(1, 3), [0.0, 0.1], BAOAB())
    with pytest.raises(ValueError, match="Pass stream"):
        solve(WELL, WELL.rest(torch.zeros(1, 1)), [0.0, 0.1], BAOAB())
    for options in ({"temperature": -1.0}, {"friction": -1.0}, {"mass": 0.0}):
        with pytest.raises(InputError, match="mass > 0"):
            Kinetic(lambda x: -x, **options)
