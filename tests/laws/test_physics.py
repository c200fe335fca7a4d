"""Equations of physics against analytic solutions, invariants and their measured order."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from sciflow.domains.pde.boxes import Ring, Torus
from sciflow.domains.pde.equations import (
    EQUATIONS,
    Advection,
    Burgers,
    KortewegDeVries,
    KuramotoSivashinsky,
    RingEquation,
    semilinear,
)
from sciflow.domains.pde.evolve import certified, fields
from sciflow.domains.pde.navier_stokes import NavierStokes
from sciflow.errors import InputError, NonFiniteError
from sciflow.random import Stream
from sciflow.solvers.etdrk4 import ETDRK4
from sciflow.solvers.solve import solve

ROUNDING = 1e-12


def smooth(box: Ring | Torus, n: int = 3) -> Tensor:
    """Random fields of six waves along each axis, (n, *grid); the product of two such on a torus."""
    along = _smooth(box if isinstance(box, Ring) else box.side, 2 * n)
    return along[:n] if isinstance(box, Ring) else 4 * along[:n, :, None] * along[n:, None, :]


def _smooth(ring: Ring, n: int) -> Tensor:
    amplitude, phase = (Stream(0).child(name).uniform(n, (6,), dtype=torch.float64) for name in ("a", "phase"))
    waves = torch.arange(1, 7, dtype=torch.float64)[:, None] * 2 * math.pi / ring.length * ring.places
    return ((amplitude - 0.5)[..., None] * (waves + 2 * math.pi * phase[..., None]).sin()).sum(1)


def slope(errors: list[float]) -> float:
    """Order from the last two errors of a grid that is halved."""
    return math.log2(errors[-2] / errors[-1])


def test_advection_moves_a_field_unchanged() -> None:
    ring = Ring(3.0, 48)
    x, k = ring.places, 2 * math.pi / 3.0
    moved = fields(semilinear(Advection(0.7), ring), ring, (3 * k * x).sin()[None], [0.0, 5.0], 1.0)[:, -1]
    assert torch.allclose(moved[0], (3 * k * (x - 0.7 * 5.0)).sin(), atol=ROUNDING, rtol=0)


def cole_hopf(x: np.ndarray, t: float, viscosity: float) -> np.ndarray:
    """Burgers from −sin x at time t: u = ∫ (x−y)/t w dy/∫ w dy, w = exp(−(∫u₀ + (x−y)²/2t)/2ν), by quadrature."""
    y = np.linspace(-6 * math.pi, 8 * math.pi, 40001)
    logs = -(np.cos(y) + (x[:, None] - y) ** 2 / (2 * t)) / (2 * viscosity)
    weights = np.exp(logs - logs.max(1, keepdims=True))
    return ((x[:, None] - y) / t * weights).sum(1) / weights.sum(1)


@pytest.mark.parametrize(("viscosity", "size", "n_steps"), [(0.1, 256, 600), (0.02, 1024, 1500)])
def test_burgers_is_solved_by_the_cole_hopf_transform(viscosity: float, size: int, n_steps: int) -> None:
    ring = Ring(2 * math.pi, size)
    start = -ring.places.sin()[None]
    end = fields(semilinear(Burgers(viscosity), ring), ring, start, [0.0, 1.5], 1.5 / n_steps)[0, -1]
    # 1e-9: order 4 leaves 1e-10 of these steps; grid and quadrature are exact to rounding at these viscosities
    assert np.abs(end.numpy() - cole_hopf(ring.places.numpy(), 1.5, viscosity)).max() < 1e-9


def soliton(ring: Ring, t: float, speed: float) -> Tensor:
    """(c/2) sech²(√c (x − x₀ − ct)/2), wrapped around the ring."""
    away = torch.remainder(ring.places - speed * t, ring.length) - ring.length / 2
    return 0.5 * speed / (0.5 * math.sqrt(speed) * away).cosh() ** 2


def test_a_soliton_keeps_its_shape_at_fourth_order() -> None:
    """A method that drops the imaginary part of its coefficients is first order here."""
    ring, speed = Ring(20.0, 256), 5.0
    equation, errors = semilinear(KortewegDeVries(), ring), []
    for step in (4e-3, 2e-3, 1e-3):
        end = fields(equation, ring, soliton(ring, 0.0, speed)[None], [0.0, 1.0], step)[0, -1]
        errors.append(float((end - soliton(ring, 1.0, speed)).abs().max()))
    assert slope(errors) > 3.9
    assert errors[-1] < 1e-6  # 1.3e-7 of a height of 2.5


def test_kuramoto_sivashinsky_converges_at_fourth_order() -> None:
    """Self-convergence before chaos takes over; the slope still rises at these steps (stiff order reduction)."""
    ring = Ring(22.0, 64)
    equation, start = semilinear(KuramotoSivashinsky(), ring), smooth(ring)
    ends = [fields(equation, ring, start, [0.0, 20.0], step)[:, -1] for step in (0.05, 0.025, 0.0125)]
    errors = [float((a - b).abs().max()) for a, b in itertools.pairwise(ends)]
    assert slope(errors) > 3.3  # the gate of the notes at the fine end; 4 is the limit


@pytest.mark.parametrize("equation", [KuramotoSivashinsky(), KortewegDeVries(), Advection()], ids=repr)
def test_steps_in_buffers_are_those_that_autograd_sees(equation: RingEquation) -> None:
    """To the last bit, for real and for complex linear parts; and what `fields` kept can be differentiated after it."""
    ring = Ring(22.0, 32)
    dynamics, start, times = semilinear(equation, ring), smooth(ring), [0.0, 0.05, 0.1, 0.12]
    before = fields(dynamics, ring, start, [0.0, 0.1], 0.05)[:, -1]
    modes = ring.modes(start)
    with torch.no_grad():
        in_place = solve(dynamics, modes, times, ETDRK4("linear"))
    assert torch.equal(modes, ring.modes(start))  # the given state is not changed
    seen = solve(dynamics, modes.requires_grad_(), times, ETDRK4("linear"))
    assert torch.equal(in_place, seen)
    (gradient,) = torch.autograd.grad(seen.abs().square().sum(), modes)
    assert bool(gradient.abs().max() > 0)
    assert torch.equal(fields(dynamics, ring, start, [0.0, 0.1], 0.05)[:, -1], before)


@pytest.mark.parametrize("kind", EQUATIONS)
def test_a_trajectory_has_the_same_bits_in_any_company(kind: str) -> None:
    equation = EQUATIONS[kind]()
    box = equation.box(22.0, 64)
    dynamics, start = equation.dynamics(box), smooth(box, 9)
    whole = fields(dynamics, box, start, [0.0, 0.2], 0.02)
    for n in (1, 4, 7):
        assert torch.equal(fields(dynamics, box, start[:n], [0.0, 0.2], 0.02), whole[:n])


@pytest.mark.parametrize("kind", EQUATIONS)
def test_numbers_that_differ_by_trajectory_are_those_of_their_own_equation(kind: str) -> None:
    """A batch with a number for each field is, field by field, the batch of that number alone."""
    equation = EQUATIONS[kind]()
    box = equation.box(22.0, 32)
    start = smooth(box)
    for name in (name for name, value in vars(equation).items() if isinstance(value, float)):
        values = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
        wide = replace(equation, **{name: values.reshape(-1, *[1] * len(box.axes))})
        together = fields(wide.dynamics(box), box, start, [0.0, 0.2], 0.02)
        for i, value in enumerate(values.tolist()):
            alone = replace(equation, **{name: value})
            found = fields(alone.dynamics(box), box, start[i : i + 1], [0.0, 0.2], 0.02)
            # 1e-13 of fields of size 1: coefficients are the same functions, rounded alike but for vectorisation
            assert torch.allclose(together[i : i + 1], found, atol=1e-13, rtol=0), name


@pytest.mark.parametrize("kind", EQUATIONS)
def test_the_fastest_wave_is_found(kind: str) -> None:
    """c max|u| on a ring; of a vortex ω = 2 cos x cos y, the velocity (−cos x sin y, sin x cos y), 1 at most."""
    equation = EQUATIONS[kind]()
    box = equation.box(2 * math.pi, 32)
    wave = box.places.cos()
    if isinstance(box, Torus):
        assert equation.fastest(box, 2 * (wave[:, None] * wave)[None]) == pytest.approx(1.0, rel=1e-12)  # rounding
    else:
        assert equation.fastest(box, wave[None]) == equation.steepening


@pytest.mark.parametrize("box", [Ring(3.0, 16), Torus(3.0, 16)], ids=repr)
def test_a_finer_grid_shows_the_same_field(box: Ring | Torus) -> None:
    """Waves below half the grid, on twice the points: the same at every second of them, and as computed there."""
    _, phases = box.waves(7)
    fine = replace(box, size=32)
    _, sharp = fine.waves(7)
    for wave, same in zip(phases, sharp, strict=True):
        found = fine.values(fine.modes(box.finer((wave + 0.3).sin()[None])))
        assert torch.allclose(found, (same + 0.3).sin()[None], atol=ROUNDING, rtol=0)
        assert torch.allclose(fine.coarser(found), (wave + 0.3).sin()[None], atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("kind", EQUATIONS)
def test_what_every_equation_conserves(kind: str) -> None:
    """The mean; and ∫u² where the linear part is skew, else it changes as the linear part says."""
    equation = EQUATIONS[kind]()
    box = equation.box(22.0, 64 if equation.box is Ring else 32)
    dynamics, start, grid = equation.dynamics(box), 0.3 + smooth(box), tuple(range(-len(box.axes), 0))
    path = fields(dynamics, box, start, np.linspace(0, 0.2, 41).tolist(), 0.001 if equation.box is Ring else 0.005)
    assert torch.allclose(path.mean(grid), start.mean(grid)[:, None].expand(-1, 41), atol=1e-13, rtol=0)
    modes, rate = box.modes(path), dynamics.split("linear").rate.real
    numbers = torch.arange(box.size // 2 + 1)
    twice = torch.where((numbers > 0) & (numbers < box.size // 2), 2.0, 1.0)
    power = (twice * rate * modes.abs() ** 2).sum(grid) * 2 / math.prod(box.shape) ** 2
    energy = path.square().mean(grid)
    gained = torch.tensor(np.trapezoid(power.numpy(), dx=0.005))  # trapezoid errs by h² × curvature ~ 1e-5
    assert torch.allclose(energy[:, -1] - energy[:, 0], gained, atol=1e-4 * float(energy.max()), rtol=1e-3)


def test_taylor_green_vortices_decay_to_rounding() -> None:
    torus, flow = Torus(2 * math.pi, 32), NavierStokes(viscosity=0.01, drag=0.1)
    y, x = torch.meshgrid(torus.side.places, torus.side.places, indexing="ij")
    start = 2 * x.cos() * y.cos()
    end = fields(flow.dynamics(torus), torus, start[None], [0.0, 3.0], 0.05)[0, -1]
    assert torch.allclose(end, math.exp(-(2 * 0.01 + 0.1) * 3) * start, atol=ROUNDING, rtol=0)


def test_kolmogorovs_laminar_flow_stays() -> None:
    torus, flow = Torus(2 * math.pi, 32), NavierStokes(viscosity=0.1, drag=0.2, amplitude=1.0, waves=2)
    laminar = flow.forcing(torus) / (0.1 * 2**2 + 0.2)
    end = fields(flow.dynamics(torus), torus, laminar[None], [0.0, 2.0], 0.02)[0, -1]
    assert torch.allclose(end, laminar, atol=ROUNDING, rtol=0)


def test_vorticity_converges_at_fourth_order_and_keeps_energy_and_enstrophy() -> None:
    torus, flow = Torus(2 * math.pi, 32), NavierStokes(viscosity=0.01)
    modes = torch.zeros(1, 32, 17, dtype=torch.complex128)
    modes[0, :4, :4] = torch.complex(*Stream(1).normal(2, (4, 4), dtype=torch.float64)) * 32**2 / 8
    modes[0, :, 0] = 0
    start = torus.values(modes)
    ends = [fields(flow.dynamics(torus), torus, start, [0.0, 1.0], step)[:, -1] for step in (0.04, 0.02, 0.01)]
    errors = [float((a - b).abs().max()) for a, b in itertools.pairwise(ends)]
    assert slope(errors) == pytest.approx(4, abs=0.15)
    along, across = torus.wavenumbers
    squared = (along**2 + across**2).clamp_min(1e-300)
    convection = flow.dynamics(torus).split("linear").remainder(0.0, torus.modes(start) * torus.kept)
    for name, weight in (("energy", 1 / squared), ("enstrophy", torch.ones_like(squared))):
        weight[0, 0] = 0
        exchange = torus.values(convection) * torus.values(weight * torus.modes(start) * torus.kept)
        assert abs(float(exchange.mean())) < ROUNDING * float(start.square().mean()) ** 1.5, name


def test_a_step_that_is_too_large_is_named() -> None:
    ring = Ring(20.0, 128)
    with pytest.raises(NonFiniteError, match=r"between t = 0 and 4.*Take steps of at most 0.25"):
        fields(semilinear(KortewegDeVries(), ring), ring, soliton(ring, 0, 40.0)[None], [0.0, 4.0], 0.5)
    with pytest.raises(InputError, match="must be positive"):
        fields(semilinear(Burgers(), ring), ring, smooth(ring), [0.0, 1.0], 0.0)
    with pytest.raises(InputError, match="even size"):
        Torus(1.0, 9)


def test_fields_come_with_their_own_error() -> None:
    """What halving changes is what is left of the coarse error: 15/16 of it at order 4."""
    ring = Ring(2 * math.pi, 128)
    start, times = -ring.places.sin()[None], [0.0, 0.5, 1.5]
    made = certified(semilinear(Burgers(0.1), ring), ring, start, times, 0.05)
    exact = torch.from_numpy(cole_hopf(ring.places.numpy(), 1.5, 0.1))
    coarse = fields(semilinear(Burgers(0.1), ring), ring, start, times, 0.05)[0, -1]
    true = float((coarse - exact).norm() / exact.norm())
    assert made.error == pytest.approx(true * 15 / 16, rel=0.1)  # 10 %: the order at these steps is 3.9 to 4.1
    assert made.fields.shape == (1, 3, 128)
