"""Draws of the prior by a Markov chain in (x, σ): it crosses between modes where noise is high, and is denoised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser, Tiled
from sciflow.errors import InputError, NonFiniteError
from sciflow.inverse.likelihood import Likelihood
from sciflow.inverse.shared import Progress
from sciflow.particles.particles import Particles
from sciflow.random import Stream
from sciflow.search.gaussian import Moments
from sciflow.search.markov import Chain, DenoisingMCMC, LevelLaw, level_law, moments_law
from sciflow.search.reference import refined
from sciflow.solvers.automatic import Auto
from sciflow.solvers.solve import Solver
from sciflow.solvers.times import checked
from sciflow.types import broadcast

REPORTED = 10  # chain steps between two reports


@dataclass(frozen=True)
class DenoisedChains:
    """Denoising MCMC: one chain for each draw over states and noise levels, its last state denoised.

        y ← y + (η/2) (D − y)/u² + √η z,   η = step · u²;   u ~ p(u | y) over n_levels equidistant in λ, equally likely

    The likelihood is not looked at, as in `unguided`. Chains start as draws of the solver, noised up to random levels.

    Target: the prior p(x₁); the observation is not looked at.
    Exactness: of the prior, as n_steps → ∞ and step → 0, for a denoiser that knows its density.
    Cost: n_steps denoiser calls, those of the solver, and again from the level where the chain ended; 2 d + 64 once for
        a network of d numbers.
    Bias: O(step). The level of a network's state is drawn as if the data were Gaussian: too high or low where they are
        not.
    Args:
        n_steps: steps of each chain.
        n_levels: noise levels between the ends of the grid.
        step: η over u², below 4 for stability.
        solver: that denoises, on a grid of n_denoising steps equidistant in λ.
        n_denoising: its steps.
    Raises:
        InputError: n < 1, a grid that reaches α = 0 or σ = 0, or an unstable step.
        NonFiniteError: a draw is NaN or infinite.
    Source: Kim and Ye (2023), Denoising MCMC for accelerating diffusion-based generative models, algorithm 1; the exact
        level and the scaled step are ours.
    """

    n_steps: Annotated[int, Field(gt=0)] = 100
    n_levels: Annotated[int, Field(ge=2)] = 20
    step: Annotated[float, Field(gt=0, lt=4)] = 0.2
    solver: Solver = field(default_factory=Auto)
    n_denoising: Annotated[int, Field(gt=0)] = 20

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
            raise InputError(f"n must be at least 1, got {n}. Ask for more samples.")
        like, tiled = likelihood.observation, Tiled(prior, stream.tile)
        try:
            levels = tuple(refined(prior.schedule, checked(times), self.n_levels - 1))
            law = self._law(prior, levels, stream.child("moments"), like)
        except ValueError as error:
            raise InputError(f"denoising_mcmc: {error}") from error
        chain = DenoisingMCMC(tiled, levels, law, step=self.step)
        state = self._start(chain, n, stream.child("start"), like)
        for first in range(0, self.n_steps, REPORTED):
            state = chain.run(state, min(REPORTED, self.n_steps - first), stream.child("chain", first))
            if on_step is not None:
                on_step(min(first + REPORTED, self.n_steps), self.n_steps)
        y = chain.denoised(state, levels[-1], self.n_denoising, self.solver)
        if not bool(y.isfinite().all()):
            raise NonFiniteError(f"denoising_mcmc: draws are not finite after {self.n_steps} steps. Lower the step.")
        return Particles.equal(y * float(prior.schedule.alpha(levels[-1])))

    def _start(self, chain: DenoisingMCMC, n: int, stream: Stream, like: Tensor) -> Chain:
        """Draws by the solver alone, noised up to levels drawn from their law."""
        levels, schedule = chain.times, chain.denoiser.schedule
        ratios = torch.tensor([float(schedule.sigma(t) / schedule.alpha(t)) for t in levels], dtype=torch.float64)
        x = chain.denoiser.initial(levels[0], n, stream.child("initial"), like.dtype).to(like.device)
        top = torch.zeros(n, dtype=torch.long, device=like.device)
        y = chain.denoised(Chain(x / float(schedule.alpha(levels[0])), top), levels[-1], self.n_denoising, self.solver)
        level = (stream.child("level").uniform(n, dtype=torch.float64) * len(levels)).long().to(like.device)
        added = (ratios.square() - ratios[-1].square()).clamp_min(0).sqrt().to(like.device, like.dtype)[level]
        z = stream.child("noise").normal(n, y.shape[1:], dtype=like.dtype, device=like.device)
        return Chain(y + broadcast(added, y) * z, level)

    def _law(self, prior: Denoiser, levels: tuple[float, ...], stream: Stream, like: Tensor) -> LevelLaw:
        """log p_u(y), exact where the prior knows it."""
        if hasattr(prior, "log_prob"):
            return level_law(prior, levels)
        moments = Moments.of_model(Tiled(prior, stream.tile), levels[0], stream, like=like)
        return moments_law(moments, prior.schedule, levels)
