"""Posterior samplers that look at values of the likelihood alone, so that it may be a black box: path-space weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

from pydantic import Field
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.inverse.likelihood import Likelihood
from sciflow.inverse.shared import Progress
from sciflow.inverse.steered import SteeredPosterior, tempered
from sciflow.particles.nested import GreedyModel, NestedModel
from sciflow.particles.particles import Particles
from sciflow.random import Stream
from sciflow.steering.guides import Steered, denoised, doob
from sciflow.steering.memory import Accumulated, PathPotential
from sciflow.steering.twisted import Twist, TwistedModel

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


@dataclass(frozen=True)
class FKSteering(SteeredPosterior):
    """Feynman–Kac steering: the prior's own moves, reweighted by potentials of the reward at the denoised state.

        G_k by `potential` of r = strength · log p(y | D)/alpha;   the last weight divides by all of them

    No gradient of the reward: it may be a black box.

    Target: (discretised prior) × p(y | x₁)^{1/alpha}
    Exactness: path weights; E[Ẑ] is the target's integral for any steps and particles.
    Cost: particles × levels denoiser calls; no backward pass.
    Bias: O(1/particles) in means, O(step) in the prior's law. Impoverished in high dimension: count the families.
    Args:
        n_particles, eta, spread, resampling, ess_threshold, tile, islands, ranks: as `SteeredPosterior`.
        alpha: temperature: the likelihood counts to the power 1/alpha.
        potential: "difference", "max", "sum" (ADD in their code) or "reward" (the bare reward, RT in their code).
        interval: levels from one potential to the next.
        strength: factor of the potentials before the end; the end is weighted by the target whatever it is.
    Raises:
        InputError: options out of range.
        NonFiniteError: weights that are not finite; names the step.
    Source: Singhal et al. (2025), A general framework for inference-time scaling and steering of diffusion models.
    """

    alpha: Positive = 1.0
    potential: PathPotential = "difference"
    interval: Count = 1
    strength: Annotated[float, Field(ge=0)] = 1.0

    def model(self, prior: Denoiser, likelihood: Likelihood, times: Tensor | Sequence[float]) -> TwistedModel:
        memory = Accumulated(self.potential, self.interval, self.strength)
        reward = tempered(likelihood, prior.shape, self.alpha)
        return self._twisted(prior, Steered(prior, reward, denoised(reward)), likelihood, times, memory)


@dataclass(frozen=True)
class DOIT(SteeredPosterior):
    """Doob's h-transform by looking ahead, as a proposal: follows rewards that cannot be differentiated.

        m = N(mean + s Σ_m (w_m − 1/M) z_m, s² I),   w_m ∝ p(y | D + g s z_m)^{1/alpha},   h = p(y | D)^{1/alpha}

    Target: (discretised prior) × p(y | x₁)^{1/alpha}
    Exactness: path weights; E[Ẑ] is the target's integral for any steps and particles.
    Cost: particles × levels denoiser calls and particles × levels × n_looks rewards; no backward pass.
    Bias: O(1/particles) in means, O(step) in the prior's law.
    Args:
        n_particles, eta, spread, resampling, ess_threshold, tile, islands, ranks: as `SteeredPosterior`.
        alpha: temperature: the likelihood counts to the power 1/alpha.
        n_looks: looks ahead per particle and level.
        variance: v, data units² of isotropic data, for g = 1/(α + σ²/α v); null freezes the noise, g = 1/α.
    Raises:
        InputError: options out of range.
        NonFiniteError: weights that are not finite; names the step.
    Source: after DOIT (2026, arXiv 2602.16198), whose rewards are normalised for each particle and so have no target.
    """

    alpha: Positive = 1.0
    n_looks: Count = 8
    variance: Positive | None = 1.0

    def model(self, prior: Denoiser, likelihood: Likelihood, times: Tensor | Sequence[float]) -> TwistedModel:
        reward = tempered(likelihood, prior.shape, self.alpha)
        kernel = doob(prior.schedule, reward, self.n_looks, self.variance)
        return self._twisted(prior, Steered(prior, reward, denoised(reward), kernel), likelihood, times)


@dataclass(frozen=True)
class SVDD(SteeredPosterior):
    """Soft value-based decoding made exact: several children for each particle, one kept by its value, and a weight.

        keep child m with probability ∝ e^{v_m};  weight ← weight · mean_m e^{v_m − v_parent}
        v = log p(y | D)/alpha, or a value function of your own; at the end always log p(y | x₁)/alpha

    Target: (discretised prior) × p(y | x₁)^{1/alpha}
    Exactness: nested path weights; E[Ẑ] is the target's integral for any steps, particles and children.
    Cost: particles × children × levels denoiser calls; no backward pass.
    Bias: O(1/particles) in means, O(step) in the prior's law.
    Args:
        n_particles, eta, spread, resampling, ess_threshold, tile, islands, ranks: as `SteeredPosterior`.
        alpha: temperature: the likelihood counts to the power 1/alpha.
        n_children: children per particle, ≥ 1.
        value: from Python: (x, t, D(x, t)) → v of the noisy states, (n,), such as a network that was fitted to
            log E[p(y | x₁)^{1/alpha} | x_t = x], alpha included; null takes the likelihood at D. Any value gives the
            same target; the exact one leaves of the weights' variance what is due to the number of children.
    Raises:
        InputError: options out of range, or a value that is not one number for each state.
        NonFiniteError: weights that are not finite; names the step.
    Source: Li et al. (2024), Derivative-free guidance in continuous and discrete diffusion models with soft value-based
        decoding (the likelihood at D is their SVDD-PM, a value fitted to draws their SVDD-MC); Naesseth et al. (2015),
        Nested sequential Monte Carlo, for the weight.
    """

    n_particles: Count = 256
    alpha: Positive = 1.0
    n_children: Count = 4
    value: Twist | None = field(default=None, compare=False)

    def model(self, prior: Denoiser, likelihood: Likelihood, times: Tensor | Sequence[float]) -> NestedModel:
        reward = tempered(likelihood, prior.shape, self.alpha)
        guide = Steered(prior, reward, self.value or denoised(reward))
        return NestedModel(self._twisted(prior, guide, likelihood, times), self.n_children)


@dataclass(frozen=True)
class GreedySVDD(SteeredPosterior):
    """Soft value-based decoding as published: the child of the largest value is kept, and no weight.

    Target: none
    Exactness: none: a search for large rewards, stronger with more children.
    Cost: as `svdd`.
    Bias: towards the largest reward, without bound; no evidence.
    Args:
        n_particles, eta, spread, resampling, ess_threshold, tile, islands, ranks: as `SteeredPosterior`; nothing is
            ever resampled.
        alpha, n_children: as `SVDD`.
    Raises:
        InputError: options out of range.
        NonFiniteError: values that are not finite; names the step.
    Source: Li et al. (2024), Derivative-free guidance in continuous and discrete diffusion models with soft value-based
        decoding; their code takes the largest value.
    """

    n_particles: Count = 256
    alpha: Positive = 1.0
    n_children: Count = 4

    def model(self, prior: Denoiser, likelihood: Likelihood, times: Tensor | Sequence[float]) -> GreedyModel:
        reward = tempered(likelihood, prior.shape, self.alpha)
        return GreedyModel(
            self._twisted(prior, Steered(prior, reward, denoised(reward)), likelihood, times), self.n_children
        )

    def __call__(
        self,
        prior: Denoiser,
        likelihood: Likelihood,
        times: Tensor | Sequence[float],
        n: int,
        stream: Stream,
        on_step: Progress | None = None,
    ) -> Particles:
        drawn = super().__call__(prior, likelihood, times, n, stream, on_step)
        none = math.nan
        return replace(
            drawn, log_evidence=none, log_evidence_stderr=none, log_evidence_stderr_islands=none,
            log_evidence_interval=(none, none),
        )  # fmt: skip
