"""Are the credible intervals right? Coverage against level, ranks and their functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from sciflow.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def calibration(
    levels: ArrayLike,
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    title: str = "Coverage of credible intervals",
    ax: Axes | None = None,
) -> Axes:
    """Observed against nominal coverage of central credible intervals, one curve for each posterior.

    Exactness: draws the numbers it is given; bands are ± 2 standard errors
    Cost: one curve for each posterior
    Bias: none

    Args:
        levels: nominal levels in [0, 1], (level,).
        curves: name -> (coverage, stderr), each (level,).
        title: heading.
        ax: where to draw; None makes a Figure.
    """
    ax = style.axes(ax, 4.6, 4.6)
    levels = 100 * np.asarray(levels, dtype=float)
    ax.plot([0, 100], [0, 100], color=style.FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for index, (name, (coverage, stderr)) in enumerate(curves.items()):
        values, width = 100 * np.asarray(coverage, dtype=float), 100 * style.ERRORS * np.asarray(stderr, dtype=float)
        colour = style.colour(index)
        ax.fill_between(levels, values - width, values + width, color=colour, alpha=0.18, linewidth=0)
        ax.plot(levels, values, color=colour, linewidth=1.6, marker=style.marker(index), markersize=3.2, label=name)
    corner: dict[str, Any] = {"fontsize": 8.5, "color": style.FAINT, "transform": ax.transAxes, "style": "italic"}
    below_the_legend = min(0.78, 0.98 - 0.053 * len(curves))  # a line of it takes 0.05 of the height
    ax.text(0.04, below_the_legend, "above the diagonal:\nintervals too wide", va="top", **corner)
    ax.text(0.96, 0.16, "below the diagonal:\nintervals too narrow", ha="right", **corner)
    ax.set(xlim=(0, 100), ylim=(0, 100), aspect="equal", xticks=range(0, 101, 20), yticks=range(0, 101, 20))
    note = f"dashed: calibrated; shaded: ± {style.ERRORS} standard errors"
    style.dress(ax, title, note, "nominal level of the interval [%]", "truths inside [%]")
    style.legend(ax, loc="upper left")
    return ax


def rank_histogram(
    edges: ArrayLike,
    density: ArrayLike,
    stderr: ArrayLike,
    *,
    title: str = "Where the truth ranks among its posterior draws",
    ax: Axes | None = None,
) -> Axes:
    """Histogram of the relative rank of the truth: flat for a calibrated posterior.

    Exactness: draws the numbers it is given; the band is ± 2 standard errors about flat, pooled over bins
    Cost: one bar for each bin
    Bias: none

    Args:
        edges: of the bins on [0, 1], (bin + 1,).
        density: heights, 1 if calibrated, (bin,).
        stderr: standard errors, (bin,).
        title: heading.
        ax: where to draw; None makes a Figure.
    """
    ax = style.axes(ax)
    edges, density = np.asarray(edges, dtype=float), np.asarray(density, dtype=float)
    width = style.ERRORS * float(np.sqrt(np.mean(np.nan_to_num(np.asarray(stderr, dtype=float)) ** 2)))
    ax.bar(edges[:-1], density, np.diff(edges), align="edge", color=style.colour(5), edgecolor="white")
    ax.axhspan(1 - width, 1 + width, color=style.INK, alpha=0.18, linewidth=0, zorder=2)
    ax.axhline(1, color=style.INK, linewidth=1, linestyle=(0, (4, 3)), zorder=3)
    ax.set(xlim=(0, 1), ylim=(0, max(1.15 * density.max(), 1.2 * (1 + width))))
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["below all", "1/4", "1/2", "3/4", "above all"])
    note = (
        f"dashed: calibrated; grey: ± {style.ERRORS} standard errors\n"
        "U shape: draws too narrow; dome: too wide; slope: shifted"
    )
    return style.dress(ax, title, note, "relative rank of the truth", "frequency (1 = calibrated)")


def rank_functions(
    points: ArrayLike,
    functions: Mapping[str, ArrayLike],
    low: ArrayLike,
    high: ArrayLike,
    *,
    title: str = "Ranks of test quantities",
    ax: Axes | None = None,
) -> Axes:
    """Distribution function of the rank of the truth less that of a uniform one, for each test quantity.

    Exactness: draws the numbers it is given; the band holds all of one function at once
    Cost: one line for each quantity
    Bias: none

    Args:
        points: z on [0, 1], (point,).
        functions: name -> share of observations whose relative rank is below z, (point,).
        low, high: ends of the band for such a share, (point,).
        title: heading.
        ax: where to draw; None makes a Figure.
    """
    ax = style.axes(ax)
    points, ends = np.asarray(points, dtype=float), [np.asarray(end, dtype=float) for end in (low, high)]
    ax.fill_between(points, ends[0] - points, ends[1] - points, color=style.INK, alpha=0.12, linewidth=0)
    ax.axhline(0, color=style.INK, linewidth=1, linestyle=(0, (4, 3)))
    largest = max(float(np.abs(end - points).max()) for end in ends)
    for index, (name, values) in enumerate(functions.items()):
        apart = np.asarray(values, dtype=float) - points
        largest = max(largest, float(np.abs(apart).max()))
        ax.plot(points, apart, color=style.colour(index), linewidth=1.5, label=name)
    ax.set(xlim=(0, 1), ylim=(-1.15 * largest, 1.75 * largest))
    note = "grey: where 95 % of calibrated functions stay, all along\nabove 0: truths below their draws; S shape: width"
    style.dress(ax, title, note, "relative rank of the truth", "share below it less its expectation")
    style.legend(ax, loc="upper center", ncols=2)
    return ax
