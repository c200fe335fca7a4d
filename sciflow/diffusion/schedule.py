"""Schedules: t → (α_t, σ_t) of x_t = α_t x₁ + σ_t x₀, with t = 0 at the base x₀ and t = 1 at the data x₁.

Every formula downstream is written in α, σ, u = σ/α and λ = log(α/σ), never in t, so a schedule is only a way to
label noise levels. Papers run time from data to noise; with their time s ours is t = 1 − s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from sciflow.types import Time

Positive = Annotated[float, Field(gt=0)]


@runtime_checkable
class Schedule(Protocol):
    """The two coefficients, their time derivatives, the log signal-to-noise ratio λ = log(α/σ) and its inverse.

    Each takes a number (answered by a float64 tensor of shape ()) or a tensor of times of any shape.
    """

    def alpha(self, t: Time) -> Tensor: ...
    def sigma(self, t: Time) -> Tensor: ...
    def alpha_rate(self, t: Time) -> Tensor: ...
    def sigma_rate(self, t: Time) -> Tensor: ...
    def log_snr(self, t: Time) -> Tensor: ...
    def time(self, log_snr: Time) -> Tensor: ...


def is_value(thing: object) -> bool:
    """Whether its fields tell a schedule for ever: a frozen dataclass of numbers, text, and others of its kind."""
    if is_dataclass(thing) and not isinstance(thing, type) and thing.__dataclass_params__.frozen:  # type: ignore
        return all(is_value(getattr(thing, field.name)) for field in fields(thing))
    return thing is None or isinstance(thing, int | float | str)


def _tensor(t: Time) -> Tensor:
    return t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64)


class _LogRatio:
    """λ = log α − log σ for the schedules that have no shorter form."""

    def log_snr(self, t: Time) -> Tensor:
        return self.alpha(t).log() - self.sigma(t).log()  # type: ignore[attr-defined]


def _power(base: Tensor, exponent: float) -> Tensor:
    """base^exponent for base ≥ 0, the same bits wherever a number stands in a tensor, unlike torch's power function."""
    if exponent in (0.0, 1.0, 2.0):  # products, which are that already
        return base**exponent
    return torch.exp(exponent * base.log())


def _logistic(y: Tensor) -> Tensor:
    """1/(1 + e^{−y}), the same bits wherever a number stands in a tensor, which those of torch's sigmoid are not."""
    return 1 / (1 + torch.exp(-y))


def _variance_preserving_log_alpha(log_snr: Tensor) -> Tensor:
    """log α when α² + σ² = 1, from λ: α² = sigmoid(2λ).

    Not by softplus: that of torch differs in its last bit with the place of a number in a vector.
    """
    return -0.5 * (torch.exp(-2 * log_snr.abs()).log1p() - 2 * log_snr.clamp_max(0))


@dataclass(frozen=True)
class VariancePreserving(_LogRatio):
    """Variance-preserving diffusion with a noise rate that is linear in time.

        log α = −s²(β₁ − β₀)/4 − s β₀/2,   σ² = 1 − α²,   s = 1 − t

    Exactness: α² + σ² = 1; σ by expm1, so that it keeps its digits as t → 1.
    Cost: closed form, with inverse.
    Bias: α_0² = e^{−(β₀+β₁)/2} > 0 (4.3e-5 by default): the base is not exactly white.
    Args:
        beta_min: noise rate β₀ at the data [1/time].
        beta_max: noise rate β₁ at the base [1/time].
    Source: Song et al. (2021), Score-based generative modeling through SDEs, eq. 33.
    """

    beta_min: Positive = 0.1
    beta_max: Positive = 20.0

    def _log_alpha(self, t: Time) -> Tensor:
        s = 1 - _tensor(t)
        return -0.25 * s**2 * (self.beta_max - self.beta_min) - 0.5 * s * self.beta_min

    def _log_alpha_rate(self, t: Time) -> Tensor:
        return 0.5 * ((1 - _tensor(t)) * (self.beta_max - self.beta_min) + self.beta_min)

    def alpha(self, t: Time) -> Tensor:
        return self._log_alpha(t).exp()

    def sigma(self, t: Time) -> Tensor:
        return (-torch.expm1(2 * self._log_alpha(t))).sqrt()

    def alpha_rate(self, t: Time) -> Tensor:
        return self.alpha(t) * self._log_alpha_rate(t)

    def sigma_rate(self, t: Time) -> Tensor:
        return -(self.alpha(t) ** 2) * self._log_alpha_rate(t) / self.sigma(t)

    def time(self, log_snr: Time) -> Tensor:
        return self._time_of(_variance_preserving_log_alpha(_tensor(log_snr)))

    def _time_of(self, log_alpha: Tensor) -> Tensor:
        quarter, half = (self.beta_max - self.beta_min) / 4, self.beta_min / 2
        return 1 + 2 * log_alpha / (half + (half**2 - 4 * quarter * log_alpha).sqrt())


