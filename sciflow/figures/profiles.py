"""Samples of a known law: its potential of mean force with theirs, and distances beside what perfect samples score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from sciflow.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def mean_force_profile(
    x: ArrayLike,
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    exact: ArrayLike | None = None,
    known: str = "exact",
    name: str = "x",
    highest: float = 8.0,
    quantity: str = "−log p [kT]",
    title: str = "Potential of mean force",
    ax: Axes | None = None,
) -> Axes:
    """−log p along a coordinate for each set of samples, with a band, over the exact curve; the least exact value is 0.

    Exactness: draws the numbers it is given; bands are ± 2 standard errors
    Cost: one curve for each set
    Bias: none

    Args:
        x: the coordinate, (bin,).
        curves: name -> (−log p, standard error), each (bin,), in kT or another unit; infinite where no sample fell.
        exact: the exact −log p, (bin,).
        known: what that curve is called.
        name: of the coordinate.
        highest: top of the figure, in the unit of the curves.
        quantity: what is drawn, with its unit.
        title: heading.
        ax: where to draw; None makes a Figure.
    """
    ax = style.axes(ax, 6.0, 3.9)
    x = np.asarray(x, dtype=float)
    values = {key: tuple(np.asarray(part, dtype=float) for part in curve) for key, curve in curves.items()}
    truth = None if exact is None else np.asarray(exact, dtype=float)
    least = np.nanmin(truth) if truth is not None else min(float(np.nanmin(value)) for value, _ in values.values())
    for index, (key, (value, stderr)) in enumerate(values.items()):
        seen = np.isfinite(value)
        centre, width = np.where(seen, value, np.nan) - least, style.ERRORS * np.where(seen, stderr, np.nan)
        ax.fill_between(x, centre - width, centre + width, color=style.colour(index), alpha=0.2, linewidth=0)
        ax.plot(x, centre, color=style.colour(index), linewidth=1.5, label=key)
    if truth is not None:
        ax.plot(x, truth - least, color=style.INK, linewidth=1.1, linestyle=(0, (4, 3)), label=known)
    ax.set(xlim=(float(x.min()), float(x.max())), ylim=(-0.04 * highest, highest))
    style.dress(ax, title, f"shaded: ± {style.ERRORS} standard errors", name, quantity)
    style.legend(ax, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)
    return ax


def distance_bars(
    values: Mapping[str, tuple[float, float]],
    floor: tuple[float, float],
    *,
    quantity: str = "distance",
    unit: str = "1",
    title: str = "Distance from the exact law",
    ax: Axes | None = None,
) -> Axes:
    """A bar for each sampler, and the band in which perfect samples lie.

    Exactness: draws the numbers it is given; the band is ± 2 standard deviations of single perfect sets
    Cost: one bar for each sampler
    Bias: none

    Args:
        values: name -> (distance, its standard error).
        floor: mean and standard deviation of the distance of perfect samples.
        quantity: what the distance is.
        unit: its unit.
        title: heading.
        ax: where to draw; None makes a Figure.
    """
    ax = style.axes(ax, 5.4, 0.9 + 0.5 * max(3, len(values)))
    mean, std = floor
    ax.axvspan(mean - style.ERRORS * std, mean + style.ERRORS * std, color=style.BAND, linewidth=0, zorder=0)
    ax.axvline(mean, color=style.FAINT, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
    for index, (value, stderr) in enumerate(values.values()):
        colour = style.colour(index)
        ax.barh(index, value, height=0.6, color=colour, alpha=0.85, zorder=2)
        if np.isfinite(stderr):
            look: dict[str, Any] = {"color": style.INK, "elinewidth": 1.0, "capsize": 2.5, "zorder": 3}
            ax.errorbar(value, index, xerr=style.ERRORS * stderr, fmt="none", **look)
        ax.annotate(f"{value:.3g}", (value, index), (6, 8), textcoords="offset points", fontsize=8.5, va="center")
    ax.set_yticks(range(len(values)), list(values))
    ends = [value + style.ERRORS * np.nan_to_num(stderr) for value, stderr in values.values()]
    longest = max(mean + style.ERRORS * std, *ends) or 1.0  # where all distances are 0
    ax.set(ylim=(len(values) - 0.4, -0.6), xlim=(0, 1.12 * longest))
    note = f"dashed: perfect samples; grey: ± {style.ERRORS} of their standard deviations"
    style.dress(ax, title, note, style.label(quantity, unit), "samples")
    return ax
