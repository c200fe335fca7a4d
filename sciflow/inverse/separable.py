"""Operators that act axis by axis: small dense matrices, so transposes and solves are exact."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from sciflow.errors import InputError
from sciflow.inverse.operator import LinearOperator
from sciflow.inverse.singular import SingularSystem
from sciflow.types import placed


@dataclass(frozen=True)
class AxisMatrices:
    """One matrix per grid axis, with its singular value decomposition, applied to the last axes of a tensor.

        A = I ⊗ M_1 ⊗ … ⊗ M_k,   M_j = U_j S_j V_jᵀ

    Args:
        matrices: M_j, (m_j, n_j), float64.
    """

    matrices: tuple[Tensor, ...]

    @cached_property
    def factors(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(U_j, S_j, V_jᵀ) of each axis."""
        return [torch.linalg.svd(matrix, full_matrices=False) for matrix in self.matrices]

    @cached_property
    def singular(self) -> Tensor:
        """Products of the singular values, one axis of this tensor per grid axis."""
        product = torch.ones((), dtype=torch.float64)
        for _, values, _ in self.factors:
            product = product[..., None] * values
        return product

    def apply(self, x: Tensor) -> Tensor:
        return _along_axes(x, self.matrices)

    def transpose(self, y: Tensor) -> Tensor:
        return _along_axes(y, [matrix.T for matrix in self.matrices])

    def rotate(self, y: Tensor) -> Tensor:
        """Uᵀ y."""
        return _along_axes(y, [u.T for u, _, _ in self.factors])

    def rotate_back(self, y: Tensor) -> Tensor:
        """U y."""
        return _along_axes(y, [u for u, _, _ in self.factors])

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """A⁺ y; singular values below machine epsilon of the data's dtype count as zero."""
        singular = placed(self.singular, y.device)
        kept = singular > torch.finfo(y.dtype).eps * 64 * singular.max()
        inverse = torch.where(kept, 1 / torch.where(kept, singular, 1), 0).to(y.dtype)
        return _along_axes(inverse * self.rotate(y), [vt.T for _, _, vt in self.factors])


