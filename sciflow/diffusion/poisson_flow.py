"""PFGM++: diffusion whose noise is a heavy-tailed Student t law, with D augmented dimensions.

    p(x_t | x₁) ∝ (‖x_t − α x₁‖² + r²)^{−(N+D)/2},   r = σ √D

which is x_t = α x₁ + σ z √(D/χ²_D) with one χ²_D per event. D → ∞ is Gaussian diffusion, D = 1 the Poisson flow of a
charge in one more dimension. In (y, u) = (x/α, σ/α) its flow is dy/du = (y − E[x₁ | x_t])/u, the same ordinary
differential equation as that of diffusion, so that every solver of the probability flow is a solver of this one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.loss import regression_error
from sciflow.diffusion.network import NetworkDenoiser
from sciflow.diffusion.schedule import Positive, Schedule
from sciflow.random import Stream
from sciflow.types import Time, broadcast, placed

PROPOSALS = 16  # each is refused with a probability below 0.05: all of them, never


def log_chi_square(n: int, dimension: float, stream: Stream, **options: Any) -> Tensor:
    """n draws of log(χ²_D/D), float64, shape (n,); 0 for D = ∞.

    In logarithms neither D → ∞ nor D → 0 overflows. Each row has its own fixed number of proposals, so that row k does
    not depend on the others.

    Source: Marsaglia and Tsang (2000), A simple method for generating gamma variables.
    """
    options = {**options, "dtype": torch.float64}
    z = stream.child("gamma").normal(n, (PROPOSALS,), **options)
    u = stream.child("accept").uniform(n, (PROPOSALS + 1,), **options).clamp_min(1e-300).log()
    if math.isinf(dimension):
        return torch.zeros_like(z[:, 0])
    half = 0.5 * dimension
    d = (half if half >= 1 else half + 1) - 1 / 3
    log_v = torch.log((1 + z / math.sqrt(9 * d)).clamp_min(1e-300))
    accepted = u[:, :-1] < 0.5 * z**2 - d * (torch.expm1(3 * log_v) - 3 * log_v)
    first = accepted.to(torch.uint8).argmax(1, keepdim=True)
    log_gamma = math.log(d / half) + 3 * log_v.gather(1, first)[:, 0]
    return log_gamma if half >= 1 else log_gamma + u[:, -1] / half


def student_noise(n: int, shape: tuple[int, ...], dimension: float, stream: Stream, **options: Any) -> Tensor:
    """z √(D/χ²_D), z standard normal: the noise of one event has one χ²_D. Shape (n, *shape).

    Its radius is R with R²/(R² + D) ~ Beta(N/2, D/2).

    Args:
        n: rows.
        shape: event shape.
        dimension: D, > 0; `math.inf` for Gaussian noise.
        stream: random numbers; options as those of `Stream.normal`.
    Source: Xu et al. (2023), PFGM++: unlocking the potential of physics-inspired generative models; there as a
        ratio of two gamma variables.
    """
    z = stream.child("direction").normal(n, shape, **options)
    log_ratio = log_chi_square(n, dimension, stream.child("radius"), **options)
    return z * torch.exp(-0.5 * log_ratio).to(z.dtype).reshape(-1, *[1] * len(shape))


@dataclass(frozen=True)
class PoissonFlowDenoiser:
    """The exact denoiser of a finite data set under the noise of PFGM++.

        D(x) = Σ_i r_i(x) x_i,   r_i ∝ (1 + ‖x − α x_i‖²/(D σ²))^{−(N+D)/2}

    Exactness: exact for σ > 0.
    Cost: one distance to each point per row.
    Bias: none; its samples are the points themselves.
    Args:
        points: x_i, shape (n, *shape).
        schedule: noise levels.
        dimension: D; `math.inf` is `EmpiricalDenoiser` with width 0.
    Source: Xu et al. (2023), PFGM++, for a finite data set.
    """

    points: Tensor
    schedule: Schedule
    dimension: Positive = 2048.0

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.points.shape[1:])

    def initial(self, t: float, n: int, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
        """Exact draws of α x₁ + σ x₀, x₀ of Student's t law."""
        alpha, sigma = float(self.schedule.alpha(t)), float(self.schedule.sigma(t))
        index = (stream.child("point").uniform(n, dtype=torch.float64) * len(self.points)).long()
        noise = student_noise(n, self.shape, self.dimension, stream.child("base"), dtype=dtype)
        return alpha * self.points.to(dtype)[index] + sigma * noise

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        points, flat = placed(self.points, x.device, x.dtype).flatten(1), x.flatten(1)
        alpha, sigma = (level(t).to(x.dtype) for level in (self.schedule.alpha, self.schedule.sigma))
        if alpha.ndim:
            distance = _distance(flat[:, None], alpha[:, None, None] * points)[:, 0]
        else:
            distance = _distance(flat, alpha * points)
        squared = (distance / broadcast(sigma, flat)) ** 2
        if math.isinf(self.dimension):
            log_weights = -0.5 * squared
        else:
            log_weights = -0.5 * (flat.shape[1] + self.dimension) * torch.log1p(squared / self.dimension)
        return (log_weights.softmax(-1) @ points).reshape(x.shape)


