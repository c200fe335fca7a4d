"""Fourier neural operators: weights that belong to frequencies, not to the points of a grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import gelu

from sciflow.errors import InputError
from sciflow.networks.embedding import Modulation, NoiseEmbedding, zeroed

EVENTS = {1: "(channel, x)", 2: "(channel, y, x)"}  # by the number of axes of the grid


@dataclass(frozen=True)
class FNO:
    """Fourier neural operator on a periodic grid, conditioned on the noise level by FiLM.

        h <- gelu((1 + s(e)) (W h + K h) + b(e)),   K h = Σ_{|k| < modes} R_k ĥ_k e^{ikx},   e the level's embedding

    Weights R_k are found by frequency, so that a trained network runs on any grid; frequencies that a grid does not
    carry (its Nyquist frequency among them, which has no phase) are left out. The transforms are products with the few
    waves that are kept, and the scales and shifts of FiLM act on these: no array of complex numbers has the size of
    the field.

    Exactness: learned. The linear layers commute with a change of resolution to rounding; the activation between them
        makes new frequencies, which alias on a grid that does not carry them
    Cost: about 2 depth width (width + 4 modes) multiply-adds per point and row; above some 64 modes a fast
        transform would cost less
    Bias: periodic and translation-equivariant; frequencies at and above `modes` pass through W only; starts as the
        zero function

    Args:
        width: channels of the hidden fields.
        modes: frequencies of each axis, 0 … modes − 1 and their negatives.
        depth: layers.
        dropout: share of hidden values dropped in training.

    Source: Li et al. (2021), Fourier neural operator for parametric partial differential equations, equations 2 to 5.
    """

    width: Annotated[int, Field(gt=0)] = 32
    modes: Annotated[int, Field(gt=0)] = 12
    depth: Annotated[int, Field(gt=0)] = 4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    needs_uniform_grid: ClassVar[bool] = True
    is_periodic: ClassVar[bool] = True

    def build(self, shape: tuple[int, ...]) -> FNOModule:
        """The module for events of this shape, with parameters drawn from torch's default generator.

        Raises:
            InputError: `shape` is neither (channel, x) nor (channel, y, x).
        """
        return FNOModule(self, shape)


class FNOModule(nn.Module):
    """The weights of an `FNO`: (x, noise_level) -> like x. Works on grids of any size."""

    def __init__(self, spec: FNO, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.n_channels, self.n_axes, width = shape[0], len(shape) - 1, spec.width
        self._check(tuple(shape))
        self.embedding = NoiseEmbedding(width)
        self.lift = nn.Linear(self.n_channels, width)
        self.layers = nn.ModuleList(_Layer(width, spec.modes, self.n_axes) for _ in range(spec.depth))
        self.dropout = nn.Dropout(spec.dropout)
        self.mix = nn.Linear(width, 2 * width)
        self.last = nn.Linear(2 * width, self.n_channels)
        zeroed(self.last)

    def forward(self, x: Tensor, noise_level: Tensor | None = None) -> Tensor:
        """Map `x` (batch, channel, *grid) at log noise levels (batch,) to the same shape."""
        self._check(tuple(x.shape[1:]))
        embedding = self.embedding(noise_level, x)
        h = _pointwise(self.lift, x)
        for i, layer in enumerate(self.layers):
            h = layer(h if i == 0 else self.dropout(gelu(h)), embedding)
        return _pointwise(self.last, self.dropout(gelu(_pointwise(self.mix, h))))

    def _check(self, shape: tuple[int, ...]) -> None:
        if len(shape) - 1 != self.n_axes or self.n_axes not in EVENTS or shape[0] != self.n_channels or 0 in shape:
            wanted = EVENTS.get(self.n_axes, " or ".join(EVENTS.values()))
            raise InputError(
                f"an FNO with {self.n_channels} channel(s) needs events of shape {wanted}, got {shape}. "
                "Reshape the data, or use the mlp network."
            )


class _Layer(nn.Module):
    """(1 + s) (W h + K h) + b, with s and b applied to the weights and to the mean."""

    def __init__(self, width: int, modes: int, n_axes: int) -> None:
        super().__init__()
        self.spectral = SpectralConv(width, width, modes, n_axes)
        self.linear = nn.Linear(width, width, bias=False)
        self.modulation = Modulation(width, width)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation.linear(embedding).chunk(2, dim=1)
        smooth = self.spectral(h, scale=1 + scale, shift=shift)
        weight = self.linear.weight * (1 + scale)[:, :, None].to(h.dtype)
        return torch.baddbmm(smooth.flatten(2), weight, h.flatten(2)).reshape(h.shape)


class SpectralConv(nn.Module):
    """A convolution that is a matrix for each frequency.

        (K h)(x) = Re Σ_k R_k ĥ_k e^{2πik·x},   |k| < modes on each axis, x ∈ [0, 1)

    ĥ_k are Fourier coefficients, means and not sums, so that they do not depend on the number of points. Input and
    output may have grids of different sizes: with R_k = 1 the result is the trigonometric interpolant of h on the
    new grid. Frequencies |k| ≥ size/2 of either grid are left out.

    Args:
        n_in: channels of h.
        n_out: channels of the result.
        modes: frequencies of each axis, 0 … modes − 1 and their negatives.
        n_axes: of the grid.
    """

    def __init__(self, n_in: int, n_out: int, modes: int, n_axes: int) -> None:
        super().__init__()
        self.modes, self.n_axes = modes, n_axes
        frequencies = [2 * modes - 1] * (n_axes - 1) + [modes]
        self.weight = nn.Parameter(torch.randn(*frequencies, n_in, n_out, 2) / math.sqrt(2 * n_in))

    def forward(
        self, h: Tensor, size: tuple[int, ...] | None = None, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        """K h, times `scale`, plus `shift`, on a grid of another size if one is given.

        Args:
            h: (batch, n_in, *grid), real.
            size: grid of the result; None keeps that of h.
            scale, shift: (batch, n_out).
        """
        grid = tuple(h.shape[2:])
        size = grid if size is None else size
        kept = [min(self.modes, (min(pair) + 1) // 2) for pair in zip(grid, size, strict=True)]
        with torch.autocast(h.device.type, enabled=False):
            h = h if h.dtype.itemsize >= 4 else h.float()
            modes = self._analysis(h, kept)
            modes = modes.flatten(0, self.n_axes - 1) @ self._weights(kept).to(modes.dtype)  # (mode, batch, n_out)
            if scale is not None:
                modes = modes * scale.to(h.dtype)
            if shift is not None:
                mean = math.prod(2 * n - 1 for n in kept[:-1]) // 2 * kept[-1]  # where k = 0 stands
                modes = modes.index_add(0, torch.tensor([mean], device=h.device), shift[None].to(modes.dtype))
            return self._synthesis(modes, kept, size, h.dtype)

    def _weights(self, kept: list[int]) -> Tensor:
        """R_k of the kept frequencies, (mode, n_in, n_out), complex."""
        weight = torch.view_as_complex(self.weight)
        for axis, n in enumerate(kept):
            start = 0 if axis == self.n_axes - 1 else self.modes - n
            weight = weight.narrow(axis, start, n if axis == self.n_axes - 1 else 2 * n - 1)
        return weight.flatten(0, self.n_axes - 1)

    def _analysis(self, h: Tensor, kept: list[int]) -> Tensor:
        """ĥ_k, (*k, batch, channel)."""
        *others, last = h.shape[2:]
        half = _waves(last, kept[-1], True, h.dtype, h.device)  # (size, modes, 2)
        modes = torch.view_as_complex((h @ half.flatten(1)).unflatten(-1, (kept[-1], 2)))
        for n_points, n in zip(reversed(others), reversed(kept[:-1]), strict=True):
            full = torch.view_as_complex(_waves(n_points, n, False, h.dtype, h.device))
            modes = torch.tensordot(full, modes, ([0], [modes.ndim - 2]))
        return modes.movedim(-1, self.n_axes - 1)

    def _synthesis(self, modes: Tensor, kept: list[int], size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """The field of coefficients (mode, batch, channel), (batch, channel, *size)."""
        counts = [2 * n - 1 for n in kept[:-1]] + [kept[-1]]
        modes = modes.unflatten(0, counts).movedim(self.n_axes - 1, -1)  # (*k, batch, channel, k_x)
        for n_points, n in zip(size[:-1], kept[:-1], strict=True):
            full = torch.view_as_complex(_waves(n_points, n, False, dtype, modes.device)).conj() * n_points
            modes = torch.tensordot(modes, full, ([0], [1]))
        modes = torch.view_as_real(modes.movedim(2, -1).contiguous()).flatten(-2)
        half = _waves(size[-1], kept[-1], True, dtype, modes.device) * size[-1]  # Re(c e^{iθ}) = c_r cos θ − c_i sin θ
        double = torch.full((kept[-1], 1), 2.0, dtype=dtype, device=half.device)  # −k stands for k
        double[0] = 1
        return modes @ (half * double).flatten(1).T


@lru_cache(maxsize=128)
def _waves(size: int, n: int, is_half: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """e^{−2πikj/size}/size as real and imaginary parts, (size, frequencies, 2): k = 0 … n − 1, or −n + 1 … n − 1."""
    with torch.inference_mode(False):
        k = torch.arange(0 if is_half else 1 - n, n)
        turns = (torch.arange(size)[:, None] * k % size).double() / size  # whole turns are left out: exact angles
        angle = 2 * math.pi * turns
        return torch.stack([angle.cos(), -angle.sin()], -1).div_(size).to(device, dtype)


def _pointwise(linear: nn.Linear, h: Tensor) -> Tensor:
    """The same linear map of the channels at every point."""
    bias = linear.bias[:, None]
    return torch.baddbmm(bias, linear.weight.expand(len(h), -1, -1), h.flatten(2)).unflatten(2, h.shape[2:])
