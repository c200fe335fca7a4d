"""Path-space weights: the prior's own chain, steered by any twist and any proposal, weighted for every single path.

    reference   p(x_b | x_a), from noise to data, then p(x₁ | x_K)
    twist       h_k(x) > 0, what is hoped of the end from x_k = x; it may remember the path
    proposal    m(x_b | x_a), the reference moved towards large h
    potential   h_{k+1}(x_b)/h_k(x_a) · p(x_b | x_a)/m(x_b | x_a);   h of the data is the target's own factor G(x₁)

The potentials telescope: a path's proposal density times its weights is its reference density times G(x₁), for every
path, number of steps, twist and proposal. So the weighted particles have the law  (discretised prior) × G,  and
E[Ẑ] is its integral; twist and proposal only decide how many particles that takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.flow import transition
from sciflow.diffusion.schedule import Schedule
from sciflow.errors import InputError
from sciflow.particles.feynman_kac import State
from sciflow.random import Stream
from sciflow.solvers.times import checked
from sciflow.steering.blocks import put, rows_of, taken


class Move(NamedTuple):
    """One step of the reference chain, x_b = mean + pull (x₁ − D) + s z, events flattened to (n, d).

    x₁ is D itself (ancestral kernels), or what the guide believes of it.
    """

    a: float
    b: float
    mean: Tensor
    s: float
    pull: float


class Guide(Protocol):
    """A twist and the kernels that go with it. Rows never see one another: they come a tile at a time."""

    def look(self, x: Tensor, t: float, stream: Stream) -> State:
        """What states (n, *shape) at time t say: `data` D (n, d), `log_twist` log h (n,), and what `propose` needs."""
        ...

    def propose(self, state: State, move: Move, stream: Stream) -> tuple[Tensor, Tensor]:
        """A draw of m, (n, d), and its log p − log m, (n,)."""
        ...

    def conclude(self, state: State, stream: Stream) -> tuple[Tensor, Tensor]:
        """x₁, (n, d), and log p(x₁ | x) + log G(x₁) − log m(x₁ | x) − log h(x), (n,)."""
        ...


class Memory(Protocol):
    """A twist of the whole path, made of the twists along it; sees the ensemble, not a tile.

    Attributes:
        needs: entries of the state one level earlier that it looks at: the others are overwritten by then.
    """

    @property
    def needs(self) -> tuple[str, ...]: ...

    def __call__(self, k: int, before: State | None, ahead: State, log_ratio: Tensor) -> State:
        """`ahead` with `log_twist` log h_k(x_0 … x_k) and whatever is to be remembered.

        Args:
            k: number of the level, 0 at the start.
            before: the state one level earlier; None at the start.
            ahead: the state as the guide sees it.
            log_ratio: log p − log m of the move between them.
        """
        ...


@dataclass(frozen=True)
class TwistedModel:
    """The Feynman–Kac model of a diffusion prior and a guide.

        x_b ~ N(α_b D + κ (x_a − α_a D), s²),   κ = σ_b √(1 − η²ζ)/σ_a,   s = η σ_b √ζ,   ζ = 1 − (α_a σ_b/α_b σ_a)²

    What the guide sees is carried along, so that each level costs one look.

    With `variance` v the reference knows that x₁ spreads around D, as isotropic data of variance v would: s² grows by
    k² v σ_a²/(σ_a² + α_a² v), k = α_b − κ α_a. Without it ("small" variance) the chain ends too narrow.

    Exactness: weights exact for every path; E[Ẑ] exact for the discretised prior, for any number of particles.
    Cost: one look of the guide per particle and level.
    Bias: that of the reference chain, O(step).
    Args:
        prior: denoiser.
        guide: twist and kernels.
        levels: increasing times with σ > 0.
        like: a tensor with the dtype and on the device of the particles.
        memory: the twist of a path; None takes that of its last state.
        eta: η, amount of noise of the reference, 1 is the time reversal of the noising process [dimensionless].
        tile: rows per call of the guide.
        variance: v; None takes x₁ = D [data units²].
    Raises:
        InputError: eta ≤ 0: without noise no proposal can be weighed.
    Source: Wu et al. (2023), Practical and asymptotically exact conditional sampling in diffusion models.
    """

    prior: Denoiser
    guide: Guide
    levels: tuple[float, ...]
    like: Tensor
    memory: Memory | None = None
    eta: float = 1.0
    tile: int = 1024
    variance: float | None = None

    def __post_init__(self) -> None:
        if not (0 < self.eta <= 1 and self.tile >= 1):
            raise InputError(
                f"a twisted model needs 0 < eta ≤ 1 and tile ≥ 1, got eta = {self.eta}, tile = {self.tile}. "
                "Moves without noise have no density to weigh, and copies of a particle would never part."
            )

    @property
    def n_steps(self) -> int:
        """One move to each further level, and one to the data."""
        return len(self.levels)

    def initial(self, n: int, stream: Stream) -> tuple[State, Tensor]:
        """The prior's law of x_0, weighted by the first twist."""
        state: State = {}
        for rows in rows_of(
            n, self.tile
        ):  # by tiles: the bits of a product of matrices depend on how many rows there are
            own, count = stream.rows_from(rows.start), rows.stop - rows.start
            x = self.prior.initial(self.levels[0], count, own.child("x"), self.like.dtype).to(self.like.device)
            put(state, rows, n, self._look(x, 0, own))
        state = self._remember(0, None, state, torch.zeros(n, dtype=torch.float64, device=self.like.device))
        return state, state["log_twist"].clone()

    def step(self, k: int, state: State, stream: Stream) -> tuple[State, Tensor]:
        needs = () if self.memory is None else self.memory.needs
        x, before = state["x"], {name: state[name].clone() for name in {"log_twist", *needs}}
        log_weight = torch.empty(len(x), dtype=torch.float64, device=x.device)
        for rows in rows_of(len(x), self.tile):
            tile, own = taken(state, rows), stream.rows_from(rows.start)
            if k == self.n_steps - 1:
                x1, log_weight[rows] = self.guide.conclude(tile, own)
                x[rows] = x1.reshape(tile["x"].shape)
            else:
                moved, log_weight[rows] = self._move(k, tile, own)
                put(state, rows, len(x), moved)
        if k == self.n_steps - 1:
            return {"x": x}, _alive(before, log_weight)
        ahead = self._remember(k + 1, before, state, log_weight)
        return ahead, _alive(before, ahead["log_twist"] - before["log_twist"] + log_weight)

    def _move(self, k: int, state: State, stream: Stream) -> tuple[State, Tensor]:
        """One tile to level k + 1."""
        x, data, (a, b), schedule = state["x"], state["data"], self.levels[k : k + 2], self.prior.schedule
        mean, s = transition(self.prior, x.flatten(1), data, a, b, self.eta)
        kept = math.sqrt(max(float(schedule.sigma(b)) ** 2 - s**2, 0.0)) / float(schedule.sigma(a))
        pull = float(schedule.alpha(b)) - kept * float(schedule.alpha(a))
        move = Move(a, b, mean, math.hypot(s, pull * self._spread(a)), pull)
        moved, log_ratio = self.guide.propose(state, move, stream)
        return self._look(moved.reshape(x.shape), k + 1, stream), log_ratio

    def _spread(self, t: float) -> float:
        """Standard deviation of x₁ around D at time t that the reference takes into account."""
        if self.variance is None:
            return 0.0
        alpha, sigma = float(self.prior.schedule.alpha(t)), float(self.prior.schedule.sigma(t))
        return sigma * math.sqrt(self.variance / (sigma**2 + alpha**2 * self.variance))

    def _look(self, x: Tensor, k: int, stream: Stream) -> State:
        return {"x": x, **self.guide.look(x, self.levels[k], stream)}

    def _remember(self, k: int, before: State | None, ahead: State, log_ratio: Tensor) -> State:
        return ahead if self.memory is None else self.memory(k, before, ahead, log_ratio)


def normal(like: Tensor, stream: Stream) -> Tensor:
    """Standard normal numbers for the rows of `like`, (n, *shape), flattened to (n, d)."""
    return stream.normal(len(like), like.shape[1:], dtype=like.dtype, device=like.device).flatten(1)


def noisy_levels(schedule: Schedule, times: Tensor | Sequence[float]) -> tuple[float, ...]:
    """The times with σ > 0: a last one with σ = 0 is the data itself, which a twisted model reaches on its own.

    Raises:
        InputError: times that are not an increasing grid.
    """
    grid = checked(times)
    return tuple(grid[:-1] if float(schedule.sigma(grid[-1])) == 0 else grid)


def _alive(state: State, potential: Tensor) -> Tensor:
    """−inf for particles whose twist was 0: they weigh nothing for ever."""
    return torch.where(state["log_twist"] == -math.inf, -math.inf, potential)


Twist = Callable[[Tensor, float, Tensor], Tensor]
"""(x, t, D(x, t)) → log h_t(x), (n,)."""
