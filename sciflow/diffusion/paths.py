"""More schedules: sub-variance-preserving, of least kinetic energy for given data, and the Föllmer interpolant."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.schedule import Positive, VariancePreserving, _logistic, _LogRatio, _power, _tensor
from sciflow.random import Stream
from sciflow.types import Time, float64

Fraction = Annotated[float, Field(ge=0, le=1)]
RIGHT = 0.5 * math.pi
NEWTON = 12  # iterations: the slope changes by a factor of p − 1/2 at most, so six are enough for rounding


@dataclass(frozen=True)
class SubVariancePreserving(VariancePreserving):
    """Sub-variance-preserving diffusion: the signal of `VariancePreserving` with less noise on it.

        log α = −s²(β₁ − β₀)/4 − s β₀/2,   σ = 1 − α²,   s = 1 − t

    The ratio is u = 2 sinh(−log α), which has the inverse −log α = asinh(u/2).

    Exactness: σ by expm1, so that it keeps its digits as t → 1.
    Cost: closed form, with inverse.
    Bias: α_0 > 0 (6.6e-3 by default): the base is not exactly white.
    Args:
        beta_min: noise rate β₀ at the data [1/time].
        beta_max: noise rate β₁ at the base [1/time].
    Source: Song et al. (2021), Score-based generative modeling through SDEs, eq. 29.
    """

    def sigma(self, t: Time) -> Tensor:
        return -torch.expm1(2 * self._log_alpha(t))

    def sigma_rate(self, t: Time) -> Tensor:
        return -2 * self.alpha(t) ** 2 * self._log_alpha_rate(t)

    def time(self, log_snr: Time) -> Tensor:
        return self._time_of(-torch.asinh(0.5 * torch.exp(-_tensor(log_snr))))


@dataclass(frozen=True)
class KineticOptimal(_LogRatio):
    """The Gaussian path of least kinetic energy for data of a given separation Λ.

        α = r sin θ,  σ = r cos θ,   KE/d = ∫ ṙ² + r² ℓ(θ) θ̇² dt,   ℓ = (Λ − sin²θ)/cos²θ,   tan θ = α/σ

    with Λ(θ) = E‖E[x₁ | x_t]‖²/d for centred data of unit variance. With φ = ∫₀^θ √ℓ the metric is flat, so the best
    path is a straight line at constant speed: r and φ are the polar coordinates of (1 − t)(1, 0) + t (cos Φ, sin Φ),
    Φ = φ(π/2), and θ follows from √ℓ θ̇ = sin Φ/r². Λ is E[λ² sin²θ/(λ sin²θ + cos²θ)] over the eigenvalues λ of a
    Gaussian law, or a table. Λ ≡ 1 (many, well separated data) gives `linear`; N(0, I) data give `trigonometric`.

    Exactness: optimal up to the interpolation of √ℓ, linear between 513 angles or those of the table.
    Cost: one table for each Λ, then a search in it per call; with inverse.
    Bias: none: any schedule is exact. √ℓ is kept above 1e-4 of its maximum, so that θ(t) does not jump.
    Args:
        eigenvalues: spectrum of the covariance of the data, up to a factor [data units²].
        separation: Λ at angles θ equidistant on [0, π/2], both ends included, e.g. from `data_separation`; where given,
            the eigenvalues are not used.
    Raises:
        ValueError: a table of fewer than three angles.
    Source: Shaul et al. (2023), On kinetic optimal probability paths for generative models; ℓ and φ derived here.
    """

    eigenvalues: tuple[Positive, ...] = (1.0, 0.5, 0.25, 0.125, 0.0625)
    separation: tuple[Fraction, ...] = ()

    def __post_init__(self) -> None:
        if len(self.separation) in (1, 2) or not (self.separation or self.eigenvalues):
            raise ValueError(
                f"a separation needs at least three angles, or eigenvalues in its place, got {self.separation} and "
                f"{self.eigenvalues}. Make the table with data_separation()."
            )

    @property
    def _tables(self) -> tuple[Tensor, Tensor, Tensor]:
        return _angles(() if self.separation else tuple(self.eigenvalues), tuple(self.separation))

    @property
    def span(self) -> float:
        """Φ, between 0 (N(0, I) data) and π/2 (well separated data)."""
        return float(self._tables[2][-1])

    @property
    def kinetic_energy(self) -> float:
        """The least possible ∫ E‖velocity‖² dt / d, 4 sin²(Φ/2)."""
        return 4 * math.sin(0.5 * self.span) ** 2

    def _polar(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """r, θ and dφ/dθ at time t."""
        x, y = 1 - t + t * math.cos(self.span), t * math.sin(self.span)
        angles, slopes, arcs = (table.to(t) for table in self._tables)
        r = (x**2 + y**2).sqrt()
        arc = 2 * torch.atan(y / (r + x))  # of (x, y), by half angles; see `_logistic` for why not atan2 and hypot
        k = (torch.searchsorted(arcs, arc.detach(), right=True) - 1).clamp(0, len(arcs) - 2)
        bend = (slopes[k + 1] - slopes[k]) / (angles[k + 1] - angles[k])
        slope = (slopes[k] ** 2 + 2 * bend * (arc - arcs[k])).clamp_min(0).sqrt()
        theta = angles[k] + 2 * (arc - arcs[k]) / (slopes[k] + slope)
        return r, theta.clamp(0, RIGHT), slope

    def alpha(self, t: Time) -> Tensor:
        r, theta, _ = self._polar(_tensor(t))
        return r * torch.sin(theta)

    def sigma(self, t: Time) -> Tensor:
        r, theta, _ = self._polar(_tensor(t))
        return r * torch.sin(RIGHT - theta)  # cos θ, exactly 0 at θ = π/2

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """θ, ṙ and r θ̇."""
        r, theta, slope = self._polar(t)
        chord = 2 * math.sin(0.5 * self.span)
        return theta, chord**2 * (t - 0.5) / r, math.sin(self.span) / (r * slope)

    def alpha_rate(self, t: Time) -> Tensor:
        theta, outward, around = self._rates(_tensor(t))
        return outward * torch.sin(theta) + around * torch.cos(theta)

    def sigma_rate(self, t: Time) -> Tensor:
        theta, outward, around = self._rates(_tensor(t))
        return outward * torch.cos(theta) - around * torch.sin(theta)

    def time(self, log_snr: Time) -> Tensor:
        theta = torch.atan(torch.exp(_tensor(log_snr)))
        angles, slopes, arcs = (table.to(theta) for table in self._tables)
        k = (torch.searchsorted(angles, theta.detach(), right=True) - 1).clamp(0, len(arcs) - 2)
        bend = (slopes[k + 1] - slopes[k]) / (angles[k + 1] - angles[k])
        step = theta - angles[k]
        arc = arcs[k] + step * (slopes[k] + 0.5 * bend * step)
        return torch.sin(arc) / (torch.sin(self.span - arc) + torch.sin(arc))


@functools.lru_cache(maxsize=64)
def _angles(eigenvalues: tuple[float, ...], separation: tuple[float, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """θ, √ℓ and φ = ∫√ℓ at the nodes: √ℓ is linear between them, φ its exact integral."""
    theta = torch.linspace(0, RIGHT, len(separation) or 513, dtype=torch.float64)
    sine, cosine = theta.sin() ** 2, theta.cos() ** 2
    if separation:
        ratio = 1 - (1 - torch.tensor(separation, dtype=torch.float64)) / cosine
        ratio[-1] = 2 * ratio[-2] - ratio[-3]  # 0/0 at θ = π/2
    else:
        values = torch.tensor(eigenvalues, dtype=torch.float64)
        values = (values / values.mean())[:, None]
        ratio = sine * cosine * ((1 - values) ** 2 / (cosine + values * sine)).mean(0)  # (Λ − sin²)/cos², rearranged
    slopes = ratio.clamp(0, 1).sqrt()
    slopes = slopes.clamp_min(max(1e-6, 1e-4 * float(slopes.max())))
    arcs = torch.cat([theta.new_zeros(1), (0.5 * (slopes[1:] + slopes[:-1]) * theta.diff()).cumsum(0)])
    return theta, slopes, arcs


def data_separation(denoiser: Denoiser, data: Tensor, stream: Stream, n_angles: int = 65) -> tuple[float, ...]:
    """Λ(θ) = E‖E[x₁ | x_t]‖²/E‖x₁‖², the share of the data's variance that a noisy state tells, from a denoiser.

        Λ = 1 − E‖x₁ − D(x_t, t)‖²/E‖x₁ − m‖²,   tan θ = s α/σ

    Args:
        denoiser: any; for the law of the data rather than of the points an `EmpiricalDenoiser` was made of, its points
            must not be among `data`.
        data: x₁, shape (n, *shape); the error of Λ falls as n^(−1/2).
        stream: random numbers.
        n_angles: number of angles θ, equidistant on [0, π/2].

    Returns:
        The table that `KineticOptimal(separation=...)` takes.

    Raises:
        ValueError: a schedule that does not reach the noise levels of the first or last angle.
    Source: Shaul et al. (2023), the data separation function; as the loss of a denoiser: derived here.
    """
    schedule = denoiser.schedule
    variance = (data - data.mean(0)).square().mean()
    theta = torch.linspace(0, RIGHT, n_angles, dtype=torch.float64)[1:-1]
    times = schedule.time(theta.tan().log() - 0.5 * variance.double().log())
    if not (times.min() >= 0 and times.max() <= 1):
        raise ValueError(
            f"{n_angles} angles need noise ratios from {math.tan(float(theta[0])):.3g} to its inverse, beyond "
            f"{schedule}. Take fewer angles, or a schedule that reaches further, e.g. Converted(denoiser, Linear())."
        )
    values = []
    for step, t in enumerate(times.tolist()):
        noise = stream.normal(len(data), data.shape[1:], step=step, dtype=data.dtype, device=data.device)
        x = float(schedule.alpha(t)) * data + float(schedule.sigma(t)) * noise
        values.append(float(1 - (data - denoiser(x, t)).square().mean() / variance))
    return (0.0, *(min(max(value, 0.0), 1.0) for value in values), 1.0)


@dataclass(frozen=True)
class Follmer:
    """The interpolant from a point to a law that forecasters use, in the frame of the point: a process born at 0.

        x_s = (1 − s) u_0 + s^p u_1 + ε (1 − s) √s z,   so x_s − (1 − s) u_0 = α u_1 + σ z
        α = t^p,   σ = ε (1 − t) √t

    Both vanish at t = 0, and σ/α grows without limit: given the point u_0 this is a diffusion model of u_1 in another
    time. `reverse_sde` at noise level 1 has g² = 2σ²(α̇/α − σ̇/σ) = 2sσ_s(σ_s α̇/α − σ̇_s) − σ_s² with σ_s = ε(1 − s),
    which is the Föllmer process, of least relative entropy to the point's own diffusion; at noise level 0 it is the
    flow, and any level between has the same laws.

    Exactness: closed form; its inverse by Newton's method, to rounding.
    Cost: closed form.
    Bias: none; σ̇ is infinite at t = 0, so grids start at a large σ/α, as for every schedule.
    Args:
        power: p, > 1/2; 2 is the published choice.
        noise: ε [data standard deviations].
    Source: Chen, Goldstein, Hua, Albergo, Boffi and Vanden-Eijnden (2024), Probabilistic forecasting with stochastic
        interpolants and Föllmer processes; that it is `reverse_sde` is derived here and tested in tests/laws.
    """

    power: Annotated[float, Field(gt=0.5)] = 2.0
    noise: Positive = 1.0

    def alpha(self, t: Time) -> Tensor:
        return _power(float64(t), self.power)

    def sigma(self, t: Time) -> Tensor:
        t = float64(t)
        return self.noise * (1 - t) * t.sqrt()

    def alpha_rate(self, t: Time) -> Tensor:
        return self.power * _power(float64(t), self.power - 1)

    def sigma_rate(self, t: Time) -> Tensor:
        t = float64(t)
        return self.noise * (0.5 * (1 - t) / t.sqrt() - t.sqrt())

    def log_snr(self, t: Time) -> Tensor:
        t = float64(t)
        return (self.power - 0.5) * t.log() - (-t).log1p() - math.log(self.noise)

    def time(self, log_snr: Time) -> Tensor:
        wanted = float64(log_snr).clamp(-700, 700) + math.log(self.noise)
        y = wanted.clone()  # t = sigmoid(y): λ(y) has slopes between p − 1/2 and 1 only
        for _ in range(NEWTON):
            t = _logistic(y)
            value = _softplus(y) - (self.power - 0.5) * _softplus(-y)
            y = y - (value - wanted) / ((self.power - 0.5) * (1 - t) + t)
        return _logistic(y)


def _softplus(y: Tensor) -> Tensor:
    """log(1 + e^y), the same bits wherever a number stands in a tensor (see `_variance_preserving_log_alpha`)."""
    return y.clamp_min(0) + torch.exp(-y.abs()).log1p()
