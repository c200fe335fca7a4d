"""Posterior samplers that go down the noise levels with one state per draw: what they share.

They are written for z = x_t/α = x₁ + s ε, s = σ/α, and take z at level s_k to z at level s_{k+1}, in the end to s = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser, Tiled, padded
from sciflow.diffusion.flow import probability_flow
from sciflow.errors import InputError, NonFiniteError
from sciflow.inverse.likelihood import GaussianLikelihood, Likelihood
from sciflow.inverse.moments import isotropic_variance, linear_gaussian
from sciflow.inverse.posterior import Watched
from sciflow.inverse.shared import Progress
from sciflow.inverse.singular import MeasuredDirections
from sciflow.particles.particles import Particles
from sciflow.random import Stream
from sciflow.search.reference import refined
from sciflow.solvers.solve import Solver, solve
from sciflow.steering.twisted import noisy_levels


@dataclass(frozen=True)
class Problem:
    """A prior, an observation, noise levels, and the random numbers of one tile of rows.

    Args:
        prior: denoiser.
        likelihood: Gaussian, bound; linear unless the sampler's `bound` says otherwise.
        times: of the levels, increasing.
        rows: states in hand, one tile.
        stream: random numbers of these rows.
    """

    prior: Denoiser
    likelihood: GaussianLikelihood
    times: tuple[float, ...]
    rows: int
    stream: Stream

    @cached_property
    def ratios(self) -> list[float]:
        """s_k of each level, and 0 for the data."""
        schedule = self.prior.schedule
        return [*(float(schedule.sigma(t)) / float(schedule.alpha(t)) for t in self.times), 0.0]

    @cached_property
    def directions(self) -> MeasuredDirections:
        return MeasuredDirections(self.likelihood)

    def start(self) -> Tensor:
        """Draws from the prior's law of z at the first level."""
        y, t = self.likelihood.observation, self.times[0]
        x = self.prior.initial(t, self.rows, self.stream.child("initial"), y.dtype)
        return x.to(y.device) / float(self.prior.schedule.alpha(t))

    def data(self, z: Tensor, k: int) -> Tensor:
        """D at level k."""
        t = self.times[k]
        return self.prior(float(self.prior.schedule.alpha(t)) * z, t)

    def carried(self, z: Tensor, k: int, n_steps: int, solver: Solver, name: str) -> Tensor:
        """x₁ at the end of the prior's own flow from level k: n_steps equidistant in λ to the last level, then D."""
        last, schedule = len(self.times) - 1, self.prior.schedule
        if k < last and n_steps > 0:
            grid = refined(schedule, (self.times[k], self.times[-1]), n_steps)
            x = float(schedule.alpha(grid[0])) * z
            x = solve(probability_flow(self.prior), x, grid, solver, stream=self.stream.child(name, k))
            z, k = x / float(schedule.alpha(grid[-1])), last
        return self.data(z, k)

    def noise(self, k: int, name: str = "step", shape: Sequence[int] | None = None) -> Tensor:
        """Standard normal numbers for step k, shaped like the events unless said otherwise."""
        y = self.likelihood.observation
        shape = self.prior.shape if shape is None else shape
        return self.stream.child(name).normal(self.rows, shape, step=k, dtype=y.dtype, device=y.device)

    def measurement_noise(self, k: int, name: str = "measurement") -> Tensor:
        """Standard normal numbers for step k, one for each measurement."""
        return self.noise(k, name, self.likelihood.observation.shape)

    def spread(self, k: int, variance: float | None) -> float:
        """Var[x₁ | z_k] of isotropic data of this variance, v s²/(v + s²); see `isotropic_variance`."""
        y = self.likelihood.observation.double()
        return float(isotropic_variance(self.prior.schedule, y, self.times[k], variance))


@dataclass(frozen=True)
class Descent:
    """What the samplers of this kind share: the loop over levels, tiles and their random numbers.

    Draws are independent, equally weighted, and draw k is the same bits for any n at one tile.
    """

    def bound(self, likelihood: Likelihood, shape: tuple[int, ...]) -> GaussianLikelihood:
        """The likelihood on events of `shape`, as the steps need it.

        Raises:
            InputError: it is not linear and Gaussian, nor near to that.
        """
        return linear_gaussian(likelihood, shape, type(self).__name__)

    def begin(self, problem: Problem) -> Tensor:
        """z at the first level; the prior's law of it unless a sampler knows better."""
        return problem.start()

    def step(self, problem: Problem, z: Tensor, k: int) -> Tensor:
        """z at level k + 1 from z at level k; the draw itself where k is the last level."""
        raise TypeError(f"{type(self).__name__} must define step.")

    def result(self, problem: Problem, z: Tensor) -> Tensor:
        """The draw, from what the last step left."""
        return z

    def __call__(
        self,
        prior: Denoiser,
        likelihood: Likelihood,
        times: Tensor | Sequence[float],
        n: int,
        stream: Stream,
        on_step: Progress | None = None,
    ) -> Particles:
        levels, gaussian = self._levels(prior, times, n), self.bound(likelihood, tuple(prior.shape))
        watched, draws, tile = Watched(Tiled(prior, stream.tile)), [], stream.tile
        n_steps, n_tiles = len(levels), -(-n // tile)
        with torch.no_grad():
            for i in range(n_tiles):
                missing = max((i + 1) * tile - n, 0)
                problem = Problem(watched, gaussian, levels, tile, stream.rows_from(i * tile))
                with padded(missing):
                    z = self.begin(problem)
                    for k in range(n_steps):
                        z = self.step(problem, z, k)
                        if on_step is not None:
                            on_step(i * n_steps + k + 1, n_tiles * n_steps)
                    draws.append(self.result(problem, z)[: tile - missing])
        x = torch.cat(draws)
        if not bool(x.isfinite().all()):
            self._complain(x, watched, levels)
        return Particles.equal(x)

    def _levels(self, prior: Denoiser, times: Tensor | Sequence[float], n: int) -> tuple[float, ...]:
        if n < 1:
            raise InputError(f"a posterior needs n ≥ 1 draws, got {n}.")
        levels = noisy_levels(prior.schedule, times)
        if float(prior.schedule.alpha(levels[0])) == 0:
            raise InputError(
                f"{type(self).__name__} works with x_t/α and cannot start at t = {levels[0]:g}, where α = 0. Start the "
                "grid later: times of kind karras or log_snr have a largest noise ratio."
            )
        return levels

    def _complain(self, x: Tensor, watched: Watched, levels: tuple[float, ...]) -> None:
        when, bad = float(watched.first), int((~x.isfinite().flatten(1).all(1)).sum())
        step = sum(t <= when for t in levels)
        place = f"; the denoiser's answer is not from t = {when:.4g} on, step {step} of {len(levels)}"
        raise NonFiniteError(
            f"{type(self).__name__}: {bad} of {len(x)} draws are not finite{place if step < len(levels) else ''}. "
            "Check the model at that noise level, or take a sampler that is exact, twisted_smc."
        )


def kept_noise(fraction: float | None, before: float, after: float) -> tuple[float, float]:
    """Share of the predicted noise that a step keeps, and the standard deviation of what it adds.

        z' = x̂ + kept s' ε̂ + added n,   kept² + (added/s')² = 1

    Args:
        fraction: share of the variance s'² that is fresh noise; None: that of the time reversal, 1 − (s'/s)².
        before, after: s and s'.
    Source: Song et al. (2021), Denoising diffusion implicit models, eqs. 12 and 16.
    """
    fresh = 1 - (after / before) ** 2 if fraction is None else fraction
    return (1 - fresh) ** 0.5, after * fresh**0.5
