"""From a start to fields at given times, with the error of the time steps measured on the way."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sciflow.domains.pde.boxes import Ring, Torus
from sciflow.errors import InputError, NonFiniteError
from sciflow.solvers.dynamics import Equation
from sciflow.solvers.etdrk4 import ETDRK4
from sciflow.solvers.solve import Solver, solve

EVENT = ("time", "x")
"""Dims of one event of the domain."""

COARSEST = 0.01
"""Error of a field, over its root mean square, above which it is no simulation of its equation."""


class Evolution(NamedTuple):
    """Fields at the times asked for, and how far halving the steps moves them.

    Attributes:
        fields: (batch, time, *grid), float64.
        error: root mean square change of the last field under half the step, over its own root mean square.
    """

    fields: Tensor
    error: float


COURANT = 1.3
"""Cells that the fastest wave may cross in a step: Runge–Kutta's 2.8 over the highest kept wave, 2π/3 a cell."""


def cells(box: Ring | Torus, step: float, speed: float) -> float:
    """How many of them a wave crosses in a step."""
    return step * speed * box.size / box.length


def safe_step(box: Ring | Torus, speed: float) -> float:
    """The longest step in which waves of this speed cross no more than `COURANT` cells; infinite for none.

    Of two digits, rounded down: advice that is rounded up would be refused.
    """
    safe = COURANT * box.length / box.size / speed if speed > 0 else float("inf")
    last = 10 ** (math.floor(math.log10(safe)) - 1) if math.isfinite(safe) else 1.0
    return math.floor(safe / last) * last if math.isfinite(safe) else safe


def check_step(box: Ring | Torus, step: float, speed: float) -> None:
    """Refuse a time step in which waves cross more than `COURANT` cells.

    Args:
        box: where.
        step: of time.
        speed: of the fastest wave.

    Raises:
        InputError: with the largest step that is safe.
    """
    if (crossed := cells(box, step, speed)) > COURANT:
        raise InputError(
            f"a step of {step:.3g} lets waves of speed {speed:.3g} cross {crossed:.3g} cells; at most {COURANT} are "
            f"stable. Take steps of at most {safe_step(box, speed):.2g}."
        )


def fields(
    dynamics: Equation,
    box: Ring | Torus,
    start: Tensor,
    times: Sequence[float],
    step: float,
    solver: Solver | None = None,
    speed: float = 0.0,
) -> Tensor:
    """Fields at each of the times, the first of which is that of the start.

    Args:
        dynamics: of the modes.
        box: where.
        start: field at times[0], (batch, *grid).
        times: increasing.
        step: the largest time step; each interval is cut into equal ones.
        solver: null is ETDRK4 in the frame "linear".
        speed: of the fastest waves that are known, for the advice where fields blow up.

    Returns:
        (batch, time, *grid), float64.

    Raises:
        InputError: a step that is not positive.
        NonFiniteError: the fields blow up; names the interval, and says what to do.
    """
    if not step > 0:
        raise InputError(f"the time step must be positive, got {step}.")
    chosen = solver or ETDRK4("linear")
    modes, found = box.modes(start), [start.double()]
    with torch.inference_mode():
        for a, b in itertools.pairwise(times):
            n_steps = max(1, round((b - a) / step + 0.4999))
            modes = solve(dynamics, modes, torch.linspace(a, b, n_steps + 1, dtype=torch.float64), chosen)
            found.append(box.values(modes))
            if not bool(found[-1].isfinite().all()):
                size = float(found[-2].abs().max())
                raise NonFiniteError(
                    f"the fields blow up between t = {a:g} and {b:g}, with values up to {size:.3g} before. "
                    f"{_advice(box, (b - a) / n_steps, speed)}"
                )
    return torch.stack(found, 1)


def _advice(box: Ring | Torus, step: float, speed: float) -> str:
    """What is said where fields blow up: steps at which these waves are stable, or half of the one that was taken.

    Fields that came up on the way are not asked for theirs: they may have been wrong by far before they were infinite.
    """
    crossed = cells(box, step, speed)
    if crossed <= COURANT:
        return f"With steps of {step:.3g}, faster waves came up on the way. Take steps of at most {step / 2:.2g}."
    return (
        f"Steps of {step:.3g} let waves of speed {speed:.3g} cross {crossed:.3g} cells; at most {COURANT} are stable. "
        f"Take steps of at most {min(safe_step(box, speed), step / 2):.2g}."
    )


def certified(
    dynamics: Equation,
    box: Ring | Torus,
    start: Tensor,
    times: Sequence[float],
    step: float,
    speed: float = 0.0,
) -> Evolution:
    """Fields made with half the step, and their distance from those made with the whole one.

    For a method of order 4 the error of what is returned is about a fifteenth of that distance. `speed` as `fields`.
    """
    coarse, fine = (fields(dynamics, box, start, times, h, speed=speed) for h in (step, step / 2))
    last = fine[:, -1]
    return Evolution(fine, float(((coarse[:, -1] - last).square().mean() / last.square().mean()).sqrt()))
