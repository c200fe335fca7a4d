"""Diffusion of particles whose centre stays at 0: coordinates in which their laws have a density.

    x = B z,   Bᵀ B = 1,   Bᵀ x = z;   B Bᵀ = 1 − 11ᵀ/n takes the centre to 0

A standard normal z of n − 1 vectors is normal noise of n vectors whose mean was taken away, and lengths, volumes and
dimensions are those of the space that the law lives in. So noise, priors, densities, divergences and samplers need to
know nothing of the centre: they work on z, and the network alone sees positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.network import NetworkDenoiser
from sciflow.errors import InputError


@lru_cache
def helmert(n: int) -> Tensor:
    """B: orthonormal columns that are orthogonal to (1, …, 1), Helmert's, (n, n − 1), float64.

    Source: Lancaster (1965), The Helmert matrices, equation 1.
    """
    basis = torch.zeros(n, n - 1, dtype=torch.float64)
    for k in range(1, n):
        basis[:k, k - 1], basis[k, k - 1] = 1 / math.sqrt(k * (k + 1)), -k / math.sqrt(k * (k + 1))
    return basis


def positions(z: Tensor) -> Tensor:
    """x = B z, with the centre at 0, (…, n − 1, axis) → (…, n, axis)."""
    return torch.einsum("pk,...ka->...pa", helmert(z.shape[-2] + 1).to(z), z)


def free(x: Tensor) -> Tensor:
    """z = Bᵀ x; where the centre is, is forgotten, (…, n, axis) → (…, n − 1, axis)."""
    return torch.einsum("pk,...pa->...ka", helmert(x.shape[-2]).to(x), x)


def free_coordinates(x: Tensor, dims: Sequence[Hashable]) -> Tensor:
    """z of events, whose dims are to be those of particles.

    Raises:
        InputError: they are others.
    """
    if tuple(dims) != ("sample", "particle", "axis"):
        got = tuple(dims[1:])
        raise InputError(f"train.centred needs events (particle, axis), but data.nc has {got}. Leave it out.")
    return free(x)


def free_score(score: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """∇_z log p = Bᵀ ∇_x log p at x = B z, of a law that does not see where the centre is."""
    return lambda z: free(score(positions(z)))


class CentredModule(nn.Module):
    """A network of positions as one of free coordinates: (z, noise_level) -> Bᵀ F(B z, noise_level).

    Args:
        of_positions: F, built for n particles.
    """

    of_positions: nn.Module

    def __init__(self, of_positions: nn.Module) -> None:
        super().__init__()
        self.of_positions = of_positions

    def forward(self, z: Tensor, noise_level: Tensor | None = None) -> Tensor:
        return free(self.of_positions(positions(z), noise_level))


def is_centred(denoiser: Denoiser) -> bool:
    """Whether the states of a denoiser are free coordinates of particles."""
    return isinstance(denoiser, NetworkDenoiser) and isinstance(denoiser.module, CentredModule)


def event_shape(denoiser: Denoiser) -> tuple[int, ...]:
    """Of the data that a denoiser learned from: its own shape, with a particle more where it is centred."""
    shape = tuple(denoiser.shape)
    return (shape[0] + 1, *shape[1:]) if is_centred(denoiser) else shape


def events(denoiser: Denoiser, x: Tensor) -> Tensor:
    """States of a denoiser as events (n, *event_shape)."""
    return positions(x) if is_centred(denoiser) else x
