"""A denoiser that was trained elsewhere: any network that knows how noisy its input is, in its own conventions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from sciflow.diffusion.denoiser import data_from
from sciflow.diffusion.schedule import Scaled
from sciflow.errors import InputError
from sciflow.random import Stream
from sciflow.types import Time, broadcast, per_row

Predicts = Literal["data", "noise", "score", "velocity", "v"]
Told = Literal["sigma", "log_sigma", "t", "s"]


@dataclass(frozen=True)
class OwnDenoiser:
    """D(x, t) from a network F that was trained elsewhere, in data units, under any schedule.

        D = offset + scale D_F(z_τ, τ),   z_τ = α_τ z + σ_τ x₀,   z = (x₁ − offset)/scale

    τ is the time of the network's own schedule with the signal-to-noise ratio of the state. D_F is, of F(z_τ, c),

        data F,   noise (z_τ − σ F)/α,   score (z_τ + σ² F)/α,   v (α z_τ − σ F)/(α² + σ²),   v = α x₀ − σ z
        velocity (σ F − σ̇ z_τ)/(α̇ σ − α σ̇),   the rate of z_τ in the time that the network is told, t or else s

    and c, one number for each row,  sigma σ/α,  log_sigma log(σ/α),  t τ (1 at the data)  or  s 1 − τ (1 at the noise).

    Exactness: as good as the network.
    Cost: 1 network call.
    Bias: that of the network, and of training images that were others than these.
    Args:
        module: F, called with (batch, *shape) and c (batch,); answers like its first argument.
        schedule: noise levels of the state; its base is the network's own schedule, in the network's units.
        shape: event shape.
        mean: of the data [data units], for the start.
        offset: what the network takes for 0 [data units].
        scale: what the network takes for 1, > 0 [data units].
        predicts: what F answers.
        told: c.
    Source: Karras et al. (2022), section 2, for the change of schedule; Salimans and Ho (2022), Progressive
        distillation, appendix D, for v.
    """

    module: nn.Module
    schedule: Scaled
    shape: tuple[int, ...]
    mean: float
    offset: float = 0.0
    scale: float = 1.0
    predicts: Predicts = "data"
    told: Told = "sigma"

    def initial(self, t: float, n: int, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draws from N(α m, α² s² + σ²), the law of x_t up to the data's higher moments."""
        alpha, sigma = float(self.schedule.alpha(t)), float(self.schedule.sigma(t))
        spread = math.hypot(alpha * self.schedule.std, sigma)
        return alpha * self.mean + spread * stream.normal(n, self.shape, dtype=dtype)

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        return self.estimate(*self.ask(x, t))

    def ask(self, x: Tensor, t: Time) -> tuple[Tensor, Tensor, Tensor]:
        """What the network answers, the z_τ that it sees, and τ.

        Raises:
            InputError: an answer of another shape or precision than z_τ.
        """
        own, alpha, sigma = self.schedule.base, self.schedule.alpha(t), self.schedule.sigma(t)
        ratio = (self.schedule.log_snr(t) + math.log(self.scale)).clamp(-30, 30)  # as `Converted` keeps it
        time = own.time(ratio)
        size = torch.hypot(own.alpha(time), own.sigma(time)) / torch.hypot(alpha * self.scale, sigma)
        seen = (x - broadcast(alpha * self.offset, x)) * broadcast(size, x)
        told = {"sigma": (-ratio).exp(), "log_sigma": -ratio, "t": time, "s": 1 - time}[self.told]
        answer = self.module(seen, per_row(told, x).contiguous())
        self._check(answer, seen)
        return answer, seen, time

    def estimate(self, answer: Tensor, seen: Tensor, time: Tensor) -> Tensor:
        """The data behind an answer to `ask`."""
        own = self.schedule.base
        if self.predicts == "v":
            alpha, sigma = (broadcast(level(time), seen) for level in (own.alpha, own.sigma))
            data = (alpha * seen - sigma * answer) / (alpha**2 + sigma**2)
        else:
            is_backward = self.predicts == "velocity" and self.told != "t"  # in a time that runs to the noise
            data = data_from(self.predicts, -answer if is_backward else answer, seen, time, own)
        return self.offset + self.scale * data

    def _check(self, answer: object, seen: Tensor) -> None:
        if not isinstance(answer, Tensor):
            raise InputError(f"the network answers a {type(answer).__name__}, not a tensor. Return the tensor alone.")
        if (answer.shape, answer.dtype) != (seen.shape, seen.dtype):
            expected, got = (f"{tuple(one.shape)} {str(one.dtype).removeprefix('torch.')}" for one in (seen, answer))
            raise InputError(
                f"the network answers {got} to {expected}. It must answer in the shape and precision of its input: "
                "leave out channels of a variance, casts and numpy in its `forward`."
            )
