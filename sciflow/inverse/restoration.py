"""One restoration in place of draws: a guided flow from the start that restored known answers best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser, Tiled
from sciflow.diffusion.flow import probability_flow
from sciflow.errors import InputError, NonFiniteError
from sciflow.inverse.guidance import Guidance, MomentMatching
from sciflow.inverse.likelihood import GaussianLikelihood, Likelihood
from sciflow.inverse.moments import linear_gaussian
from sciflow.inverse.shared import Progress
from sciflow.particles.particles import Particles
from sciflow.random import Stream
from sciflow.search.boundary import Restore, best_start
from sciflow.solvers.automatic import Auto
from sciflow.solvers.solve import Solver, solve
from sciflow.solvers.times import checked


@dataclass(frozen=True)
class Restoration:
    """Follow the flow of a guided denoiser from the best start: argmin over starts of Σ ‖h(x_t0, y_i) − z_i‖².

    The z_i are draws of the prior and y_i their observations, both made here with the assumed likelihood. All draws are
    one: it is an estimate, and its spread says nothing.

    Target: none
    Exactness: none as a posterior; for a Gaussian one the best of many starts tends to its mean.
    Cost: (n_candidates + 1) · n_reference + 1 guided solves, and n_reference of the prior; all for one observation.
    Bias: no spread; that of the guidance.
    Args:
        guidance: the guided denoiser to follow.
        solver: of the flow.
        n_candidates: starts tried.
        n_reference: known answers they are tried on.
        final: replace the end point by its denoised value, which removes the noise of the last level.
    Raises:
        InputError: n < 1, or a likelihood that is not linear and Gaussian.
        NonFiniteError: the restoration is NaN or infinite.
    Source: Ma et al. (2024), Solving diffusion ODEs with optimal boundary conditions for better image super-resolution,
        eq. 11; draws of the prior in place of a reference set.
    """

    guidance: Guidance = MomentMatching
    solver: Solver = field(default_factory=Auto)
    n_candidates: Annotated[int, Field(gt=0)] = 32
    n_reference: Annotated[int, Field(gt=0)] = 4
    final: bool = True

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
        grid, gaussian = checked(times), linear_gaussian(likelihood, tuple(prior.shape), "Restoration")
        known = self._reference(prior, gaussian, grid, stream)
        restore, scale = self._restore(prior, gaussian, grid, stream, on_step), float(prior.schedule.sigma(grid[0]))
        start = best_start(restore, known, known, prior.shape, stream.child("start"), self.n_candidates, scale=scale)
        x = restore(start.x, gaussian.observation[None])
        if not bool(x.isfinite().all()):
            raise NonFiniteError("restoration: its result is not finite. Take more steps, or a lower guidance scale.")
        return Particles.equal(x.expand(n, *x.shape[1:]).clone())

    def _reference(
        self, prior: Denoiser, likelihood: GaussianLikelihood, grid: list[float], stream: Stream
    ) -> tuple[Tensor, Tensor]:
        """Observations, and the draws of the prior that they are of."""
        own, like = stream.child("reference"), likelihood.observation
        tiled = Tiled(prior, stream.tile)
        with torch.no_grad():
            x = prior.initial(grid[0], self.n_reference, own, like.dtype).to(like.device)
            x = solve(probability_flow(tiled), x, grid, self.solver, stream=own.child("solver"))
            x = tiled(x, grid[-1]) if float(prior.schedule.sigma(grid[-1])) > 0 else x
            clean = likelihood.operator(x)
        noise = own.child("noise").normal(len(x), clean.shape[1:], dtype=like.dtype, device=like.device)
        return clean + likelihood.sigma * noise, x

    def _restore(
        self,
        prior: Denoiser,
        likelihood: GaussianLikelihood,
        grid: list[float],
        stream: Stream,
        on_step: Progress | None,
    ) -> Restore:
        """h: starts and observations, row by row; the rows of one observation are solved together."""
        solved, n_solves = 0, (self.n_candidates + 1) * self.n_reference + 1

        def restore(starts: Tensor, observations: Tensor) -> Tensor:
            nonlocal solved
            found = torch.empty_like(starts)
            different, which = observations.unique(dim=0, return_inverse=True)
            for k, observation in enumerate(different):
                rows = (which == k).nonzero()[:, 0]
                guided = Tiled(
                    self.guidance(prior=prior, likelihood=replace(likelihood, observation=observation)), stream.tile
                )
                with torch.no_grad():
                    x = solve(probability_flow(guided), starts[rows], grid, self.solver, stream=stream.child("solver"))
                    is_noisy = self.final and float(prior.schedule.sigma(grid[-1])) > 0
                    found[rows] = guided(x, grid[-1]) if is_noisy else x
                solved += len(rows)
                if on_step is not None:
                    on_step(min(solved, n_solves), n_solves)
            return found

        return restore
