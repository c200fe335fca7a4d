"""Tempering from the prior itself to the posterior, for priors whose density is known: no denoiser is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.errors import InputError
from sciflow.inverse.likelihood import Likelihood
from sciflow.inverse.shared import check_islands, run
from sciflow.particles.adaptation import Adaptation, Metric, pilot
from sciflow.particles.kernels import MALA, Kernel
from sciflow.particles.particles import Particles
from sciflow.particles.ranks import Ranks
from sciflow.particles.resampling import Scheme
from sciflow.particles.tempering import Path, Stage, Tempering, Tilt, ladder
from sciflow.random import Stream

DATA = 1.0
"""The time of the data, where a prior's noise is least."""


def _drawn(prior: Denoiser, n: int, stream: Stream, like: Tensor) -> Tensor:
    """n draws of the data under a prior, flat, (n, d), in the dtype and on the device of `like`."""
    return prior.initial(DATA, n, stream, like.dtype).to(like.device).flatten(1)


@dataclass(frozen=True)
class PriorBase:
    """The law of the data under a prior that knows its density, on flat events.

    Args:
        prior: offers `log_prob(x, t)`, and exact draws by `initial` at the data.
        like: a tensor of the dtype and on the device of the draws.
    """

    prior: Denoiser
    like: Tensor

    def __post_init__(self) -> None:
        if not hasattr(self.prior, "log_prob"):
            raise InputError(
                "tempering needs the density of the prior, log_prob(x, t), which closed-form mixtures have and "
                "networks have not. Use `twisted_smc`."
            )

    def sample(self, n: int, stream: Stream) -> Tensor:
        return _drawn(self.prior, n, stream, self.like)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.prior.log_prob(x.reshape(-1, *self.prior.shape), DATA)  # type: ignore[attr-defined]


@runtime_checkable
class OwnPath(Protocol):
    """A likelihood that knows the way from what the prior draws to its target, and needs no density of the prior."""

    def path(self, draw: Callable[[int, Stream], Tensor]) -> Path:
        """From draws (n, stream) → (n, d) of the prior."""
        ...


@dataclass(frozen=True)
class Tempered:
    """Draw from the prior, let the likelihood in by degrees, and move the particles at each degree.

        log γ_β(x) = log p(x) + β log p(y | x),   β from 0 to 1

    Without `n_temperatures` a pilot run on random numbers of its own chooses temperatures, step sizes and metric (and
    fits a drift, if asked to); they are then frozen, so that the evidence stays unbiased. ess_threshold 0 is annealed
    importance sampling. A likelihood may bring a path of its own: that of a molecule leads from frames at a high
    temperature to a lower one, and the evidence is the ratio of both partition functions.

    Target: p(x₁) p(y | x₁)/p(y).
    Exactness: exact as particles → ∞; evidence unbiased with kernels that have a Metropolis test.
    Cost: n_particles × temperatures × n_moves kernel moves of the closed-form density, twice with a pilot; no denoiser
        call.
    Bias: O(1/particles) in means; that of "ula"; the prior's last noise level, where its schedule keeps one.
    Args:
        n_particles: particles, whatever the number of draws asked for.
        kernel: how particles move.
        n_moves: moves at each temperature.
        n_temperatures: of a fixed schedule β = (k/K)³ with steps in units of the prior's standard deviations; null
            lets a pilot run choose.
        share: conditional ESS at which the pilot puts the next temperature, as a share of the particles.
        metric: of the pilot: steps in units of 1, of standard deviations, or of the covariance of the particles.
        drift: of the pilot: basis of a drift that carries particles from one temperature to the next.
        resampling: scheme.
        ess_threshold: resample when ESS ≤ threshold × particles; 0 never does.
        tile: rows per call of the density: bounds the memory.
        islands: independent ensembles that the particles are split into; their spread is a second error bar of the
            evidence, from at least 4 of them. The pilot has one.
        ranks: the processes that hold the ensemble together, from Python; a run file says `resources: {sample: …}`.
    Raises:
        InputError: a prior without `log_prob`, if the likelihood has no path of its own, or options out of range.
        NonFiniteError: weights that are not finite; names the step.
    Source: Neal (2001), Annealed importance sampling; Del Moral, Doucet and Jasra (2006), Sequential Monte Carlo
        samplers.
    """

    n_particles: Annotated[int, Field(gt=0)] = 1024
    kernel: Kernel = field(default_factory=MALA)
    n_moves: Annotated[int, Field(gt=0)] = 2
    n_temperatures: Annotated[int, Field(gt=0)] | None = None
    share: Annotated[float, Field(gt=0, lt=1)] = 0.9
    metric: Metric = "diagonal"
    drift: Literal["none", "diagonal", "affine"] = "none"
    resampling: Scheme = "systematic"
    ess_threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    tile: Annotated[int, Field(gt=0)] = 4096
    islands: Annotated[int, Field(gt=0)] = 1
    ranks: Ranks | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.n_particles < 1 or not 0 <= self.ess_threshold <= 1:
            got = f"n_particles = {self.n_particles} and ess_threshold = {self.ess_threshold}"
            raise InputError(f"Tempered needs n_particles ≥ 1 and 0 ≤ ess_threshold ≤ 1, got {got}.")
        check_islands(self)

    @property
    def is_shared(self) -> bool:
        """On several ranks each runs the pilot whole."""
        return True

    def path(self, prior: Denoiser, likelihood: Likelihood) -> Path:
        """From the prior to the posterior."""
        shape = tuple(prior.shape)
        bound, like = likelihood.on(shape), likelihood.observation
        if isinstance(bound, OwnPath):
            return bound.path(lambda n, stream: _drawn(prior, n, stream, like))
        return Tilt(PriorBase(prior, like), lambda x: bound.log_prob(x.reshape(-1, *shape)))

    def stages(
        self, path: Path, stream: Stream, on_step: Callable[[int, float], None] | None = None
    ) -> tuple[Stage, ...]:
        """The temperatures: fixed, or those of a pilot run."""
        if self.n_temperatures is not None:
            spread = path.base.sample(1024, stream.child("spread")).double().std(0)
            return ladder(self.n_temperatures, self.kernel.step, spread, power=3.0)
        adaptation = Adaptation(self.share, self.metric, self.drift)
        return pilot(path, self.n_particles, stream, self.kernel, adaptation, self.n_moves, self.tile, on_step).stages

    def __call__(
        self,
        prior: Denoiser,
        likelihood: Likelihood,
        times: Tensor | Sequence[float],
        n: int,
        stream: Stream,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Particles:
        if n < 1:
            raise InputError(f"a posterior needs n ≥ 1 draws, got {n}.")
        path = self.path(prior, likelihood)
        most = Adaptation().most
        waiting = None if on_step is None else (lambda k, beta: on_step(0, most))
        with torch.no_grad():
            stages = self.stages(path, stream.child("pilot"), waiting)
            model = Tempering(path, stages, self.kernel, self.n_moves, self.tile)
            threshold = self.ess_threshold or 0.5 / self.n_particles  # below one particle: never
            found = run(self, model, stream.child("run"), threshold, on_step)
        return replace(found, x=found.x.reshape(-1, *prior.shape))
