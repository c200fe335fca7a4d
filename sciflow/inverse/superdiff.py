"""Draws of composed models: any of several, or all of them. The likelihood is not looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.errors import InputError, NonFiniteError
from sciflow.inverse.expert import Expert
from sciflow.inverse.likelihood import Likelihood
from sciflow.inverse.shared import Progress
from sciflow.particles.feynman_kac import FeynmanKac, smc
from sciflow.particles.particles import Particles
from sciflow.random import Stream
from sciflow.steering.agreement import AndModel
from sciflow.steering.compose import OrModel
from sciflow.steering.twisted import noisy_levels

Weight = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class SuperDiffOr:
    """Draws from any of several models, the prior among them, each as often as its weight says.

        q = Σ_i ω_i q_i,   D = Σ_i κ_i D_i,   κ = softmax_i(log ω_i + log q_i),   log q_i recorded along the path

    The likelihood is not looked at. Models that know their density make an exact prior of their mixture instead, for
    any sampler: `sciflow.steering.MixtureOf`.

    Target: Σ ω_i q_i, the mixture of the prior and the experts
    Exactness: as steps → ∞; κ is the posterior of the experts up to the recorder's error.
    Cost: one call of each model per level.
    Bias: O(step); models without a density start from equal ones.
    Args:
        experts: the models beside the prior.
        weights: ω, the prior's first, in any scale; none are equal weights.
        tile: rows per call.
    Raises:
        InputError: n < 1, models that do not fit together, or weights that do not fit them.
        NonFiniteError: a draw is NaN or infinite.
    Source: Skreta et al. (2025), The superposition of diffusion models using the Itô density estimator, algorithm 1.
    """

    experts: tuple[Expert, ...] = ()
    weights: tuple[Weight, ...] = ()
    tile: Annotated[int, Field(gt=0)] = 1024

    def __post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.experts) + 1:
            raise InputError(
                f"superdiff_or needs a weight for the prior and one for each expert, {len(self.experts) + 1} in all, "
                f"got {len(self.weights)}."
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
        models, levels, like = _together(prior, self.experts, likelihood, times)
        return _drawn(OrModel(models, levels, self.weights, self.tile, like), n, stream, on_step)


@dataclass(frozen=True)
class SuperDiffAnd:
    """Draws on which the prior and all experts agree: paths along which their densities change alike.

        d log q_1 = d log q_2 = …   by the choice of w in dx = (−f + g² Σ_i w_i ∇log q_i) dt + g dW,   Σ_i w_i = 1

    The likelihood is not looked at. No law is known for the draws; a product of experts has one.

    Target: none
    Exactness: differences of log q_i stay what they were at the start, as steps → ∞, with `curvature`.
    Cost: one call of each of M models per level, and with the curvature M(M − 1) backward passes.
    Bias: without the curvature (the published method) the densities drift apart however small the step.
    Args:
        experts: the models beside the prior.
        curvature: keep the second-order term along the directions in which there is no noise.
        tile: rows per call.
    Raises:
        InputError: n < 1, or models that do not fit together.
        NonFiniteError: a draw is NaN or infinite.
    Source: Skreta et al. (2025), The superposition of diffusion models using the Itô density estimator, algorithm 1;
        the curvature is derived in `sciflow.steering.AndModel`.
    """

    experts: tuple[Expert, ...] = ()
    curvature: bool = True
    tile: Annotated[int, Field(gt=0)] = 1024

    def __call__(
        self,
        prior: Denoiser,
        likelihood: Likelihood,
        times: Tensor | Sequence[float],
        n: int,
        stream: Stream,
        on_step: Progress | None = None,
    ) -> Particles:
        models, levels, like = _together(prior, self.experts, likelihood, times)
        return _drawn(AndModel(models, levels, self.curvature, self.tile, like), n, stream, on_step)


def _together(
    prior: Denoiser, experts: Sequence[Expert], likelihood: Likelihood, times: Tensor | Sequence[float]
) -> tuple[tuple[Denoiser, ...], tuple[float, ...], Tensor]:
    """The prior and its experts, the levels with noise, and a tensor like the state."""
    like = likelihood.observation
    models = (prior, *(expert.beside(prior, like) for expert in experts))
    return models, noisy_levels(prior.schedule, times), like


def _drawn(model: FeynmanKac, n: int, stream: Stream, on_step: Progress | None) -> Particles:
    """Independent draws: the model has no weights, so nothing is ever resampled."""
    if n < 1:
        raise InputError(f"a posterior needs n ≥ 1 draws, got {n}.")
    report = None if on_step is None else (lambda k, ess: on_step(k, model.n_steps))
    with torch.no_grad():
        x = smc(model, n, stream, on_step=report).x
    if not bool(x.isfinite().all()):
        bad = int((~x.flatten(1).isfinite().all(1)).sum())
        raise NonFiniteError(
            f"{type(model).__name__}: {bad} of {n} draws are not finite after {model.n_steps} steps. Take more steps."
        )
    return Particles.equal(x)
