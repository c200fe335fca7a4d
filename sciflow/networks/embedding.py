"""How a network hears the noise level: Fourier features of log(sigma/alpha), a small MLP, and FiLM."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from sciflow.networks.laplacian import silu_layer

LIMIT = 12.0  # |log noise level| beyond which data, or noise, has vanished in float32: also tames the infinite ends


class NoiseEmbedding(nn.Module):
    """One vector per row that says how noisy the row is.

        e = silu(W2 silu(W1 [cos(w_k l), sin(w_k l)]_k)),   l = log(sigma/alpha) clamped to [-12, 12]

    The frequencies w_k are geometric from pi/24 (half a turn over the whole range) to 2 pi.

    Args:
        width: length of the vector; also the number of Fourier features.

    Source: Tancik et al. (2020), section 4; conditioning on log noise: Karras et al. (2022), table 1.
    """

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        n_frequencies = (width + 1) // 2
        frequencies = torch.logspace(math.log10(math.pi / (2 * LIMIT)), math.log10(2 * math.pi), n_frequencies)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * n_frequencies, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, noise_level: Tensor | None, x: Tensor) -> Tensor:
        """Shape (batch, width) for the rows of `x`. None counts as log level 0."""
        level = x.new_zeros(len(x)) if noise_level is None else noise_level.to(x).expand(len(x))
        angle = level.clamp(-LIMIT, LIMIT)[:, None] * self.frequencies
        return self.layers(torch.cat([angle.cos(), angle.sin()], dim=1))

    def with_rate(self, noise_level: Tensor) -> Tensor:
        """The vector and its derivative by l, (2, batch, width), as channels of `silu_layer`."""
        angle = noise_level.clamp(-LIMIT, LIMIT)[:, None] * self.frequencies
        turning = self.frequencies * (noise_level.abs() <= LIMIT).to(noise_level)[:, None]
        cos, sin = angle.cos(), angle.sin()
        both = torch.stack([torch.cat([cos, sin], 1), torch.cat([-turning * sin, turning * cos], 1)])
        for layer in cast(list[nn.Linear], [self.layers[0], self.layers[2]]):
            both = silu_layer(both, layer.weight, layer.bias)
        return both


class Modulation(nn.Module):
    """FiLM: scale and shift every channel by a linear function of the embedding.

        h_c <- (1 + s_c(e)) h_c + b_c(e)

    Source: Perez et al. (2018), equation 2; after a normalisation (AdaGN): Dhariwal and Nichol (2021), section 3.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * channels)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """`h` of shape (batch, channels, ...) with its channels scaled and shifted."""
        scale, shift = self.linear(embedding).reshape(len(h), -1, *[1] * (h.ndim - 2)).chunk(2, dim=1)
        return h * (1 + scale) + shift


def zeroed(layer: nn.Module) -> nn.Module:
    """`layer` with all parameters set to zero: what follows starts as the identity (or as zero)."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