def _along_axes(x: Tensor, matrices: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    """Multiply the last len(matrices) axes of x, each by its matrix."""
    for axis, matrix in zip(range(-len(matrices), 0), matrices, strict=True):
        x = torch.tensordot(x, placed(matrix, x.device, x.dtype), dims=([axis], [1])).movedim(-1, axis)
    return x


def _split(shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channel axes and grid axes of an event: a vector is all grid."""
    return ((), shape) if len(shape) == 1 else (shape[:1], shape[1:])


class _Separable:
    """What the separable operators share, once they say the matrix of one axis."""

    shape: tuple[int, ...]

    def axis_matrix(self, n: int) -> Tensor:
        """The matrix along an axis of n pixels, float64."""
        raise TypeError(f"{type(self).__name__} must define axis_matrix.")

    @cached_property
    def _map(self) -> AxisMatrices:
        return AxisMatrices(tuple(self.axis_matrix(n) for n in _split(self.shape)[1]))

    @cached_property
    def range_shape(self) -> tuple[int, ...]:
        channels, _ = _split(self.shape)
        return (*channels, *(len(matrix) for matrix in self._map.matrices))

    @cached_property
    def gram_spectrum(self) -> Tensor:
        channels, _ = _split(self.shape)
        return (self._map.singular**2).expand(*channels, *self._map.singular.shape).flatten()

    @cached_property
    def singular_system(self) -> SingularSystem:
        def rotate(y: Tensor) -> Tensor:
            return self._map.rotate(y.reshape(-1, *self.range_shape)).flatten(1)

        def rotate_back(c: Tensor) -> Tensor:
            return self._map.rotate_back(c.reshape(-1, *self.range_shape)).flatten(1)

        return SingularSystem(self.gram_spectrum.sqrt(), rotate, rotate_back)

    def forward(self, x: Tensor) -> Tensor:
        return self._map.apply(x).flatten(1)

    def backward(self, y: Tensor) -> Tensor:
        return self._map.transpose(y.reshape(-1, *self.range_shape))

    def gram_solve(self, v: Tensor, ridge: float | Tensor, scale: float | Tensor = 1.0) -> Tensor:
        rotated = self._map.rotate(v.reshape(-1, *self.range_shape)).flatten(1)
        spectrum = placed(self.gram_spectrum, v.device, v.dtype)
        solved = (rotated / (scale * spectrum + ridge)).reshape(-1, *self.range_shape)
        return self._map.rotate_back(solved).flatten(1)

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        return self._map.pseudo_inverse(y.reshape(-1, *self.range_shape))


@dataclass(frozen=True)
class GaussianBlur(_Separable, LinearOperator):
    """Gaussian blur along every grid axis, the image mirrored at its borders.

        (A x)_i = Σ_j k_j x_{i+j},   k_j ∝ exp(−j²/2 width²) for |j| ≤ 4 width,   x_{−1−i} = x_i

    Exactness: A = Aᵀ to rounding; rows sum to one; A⁺ and all solves by singular values.
    Cost: one small matrix product per axis.
    Bias: the kernel is cut at 4 widths (6e-5 of its mass) and renormalised.
    Args:
        width: standard deviation of the kernel, > 0 [pixels].
    Source: definition; Strang (1999), The discrete cosine transform, for the half-sample symmetric border.
    """

    width: Annotated[float, Field(gt=0)] = 1.0

    def check(self, shape: tuple[int, ...], parameters: Mapping[str, Tensor]) -> None:
        if not (self.width > 0 and math.isfinite(self.width)):
            raise InputError(f"gaussian_blur needs a width > 0 in pixels, got {self.width}.")

    def axis_matrix(self, n: int) -> Tensor:
        reach = max(1, math.ceil(4 * self.width))
        offset = torch.arange(-reach, reach + 1)
        kernel = torch.exp(-0.5 * (offset.double() / self.width) ** 2)
        source = _mirrored(torch.arange(n)[:, None] + offset, n)
        matrix = torch.zeros(n, n, dtype=torch.float64)
        return matrix.scatter_add_(1, source, (kernel / kernel.sum()).expand(n, -1))


@dataclass(frozen=True)
class Downsampling(_Separable, LinearOperator):
    """Means over blocks of pixels.

        (A x)_I = mean of x over block I,   A Aᵀ = factor^{−axes} I

    Exactness: adjoint, A⁺ (block-wise constant) and all solves by singular values.
    Cost: one small matrix product per axis.
    Bias: none.
    Args:
        factor: pixels per block along each axis, ≥ 1; must divide the grid.
    Raises:
        InputError: a grid axis that the factor does not divide.
    Source: definition.
    """

    factor: Annotated[int, Field(ge=1)] = 2

    def check(self, shape: tuple[int, ...], parameters: Mapping[str, Tensor]) -> None:
        _check_factor("downsampling", self.factor, shape)

    def axis_matrix(self, n: int) -> Tensor:
        blocks = torch.arange(n // self.factor)[:, None] == torch.arange(n) // self.factor
        return blocks.double() / self.factor


@dataclass(frozen=True)
class Bicubic(_Separable, LinearOperator):
    """Bicubic down-sampling, the kernel widened by the factor as image libraries do; the image mirrored at its borders.

        (A x)_i = Σ_j k((j − c_i)/factor) x_j / Σ_j k((j − c_i)/factor),   c_i = (i + ½) factor − ½
        k(u) = 1.5|u|³ − 2.5u² + 1 for |u| ≤ 1,   −0.5|u|³ + 2.5u² − 4|u| + 2 for |u| ≤ 2

    Exactness: adjoint, A⁺ and all solves by singular values; rows sum to one.
    Cost: one small matrix product per axis.
    Bias: none.
    Args:
        factor: pixels per coarse pixel along each axis, ≥ 1; must divide the grid.
    Raises:
        InputError: a grid axis that the factor does not divide.
    Source: Keys (1981), Cubic convolution interpolation for digital image processing, with a = −1/2.
    """

    factor: Annotated[int, Field(ge=1)] = 2

    def check(self, shape: tuple[int, ...], parameters: Mapping[str, Tensor]) -> None:
        _check_factor("bicubic", self.factor, shape)

    def axis_matrix(self, n: int) -> Tensor:
        centre = (torch.arange(n // self.factor, dtype=torch.float64)[:, None] + 0.5) * self.factor - 0.5
        reach = torch.arange(-2 * self.factor, 2 * self.factor + 1)
        place = centre.round() + reach
        u = ((place - centre) / self.factor).abs()
        near, far = (1.5 * u - 2.5) * u**2 + 1, ((-0.5 * u + 2.5) * u - 4) * u + 2
        kernel = torch.where(u <= 1, near, torch.where(u <= 2, far, 0))
        matrix = torch.zeros(n // self.factor, n, dtype=torch.float64)
        return matrix.scatter_add_(1, _mirrored(place.long(), n), kernel / kernel.sum(1, keepdim=True))


def _mirrored(place: Tensor, n: int) -> Tensor:
    """Pixel of an axis at a place beyond its borders; mirror images repeat with period 2n."""
    place = place % (2 * n)
    return torch.minimum(place, 2 * n - 1 - place)


def _check_factor(kind: str, factor: int, shape: tuple[int, ...]) -> None:
    """Raise InputError if a factor does not divide the grid."""
    grid = _split(shape)[1]
    if factor < 1 or any(n % factor for n in grid):
        raise InputError(f"{kind} by {factor} does not divide the grid {grid}. Crop or pad the data.")
