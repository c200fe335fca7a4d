"""Guidance: a denoiser made of a prior denoiser and a likelihood, D_y(x, t) ≈ E[x₁ | x_t = x, y].

All three approximate p(y | x_t) by a Gaussian around A D and follow its score,

    D_y = D + (σ²/α) ∇ log p(y | x_t),   ∇ log p(y | x_t) ≈ (∂D/∂x)ᵀ Aᵀ S⁻¹ (y − A D),

and differ in S alone: the noise by itself (DPS), the noise and an isotropic spread of the data (PiGDM), the noise and
the spread of the data that the denoiser implies (moment matching). Every sum is per row: rows never see one another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, NamedTuple, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser, Tiled
from sciflow.diffusion.schedule import Schedule
from sciflow.errors import InputError
from sciflow.inverse.conjugate_gradient import conjugate_gradient
from sciflow.inverse.likelihood import GaussianLikelihood, Likelihood
from sciflow.inverse.moments import (
    condition,
    isotropic_variance,
    jacobian_scale,
    linear_gaussian,
    measured,
    pullback,
)
from sciflow.random import Stream
from sciflow.types import Time


@runtime_checkable
class Guidance(Protocol):
    """A guidance that still waits for prior and likelihood, as a run file describes it."""

    def __call__(self, *, prior: Denoiser, likelihood: Likelihood) -> Denoiser: ...


class _Guided:
    """What makes a guidance a denoiser: noise levels and shape of its prior."""

    prior: Denoiser
    likelihood: Likelihood

    @property
    def schedule(self) -> Schedule:
        return self.prior.schedule

    @property
    def shape(self) -> tuple[int, ...]:
        return self.prior.shape

    @cached_property
    def measurement(self) -> GaussianLikelihood:
        """The likelihood, bound to the events of the prior."""
        return linear_gaussian(self.likelihood, tuple(self.prior.shape), type(self).__name__)

    def _start(self, t: float, n: int, stream: Stream, dtype: torch.dtype) -> Tensor:
        """Draws from the prior's law of x_t, where the observation lives."""
        return self.prior.initial(t, n, stream, dtype).to(self.measurement.observation.device)

    def initial(self, t: float, n: int, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draws from the prior's law of x_t moved by α (D_y − D): the law of x_t given y up to O(α²/σ²)."""
        x, alpha = self._start(t, n, stream, dtype), float(self.schedule.alpha(t))
        with torch.no_grad():
            return x + alpha * (Tiled(self, stream.tile)(x, t) - Tiled(self.prior, stream.tile)(x, t))

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        raise TypeError(f"{type(self).__name__} must define __call__.")


@dataclass(frozen=True)
class DPS(_Guided):
    """Diffusion posterior sampling: the likelihood at the denoised state, its spread ignored.

        D_y = D − (σ²/α) ∇ scale ‖y − A D‖²/2σ_y²

    The published step ζ ∇‖y − A D‖ is tied to one sampler and its step size. `normalised` gives the nearest rule that
    belongs to a dynamics: the norm of each row over σ_y instead of half its square, so the pull is bounded.

    Exactness: none; right only where the data are known far better than the noise.
    Cost: 1 denoiser call with 1 backward pass.
    Bias: over-confident. For a Gaussian prior of variance v, A = I and scale 1 the flow ends with variance
        v exp(−v/σ_y²) and gain 2a F(a), a² = v/2σ_y², F Dawson's integral, in place of v σ_y²/(v + σ_y²) and
        v/(v + σ_y²). It is stiff where v ≫ σ_y²: take many steps, or lower `scale`.
    Args:
        prior: denoiser of the prior.
        likelihood: linear, Gaussian.
        scale: strength of the pull, ≥ 0 [1].
        normalised: follow scale ‖y − A D‖/σ_y instead.
    Source: Chung et al. (2023), Diffusion posterior sampling for general noisy inverse problems, theorem 1 and
        algorithm 1; bias: tests/laws/test_posterior.py.
    """

    prior: Denoiser
    likelihood: Likelihood
    scale: Annotated[float, Field(ge=0)] = 1.0
    normalised: bool = False

    def __post_init__(self) -> None:
        if not (self.scale >= 0 and math.isfinite(self.scale)):
            raise InputError(f"DPS needs a finite scale ≥ 0, got {self.scale}.")
        _ = self.measurement

    def initial(self, t: float, n: int, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draws from the prior's law of x_t."""
        return self._start(t, n, stream, dtype)

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        likelihood, sigma = self.measurement, self.measurement.sigma
        data, pull = pullback(self.prior, x, t)
        residual = likelihood.residual(data)
        if self.normalised:
            norm = residual.norm(dim=1, keepdim=True)
            residual = residual * (sigma / norm.clamp_min(torch.finfo(norm.dtype).tiny))
        force = pull(likelihood.operator.adjoint(residual)) * (self.scale / sigma**2)
        return data + jacobian_scale(self.schedule, x, t) * force


@dataclass(frozen=True)
class PiGDM(_Guided):
    """Pseudo-inverse guidance: the data given x_t spread isotropically, with a width that knows the data's variance.

        D_y = D + (σ²/α) (∂D/∂x)ᵀ Aᵀ (r² A Aᵀ + σ_y² I)⁻¹ (y − A D),   r² = v σ²/(σ² + α² v)

    Exactness: exact for isotropic Gaussian priors of variance v, any linear A.
    Cost: 1 denoiser call with 1 backward pass, 1 operator solve.
    Bias: for other priors the spread is wrong in every direction where it is not v; mode weights are off.
    Args:
        prior: denoiser of the prior.
        likelihood: linear, Gaussian.
        variance: v [data units²]; null takes the square of the schedule's `std`, which the model was normalised with.
    Source: Song et al. (2023), Pseudoinverse-guided diffusion models, whose r² = σ²/(1 + σ²) assumes v = 1.
    """

    prior: Denoiser
    likelihood: Likelihood
    variance: Annotated[float, Field(gt=0)] | None = None

    def __post_init__(self) -> None:
        if self.variance is not None and not (self.variance > 0 and math.isfinite(self.variance)):
            raise InputError(f"PiGDM needs a finite variance > 0, got {self.variance}.")
        _ = self.measurement

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        likelihood = self.measurement
        data, pull = pullback(self.prior, x, t)
        residual = likelihood.residual(data)
        spread = isotropic_variance(self.schedule, residual, t, self.variance)
        solved = likelihood.operator.gram_solve(residual, likelihood.sigma**2, spread)
        return data + jacobian_scale(self.schedule, x, t) * pull(likelihood.operator.adjoint(solved))


class Correction(NamedTuple):
    """D_y, the relative residual of each row's solve, and the solver's iterations (0: a direct solve)."""

    mean: Tensor
    residual: Tensor
    iterations: int


@dataclass(frozen=True)
class MomentMatching(_Guided):
    """Guidance with the covariance that the denoiser itself implies.

        D_y = D + C Aᵀ (A C Aᵀ + σ_y² I)⁻¹ (y − A D),   C = (σ²/α) ∂D/∂x = Cov[x₁ | x_t]

    The solve is direct where the denoiser offers `covariance(x, t)`, else by conjugate gradients on backward passes.

    Exactness: exact for any Gaussian prior and linear A.
    Cost: 1 denoiser call with 1 + (iterations) backward passes, at most `max_iterations`; or 1 covariance.
    Bias: for other priors p(x₁ | x_t) is taken as Gaussian; mode weights are off, most at middle noise levels.
    Args:
        prior: denoiser of the prior.
        likelihood: linear, Gaussian.
        tolerance: relative residual of the solve; 0 makes exactly `max_iterations` without asking the host [1].
        max_iterations: most iterations; `correct(x, t)` tells how far they got.
        closed_form: use the denoiser's own covariance where it has one.
    Source: Rozet et al. (2024), Learning diffusion priors from observations by expectation maximization;
        Boys et al. (2024), Tweedie moment projected diffusions for inverse problems.
    """

    prior: Denoiser
    likelihood: Likelihood
    tolerance: Annotated[float, Field(ge=0)] = 1e-3
    max_iterations: Annotated[int, Field(gt=0)] = 32
    closed_form: bool = True

    def __post_init__(self) -> None:
        if not self.tolerance >= 0 or self.max_iterations < 1:
            got = f"tolerance = {self.tolerance}, max_iterations = {self.max_iterations}"
            raise InputError(f"MomentMatching needs tolerance ≥ 0 and max_iterations ≥ 1, got {got}.")
        _ = self.measurement

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        return self.correct(x, t).mean

    def correct(self, x: Tensor, t: Time) -> Correction:
        """D_y with the quality of its solve."""
        covariance = getattr(self.prior, "covariance", None) if self.closed_form else None
        return self._iterative(x, t) if covariance is None else self._direct(x, t, covariance(x, t))

    def _direct(self, x: Tensor, t: Time, covariance: Tensor) -> Correction:
        likelihood, data = self.measurement, self.prior(x, t)
        cross, inner = measured(covariance, likelihood.operator)
        shift = condition(likelihood.residual(data), cross, inner, likelihood.sigma).shift
        return Correction(data + shift.reshape(x.shape), shift.new_zeros(len(x)), 0)

    def _iterative(self, x: Tensor, t: Time) -> Correction:
        likelihood, scale = self.measurement, jacobian_scale(self.schedule, x, t)
        operator, variance = likelihood.operator, likelihood.sigma**2
        data, pull = pullback(self.prior, x, t)

        def spread(v: Tensor) -> Tensor:
            return scale * pull(operator.adjoint(v))

        solution = conjugate_gradient(
            lambda v: operator(spread(v)) + variance * v,
            likelihood.residual(data),
            self.tolerance,
            self.max_iterations,
            least=variance,
        )
        return Correction(data + spread(solution.x), solution.residual, solution.iterations)
