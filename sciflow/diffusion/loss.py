"""Training losses: regress the network onto what makes its denoiser the posterior mean.

With unit-scale data a = (x₁ − m)/s, noise ε and ratio ρ = u/s, the network of `NetworkDenoiser` should answer
F* = (ρ a − ε)/√(1 + ρ²), so every loss here is E[w ‖F − F*‖²] with its own law of noise levels and its own weight w.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Protocol, runtime_checkable

from pydantic import Field
from torch import Tensor

from sciflow.diffusion.network import NetworkDenoiser
from sciflow.diffusion.schedule import Schedule
from sciflow.random import Stream


@runtime_checkable
class Loss(Protocol):
    """A training loss: one number per row."""

    def __call__(self, denoiser: NetworkDenoiser, x1: Tensor, stream: Stream, step: int, first: int = 0) -> Tensor:
        """Loss of each row of x1 (batch, *shape), shape (batch,); `first` is the global index of its first row."""
        ...


def regression_pair(denoiser: NetworkDenoiser, x1: Tensor, ratio: Tensor, x0: Tensor) -> tuple[Tensor, Tensor]:
    """What the network sees and should answer at noise ratios ρ = u/s (batch,), each like x1.

        z = (a + ρ ε)/√(1 + ρ²),   F* = (x₁ − m − c_skip (y − m))/c_out = (ρ a − ε)/√(1 + ρ²),   a = (x₁ − m)/s

    It does not pass through t or α, so that every schedule trains the same network.
    """
    shaped = ratio.reshape(-1, *[1] * (x1.ndim - 1))
    root = (1 + shaped**2).sqrt()
    data = (x1 - denoiser.mean) / denoiser.std
    return (data + shaped * x0) / root, (shaped * data - x0) / root


def regression_error(denoiser: NetworkDenoiser, x1: Tensor, ratio: Tensor, x0: Tensor) -> Tensor:
    """‖F − F*‖² per element of each row, at noise ratios ρ = u/s, shape (batch,); see `regression_pair`."""
    z, target = regression_pair(denoiser, x1, ratio, x0)
    return ((denoiser.module(z, ratio.log()) - target) ** 2).flatten(1).mean(1)


@dataclass(frozen=True)
class Denoising:
    """Denoising score matching with log-normal noise levels and the weight that makes every level count alike.

        E ‖D − x₁‖²/c_out²,   log(u/s) ~ N(mean, spread²)

    Exactness: its minimiser is the posterior mean at every level.
    Cost: 1 network call per row.
    Bias: none; levels far outside the log-normal law are seldom trained.
    Args:
        mean: mean of log(u/s); −0.5 is the published choice for σ_data = 0.5.
        spread: standard deviation of log(u/s).
    Source: Karras et al. (2022), eq. 108 and table 1.
    """

    mean: float = -0.5
    spread: Annotated[float, Field(gt=0)] = 1.4

    def __call__(self, denoiser: NetworkDenoiser, x1: Tensor, stream: Stream, step: int, first: int = 0) -> Tensor:
        options: dict[str, Any] = {"step": step, "first": first, "dtype": x1.dtype, "device": x1.device}
        ratio = (self.mean + self.spread * stream.child("level").normal(len(x1), **options)).exp()
        return regression_error(denoiser, x1, ratio, stream.child("noise").normal(len(x1), x1.shape[1:], **options))


@dataclass(frozen=True)
class Velocity:
    """Flow matching: the velocity of the interpolant at uniform times.

        E ‖v − (α̇ x₁ + s σ̇ x₀)‖² = E s² (α̇ σ − σ̇ α)²/(α² + σ²) ‖F − F*‖²,   t ~ U(0, 1)

    Exactness: its minimiser is the conditional mean velocity, hence the same posterior mean.
    Cost: 1 network call per row.
    Bias: none; the levels it weights follow the schedule.
    Args:
        margin: distance kept from t = 0 and t = 1, where log u is infinite.
    Source: Lipman et al. (2023), Flow matching, eq. 9; the weight follows from v − v* = (α̇ − σ̇ α/σ)(D − x₁).
    """

    margin: Annotated[float, Field(gt=0, lt=0.5)] = 1e-3

    def __call__(self, denoiser: NetworkDenoiser, x1: Tensor, stream: Stream, step: int, first: int = 0) -> Tensor:
        options: dict[str, Any] = {"step": step, "first": first, "dtype": x1.dtype, "device": x1.device}
        uniform = stream.child("time").uniform(len(x1), **options)
        t = self.margin + (1 - 2 * self.margin) * uniform.double()
        base: Schedule = denoiser.schedule.base
        alpha, sigma = base.alpha(t), base.sigma(t)
        weight = (base.alpha_rate(t) * sigma - base.sigma_rate(t) * alpha) ** 2 / (alpha**2 + sigma**2)
        noise = stream.child("noise").normal(len(x1), x1.shape[1:], **options)
        error = regression_error(denoiser, x1, (sigma / alpha).to(x1.dtype), noise)
        return weight.to(x1.dtype) * denoiser.std**2 * error
