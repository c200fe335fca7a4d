"""Training losses: regress the network onto what makes its denoiser the posterior mean.

With unit-scale data a = (x₁ − m)/s, noise ε and ratio ρ = u/s, the network of `NetworkDenoiser` should answer
F* = (ρ a − ε)/√(1 + ρ²), so every loss here is E[w ‖F − F*‖²] with its own law of noise levels and its own weight w;
`TargetScore` has another target of the same mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from sciflow.diffusion.network import NetworkDenoiser
from sciflow.diffusion.schedule import Schedule
from sciflow.errors import InputError
from sciflow.random import Stream

Score = Callable[[Tensor], Tensor]
"""∇log p of each row, float64."""
OTHER_LAW = 0.05  # of the virial: what integrators of molecular dynamics leave is less, what constraints do is more


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
        return regression_error(denoiser, x1, *self.levels(x1, stream, step, first))

    def levels(self, x1: Tensor, stream: Stream, step: int, first: int) -> tuple[Tensor, Tensor]:
        """Noise ratios u/s (batch,) and noise of each row."""
        options: dict[str, Any] = {"step": step, "first": first, "dtype": x1.dtype, "device": x1.device}
        ratio = (self.mean + self.spread * stream.child("level").normal(len(x1), **options)).exp()
        return ratio, stream.child("noise").normal(len(x1), x1.shape[1:], **options)


@dataclass(frozen=True)
class TargetScore(Denoising):
    """Denoising score matching that is told the score of the data, as forces tell it of a Boltzmann law.

        E ‖F − F̃‖²/w,   F̃ = (ρ y − (1 + ρ²) ε̃)/√(1 + ρ²),   ε̃ = w ε − (1 − w) ρ s ∇log p(x₁)

    with y = a + ρ ε, w = ρ² J/(1 + ρ² J) and J the mean of (s ∂log p)² over the data. −ρ s ∇log p(x₁) has the mean of ε
    at every noisy state, and a variance that vanishes with the noise, where that of ε does not: small noise, and with
    it the steep walls of repulsive atoms, is learned in far fewer steps. The share w is the best for a Gaussian law,
    which has no variance then; divided by it, what small noise has to teach, which vanishes as w does, counts alike.

    Exactness: its minimiser is the posterior mean at every level, that of `Denoising`; the law must have the score that
        is told, without edges at which its density jumps
    Cost: 1 network call per row, and a gradient of the energy
    Bias: that of a score which is not that of the data. The virial of the data, −E x·∇log p = d for the law itself and
        T/T' of it for frames of another temperature T, shows the worst: 5 % and five standard errors off are refused
    Args:
        mean: mean of log(u/s).
        spread: standard deviation of log(u/s).
        precision: J [1]; null: of the data. The larger, the larger the share of the noise.
    Source: De Bortoli et al. (2024), Target score matching, section 2, the target score identity; the weight is ours.
    """

    precision: Annotated[float, Field(gt=0)] | None = None

    def __call__(self, denoiser: NetworkDenoiser, x1: Tensor, stream: Stream, step: int, first: int = 0) -> Tensor:
        raise InputError("target_score must know the score of the data. Take what `on(score, x1, std)` returns.")

    def on(self, score: Score, x1: Tensor, std: float, tile: int = 1024) -> Loss:
        """The loss, with the score of the data.

        Args:
            score: ∇log p of each row.
            x1: the data.
            std: s.
            tile: rows of one call of the score, when the data are looked at.

        Raises:
            InputError: the score of some of the data is not finite, or is that of another law.
        """
        told = torch.cat([score(part.double()) for part in x1.split(tile)])
        if not bool(told.isfinite().all()):
            raise InputError(
                f"target_score: {int((~told.isfinite()).flatten(1).any(1).sum())} of {len(x1)} events have no finite "
                "score. Do atoms overlap in some frames? Leave those out, or use `loss: {kind: denoising}`."
            )
        virial = -(x1.double() * told).flatten(1).mean(1)
        off, stderr = abs(float(virial.mean()) - 1), float(virial.std()) / len(virial) ** 0.5
        if off > OTHER_LAW + 5 * stderr:
            raise InputError(
                f"target_score: the data have a virial of {float(virial.mean()):.3g} ± {stderr:.2g}, their law has 1: "
                "they are of another temperature, constrained, or not in equilibrium. Give frames of the potential at "
                "its temperature, or use `loss: {kind: denoising}`."
            )
        precision = self.precision or std**2 * float(told.square().mean())
        return ScoredRows(self, score, precision)


@dataclass(frozen=True)
class ScoredRows:
    """The loss of a `TargetScore` that knows the score.

    Args:
        spec: its options.
        score: ∇log p of each row.
        precision: J.
    """

    spec: TargetScore
    score: Score
    precision: float

    def __call__(self, denoiser: NetworkDenoiser, x1: Tensor, stream: Stream, step: int, first: int = 0) -> Tensor:
        ratio, noise = self.spec.levels(x1, stream, step, first)
        shaped = ratio.reshape(-1, *[1] * (x1.ndim - 1))
        root, share = (1 + shaped**2).sqrt(), shaped**2 * self.precision / (1 + shaped**2 * self.precision)
        z, _ = regression_pair(denoiser, x1, ratio, noise)
        told = -shaped * denoiser.std * self.score(x1.double()).to(x1)
        mixed = share * noise + (1 - share) * told
        target = shaped * z - root * mixed
        return ((denoiser.module(z, ratio.log()) - target) ** 2 / share).flatten(1).mean(1)


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
