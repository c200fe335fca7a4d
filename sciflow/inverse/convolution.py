"""Blur by a kernel on a periodic grid, where the Fourier transform solves everything."""

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
from sciflow.types import placed

PER_PIXEL = 8  # points of the path in a pixel


@dataclass(frozen=True)
class MotionBlur(LinearOperator):
    """Blur by a straight motion at constant speed while the shutter is open; the image repeats beyond its borders.

        (A x)(r) = 1/length ∫ x(r − s e) ds over |s| ≤ length/2,   e = (cos angle, sin angle)

    The kernel is the path's mean over points of it, each shared among its four nearest pixels.

    Exactness: adjoint, A⁺ and all solves by the Fourier transform.
    Cost: two fast Fourier transforms.
    Bias: none for periodic images; for others, what lies across the border is the other side.
    Args:
        length: of the motion [pixels].
        angle: from the x axis (columns) to the y axis (rows) [degrees].
    Raises:
        InputError: events that are no images, or a motion longer than they are.
    Source: definition; Hansen, Nagy and O'Leary (2006), Deblurring images, chapter 4, for the periodic border.
    """

    length: Annotated[float, Field(ge=1)] = 5.0
    angle: float = 30.0

    def check(self, shape: tuple[int, ...], parameters: Mapping[str, Tensor]) -> None:
        if len(shape) != 3:
            raise InputError(f"motion_blur acts on images (channel, y, x), got events of shape {shape}.")
        if not 1 <= self.length <= min(shape[1:]) or not math.isfinite(self.angle):
            raise InputError(
                f"motion_blur needs 1 ≤ length ≤ {min(shape[1:])}, the side of the image, and a finite angle, got "
                f"length = {self.length} pixels, angle = {self.angle} degrees."
            )

    @cached_property
    def kernel(self) -> Tensor:
        """The weights, float64, (y, x), the origin at index 0, summing to one."""
        n = math.ceil(PER_PIXEL * self.length)
        s = ((torch.arange(n, dtype=torch.float64) + 0.5) / n - 0.5) * self.length
        angle = math.radians(self.angle)
        kernel = torch.zeros(self.shape[1:], dtype=torch.float64)
        x, y = s * math.cos(angle), s * math.sin(angle)
        for dy in (0, 1):
            for dx in (0, 1):
                weight = (1 - dx + (2 * dx - 1) * (x - x.floor())) * (1 - dy + (2 * dy - 1) * (y - y.floor()))
                row, column = (y.floor().long() + dy) % self.shape[1], (x.floor().long() + dx) % self.shape[2]
                kernel.index_put_((row, column), weight / n, accumulate=True)
        return kernel

    @cached_property
    def transfer(self) -> Tensor:
        """Fourier transform of the kernel, complex128, (y, x)."""
        return torch.fft.fft2(self.kernel)

    @property
    def range_shape(self) -> tuple[int, ...]:
        return self.shape

    def _filtered(self, x: Tensor, response: Tensor) -> Tensor:
        image = x.reshape(-1, *self.shape)
        return torch.fft.ifft2(torch.fft.fft2(image) * response).real

    def _transfer(self, like: Tensor) -> Tensor:
        return placed(self.transfer, like.device, like.dtype.to_complex())

    def forward(self, x: Tensor) -> Tensor:
        return self._filtered(x, self._transfer(x)).flatten(1)

    def backward(self, y: Tensor) -> Tensor:
        return self._filtered(y, self._transfer(y).conj())

    @cached_property
    def gram_spectrum(self) -> Tensor:
        return self.transfer.abs().square().expand(self.shape).flatten()

    def gram_solve(self, v: Tensor, ridge: float | Tensor, scale: float | Tensor = 1.0) -> Tensor:
        scale, ridge = (value[:, None, None] if isinstance(value, Tensor) and value.ndim else value
                        for value in (scale, ridge))  # fmt: skip
        return self._filtered(v, 1 / (scale * self._transfer(v).abs().square() + ridge)).flatten(1)

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """A⁺ y; responses below machine epsilon of the data's dtype count as zero."""
        size = self.transfer.abs()
        kept = size > torch.finfo(y.dtype).eps * 64 * size.max()
        inverse = torch.where(kept, self.transfer.conj() / torch.where(kept, size.square(), 1), 0)
        return self._filtered(y, inverse.to(y.device, y.dtype.to_complex()))
