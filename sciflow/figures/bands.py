"""A field along a line with its uncertainty: the band that draws fill, the truth, and what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from sciflow.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEVEL = 0.9
"""Probability inside the band."""


def field_band(
    x: ArrayLike,
    samples: ArrayLike,
    *,
    truth: ArrayLike | None = None,
    exact: ArrayLike | None = None,
    sensors: tuple[ArrayLike, ArrayLike] | None = None,
    n_lines: int = 3,
    unit: str = "1",
    names: tuple[str, str] = ("x", "u"),
    title: str = "Field and its uncertainty",
    ax: Axes | None = None,
) -> Axes:
    """The 90 % interval of draws at each place, some draws, the truth, and the interval of the exact posterior.

    Exactness: quantiles of the draws at each place; a band of places one at a time, not of whole curves
    Cost: O(draws × places)
    Bias: quantiles of few draws are too narrow: of 64 by about 2 %

    Args:
        x: places, (place,).
        samples: (draw, place), in `unit`.
        truth: (place,).
        exact: draws of the exact posterior, (draw, place).
        sensors: places and readings, (sensor,) each.
        n_lines: so many draws are drawn as lines.
        unit: unit of the field.
        names: of the place and of the field.
        title: heading.
        ax: where to draw; None makes a Figure.
    """
    ax = style.axes(ax, 5.2, 3.6)
    x, draws = np.asarray(x, dtype=float), np.asarray(samples, dtype=float)
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    low, high = np.quantile(draws, tails, axis=0)
    ax.fill_between(x, low, high, color=style.colour(0), alpha=0.22, linewidth=0, label=f"{LEVEL:.0%} of draws")
    for index, line in enumerate(draws[:n_lines]):
        ax.plot(x, line, color=style.colour(0), linewidth=0.7, alpha=0.7, label=None if index else "single draws")
    if exact is not None:
        for index, edge in enumerate(np.quantile(np.asarray(exact, dtype=float), tails, axis=0)):
            look: dict[str, Any] = {"color": style.INK, "linewidth": 1.0, "linestyle": (0, (4, 3))}
            ax.plot(x, edge, **look, label=None if index else f"{LEVEL:.0%} of the exact posterior")
    if truth is not None:
        ax.plot(x, np.asarray(truth, dtype=float), color=style.colour(1), linewidth=1.6, label="truth")
    if sensors is not None:
        places, readings = (np.asarray(part, dtype=float) for part in sensors)
        ax.plot(places, readings, "o", color=style.INK, markersize=4, label="sensors", clip_on=False)
    style.dress(ax, title, "", names[0], style.label(names[1], unit))
    ax.set_xlim(float(x.min()), float(x.max()))
    return ax
