"""Adaptive steps chosen for each row: a stiff row takes small steps, and its batch mates need not wait for it.

One loop serves all embedded pairs. Rows have a time, a step and a verdict of their own; those that have arrived leave
the batch, so that cost follows the work. Only sums within a row are taken, in an order that does not depend on the
batch: with a drift that is elementwise over rows, the bits of a row are those of the row alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from sciflow.errors import NonFiniteError
from sciflow.solvers.dynamics import Dynamics
from sciflow.solvers.solve import Past, Solver, StepNoise
from sciflow.solvers.times import checked

SLOWEST, FASTEST = 0.2, 10.0  # the next step over this one
STRETCH = 1.01  # a step that would leave less than 1 % of itself to go goes all the way


def row_sums(x: Tensor) -> Tensor:
    """Sum of each row, shape (batch,), by halving: the order of the additions does not depend on the batch."""
    rows = x.reshape(len(x), math.prod(x.shape[1:]))
    while rows.shape[1] > 1:
        half = rows.shape[1] // 2
        odd = rows[:, 2 * half :]
        rows = rows[:, :half] + rows[:, half : 2 * half]
        if odd.shape[1]:
            rows = torch.cat([rows, odd], 1)
    return rows[:, 0]


def row_norms(x: Tensor, scale: Tensor) -> Tensor:
    """√(mean (x/scale)²) of each row, in float64."""
    return (row_sums((x / scale).square()).double() / math.prod(x.shape[1:])).sqrt()


class Trial(NamedTuple):
    """A step that was tried: where it leads, its error over what is allowed, and the slope there where it is known."""

    x: Tensor
    ratio: Tensor
    slope: Tensor | None


class Pair(Protocol):
    """An embedded pair of one-step methods in some time s, with times and steps that differ from row to row.

    Attributes:
        calls: drift calls of a trial.
        keeps_slope: the trial ends with the slope at its end; else that is one call more for accepted rows.
    """

    @property
    def calls(self) -> int: ...

    @property
    def keeps_slope(self) -> bool: ...

    def slope(self, s: Tensor, x: Tensor) -> Tensor:
        """What a trial starts from: the drift, or a view of the model."""
        ...

    def first_step(self, s: Tensor, x: Tensor, slope: Tensor) -> tuple[Tensor, int]:
        """A first guess of each row's step, and the drift calls it took."""
        ...

    def trial(self, s: Tensor, h: Tensor, x: Tensor, slope: Tensor) -> Trial: ...


class Rows(NamedTuple):
    """The state: x, and for each row the step it would take next, its last error and its drift calls so far."""

    x: Tensor
    slope: Tensor | None = None
    step: Tensor | None = None
    error: Tensor | None = None
    calls: Tensor | None = None


class Travelling(NamedTuple):
    """The rows that are under way, one entry per row in every field."""

    row: Tensor
    s: Tensor
    x: Tensor
    slope: Tensor
    step: Tensor
    error: Tensor
    calls: Tensor

    def take(self, index: Tensor) -> Travelling:
        return Travelling(*(entries.index_select(0, index) for entries in self))


@dataclass(frozen=True)
class Controller:
    """Accept where the error is at most 1, and choose the next step from the last two errors (PI control).

        h ← h · safety · err^{−(1/k − 3β/4)} · err_before^β,   within [h/5, 10 h]; after a rejection plain, at most h

    Args:
        order: k, the order of the local error estimate.
        damping: β; 0 is control by the last error alone.
        safety: aims below the error that is allowed.
        max_steps: most trials of a row between two times of the grid.
    Source: Hairer, Nørsett and Wanner (1993), section II.4; Gustafsson (1991) for β.
    """

    order: int
    damping: float
    safety: float
    max_steps: int

    def factor(self, ratio: Tensor, before: Tensor, accepted: Tensor) -> Tensor:
        # exp and log: the power function of torch differs in its last bit with the place of a number in the batch
        error, earlier = ratio.log(), before.log()
        grown = self.safety * torch.exp((0.75 * self.damping - 1 / self.order) * error + self.damping * earlier)
        shrunk = (self.safety * torch.exp(-error / self.order)).clamp_max(1.0)
        return torch.where(accepted, grown, shrunk).nan_to_num(0.0).clamp(SLOWEST, FASTEST)

    def advance(self, pair: Pair, a: float, b: float, rows: Rows) -> Rows:
        """All rows from a to b. Each trial ends with asking the host: how many have arrived, and which if any have.

        Raises:
            NonFiniteError: a step shrank to nothing because the drift is not finite.
            ValueError: a step shrank to nothing, or max_steps were not enough.
        """
        travelling = _departure(pair, a, rows)
        arrived: list[Travelling] = []
        smallest = 4 * torch.finfo(torch.float64).eps * max(abs(a), abs(b))
        for _ in range(self.max_steps):
            trial, accepted, there, travelling = self._try(pair, b, travelling)
            stuck = ~there & (travelling.step <= smallest)
            n_there, n_stuck = torch.stack([there.sum(), stuck.sum()]).tolist()
            if n_stuck:
                raise _stuck(travelling, stuck, trial.ratio)
            if n_there == len(there):
                return _arrival([*arrived, travelling], pair.keeps_slope)
            if n_there:
                away = (~there).nonzero()[:, 0]
                arrived.append(travelling.take(there.nonzero()[:, 0]))
                travelling, accepted = travelling.take(away), accepted[away]
            if not pair.keeps_slope:
                travelling = _with_slopes(pair, travelling, accepted)
        raise ValueError(
            f"{len(travelling.x)} of {len(rows.x)} rows have not reached {b:g} after {self.max_steps} steps; the last "
            f"is at {float(travelling.s.min()):.6g} with steps of {float(travelling.step.min()):.3g}. Raise max_steps, "
            "or the tolerances."
        )

    def _try(self, pair: Pair, b: float, rows: Travelling) -> tuple[Trial, Tensor, Tensor, Travelling]:
        """One trial of each row, which rows it moved, which of them have arrived, and all rows after it."""
        left = b - rows.s
        is_last = rows.step * STRETCH >= left
        h = torch.where(is_last, left, rows.step)
        trial = pair.trial(rows.s, h, rows.x, rows.slope)
        accepted = trial.ratio <= 1
        there, moved = accepted & is_last, column(accepted, rows.x)
        proposed = h * self.factor(trial.ratio, rows.error, accepted)
        after = rows._replace(
            s=torch.where(there, b, torch.where(accepted, rows.s + h, rows.s)),
            x=torch.where(moved, trial.x, rows.x),
            slope=rows.slope if trial.slope is None else torch.where(moved, trial.slope, rows.slope),
            step=torch.where(there, torch.maximum(proposed, rows.step), proposed),
            error=torch.where(accepted, trial.ratio.clamp_min(1e-4), rows.error),
            calls=rows.calls + pair.calls,
        )
        return trial, accepted, there, after


