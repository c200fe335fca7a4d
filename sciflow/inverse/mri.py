"""Magnetic resonance imaging: Fourier coefficients of an image on some lines, as seen by one or several coils."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from sciflow.errors import InputError
from sciflow.inverse.operator import LinearOperator
from sciflow.random import Stream
from sciflow.types import placed

RING = 1.5  # distance of the synthetic coils from the centre, in half sides of the image


@dataclass(frozen=True)
class CartesianMRI(LinearOperator):
    """Cartesian magnetic resonance imaging with one coil or several.

        y_c = P F S_c x,   Σ_c |S_c|² = 1

    F is the centred unitary Fourier transform over (y, x), S_c the sensitivity of coil c and P keeps some columns of
    k-space, drawn for each observation, those in the middle always. A complex image has two channels, its real and its
    imaginary part; an image of one channel is real. Measurements are ordered (coil, real or imaginary part, y, kept x).

    The coils are synthetic, equally spaced on a ring around the image; your own take their place as the parameter
    `maps`, (coil, 2, y, x), beside an observation. Its parameter `lines` may have more columns than the image: then
    k-space is that of a wider field, of which the image is the middle and the rest is empty.

    Exactness: adjoint exact; ‖A‖ ≤ 1; with one coil and complex images as wide as the field A Aᵀ = I, else solves by
        conjugate gradients.
    Cost: one fast Fourier transform per coil.
    Bias: none; that of the pixel grid for objects with edges.
    Args:
        acceleration: columns of k-space per measured one, ≥ 1.
        center_fraction: share of the columns in the middle that are always measured.
        pattern: where the others are: "random", or "equispaced" from a random start.
        n_coils: coils; one sees all places alike.
    Raises:
        InputError: events of other than one or two channels, or more middle columns than measured ones.
    Source: Pruessmann et al. (1999), SENSE; Zbontar et al. (2018), fastMRI, for the patterns.
    """

    acceleration: Annotated[float, Field(ge=1)] = 4.0
    center_fraction: Annotated[float, Field(ge=0, le=1)] = 0.08
    pattern: Literal["random", "equispaced"] = "random"
    n_coils: Annotated[int, Field(gt=0)] = 1

    def check(self, shape: tuple[int, ...], parameters: Mapping[str, Tensor]) -> None:
        if len(shape) != 3 or shape[0] not in (1, 2):
            raise InputError(
                f"cartesian_mri measures images of one channel (real) or two (real and imaginary part), got events of "
                f"shape {shape}. Give complex images as two channels."
            )
        n, middle = self._counts(shape[2])
        if middle > n:
            raise InputError(
                f"cartesian_mri: {middle} columns in the middle are more than the {n} that acceleration "
                f"{self.acceleration:g} leaves of {shape[2]}. Lower center_fraction or acceleration."
            )
        lines = parameters.get("lines")
        fits = lines is None or (lines.ndim == 1 and len(lines) >= shape[2] and bool((lines != 0).any()))
        if lines is not None and not fits:
            raise InputError(
                f"cartesian_mri needs `lines` of shape {shape[2:]} (1: measured), or more for a wider field, not all "
                f"zero, got {tuple(lines.shape)}."
            )
        maps, wanted = parameters.get("maps"), (self.n_coils, 2, *shape[1:])
        if maps is not None and tuple(maps.shape) != wanted:
            raise InputError(
                f"cartesian_mri with {self.n_coils} coils needs `maps` of shape {wanted} (coil, real and imaginary "
                f"part, y, x), got {tuple(maps.shape)} of {maps.dtype}."
            )

    def bind(self, parameters: Mapping[str, Tensor], shape: tuple[int, ...]) -> CartesianMRI:
        if "lines" not in parameters:
            raise InputError("cartesian_mri needs the parameter 'lines' (1: measured). Call draw(shape, stream).")
        return super().bind(parameters, shape)

    def _counts(self, columns: int) -> tuple[int, int]:
        """Measured columns, and those of them in the middle."""
        return max(1, round(columns / self.acceleration)), round(self.center_fraction * columns)

    def sample_parameters(self, shape: tuple[int, ...], stream: Stream) -> dict[str, Tensor]:
        """`lines`, uint8, (x,): 1 where a column of k-space is measured."""
        columns = shape[2]
        n, middle = self._counts(columns)
        lines = torch.zeros(columns, dtype=torch.uint8)
        first = (columns - middle + 1) // 2
        lines[first : first + middle] = 1
        others = (lines == 0).nonzero()[:, 0]
        if self.pattern == "random":
            chosen = torch.randperm(len(others), generator=stream.generator())[: n - middle]
        else:
            start = float(stream.uniform(1, dtype=torch.float64))
            chosen = ((torch.arange(n - middle) + start) * len(others) / max(n - middle, 1)).long()
        lines[others[chosen]] = 1
        return {"lines": lines}

    @cached_property
    def _columns(self) -> Tensor:
        return self.parameters()["lines"].nonzero()[:, 0]

    @property
    def _field(self) -> tuple[int, int]:
        """Columns of k-space, and those of the field before the first of the image: the middles n // 2 agree."""
        n = len(self.parameters()["lines"])
        return n, n // 2 - self.shape[2] // 2

    @cached_property
    def maps(self) -> Tensor:
        """S_c, complex128, (coil, y, x)."""
        given = self.parameters().get("maps")
        if given is not None:
            return torch.view_as_complex(given.double().movedim(1, -1).contiguous())
        return birdcage(self.n_coils, self.shape[1:])

    @property
    def range_shape(self) -> tuple[int, ...]:
        """(coil, real and imaginary part, y, kept x)."""
        return (self.n_coils, 2, self.shape[1], len(self._columns))

    def forward(self, x: Tensor) -> Tensor:
        image = torch.complex(x[:, 0], x[:, 1]) if self.shape[0] == 2 else x[:, 0]
        (n, before), columns = self._field, self.shape[2]
        seen = placed(self.maps, x.device, image.dtype.to_complex()) * image[:, None]
        space = spectrum(torch.nn.functional.pad(seen, (before, n - columns - before)) if n > columns else seen)
        return torch.view_as_real(space[..., placed(self._columns, x.device)]).movedim(-1, 2).flatten(1)

    def backward(self, y: Tensor) -> Tensor:
        parts = y.reshape(-1, *self.range_shape).movedim(2, -1).contiguous()
        kept = torch.view_as_complex(parts)
        n, before = self._field
        space = kept.new_zeros((*kept.shape[:-1], n)).index_copy(-1, placed(self._columns, y.device), kept)
        seen = image_of(space)[..., before : before + self.shape[2]]
        image = (self.maps.to(space).conj() * seen).sum(1)
        return torch.stack([image.real, image.imag][: self.shape[0]], 1)

    @property
    def _is_unitary(self) -> bool:
        is_whole = self._field[0] == self.shape[2]
        return self.n_coils == 1 and self.shape[0] == 2 and "maps" not in self.parameters() and is_whole

    @cached_property
    def gram_spectrum(self) -> Tensor:
        if self._is_unitary:
            return torch.ones(math.prod(self.range_shape), dtype=torch.float64)
        matrix = self.gram(torch.eye(math.prod(self.range_shape), dtype=torch.float64))
        return torch.linalg.eigvalsh(0.5 * (matrix + matrix.T)).clamp_min(0)

    def gram_solve(self, v: Tensor, ridge: float | Tensor, scale: float | Tensor = 1.0) -> Tensor:
        return v / (scale + ridge) if self._is_unitary else super().gram_solve(v, ridge, scale)


