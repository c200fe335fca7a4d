"""A potential and its Boltzmann law e^{−U/kT}: what every target of this domain offers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from sciflow.diffusion.centred import free, positions

Box = tuple[tuple[float, float], ...]
"""Lowest and highest value of each coordinate."""


class Stationary(NamedTuple):
    """A place without force, as published: coordinates and energy."""

    place: tuple[float, ...]
    energy: float


@runtime_checkable
class Potential(Protocol):
    """An energy of positions, in reduced units, and the temperature at which its law is asked for.

    Positions are (batch, dimension), or (batch, particle, axis) for clusters, whose energy does not see where their
    centre is: their law is that of positions with the centre at 0.
    """

    def __hash__(self) -> int: ...

    @property
    def temperature(self) -> float:
        """kT [energy]."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an event."""
        ...

    @property
    def cover(self) -> tuple[float, float]:
        """Mean and standard deviation, of each coordinate, of a Gaussian that covers the law, to temper from."""
        ...

    def energy(self, x: Tensor) -> Tensor:
        """U of each row, (batch, *shape) → (batch,)."""
        ...

    def log_partition(self) -> float | None:
        """log ∫ e^{−U/kT} dx in closed form or by quadrature; None where neither is at hand."""
        ...

    def observables(self, x: Tensor) -> dict[str, Tensor]:
        """Slow or telling numbers of each row, (batch,): what a reference is certified by, besides its energy."""
        ...


@runtime_checkable
class OnGrid(Potential, Protocol):
    """A potential of one or two coordinates, whose law is known on any grid.

    Attributes:
        window: where most of the law lies: what is shown, and cut into cells.
        support: where all of it lies, as far as float64 can tell.
    """

    @property
    def window(self) -> Box: ...

    @property
    def support(self) -> Box: ...


def is_on_grid(potential: Potential) -> bool:
    """Whether exact probabilities of cells and exact draws are at hand."""
    return isinstance(potential, OnGrid) and len(potential.shape) == 1 and potential.shape[0] <= 2


def force(potential: Potential) -> Callable[[Tensor], Tensor]:
    """−∇U of each row, by automatic differentiation."""

    def minus_gradient(x: Tensor) -> Tensor:
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            return -torch.autograd.grad(potential.energy(at).sum(), at)[0]

    return minus_gradient


@dataclass(frozen=True)
class FreeCoordinates:
    """Coordinates in which a Boltzmann law has a density: all of them, or those that leave a centre at 0.

        x = B z,   as in `sciflow.diffusion.centred`

    Args:
        potential: whose law it is.
    """

    potential: Potential

    @property
    def is_centred(self) -> bool:
        """Whether the law is that of positions with their centre at 0."""
        return len(self.potential.shape) == 2

    @property
    def dimension(self) -> int:
        """Free coordinates: (particles − 1) × axes of a cluster."""
        n, *axes = self.potential.shape
        return (n - 1) * axes[0] if axes else n

    def events(self, z: Tensor) -> Tensor:
        """Positions (n, *shape) of free coordinates (n, dimension)."""
        if not self.is_centred:
            return z
        return positions(z.reshape(len(z), -1, self.potential.shape[1]))

    def of(self, x: Tensor) -> Tensor:
        """Free coordinates (n, dimension) of positions; where the centre is, is forgotten."""
        return free(x).flatten(1) if self.is_centred else x

    def log_density(self, z: Tensor) -> Tensor:
        """−U/kT, (n, dimension) → (n,)."""
        return -self.potential.energy(self.events(z)) / self.potential.temperature
