"""Steering of flows: velocity fields with a score, tilted by a potential, in the state and time that they were made in.

Any denoiser is a flow, and a velocity field of a one-sided interpolant is a denoiser (`of_velocity`), so that every
sampler of this package takes it. What is said here holds for any transport whose law p_t is known by velocity and
score, two-sided ones from a base that is not white included; it starts at t = 0, where nothing is infinite in x.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from sciflow.diffusion.denoiser import Converted, Denoiser, FromView, score, velocity
from sciflow.diffusion.schedule import Linear, Schedule
from sciflow.diffusion.two_sided import TwoSidedModel, expected_data, transport
from sciflow.errors import InputError
from sciflow.particles.feynman_kac import State
from sciflow.random import Stream
from sciflow.solvers.dynamics import Equation
from sciflow.solvers.explicit import Heun
from sciflow.solvers.solve import Solver, solve
from sciflow.steering.copies import refuse_copies, slots
from sciflow.steering.target import Potential, pull
from sciflow.types import Time

Base = Callable[[int, Stream, torch.dtype], Tensor]
"""(n, stream, dtype) → n draws of the law at the start."""


def of_velocity(
    function: Callable[[Tensor, Time], Tensor],
    shape: tuple[int, ...],
    schedule: Schedule | None = None,
    under: Schedule | None = None,
) -> Denoiser:
    """A velocity field as a prior: for posteriors, guidance, target paths and twisted models alike.

        D = (σ v − σ̇ x)/(α̇ σ − α σ̇);   linear: D = x + (1 − t) v,   s = (t v − x)/(1 − t)

    Args:
        function: v(x, t) = E[ẋ_t | x_t = x] of x_t = α x₁ + σ x₀, x₀ white.
        shape: of an event.
        schedule: α and σ; None is linear, as in flow matching and rectified flow.
        under: noise levels to sample under, without retraining; None keeps the schedule. Grids in noise levels
            (`Karras`, `LogSNR`) start where α > 0 under either.
    Source: Lipman et al. (2023), Flow matching; `FromView` and `Converted` say how.
    """
    own = Linear() if schedule is None else schedule
    denoiser = FromView(function, "velocity", own, shape)
    return denoiser if under is None else Converted(denoiser, under)


class Flow(Protocol):
    """A law p_t that moves by dx/dt = velocity, and its score."""

    def initial(self, n: int, stream: Stream, dtype: torch.dtype) -> Tensor:
        """n draws of the law at the first time."""
        ...

    def velocity(self, t: float, x: Tensor) -> Tensor: ...
    def score(self, t: float, x: Tensor) -> Tensor: ...

    def width(self, t: float) -> float:
        """Standard deviation of the noise in x_t: σ or γ; 0 where there is none."""
        ...

    def data(self, t: float, x: Tensor) -> Tensor:
        """E[x₁ | x_t = x]."""
        ...


@dataclass(frozen=True)
class OneSided:
    """The flow of a denoiser: from white noise, at t = 0 where α = 0, to the data.

    Args:
        denoiser: any, of `of_velocity` too.
        start: the first time.
    """

    denoiser: Denoiser
    start: float = 0.0

    def initial(self, n: int, stream: Stream, dtype: torch.dtype) -> Tensor:
        return self.denoiser.initial(self.start, n, stream, dtype)

    def velocity(self, t: float, x: Tensor) -> Tensor:
        return velocity(self.denoiser, x, t)

    def score(self, t: float, x: Tensor) -> Tensor:
        return score(self.denoiser, x, t)

    def width(self, t: float) -> float:
        return float(self.denoiser.schedule.sigma(t))

    def data(self, t: float, x: Tensor) -> Tensor:
        return self.denoiser(x, t)


@dataclass(frozen=True)
class Between:
    """The flow of a two-sided interpolant, from any law that can be drawn from.

    Args:
        model: velocity and score.
        base: draws of x₀.
    """

    model: TwoSidedModel
    base: Base

    def initial(self, n: int, stream: Stream, dtype: torch.dtype) -> Tensor:
        return self.base(n, stream, dtype)

    def velocity(self, t: float, x: Tensor) -> Tensor:
        return transport(self.model).drift(t, x)

    def score(self, t: float, x: Tensor) -> Tensor:
        return self.model.score(x, t)

    def width(self, t: float) -> float:
        return float(self.model.interpolant.weights(t).gamma)

    def data(self, t: float, x: Tensor) -> Tensor:
        return expected_data(self.model, x, t)


@dataclass(frozen=True)
class Ramped:
    """A potential that grows from nothing: r_t(x) = t^power · f(x), so that the start is the base itself.

    Args:
        function: f, (n, *shape) → (n,) [nat].
        power: how late it comes in.
        has_gradient: whether f can be differentiated.
    """

    function: Callable[[Tensor], Tensor]
    power: float = 1.0
    has_gradient: bool = True

    def __call__(self, x: Tensor, t: float) -> Tensor:
        return t**self.power * self.function(x)


@dataclass(frozen=True)
class TransportModel:
    """The law of a flow, tilted by a potential, as a Feynman–Kac model: log γ_t = log p_t + r_t.

        y = Φ_{a→b}(x), the flow;   log w ← log w + r_b(y) − r_a(x);   x ← y + ε(∇log p_b + ∇r_b)(y) + √(2ε) z

    The flow carries p_a to p_b whatever r is, so a difference of r is all its weight: no derivative of r, no Laplacian,
    no divergence. Noise is a Langevin step of γ_b, which leaves γ_b as it is and needs no weight. With ε = ½V²h the two
    are dx = (v + ½V²(s + ∇r))dt + V dW, for any V(t) ≥ 0. After the last level x₁ = E[x₁ | x], unless t = 1 is one.

    A potential without a gradient leaves the noise to p_b, dx = (v + ½V² s)dt + V dW: then r is taken after the noise,
    and the weights are those of paths of that SDE.

    V = 0 moves copies of a particle together for ever: resampled particles are refused where no later level has noise.

    Target: p_1(x) exp(r_1(x)), and its integral for an evidence.
    Exactness: of the flow's own weights up to the solver; of the Langevin step as steps → ∞.
    Cost: the solver's calls, one score per level with noise, two potentials, and a gradient of r with noise.
    Bias: O(h^p) of the solver and O(ε) of the Langevin step; the noise of the last level if that is not t = 1.
    Args:
        flow: velocity, score and the law at the first level.
        potential: r_t(x), (x, t) → (n,); `has_gradient = False` for one that cannot be differentiated.
        levels: increasing times in [0, 1], all but t = 1 with noise in x_t.
        noise: e, for ½V² = e · width(t), which keeps the drift bounded; or a function t → ½V².
        solver: of the flow.
        tile: rows per call of flow and potential: bounds the memory.
        like: dtype and device of the state.
    Raises:
        InputError: fewer than two levels, levels outside [0, 1], negative noise, or V = 0 after a resampling.
    Source: Albergo, Boffi and Vanden-Eijnden (2023), Stochastic interpolants, for the SDE of any V; Skreta et al.
        (2025), Feynman–Kac correctors in diffusion, for weights without Laplacians; the two in turns: derived here.
    """

    flow: Flow
    potential: Potential
    levels: tuple[float, ...]
    noise: float | Callable[[float], float] = 1.0
    solver: Solver = field(default_factory=Heun)
    tile: int = 1024
    like: Tensor = field(default_factory=lambda: torch.empty(0))

    def __post_init__(self) -> None:
        rises = all(a < b for a, b in zip(self.levels, self.levels[1:], strict=False))
        if len(self.levels) < 2 or not rises or not 0 <= self.levels[0] < self.levels[-1] <= 1:
            raise InputError(f"a flow needs two or more increasing levels in [0, 1], got {len(self.levels)}.")
        if any(self._epsilon(t) < 0 for t in self.levels) or self.tile < 1:
            raise InputError(
                "a flow needs noise ½V² ≥ 0 at every level and tile ≥ 1. Take noise = 0 for the flow alone."
            )

    @property
    def n_steps(self) -> int:
        return len(self.levels) - 1 + (self.levels[-1] < 1)

    def _epsilon(self, t: float) -> float:
        """½V²."""
        return self.noise(t) if callable(self.noise) else self.noise * self.flow.width(t)

    def initial(self, n: int, stream: Stream) -> tuple[State, Tensor]:
        x = self.flow.initial(n, stream.child("x"), self.like.dtype).to(self.like.device)
        state = self._at(self.levels[0], x, stream)
        return state, state["r"]

    def _at(self, t: float, x: Tensor, stream: Stream) -> State:
        return {"x": x, "r": self.potential(x, t).detach().double(), "slot": slots(x, stream)}

    def step(self, k: int, state: State, stream: Stream) -> tuple[State, Tensor]:
        starts = range(0, len(state["x"]), self.tile)
        tiles = [{name: value[i : i + self.tile] for name, value in state.items()} for i in starts]
        moved = [self._move(k, tile, stream.rows_from(i)) for tile, i in zip(tiles, starts, strict=True)]
        joined = {name: torch.cat([tile[name] for tile, _ in moved]) for name in state}
        return joined, torch.cat([potential for _, potential in moved])

    def _move(self, k: int, state: State, stream: Stream) -> tuple[State, Tensor]:
        """One tile to the next level."""
        x, a = state["x"], self.levels[k]
        if k == len(self.levels) - 1:
            end = self._at(1.0, self.flow.data(a, x), stream)
            return end, end["r"] - state["r"]
        b = self.levels[k + 1]
        y = solve(Equation(self.flow.velocity), x, [a, b], self.solver)
        moved = self._at(b, y, stream)
        potential, epsilon = moved["r"] - state["r"], (b - a) * self._epsilon(b)
        if epsilon > 0:
            sees = getattr(self.potential, "has_gradient", True)
            drift = self.flow.score(b, y) + pull(self.potential, y, b)
            z = stream.child("noise").normal(len(y), y.shape[1:], dtype=y.dtype, device=y.device)
            moved = self._at(b, y + epsilon * drift + math.sqrt(2 * epsilon) * z, stream)
            potential = potential if sees else moved["r"] - state["r"]
        elif b < 1 and not any(self._epsilon(t) > 0 for t in self.levels[k + 2 :]):  # nothing will part them later
            refuse_copies(state, stream)
        return moved, potential
