"""MALA on dynamics: its law is exact at any step, found without sampling from its own step, and with it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from sciflow.errors import InputError
from sciflow.particles.kernels import MALA as KERNEL
from sciflow.random import Stream
from sciflow.solvers import BAOAB, MALA, EulerMaruyama, Kinetic, Overdamped, solve, times
from sciflow.solvers.metropolis import LogDensity
from sciflow.types import facts

KT, MOBILITY, STIFFNESS = 1.3, 0.6, 2.0
WELL = Overdamped(lambda x: 0.5 * STIFFNESS * x.square().flatten(1).sum(1), KT, MOBILITY)
TWO_WELLS = Overdamped(lambda x: ((x.square() - 1).square() + 0.3 * x).flatten(1).sum(1), 0.5, MOBILITY)
X = torch.linspace(-4.5, 4.5, 601, dtype=torch.float64)
XI = torch.linspace(-7, 7, 1401, dtype=torch.float64)
KINK = 2e-5  # a kink as that of min(1, ·) costs a sum on a grid up to spacing²/8 times the jump of its slope
WEIGHTS = torch.exp(-0.5 * XI.square()) * (XI[1] - XI[0]) / math.sqrt(2 * math.pi)


def law(dynamics: Overdamped) -> Tensor:
    """Probability of each point of X, of the Boltzmann law."""
    weight = torch.exp(dynamics.log_density(X[:, None]))
    return weight / weight.sum()


class Transition:
    """(T f)(x) = E f(x') of one step from x, by quadrature over ξ with the solver's own proposals and probabilities."""

    def __init__(self, dynamics: Overdamped, h: float) -> None:
        solver = MALA()
        (step,) = solver.plan(dynamics, [0.0, h])
        state = solver.init(dynamics, [0.0, h], X.repeat_interleave(len(XI))[:, None])
        draws = {0: XI.repeat(len(X))[:, None], 1: torch.full((len(X) * len(XI), 1), -40.0, dtype=torch.float64)}
        moved = solver.step(dynamics, step, state, lambda k=0: draws[k])  # Φ(−40) = 0: every proposal is taken
        self.proposals = solver.value(moved).reshape(len(X), len(XI))
        self.acceptance = moved.acceptance.reshape(len(X), len(XI))

    def __call__(self, f: Tensor) -> Tensor:
        between = torch.from_numpy(CubicSpline(X.numpy(), f.numpy())(self.proposals.numpy()))
        expected = self.acceptance * between + (1 - self.acceptance) * f[:, None]
        return expected @ WEIGHTS


FUNCTIONS: list[Callable[[Tensor], Tensor]] = [lambda x: x, torch.square, torch.sin, lambda x: torch.exp(-x.square())]


@pytest.mark.parametrize("dynamics", [WELL, TWO_WELLS], ids=["one well", "two wells"])
@pytest.mark.parametrize("h", [0.02, 0.3, 1.5])
def test_a_step_of_any_length_leaves_the_law_alone_and_is_reversible(dynamics: Overdamped, h: float) -> None:
    weight, transition = law(dynamics), Transition(dynamics, h)
    values = [f(X) for f in FUNCTIONS]
    after = [transition(f) for f in values]
    for f, moved in zip(values, after, strict=True):
        assert float(moved.sub(f).abs().max()) > 1e-4  # it does move
        assert abs(float(weight @ moved - weight @ f)) < KINK
    for a in range(len(values)):
        for b in range(a):
            assert abs(float(weight @ (values[a] * after[b] - values[b] * after[a]))) < KINK


def test_without_the_test_the_law_would_be_wrong() -> None:
    """What the two tests above can see: the same proposals, always accepted, at a step of 0.3."""
    transition = Transition(TWO_WELLS, 0.3)
    transition.acceptance = torch.ones_like(transition.acceptance)
    off = [abs(float(law(TWO_WELLS) @ (transition(f(X)) - f(X)))) for f in FUNCTIONS]
    assert max(off) > 1e-2  # five hundred times what is allowed


def test_the_weak_order_is_one() -> None:
    """Moments of x at time 0.5 from x = 1 in the harmonic well, against the exact ones."""
    rate, start = MOBILITY * STIFFNESS, 1.0
    mean, variance = start * math.exp(-0.5 * rate), KT / STIFFNESS * -math.expm1(-rate)
    errors = []
    for n in (8, 16, 32):
        transition, found = Transition(WELL, 0.5 / n), []
        for f, exact in ((X, mean), (X.square(), mean**2 + variance)):
            for _ in range(n):
                f = transition(f)
            found.append(abs(float(CubicSpline(X.numpy(), f.numpy())(start)) - exact))
        errors.append(found)
    slopes = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert slopes[-1] == pytest.approx([MALA().convergence] * 2, abs=0.2)  # h^(3/2) of the rejections is not yet small


def test_acceptance_tends_to_one_as_the_step_goes_to_zero() -> None:
    weight = law(TWO_WELLS)
    refused = [1 - float(weight @ (Transition(TWO_WELLS, h).acceptance @ WEIGHTS)) for h in (0.04, 0.01, 0.0025)]
    assert 0.2 > refused[0] > refused[1] > refused[2] > 0
    assert math.log(refused[1] / refused[2], 4) == pytest.approx(1.5, abs=0.1)  # as declared; next is h^(5/2)


def drawn(dynamics: Overdamped, n: int, seed: int) -> Tensor:
    """Exact draws of one coordinate, (n, 1), by the quantiles of the law on a fine grid."""
    x = torch.linspace(-4.5, 4.5, 200_001, dtype=torch.float64)
    cdf = torch.exp(dynamics.log_density(x[:, None])).cumsum(0)
    uniform = Stream(seed).uniform(n, dtype=torch.float64)
    return x[torch.searchsorted(cdf / cdf[-1], uniform).clamp_max(len(x) - 1)][:, None]


@pytest.mark.parametrize("dynamics", [WELL, TWO_WELLS], ids=["one well", "two wells"])
@pytest.mark.parametrize("h", [0.05, 0.5])
def test_draws_keep_their_law_and_forget_where_they_began(dynamics: Overdamped, h: float) -> None:
    """From exact draws and from one point, 4000 independent rows: variance and kurtosis within four standard errors."""
    n, solver, weight = 4000, MALA(), law(dynamics)
    span = 12.0 if dynamics is WELL else 60.0  # rows cross between the wells in a time of about six
    for start in (drawn(dynamics, n, 1), torch.full((n, 1), 0.9, dtype=torch.float64)):
        end = solve(dynamics, start, times(round(span / h), 0.0, span), solver, stream=Stream(2))[:, 0]
        for power in (1, 2, 4):
            exact = float(weight @ X**power)
            values = end**power
            assert abs(float(values.mean()) - exact) < 4 * float(values.std()) / math.sqrt(n)
    if dynamics is WELL and h == 0.5:  # and Euler–Maruyama is 1/(1 − h M k/2) = 1.43 too wide
        start, grid = drawn(dynamics, n, 1), times(round(span / h), 0.0, span)
        loose = solve(dynamics, start, grid, EulerMaruyama(), stream=Stream(2))
        assert float(loose.var()) / (KT / STIFFNESS) == pytest.approx(1 / 0.7, abs=4 * math.sqrt(2 / n) / 0.7)


class Given:
    """A stream that hands out what it was given."""

    def __init__(self, normal: Tensor, uniform: Tensor) -> None:
        self._normal, self._uniform = normal, uniform

    def child(self, name: str) -> Given:
        return self

    def normal(self, *_: object, **__: object) -> Tensor:
        return self._normal

    def uniform(self, *_: object, **__: object) -> Tensor:
        return self._uniform


def test_a_step_is_the_move_of_the_kernel() -> None:
    """h is half of the kernel's step squared, and √(M kT) its metric."""
    h, mobility = 0.4, torch.tensor([0.6, 1.7], dtype=torch.float64)
    dynamics = Overdamped(lambda x: (x.square().sum(1) - 1).square(), KT, mobility)
    x, normal = (Stream(k).normal(200, (2,), dtype=torch.float64) for k in (0, 1))
    z = Stream(2).normal(200, (2,), dtype=torch.float64)
    solver = MALA()
    (step,) = solver.plan(dynamics, [0.0, h])
    state = solver.step(dynamics, step, solver.init(dynamics, [0.0, h], x), lambda k=0: z if k else normal)
    log_density: LogDensity = dynamics.log_density
    given = Given(normal, torch.special.ndtr(z[:, 0]))
    moved, rate = KERNEL().move(log_density, x, given, math.sqrt(2 * h), (KT * mobility).sqrt())  # type: ignore[arg-type]
    assert torch.equal(solver.value(state), moved) and torch.equal(state.acceptance, rate)
    assert 0.2 < float(rate.mean()) < 0.9 and bool((moved == x).all(1).any())  # some stay


def test_a_known_force_is_used_and_rows_do_not_depend_on_the_batch() -> None:
    x = Stream(0).normal(6, (4, 3), dtype=torch.float64)
    known = Overdamped(WELL.energy, KT, MOBILITY, force=lambda x: -STIFFNESS * x)
    grid = times(5, 0.0, 1.0)
    ends = [solve(dynamics, x, grid, MALA(), stream=Stream(1)) for dynamics in (WELL, known)]
    assert ends[0].shape == x.shape and torch.allclose(*ends, rtol=0, atol=1e-13)  # rounding
    few = solve(WELL, x[:2], grid, MALA(), stream=Stream(1))
    assert torch.equal(few, ends[0][:2])
    halves = solve(WELL, x, grid[:3], MALA(), stream=Stream(1))
    assert not torch.equal(halves, ends[0])
    same = [solve(one, x, grid, EulerMaruyama(), stream=Stream(1)) for one in (WELL, known)]
    assert torch.allclose(*same, rtol=0, atol=1e-13)  # other solvers take the same dynamics


def test_where_the_energy_is_infinite_nothing_goes() -> None:
    """A half line: U = x for x ≥ 0."""
    half = Overdamped(lambda x: torch.where(x[:, 0] < 0, math.inf, x[:, 0]), 1.0, 1.0)
    n = 4000
    end = solve(half, torch.ones(n, 1, dtype=torch.float64), times(60, 0.0, 18.0), MALA(), stream=Stream(3))[:, 0]
    assert float(end.min()) >= 0
    assert abs(float(end.mean()) - 1) < 4 / math.sqrt(n)  # Exp(1) has a standard deviation of 1


def test_wrong_uses_are_refused() -> None:
    assert {"summary", "order", "exactness", "cost", "bias", "source"} <= facts(MALA).keys()
    with pytest.raises(ValueError, match="MALA asks for the energy of a move, got Kinetic"):
        solve(Kinetic(lambda x: -x), torch.zeros(1, 2, 1), [0.0, 0.1], MALA())
    with pytest.raises(ValueError, match="BAOAB moves positions and velocities, got Overdamped"):
        solve(WELL, torch.zeros(1, 1), [0.0, 0.1], BAOAB())
    with pytest.raises(ValueError, match="Pass stream"):
        solve(WELL, torch.zeros(1, 1), [0.0, 0.1], MALA())
    with pytest.raises(InputError, match="one number for each row"):
        solve(Overdamped(lambda x: x.square()), torch.zeros(2, 1), [0.0, 0.1], MALA(), stream=Stream(0))
    for options in ({"temperature": 0.0}, {"mobility": 0.0}, {"mobility": torch.tensor([1.0, -1.0])}):
        with pytest.raises(InputError, match="temperature > 0 and mobility > 0"):
            Overdamped(WELL.energy, **options)
