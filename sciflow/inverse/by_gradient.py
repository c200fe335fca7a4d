"""Posterior samplers that follow the gradient of the likelihood through the denoiser, with path-space weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.errors import InputError
from sciflow.inverse.likelihood import Likelihood
from sciflow.inverse.moments import condition_isotropic, isotropic_variance, linear_gaussian
from sciflow.inverse.steered import SteeredPosterior, tempered
from sciflow.particles.feynman_kac import State
from sciflow.random import Stream
from sciflow.steering.guides import Shifted, Steered, denoised, gradient
from sciflow.steering.memory import Adaptive, Tempered
from sciflow.steering.twisted import Move, Twist, TwistedModel, noisy_levels

Positive = Annotated[float, Field(gt=0)]
TwistName = Literal["denoised", "isotropic"]


def isotropic(prior: Denoiser, likelihood: Likelihood, alpha: float, variance: float | None, user: str) -> Twist:
    """log N(y; A D, r² A Aᵀ + σ_y² I)/alpha, r² = v σ²/(σ² + α² v): the likelihood of isotropic data around D."""
    gaussian = linear_gaussian(likelihood, tuple(prior.shape), user)

    def twist(x: Tensor, t: float, data: Tensor) -> Tensor:
        residual = gaussian.residual(data)
        width = isotropic_variance(prior.schedule, residual, t, variance)
        return condition_isotropic(gaussian, residual, width)[1].double() / alpha

    return twist


def _guide(
    prior: Denoiser, likelihood: Likelihood, alpha: float, twist: TwistName, variance: float | None, user: str
) -> Steered:
    """Gradient proposals for one of the two twists.

    Raises:
        InputError: no such twist.
    """
    if twist not in ("denoised", "isotropic"):
        raise InputError(f"twist must be 'denoised' or 'isotropic', got {twist!r}.")
    reward = tempered(likelihood, prior.shape, alpha)
    own = denoised(reward) if twist == "denoised" else isotropic(prior, likelihood, alpha, variance, user)
    return Steered(prior, reward, own, gradient(prior.schedule), with_force=True)


@dataclass(frozen=True)
class TDS(SteeredPosterior):
    """Twisted diffusion sampler: the likelihood at the denoised state as twist, its gradient as proposal.

        h = p(y | x₁ = D)^{1/alpha} or N(y; A D, r² A Aᵀ + σ_y² I)^{1/alpha},   m = p moved along ∇ log h

    `twisted_smc` is the same with twist and kernels that know Cov[x₁ | x_t]; take it where it can be had.

    Target: (discretised prior) × p(y | x₁)^{1/alpha}
    Exactness: path weights; E[Ẑ] is the target's integral for any steps and particles.
    Cost: particles × levels denoiser calls with 1 backward pass each.
    Bias: O(1/particles) in means, O(step) in the prior's law. With "denoised" log Ẑ collapses in high dimension.
    Args:
        n_particles, eta, spread, resampling, ess_threshold, tile, islands, ranks: as `SteeredPosterior`.
        alpha: temperature: the likelihood counts to the power 1/alpha.
        twist: "denoised": any differentiable likelihood, its spread ignored; "isotropic": linear and Gaussian ones.
        variance: v of "isotropic" [data units²]; null takes the square of the schedule's `std`.
    Raises:
        InputError: options out of range, or a likelihood without gradient.
        NonFiniteError: weights that are not finite; names the step.
    Source: Wu et al. (2023), Practical and asymptotically exact conditional sampling in diffusion models, algorithm 1.
    """

    alpha: Positive = 1.0
    twist: TwistName = "isotropic"
    variance: Positive | None = None

    def model(self, prior: Denoiser, likelihood: Likelihood, times: Tensor | Sequence[float]) -> TwistedModel:
        guide = _guide(prior, likelihood, self.alpha, self.twist, self.variance, type(self).__name__)
        return self._twisted(prior, guide, likelihood, times)


@dataclass(frozen=True)
class DAS(SteeredPosterior):
    """Diffusion alignment as sampling: the twisted diffusion sampler with a tempered twist h^λ, λ from 0 to 1.

        λ_k = min(1, (1 + γ)^k − 1), 1 from `full_at` of the levels on;   adaptive: less where the ESS asks for it

    Target: (discretised prior) × p(y | x₁)^{1/alpha}
    Exactness: path weights; E[Ẑ] is the target's integral for any steps and particles, unless `adaptive`.
    Cost: as `tds`; `adaptive` adds some forty sums over the weights per level.
    Bias: as `tds`; `adaptive` adds O(1/particles) to E[Ẑ], since the powers depend on the particles.
    Args:
        n_particles, eta, spread, resampling, ess_threshold, tile, islands, ranks: as `SteeredPosterior`.
        alpha, twist, variance: as `TDS`.
        full_at: share of the levels after which λ = 1, in (0, 1].
        adaptive: the largest λ up to this that leaves 0.9 of the ESS, by bisection at each level.
    Raises:
        InputError: options out of range, or a likelihood without gradient.
        NonFiniteError: weights that are not finite; names the step.
    Source: Kim et al. (2025), DAS: test-time alignment of diffusion models without reward over-optimization.
    """

    alpha: Positive = 1.0
    twist: TwistName = "denoised"
    variance: Positive | None = None
    full_at: Annotated[float, Field(gt=0, le=1)] = 0.9
    adaptive: bool = False

    @property
    def is_shared(self) -> bool:
        return not self.adaptive

    def model(self, prior: Denoiser, likelihood: Likelihood, times: Tensor | Sequence[float]) -> TwistedModel:
        if not 0 < self.full_at <= 1:
            raise InputError(f"full_at is a share of the levels in (0, 1], got {self.full_at}.")
        last = len(noisy_levels(prior.schedule, times)) - 1
        growth = 2 ** (1 / (self.full_at * max(last, 1)))
        powers = [min(1.0, growth**k - 1) for k in range(last + 1)]
        guide = _guide(prior, likelihood, self.alpha, self.twist, self.variance, type(self).__name__)
        return self._twisted(prior, guide, likelihood, times, Adaptive(powers) if self.adaptive else Tempered(powers))


@dataclass(frozen=True)
class WeightedDPS(SteeredPosterior):
    """Diffusion posterior sampling with its weights: the pull of DPS as the mean of a Gaussian proposal.

        m = p moved along −scale ∇‖y − A D‖/σ_y,   h = N(y; A D, σ_y² I)^{1/alpha}

    The published step ζ ∇‖y − A D‖ is tied to one sampler and its step size; this is the `normalised` rule of the
    guidance `dps`, whose pull is bounded.

    Target: (discretised prior) × p(y | x₁)^{1/alpha}
    Exactness: path weights; E[Ẑ] is the target's integral for any steps and particles.
    Cost: particles × levels denoiser calls with 1 backward pass each.
    Bias: O(1/particles) in means, O(step) in the prior's law; where the weights collapse, that of DPS.
    Args:
        n_particles, eta, spread, resampling, ess_threshold, tile, islands, ranks: as `SteeredPosterior`.
        alpha: temperature: the likelihood counts to the power 1/alpha.
        scale: strength of the pull, ≥ 0 [1].
    Raises:
        InputError: options out of range, or a likelihood that is not linear and Gaussian.
        NonFiniteError: weights that are not finite; names the step.
    Source: Chung et al. (2023), Diffusion posterior sampling, algorithm 1, for the pull.
    """

    alpha: Positive = 1.0
    scale: Annotated[float, Field(ge=0)] = 1.0

    def model(self, prior: Denoiser, likelihood: Likelihood, times: Tensor | Sequence[float]) -> TwistedModel:
        gaussian = linear_gaussian(likelihood, tuple(prior.shape), type(self).__name__)
        reward, along = tempered(gaussian, prior.shape, self.alpha), gradient(prior.schedule)

        def shift(state: State, move: Move, own: Stream) -> Tensor:
            """∇‖r‖/σ_y = (σ_y/‖r‖) ∇‖r‖²/2σ_y², and alpha log h is −‖r‖²/2σ_y² but for a constant."""
            norm = gaussian.residual(state["data"].reshape(state["x"].shape)).norm(dim=1, keepdim=True)
            factor = self.scale * self.alpha * gaussian.sigma / norm.clamp_min(torch.finfo(norm.dtype).tiny)
            return along.shift({**state, "force": factor * state["force"]}, move, own)

        guide = Steered(prior, reward, denoised(reward), Shifted(shift), with_force=True)
        return self._twisted(prior, guide, likelihood, times)
