"""Posterior samplers that treat each measured direction of A = U S Vᵀ by itself: DDRM and DDNM+."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from sciflow.errors import InputError
from sciflow.inverse.descent import Descent, Problem, kept_noise

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class DDRM(Descent):
    """Denoising diffusion restoration: each measured direction is re-noised from a mixture of y and of D.

        s' < σ̃_i    z'_i = D_i + √(1 − η²) s' (ȳ_i − D_i)/σ̃_i + η s' n
        s' ≥ σ̃_i    z'_i = (1 − η_b) D_i + η_b ȳ_i + √(s'² − η_b² σ̃_i²) n
        unmeasured  z'_i = D_i + √(1 − ζ) s' (z_i − D_i)/s + √ζ s' n,   ζ = 1 − s'²/s², or η² as published

    in coordinates Vᵀ, with z = x_t/α, s = σ/α, σ̃_i = σ_y/s_i and ȳ = S⁻¹ Uᵀ y.

    Target: none
    Exactness: none where something was measured; elsewhere that of the prior as steps → ∞.
    Cost: one denoiser call per level, without backward pass; four applications of A, one decomposition of A Aᵀ.
    Bias: over-confident in measured directions, the more so the more steps: variance → 0 as steps → ∞ for η < 1. With
        the published noise unmeasured variances tend to (1 + √(1 − η²))/2 of what is right.
    Args:
        eta: η, fresh noise where y is noisier than the level [1].
        eta_b: η_b, weight of y where it is not [1].
        published: η in unmeasured directions too, in place of the noise of the time reversal.
    Raises:
        InputError: n < 1, a likelihood that is not linear and Gaussian, or a grid that starts at α = 0.
        NonFiniteError: a draw is NaN or infinite.
    Source: Kawar et al. (2022), Denoising diffusion restoration models, eqs. 7 and 8.
    """

    eta: Share = 0.85
    eta_b: Annotated[float, Field(gt=0, le=1)] = 1.0
    published: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1 or not 0 < self.eta_b <= 1:
            raise InputError(f"DDRM needs eta in [0, 1] and eta_b in (0, 1], got {self.eta} and {self.eta_b}.")

    def begin(self, problem: Problem) -> Tensor:
        z, first, directions = problem.start(), problem.ratios[0], problem.directions
        noise = directions.coordinates(problem.noise(0, "measured start"))
        said = directions.noise < first
        width = (first**2 - directions.noise**2).clamp_min(0).sqrt().to(noise.dtype)
        wanted = directions.target + width * noise
        return z + directions.event(torch.where(said, wanted - directions.coordinates(z), 0))

    def step(self, problem: Problem, z: Tensor, k: int) -> Tensor:
        directions, (before, after) = problem.directions, problem.ratios[k : k + 2]
        data, noise = problem.data(z, k), problem.noise(k)
        kept, added = kept_noise(self.eta**2 if self.published else None, before, after)
        free = data + kept * after / before * (z - data) + added * noise
        if after == 0:
            return free
        wanted = self._measured(directions.coordinates(data), directions.coordinates(noise), problem, after)
        return free + directions.event(wanted - directions.coordinates(free))

    def _measured(self, data: Tensor, noise: Tensor, problem: Problem, after: float) -> Tensor:
        """z' in measured directions."""
        y, sigma = problem.directions.target, problem.directions.noise
        pull = math.sqrt(1 - self.eta**2) * after / sigma
        left = (after**2 - (self.eta_b * sigma) ** 2).clamp_min(0).sqrt()
        weight = torch.where(after < sigma, pull, self.eta_b).to(data.dtype)
        width = torch.where(after < sigma, self.eta * after, left).to(data.dtype)
        return data + weight * (y - data) + width * noise


@dataclass(frozen=True)
class DDNM(Descent):
    """Denoising diffusion null-space model, for noisy measurements (DDNM+), with time travel.

        x̂ = D + V Λ (ȳ − Vᵀ D),   z' = x̂ + √(1 − ζ) s' (z − x̂)/s + Φ n
        a = 1 − √(1 − ζ) s'/s,   λ_i = min(1, √ζ s'/a σ̃_i),   φ_i² = ζ s'² − (a λ_i σ̃_i)²

    The noise of y and the fresh noise add up to that of an unguided step; ζ = 1 − s'²/s² is that of the time reversal.
    In coordinates Vᵀ, with z = x_t/α, s = σ/α, σ̃_i = σ_y/s_i and ȳ = S⁻¹ Uᵀ y.

    Target: none
    Exactness: none where something was measured; elsewhere that of the prior as steps → ∞.
    Cost: n_repeats denoiser calls per level, without backward pass; four applications of A, one decomposition of A Aᵀ.
    Bias: over-confident in measured directions, and drawn to y past the posterior mean: λ does not know the prior. A
        given `zeta` makes unmeasured variances tend to (1 + √(1 − ζ))/2 of what is right.
    Args:
        zeta: ζ, share of the noise that is fresh; null is that of the time reversal.
        n_repeats: times that each step is made, noised up again in between (travel length 1).
    Raises:
        InputError: n < 1, a likelihood that is not linear and Gaussian, or a grid that starts at α = 0.
        NonFiniteError: a draw is NaN or infinite.
    Source: Wang, Yu and Zhang (2023), Zero-shot image restoration using denoising diffusion null-space model, eqs. 17
        to 19 and algorithm 2.
    """

    zeta: Share | None = None
    n_repeats: Annotated[int, Field(gt=0)] = 1

    def __post_init__(self) -> None:
        if not (self.zeta is None or 0 <= self.zeta <= 1) or self.n_repeats < 1:
            got = f"zeta = {self.zeta}, n_repeats = {self.n_repeats}"
            raise InputError(f"DDNM needs zeta in [0, 1], or none, and n_repeats ≥ 1, got {got}.")

    def step(self, problem: Problem, z: Tensor, k: int) -> Tensor:
        before, after = problem.ratios[k : k + 2]
        lower = self._lower(problem, z, k, 0)
        for repeat in range(1, self.n_repeats):
            up = math.sqrt((before - after) * (before + after))
            lower = self._lower(problem, lower + up * problem.noise(k, f"travel {repeat}"), k, repeat)
        return lower

    def _lower(self, problem: Problem, z: Tensor, k: int, repeat: int) -> Tensor:
        directions, (before, after) = problem.directions, problem.ratios[k : k + 2]
        kept, added = kept_noise(self.zeta, before, after)
        own = 1 - kept * after / before
        weight = (added / (own * directions.noise)).clamp_max(1) if own else torch.ones_like(directions.noise)
        said = torch.where(directions.noise.isfinite(), own * weight * directions.noise, 0)
        left = (added**2 - said**2).clamp_min(0).sqrt()
        data, noise = problem.data(z, k), problem.noise(k, f"step {repeat}")
        shift = weight.to(data.dtype) * (directions.target - directions.coordinates(data))
        data = data + directions.event(shift)
        fresh = added * noise + directions.event((left - added).to(data.dtype) * directions.coordinates(noise))
        return data + kept * after / before * (z - data) + fresh
