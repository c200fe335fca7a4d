"""Potentials of points: Müller–Brown, double wells alone and coupled, a mixture of forty Gaussians."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from sciflow.diffusion.mixture import GaussianMixture
from sciflow.domains.molecules.potential import Box, Stationary
from sciflow.domains.molecules.quadrature import chain_log_integral, log_integral
from sciflow.random import Stream

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


def first_coordinate(x: Tensor) -> dict[str, Tensor]:
    """The coordinate along which the wells lie."""
    return {"x": x[:, 0]}


@dataclass(frozen=True)
class MullerBrown:
    """Three wells in the plane, on a path that bends: the first test of every method for rare events.

        U = Σ_k A_k exp(a_k (x − x_k)² + b_k (x − x_k)(y − y_k) + c_k (y − y_k)²)

    Exactness: as published; three minima and two saddles are known
    Cost: four exponentials
    Bias: none
    Args:
        temperature: kT; 23 leaves barriers of 4.6 and 1.6 kT.
    Source: Müller and Brown (1979), Location of saddle points and minimum energy paths, table 1; kT from ScoreMD.
    """

    temperature: Positive = 23.0

    shape = (2,)
    cover = (0.3, 1.2)
    window = ((-1.8, 1.1), (-0.5, 2.0))
    support = ((-4.0, 3.5), (-3.0, 4.5))

    @property
    def minima(self) -> tuple[Stationary, ...]:
        return (
            Stationary((-0.558224, 1.441726), -146.6995),
            Stationary((0.623499, 0.028038), -108.1667),
            Stationary((-0.050011, 0.466694), -80.7678),
        )

    @property
    def saddles(self) -> tuple[Stationary, ...]:
        return Stationary((-0.822002, 0.624313), -40.6648), Stationary((0.212487, 0.292988), -72.2489)

    def energy(self, x: Tensor) -> Tensor:
        heights, a, b, c, x0, y0 = (torch.tensor(row, dtype=x.dtype, device=x.device) for row in MULLER_BROWN)
        dx, dy = (x[:, :1] - x0).clamp(-FAR, FAR), (x[:, 1:] - y0).clamp(-FAR, FAR)  # beyond: ∞, and not ∞ − ∞
        return (heights * torch.exp(a * dx**2 + b * dx * dy + c * dy**2)).sum(1)

    def basins(self, x: Tensor) -> Tensor:
        """0 for the well of the first minimum, 1 for the two others: the sides of a line through the higher saddle.

        It runs across the direction in which the energy falls from there.
        """
        across, along = self.saddles[0].place
        return (0.7614 * (x[:, 0] - across) - 0.6483 * (x[:, 1] - along) > 0).long()

    def log_partition(self) -> float:
        return log_integral(self, self.support, 1000)

    def observables(self, x: Tensor) -> dict[str, Tensor]:
        return first_coordinate(x)


FAR = 1e3

MULLER_BROWN = (
    (-200.0, -100.0, -170.0, 15.0),  # A
    (-1.0, -1.0, -6.5, 0.7),  # a
    (0.0, 0.0, 11.0, 0.6),  # b
    (-10.0, -10.0, -6.5, 0.7),  # c
    (1.0, 0.0, -0.5, -1.0),  # x
    (0.0, 0.5, 1.5, 1.0),  # y
)


@dataclass(frozen=True)
class DoubleWell:
    """Two wells along the first coordinate, springs along the others.

        U = a x₁ + b x₁² + c x₁⁴ + ½ Σ_{i ≥ 2} x_i²

    Exactness: log Z by quadrature over the first coordinate, in any dimension
    Cost: O(dimension)
    Bias: none
    Args:
        dimension: number of coordinates.
        tilt: a.
        curvature: b, below 0 for two wells.
        quartic: c.
        temperature: kT.
    Source: Noé, Olsson, Köhler and Wu (2019), Boltzmann generators, supplement.
    """

    dimension: Count = 2
    tilt: float = 0.0
    curvature: float = -4.0
    quartic: Positive = 1.0
    temperature: Positive = 1.0

    cover = (0.0, 1.5)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.dimension,)

    @property
    def window(self) -> Box:
        return ((-2.6, 2.6), *[(-3.5, 3.5)] * (self.dimension - 1))

    @property
    def support(self) -> Box:
        reach = 9 * math.sqrt(self.temperature)
        return ((-5.0, 5.0), *[(-reach, reach)] * (self.dimension - 1))

    @property
    def minima(self) -> tuple[Stationary, ...]:
        """Without tilt, at x₁ = ±√(−b/2c)."""
        if self.tilt != 0 or self.curvature >= 0:
            return ()
        rest = (0.0,) * (self.dimension - 1)
        place = math.sqrt(-self.curvature / (2 * self.quartic))
        return tuple(Stationary((x, *rest), -(self.curvature**2) / (4 * self.quartic)) for x in (-place, place))

    @property
    def saddles(self) -> tuple[Stationary, ...]:
        return (Stationary((0.0,) * self.dimension, 0.0),) if self.minima else ()

    def well(self, x: Tensor) -> Tensor:
        """a x + b x² + c x⁴."""
        return x * (self.tilt + x * (self.curvature + self.quartic * x**2))  # as a product: never ∞ − ∞

    def energy(self, x: Tensor) -> Tensor:
        return self.well(x[:, 0]) + 0.5 * x[:, 1:].square().sum(1)

    def basins(self, x: Tensor) -> Tensor:
        """0 left of the origin, 1 right of it."""
        return (x[:, 0] > 0).long()

    def log_partition(self) -> float:
        springs = 0.5 * (self.dimension - 1) * math.log(2 * math.pi * self.temperature)
        return chain_log_integral(lambda x: self.well(x) / self.temperature, 1) + springs

    def observables(self, x: Tensor) -> dict[str, Tensor]:
        return first_coordinate(x)


@dataclass(frozen=True)
class ManyWell:
    """Independent tilted double wells in pairs of coordinates: 2^pairs modes whose weights are all known.

        U = Σ_k −½ x_{2k} − 6 x_{2k}² + x_{2k}⁴ + ½ x_{2k+1}²

    Exactness: log Z is pairs times that of one pair, by quadrature
    Cost: O(pairs)
    Bias: none
    Args:
        pairs: number of double wells; 16 is the published ManyWell-32.
        temperature: kT.
    Source: Midgley et al. (2023), Flow annealed importance sampling bootstrap, appendix E.
    """

    pairs: Count = 16
    temperature: Positive = 1.0

    cover = (0.0, 1.5)

    @property
    def shape(self) -> tuple[int, ...]:
        return (2 * self.pairs,)

    @property
    def one(self) -> DoubleWell:
        """A single pair."""
        return DoubleWell(2, -0.5, -6.0, 1.0, self.temperature)

    def energy(self, x: Tensor) -> Tensor:
        return self.one.well(x[:, ::2]).sum(1) + 0.5 * x[:, 1::2].square().sum(1)

    def log_partition(self) -> float:
        return self.pairs * self.one.log_partition()

    def observables(self, x: Tensor) -> dict[str, Tensor]:
        return {"x": x[:, 0], "wells on the right": (x[:, ::2] > 0).double().sum(1)}


@dataclass(frozen=True)
class DoubleWellChain:
    """Double wells in a row, neighbours coupled by springs: they order as the springs grow stiff.

        U = Σ_i (a x_i + b x_i² + c x_i⁴) + k/2 Σ_i (x_{i+1} − x_i)²

    Exactness: log Z by the transfer operator, quadrature to rounding
    Cost: O(n_wells)
    Bias: none
    Args:
        n_wells: coordinates.
        coupling: k ≥ 0, stiffness of the springs.
        tilt: a.
        curvature: b.
        quartic: c.
        temperature: kT.
    Source: lattice φ⁴; transfer operator as in Scalapino, Sears and Ferrell (1972).
    """

    n_wells: Annotated[int, Field(ge=2)] = 16
    coupling: Annotated[float, Field(ge=0)] = 1.0
    tilt: float = -0.1
    curvature: float = -2.0
    quartic: Positive = 1.0
    temperature: Positive = 1.0

    cover = (0.0, 1.2)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.n_wells,)

    def well(self, x: Tensor) -> Tensor:
        """a x + b x² + c x⁴."""
        return x * (self.tilt + x * (self.curvature + self.quartic * x**2))  # as a product: never ∞ − ∞

    def energy(self, x: Tensor) -> Tensor:
        return self.well(x).sum(1) + 0.5 * self.coupling * x.diff(dim=1).square().sum(1)

    def log_partition(self) -> float:
        return chain_log_integral(
            lambda x: self.well(x) / self.temperature, self.n_wells, self.coupling / self.temperature
        )

    def observables(self, x: Tensor) -> dict[str, Tensor]:
        return {"mean": x.mean(1)}


@dataclass(frozen=True)
class GMM40:
    """The mixture of forty Gaussians in the plane on which neural samplers are compared.

        U = −log Σ_k N(x; m_k, s² I)/40,   m_k uniform on [−40, 40]² from torch's seed 0,   s = log(1 + e)

    Exactness: closed form, Z = 1; kT is 1
    Cost: forty Gaussians
    Bias: none
    Source: Midgley et al. (2023), Flow annealed importance sampling bootstrap, section 4.1.
    """

    temperature = 1.0
    shape = (2,)
    cover = (0.0, 25.0)
    window = support = ((-50.0, 50.0), (-50.0, 50.0))

    @cached_property
    def law(self) -> GaussianMixture:
        """The mixture, float64."""
        drawn = torch.rand((40, 2), generator=torch.Generator().manual_seed(0))
        means = (80 * (drawn - 0.5)).double()
        covariances = math.log(1 + math.e) ** 2 * torch.eye(2, dtype=torch.float64).repeat(40, 1, 1)
        return GaussianMixture(torch.full((40,), 1 / 40, dtype=torch.float64), means, covariances)

    def sample(self, n: int, stream: Stream) -> Tensor:
        """n exact draws, (n, 2), float64."""
        return self.law.sample(n, stream)

    def energy(self, x: Tensor) -> Tensor:
        squared = (x[:, None] - self.law.means.to(x)).square().sum(2)
        variance = math.log(1 + math.e) ** 2
        return math.log(40 * 2 * math.pi * variance) - (-0.5 * squared / variance).logsumexp(1)

    def log_partition(self) -> float:
        return 0.0

    def observables(self, x: Tensor) -> dict[str, Tensor]:
        return {"x": x[:, 0], "y": x[:, 1]}
