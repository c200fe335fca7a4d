"""A mixture for events of many numbers: full covariances along the leading directions, one width along all others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sciflow.diffusion.mixture import GaussianMixture, MixtureDenoiser
from sciflow.diffusion.schedule import Schedule
from sciflow.random import Stream
from sciflow.types import Time, broadcast


@dataclass(frozen=True)
class SubspaceMixture:
    """The law of x = U z + c + width (I − U Uᵀ) ε, with z from a mixture and ε ~ N(0, I).

        C_k = U (C^z_k − width² I) Uᵀ + width² I

    Args:
        basis: U, orthonormal columns, (d, r).
        mixture: the law of z, on R^r.
        centre: c with Uᵀ c = 0, (d,).
        width: standard deviation along each direction outside the basis, ≥ 0.

    Raises:
        ValueError: shapes that do not belong together.
    """

    basis: Tensor
    mixture: GaussianMixture
    centre: Tensor
    width: float

    def __post_init__(self) -> None:
        d, r = self.basis.shape
        if self.centre.shape != (d,) or self.mixture.means.shape[1] != r or not self.width >= 0:
            got = tuple(self.basis.shape), tuple(self.centre.shape), tuple(self.mixture.means.shape), self.width
            raise ValueError(f"a subspace mixture needs (d, r), (d,), means (k, r) and width ≥ 0, got {got}.")

    @classmethod
    def whole(cls, mixture: GaussianMixture) -> SubspaceMixture:
        """A mixture with all its directions."""
        d = mixture.means.shape[1]
        return cls(torch.eye(d, dtype=mixture.means.dtype), mixture, mixture.means.new_zeros(d), 0.0)

    def to(self, dtype: torch.dtype, device: torch.device | None = None) -> SubspaceMixture:
        basis, centre = (part.to(device, dtype) for part in (self.basis, self.centre))
        return SubspaceMixture(basis, self.mixture.to(dtype, device), centre, self.width)

    def means(self) -> Tensor:
        """Of the components, (k, d)."""
        return self.mixture.means @ self.basis.T + self.centre

    def spread(self, k: int, v: Tensor) -> Tensor:
        """C_k v for each row, (n, d) → (n, d)."""
        within = v @ self.basis
        return (within @ self.mixture.covariances[k] - self.width**2 * within) @ self.basis.T + self.width**2 * v

    def log_prob(self, x: Tensor) -> Tensor:
        """log density of rows (n, d), float64; width > 0 unless the basis is complete."""
        law = self.to(torch.float64, x.device)
        centred = x.double() - law.centre
        within = centred @ law.basis
        others = self.basis.shape[0] - self.basis.shape[1]
        if not others:
            return law.mixture.log_prob(within)
        outside = centred.square().sum(1) - within.square().sum(1)
        white = -0.5 * (outside / self.width**2 + others * math.log(2 * math.pi * self.width**2))
        return law.mixture.log_prob(within) + white

    def sample(self, n: int, stream: Stream, dtype: torch.dtype = torch.float64) -> Tensor:
        """n independent draws, (n, d)."""
        z = self.mixture.sample(n, stream, torch.float64)
        white = self.width * stream.child("outside").normal(n, self.centre.shape, dtype=torch.float64)
        basis = self.basis.double()
        return ((z - white @ basis) @ basis.T + white + self.centre.double()).to(dtype)


@dataclass(frozen=True)
class SubspaceDenoiser:
    """The exact denoiser of a subspace mixture.

        D(x) = U D_z(Uᵀ x) + c + g (I − U Uᵀ)(x − α c),   g = α width²/(α² width² + σ²)

    Exactness: exact at every noise level, both ends included when the covariances are positive definite.
    Cost: O(d r + k r²) per row.
    Bias: none for its law.
    Args:
        law: of the data, flattened to d numbers.
        schedule: noise levels.
        shape: event shape; its product is d.
    Source: conjugacy, as `MixtureDenoiser`; Tipping and Bishop (1999), Mixtures of probabilistic principal component
        analysers, for the law with one basis per component.
    """

    law: SubspaceMixture
    schedule: Schedule
    shape: tuple[int, ...]

    def initial(self, t: float, n: int, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
        """Exact draws of α x₁ + σ x₀."""
        alpha, sigma = float(self.schedule.alpha(t)), float(self.schedule.sigma(t))
        x1 = self.law.sample(n, stream.child("data"), dtype).reshape(n, *self.shape)
        return alpha * x1 + sigma * stream.child("base").normal(n, self.shape, dtype=dtype)

    @cached_property
    def _casts(self) -> dict[tuple[torch.dtype, torch.device], SubspaceMixture]:
        return {}

    def _law(self, like: Tensor) -> SubspaceMixture:
        """The law like a tensor; each cast is made once."""
        key = (like.dtype, like.device)
        if key not in self._casts:
            self._casts[key] = self.law.to(*key)
        return self._casts[key]

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        law, flat = self._law(x), x.flatten(1)
        alpha, sigma = (broadcast(level(t), flat) for level in (self.schedule.alpha, self.schedule.sigma))
        within = flat @ law.basis
        data = MixtureDenoiser(law.mixture, self.schedule)(within, t)
        gain = alpha * law.width**2 / (alpha**2 * law.width**2 + sigma**2)
        outside = flat - alpha * law.centre
        return ((data - gain * within) @ law.basis.T + law.centre + gain * outside).reshape(x.shape)
