"""Twists that need no network: a linear measurement of the noisy state, and its exact product with the reference.

In the eigenbasis A Aᵀ = U g Uᵀ, with B = Uᵀ A and one row for each measured direction i, the twist of level k is

    h_k(x) = Π_i N(y_k^i; B_i x, S_k^i)   (S = ∞: direction i says nothing at this level)

and the product p(x'|x) h(x') of the reference with it is Gaussian: drawn exactly, its integral in closed form.

    name      y_k      S_k                                        target
    scaled    α_k y    σ_k² g + α_k² σ_y²                         p(x₁) p(y | x₁)
    matched   α_k y    σ_k² g − α_k² σ_y² while > 0, then ∞       p(x₁ | B x_τ = α_τ y), the noise at τ being that of y
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.errors import InputError
from sciflow.inverse.likelihood import GaussianLikelihood
from sciflow.particles.feynman_kac import State
from sciflow.random import Stream
from sciflow.steering.twisted import Move, normal

FLOOR = 1e-6
"""Least variance of a matched direction, in units of α² σ_y²: at its level τ the measurement is met exactly."""


@dataclass(frozen=True)
class MeasuredPath:
    """What was measured of every level, in the eigenbasis of A Aᵀ.

    Args:
        values: y_k, (levels, m), float64.
        variances: S_k, (levels, m), float64.
        scales: α_k, (levels,), float64; densities are those of y_k/α_k, so that directions can end at any level.
        ends_with_likelihood: the last weight holds the true likelihood; else that of the measured path stands for it.
    """

    values: Tensor
    variances: Tensor
    scales: Tensor
    ends_with_likelihood: bool = True


@dataclass(frozen=True)
class NoisedMeasurement:
    """The guide of a measured path: the product of the reference with the next twist, exactly.

        m(x'|x) = p(x'|x) h(x')/∫ p h,   x' = x⁰ + s² Bᵀ (s² g + S)⁻¹ (y_k + √S n − B x⁰),   x⁰ ~ p,   n ~ N(0, I)

    Exactness: weights exact for every path.
    Cost: one denoiser call per look, two applications of A and of U; no backward pass.
    Bias: that of the ancestral chain.
    Args:
        prior: denoiser.
        likelihood: linear, Gaussian, bound.
        levels: times of the chain.
        path: what is measured at each of them.
    Source: Cardoso et al. (2024), Monte Carlo guided diffusion for Bayesian linear inverse problems, section 3; Doucet,
        Godsill and Andrieu (2000), On sequential Monte Carlo sampling methods, for the optimal proposal.
    """

    prior: Denoiser
    likelihood: GaussianLikelihood
    levels: tuple[float, ...]
    path: MeasuredPath

    def look(self, x: Tensor, t: float, stream: Stream) -> State:
        k = self.levels.index(t)
        parts = self._log_density(self._measured(x), k, 0.0)
        return {"data": self.prior(x, t).flatten(1), "log_parts": parts, "log_twist": parts.sum(1)}

    def propose(self, state: State, move: Move, stream: Stream) -> tuple[Tensor, Tensor]:
        k, shape, operator = self.levels.index(move.b), state["x"].shape, self.likelihood.operator
        spectrum, basis = eigenbasis(self.likelihood)
        start = move.mean + move.s * normal(state["x"], stream.child("noise"))
        variance, spread = self.path.variances[k], move.s**2 * spectrum
        draw = stream.child("measurement").normal(len(start), (len(spectrum),), dtype=torch.float64).to(start.device)
        active = variance.isfinite()
        misfit = self.path.values[k] + torch.where(active, variance, 0).sqrt() * draw
        misfit = misfit - self._measured(start.reshape(shape))
        solved = torch.where(active, misfit / (spread + variance), 0)
        moved = start + move.s**2 * operator.adjoint((solved @ basis.T).to(start.dtype)).flatten(1)
        around = self._log_density(self._measured(move.mean.reshape(shape)), k, spread)
        return moved, (around - self._log_density(self._measured(moved.reshape(shape)), k, 0.0)).sum(1)

    def conclude(self, state: State, stream: Stream) -> tuple[Tensor, Tensor]:
        """x₁ = D, and the true likelihood over the last twist; nothing where the path stands for the likelihood."""
        x1 = state["data"].reshape(state["x"].shape)
        if not self.path.ends_with_likelihood:
            return state["data"], torch.zeros_like(state["log_twist"])
        return state["data"], self.likelihood.log_prob(x1).double() - state["log_twist"]

    def _measured(self, x: Tensor) -> Tensor:
        """B x, (n, m), float64."""
        return self.likelihood.operator(x).double() @ eigenbasis(self.likelihood)[1]

    def _log_density(self, measured: Tensor, k: int, extra: Tensor | float) -> Tensor:
        """log N(y_k/α_k; B x/α_k, (S_k + extra)/α_k²) of each direction, (n, m); 0 where it says nothing."""
        scale, variance = self.path.scales[k], self.path.variances[k] + extra
        said = variance.isfinite() & (scale > 0)
        safe = torch.where(said, variance, 1)
        values = -0.5 * (self.path.values[k] - measured) ** 2 / safe - 0.5 * (2 * math.pi * safe).log() + scale.log()
        return torch.where(said, values, 0)


@dataclass(frozen=True)
class Ended:
    """Directions that say nothing at a level keep what they said before; for matched paths.

    Args:
        is_active: which directions say something at each level, bool, (levels, m).
    """

    is_active: Tensor
    needs: ClassVar[tuple[str, ...]] = ("log_parts",)

    def __call__(self, k: int, before: State | None, ahead: State, log_ratio: Tensor) -> State:
        if before is None:
            return ahead
        parts = torch.where(self.is_active[k], ahead["log_parts"], before["log_parts"])
        return {**ahead, "log_parts": parts, "log_twist": parts.sum(1)}


def eigenbasis(likelihood: GaussianLikelihood) -> tuple[Tensor, Tensor]:
    """g (m,) and U (m, m) of A Aᵀ = U diag(g) Uᵀ, float64, where the observation lives."""
    values, vectors = likelihood.operator.gram_basis
    return values.to(likelihood.observation.device), vectors.to(likelihood.observation.device)


def _coefficients(prior: Denoiser, levels: Sequence[float], like: Tensor) -> tuple[Tensor, Tensor]:
    grid = torch.tensor(levels, dtype=torch.float64)
    alpha, sigma = (level(grid).to(like.device)[:, None] for level in (prior.schedule.alpha, prior.schedule.sigma))
    return alpha, sigma


def scaled(prior: Denoiser, likelihood: GaussianLikelihood, levels: Sequence[float]) -> MeasuredPath:
    """The likelihood of a flat prior noised to each level."""
    spectrum, basis = eigenbasis(likelihood)
    alpha, sigma = _coefficients(prior, levels, spectrum)
    values = alpha * (likelihood.observation.double() @ basis)
    return MeasuredPath(values, sigma**2 * spectrum + (alpha * likelihood.sigma) ** 2, alpha[:, 0])


def matched(
    prior: Denoiser, likelihood: GaussianLikelihood, levels: Sequence[float]
) -> tuple[tuple[float, ...], MeasuredPath]:
    """The levels with a τ for each direction, and the path that is met exactly there.

    Raises:
        InputError: a direction whose noise σ_y/√g is beyond that of the first level: no level has it.
    """
    spectrum, basis = eigenbasis(likelihood)
    schedule, sigma_y = prior.schedule, likelihood.sigma
    first = float(schedule.sigma(levels[0])) / max(float(schedule.alpha(levels[0])), 1e-300)
    noises = [sigma_y / math.sqrt(max(g, 1e-300)) for g in spectrum.tolist()]
    if max(noises) >= first:
        raise InputError(
            f"a direction was measured with noise σ_y/√g = {max(noises):.3g} of the data, the first level has "
            f"{first:.3g}. Start the times at more noise, or take fps, which needs no such level."
        )
    own = {float(schedule.time(-math.log(noise))) for noise in {float(f"{noise:.9g}") for noise in noises}}
    grid = tuple(sorted({*levels, *(t for t in own if levels[0] < t < levels[-1])}))
    alpha, sigma = _coefficients(prior, grid, spectrum)
    exact = sigma**2 * spectrum - (alpha * sigma_y) ** 2
    slack = 1e-6 * (alpha * sigma_y) ** 2  # τ is known to rounding
    variances = torch.where(exact >= -slack, exact.clamp_min(FLOOR * (alpha * sigma_y) ** 2), math.inf)
    values = alpha * (likelihood.observation.double() @ basis)
    return grid, MeasuredPath(values, variances, alpha[:, 0], ends_with_likelihood=False)
