"""Gaussian teleportation: the first steps of a generation in closed form, from nothing but the moments of the data.

At high noise every data set looks like its Gaussian. The probability flow of a Gaussian is known, so the flow is
solved by it down to the noise level where the model starts to differ; only from there on are network calls needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.schedule import Schedule
from sciflow.random import Stream
from sciflow.search.reference import FLOAT32


def _levels(schedule: Schedule, t: float) -> tuple[float, float]:
    return float(schedule.alpha(t)), float(schedule.sigma(t))


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of data, C = U diag(λ) Uᵀ + f (I − U Uᵀ).

    Args:
        mean: μ, shape (*shape).
        variances: λ, shape (r,).
        directions: U with orthonormal columns, shape (d, r); fewer columns than d where the data span less.
        floor: f, the variance in every other direction; 0 where the data have none [squared data units].
    """

    mean: Tensor
    variances: Tensor
    directions: Tensor
    floor: float = 0.0

    @classmethod
    def of(cls, data: Tensor, rank: int | None = None) -> Moments:
        """The moments of a sample, shape (n, *shape).

        n points span at most n − 1 directions. With a `rank`, the rest of the variance is spread evenly over the
        directions that are left out.

        Raises:
            ValueError: fewer than two points, or a rank they cannot have.
        """
        n, flat = len(data), data.double().flatten(1)
        most = min(n - 1, flat.shape[1])
        if n < 2 or (rank is not None and not 1 <= rank <= most):
            raise ValueError(f"moments need two points and 1 ≤ rank ≤ {max(most, 1)}, got {n} points, rank {rank}.")
        mean = flat.mean(0)
        _, values, vectors = torch.linalg.svd((flat - mean) / (n - 1) ** 0.5, full_matrices=False)
        variances = values[:most] ** 2
        kept = int((variances > variances[0] * 1e-14).sum()) if rank is None else rank
        left = flat.shape[1] - kept
        floor = float(variances[kept:].sum()) / left if rank is not None and left else 0.0
        return cls(mean.reshape(data.shape[1:]), variances[:kept], vectors[:kept].T.contiguous(), floor)

    @classmethod
    def of_law(cls, mean: Tensor, covariance: Tensor) -> Moments:
        """The moments of a law that are known: mean (d,), covariance (d, d)."""
        variances, directions = torch.linalg.eigh(covariance)
        return cls(mean, variances.clamp_min(0), directions)

    @classmethod
    def of_model(
        cls, denoiser: Denoiser, t: float, stream: Stream, n: int | None = None, like: Tensor = FLOAT32
    ) -> Moments:
        """The moments that a model shows at a noisy time, where its answer is linear in the state.

            D = μ + K (x − αμ),   K = α C (α² C + σ²)⁻¹   ⇒   C = (σ²/α) K (1 − αK)⁻¹

        K by least squares over draws of x_t: exact on a Gaussian from d + 1 draws, else off by the `departure` there.

        Args:
            denoiser: the model, guided or not.
            t: the noisiest time of the grid.
            stream: random numbers of the draws.
            n: draws; None is 2 d + 64, for d + 1 alone would fit what is not linear, too.
            like: tensor of the dtype and on the device of the model.
        Raises:
            ValueError: fewer than d + 1 draws, or α = 0, where the answer is μ alone.
        Source: derived.
        """
        size, (alpha, sigma) = math.prod(denoiser.shape), _levels(denoiser.schedule, t)
        n = 2 * size + 64 if n is None else n
        if n <= size or alpha == 0:
            raise ValueError(
                f"a model shows the moments of {size} numbers to {size + 1} draws or more, where α > 0; got {n} draws "
                f"at α = {alpha:g}. Raise n, or start the grid later."
            )
        with torch.no_grad():
            x = denoiser.initial(t, n, stream, like.dtype).to(like.device)
            states, values = (part.flatten(1).double().cpu() for part in (x, denoiser(x, t)))
        centred, answer = states - states.mean(0), values - values.mean(0)
        slope = torch.linalg.lstsq(centred, answer).solution
        shares, directions = torch.linalg.eigh(0.5 * (slope + slope.T))
        left = (1 - alpha * shares).clamp_min(torch.finfo(torch.float64).eps)
        own = (values.mean(0) - 0.5 * (slope + slope.T) @ states.mean(0)) @ directions
        mean = directions @ (own / left)
        return cls(mean.reshape(denoiser.shape), (sigma**2 / alpha * shares / left).clamp_min(0), directions)

    def scaled(self, x: Tensor, inner: Tensor, outer: float) -> Tensor:
        """U diag(inner) Uᵀ x + outer (I − U Uᵀ) x, row by row, so that no row depends on another."""
        basis, scale = self.directions.to(x.device, x.dtype), (inner - outer).to(x.device, x.dtype)
        rows = [outer * row + basis @ (scale * (basis.T @ row)) for row in x.flatten(1)]
        return torch.stack(rows).reshape(x.shape) if rows else x.clone()