@dataclass(frozen=True)
class Cosine(_LogRatio):
    """Variance-preserving diffusion with the offset cosine schedule.

        α = cos ψ(s) / cos ψ(0),   ψ(s) = (π/2)(s + o)/(1 + o),   σ² = 1 − α²,   s = 1 − t

    Exactness: α² + σ² = 1; σ² = sin(ψ + ψ₀) sin(ψ − ψ₀)/cos²ψ₀, free of cancellation.
    Cost: closed form, with inverse.
    Bias: none; the base is exactly white (α_0 = 0).
    Args:
        offset: o, keeps the first noise levels from crowding at the data [dimensionless].
    Source: Nichol and Dhariwal (2021), Improved denoising diffusion probabilistic models, eq. 17.
    """

    offset: Positive = 0.008

    def _angle(self, t: Time) -> Tensor:
        return 0.5 * math.pi * (1 - _tensor(t) + self.offset) / (1 + self.offset)

    @property
    def _angle_at_data(self) -> float:
        return 0.5 * math.pi * self.offset / (1 + self.offset)

    @property
    def _angle_rate(self) -> float:
        return -0.5 * math.pi / (1 + self.offset)

    def alpha(self, t: Time) -> Tensor:
        # sin of the complement is exactly 0 at t = 0, where cos(π/2) is not
        return torch.sin(0.5 * math.pi * _tensor(t) / (1 + self.offset)) / math.cos(self._angle_at_data)

    def sigma(self, t: Time) -> Tensor:
        angle, at_data = self._angle(t), self._angle_at_data
        squared = torch.sin(angle + at_data) * torch.sin(angle - at_data)
        return squared.clamp_min(0).sqrt() / math.cos(at_data)

    def alpha_rate(self, t: Time) -> Tensor:
        return -torch.sin(self._angle(t)) * self._angle_rate / math.cos(self._angle_at_data)

    def sigma_rate(self, t: Time) -> Tensor:
        return -self.alpha(t) * self.alpha_rate(t) / self.sigma(t)

    def time(self, log_snr: Time) -> Tensor:
        alpha = _variance_preserving_log_alpha(_tensor(log_snr)).exp()
        return torch.asin(alpha * math.cos(self._angle_at_data)) * 2 * (1 + self.offset) / math.pi


@dataclass(frozen=True)
class VarianceExploding(_LogRatio):
    """Variance-exploding diffusion with geometric noise levels.

        α = 1,   σ = σ_max (σ_min/σ_max)^t

    Exactness: closed form; λ is linear in t.
    Cost: closed form, with inverse.
    Bias: the base N(0, σ_max²) forgets the data only as σ_max → ∞; the last level is σ_min, not 0.
    Args:
        sigma_min: noise level at t = 1 [data units, or data standard deviations inside `Scaled`].
        sigma_max: noise level at t = 0 [same].
    Source: Song et al. (2021), eq. 31.
    """

    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0

    @property
    def _log_range(self) -> float:
        return math.log(self.sigma_min / self.sigma_max)

    def alpha(self, t: Time) -> Tensor:
        return torch.ones_like(_tensor(t))

    def sigma(self, t: Time) -> Tensor:
        return self.sigma_max * torch.exp(_tensor(t) * self._log_range)

    def alpha_rate(self, t: Time) -> Tensor:
        return torch.zeros_like(_tensor(t))

    def sigma_rate(self, t: Time) -> Tensor:
        return self.sigma(t) * self._log_range

    def time(self, log_snr: Time) -> Tensor:
        return (-_tensor(log_snr) - math.log(self.sigma_max)) / self._log_range