def _distance(x: Tensor, points: Tensor) -> Tensor:
    return torch.cdist(x, points, compute_mode="donot_use_mm_for_euclid_dist")


@dataclass(frozen=True)
class PoissonFlowPrior:
    """A denoiser trained with the noise of PFGM++, started from the law it was trained for.

        x_t = σ z √(D/χ²_D) at the noisy end

    Exactness: as far as α_t is negligible there.
    Cost: that of the denoiser.
    Bias: none is added.
    Args:
        denoiser: e.g. a network trained with the loss `poisson_flow`.
        dimension: its D.
    Source: Xu et al. (2023), PFGM++: its prior.
    """

    denoiser: Denoiser
    dimension: Positive = 2048.0

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    @property
    def shape(self) -> tuple[int, ...]:
        return self.denoiser.shape

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        return self.denoiser(x, t)

    def initial(self, t: float, n: int, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
        return float(self.schedule.sigma(t)) * student_noise(n, self.shape, self.dimension, stream, dtype=dtype)


@dataclass(frozen=True)
class PoissonFlow:
    """Denoising with the noise of PFGM++, whose heavy tails make samplers forgive errors at D of some hundreds.

        E ‖D(x₁ + u x₀) − x₁‖²/c_out²,   x₀ = z √(D/χ²_D),   log(u/s) ~ N(mean, spread²)

    Exactness: its minimiser is the posterior mean under that noise, at every level.
    Cost: 1 network call per row.
    Bias: a sampler that starts from Gaussian noise in place of `PoissonFlowPrior` errs by O(N/D) there; the stochastic
        samplers, guidance and evidence of Gaussian noise are not those of this process.
    Args:
        dimension: D, the number of augmented dimensions; large D approaches `denoising`.
        mean: mean of log(u/s).
        spread: standard deviation of log(u/s).
    Source: Xu et al. (2023), PFGM++, with the noise levels of EDM: r = σ√D.
    """

    dimension: Positive = 2048.0
    mean: float = -0.5
    spread: Annotated[float, Field(gt=0)] = 1.4

    def __call__(self, denoiser: NetworkDenoiser, x1: Tensor, stream: Stream, step: int, first: int = 0) -> Tensor:
        options: dict[str, Any] = {"step": step, "first": first, "dtype": x1.dtype, "device": x1.device}
        ratio = (self.mean + self.spread * stream.child("level").normal(len(x1), **options)).exp()
        shape = tuple(x1.shape[1:])
        noise = student_noise(len(x1), shape, self.dimension, stream.child("noise"), **options)
        return regression_error(denoiser, x1, ratio, noise)