@dataclass(frozen=True)
class MomentDenoiser:
    """E[x₁ | x_t] as if the data were Gaussian with these moments.

        D = μ + U diag(αλ/(α²λ + σ²)) Uᵀ (x − αμ),   and the same with f in place of λ across

    Args:
        moments: of the data.
        schedule: noise levels.
    """

    moments: Moments
    schedule: Schedule

    def __call__(self, x: Tensor, t: float) -> Tensor:
        alpha, sigma = _levels(self.schedule, t)
        mean, values, floor = self.moments.mean.to(x.device, x.dtype), self.moments.variances, self.moments.floor
        inner = alpha * values / (alpha**2 * values + sigma**2)
        outer = alpha * floor / (alpha**2 * floor + sigma**2)
        return mean + self.moments.scaled(x - alpha * mean, inner, outer)


def teleport(x: Tensor, moments: Moments, schedule: Schedule, s: float, t: float) -> Tensor:
    """The probability flow of a Gaussian from time s to time t, in closed form and without a network call.

        x_t = α_t μ + U diag(√((α_t² λ + σ_t²)/(α_s² λ + σ_s²))) Uᵀ (x_s − α_s μ)
              + √((α_t² f + σ_t²)/(α_s² f + σ_s²)) (I − U Uᵀ)(x_s − α_s μ)

    With f = 0, data of less than full rank, the last factor is σ_t/σ_s: stop before σ_t = 0, where every sample would
    fall onto the span of the data.

    Args:
        x: states at time s, shape (batch, *shape).
        moments: of the data.
        schedule: noise levels.
        s: time of x.
        t: time to carry it to; either direction.
    Raises:
        ValueError: data without variance in some direction, taken to or from σ = 0.
    Source: Wang and Vastola (2024), The unreasonable effectiveness of Gaussian score approximation; derived here.
    """
    (alpha_s, sigma_s), (alpha_t, sigma_t) = _levels(schedule, s), _levels(schedule, t)
    mean = moments.mean.to(x.device, x.dtype)
    values = moments.variances.double()
    is_full = values.numel() == mean.numel()
    least = float(values.min()) if is_full else min(moments.floor, float(values.min()))
    if min(alpha_s**2 * least + sigma_s**2, alpha_t**2 * least + sigma_t**2) <= 0:
        raise ValueError(
            f"the data have no variance in some direction, so t = {s if sigma_s == 0 else t:g} without noise cannot "
            "be reached by the Gaussian flow. Teleport to an earlier time."
        )
    inner = ((alpha_t**2 * values + sigma_t**2) / (alpha_s**2 * values + sigma_s**2)).sqrt()
    floor = moments.floor
    outer = 1.0 if is_full else ((alpha_t**2 * floor + sigma_t**2) / (alpha_s**2 * floor + sigma_s**2)) ** 0.5
    return alpha_t * mean + moments.scaled(x - alpha_s * mean, inner, outer)


