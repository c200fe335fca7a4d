"""Langevin dynamics without inertia, and the method that leaves its law alone at any step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.solvers.dynamics import Dynamics, Noise, TrivialSplit
from sciflow.solvers.kinetic import KINETIC_SOLVERS
from sciflow.solvers.metropolis import Point, accepted, langevin_log_ratio, langevin_move, look, pull, valued
from sciflow.solvers.solve import Past, StepNoise

Energy = Callable[[Tensor], Tensor]
"""U of each row, (batch, *event) → (batch,); infinite where nothing may be."""


@dataclass(frozen=True)
class Overdamped:
    """Positions in a heat bath so thick that nothing keeps its velocity.

        dx = −M ∇U dt + √(2 M kT) dW

    Its law at long times is e^{−U/kT}.

    Args:
        energy: U.
        temperature: kT > 0 [energy].
        mobility: M > 0, one number or a tensor that broadcasts with an event [length²/energy/time].
        force: −∇U, where it is known; else by automatic differentiation.
    Raises:
        InputError: numbers out of range.
    Source: Leimkuhler and Matthews (2015), Molecular dynamics, eq. 6.26.
    """

    energy: Energy
    temperature: float = 1.0
    mobility: float | Tensor = 1.0
    force: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        least = float(torch.as_tensor(self.mobility).min())
        if not (self.temperature > 0 and least > 0):
            raise InputError(
                f"dynamics without inertia need temperature > 0 and mobility > 0, got {self.temperature} and {least}."
            )

    @property
    def noise(self) -> Noise:
        return "diagonal"

    def drift(self, t: float, x: Tensor) -> Tensor:
        mobility = self.mobility.to(x) if isinstance(self.mobility, Tensor) else self.mobility
        if self.force is not None:
            return mobility * self.force(x)
        return mobility * self.temperature * look(self.log_density, x, 1.0).slope

    def diffusion(self, t: float, x: Tensor) -> Tensor:
        return (math.sqrt(2) * self.width(x)).expand(x.shape[1:])

    def width(self, like: Tensor) -> Tensor:
        """√(M kT), in the dtype and on the device of `like`."""
        return (self.temperature * torch.as_tensor(self.mobility, dtype=torch.float64)).sqrt().to(like)

    def log_density(self, x: Tensor) -> Tensor:
        """−U/kT of each row."""
        return -self.energy(x) / self.temperature

    def split(self, frame: str) -> TrivialSplit:
        """The frame "time".

        Raises:
            ValueError: another frame.
        """
        return TrivialSplit.within(frame, self.drift, "Overdamped")


class Tried(NamedTuple):
    """Rows after a step.

    Attributes:
        point: where they stand, flat, with −U/kT and its gradient: a step asks for those of the proposal alone.
        shape: of an event.
        acceptance: probability of the last move of each row, (batch,), float64; 1 before the first.
    """

    point: Point
    shape: torch.Size
    acceptance: Tensor


@dataclass(frozen=True)
class MALA:
    """Euler–Maruyama step of `Overdamped` with a Metropolis test: the Metropolis-adjusted Langevin algorithm.

        x' = x − h M ∇U + √(2 h M kT) ξ,   accept with probability min(1, e^{−U(x')/kT} q(x|x')/e^{−U(x)/kT} q(x'|x))

    A row that is rejected stays for the length of the step: paths are right as h → 0, the law at any h. What the
    kernel `mala` does to particles, as a motion in time: h is ½ (its step)², its metric √(M kT).

    Order: 1 weak.
    Exactness: leaves e^{−U/kT} invariant at any step, by detailed balance.
    Cost: 1 energy with its gradient per step.
    Bias: none in the law; rejected moves slow the path, their share falls with h^(3/2).
    Source: Roberts and Tweedie (1996), Exponential convergence of Langevin distributions, section 1.4.2; Bou-Rabee and
        Vanden-Eijnden (2010), Pathwise accuracy and ergodicity of Metropolized integrators for SDEs.
    """

    convergence = 1
    has_inertia = False

    def plan(self, dynamics: Dynamics, times: Sequence[float], past: Sequence[float] = ()) -> list[float]:
        if not isinstance(dynamics, Overdamped):
            raise ValueError(
                f"MALA asks for the energy of a move, got {type(dynamics).__name__}. Pass Overdamped(energy, …)."
            )
        return [math.sqrt(2 * (b - a)) for a, b in itertools.pairwise(times)]

    def init(self, dynamics: Dynamics, times: Sequence[float], x: Tensor, past: Past = ()) -> Tried:
        assert isinstance(dynamics, Overdamped)  # as the plan has seen
        start = self._at(dynamics, x.flatten(1), x.shape[1:])
        return Tried(start, x.shape[1:], torch.ones(len(x), dtype=torch.float64, device=x.device))

    def step(self, dynamics: Dynamics, coefficients: float, state: Tried, noise: StepNoise) -> Tried:
        assert isinstance(dynamics, Overdamped)
        start, shape, _ = state
        scale = self._scale(dynamics, start.x, shape)
        end = self._at(dynamics, langevin_move(start, noise().flatten(1), coefficients, scale), shape)
        log_ratio = langevin_log_ratio(start, end, coefficients, scale)
        uniform = torch.special.ndtr(noise(1).flatten(1)[:, 0].double())  # noise is normal: Φ of it is uniform
        point, probability = accepted(start, end, log_ratio, uniform)
        return Tried(point, shape, probability)

    def value(self, state: Tried) -> Tensor:
        return state.point.x.unflatten(1, state.shape)

    def _scale(self, dynamics: Overdamped, x: Tensor, shape: torch.Size) -> Tensor:
        return dynamics.width(x).expand(shape).flatten()

    def _at(self, dynamics: Overdamped, x: Tensor, shape: torch.Size) -> Point:
        """Rows x (batch, d) with −U/kT and its gradient in the coordinates of the move."""
        scale = self._scale(dynamics, x, shape)
        if dynamics.force is None:
            return look(lambda flat: dynamics.log_density(flat.unflatten(1, shape)), x, scale)
        value = valued(dynamics.log_density, x.unflatten(1, shape)).double()
        slope = dynamics.force(x.unflatten(1, shape)).flatten(1) / dynamics.temperature
        return Point(x, value, pull(scale, slope))


LANGEVIN_SOLVERS: dict[str, type] = {**KINETIC_SOLVERS, "mala": MALA}
