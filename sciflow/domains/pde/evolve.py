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


def check_step(box: Ring | Torus, step: float, speed: float, n_parts: int = 1) -> None:
    """Refuse a time step in which waves cross more than `COURANT` cells.

    Args:
        box: where.
        step: of time.
        speed: of the fastest wave.
        n_parts: into which each step is cut.

    Raises:
        InputError: with the largest step that is safe.
    """
    safe = n_parts * COURANT * box.length / box.size / speed if speed > 0 else float("inf")
    if step > safe:
        crossed = step / n_parts * speed * box.size / box.length
        last = 10 ** (math.floor(math.log10(safe)) - 1)  # of two digits: advice is rounded down, or it would be refused
        cut = f", cut into {n_parts}," if n_parts > 1 else ""
        raise InputError(
            f"a step of {step:.3g}{cut} lets waves of speed {speed:.3g} cross {crossed:.3g} cells; at most {COURANT} "
            f"are stable. Take steps of at most {math.floor(safe / last) * last:.2g}."
        )


def fields(
    dynamics: Equation,
    box: Ring | Torus,
    start: Tensor,
    times: Sequence[float],
    step: float,
    solver: Solver | None = None,
) -> Tensor:
    """Fields at each of the times, the first of which is that of the start.

    Args:
        dynamics: of the modes.
        box: where.
        start: field at times[0], (batch, *grid).
        times: increasing.
        step: the largest time step; each interval is cut into equal ones.
        solver: null is ETDRK4 in the frame "linear".

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
                speed = float(found[-2].abs().max())
                raise NonFiniteError(
                    f"the fields blow up between t = {a:g} and {b:g}, with steps of {(b - a) / n_steps:.3g} and values "
                    f"up to {speed:.3g} before. Take smaller steps: below {box.length / box.size / speed:.2g}, the "
                    "time in which the fastest wave crosses a cell."
                )
    return torch.stack(found, 1)


def certified(dynamics: Equation, box: Ring | Torus, start: Tensor, times: Sequence[float], step: float) -> Evolution:
    """Fields made with half the step, and their distance from those made with the whole one.

    For a method of order 4 the error of what is returned is about a fifteenth of that distance.
    """
    coarse, fine = (fields(dynamics, box, start, times, h) for h in (step, step / 2))
    last = fine[:, -1]
    return Evolution(fine, float(((coarse[:, -1] - last).square().mean() / last.square().mean()).sqrt()))
