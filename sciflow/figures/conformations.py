"""Conformations of a molecule: a free energy over two variables, basins on it, and whether temperatures overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from sciflow.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Arc = tuple[float, float]
FULL = (-180.0, 180.0)
TICKS = (-180, -90, 0, 90, 180)


def pieces(arc: Arc, whole: Arc = FULL) -> list[Arc]:
    """What is shown of an interval: two pieces where it leads through the end of a circle."""
    low, high = arc
    parts = [arc] if low < high else [(low, whole[1]), (whole[0], high)]
    shown = [(max(start, whole[0]), min(end, whole[1])) for start, end in parts]
    return [part for part in shown if part[0] < part[1]]


def ramachandran(
    surface: ArrayLike,
    *,
    dots: ArrayLike | None = None,
    basins: Mapping[str, tuple[Arc, Arc]] | None = None,
    names: Sequence[str] = ("φ", "ψ"),
    ranges: tuple[Arc, Arc] = (FULL, FULL),
    units: Sequence[str] = ("°", "°"),
    highest: float = 30.0,
    unit: str = "kJ/mol",
    n_shown: int = 1500,
    title: str = "Free energy of two torsions",
    ax: Axes | None = None,
) -> Axes:
    """A free energy of two variables as shading, with basins as boxes and samples as dots.

    Exactness: draws the numbers it is given; cells that nothing entered are white
    Cost: one cell for each pair of values
    Bias: none

    Args:
        surface: free energy above its least value, (first, second), cells of equal size over `ranges`; infinite where
            nothing fell.
        dots: variables of samples, (sample, 2); None draws none.
        basins: name → intervals of both variables; from above to leads through the end of a circle.
        names: of the variables.
        ranges: first and last value of each; the whole circle for torsions.
        units: of the variables.
        highest: end of the shading, in `unit`.
        unit: of the free energy.
        n_shown: at most so many dots, evenly chosen.
        title: heading.
        ax: where to draw; None makes a Figure.
    """
    ax = style.axes(ax, 4.8, 4.4)
    values = np.asarray(surface, dtype=float)
    shown = np.where(np.isfinite(values), np.minimum(values, highest), np.nan)
    aspect = "equal" if ranges[0] == ranges[1] else "auto"
    look: dict[str, Any] = {"origin": "lower", "extent": (*ranges[0], *ranges[1]), "aspect": aspect, "cmap": "viridis"}
    alpha = 1.0 if dots is None else 0.45
    image = ax.imshow(shown.T, vmin=0, vmax=highest, alpha=alpha, interpolation="nearest", **look)
    if dots is not None:
        points = np.asarray(dots, dtype=float)
        points = points[np.linspace(0, len(points) - 1, min(len(points), n_shown)).astype(int)]
        ax.scatter(points[:, 0], points[:, 1], s=4, color=style.PALETTE[1], alpha=0.55, linewidth=0)
    for name, arcs in (basins or {}).items():
        _boxes(ax, name, arcs, ranges)
    ax.set(xlim=ranges[0], ylim=ranges[1])
    for own, whole in zip((ax.xaxis, ax.yaxis), ranges, strict=True):
        if whole == FULL:
            own.set_ticks(TICKS)
    labels = (style.label(name, own) for name, own in zip(names, units, strict=True))
    style.dress(ax, title, "boxes: basins" if basins else "", *labels)
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.8, pad=0.02)
    bar.set_label(style.label("free energy", unit), fontsize=8.5, color=style.INK)
    bar.ax.tick_params(labelsize=8, color=style.FAINT)
    return ax


def _boxes(ax: Axes, name: str, arcs: tuple[Arc, Arc], ranges: tuple[Arc, Arc]) -> None:
    """A basin: a rectangle for each piece, with its name."""
    from matplotlib.patches import Rectangle

    look: dict[str, Any] = {"fontsize": 10, "fontweight": "bold", "color": style.INK, "va": "top"}
    halo = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
    across, up = (pieces(arc, whole) for arc, whole in zip(arcs, ranges, strict=True))
    for x, y in ((x, y) for x in across for y in up):
        size = x[1] - x[0], y[1] - y[0]
        ax.add_patch(Rectangle((x[0], y[0]), *size, fill=False, edgecolor=style.INK, linewidth=0.9))
        ax.annotate(name, (x[0], y[1]), (5, -5), textcoords="offset points", bbox=halo, **look)


def estimates(
    values: Mapping[str, tuple[float, float]],
    *,
    unit: str = "kJ/mol",
    quantity: str = "free energy",
    title: str = "One free energy, estimated in several ways",
    ax: Axes | None = None,
) -> Axes:
    """Estimates of one number, one below the other, with their error bars and the band of the first.

    Exactness: draws the numbers it is given; bars are ± 2 standard errors
    Cost: one dot for each estimate
    Bias: none

    Args:
        values: name → (value, standard error); the first is the reference, whose band is drawn. NaN is
            said in words.
        unit: of the values.
        quantity: what they are.
        title: heading.
        ax: where to draw; None makes a Figure.
    """
    ax = style.axes(ax, 5.2, 0.9 + 0.4 * max(3, len(values)))
    for index, (value, stderr) in enumerate(values.values()):
        if not np.isfinite(value):
            ax.annotate("not known: a basin is empty", (0.02, index), xycoords=("axes fraction", "data"), fontsize=8.5,
                        va="center", color=style.FAINT)  # fmt: skip
            continue
        width = style.ERRORS * (stderr if np.isfinite(stderr) else 0.0)
        if index == 0 and width:
            ax.axvspan(value - width, value + width, color=style.BAND, linewidth=0, zorder=0)
        look: dict[str, Any] = {"color": style.colour(index), "capsize": 2.5, "elinewidth": 1.2, "markersize": 5}
        ax.errorbar(value, index, xerr=width or None, fmt=style.marker(index), **look)
        if not np.isfinite(stderr):  # a dot without a bar would look exact
            is_right = value > np.nanmean([other for other, _ in values.values()])
            ax.annotate("error not known", (value, index), (-8 if is_right else 8, 0), textcoords="offset points",
                        fontsize=8.5, ha="right" if is_right else "left", va="center", color=style.FAINT)  # fmt: skip
    ax.set_yticks(range(len(values)), list(values))
    ax.set_ylim(len(values) - 0.4, -0.6)
    note = f"bars: ± {style.ERRORS} standard errors; grey: those of the first"
    style.dress(ax, title, note, style.label(quantity, unit), "estimate")
    return ax


def overlap_matrix(
    overlap: ArrayLike, *, names: Sequence[str] = (), title: str = "Overlap of states", ax: Axes | None = None
) -> Axes:
    """How often a sample of one state is taken for one of another, as numbers on a shaded table.

    Exactness: draws the numbers it is given
    Cost: one cell for each pair of states
    Bias: none

    Args:
        overlap: (state, state), rows sum to one.
        names: of the states.
        title: heading.
        ax: where to draw; None makes a Figure.
    """
    values = np.asarray(overlap, dtype=float)
    n = len(values)
    ax = style.axes(ax, max(5.0, 1.6 + 0.62 * n), 1.6 + 0.5 * n)
    ax.imshow(values, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if value > 0.6 else style.INK
        ax.annotate(f"{value:.2f}", (column, row), ha="center", va="center", fontsize=8.5, color=colour)
    labels = list(names) or [str(k) for k in range(n)]
    ax.set_xticks(range(n), labels)
    ax.set_yticks(range(n), labels)
    note = "share of samples of a row that are taken for the column;\nneighbours should have 0.03 or more"
    return style.dress(ax, title, note, "taken for", "sample of")