def column(values: Tensor, x: Tensor) -> Tensor:
    """One value per row, shaped to go with x; in its own dtype."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


def _departure(pair: Pair, a: float, rows: Rows) -> Travelling:
    n, device = len(rows.x), rows.x.device
    s = torch.full((n,), a, dtype=torch.float64, device=device)
    calls = torch.zeros(n, dtype=torch.int64, device=device) if rows.calls is None else rows.calls
    error = torch.full_like(s, 1e-4) if rows.error is None else rows.error
    slope, step = rows.slope, rows.step
    if slope is None:
        slope, calls = pair.slope(s, rows.x), calls + 1
    if step is None:
        step, extra = pair.first_step(s, rows.x, slope)
        calls = calls + extra
    return Travelling(torch.arange(n, device=device), s, rows.x, slope, step, error, calls)


def _arrival(arrived: Sequence[Travelling], keeps_slope: bool) -> Rows:
    """The rows in their old order."""
    if len(arrived) > 1:
        joined = Travelling(*(torch.cat(entries) for entries in zip(*arrived, strict=True)))
        rows = joined.take(joined.row.argsort())
    else:
        (rows,) = arrived
    return Rows(rows.x, rows.slope if keeps_slope else None, rows.step, rows.error, rows.calls)


def _with_slopes(pair: Pair, rows: Travelling, moved: Tensor) -> Travelling:
    """The rows with new slopes where they moved."""
    where = moved.nonzero()[:, 0]
    if len(where) == len(moved):
        return rows._replace(slope=pair.slope(rows.s, rows.x), calls=rows.calls + 1)
    if not len(where):
        return rows
    fresh = pair.slope(rows.s.index_select(0, where), rows.x.index_select(0, where))
    return rows._replace(slope=rows.slope.index_copy(0, where, fresh), calls=rows.calls + moved)


def _stuck(rows: Travelling, stuck: Tensor, ratio: Tensor) -> Exception:
    """What to say of rows whose step has become too small to move them."""
    first = int(stuck.nonzero()[0])
    at = f"s = {float(rows.s[first]):.6g} with h = {float(rows.step[first]):.3g}"
    said = f"the step of {int(stuck.sum())} of {len(stuck)} rows under way has shrunk to nothing, at {at}"
    if not bool(ratio[stuck].isfinite().all()):
        return NonFiniteError(
            f"{said}: the drift is not finite there. End the grid before σ = 0, or look at the model."
        )
    return ValueError(
        f"{said}. Loosen the tolerances, carry the state in float64, or take a solver for stiff problems."
    )


class Adaptive:
    """What the solvers of this kind share."""

    def init(self, dynamics: Dynamics, times: Sequence[float], x: Tensor, past: Past = ()) -> Rows:
        least = 2 * torch.finfo(x.dtype).eps
        if self.relative_tolerance < least:  # type: ignore[attr-defined]
            raise ValueError(
                f"relative_tolerance must be at least {least:.2g} for a state in {x.dtype}, got "
                f"{self.relative_tolerance:g}. Loosen it, or carry the state in float64."  # type: ignore[attr-defined]
            )
        return Rows(x)

    def value(self, state: Rows) -> Tensor:
        return state.x


def solve_counted(
    dynamics: Dynamics, x: Tensor, times: Tensor | Sequence[float], solver: Solver
) -> tuple[Tensor, Tensor]:
    """`solve` with an adaptive solver of this module: the state at times[-1], and the drift calls of each row.

    Raises:
        ValueError: a solver that does not count by row.
    """
    grid = checked(times)
    state = solver.init(dynamics, grid, x)
    if not isinstance(state, Rows):
        raise ValueError(f"{type(solver).__name__} makes the same calls for every row. Use AdaptiveRungeKutta().")
    for k, step in enumerate(solver.plan(dynamics, grid)):
        state = solver.step(dynamics, step, state, StepNoise(None, k, x, type(solver).__name__))
    assert state.calls is not None
    return state.x, state.calls
