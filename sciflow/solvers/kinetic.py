"""Langevin dynamics with inertia, and splitting methods whose parts are each solved exactly.

A state holds positions and velocities, (batch, 2, *event), so that `solve` carries it like any other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.solvers.dynamics import Dynamics, Noise, TrivialSplit
from sciflow.solvers.solve import Past, Solver, StepNoise

Force = Callable[[Tensor], Tensor]
"""−∇U of each row, (batch, *event) → like it."""


@dataclass(frozen=True)
class Kinetic:
    """Positions and velocities in a heat bath.

        dx = v dt,   dv = (F(x)/m − γ v) dt + √(2 γ kT/m) dW,   F = −∇U

    Its law at long times is e^{−U/kT} for the positions and N(0, kT/m) for the velocities.

    Args:
        force: F.
        temperature: kT ≥ 0 [energy].
        friction: γ ≥ 0 [1/time].
        mass: m > 0, one number or a tensor that broadcasts with an event [energy time²/length²].
    Raises:
        InputError: numbers out of range.
    Source: Leimkuhler and Matthews (2015), Molecular dynamics, eq. 6.30.
    """

    force: Force
    temperature: float = 1.0
    friction: float = 1.0
    mass: float | Tensor = 1.0

    def __post_init__(self) -> None:
        lightest = float(torch.as_tensor(self.mass).min())
        if not (self.temperature >= 0 and self.friction >= 0 and lightest > 0):
            got = f"{self.temperature}, {self.friction} and {lightest}"
            raise InputError(f"Langevin dynamics needs temperature ≥ 0, friction ≥ 0 and mass > 0, got {got}.")

    @property
    def noise(self) -> Noise:
        return "diagonal" if self.friction * self.temperature > 0 else "none"

    def speed(self, like: Tensor) -> Tensor:
        """√(kT/m), the thermal speed, in the dtype and on the device of `like`."""
        return (self.temperature / torch.as_tensor(self.mass, dtype=torch.float64)).sqrt().to(like)

    def acceleration(self, x: Tensor) -> Tensor:
        """F(x)/m."""
        return self.force(x) / (self.mass.to(x) if isinstance(self.mass, Tensor) else self.mass)

    def drift(self, t: float, state: Tensor) -> Tensor:
        x, v = state.unbind(1)
        return torch.stack([v, self.acceleration(x) - self.friction * v], 1)

    def diffusion(self, t: float, state: Tensor) -> Tensor:
        amplitude = (math.sqrt(2 * self.friction) * self.speed(state)).expand(state.shape[2:])
        return torch.stack([torch.zeros_like(amplitude), amplitude])

    def split(self, frame: str) -> TrivialSplit:
        """The frame "time".

        Raises:
            ValueError: another frame.
        """
        return TrivialSplit.within(frame, self.drift, "Kinetic")

    def rest(self, x: Tensor) -> Tensor:
        """The state at rest at x, (batch, 2, *event)."""
        return torch.stack([x, torch.zeros_like(x)], 1)

    def thermal(self, x: Tensor, normal: Tensor) -> Tensor:
        """The state at x with velocities of the bath, from standard normal numbers like x."""
        return torch.stack([x, self.speed(x) * normal], 1)


@runtime_checkable
class LangevinSolver(Solver, Protocol):
    """A solver of dynamics in a heat bath.

    Attributes:
        has_inertia: whether it carries positions and velocities of `Kinetic`, or positions of `Overdamped`.
    """

    @property
    def has_inertia(self) -> bool: ...


class Moving(NamedTuple):
    """Positions, velocities, and the acceleration at the positions: it serves two kicks."""

    x: Tensor
    v: Tensor
    acceleration: Tensor


class Lengths(NamedTuple):
    """One step: the duration of each A, of each B, and what each O keeps and adds."""

    move: float
    kick: float
    kept: float
    added: float


class _Splitting:
    """A step is the parts of its scheme one after the other; parts that occur k times take h/k each.

    A: x += h v        B: v += h F(x)/m        O: v = e^{−γh} v + √((1 − e^{−2γh}) kT/m) ξ
    """

    scheme = ""
    convergence = 2
    has_inertia = True

    def plan(self, dynamics: Dynamics, times: Sequence[float], past: Sequence[float] = ()) -> list[Lengths]:
        if not isinstance(dynamics, Kinetic):
            name = type(self).__name__
            raise ValueError(
                f"{name} moves positions and velocities, got {type(dynamics).__name__}. Pass Kinetic(force, …)."
            )
        a, b, o = (self.scheme.count(part) for part in "ABO")
        rate, planned = dynamics.friction, []
        for start, end in itertools.pairwise(times):
            h = end - start
            planned.append(Lengths(h / a, h / b, math.exp(-rate * h / o), math.sqrt(-math.expm1(-2 * rate * h / o))))
        return planned

    def init(self, dynamics: Dynamics, times: Sequence[float], x: Tensor, past: Past = ()) -> Moving:
        positions, velocities = x.unbind(1)
        return Moving(positions, velocities, cast(Kinetic, dynamics).acceleration(positions))

    def step(self, dynamics: Dynamics, coefficients: Lengths, state: Moving, noise: StepNoise) -> Moving:
        dynamics = cast(Kinetic, dynamics)  # as the plan has seen
        (x, v, acceleration), is_fresh, n_draws = state, True, 0
        speed = dynamics.speed(x)
        for part in self.scheme:
            if part == "A":
                x, is_fresh = x + coefficients.move * v, False
            elif part == "O":
                v = coefficients.kept * v
                if coefficients.added > 0 and dynamics.temperature > 0:
                    v = v + coefficients.added * speed * noise(n_draws)[:, 1]
                n_draws += 1
            else:
                acceleration, is_fresh = acceleration if is_fresh else dynamics.acceleration(x), True
                v = v + coefficients.kick * acceleration
        return Moving(x, v, acceleration if is_fresh else dynamics.acceleration(x))

    def value(self, state: Moving) -> Tensor:
        return torch.stack([state.x, state.v], 1)


@dataclass(frozen=True)
class BAOAB(_Splitting):
    """Kick, move, bath, move, kick: Langevin dynamics whose positions are sampled best.

        v += h/2 F/m;   x += h/2 v;   v = e^{−γh} v + √((1 − e^{−2γh}) kT/m) ξ;   x += h/2 v;   v += h/2 F/m

    Order: 2 weak; of averages over positions 4 as γ → ∞.
    Exactness: positions in a harmonic well have their exact law at any stable step, h < 2/ω.
    Cost: 1 force per step.
    Bias: O(h²) in the law of positions; velocities of a harmonic well are too cold by 1 − h²ω²/4.
    Source: Leimkuhler and Matthews (2013), Rational construction of stochastic numerical methods for molecular
        sampling, section 2.
    """

    scheme = "BAOAB"
    convergence = 2


@dataclass(frozen=True)
class OBABO(_Splitting):
    """Bath, kick, move, kick, bath: velocity Verlet between two half steps of the exact bath.

        v = e^{−γh/2} v + √((1 − e^{−γh}) kT/m) ξ;   v += h/2 F/m;   x += h v;   v += h/2 F/m;   v as first

    Order: 2 weak.
    Exactness: velocities in a harmonic well have their exact law at any stable step, h < 2/ω.
    Cost: 1 force per step.
    Bias: O(h²); positions of a harmonic well are too wide by 1/(1 − h²ω²/4).
    Source: Bussi and Parrinello (2007), Accurate sampling using Langevin dynamics, eq. 7.
    """

    scheme = "OBABO"
    convergence = 2


KINETIC_SOLVERS: dict[str, type] = {"baoab": BAOAB, "obabo": OBABO}
