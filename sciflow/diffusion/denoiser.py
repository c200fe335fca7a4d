"""The denoiser D(x, t) = E[x₁ | x_t = x] and its three other faces: noise, score and velocity.

The four are one affine change of variable apart, because x_t = α x₁ + σ x₀ makes E[x₀ | x_t] = (x − α D)/σ. One
posterior mean therefore serves every solver and every guidance.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from sciflow.diffusion.schedule import Schedule
from sciflow.random import Stream
from sciflow.types import Time, broadcast

View = Literal["data", "noise", "score", "velocity"]

_PADDING: ContextVar[int] = ContextVar("padding", default=0)
"""Rows at the end of the present call that only fill a tile."""


@runtime_checkable
class Denoiser(Protocol):
    """The posterior mean of the data given a noisy state.

    Attributes:
        schedule: the noise levels that `t` names.
        shape: shape of one event, e.g. (channel, y, x).
    """

    @property
    def schedule(self) -> Schedule: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        """E[x₁ | x_t = x], shape (batch, *shape)."""
        ...

    def initial(self, t: float, n: int, stream: Stream, dtype: torch.dtype) -> Tensor:
        """n draws from the law of x_t, at the noisy end of a grid."""
        ...


def _coefficients(schedule: Schedule, x: Tensor, t: Time) -> tuple[Time, Time]:
    return broadcast(schedule.alpha(t), x), broadcast(schedule.sigma(t), x)


def noise(denoiser: Denoiser, x: Tensor, t: Time) -> Tensor:
    """E[x₀ | x_t = x] = (x − α D)/σ. Needs σ > 0."""
    alpha, sigma = _coefficients(denoiser.schedule, x, t)
    return (x - alpha * denoiser(x, t)) / sigma


def score(denoiser: Denoiser, x: Tensor, t: Time) -> Tensor:
    """∇ log p_t(x) = (α D − x)/σ². Needs σ > 0. Source: Robbins (1956), Tweedie's formula."""
    alpha, sigma = _coefficients(denoiser.schedule, x, t)
    return (alpha * denoiser(x, t) - x) / sigma**2


def velocity(denoiser: Denoiser, x: Tensor, t: Time) -> Tensor:
    """E[ẋ_t | x_t = x] = α̇ D + σ̇ (x − α D)/σ, the drift of the probability flow. Needs σ > 0.

    Source: Albergo et al. (2023), Stochastic interpolants, eq. 2.10.
    """
    alpha, sigma = _coefficients(denoiser.schedule, x, t)
    schedule = denoiser.schedule
    alpha_rate, sigma_rate = broadcast(schedule.alpha_rate(t), x), broadcast(schedule.sigma_rate(t), x)
    data = denoiser(x, t)
    return alpha_rate * data + sigma_rate * (x - alpha * data) / sigma


VIEWS: dict[str, Callable[[Denoiser, Tensor, Time], Tensor]] = {
    "data": lambda denoiser, x, t: denoiser(x, t),
    "noise": noise,
    "score": score,
    "velocity": velocity,
}


def data_from(view: View, value: Tensor, x: Tensor, t: Time, schedule: Schedule) -> Tensor:
    """The denoiser's answer from that of any other view: the inverse of `noise`, `score` and `velocity`.

    noise ε:    D = (x − σ ε)/α
    score s:    D = (x + σ² s)/α
    velocity v: D = (σ v − σ̇ x)/(α̇ σ − α σ̇)

    Raises:
        ValueError: unknown view.
    """
    alpha, sigma = _coefficients(schedule, x, t)
    if view == "data":
        return value
    if view == "noise":
        return (x - sigma * value) / alpha
    if view == "score":
        return (x + sigma**2 * value) / alpha
    if view == "velocity":
        alpha_rate, sigma_rate = broadcast(schedule.alpha_rate(t), x), broadcast(schedule.sigma_rate(t), x)
        return (sigma * value - sigma_rate * x) / (alpha_rate * sigma - alpha * sigma_rate)
    raise ValueError(f"view must be one of {sorted(VIEWS)}, got {view!r}.")