@dataclass(frozen=True)
class EDM(_LogRatio):
    """Variance-exploding diffusion in the time of Karras et al.: σ^{1/ρ} is linear in t.

        α = 1,   σ = (σ_max^{1/ρ} + t (σ_min^{1/ρ} − σ_max^{1/ρ}))^ρ

    Exactness: closed form.
    Cost: closed form, with inverse.
    Bias: as `VarianceExploding`.
    Args:
        sigma_min: noise level at t = 1 [data units, or data standard deviations inside `Scaled`].
        sigma_max: noise level at t = 0 [same].
        rho: exponent ρ; larger values spend more of the time at small noise [dimensionless].
    Source: Karras et al. (2022), Elucidating the design space of diffusion-based generative models, eq. 5.
    """

    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0
    rho: Positive = 7.0

    @property
    def _roots(self) -> tuple[float, float]:
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)

    def _root(self, t: Time) -> Tensor:
        low, high = self._roots
        return high + _tensor(t) * (low - high)

    def alpha(self, t: Time) -> Tensor:
        return torch.ones_like(_tensor(t))

    def sigma(self, t: Time) -> Tensor:
        return _power(self._root(t), self.rho)

    def alpha_rate(self, t: Time) -> Tensor:
        return torch.zeros_like(_tensor(t))

    def sigma_rate(self, t: Time) -> Tensor:
        low, high = self._roots
        return self.rho * _power(self._root(t), self.rho - 1) * (low - high)

    def time(self, log_snr: Time) -> Tensor:
        low, high = self._roots
        return (torch.exp(-_tensor(log_snr) / self.rho) - high) / (low - high)


@dataclass(frozen=True)
class Linear(_LogRatio):
    """Linear interpolation, also called rectified flow or conditional optimal transport.

        α = t,   σ = 1 − t

    Exactness: both end points are reached.
    Cost: closed form, with inverse.
    Bias: none.
    Source: Liu et al. (2023), Flow straight and fast, eq. 1; Lipman et al. (2023), Flow matching, eq. 20 (σ_min = 0).
    """

    def alpha(self, t: Time) -> Tensor:
        return _tensor(t).clone()

    def sigma(self, t: Time) -> Tensor:
        return 1 - _tensor(t)

    def alpha_rate(self, t: Time) -> Tensor:
        return torch.ones_like(_tensor(t))

    def sigma_rate(self, t: Time) -> Tensor:
        return -torch.ones_like(_tensor(t))

    def time(self, log_snr: Time) -> Tensor:
        return _logistic(_tensor(log_snr))


@dataclass(frozen=True)
class Trigonometric(_LogRatio):
    """Rotation from base to data at constant angular speed.

        α = sin(πt/2),   σ = cos(πt/2)

    Exactness: α² + σ² = 1, and both end points are reached.
    Cost: closed form, with inverse.
    Bias: none.
    Source: Albergo and Vanden-Eijnden (2023), Building normalizing flows with stochastic interpolants, eq. 5.
    """

    def alpha(self, t: Time) -> Tensor:
        return torch.sin(0.5 * math.pi * _tensor(t))

    def sigma(self, t: Time) -> Tensor:
        return torch.sin(0.5 * math.pi * (1 - _tensor(t)))  # cos(πt/2), exactly 0 at t = 1

    def alpha_rate(self, t: Time) -> Tensor:
        return 0.5 * math.pi * torch.cos(0.5 * math.pi * _tensor(t))

    def sigma_rate(self, t: Time) -> Tensor:
        return -0.5 * math.pi * torch.sin(0.5 * math.pi * _tensor(t))

    def time(self, log_snr: Time) -> Tensor:
        return torch.atan(torch.exp(_tensor(log_snr))) * 2 / math.pi


@dataclass(frozen=True)
class Scaled:
    """A schedule whose base has the standard deviation of the data, so that λ = 0 is always "half noise".

        α' = α,   σ' = s σ

    States stay in data units while noise levels keep the meaning they have for unit-variance data.

    Args:
        base: schedule written for data of unit standard deviation.
        std: standard deviation s of the data [data units].
    """

    base: Schedule
    std: Positive = 1.0

    def alpha(self, t: Time) -> Tensor:
        return self.base.alpha(t)

    def sigma(self, t: Time) -> Tensor:
        return self.std * self.base.sigma(t)

    def alpha_rate(self, t: Time) -> Tensor:
        return self.base.alpha_rate(t)

    def sigma_rate(self, t: Time) -> Tensor:
        return self.std * self.base.sigma_rate(t)

    def log_snr(self, t: Time) -> Tensor:
        return self.base.log_snr(t) - math.log(self.std)

    def time(self, log_snr: Time) -> Tensor:
        return self.base.time(_tensor(log_snr) + math.log(self.std))
