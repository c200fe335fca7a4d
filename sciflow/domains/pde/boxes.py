"""Periodic boxes: fields as values on a grid and as Fourier modes, in one and two dimensions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

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
    axes: ClassVar[tuple[str, ...]] = ("x",)

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

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a field."""
        return (self.size,)

    def waves(self, most: int) -> tuple[Tensor, Tensor]:
        """Numbers m = 1 … most of waves around the box (waves,), and their phases 2π m x/length (waves, *shape)."""
        numbers = torch.arange(1, most + 1, dtype=torch.float64)
        return numbers, 2 * math.pi / self.length * numbers[:, None] * self.places

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

    def finer(self, values: Tensor) -> Tensor:
        """The same field on twice the points, without its highest mode."""
        modes = torch.zeros(*values.shape[:-1], self.size + 1, dtype=torch.complex128)
        modes[..., : self.size // 2] = 2 * self.modes(values)[..., :-1]  # twice the points: twice the modes
        return torch.fft.irfft(modes, n=2 * self.size)

    def coarser(self, values: Tensor) -> Tensor:
        """A field at every second of its points."""
        return values[..., ::2]


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
    axes: ClassVar[tuple[str, ...]] = ("y", "x")

    def __post_init__(self) -> None:
        self.side  # noqa: B018  the ring refuses what does not fit

    @cached_property
    def side(self) -> Ring:
        """One side."""
        return Ring(self.length, self.size)

    @property
    def places(self) -> Tensor:
        """x, and y, of the grid points, (size,)."""
        return self.side.places

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a field."""
        return (self.size, self.size)

    def waves(self, most: int) -> tuple[Tensor, Tensor]:
        """|m| of the pairs m = (m_y, m_x) up to `most`, one of each pair ±m, and phases 2π m·(y, x)/length.

        Shapes (waves,) and (waves, *shape).
        """
        numbers = torch.arange(-most, most + 1, dtype=torch.float64)
        pairs = torch.cartesian_prod(numbers, numbers)
        is_first = (pairs[:, 1] > 0) | ((pairs[:, 1] == 0) & (pairs[:, 0] > 0))
        pairs = pairs[is_first & (pairs.norm(dim=1) <= most)]
        along, across = (2 * math.pi / self.length * part[:, None] * self.places for part in pairs.unbind(1))
        return pairs.norm(dim=1), along[:, :, None] + across[:, None, :]

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
        return _down(torch.fft.fft, torch.fft.rfft(values.double()))

    def values(self, modes: Tensor) -> Tensor:
        """(…, size, size/2 + 1) → (…, size, size)."""
        return torch.fft.irfft(_down(torch.fft.ifft, modes), n=self.size)

    def finer(self, values: Tensor) -> Tensor:
        """The same field on twice the points along each side, without its highest modes."""
        n, half = 2 * self.size, self.size // 2
        modes, known = torch.zeros(*values.shape[:-2], n, self.size + 1, dtype=torch.complex128), self.modes(values)
        modes[..., :half, :half] = 4 * known[..., :half, :half]  # four times the points: four times the modes
        modes[..., 1 - half :, :half] = 4 * known[..., 1 - half :, :half]
        return torch.fft.irfft(_down(torch.fft.ifft, modes), n=n)

    def coarser(self, values: Tensor) -> Tensor:
        """A field at every second of its points along each side."""
        return values[..., ::2, ::2]


def _down(transform: Callable[[Tensor], Tensor], modes: Tensor) -> Tensor:
    """A transform along the axis before the last, laid out as the last.

    Across memory, and in two dimensions at once, the library rounds a field by how many others are transformed with it.
    """
    return transform(modes.transpose(-1, -2).contiguous()).transpose(-1, -2).contiguous()


Box = Ring | Torus


def periodic(box: Box) -> str:
    """What a data set says of the ends of its axes: axis → "periodic", as JSON."""
    return json.dumps(dict.fromkeys(box.axes, "periodic"))
