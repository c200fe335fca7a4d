"""Posterior samplers made of a twisted model: what they share.

All weigh paths of the prior's ancestral chain over `times`, which ends at x₁ = D(x, t_end). A reward r of your own
takes the place of the likelihood as `sciflow.steering.reward.Tilt(r, alpha)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.errors import InputError
from sciflow.inverse.likelihood import Likelihood
from sciflow.inverse.shared import Progress, check_islands, run
from sciflow.particles.feynman_kac import FeynmanKac
from sciflow.particles.particles import Particles
from sciflow.particles.ranks import Ranks
from sciflow.particles.resampling import Scheme
from sciflow.random import Stream
from sciflow.steering.reward import Reward
from sciflow.steering.twisted import Guide, Memory, TwistedModel, noisy_levels


@dataclass(frozen=True)
class SteeredPosterior:
    """What the samplers of this kind share.

    Args:
        n_particles: particles, whatever the number of draws asked for.
        eta: amount of noise of the prior's chain, in (0, 1].
        spread: v, data units² of isotropic data, by which the chain knows that x₁ spreads around D ("large" variance);
            null takes x₁ = D ("small"), which ends too narrow.
        resampling: scheme.
        ess_threshold: resample when ESS ≤ threshold × particles.
        tile: particles per denoiser call.
        islands: independent ensembles that the particles are split into; their spread is a second error bar of the
            evidence, from at least 4 of them.
        ranks: the processes that hold the ensemble together, from Python; a run file says `resources: {sample: …}`.
    """

    n_particles: Annotated[int, Field(gt=0)] = 1024
    eta: Annotated[float, Field(gt=0, le=1)] = 1.0
    spread: Annotated[float, Field(gt=0)] | None = None
    resampling: Scheme = "systematic"
    ess_threshold: Annotated[float, Field(gt=0, le=1)] = 0.5
    tile: Annotated[int, Field(gt=0)] = 1024
    islands: Annotated[int, Field(gt=0)] = 1
    ranks: Ranks | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        check_islands(self)
        if self.n_particles < 1:
            raise InputError(f"{type(self).__name__} needs n_particles ≥ 1, got {self.n_particles}.")
        if self.spread is not None and not self.spread > 0:
            raise InputError(f"{type(self).__name__} needs spread > 0, or none, got {self.spread}.")

    @property
    def is_shared(self) -> bool:
        return True

    def model(self, prior: Denoiser, likelihood: Likelihood, times: Tensor | Sequence[float]) -> FeynmanKac:
        """The Feynman–Kac model."""
        raise TypeError(f"{type(self).__name__} must define model.")

    def __call__(
        self,
        prior: Denoiser,
        likelihood: Likelihood,
        times: Tensor | Sequence[float],
        n: int,
        stream: Stream,
        on_step: Progress | None = None,
    ) -> Particles:
        if n < 1:
            raise InputError(f"a posterior needs n ≥ 1 draws, got {n}.")
        model = self.model(prior, likelihood, times)
        with torch.no_grad():
            return run(self, model, stream, self.ess_threshold, on_step)

    def _twisted(
        self,
        prior: Denoiser,
        guide: Guide,
        likelihood: Likelihood,
        times: Tensor | Sequence[float],
        memory: Memory | None = None,
    ) -> TwistedModel:
        levels, like = noisy_levels(prior.schedule, times), likelihood.observation
        return TwistedModel(prior, guide, levels, like, memory, self.eta, self.tile, self.spread)


def tempered(likelihood: Likelihood, shape: tuple[int, ...], alpha: float) -> Reward:
    """log p(y | x₁)/alpha on events of `shape`, in float64.

    Raises:
        InputError: alpha ≤ 0, or a likelihood that does not fit the shape.
    """
    if not alpha > 0:
        raise InputError(f"alpha must be > 0, got {alpha}.")
    bound = likelihood.on(tuple(shape))
    return lambda x1: bound.log_prob(x1).double() / alpha
