"""Posterior samplers for linear measurements with Gaussian noise that measure the noisy states: MCGDiff and FPS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.inverse.likelihood import Likelihood
from sciflow.inverse.moments import linear_gaussian
from sciflow.inverse.noised_measurement import Ended, NoisedMeasurement, matched, scaled
from sciflow.inverse.steered import SteeredPosterior
from sciflow.steering.twisted import TwistedModel, noisy_levels


@dataclass(frozen=True)
class MCGDiff(SteeredPosterior):
    """Monte Carlo guided diffusion: the observation as an exact measurement of the level whose noise is that of y.

        h_k = N(α_k y; B x_k, σ_k² g − α_k² σ_y²) before τ,  σ_τ² g = α_τ² σ_y²;  after τ the chain moves freely

    in each eigendirection of A Aᵀ = U g Uᵀ, B = Uᵀ A. The proposal is the exact product with the reference.

    Target: law of the chain's end given B x_τ = α_τ y
    Exactness: path weights for that law, which is p(x₁ | y) as steps → 0; Ẑ unbiased for its density.
    Cost: particles × (levels + distinct eigenvalues g) denoiser calls; no backward pass.
    Bias: O(1/particles) in means, O(step) in the prior's law; noise below that of the last level counts as if it were
        that of the last level.
    Args:
        n_particles, eta, spread, resampling, ess_threshold, tile, islands, ranks: as `SteeredPosterior`.
    Raises:
        InputError: a likelihood that is not linear and Gaussian, or a direction noisier than the first level.
        NonFiniteError: weights that are not finite; names the step.
    Source: Cardoso et al. (2024), Monte Carlo guided diffusion for Bayesian linear inverse problems, section 3.
    """

    ess_threshold: Annotated[float, Field(gt=0, le=1)] = 1.0

    def model(self, prior: Denoiser, likelihood: Likelihood, times: Tensor | Sequence[float]) -> TwistedModel:
        gaussian = linear_gaussian(likelihood, tuple(prior.shape), type(self).__name__)
        levels, path = matched(prior, gaussian, noisy_levels(prior.schedule, times))
        guide, memory = NoisedMeasurement(prior, gaussian, levels, path), Ended(path.variances.isfinite())
        return TwistedModel(prior, guide, levels, gaussian.observation, memory, self.eta, self.tile, self.spread)


@dataclass(frozen=True)
class FPS(SteeredPosterior):
    """Filtering posterior sampling: a measurement of every level, and the optimal filter for it.

        h_k = N(α_k y; A x_k, σ_k² A Aᵀ + α_k² σ_y² I)

    The paper simulates the noise of y_k along the path; here it is integrated out. (Simulated and weighted exactly, it
    makes the weights of every level noisy, and Ẑ useless.) The proposal is the exact product with the reference; the
    last weight holds the true likelihood.

    Target: (discretised prior) × p(y | x₁)
    Exactness: path weights; E[Ẑ] is the target's integral for any steps and particles.
    Cost: particles × levels denoiser calls; no backward pass.
    Bias: O(1/particles) in means, O(step) in the prior's law.
    Args:
        n_particles, eta, spread, resampling, ess_threshold, tile, islands, ranks: as `SteeredPosterior`.
    Raises:
        InputError: a likelihood that is not linear and Gaussian.
        NonFiniteError: weights that are not finite; names the step.
    Source: Dou and Song (2024), Diffusion posterior sampling for linear inverse problem solving: a filtering
        perspective.
    """

    def model(self, prior: Denoiser, likelihood: Likelihood, times: Tensor | Sequence[float]) -> TwistedModel:
        gaussian = linear_gaussian(likelihood, tuple(prior.shape), type(self).__name__)
        levels = noisy_levels(prior.schedule, times)
        guide = NoisedMeasurement(prior, gaussian, levels, scaled(prior, gaussian, levels))
        return self._twisted(prior, guide, gaussian, times)
