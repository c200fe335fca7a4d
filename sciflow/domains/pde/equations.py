"""Equations in periodic boxes, solved as modes. On a ring u_t + c (u²/2)_x = L u: each says c and the symbol of L."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from sciflow.domains.pde.boxes import Ring, Torus
from sciflow.domains.pde.navier_stokes import NavierStokes
from sciflow.solvers.dynamics import Equation, linear

Positive = Annotated[float, Field(gt=0)]


@runtime_checkable
class PeriodicEquation(Protocol):
    """An entry of EQUATIONS. Its numbers may be tensors (batch, 1, …), one for each field of a batch."""

    @property
    def box(self) -> type[Ring] | type[Torus]:
        """Where its fields live."""
        ...

    def dynamics(self, box: Any) -> Equation:
        """Of the modes of fields in such a box, with the linear part under the frame "linear"."""
        ...

    def fastest(self, box: Any, fields: Tensor) -> float:
        """Of the fastest wave of these fields (batch, *grid) [length/time]."""
        ...


class RingEquation(ABC):
    """What equations on a ring share: each adds c, and the symbol of L."""

    box = Ring
    steepening = 1.0
    """c, how fast a wave steepens; 0 for a linear equation."""

    @abstractmethod
    def rate(self, ring: Ring) -> Tensor:
        """The symbol of L, (size/2 + 1,) or with a batch before it, float64 or complex128 [1/time]."""

    def dynamics(self, ring: Ring) -> Equation:
        """As `semilinear`."""
        return semilinear(self, ring)

    def fastest(self, ring: Ring, fields: Tensor) -> float:
        """c max|u|."""
        return self.steepening * float(fields.abs().max())


def semilinear(equation: RingEquation, ring: Ring) -> Equation:
    """The dynamics of the modes of u, with its linear part under the frame "linear".

        dû/dt = L̂ û − ½ c i k F[u²],   the product made on the grid, its aliases left out

    Mean and, where L is skew, ∫u² are conserved. States are (batch, size/2 + 1), complex128.
    """
    n = ring.size  # transforms leave their factors out: n² values of u², in one factor with the rest
    factor = -0.5j * equation.steepening * ring.odd_wavenumbers * ring.kept / n**2

    def advection(t: float, modes: Tensor) -> Tensor:
        return torch.fft.rfft(torch.fft.irfft(modes, n=n, norm="forward").square_())

    def nothing(t: float, modes: Tensor) -> Tensor:
        return torch.zeros_like(modes)

    if not equation.steepening:
        return linear(equation.rate(ring), nothing)
    return linear(equation.rate(ring), advection, factor)


@dataclass(frozen=True)
class Advection(RingEquation):
    """u_t + β u_x = 0: every wave moves at the same speed.

    Exactness: the linear part is all there is, and solved exactly by any exponential method
    Cost: none
    Bias: none
    Args:
        speed: β [length/time].
    Source: definition.
    """

    speed: float = 1.0
    steepening = 0.0

    def rate(self, ring: Ring) -> Tensor:
        return -1j * self.speed * ring.odd_wavenumbers


@dataclass(frozen=True)
class Burgers(RingEquation):
    """u_t + u u_x = ν u_xx: waves steepen into fronts of width ν/|u|.

    Exactness: solved by the Cole–Hopf transform, which the laws compare with
    Cost: two transforms per call
    Bias: fronts that the grid does not resolve ring: use size > length max|u|/ν
    Args:
        viscosity: ν [length²/time].
    Source: Hopf (1950); Cole (1951).
    """

    viscosity: Positive = 0.1

    def rate(self, ring: Ring) -> Tensor:
        return -self.viscosity * ring.wavenumbers**2


@dataclass(frozen=True)
class KortewegDeVries(RingEquation):
    """u_t + 6 u u_x + u_xxx = 0: dispersion balances steepening, and solitons pass through each other.

    Exactness: u = (c/2) sech²(√c (x − ct)/2) moves unchanged, which the laws compare with
    Cost: two transforms per call
    Bias: none beyond the grid; the rate is imaginary, so coefficients must stay complex
    Source: Korteweg and de Vries (1895); Zabusky and Kruskal (1965).
    """

    steepening = 6.0

    def rate(self, ring: Ring) -> Tensor:
        return 1j * ring.odd_wavenumbers**3


@dataclass(frozen=True)
class KuramotoSivashinsky(RingEquation):
    """u_t + u u_x + u_xx + u_xxxx = 0: chaos in space and time on rings longer than about 20.

    Exactness: the mean is conserved; trajectories part at the rate of the largest Lyapunov exponent, about 0.09
    Cost: two transforms per call
    Bias: none beyond grid and step
    Source: Kuramoto (1978); Sivashinsky (1977); parameters of Brandstetter et al. (2022), Lie point symmetry data
        augmentation.
    """

    def rate(self, ring: Ring) -> Tensor:
        return ring.wavenumbers**2 - ring.wavenumbers**4


EQUATIONS: dict[str, type] = {
    "advection": Advection,
    "burgers": Burgers,
    "korteweg_de_vries": KortewegDeVries,
    "kuramoto_sivashinsky": KuramotoSivashinsky,
    "navier_stokes": NavierStokes,
}
