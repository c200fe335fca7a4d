"""Chaotic equations of a few variables, as dynamics that any solver takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.solvers.dynamics import Noise, TrivialSplit


@runtime_checkable
class Chaotic(Protocol):
    """An autonomous ODE on R^d that stays bounded, and where it lives."""

    @property
    def dimension(self) -> int: ...

    @property
    def centre(self) -> Tensor:
        """A point amid the attractor, float64, (d,)."""
        ...

    @property
    def width(self) -> float:
        """How far the attractor reaches from there: a standard deviation to start from."""
        ...

    def drift(self, t: float, x: Tensor) -> Tensor:
        """dx/dt of each row."""
        ...


@dataclass(frozen=True)
class _Autonomous:
    """What ODEs without a linear part of their own share as `Dynamics`."""

    @property
    def noise(self) -> Noise:
        return "none"

    def diffusion(self, t: float, x: Tensor) -> float:
        return 0.0

    def drift(self, t: float, x: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} has no drift. Define drift(t, x).")

    def split(self, frame: str) -> TrivialSplit:
        """The frame "time".

        Raises:
            ValueError: another frame.
        """
        return TrivialSplit.within(frame, self.drift, type(self).__name__)


@dataclass(frozen=True)
class Lorenz63(_Autonomous):
    """Convection in three variables.

        ẋ = σ (y − x),   ẏ = x (ρ − z) − y,   ż = x y − β z

    Exactness: the right-hand side is exact; the divergence is −(σ + 1 + β) everywhere.
    Cost: O(1) for each row.
    Bias: none.
    Args:
        prandtl: σ [dimensionless].
        rayleigh: ρ [dimensionless].
        aspect: β [dimensionless].
    Source: Lorenz (1963), Deterministic nonperiodic flow, eq. 25–27.
    """

    prandtl: float = 10.0
    rayleigh: float = 28.0
    aspect: float = 8 / 3

    dimension = 3
    width = 8.0

    @property
    def centre(self) -> Tensor:
        return torch.tensor([0.0, 0.0, self.rayleigh - 3], dtype=torch.float64)

    def drift(self, t: float, x: Tensor) -> Tensor:
        a, b, c = x.unbind(-1)
        return torch.stack([self.prandtl * (b - a), a * (self.rayleigh - c) - b, a * b - self.aspect * c], -1)


@dataclass(frozen=True)
class Lorenz96(_Autonomous):
    """An atmospheric quantity at d places around a circle of latitude.

        ẋ_i = (x_{i+1} − x_{i−2}) x_{i−1} − x_i + F,   indices modulo d

    Exactness: the right-hand side is exact; the quadratic part keeps Σ x_i², the divergence is −d.
    Cost: O(d) for each row.
    Bias: none.
    Args:
        dimension: d, at least 4.
        forcing: F; chaotic for d = 40 and F = 8.
    Raises:
        InputError: fewer than four places.
    Source: Lorenz (1996), Predictability: a problem partly solved, eq. 1.
    """

    dimension: int = 40
    forcing: float = 8.0

    width = 3.6

    def __post_init__(self) -> None:
        if self.dimension < 4:
            raise InputError(f"Lorenz96 needs at least 4 places, got {self.dimension}.")

    @property
    def centre(self) -> Tensor:
        return torch.full((self.dimension,), 0.3 * self.forcing, dtype=torch.float64)

    def drift(self, t: float, x: Tensor) -> Tensor:
        return (x.roll(-1, -1) - x.roll(2, -1)) * x.roll(1, -1) - x + self.forcing


CHAOTIC: dict[str, type] = {"lorenz63": Lorenz63, "lorenz96": Lorenz96}