def spectrum(image: Tensor) -> Tensor:
    """Centred unitary Fourier transform over the last two axes: place and frequency zero at index n // 2."""
    axes = (-2, -1)
    return torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(image, dim=axes), norm="ortho"), dim=axes)


def image_of(space: Tensor) -> Tensor:
    """The inverse, and adjoint, of `spectrum`."""
    axes = (-2, -1)
    return torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(space, dim=axes), norm="ortho"), dim=axes)


def birdcage(n_coils: int, grid: tuple[int, ...]) -> Tensor:
    """Sensitivities of equal coils on a ring, complex128, (coil, y, x), their squares summing to one at each place.

        S_c ∝ e^{i phase}/r,   r and phase: distance and direction from coil c, the phase counted from the coil's own

    One coil sees every place alike.
    """
    if n_coils == 1:
        return torch.ones(1, *grid, dtype=torch.complex128)
    y, x = torch.meshgrid(*((2 * torch.arange(n, dtype=torch.float64) - n) / n for n in grid), indexing="ij")
    angle = 2 * math.pi * torch.arange(n_coils, dtype=torch.float64)[:, None, None] / n_coils
    dx, dy = x - RING * torch.cos(angle), y - RING * torch.sin(angle)
    maps = torch.polar(1 / torch.hypot(dx, dy), torch.atan2(dy, dx) - angle)
    return maps / maps.abs().square().sum(0).sqrt()
