"""Two-sided stochastic interpolants: from any law to any other, with noise of their own in between.

    x_t = a x₀ + b x₁ + γ z,   x₀ ~ base law,  x₁ ~ data,  z standard normal,   γ_0 = γ_1 = 0

Two conditional means say everything: the velocity v = E[ȧ x₀ + ḃ x₁ | x_t] and the noise η = E[z | x_t] (plus sign).
The score is s = −η/γ, and γ̇ η = −γγ̇ s: at the ends γ̇ may be infinite, but γγ̇ and s are not, so only these are used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from sciflow.diffusion.mixture import GaussianMixture
from sciflow.diffusion.schedule import Positive
from sciflow.random import Stream
from sciflow.solvers.dynamics import Equation
from sciflow.types import Time, broadcast, float64

Regression = Callable[[Tensor, Time], Tensor]


class Weights(NamedTuple):
    """a, b, their rates, γ and γγ̇, in float64, shaped like the times."""

    base: Tensor
    data: Tensor
    base_rate: Tensor
    data_rate: Tensor
    gamma: Tensor
    product: Tensor


class Draw(NamedTuple):
    """A state, and the two targets whose conditional means are v and η; all shaped like the data."""

    x: Tensor
    velocity: Tensor
    noise: Tensor


@dataclass(frozen=True)
class TwoSided:
    """The coefficients of a two-sided interpolant.

        linear: a = 1 − t, b = t          trigonometric: a = cos(πt/2), b = sin(πt/2)
        brownian: γ² = c t (1 − t)        sine: γ² = c sin⁴(πt)

    Exactness: x_0 = x₀ and x_1 = x₁.
    Cost: closed form.
    Bias: none.
    Args:
        path: a and b.
        noise: γ; that of a Brownian bridge, or one whose rate vanishes at both ends.
        scale: c, of the square of γ [data units²].
    Source: Albergo, Boffi and Vanden-Eijnden (2023), Stochastic interpolants: a unifying framework for
        flows and diffusions.
    """

    path: Literal["linear", "trigonometric"] = "linear"
    noise: Literal["brownian", "sine"] = "brownian"
    scale: Positive = 1.0

    def weights(self, t: Time) -> Weights:
        t = float64(t)
        if self.path == "linear":
            path = 1 - t, t, -torch.ones_like(t), torch.ones_like(t)
        else:
            angle = 0.5 * math.pi * t
            sine, cosine = torch.sin(angle), torch.sin(0.5 * math.pi * (1 - t))
            path = cosine, sine, -0.5 * math.pi * sine, 0.5 * math.pi * cosine
        if self.noise == "brownian":
            return Weights(*path, (self.scale * t * (1 - t)).sqrt(), 0.5 * self.scale * (1 - 2 * t))
        sine, cosine = torch.sin(math.pi * t), torch.cos(math.pi * t)
        sine = torch.where(t < 1, sine, 0.0)  # sin π is not 0 in floating point
        return Weights(*path, math.sqrt(self.scale) * sine**2, 2 * math.pi * self.scale * sine**3 * cosine)

    def draw(self, x0: Tensor, x1: Tensor, t: Time, z: Tensor) -> Draw:
        """The state a x₀ + b x₁ + γ z, with the targets ȧ x₀ + ḃ x₁ and z."""
        a, b, a_rate, b_rate, gamma, _ = (broadcast(weight, x1) for weight in self.weights(t))
        return Draw(a * x0 + b * x1 + gamma * z, a_rate * x0 + b_rate * x1, z)


class TwoSidedModel(Protocol):
    """The velocity v(x, t) and the score s(x, t) of a two-sided interpolant, finite at both ends.

    Attributes:
        interpolant: its coefficients.
    """

    @property
    def interpolant(self) -> TwoSided: ...
    def velocity(self, x: Tensor, t: Time) -> Tensor: ...
    def score(self, x: Tensor, t: Time) -> Tensor: ...


def velocity_loss(
    interpolant: TwoSided, velocity: Regression, x0: Tensor, x1: Tensor, stream: Stream, step: int = 0
) -> Tensor:
    """E ‖v̂(x_t, t) − (ȧ x₀ + ḃ x₁)‖² per element at uniform times, one number per row; its minimiser is v.

    Source: Albergo et al. (2023), Stochastic interpolants, section 2, the objective of v, completed to a square.
    """
    draw, t = _at_random_times(interpolant, x0, x1, stream, step)
    return (velocity(draw.x, t) - draw.velocity).square().flatten(1).mean(1)


def noise_loss(
    interpolant: TwoSided, noise: Regression, x0: Tensor, x1: Tensor, stream: Stream, step: int = 0
) -> Tensor:
    """E ‖η̂(x_t, t) − z‖² per element at uniform times, one number per row; its minimiser is η = +E[z | x_t].

    Source: Albergo et al. (2023), Stochastic interpolants, section 2, the objective of η, completed to a square.
    """
    draw, t = _at_random_times(interpolant, x0, x1, stream, step)
    return (noise(draw.x, t) - draw.noise).square().flatten(1).mean(1)


def _at_random_times(interpolant: TwoSided, x0: Tensor, x1: Tensor, stream: Stream, step: int) -> tuple[Draw, Tensor]:
    n, shape = len(x1), x1.shape[1:]
    z = stream.child("noise").normal(n, shape, step=step, dtype=x1.dtype, device=x1.device)
    t = stream.child("time").uniform(n, step=step, dtype=torch.float64).to(x1.device)
    return interpolant.draw(x0, x1, t, z), t


@dataclass(frozen=True)
class RegressedTwoSided:
    """A model made of two regressions, v and η.

        s(x, t) = −η(x, t')/γ(t'),   t' = t, but kept at the margin from both ends, where η and γ vanish together

    Exactness: as good as the regressions.
    Cost: one call of each.
    Bias: O(margin), from the two ends alone.
    Args:
        interpolant: what they were trained with.
        velocity: v, (x, t) → like x.
        noise: η = +E[z | x_t], (x, t) → like x.
        margin: distance from the ends within which the score is taken from the margin.
    Source: Albergo et al. (2023), Stochastic interpolants, section 2.
    """

    interpolant: TwoSided
    velocity: Regression
    noise: Regression
    margin: Positive = 1e-3

    def score(self, x: Tensor, t: Time) -> Tensor:
        inside = float64(t).clamp(self.margin, 1 - self.margin)
        return -self.noise(x, inside) / broadcast(self.interpolant.weights(inside).gamma, x)


@dataclass(frozen=True)
class MixtureTwoSided:
    """The exact model between two independent Gaussian mixtures; one component each makes it Gaussian to Gaussian.

        M = a² C₀ + b² C₁ + γ² I,   w = M⁻¹ (x − a m₀ − b m₁),   for each pair of components, with weight r ∝ N(x; …, M)
        v = Σ r (ȧ m₀ + ḃ m₁ + (aȧ C₀ + bḃ C₁) w),   s = −Σ r w

    Exactness: exact at every time, both ends included.
    Cost: O(k₀ k₁ d³) per time and O(k₀ k₁ d²) per row.
    Bias: none.
    Args:
        interpolant: coefficients.
        base: law of x₀.
        data: law of x₁, independent of x₀; covariances of both positive definite.
    Source: conditional means of jointly Gaussian variables; derived here.
    """

    interpolant: TwoSided
    base: GaussianMixture
    data: GaussianMixture

    def _pairs(self, x: Tensor, t: Time) -> tuple[Tensor, Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """r (n, k), w (n, k, d), the pairs' (m₀, m₁, C₀, C₁), and the weights of `TwoSided` shaped (…, 1, 1)."""
        base, data = self.base.to(x.dtype), self.data.to(x.dtype)
        i, j = torch.cartesian_prod(torch.arange(len(base.weights)), torch.arange(len(data.weights))).reshape(-1, 2).T
        pairs = base.means[i], data.means[j], base.covariances[i], data.covariances[j]
        levels = tuple(weight.to(x)[..., None, None] for weight in self.interpolant.weights(t))
        a, b, gamma = levels[0], levels[1], levels[4]
        residual = x[:, None] - a * pairs[0] - b * pairs[1]
        square = (a**2)[..., None] * pairs[2] + (b**2)[..., None] * pairs[3]
        factor = torch.linalg.cholesky(square + (gamma**2)[..., None] * torch.eye(x.shape[1]).to(x))
        pulled = (torch.cholesky_inverse(factor) @ residual[..., None])[..., 0]
        log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_weights = (base.weights[i] * data.weights[j]).log() - 0.5 * ((residual * pulled).sum(-1) + log_det)
        return log_weights.softmax(-1), pulled, pairs, levels

    def velocity(self, x: Tensor, t: Time) -> Tensor:
        shares, pulled, (mean0, mean1, square0, square1), (a, b, a_rate, b_rate, *_) = self._pairs(x, t)
        spread = (a * a_rate)[..., None] * square0 + (b * b_rate)[..., None] * square1
        rates = a_rate * mean0 + b_rate * mean1 + (spread @ pulled[..., None])[..., 0]
        return (shares[..., None] * rates).sum(1)

    def score(self, x: Tensor, t: Time) -> Tensor:
        shares, pulled, *_ = self._pairs(x, t)
        return -(shares[..., None] * pulled).sum(1)


