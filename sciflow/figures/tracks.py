"""Paths in time: where an ensemble believes the truth to be, and whether its spread is its error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from sciflow.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def track(
    time: ArrayLike,
    truth: ArrayLike,
    mean: ArrayLike,
    deviation: ArrayLike,
    measured: ArrayLike | None = None,
    *,
    unit: str = "1",
    title: str = "One coordinate in time",
    ax: Axes | None = None,
) -> Axes:
    """One coordinate of a path: the truth, what was measured, and mean ± 2 standard deviations of an ensemble.

    Exactness: draws the numbers it is given
    Cost: two curves
    Bias: none

    Args:
        time: (time,).
        truth: (time,), in `unit`.
        mean, deviation: of the ensemble, (time,), in `unit`.
        measured: (time,), NaN where nothing was measured; None for an unmeasured coordinate.
        unit: unit of the state.
        title: heading.
        ax: where to draw; None makes a Figure.
    """
    ax = style.axes(ax, 6.4, 2.6)
    t, centre = np.asarray(time, dtype=float), np.asarray(mean, dtype=float)
    width = style.ERRORS * np.asarray(deviation, dtype=float)
    ax.fill_between(t, centre - width, centre + width, color=style.colour(5), alpha=0.35, linewidth=0)
    ax.plot(t, centre, color=style.colour(0), linewidth=1.5, label="mean of the ensemble")
    ax.plot(t, np.asarray(truth, dtype=float), color=style.INK, linewidth=1.1, linestyle=(0, (4, 2)), label="truth")
    if measured is not None:
        ax.plot(t, np.asarray(measured, dtype=float), "o", color=style.colour(1), markersize=3, label="measured")
    style.dress(ax, title, f"shaded: mean ± {style.ERRORS} standard deviations", "time", style.label("state", unit))
    style.legend(ax, loc="upper right", ncols=3)
    return ax


def spread_and_error(
    time: ArrayLike,
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    unit: str = "1",
    title: str = "Is the spread the error?",
    ax: Axes | None = None,
) -> Axes:
    """Root mean square error of ensemble means (solid) and root mean variance (dashed) at each time.

    Exactness: draws the numbers it is given
    Cost: two curves for each ensemble
    Bias: none

    Args:
        time: (time,).
        curves: name -> (error, spread), each (time,), in `unit`.
        unit: unit of the state.
        title: heading.
        ax: where to draw; None makes a Figure.
    """
    ax = style.axes(ax, 6.4, 3.8)
    t = np.asarray(time, dtype=float)
    for index, (name, (error, spread)) in enumerate(curves.items()):
        colour = style.colour(index)
        ax.plot(t, np.asarray(error, dtype=float), color=colour, linewidth=1.6, label=name)
        ax.plot(t, np.asarray(spread, dtype=float), color=colour, linewidth=1.2, linestyle=(0, (3, 2)))
    ax.set_ylim(bottom=0)
    note = "solid: error of the mean; dashed: spread\ndashed below solid of the same colour: over-confident"
    style.dress(ax, title, note, "time", style.label("root mean square", unit))
    style.legend(ax, loc="upper right", ncols=2)
    return ax
