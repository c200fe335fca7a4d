"""Draws of the prior alone: what a solver does to the same starts, with no observation in the way."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser, Tiled
from sciflow.diffusion.flow import probability_flow
from sciflow.errors import InputError, NonFiniteError
from sciflow.inverse.likelihood import Likelihood
from sciflow.inverse.shared import Progress
from sciflow.particles.particles import Particles
from sciflow.random import Stream
from sciflow.search.gaussian import Teleport
from sciflow.solvers.automatic import Auto
from sciflow.solvers.solve import Solver, solve
from sciflow.solvers.times import checked


def refined(grid: Sequence[float], n_parts: int) -> Tensor:
    """Every step of a grid cut into equal parts in t; the given times stay what they are."""
    pairs = itertools.pairwise(grid)
    inner = [a + k * (b - a) / n_parts for a, b in pairs for k in range(n_parts)]
    return torch.tensor([*inner, grid[-1]], dtype=torch.float64)


@dataclass(frozen=True)
class Unguided:
    """Follow the probability flow of the prior; the likelihood is not looked at.

        dx/dt = α̇ D + σ̇ (x − α D)/σ from x ~ p_t0

    All samplers of this kind in a run start from the same points, so that what tells them apart is the solver. The one
    named "reference" on a refined grid is what the metric `path_error` compares the others with.

    Target: the prior p(x₁); the observation is not looked at.
    Exactness: of the prior, as steps → ∞, first level → ∞ and last level → 0; no posterior.
    Cost: one denoiser call per solver call; `refine` times as many steps.
    Bias: O(h^p) of the solver; draws keep the noise of the last level.
    Args:
        solver: of the flow.
        refine: parts into which each step of the grid is cut.
        teleport: leave out the first steps where the model is Gaussian; null takes them all.
    Raises:
        InputError: n < 1.
        NonFiniteError: a draw is NaN or infinite.
    Source: Song et al. (2021), Score-based generative modeling through SDEs, eq. 13.
    """

    solver: Solver = field(default_factory=Auto)
    refine: Annotated[int, Field(gt=0)] = 1
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
        if n < 1:
            raise InputError(f"n must be at least 1, got {n}. Ask for more samples.")
        grid = refined(checked(times), self.refine).tolist()
        n_steps = len(grid) - 1
        shared = Stream(stream.seed, ("unguided", *stream.purpose[-1:]), stream.tile)
        tiled = Tiled(prior, stream.tile)
        flow = probability_flow(tiled)
        with torch.no_grad():
            x = prior.initial(grid[0], n, shared, likelihood.observation.dtype)
            x = x.to(likelihood.observation.device)
            if self.teleport:
                x, grid = self.teleport(tiled, x, grid, stream.child("teleport"))
            first = n_steps + 2 - len(grid)
            report = None if on_step is None else (lambda k, t, x: on_step(first + k, n_steps))
            x = solve(flow, x, grid, self.solver, stream=stream.child("solver"), on_step=report)
        if not bool(x.isfinite().all()):
            name = type(self.solver).__name__
            raise NonFiniteError(f"{name}: draws of the prior are not finite after {n_steps} steps. Take more steps.")
        return Particles.equal(x)
