"""Tempering: from a law that can be drawn to an unnormalised density, along γ_β = p₀^(1−β) γ^β.

One Feynman–Kac model serves annealed importance sampling (never resample) and annealed SMC (resample when the weights
say so). What can be adapted (temperatures, step sizes, metric, drift) is found by a pilot run and then frozen.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.particles.feynman_kac import State, Step
from sciflow.particles.kernels import MALA, Kernel
from sciflow.particles.transport import Affine
from sciflow.random import Stream
from sciflow.solvers.metropolis import LogDensity, Scale, valued


class Base(Protocol):
    """A law that can be drawn and whose normalised log-density is known."""

    def sample(self, n: int, stream: Stream) -> Tensor:
        """n independent draws, (n, d)."""
        ...

    def log_prob(self, x: Tensor) -> Tensor:
        """log density, (n,)."""
        ...


class Path(Protocol):
    """Unnormalised laws from a base that can be drawn, β = 0, to a target, β = 1; log γ_β is linear in β."""

    @property
    def base(self) -> Base: ...

    def at(self, beta: float) -> LogDensity:
        """log γ_β."""
        ...

    def rate(self, x: Tensor) -> Tensor:
        """∂ log γ_β/∂β, float64, (n,)."""
        ...


@dataclass(frozen=True)
class NormalBase:
    """N(mean, std²) in each coordinate.

    Args:
        mean: (d,); its dtype and device are those of the draws.
        std: > 0, (d,).
    """

    mean: Tensor
    std: Tensor

    def sample(self, n: int, stream: Stream) -> Tensor:
        z = stream.normal(n, self.mean.shape, dtype=self.mean.dtype, device=self.mean.device)
        return self.mean + self.std * z

    def log_prob(self, x: Tensor) -> Tensor:
        z = (x - self.mean) / self.std
        return -0.5 * (z**2).sum(1) - self.std.log().sum() - 0.5 * len(self.mean) * math.log(2 * math.pi)


@dataclass(frozen=True)
class Bridge:
    """The geometric path between a base and a target.

        log γ_β(x) = (1 − β) log p₀(x) + β log γ(x),   β from 0 to 1

    Args:
        base: p₀, normalised.
        log_target: log γ: any density, not normalised.
    """

    base: Base
    log_target: LogDensity

    def at(self, beta: float) -> LogDensity:
        """log γ_β."""
        if beta <= 0:
            return self.base.log_prob
        if beta >= 1:
            return self.log_target
        return lambda x: (1 - beta) * self.base.log_prob(x) + beta * valued(self.log_target, x)

    def rate(self, x: Tensor) -> Tensor:
        """∂ log γ_β/∂β = log γ − log p₀, float64, (n,)."""
        return valued(self.log_target, x).double() - self.base.log_prob(x).double()


@dataclass(frozen=True)
class Tilt:
    """The path from a law to its product with a likelihood.

        log γ_β(x) = log p₀(x) + β ℓ(x),   β from 0 to 1

    Args:
        base: p₀, normalised.
        log_likelihood: ℓ.
    """

    base: Base
    log_likelihood: LogDensity

    def at(self, beta: float) -> LogDensity:
        """log γ_β."""
        if beta <= 0:
            return self.base.log_prob
        return lambda x: self.base.log_prob(x) + beta * valued(self.log_likelihood, x)

    def rate(self, x: Tensor) -> Tensor:
        """∂ log γ_β/∂β = ℓ, float64, (n,)."""
        return valued(self.log_likelihood, x).double()


@dataclass(frozen=True)
class Cooling:
    """The path between two temperatures of one energy, from draws at the higher one: it is its own base.

        log γ_β(x) = −((1 − β) h + β c) U(x),   β from 0 to 1;   the evidence is Z(c)/Z(h), Z(b) = ∫ e^{−b U}

    Args:
        draw: (n, stream) → n draws of e^{−h U}, (n, d).
        energy: U.
        hot, cold: h < c, inverse temperatures [1/energy].
    Raises:
        InputError: an inverse temperature that is not positive, or no cooling.
    Source: Neal (2001), Annealed importance sampling, section 6, with a start that others have drawn.
    """

    draw: Callable[[int, Stream], Tensor]
    energy: LogDensity
    hot: float
    cold: float

    def __post_init__(self) -> None:
        if not 0 < self.hot < self.cold:
            raise InputError(f"cooling needs inverse temperatures 0 < hot < cold, got {self.hot} and {self.cold}.")

    @property
    def base(self) -> Base:
        return self

    def sample(self, n: int, stream: Stream) -> Tensor:
        return self.draw(n, stream)

    def log_prob(self, x: Tensor) -> Tensor:
        """Not normalised: log γ_0."""
        return self.at(0.0)(x)

    def at(self, beta: float) -> LogDensity:
        """log γ_β."""
        inverse = (1 - beta) * self.hot + beta * self.cold
        return lambda x: -inverse * valued(self.energy, x)

    def rate(self, x: Tensor) -> Tensor:
        """∂ log γ_β/∂β = −(c − h) U, float64, (n,)."""
        return (self.hot - self.cold) * valued(self.energy, x).double()


def advance(path: Path, x: Tensor, a: float, b: float, transport: Affine | None = None) -> tuple[Tensor, Tensor]:
    """Particles of γ_a carried towards γ_b, and what they weigh there.

    log w = log γ_b(T x) + log|det T| − log γ_a(x);   (b − a) ∂_β log γ(x) without a map
    """
    if transport is None:
        return x, (b - a) * path.rate(x)
    moved = transport(x)
    return moved, path.at(b)(moved).double() + transport.log_det - path.at(a)(x).double()


class Stage(NamedTuple):
    """One temperature, with all that its particles need; nothing in it depends on the run that uses it."""

    beta: float
    step: float
    scale: Scale = 1.0
    transport: Affine | None = None


@dataclass(frozen=True)
class Tempering:
    """Annealing as a Feynman–Kac model: weigh for the next temperature, then move at it.

        log G_0 = log γ_{β₁} − log γ_0
        step k: n_moves kernel moves at β_{k+1}, then log G = log γ_{β_{k+2}} − log γ_{β_{k+1}};  0 at the last

    `smc(model, n, stream, ess_threshold=t)` is annealed SMC; with t < 1/n it never resamples and is annealed importance
    sampling. A stage may carry its particles by a fitted map before they are weighed.

    Target: γ/∫γ; evidence ∫γ.
    Exactness: evidence unbiased for any stages and any n if the kernel leaves γ_β invariant (MALA, HMC) and the stages
        were not chosen from these particles.
    Cost: n × stages × n_moves kernel moves, and two log-densities for each weight.
    Bias: O(1/n) in means; that of ULA if it is the kernel.
    Args:
        path: from base to target.
        stages: the temperatures after 0, increasing, the last one 1.
        kernel: rejuvenation.
        n_moves: moves at each temperature.
        tile: rows per call of a log-density: bounds the memory.
    Raises:
        InputError: temperatures that do not increase from above 0 to 1, or no move.
    Source: Neal (2001), Annealed importance sampling; Del Moral, Doucet and Jasra (2006), Sequential Monte Carlo
        samplers, section 3.3.2.3.
    """

    path: Path
    stages: tuple[Stage, ...]
    kernel: Kernel = field(default_factory=MALA)
    n_moves: int = 1
    tile: int = 4096

    def __post_init__(self) -> None:
        betas = [0.0, *(stage.beta for stage in self.stages)]
        if betas[-1] != 1 or any(b <= a for a, b in itertools.pairwise(betas)):
            raise InputError(f"inverse temperatures must increase from above 0 to 1, got {betas[1:]}.")
        if self.n_moves < 1 or self.tile < 1:
            raise InputError(f"Tempering needs n_moves ≥ 1 and tile ≥ 1, got {self.n_moves} and {self.tile}.")

    @property
    def n_steps(self) -> int:
        return len(self.stages)

    def initial(self, n: int, stream: Stream) -> tuple[State, Tensor]:
        own, tile = stream.child("base"), self.tile  # by tiles: a base may multiply matrices, see `Slots`
        drawn = [self.path.base.sample(min(tile, n - first), own.rows_from(first)) for first in range(0, n, tile)]
        return self._weighed(torch.cat(drawn), 0.0, self.stages[0])

    def step(self, k: int, state: State, stream: Stream) -> Step:
        here = self.stages[k]
        x, rate = moved(self.path.at(here.beta), state["x"], self.kernel, here, self.n_moves, stream, self.tile)
        said = {} if self.kernel.target_acceptance is None else {"acceptance": rate}
        if k + 1 == self.n_steps:
            nothing = torch.zeros(len(x), dtype=torch.float64, device=x.device)
            return {"x": x}, nothing.masked_fill(x.isnan().any(1), math.nan), said  # a broken density is seen even here
        return *self._weighed(x, here.beta, self.stages[k + 1]), said

    def _weighed(self, x: Tensor, a: float, ahead: Stage) -> tuple[State, Tensor]:
        parts = [advance(self.path, rows, a, ahead.beta, ahead.transport) for rows in x.split(self.tile)]
        return {"x": torch.cat([rows for rows, _ in parts])}, torch.cat([weight for _, weight in parts])


def moved(
    log_density: LogDensity, x: Tensor, kernel: Kernel, stage: Stage, n_moves: int, stream: Stream, tile: int
) -> tuple[Tensor, Tensor]:
    """Particles after n_moves moves, tile by tile, and the mean acceptance of each over them, (n,)."""
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for move in range(n_moves):
        tiles, own = [], stream.child("move", move)
        for first in range(0, len(x), tile):
            rows, rate = kernel.move(
                log_density, x[first : first + tile], own.rows_from(first), stage.step, stage.scale
            )
            tiles.append(rows)
            total[first : first + tile] += rate
        x = torch.cat(tiles)
    return x, total / n_moves


def ladder(n_temperatures: int, step: float, scale: Scale = 1.0, power: float = 1.0) -> tuple[Stage, ...]:
    """A fixed schedule, β_k = (k/K)^power, k = 1 … K, with one step size and one metric.

    Raises:
        InputError: no temperature, or a power that is not positive.
    """
    if n_temperatures < 1 or not power > 0:
        raise InputError(f"a ladder needs n_temperatures ≥ 1 and power > 0, got {n_temperatures} and {power}.")
    betas = [(k / n_temperatures) ** power for k in range(1, n_temperatures)]
    return tuple(Stage(beta, step, scale) for beta in (*betas, 1.0))
