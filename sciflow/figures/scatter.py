"""Samples in the plane over the exact density they should follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from sciflow.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CONTENTS = (0.5, 0.9, 0.99)
"""Probability inside each contour of the exact density."""


def posterior_scatter(
    samples: ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    log_density: ArrayLike,
    *,
    log_weights: ArrayLike | None = None,
    truth: ArrayLike | None = None,
    unit: str = "1",
    names: tuple[str, str] = ("x₁", "x₂"),
    n_shown: int = 1000,
    title: str = "Samples over the exact posterior",
    ax: Axes | None = None,
) -> Axes:
    """Dots over the regions that hold 50, 90 and 99 % of the exact probability.

    Exactness: contours enclose their share up to the grid; draws the first `n_shown` samples, area by weight
    Cost: one dot for each sample
    Bias: none

    Args:
        samples: (sample, 2), in `unit`.
        x: grid of the first coordinate, (nx,), even spacing.
        y: grid of the second coordinate, (ny,), even spacing.
        log_density: log of the exact density up to a constant, (ny, nx).
        log_weights: (sample,); None draws equal dots.
        truth: the point that was measured, (2,).
        unit: unit of both coordinates.
        names: of the coordinates.
        n_shown: at most so many dots.
        title: heading.
        ax: where to draw; None makes a Figure.
    """
    ax = style.axes(ax, 4.4, 5.0)
    _regions(ax, np.asarray(x), np.asarray(y), np.asarray(log_density, dtype=float))
    dots = np.asarray(samples, dtype=float)[:n_shown]
    area = np.full(len(dots), 6.0)
    if log_weights is not None:
        weights = np.exp(np.asarray(log_weights, dtype=float) - np.max(log_weights))[:n_shown]
        area = 6.0 * weights / weights.mean()
    ax.scatter(dots[:, 0], dots[:, 1], s=area, color=style.colour(0), alpha=0.5, linewidths=0)
    if truth is not None:
        look: dict[str, Any] = {"s": 90, "marker": "*", "color": style.colour(1), "edgecolors": "white"}
        across, along = np.asarray(truth, dtype=float)
        ax.scatter(across, along, **look)
        ax.annotate("truth", (across, along), (6, 6), textcoords="offset points", fontsize=8.5, color=style.colour(1))
    ax.set(xlim=(np.min(x), np.max(x)), ylim=(np.min(y), np.max(y)), aspect="equal")
    outside = np.mean((dots < [np.min(x), np.min(y)]).any(1) | (dots > [np.max(x), np.max(y)]).any(1))
    missing = f"{outside:.1%} of dots off the map" if outside else "all dots are on the map"  # two lines beside others
    note = f"grey: 50, 90, 99 % of the exact probability\n{missing}"
    style.dress(ax, title, note, style.label(names[0], unit), style.label(names[1], unit))
    return ax


def _regions(ax: Axes, x: np.ndarray, y: np.ndarray, log_density: np.ndarray) -> None:
    """Grey regions of highest density that hold the shares of `CONTENTS`."""
    density = np.exp(log_density - log_density.max())
    ranked = np.sort(density.ravel())[::-1]
    share = np.cumsum(ranked) / ranked.sum()
    heights = sorted({float(ranked[np.searchsorted(share, content)]) for content in CONTENTS})
    greys = ["#eeeeee", "#d6d6d6", "#b8b8b8"][-len(heights) :]
    ax.contourf(x, y, density, levels=[*heights, 1.01], colors=greys, zorder=0)