def expected_data(model: TwoSidedModel, x: Tensor, t: Time) -> Tensor:
    """E[x₁ | x_t = x] = (ȧ (x − γ η) − a v)/(ȧ b − a ḃ), γ η = −γ² s: a last jump from a time before the end.

    Source: the two linear equations x = a E₀ + b E₁ + γ η and v = ȧ E₀ + ḃ E₁.
    """
    a, b, a_rate, b_rate, gamma, _ = (broadcast(weight, x) for weight in model.interpolant.weights(t))
    ends = x + gamma**2 * model.score(x, t)
    return (a_rate * ends - a * model.velocity(x, t)) / (a_rate * b - a * b_rate)


def transport(model: TwoSidedModel) -> Equation:
    """The ODE that carries the base law into the law of the data, and back.

        dx/dt = v + γ̇ η = v − γγ̇ s

    Source: Albergo et al. (2023), Stochastic interpolants, section 2.
    """

    def drift(t: float, x: Tensor) -> Tensor:
        return model.velocity(x, t) - float(model.interpolant.weights(t).product) * model.score(x, t)

    return Equation(drift)


def transport_sde(
    model: TwoSidedModel, noise_level: float | Callable[[float], float] = 1.0, backward: bool = False
) -> Equation:
    """The SDE with the laws of the interpolant and any amount of noise.

        dx = (v + (ε − γγ̇) s) dt + √(2ε) dW                      forward
        dx = (−v + (ε + γγ̇) s) dτ + √(2ε) dW,   t = 1 − τ         backward: from data at τ = 0 to the base at τ = 1

    Args:
        model: velocity and score.
        noise_level: e, for ε = e γ(t), which vanishes at the ends as γ does and keeps ε s = −e η bounded; or a function
            t → ε(t) ≥ 0. Other choices are for models whose score is accurate at the ends.
        backward: run from the data to the base.
    Raises:
        ValueError: negative noise level.
    Source: Albergo et al. (2023), Stochastic interpolants, section 2.
    """
    if not callable(noise_level) and noise_level < 0:
        raise ValueError(f"noise_level must be ≥ 0, got {noise_level}.")

    def epsilon(t: float) -> float:
        if callable(noise_level):
            return noise_level(t)
        return noise_level * float(model.interpolant.weights(t).gamma)

    def drift(clock: float, x: Tensor) -> Tensor:
        t, sign = (1 - clock, -1) if backward else (clock, 1)
        pull = epsilon(t) - sign * float(model.interpolant.weights(t).product)
        return sign * model.velocity(x, t) + pull * model.score(x, t)

    return Equation(drift, lambda clock, x: math.sqrt(2 * epsilon(1 - clock if backward else clock)), "scalar")
