"""The singular value decomposition of an operator, for samplers that look at one measured direction at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sciflow.types import placed

if TYPE_CHECKING:
    from sciflow.inverse.likelihood import GaussianLikelihood

Rotation = Callable[[Tensor], Tensor]

LEAST = 1e-6
"""Singular values taken from A Aᵀ are known to √ε of float64, 1.5e-8 of the largest, times the root of their number."""


@dataclass(frozen=True)
class SingularSystem:
    """What is needed of A = U S Vᵀ besides A itself; V follows from V = Aᵀ U S⁻¹.

    Args:
        values: singular values, float64, (m,), in any order; 0 where a measurement depends on others.
        rotate: rows y → Uᵀ y, (n, m) → (n, m), in that order.
        rotate_back: rows c → U c.
    """

    values: Tensor
    rotate: Rotation
    rotate_back: Rotation

    @classmethod
    def of_gram(cls, spectrum: Tensor, basis: Tensor) -> SingularSystem:
        """From A Aᵀ = U diag(spectrum) Uᵀ."""

        def rotate(y: Tensor) -> Tensor:
            return y @ placed(basis, y.device, y.dtype)

        return cls(spectrum.sqrt(), rotate, lambda c: c @ placed(basis, c.device, c.dtype).T)


@dataclass(frozen=True)
class MeasuredDirections:
    """An observation y = A x + σ_y n, direction by direction: ȳ_i = x̄_i + (σ_y/s_i) n_i with x̄ = Vᵀ x, ȳ = S⁻¹ Uᵀ y.

    Directions with s_i below √ε of the largest (ε of the observation's dtype), or below 1e-6 of it, count as not
    measured: rounding is all that is known of them.

    Args:
        likelihood: linear, Gaussian, bound.
    """

    likelihood: GaussianLikelihood

    @cached_property
    def _system(self) -> SingularSystem:
        return self.likelihood.operator.singular_system

    @cached_property
    def _inverse(self) -> Tensor:
        """1/s_i, and 0 where a direction is not measured; float64, (m,)."""
        y = self.likelihood.observation
        values = placed(self._system.values, y.device)
        kept = values > max(torch.finfo(y.dtype).eps ** 0.5, LEAST) * values.max()
        return torch.where(kept, 1 / torch.where(kept, values, 1), 0)

    @cached_property
    def noise(self) -> Tensor:
        """σ_y/s_i, ∞ where a direction is not measured; float64, (m,)."""
        return torch.where(self._inverse > 0, self.likelihood.sigma * self._inverse, torch.inf)

    @cached_property
    def target(self) -> Tensor:
        """ȳ, (1, m)."""
        y = self.likelihood.observation
        return self._inverse.to(y.dtype) * self._system.rotate(y[None])

    def coordinates(self, x: Tensor) -> Tensor:
        """Vᵀ x, (n, *shape) → (n, m); 0 where a direction is not measured."""
        rotated = self._system.rotate(self.likelihood.operator(x))
        return placed(self._inverse, x.device, x.dtype) * rotated

    def event(self, coordinates: Tensor) -> Tensor:
        """V c, (n, m) → (n, *shape)."""
        scaled = placed(self._inverse, coordinates.device, coordinates.dtype) * coordinates
        return self.likelihood.operator.adjoint(self._system.rotate_back(scaled))
