"""Clusters of equal particles: four that are bound by double wells, thirteen of Lennard-Jones, in both conventions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from sciflow.errors import InputError

Positive = Annotated[float, Field(gt=0)]


def pair_vectors(x: Tensor) -> Tensor:
    """x_i − x_j of each pair i < j, (batch, particle, axis) → (batch, pair, axis).

    Raises:
        InputError: positions of another form.
    """
    if x.ndim != 3:
        raise InputError(f"positions of a cluster are (batch, particle, axis), got shape {tuple(x.shape)}.")
    i, j = torch.triu_indices(x.shape[1], x.shape[1], 1, device=x.device)
    return x[:, i] - x[:, j]


def pair_distances(x: Tensor) -> Tensor:
    """Distances of all pairs, (batch, pair)."""
    return torch.linalg.vector_norm(pair_vectors(x), dim=2)


def of_pairs(x: Tensor) -> dict[str, Tensor]:
    """Mean and largest distance of pairs."""
    distances = pair_distances(x)
    return {"mean distance": distances.mean(1), "largest distance": distances.amax(1)}


@dataclass(frozen=True)
class DW4:
    """Four particles in the plane, each pair bound by a double well of its distance.

        U = Σ_{i<j} a (d_ij − d₀) + b (d_ij − d₀)² + c (d_ij − d₀)⁴,   a = 0, b = −4, c = 0.9, d₀ = 4

    The law is that of positions with their centre at 0: 6 free coordinates, 5 of them shape and size.

    Exactness: the potential is exact; its log Z is known from sequential Monte Carlo alone, 29.68 ± 0.02
    Cost: 6 distances
    Bias: none; frames that are shipped with published code as its law are not: their mean distance is 3.97, not 4.04
    Args:
        temperature: kT.
    Source: Köhler, Klein and Noé (2020), Equivariant flows, section 6.1.
    """

    temperature: Positive = 1.0

    shape = (4, 2)
    cover = (0.0, 2.5)

    def energy(self, x: Tensor) -> Tensor:
        squared = (pair_distances(x) - 4.0).square()
        return (squared * (0.9 * squared - 4.0)).sum(1)  # as a product: never ∞ − ∞

    def log_partition(self) -> None:
        return None

    def observables(self, x: Tensor) -> dict[str, Tensor]:
        return of_pairs(x)


@dataclass(frozen=True)
class _LennardJones13:
    """What both conventions share: thirteen particles of Lennard-Jones, held together by an oscillator."""

    temperature: Positive = 1.0

    shape = (13, 3)
    cover = (0.0, 1.0)
    depth = 1.0  # of each pair

    def pair_energy(self, x: Tensor) -> Tensor:
        """ε Σ_{i<j} d^{−12} − 2 d^{−6}."""
        attraction = pair_vectors(x).square().sum(2) ** -3
        return self.depth * (attraction * (attraction - 2)).sum(1)  # as a product: never ∞ − ∞

    def energy(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        return self.pair_energy(x) + 0.5 * centred.square().sum((1, 2))

    def log_partition(self) -> None:
        return None

    def observables(self, x: Tensor) -> dict[str, Tensor]:
        return of_pairs(x)


@dataclass(frozen=True)
class LJ13ECNF(_LennardJones13):
    """Thirteen particles of Lennard-Jones, each pair counted once.

        U = Σ_{i<j} d_ij^{−12} − 2 d_ij^{−6} + ½ Σ_i |x_i − x̄|²

    Exactness: the potential is exact; the pairs alone have their least energy, −44.3268, as an icosahedron
    Cost: 78 pairs
    Bias: none; `lj13_idem` is another target under the same name, not this one at another temperature
    Args:
        temperature: kT.
    Source: Köhler, Klein and Noé (2020), Equivariant flows; least energy: Wales and Doye (1997).
    """

    depth = 1.0


@dataclass(frozen=True)
class LJ13IDEM(_LennardJones13):
    """Thirteen particles of Lennard-Jones, each pair counted twice: the convention of iDEM and its successors.

        U = 2 Σ_{i<j} (d_ij^{−12} − 2 d_ij^{−6}) + ½ Σ_i |x_i − x̄|²

    Exactness: the potential is exact; the pairs alone have their least energy, −88.6536, as an icosahedron
    Cost: 78 pairs
    Bias: none; the oscillator is that of `lj13_ecnf`, so that the two are different laws
    Args:
        temperature: kT.
    Source: Akhound-Sadegh et al. (2024), Iterated denoising energy matching, with its `energy_factor` of 1.
    """

    depth = 2.0