def departure(
    denoiser: Denoiser, moments: Moments, data: Tensor, times: Sequence[float] | Tensor, stream: Stream
) -> Tensor:
    """How far the model is from its Gaussian at each time, between 0 and about 1, shape (len(times),).

        r(t) = E‖D_model − D_Gauss‖² / E‖D_model − μ‖²,   x_t = α x₁ + σ z with the same z at all times

    It falls as σ⁻² for skewed and as σ⁻⁴ for symmetric data. Costs one call of all rows of `data` per time.

    Args:
        denoiser: the model.
        moments: of the data.
        data: some hundreds of data, shape (n, *shape).
        times: where to look.
        stream: random numbers.
    Source: derived; the expansion of D in Hermite polynomials of (x − μ)/σ.
    """
    schedule, gauss = denoiser.schedule, MomentDenoiser(moments, denoiser.schedule)
    noise = stream.normal(len(data), data.shape[1:], dtype=data.dtype).to(data.device)
    ratios = []
    with torch.no_grad():
        for t in [float(t) for t in times]:
            alpha, sigma = _levels(schedule, t)
            x = alpha * data + sigma * noise
            model = denoiser(x, t)
            centred = model - moments.mean.to(model.device, model.dtype)
            ratios.append(((model - gauss(x, t)).square().sum() / centred.square().sum()).double())
    return torch.stack(ratios).cpu()


def skipped(departures: Tensor, tolerance: float = 1e-3) -> int:
    """The index of the last time at which, and before which, the model is Gaussian to the tolerance; 0 if none is."""
    beyond = (departures > tolerance).nonzero()
    first = int(beyond[0]) if len(beyond) else len(departures)
    return max(first - 1, 0)


def teleported(
    x: Tensor, moments: Moments, schedule: Schedule, times: Sequence[float] | Tensor, index: int
) -> tuple[Tensor, list[float]]:
    """The state at times[index] and the grid that is left: what `solve` takes instead of x and times."""
    grid = [float(t) for t in times]
    return teleport(x, moments, schedule, grid[0], grid[index]), grid[index:]


@dataclass(frozen=True)
class Teleport:
    """Leave out the first steps of a grid where the model, guided or not, answers as if the data were Gaussian.

        x at the last time with r(t) ≤ tolerance, by `teleport`, with the moments that the model shows at the first

    Exactness: exact where the model is Gaussian at these levels, as every model of data is at high noise. A guided one
        is where the prior is: the guidance of a skewed prior is not linear at any level, and nothing is left out.
    Cost: 2 d + 64 calls once for d numbers in an event, and n_samples more for each step left out and two besides: it
        saves calls where draws are many more than d.
    Bias: of relative size √tolerance in what the model says at the levels left out.
    Args:
        tolerance: largest departure r from the Gaussian, between 0 and about 1.
        n_samples: states that r is averaged over.
    Raises:
        ValueError: a grid that starts at α = 0.
    Source: Wang and Vastola (2024), The unreasonable effectiveness of Gaussian score approximation; the rule is ours.
    """

    tolerance: Annotated[float, Field(gt=0)] = 1e-3
    n_samples: Annotated[int, Field(ge=2)] = 32

    def __call__(
        self, denoiser: Denoiser, x: Tensor, times: Sequence[float] | Tensor, stream: Stream
    ) -> tuple[Tensor, list[float]]:
        """The state at the time that was reached, and the grid that is left; at least one step is."""
        grid = [float(t) for t in times]
        moments = Moments.of_model(denoiser, grid[0], stream.child("moments"), like=x)
        draws = stream.child("data").normal(self.n_samples, x.shape[1:], dtype=x.dtype, device=x.device)
        spread = moments.scaled(draws, moments.variances.sqrt(), moments.floor**0.5)
        data, noise = moments.mean.to(x.device, x.dtype) + spread, stream.child("noise")
        reached = 0
        for t in grid[:-1]:
            if float(departure(denoiser, moments, data, [t], noise)) > self.tolerance:
                break
            reached += 1
        return teleported(x, moments, denoiser.schedule, grid, max(reached - 1, 0))
