"""A U-Net conditioned on the noise level, small enough to train in minutes on one CPU core."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from sciflow.errors import InputError
from sciflow.networks.embedding import Modulation, NoiseEmbedding, zeroed

EVENTS = {2: "(channel, y, x)", 1: "(channel, x)"}  # by the number of axes of the grid
Convolution = Callable[..., nn.Module]  # in as many dimensions as the grid has


@dataclass(frozen=True)
class UNet:
    """Residual U-Net for images (channel, y, x) or fields (channel, x), conditioned on the noise level by FiLM.

        h <- skip(h) + conv(silu(FiLM(norm(conv(silu(norm h))), e))),   e the embedding of log(sigma/alpha)

    Level k works at 1/2^k of the resolution with channels[k] feature maps; the sizes of a grid must be divisible by
    2^(levels - 1). FiLM acts on a group normalisation (AdaGN).

    Exactness: learned; its error is what the validation loss and the calibration of the posterior show
    Cost: about 36 n_blocks sum_k channels[k]^2 y x / 4^k multiply-adds per row for images, attention apart
    Bias: local and translation-equivariant, up to the border where it is padded by zeros; starts as the zero function

    Args:
        channels: feature maps of each level, finest first.
        n_blocks: residual blocks per level, on the way down and again on the way up.
        attention: self-attention between all positions of the coarsest level.
        dropout: share of feature values dropped in training.
        padding: "circular" for periodic fields, "zeros" for everything else.

    Source: Ronneberger et al. (2015); blocks as in Dhariwal and Nichol (2021), section 3.
    """

    channels: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1)] = (32, 64)
    n_blocks: Annotated[int, Field(gt=0)] = 1
    attention: bool = False
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    padding: Literal["zeros", "circular"] = "zeros"

    @property
    def is_periodic(self) -> bool:
        """Whether it joins the two ends of every axis."""
        return self.padding == "circular"

    def build(self, shape: tuple[int, ...]) -> UNetModule:
        """The module for events of this shape, with parameters drawn from torch's default generator.

        Raises:
            InputError: `shape` is neither (channel, y, x) nor (channel, x), or a size cannot be halved often enough.
        """
        return UNetModule(self, shape)


class UNetModule(nn.Module):
    """The weights of a `UNet`: (x, noise_level) -> like x. Works on any size that can be halved often enough."""

    def __init__(self, spec: UNet, shape: tuple[int, ...]) -> None:
        super().__init__()
        levels, width = list(spec.channels), 4 * spec.channels[0]
        self.n_channels, self.n_axes, self.factor = shape[0], len(shape) - 1, 2 ** (len(levels) - 1)
        self._check(tuple(shape))
        conv = partial(nn.Conv2d if self.n_axes == 2 else nn.Conv1d, padding_mode=spec.padding)

        def blocks(sizes: list[tuple[int, int]]) -> nn.ModuleList:
            return nn.ModuleList(_Block(conv, n_in, n_out, width, spec.dropout) for n_in, n_out in sizes)

        self.embedding = NoiseEmbedding(width)
        self.first = conv(shape[0], levels[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleList(), nn.ModuleList()
        for level, n in enumerate(levels):
            above, below = levels[max(level - 1, 0)], levels[min(level + 1, len(levels) - 1)]
            is_coarsest, repeat = level == len(levels) - 1, spec.n_blocks - 1
            self.down.append(blocks([(above, n), *[(n, n)] * repeat]))
            self.shrink.append(nn.Identity() if is_coarsest else conv(n, n, 3, stride=2, padding=1))
            self.grow.append(nn.Identity() if is_coarsest else nn.Upsample(scale_factor=2, mode="nearest"))
            self.up.append(blocks([(below + n, n), *[(2 * n, n)] * repeat]))
        self.middle = blocks([(levels[-1], levels[-1])])
        self.attention = _Attention(conv, levels[-1]) if spec.attention else nn.Identity()
        self.last = nn.Sequential(_norm(levels[0]), nn.SiLU(), zeroed(conv(levels[0], shape[0], 3, padding=1)))

    def forward(self, x: Tensor, noise_level: Tensor | None = None) -> Tensor:
        """Map `x` (batch, channel, *grid) at log noise levels (batch,) to the same shape."""
        self._check(tuple(x.shape[1:]))
        embedding = self.embedding(noise_level, x)
        h, skips = self.first(x), []
        for blocks, shrink in zip(self.down, self.shrink, strict=True):
            for block in blocks.children():
                h = block(h, embedding)
                skips.append(h)
            h = shrink(h)
        for block in self.middle:
            h = self.attention(block(h, embedding))
        for blocks, grow in zip(reversed(self.up), reversed(self.grow), strict=True):
            h = grow(h)
            for block in blocks.children():
                h = block(torch.cat([h, skips.pop()], dim=1), embedding)
        return self.last(h)

    def _check(self, shape: tuple[int, ...]) -> None:
        if len(shape) - 1 != self.n_axes or self.n_axes not in EVENTS or shape[0] != self.n_channels:
            wanted = EVENTS.get(self.n_axes, " or ".join(EVENTS.values()))
            raise InputError(
                f"a U-Net with {self.n_channels} channel(s) needs events of shape {wanted}, got {shape}. "
                "Reshape the data, or use the mlp network."
            )
        if any(n < 1 or n % self.factor for n in shape[1:]):
            size = " x ".join(map(str, shape[1:]))
            raise InputError(
                f"this U-Net halves its grid until 1/{self.factor} is left, got size {size}. "
                f"Crop or pad to multiples of {self.factor}, or give fewer levels in `channels`."
            )


class _Block(nn.Module):
    def __init__(self, conv: Convolution, n_in: int, n_out: int, width: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(_norm(n_in), nn.SiLU(), conv(n_in, n_out, 3, padding=1))
        self.norm = _norm(n_out, affine=False)
        self.modulation = Modulation(width, n_out)
        self.conv2 = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), zeroed(conv(n_out, n_out, 3, padding=1)))
        self.skip = nn.Identity() if n_in == n_out else conv(n_in, n_out, 1)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        return self.skip(h) + self.conv2(self.modulation(self.norm(self.conv1(h)), embedding))


class _Attention(nn.Module):
    """Every position attends to every other, in heads of about 32 channels."""

    def __init__(self, conv: Convolution, channels: int) -> None:
        super().__init__()
        self.n_heads = max(n for n in range(1, max(channels // 32, 1) + 1) if channels % n == 0)
        self.norm = _norm(channels)
        self.query_key_value = conv(channels, 3 * channels, 1)
        self.out = zeroed(conv(channels, channels, 1))

    def forward(self, h: Tensor) -> Tensor:
        heads = self.query_key_value(self.norm(h)).reshape(len(h), 3, self.n_heads, -1, h[0, 0].numel())
        attended = scaled_dot_product_attention(*heads.transpose(-1, -2).unbind(1))
        return h + self.out(attended.transpose(-1, -2).reshape(h.shape))


def _norm(channels: int, affine: bool = True) -> nn.GroupNorm:
    """Group normalisation in up to 8 groups."""
    return nn.GroupNorm(math.gcd(8, channels), channels, affine=affine)
