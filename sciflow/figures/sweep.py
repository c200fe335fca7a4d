"""A number over two swept settings: a map whose cells say value and error, with the best cell and the truth marked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from sciflow.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TEXT_SIZE = 8


def sweep_map(
    x: ArrayLike,
    y: ArrayLike,
    value: ArrayLike,
    stderr: ArrayLike,
    *,
    names: tuple[str, str] = ("x", "y"),
    quantity: str = "value",
    unit: str = "1",
    truth: tuple[float | None, float | None] = (None, None),
    is_difference: bool = False,
    best: tuple[int, int] | None = None,
    goal: str = "",
    title: str = "A number over two settings",
    ax: Axes | None = None,
) -> Axes:
    """One cell for each pair of settings, with its value and standard error written in it.

    Exactness: draws the numbers it is given; shades go with the rank of a cell, so that one far value hides no others
    Cost: one cell for each run
    Bias: none

    Args:
        x, y: swept values, (nx,) and (ny,), increasing.
        value, stderr: (ny, nx), NaN where there is none.
        names: of the two settings.
        quantity: what the number is.
        unit: its unit.
        truth: true setting of x and y, where known: its cell is framed, or its line drawn between cells.
        is_difference: write how far each cell is below the largest.
        best: row and column of the best cell, in bold type.
        goal: what is good, for the note.
        title: heading.
        ax: where to draw; None makes a Figure.
    """
    from matplotlib.colors import Normalize

    columns, rows = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    values, errors = np.asarray(value, dtype=float), np.asarray(stderr, dtype=float)
    ax = style.axes(ax, 1.8 + 1.05 * len(columns), 1.6 + 0.55 * len(rows))
    largest = np.nanmax(values) if is_difference else 0.0
    ranks = np.where(np.isfinite(values), values.ravel().argsort().argsort().reshape(values.shape), np.nan)
    ax.imshow(ranks, cmap="Blues", norm=Normalize(-1, 2 * values.size), origin="lower", aspect="auto")
    for row, column in np.ndindex(values.shape):
        if math.isfinite(values[row, column]):
            number = f"{values[row, column] - largest:.1f}" if is_difference else f"{values[row, column]:.4g}"
            text = f"{number}\n± {errors[row, column]:.2g}" if math.isfinite(errors[row, column]) else number
            weight = "bold" if (row, column) == best else "normal"
            ax.text(column, row, text, ha="center", va="center", fontsize=TEXT_SIZE, color=style.INK, fontweight=weight)
    _mark(ax, columns, rows, truth)
    ax.set_xticks(range(len(columns)), [f"{v:g}" for v in columns])
    ax.set_yticks(range(len(rows)), [f"{v:g}" for v in rows])
    said = f"{style.label(quantity, unit)}{' from the largest' if is_difference else ''}, ± standard error"
    marked = "; marked: the truth" if any(v is not None for v in truth) else ""
    bold = "; bold: the best" if best is not None else ""
    return style.dress(ax, title, f"{said}\ndarker is larger{f', {goal}' if goal else ''}{bold}{marked}", *names)


def _mark(ax: Axes, columns: np.ndarray, rows: np.ndarray, truth: tuple[float | None, float | None]) -> None:
    """A frame around the true cell; a line where only one setting is known, or lies between two cells."""
    from matplotlib.patches import Rectangle

    across, up = (
        None if v is None else float(np.interp(v, axis, range(len(axis))))
        for v, axis in zip(truth, (columns, rows), strict=True)
    )
    colour = style.colour(1)
    if across is not None and up is not None and across % 1 == 0 and up % 1 == 0:
        ax.add_patch(Rectangle((across - 0.47, up - 0.46), 0.94, 0.92, fill=False, edgecolor=colour, linewidth=2))
        return
    if across is not None:
        ax.axvline(across, color=colour, linewidth=1.5)
    if up is not None:
        ax.axhline(up, color=colour, linewidth=1.5)
