"""Draws of the prior by molecular dynamics with its score: simulation and sampling from one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from sciflow.diffusion.denoiser import Counted, Denoiser, Tiled, score
from sciflow.diffusion.density import known_log_density
from sciflow.diffusion.flow import probability_flow
from sciflow.errors import InputError, NonFiniteError
from sciflow.inverse.likelihood import Likelihood
from sciflow.inverse.shared import Progress
from sciflow.particles.particles import Particles
from sciflow.random import Stream
from sciflow.solvers.automatic import Auto
from sciflow.solvers.kinetic import BAOAB, Kinetic, LangevinSolver
from sciflow.solvers.overdamped import Overdamped
from sciflow.solvers.solve import Solver, solve
from sciflow.solvers.times import checked

Count = Annotated[int, Field(gt=0)]


@dataclass(frozen=True)
class Simulated:
    """Langevin dynamics in the potential −kT log p of the last noise level.

        dx = v dt,   dv = (c² ∇ log p(x) − γ v) dt + c √(2γ) dW,   p: law of x₁ + (σ/α) ε at the last time

    c = √(kT/m) is the thermal speed: with a model of the Boltzmann law of U, c² ∇ log p → −∇U/m as the noise goes to 0.
    Chains start as draws of the flow, so that the law is right from the start if sampling and simulation agree, and
    moves away where they do not. Frames come chain after chain, each in the order of time.

    A method without inertia, `mala`, follows dx = (c²/γ) ∇ log p dt + c √(2/γ) dW, and asks for p itself: of a model in
    closed form, or of a network with a density, `energy_mlp`.

    Target: the prior p(x₁), as the simulation sees it; the observation is not looked at.
    Exactness: of the prior blurred by the last level, in long time: as step → 0 for a model whose score is a gradient,
        with `mala` at any step.
    Cost: the flow's calls for n_chains draws, then (burn_in + frames of a chain × thinning) calls for each chain.
    Bias: O(step²), none with `mala`; a chain that is short beside the time between wells keeps the shares it started
        with; a score that is no gradient has no equilibrium at all.
    Args:
        n_chains: independent chains; the draws asked for are shared among them.
        thinning: steps between two frames.
        burn_in: steps before the first frame.
        step: time step [time].
        friction: γ [1/time].
        speed: c = √(kT/m) [data units/time].
        method: of the dynamics.
        solver: of the flow, for the start.
    Raises:
        InputError: n < 1, a grid that ends without noise, or `mala` with a model that knows no density.
        NonFiniteError: a chain leaves the numbers; names the frame.
    Source: Arts et al. (2023), Two for one: diffusion models and force fields for coarse-grained molecular dynamics.
    """

    n_chains: Count = 500
    thinning: Count = 25
    burn_in: Annotated[int, Field(ge=0)] = 0
    step: Annotated[float, Field(gt=0)] = 0.05
    friction: Annotated[float, Field(gt=0)] = 1.0
    speed: Annotated[float, Field(gt=0)] = 1.0
    method: LangevinSolver = field(default_factory=BAOAB)
    solver: Solver = field(default_factory=Auto)

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
        grid, like, tiled = checked(times), likelihood.observation, Tiled(prior, stream.tile)
        alpha, sigma = float(prior.schedule.alpha(grid[-1])), float(prior.schedule.sigma(grid[-1]))
        if sigma == 0:
            raise InputError(
                "simulated needs noise at the last time, where the score is taken. End the grid before σ = 0."
            )
        n_chains = min(self.n_chains, n)
        n_frames = -(-n // n_chains)
        with torch.no_grad():
            x = prior.initial(grid[0], n_chains, stream.child("initial"), like.dtype).to(like.device)
            first, n_steps = len(grid) - 1, len(grid) - 1 + n_frames
            report = None if on_step is None else (lambda k, t, x: on_step(k + 1, n_steps))
            x = solve(probability_flow(tiled), x, grid, self.solver, stream=stream.child("solver"), on_step=report)
            shown = None if on_step is None else (lambda k, n: on_step(first + k, n_steps))
            dynamics = self._dynamics(prior, alpha, grid[-1], stream.tile)
            frames = self._frames(dynamics, x / alpha, n_frames, stream, shown)
        return Particles.equal(frames.flatten(0, 1)[:n])

    def _dynamics(self, prior: Denoiser, alpha: float, t: float, tile: int) -> Kinetic | Overdamped:
        """Unit mass and kT = c²: the force is c² times the score of x₁ + (σ/α) ε."""
        square, tiled = self.speed**2, Tiled(prior, tile)
        if self.method.has_inertia:
            return Kinetic(lambda x: square * alpha * score(tiled, alpha * x, t), square, self.friction)
        log_density = known_log_density(prior, t)

        def energy(x: Tensor) -> Tensor:
            if isinstance(prior, Counted):
                prior.rows += len(x)
            return -square * torch.cat([log_density(alpha * rows) for rows in x.split(tile)])

        return Overdamped(energy, square, 1 / self.friction)

    def _frames(
        self, dynamics: Kinetic | Overdamped, x: Tensor, n_frames: int, stream: Stream, on_step: Progress | None
    ) -> Tensor:
        """Positions of all chains at each frame, (chain, frame, *shape)."""
        state, frames = x, []
        if isinstance(dynamics, Kinetic):
            velocity = stream.child("velocity").normal(len(x), x.shape[1:], dtype=x.dtype, device=x.device)
            state = dynamics.thermal(x, velocity)
        for frame in range(n_frames):
            n_steps = self.thinning + (self.burn_in if frame == 0 else 0)
            grid = [self.step * k for k in range(n_steps + 1)]
            state = solve(dynamics, state, grid, self.method, stream=stream.child("frame", frame))
            frames.append(state[:, 0] if isinstance(dynamics, Kinetic) else state)
            if not bool(frames[-1].isfinite().all()):
                raise NonFiniteError(f"simulated: chains are not finite at frame {frame + 1}. Take a shorter step.")
            if on_step is not None:
                on_step(frame + 1, n_frames)
        return torch.stack(frames, 1)
