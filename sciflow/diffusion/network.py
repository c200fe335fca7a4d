"""A denoiser made of a network, preconditioned so that the network sees and answers unit-variance numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sciflow.diffusion.schedule import Scaled
from sciflow.random import Stream
from sciflow.types import Time, broadcast, per_row


@dataclass(frozen=True)
class NetworkDenoiser:
    """D(x, t) from a network F, in data units, for any schedule.

        D = m + c_skip (y − m) + c_out F(c_in (y − m), log(u/s)),   y = x/α,  u = σ/α
        c_skip = s²/(s² + u²),  c_out = s u/√(s² + u²),  c_in = 1/√(s² + u²)

    m and s are the mean and the standard deviation of the training data: the normalisation travels with the model.

    Exactness: as good as its training; F = 0 gives the exact denoiser of N(m, s² I).
    Cost: 1 network call.
    Bias: that of the trained network; compare the validation loss with that of a longer training.
    Args:
        module: F, called with (batch, *shape) and the log noise level (batch,).
        schedule: noise levels, scaled by s.
        shape: event shape.
        mean: m, one number [data units].
    Source: Karras et al. (2022), eq. 7 and table 1, for a general α.
    """

    module: nn.Module
    schedule: Scaled
    shape: tuple[int, ...]
    mean: float

    @property
    def std(self) -> float:
        return self.schedule.std

    def initial(self, t: float, n: int, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draws from N(α m, α² s² + σ²), the law of x_t up to the data's higher moments."""
        alpha, sigma = float(self.schedule.alpha(t)), float(self.schedule.sigma(t))
        spread = math.hypot(alpha * self.std, sigma)
        return alpha * self.mean + spread * stream.normal(n, self.shape, dtype=dtype)

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        root = (alpha**2 * self.std**2 + sigma**2).sqrt()  # α √(s² + u²)
        level = per_row((sigma / (alpha * self.std)).log(), x)
        scaled = (x - broadcast(alpha * self.mean, x)) / broadcast(root, x)
        answer = self.module(scaled, level)
        skip, out = broadcast(alpha * self.std / root, x), broadcast(sigma / root, x)
        return self.mean + self.std * (skip * scaled + out * answer)
