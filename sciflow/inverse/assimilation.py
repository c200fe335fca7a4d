"""Data assimilation behind the seam of posteriors: one observation is all that was measured along one path."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.errors import InputError
from sciflow.inverse.likelihood import GaussianLikelihood, Likelihood
from sciflow.inverse.moments import linear_gaussian
from sciflow.inverse.shared import check_islands
from sciflow.particles.ensemble_kalman import EnsembleKalman, Variant
from sciflow.particles.filtering import (
    TILE,
    BootstrapFilter,
    Filter,
    GuidedFilter,
    LinearMeasurements,
    check_guided,
    check_smoothing,
    filtered,
)
from sciflow.particles.particles import Particles
from sciflow.particles.resampling import Scheme
from sciflow.random import Stream
from sciflow.solvers.state_space import HiddenChain

Progress = Callable[[int, int], None]


def hidden_chain(prior: Denoiser) -> HiddenChain:
    """The chain of a prior that is known by its equation.

    Raises:
        InputError: another prior.
    """
    space = getattr(prior, "space", None)
    if not isinstance(space, HiddenChain):
        raise InputError(
            "a filter follows an equation in time, and this prior has none. Use `train: {kind: dynamics}` with a data "
            "set of paths, or a posterior that asks a denoiser."
        )
    return space


def measurements(likelihood: GaussianLikelihood, n_times: int, d: int) -> LinearMeasurements:
    """The measurements of a path, time by time.

    Raises:
        InputError: a measurement that reads several times.
    """
    y, m = likelihood.observation, len(likelihood.observation)
    rows = likelihood.operator.adjoint(torch.eye(m, dtype=y.dtype, device=y.device)).reshape(m, n_times, d)
    reads = (rows != 0).any(2)
    if bool((reads.sum(1) != 1).any()):
        raise InputError("a filter takes measurements of one time each, but one of these reads several or none.")
    when = reads.double().argmax(1)
    chosen = [when == k for k in range(n_times)]
    return LinearMeasurements(
        tuple(y[own] for own in chosen), tuple(rows[own, k] for k, own in enumerate(chosen)), likelihood.sigma
    )


@runtime_checkable
class Following(Protocol):
    """A posterior that follows a chain, and knows which it can."""

    def check_chain(self, space: HiddenChain) -> None:
        """Raise InputError if it cannot follow this one."""
        ...


def _problem(
    follower: Following, prior: Denoiser, likelihood: Likelihood, n: int
) -> tuple[HiddenChain, LinearMeasurements]:
    """The chain and the measurements of each time, of states as rows.

    Raises:
        InputError: as `ParticleFilter`.
    """
    if n < 1:
        raise InputError(f"a posterior needs n ≥ 1 draws, got {n}.")
    space = hidden_chain(prior)
    follower.check_chain(space)
    gaussian = linear_gaussian(likelihood, tuple(prior.shape), type(follower).__name__)
    seen = measurements(gaussian, space.n_steps + 1, math.prod(space.shape))
    return space.beside(gaussian.observation), seen


@dataclass(frozen=True)
class ParticleFilter:
    """Follow particles through time, and resample by each measurement as it comes.

        filtering: member i at time k is a draw of p(x_k | y_{0:k})
        smoothing: member i is a path from p(x_{0:K} | y_{0:K})

    As filtering laws, members at two times do not belong together: what is right are the laws of each time. That is
    what a forecaster has at that time, and what ensemble filters are compared with.

    Target: p(x_k | y_{0:k}) at each time, or p(x_{0:K} | y_{0:K}); evidence p(y_{0:K}).
    Exactness: exact as particles → ∞; evidence unbiased for the solver's chain, at any number of them.
    Cost: one solve for each particle and time; smoothing n_samples × particles densities more for each time.
    Bias: O(1/particles); the particles needed grow exponentially with the number of measurements at one time, and with
        fewer the filter loses the truth: watch `ess_min`.
    Args:
        n_particles: particles, whatever the number of draws asked for.
        proposal: "bootstrap": as the equation moves; "guided": towards the next measurement, which takes an ODE with
            additive noise.
        law: "filtering" or "smoothing".
        resampling: scheme.
        islands: independent filters that the particles are split into; their spread is a second error bar of the
            evidence, from at least 4 of them. Members of all stand side by side, with bias O(islands/particles).
        tile: particles of one solve.
    Raises:
        InputError: a prior without an equation, a likelihood that is not linear, Gaussian and of one time each, a
            guided proposal or smoothing where moves have no density, or options out of range.
        NonFiniteError: no particle left; names the step.
    Source: Gordon, Salmond and Smith (1993); Doucet, Godsill and Andrieu (2000) for "guided"; Godsill, Doucet and West
        (2004) for "smoothing".
    """

    n_particles: Annotated[int, Field(gt=1)] = 1024
    proposal: Literal["bootstrap", "guided"] = "bootstrap"
    law: Literal["filtering", "smoothing"] = "filtering"
    resampling: Scheme = "systematic"
    islands: Annotated[int, Field(gt=0)] = 1
    tile: Annotated[int, Field(gt=0)] = TILE

    def __post_init__(self) -> None:
        check_islands(self)
        if self.n_particles < 2 or self.proposal not in ("bootstrap", "guided"):
            got = f"{self.n_particles} and {self.proposal!r}"
            raise InputError(f"ParticleFilter needs n_particles ≥ 2 and proposal 'bootstrap' or 'guided', got {got}.")
        if self.law not in ("filtering", "smoothing"):
            raise InputError(f"law must be 'filtering' or 'smoothing', got {self.law!r}.")

    def check_chain(self, space: HiddenChain) -> None:
        """Refuse a chain without the density that the proposal, or smoothing, needs.

        Raises:
            InputError: there is none.
        """
        if self.proposal == "guided":
            check_guided(space)
        if self.law == "smoothing":
            check_smoothing(space.noise)

    def __call__(
        self,
        prior: Denoiser,
        likelihood: Likelihood,
        times: Tensor | Sequence[float],
        n: int,
        stream: Stream,
        on_step: Progress | None = None,
    ) -> Particles:
        space, seen = _problem(self, prior, likelihood, n)
        kind = BootstrapFilter if self.proposal == "bootstrap" else GuidedFilter
        model: Filter = kind(space, seen, self.tile)
        report = None if on_step is None else (lambda k, ess: on_step(k, model.n_steps))
        with torch.no_grad():
            found = filtered(model, self.n_particles, stream, self.resampling, report, self.islands)
            smooth = self.law == "smoothing"
            x = found.smoothed(n, stream.child("smooth")) if smooth else found.marginals()
        numbers = found.particles
        equal = Particles.equal(x)
        return replace(numbers, x=x.unflatten(2, space.shape), log_weights=equal.log_weights, eve=equal.eve)


@dataclass(frozen=True)
class EnsembleKalmanFilter:
    """Follow an ensemble through time, and correct it by Kalman's formula at each measurement.

        x̄ += K (y − H x̄),   K = P Hᵀ (H P Hᵀ + σ² I)⁻¹,   P the covariance of the ensemble

    Members are those after each measurement; the log-evidence is that of Gaussian forecasts.

    Target: none; p(x_k | y_{0:k}) where all laws are Gaussian and the ensemble is large.
    Exactness: for linear Gaussian chains as members → ∞, the evidence too.
    Cost: one solve for each member and time, and an analysis of O(members × measurements × coordinates).
    Bias: Gaussian laws are assumed: it does not vanish for non-linear equations, however large the ensemble.
    Args:
        n_members: of the ensemble, whatever the number of draws asked for.
        variant: "stochastic": measurements are perturbed for each member; "transform": none are.
        inflation: factor of the forecast anomalies.
        localisation: length, in coordinates on a ring, at which covariances are damped; null damps none.
    Raises:
        InputError: as `ParticleFilter`, localisation of states that are no ring, or options out of range.
        NonFiniteError: a forecast that is not finite; names the time.
    Source: Evensen (1994); Burgers, van Leeuwen and Evensen (1998); Hunt, Kostelich and Szunyogh (2007) for the
        transform and its localisation.
    """

    n_members: Annotated[int, Field(gt=1)] = 64
    variant: Variant = "stochastic"
    inflation: Annotated[float, Field(ge=1)] = 1.0
    localisation: Annotated[float, Field(gt=0)] | None = None

    def check_chain(self, space: HiddenChain) -> None:
        """Refuse localisation where coordinates are no ring.

        Raises:
            InputError: states have several axes.
        """
        if self.localisation is not None and len(space.shape) > 1:
            raise InputError(
                f"localisation knows distances along a ring of coordinates, but states have the shape {space.shape}. "
                "Leave it out, and take more members or inflation."
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
        space, seen = _problem(self, prior, likelihood, n)
        model = EnsembleKalman(space, seen, self.variant, self.inflation, self.localisation)
        with torch.no_grad():
            found = model.run(self.n_members, stream, on_step)
        return replace(Particles.equal(found.states.unflatten(2, space.shape)), log_evidence=found.log_evidence)
