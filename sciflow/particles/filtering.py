"""Filters: where is a moving state, given noisy measurements up to now? Any dynamics and solver moves the particles."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.particles.feynman_kac import State, smc
from sciflow.particles.particles import Particles
from sciflow.random import Stream
from sciflow.solvers.state_space import HiddenChain

TILE = 2**17
"""Particles of one solve: more than most filters have, so that these solve once for each time."""


class Measurements(Protocol):
    """What was seen at each time, if anything."""

    def log_prob(self, k: int, x: Tensor) -> Tensor:
        """log p(y_k | x_k = x), (n,); zeros where nothing was measured."""
        ...


@dataclass(frozen=True)
class LinearMeasurements:
    """Linear measurements with independent Gaussian noise, as many at each time as there are.

        y_k = H_k x_k + sigma v_k,   v_k ~ N(0, I)

    Args:
        values: y_k, one vector (m_k,) for each time; empty where nothing was measured.
        matrices: H_k, (m_k, d).
        sigma: standard deviation of the noise, > 0 [measurement units].
    Raises:
        InputError: not one matrix for each vector, shapes that do not fit, or a sigma that is not positive.
    """

    values: tuple[Tensor, ...]
    matrices: tuple[Tensor, ...]
    sigma: float

    def __post_init__(self) -> None:
        if len(self.values) != len(self.matrices) or not self.sigma > 0:
            got = f"{len(self.values)} vectors, {len(self.matrices)} matrices and sigma = {self.sigma}"
            raise InputError(f"measurements need one matrix for each vector and sigma > 0, got {got}.")
        for k, (y, matrix) in enumerate(zip(self.values, self.matrices, strict=True)):
            if y.ndim != 1 or matrix.ndim != 2 or len(matrix) != len(y) or not bool(y.isfinite().all()):
                raise InputError(
                    f"at time {k} the measurements have shape {tuple(y.shape)} and the matrix {tuple(matrix.shape)}: "
                    "give finite y (m,) and H (m, d), and leave out what is missing."
                )

    @classmethod
    def of(cls, values: Tensor, matrix: Tensor, sigma: float) -> LinearMeasurements:
        """Measurements (time, m) by one matrix (m, d), NaN where one is missing."""
        present = values.isfinite()
        return cls(
            tuple(row[seen] for row, seen in zip(values, present, strict=True)),
            tuple(matrix[seen] for seen in present),
            sigma,
        )

    def residual(self, k: int, x: Tensor) -> Tensor:
        """y_k − H_k x, (n, m_k)."""
        matrix = self.matrices[k].to(x.device, x.dtype)
        return self.values[k].to(x.device, x.dtype) - x @ matrix.T

    def log_prob(self, k: int, x: Tensor) -> Tensor:
        m = len(self.values[k])
        y, matrix = (part.to(x.device, x.dtype) / self.sigma for part in (self.values[k], self.matrices[k]))
        if m == 1:  # the usual case, in a third of the passes
            squared = torch.addmv(y, x, matrix[0], alpha=-1).square()
        else:
            squared = torch.addmm(y, x, matrix.T, alpha=-1).square().sum(1)
        return squared.mul_(-0.5).sub_(m * math.log(self.sigma * math.sqrt(2 * math.pi)))


class Move(NamedTuple):
    """One move of a filter: where particles are, what they weigh, and where they were forecast."""

    x: Tensor
    log_potential: Tensor
    forecast: Tensor


def _check_tile(tile: int) -> None:
    if tile < 1:
        raise InputError(f"a filter needs tile ≥ 1 particles of one solve, got {tile}.")


def check_guided(space: HiddenChain) -> None:
    """Refuse a chain whose moves have no known density, which a guided proposal needs.

    Raises:
        InputError: no additive noise, or moves that draw random numbers of their own.
    """
    if not space.noise > 0 or space.is_random:
        moves = "random" if space.is_random else "deterministic"
        raise InputError(
            "a guided filter needs additive model noise > 0 and an ODE as dynamics, got noise = "
            f"{space.noise:g} and {moves} moves before it. Use the bootstrap filter."
        )


def check_smoothing(noise: float) -> None:
    """Refuse a chain without additive noise, through which smoothing draws backwards.

    Raises:
        InputError: no additive noise: then nothing but the particle's own line leads to x_{k+1}.
    """
    if not noise > 0:
        raise InputError("smoothing draws backwards through additive model noise > 0, got none. Use filtering.")


def _initial(space: HiddenChain, n: int, stream: Stream, tile: int) -> Tensor:
    """n draws of x_0, a tile at a time, since a spin-up is a solve."""
    if n <= tile:
        return space.initial(n, stream)
    starts = range(0, n, tile)
    return torch.cat([space.initial(min(tile, n - start), stream.rows_from(start)) for start in starts])


def _forecast(space: HiddenChain, k: int, x: Tensor, stream: Stream, tile: int) -> Tensor:
    """Φ_k(x), a tile at a time: the same bits for any tile if the dynamics and the solver look at rows alone."""
    if len(x) <= tile:
        return space.forecast(k, x, stream)
    tiles = enumerate(x.split(tile))
    return torch.cat([space.forecast(k, rows, stream.rows_from(i * tile)) for i, rows in tiles])


@dataclass(frozen=True)
class BootstrapFilter:
    """Move as the model does, weigh by the measurement.

        x_{k+1} ~ p(· | x_k),   log G = log p(y_{k+1} | x_{k+1})

    Target: p(x_k | y_{0:k}) at each time; evidence p(y_{0:K}).
    Exactness: evidence unbiased for the solver's chain, any number of particles and any measurement; means consistent.
    Cost: one solve for each particle and time.
    Bias: O(1/n) in means. The weights collapse when the measurements of one time say much: the particles needed grow
        exponentially with their number.
    Args:
        space: the hidden chain.
        measurements: what was seen.
        tile: particles of one solve: bounds the solver's memory.
    Raises:
        InputError: tile < 1.
    Source: Gordon, Salmond and Smith (1993), Novel approach to nonlinear/non-Gaussian Bayesian state estimation.
    """

    space: HiddenChain
    measurements: Measurements
    tile: int = TILE

    def __post_init__(self) -> None:
        _check_tile(self.tile)

    @property
    def n_steps(self) -> int:
        return self.space.n_steps

    def initial(self, n: int, stream: Stream) -> tuple[State, Tensor]:
        x = _initial(self.space, n, stream, self.tile)
        return {"x": x}, self.measurements.log_prob(0, x)

    def move(self, k: int, x: Tensor, stream: Stream) -> Move:
        forecast = _forecast(self.space, k, x, stream, self.tile)
        moved = self.space.noisy(forecast, stream)
        return Move(moved, self.measurements.log_prob(k + 1, moved), forecast)

    def step(self, k: int, state: State, stream: Stream) -> tuple[State, Tensor]:
        x, log_potential, _ = self.move(k, state["x"], stream)
        return {"x": x}, log_potential


@dataclass(frozen=True)
class GuidedFilter:
    """Look at the measurement before moving: the optimal proposal of a linear measurement and additive noise.

        x_{k+1} ~ p(· | x_k, y_{k+1}),   log G = log p(y_{k+1} | x_k) = log N(y; H Φ(x_k), q² H Hᵀ + σ² I)

    The draw is f + q ξ corrected by the gain q² Hᵀ (q² H Hᵀ + σ² I)⁻¹ applied to y + σ v − H (f + q ξ), f = Φ(x_k).

    Target: p(x_k | y_{0:k}) at each time; evidence p(y_{0:K}).
    Exactness: as `BootstrapFilter`; given x_k the weight does not depend on where the particle went, the least
        variance that any proposal leaves. At time 0 it weighs like the bootstrap filter.
    Cost: as `BootstrapFilter`, and one factorisation of m × m numbers for each time.
    Bias: as `BootstrapFilter`, less of it the larger q is beside σ.
    Args:
        space: the hidden chain, with noise q > 0 and an ODE as dynamics.
        measurements: linear and Gaussian.
        tile: particles of one solve: bounds the solver's memory.
    Raises:
        InputError: no additive noise, a dynamics with noise of its own, or tile < 1.
    Source: Doucet, Godsill and Andrieu (2000), On sequential Monte Carlo sampling methods for Bayesian filtering,
        section II.D.
    """

    space: HiddenChain
    measurements: LinearMeasurements
    tile: int = TILE

    def __post_init__(self) -> None:
        _check_tile(self.tile)
        check_guided(self.space)

    @property
    def n_steps(self) -> int:
        return self.space.n_steps

    def initial(self, n: int, stream: Stream) -> tuple[State, Tensor]:
        x = _initial(self.space, n, stream, self.tile)
        return {"x": x}, self.measurements.log_prob(0, x)

    def move(self, k: int, x: Tensor, stream: Stream) -> Move:
        forecast = _forecast(self.space, k, x, stream, self.tile)
        seen, q, sigma = self.measurements, self.space.noise, self.measurements.sigma
        m, matrix = len(seen.values[k + 1]), seen.matrices[k + 1].double()
        moved = self.space.noisy(forecast, stream)
        if m == 0:
            return Move(moved, seen.log_prob(k + 1, moved), forecast)
        factor = torch.linalg.cholesky(q**2 * matrix @ matrix.T + sigma**2 * torch.eye(m, dtype=torch.float64))
        white = torch.linalg.solve_triangular(factor.to(x), seen.residual(k + 1, forecast).T, upper=False)
        log_det = float(factor.diagonal().log().sum())
        log_potential = -0.5 * white.square().sum(0) - log_det - 0.5 * m * math.log(2 * math.pi)
        gain = q**2 * torch.cholesky_solve(matrix, factor).to(x)  # (m, d), transposed
        noise = stream.child("measurement").normal(len(x), (m,), dtype=x.dtype, device=x.device)
        return Move(moved + (seen.residual(k + 1, moved) + sigma * noise) @ gain, log_potential, forecast)

    def step(self, k: int, state: State, stream: Stream) -> tuple[State, Tensor]:
        x, log_potential, _ = self.move(k, state["x"], stream)
        return {"x": x}, log_potential


Filter = BootstrapFilter | GuidedFilter


@dataclass
class _Recorded:
    """A filter that keeps what it is given at each step: equal draws of the filtering law, if all are resampled."""

    filter: Filter
    states: list[Tensor] = field(default_factory=list)
    forecasts: list[Tensor] = field(default_factory=list)

    @property
    def n_steps(self) -> int:
        return self.filter.n_steps

    def initial(self, n: int, stream: Stream) -> tuple[State, Tensor]:
        return self.filter.initial(n, stream)

    def step(self, k: int, state: State, stream: Stream) -> tuple[State, Tensor]:
        move = self.filter.move(k, state["x"], stream)
        self.states.append(state["x"])
        forecast = move.forecast.clone() if move.forecast is move.x else move.forecast  # smc resamples x in place
        self.forecasts.append(forecast)
        return {"x": move.x}, move.log_potential


@dataclass(frozen=True)
class Filtered:
    """The filtering laws of all times.

    Args:
        states: equally weighted draws of p(x_k | y_{0:k}), one tensor (n, d) for each time. Row i at two times is not
            one path.
        forecasts: Φ_k of the states of each time but the last.
        particles: at the last time, with evidence and traces; not resampled there. All islands have the same share of
            its weights, whatever their evidence.
        noise: q of the model.
    """

    states: tuple[Tensor, ...]
    forecasts: tuple[Tensor, ...]
    particles: Particles
    noise: float

    def marginals(self) -> Tensor:
        """Draws of the filtering law of each time, (n, time, d)."""
        return torch.stack(self.states, 1)

    def smoothed(self, n: int, stream: Stream) -> Tensor:
        """n paths from p(x_{0:K} | y_{0:K}), by drawing backwards in time, (n, time, d).

            x_K from the last particles;   x_k among those of time k with weight p(x_{k+1} | x_k)

        Exactness: consistent as particles → ∞; paths of one filter share its error.
        Cost: n × particles densities for each time.
        Bias: O(1/particles).
        Raises:
            InputError: a model without additive noise: then nothing but the particle's own line leads to x_{k+1}.
        Source: Godsill, Doucet and West (2004), Monte Carlo smoothing for nonlinear time series.
        """
        check_smoothing(self.noise)
        path = [self.particles.resample(n, stream.child("last")).x]
        for k in reversed(range(len(self.forecasts))):
            distance = torch.cdist(path[-1].double(), self.forecasts[k].double())
            weights = (-0.5 * (distance / self.noise) ** 2).softmax(1)
            points = stream.child("back", k).uniform(n, dtype=torch.float64, device=weights.device)
            index = torch.searchsorted(weights.cumsum(1), points[:, None], right=True)[:, 0]
            path.append(self.states[k][index.clamp_max(weights.shape[1] - 1)])
        return torch.stack(path[::-1], 1)


def filtered(
    model: Filter, n: int, stream: Stream, resampling: str = "systematic", on_step=None, islands: int = 1
) -> Filtered:
    """Run a filter, resampling after every measurement, and keep the filtering law of each time.

    Islands are filters of their own. Their evidences are pooled; their states stand side by side, equally weighted,
    since the spread of evidences grows with time until weights by evidence would leave one island alone.

    Args:
        model: the filter.
        n: particles, on all islands together.
        stream: random numbers.
        resampling: a name of `RESAMPLERS`.
        on_step: as in `smc`.
        islands: as in `smc`.
    """
    recorded = _Recorded(model)
    particles = smc(recorded, n, stream, resampling, ess_threshold=1.0, on_step=on_step, islands=islands)
    if islands > 1:
        within = particles.log_weights.view(islands, -1).log_softmax(1) - math.log(islands)
        particles = replace(particles, log_weights=within.flatten())
    last = particles.resample(n, stream.child("last")).x
    return Filtered((*recorded.states, last), tuple(recorded.forecasts), particles, model.space.noise)
