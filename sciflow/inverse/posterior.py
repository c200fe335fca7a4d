"""The one seam of inference: `posterior(prior, likelihood, times, n, stream)` gives weighted particles of p(x₁ | y)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser, Tiled
from sciflow.diffusion.flow import reverse_sde
from sciflow.errors import InputError, NonFiniteError
from sciflow.inverse.belief import Differentiated, FullBelief, IsotropicBelief
from sciflow.inverse.guidance import Guidance, MomentMatching
from sciflow.inverse.likelihood import Likelihood
from sciflow.inverse.moments import linear_gaussian
from sciflow.inverse.shared import Progress, check_islands, run
from sciflow.particles.particles import Particles
from sciflow.particles.ranks import Ranks
from sciflow.particles.resampling import Scheme
from sciflow.random import Stream
from sciflow.search.gaussian import Teleport
from sciflow.solvers.exponential import EABM
from sciflow.solvers.solve import Solver, solve
from sciflow.solvers.times import checked
from sciflow.steering.twisted import Guide, TwistedModel, noisy_levels
from sciflow.types import Time


@runtime_checkable
class Posterior(Protocol):
    """A recipe for draws from p(x₁ | y)."""

    def __call__(
        self,
        prior: Denoiser,
        likelihood: Likelihood,
        times: Tensor | Sequence[float],
        n: int,
        stream: Stream,
        on_step: Progress | None = None,
    ) -> Particles:
        """Particles in the dtype and on the device of the observation.

        They may be weighted, and more or fewer than n: `particles.resample(n, stream)` gives n equal draws in any case.
        """
        ...


@dataclass
class Watched:
    """A denoiser that remembers, without asking the device, the first time at which it was not finite."""

    denoiser: Denoiser
    first: Tensor | float = math.inf

    def __post_init__(self) -> None:
        self.schedule, self.shape = self.denoiser.schedule, self.denoiser.shape
        self.initial = self.denoiser.initial

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        data = self.denoiser(x, t)
        now = torch.as_tensor(t, dtype=torch.float64, device=data.device).min()
        first = torch.as_tensor(self.first, dtype=torch.float64, device=data.device)
        self.first = torch.where(data.isfinite().all(), first, torch.minimum(first, now))
        return data


@dataclass(frozen=True)
class Guided:
    """Follow the probability flow of a guided denoiser, or its reverse SDE, and denoise the end point.

        dx/dt = α̇ D_y + σ̇ (x − α D_y)/σ from x ~ p(x_t0 | y),   x₁ = D_y(x, t_end)

    With noise_level > 0 the equation is `reverse_sde` of D_y, for solvers of SDEs. Solvers that add noise of their own
    to the flow (η > 0) take noise_level = 0.

    Draws are independent, equally weighted, and draw k is the same bits for any n at one tile.

    Target: none of its own: the law at the end of the guided flow, p(x₁ | y) as far as the guidance is right.
    Exactness: that of the guidance, as steps → ∞, first level → ∞ and last level → 0.
    Cost: one guided denoiser call per solver call, two for the start, one for the end.
    Bias: that of the guidance, plus O(h^p) of the solver; no evidence.
    Args:
        guidance: the guided denoiser to follow.
        solver: of the flow.
        final: replace the end point by its denoised value, which removes the noise of the last level.
        noise_level: of the SDE; 0 is the flow, 1 the time reversal of the noising process [dimensionless].
        teleport: leave out the first steps where the guided model is Gaussian; null takes them all.
    Raises:
        InputError: n < 1.
        NonFiniteError: a denoised value or a draw is NaN or infinite; names the time and the step.
    Source: Chung et al. (2023), Diffusion posterior sampling, along the flow of Song et al. (2021), eq. 13.
    """

    guidance: Guidance = MomentMatching
    solver: Solver = field(default_factory=lambda: EABM(order=3))
    final: bool = True
    noise_level: Annotated[float, Field(ge=0)] = 0.0
    teleport: Teleport | None = None

    def __call__(
        self,
        prior: Denoiser,
        likelihood: Likelihood,
        times: Tensor | Sequence[float],
        n: int,
        stream: Stream,
        on_step: Progress | None = None,
    ) -> Particles:
        whole, n_steps = _grid(times, n), len(times) - 1
        guided = self.guidance(prior=prior, likelihood=likelihood)
        watched = Watched(Tiled(guided, stream.tile))
        with torch.no_grad():
            x = guided.initial(whole[0], n, stream.child("initial"), likelihood.observation.dtype)
            x, grid = x.to(likelihood.observation.device), whole
            if self.teleport:
                x, grid = self.teleport(watched, x, whole, stream.child("teleport"))
            first = n_steps + 2 - len(grid)
            report = None if on_step is None else (lambda k, t, x: on_step(first + k, n_steps))
            equation = reverse_sde(watched, self.noise_level)
            x = solve(equation, x, grid, self.solver, stream=stream.child("solver"), on_step=report)
            if self.final and float(prior.schedule.sigma(grid[-1])) > 0:
                x = watched(x, grid[-1])
        if not bool(x.isfinite().all()):
            when = min(float(watched.first), grid[-1])
            step = min(sum(t <= when for t in whole), n_steps)
            bad = int((~x.isfinite().flatten(1).all(1)).sum())
            raise NonFiniteError(
                f"{type(guided).__name__}: {bad} of {n} draws are not finite, from t = {when:.4g} on, in step {step} "
                f"of {n_steps}. Take more steps there, a lower guidance scale, or moment matching, which is not stiff."
            )
        return Particles.equal(x)


@dataclass(frozen=True)
class TwistedSMC:
    """Sequential Monte Carlo with the prior's chain, steered by the observation and weighted exactly.

        γ = (discretised prior) × p(y | x₁);   E[Ẑ] = its evidence, for any number of particles

    The chain over `times` uses Cov[x₁ | x_t] from the denoiser where that offers `covariance(x, t)`, and then is exact
    for Gaussian data at any number of steps; else its mean eigenvalue, estimated, and x₁ = D(x, t_end). The last weight
    always holds the true likelihood; of counts it is the Gaussian that they tend to.

    Target: p(x₁ | y) of the prior's chain over `times`, at any number of steps.
    Exactness: exact as particles and steps → ∞; evidence unbiased for the discretised prior.
    Cost: particles × levels denoiser calls; with 2 backward passes each for "pigdm", 1 + measurements for
        "moment_matching", none where the denoiser offers its covariance; 2 calls and d backward passes for "jacobian".
        With a covariance each particle carries 2 d² numbers besides its d: bound d, or take "pigdm".
    Bias: O(1/particles) in means; O(step) in the prior's law.
    Args:
        n_particles: particles, whatever the number of draws asked for: fewer particles than draws repeat themselves.
        twist: "moment_matching": the spread of A x₁ given x_t, from the denoiser; "pigdm": isotropic, the cheap choice
            for a network and many measurements; "jacobian": the whole covariance, from the denoiser's derivative, for
            small events: exact for Gaussian data at any number of steps, as with a covariance of its own.
        variance: v of "pigdm" [data units²]; null takes the square of the schedule's `std`.
        resampling: scheme.
        ess_threshold: resample when ESS ≤ threshold × particles.
        tile: particles per denoiser call: bounds the memory.
        islands: independent ensembles that the particles are split into; their spread is a second error bar of the
            evidence, from at least 4 of them.
        ranks: the processes that hold the ensemble together, from Python; a run file says `resources: {sample: …}`.
    Raises:
        InputError: a likelihood that is not linear and Gaussian, or options out of range.
        NonFiniteError: weights that are not finite; names the step.
    Source: Wu et al. (2023), Practical and asymptotically exact conditional sampling in diffusion models, algorithm 1,
        with the kernels of sciflow.inverse.belief.
    """

    n_particles: Annotated[int, Field(gt=0)] = 1024
    twist: Literal["moment_matching", "pigdm", "jacobian"] = "moment_matching"
    variance: Annotated[float, Field(gt=0)] | None = None
    resampling: Scheme = "systematic"
    ess_threshold: Annotated[float, Field(gt=0, le=1)] = 0.5
    tile: Annotated[int, Field(gt=0)] = 1024
    islands: Annotated[int, Field(gt=0)] = 1
    ranks: Ranks | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.twist not in ("moment_matching", "pigdm", "jacobian"):
            raise InputError(f"twist must be 'moment_matching', 'pigdm' or 'jacobian', got {self.twist!r}.")
        if self.n_particles < 1 or self.tile < 1 or not (self.variance is None or self.variance > 0):
            got = f"n_particles = {self.n_particles}, tile = {self.tile}, variance = {self.variance}"
            raise InputError(f"TwistedSMC needs n_particles ≥ 1, tile ≥ 1 and variance > 0, got {got}.")
        check_islands(self)

    @property
    def is_shared(self) -> bool:
        return True

    def model(self, prior: Denoiser, likelihood: Likelihood, times: Tensor | Sequence[float]) -> TwistedModel:
        """The Feynman–Kac model; a last time with σ = 0 is the data itself, which the model reaches on its own."""
        levels = noisy_levels(prior.schedule, times)
        gaussian = linear_gaussian(likelihood, tuple(prior.shape), "TwistedSMC")
        matching = self.twist == "moment_matching"
        belief: Guide = IsotropicBelief(prior, gaussian, matching, self.variance)
        if matching and hasattr(prior, "covariance"):
            belief = FullBelief(prior, gaussian)
        if self.twist == "jacobian":
            belief = FullBelief(Differentiated(prior), gaussian)
        return TwistedModel(prior, belief, levels, gaussian.observation, tile=self.tile)

    def __call__(
        self,
        prior: Denoiser,
        likelihood: Likelihood,
        times: Tensor | Sequence[float],
        n: int,
        stream: Stream,
        on_step: Progress | None = None,
    ) -> Particles:
        _grid(times, n)
        model = self.model(prior, likelihood, times)
        with torch.no_grad():
            return run(self, model, stream, self.ess_threshold, on_step)


def _grid(times: Tensor | Sequence[float], n: int) -> list[float]:
    if n < 1:
        raise InputError(f"a posterior needs n ≥ 1 draws, got {n}.")
    return checked(times)
