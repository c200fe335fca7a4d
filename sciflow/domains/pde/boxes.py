"""Periodic boxes: fields as values on a grid and as Fourier modes, in one and two dimensions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sciflow.errors import InputError


@dataclass(frozen=True)
class Ring:
    """An interval with its ends joined.

        u(x) = Σ_k û_k e^{2πikx/length},   modes û_k for k = 0 … size/2 (the rest are their conjugates)

    Products of kept modes do not alias onto kept ones: |k| < size/3.

    Args:
        length: of the interval.
        size: points; even, at least 8.
    Raises:
        InputError: an odd or too small size, or a length that is not positive.
    Source: Orszag (1971), On the elimination of aliasing in finite-difference schemes by filtering.
    """

    length: float = 2 * math.pi
    size: int = 64

    def __post_init__(self) -> None:
        if self.size % 2 or self.size < 8 or not self.length > 0:
            raise InputError(
                f"a periodic box needs an even size of at least 8 and a positive length, got size = {self.size} and "
                f"length = {self.length}."
            )

    @cached_property
    def places(self) -> Tensor:
        """x of the grid points, (size,)."""
        return self.length / self.size * torch.arange(self.size, dtype=torch.float64)

    @cached_property
    def wavenumbers(self) -> Tensor:
        """k = 0, 2π/length, …, (size/2 + 1,)."""
        return 2 * math.pi / self.length * torch.arange(self.size // 2 + 1, dtype=torch.float64)

    @cached_property
    def odd_wavenumbers(self) -> Tensor:
        """k for odd derivatives: that of the highest mode is zero on a real grid."""
        return torch.cat([self.wavenumbers[:-1], torch.zeros(1, dtype=torch.float64)])

    @cached_property
    def kept(self) -> Tensor:
        """1 for the modes whose products do not alias, bool, (size/2 + 1,)."""
        return torch.arange(self.size // 2 + 1) < self.size / 3

    def modes(self, values: Tensor) -> Tensor:
        """(…, size) → (…, size/2 + 1), complex128."""
        return torch.fft.rfft(values.double())

    def values(self, modes: Tensor) -> Tensor:
        """(…, size/2 + 1) → (…, size)."""
        return torch.fft.irfft(modes, n=self.size)


@dataclass(frozen=True)
class Torus:
    """A square with opposite sides joined; the last two axes of a field are (y, x).

    Args:
        length: of a side.
        size: points along a side; even, at least 8.
    Raises:
        InputError: as `Ring`.
    """

    length: float = 2 * math.pi
    size: int = 64

    def __post_init__(self) -> None:
        self.side  # noqa: B018  the ring refuses what does not fit

    @cached_property
    def side(self) -> Ring:
        """One side."""
        return Ring(self.length, self.size)

    @cached_property
    def wavenumbers(self) -> tuple[Tensor, Tensor]:
        """(k_y, k_x), (size, 1) and (size/2 + 1,)."""
        along = 2 * math.pi / self.length * torch.fft.fftfreq(self.size, 1 / self.size, dtype=torch.float64)
        return along[:, None], self.side.wavenumbers

    @cached_property
    def kept(self) -> Tensor:
        """The modes whose products do not alias, bool, (size, size/2 + 1)."""
        along = torch.fft.fftfreq(self.size, 1 / self.size).abs() < self.size / 3
        return along[:, None] & self.side.kept

    def modes(self, values: Tensor) -> Tensor:
        """(…, size, size) → (…, size, size/2 + 1), complex128."""
        return torch.fft.rfft2(values.double())

    def values(self, modes: Tensor) -> Tensor:
        """(…, size, size/2 + 1) → (…, size, size)."""
        return torch.fft.irfft2(modes, s=(self.size, self.size))