@dataclass(frozen=True)
class FromView:
    """A denoiser made of a function that predicts another view.

    Args:
        function: (x, t) → noise, score or velocity.
        view: what `function` predicts.
        schedule: its noise levels.
        shape: event shape.
    """

    function: Callable[[Tensor, Time], Tensor]
    view: View
    schedule: Schedule
    shape: tuple[int, ...]

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        return data_from(self.view, self.function(x, t), x, t, self.schedule)

    def initial(self, t: float, n: int, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
        return white(self, t, n, stream, dtype)


@dataclass(frozen=True)
class Converted:
    """A model that was trained with one schedule, under another one: no retraining, the same law, the same curves.

        D'(x, t') = D(x r/r', t),   λ(t) = λ'(t'),   r = √(α² + σ²)

    Two schedules differ by a change of time, at equal noise ratio u = σ/α, and a rescaling of the state. In (x/α, u)
    they are one process; so any velocity field, once it is a denoiser (`FromView(v, "velocity", schedule)`), gives
    deterministic and stochastic samplers for every schedule.

    Args:
        denoiser: the model.
        schedule: noise levels to sample under. A model is asked for u beyond what its own schedule reaches if this
            one goes further; log u is kept within ±30.
    Source: Karras et al. (2022), section 2; Albergo et al. (2023), Stochastic interpolants, for velocities.
    """

    denoiser: Denoiser
    schedule: Schedule

    @property
    def shape(self) -> tuple[int, ...]:
        return self.denoiser.shape

    def _own(self, t: Time) -> tuple[Tensor, Tensor]:
        """The model's time for time t, and r/r'."""
        own = self.denoiser.schedule
        time = own.time(self.schedule.log_snr(t).clamp(-30, 30))
        alpha, sigma = (level(t) for level in (self.schedule.alpha, self.schedule.sigma))
        return time, torch.hypot(own.alpha(time), own.sigma(time)) / torch.hypot(alpha, sigma)

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        time, ratio = self._own(t)
        return self.denoiser(x * broadcast(ratio, x), time)

    def initial(self, t: float, n: int, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
        time, ratio = self._own(t)
        return self.denoiser.initial(float(time), n, stream, dtype) / float(ratio)

    def __getattr__(self, name: str) -> Any:
        """`covariance`, where the model has one: it does not change, but for the state it is asked at."""
        if name != "covariance":
            raise AttributeError(f"{type(self).__name__} has no {name!r}")
        covariance = self.denoiser.covariance  # type: ignore[attr-defined]

        def converted(x: Tensor, t: Time) -> Tensor:
            time, ratio = self._own(t)
            return covariance(x * broadcast(ratio, x), time)

        return converted


def white(denoiser: Denoiser, t: float, n: int, stream: Stream, dtype: torch.dtype) -> Tensor:
    """σ_t x₀ with x₀ standard normal: the law of x_t as far as α_t is negligible."""
    return float(denoiser.schedule.sigma(t)) * stream.normal(n, denoiser.shape, dtype=dtype)


@dataclass
class Counted:
    """A denoiser that counts the states it was asked for: what `NFE` reports.

    Rows with which `Tiled` fills its last tile are nobody's state and do not count.

    Args:
        denoiser: the denoiser to count.
        also: counts what this one counts besides: the tally of a sampler that calls several models.
    """

    denoiser: Denoiser
    rows: int = 0
    also: Counted | None = None

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    @property
    def shape(self) -> tuple[int, ...]:
        return self.denoiser.shape

    def initial(self, t: float, n: int, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.denoiser.initial(t, n, stream, dtype)

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        rows = len(x) - _PADDING.get()
        self.rows += rows
        if self.also is not None:
            self.also.rows += rows
        return self.denoiser(x, t)

    def __getattr__(self, name: str) -> Any:
        """What else the denoiser offers: `covariance`, where it has one."""
        if name == "denoiser":
            raise AttributeError(name)
        return getattr(self.denoiser, name)


@dataclass(frozen=True)
class Tiled:
    """A denoiser called with the same number of rows every time, padded where the last tile is short.

    Matrix products depend on the batch shape in their last bits; with a fixed tile the answer for row k depends on
    row k alone, whatever the batch, the shard or the rank.

    Args:
        denoiser: the denoiser (guidance included) to call.
        tile: rows per call.
    """

    denoiser: Denoiser
    tile: int = 64

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    @property
    def shape(self) -> tuple[int, ...]:
        return self.denoiser.shape

    def initial(self, t: float, n: int, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.denoiser.initial(t, n, stream, dtype)

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        return torch.cat([self._padded(rows, _rows(t, i, self.tile)) for i, rows in enumerate(x.split(self.tile))])

    def _padded(self, rows: Tensor, t: Time) -> Tensor:
        missing = self.tile - len(rows)
        if not missing:
            return self.denoiser(rows, t)
        rows = torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])])
        if isinstance(t, Tensor) and t.ndim:
            t = torch.cat([t, t[-1:].expand(missing)])
        with padded(missing):
            return self.denoiser(rows, t)[: self.tile - missing]


@contextlib.contextmanager
def padded(missing: int) -> Iterator[None]:
    """Calls whose last rows only fill a tile."""
    token = _PADDING.set(missing)
    try:
        yield
    finally:
        _PADDING.reset(token)


def _rows(t: Time, index: int, tile: int) -> Time:
    return t[index * tile : (index + 1) * tile] if isinstance(t, Tensor) and t.ndim else t
