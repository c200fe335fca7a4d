"""A number for settings that are no numbers: a row for each setting, a dot with its bar for each sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from sciflow.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Dots = tuple[Sequence[int], ArrayLike, ArrayLike]  # rows, values, standard errors
LEAST_ROW, PER_DOT, NARROWEST, PER_LETTER = 0.3, 0.12, 5.6, 0.07  # inches


def category_dots(
    dots: Mapping[str, Dots],
    labels: Sequence[str],
    *,
    quantity: str = "value",
    unit: str = "1",
    settings: str = "setting",
    is_log: bool = False,
    goal: str = "",
    right: float | None = None,
    order: Sequence[str] = (),
    title: str = "A number for each setting",
    ax: Axes | None = None,
) -> Axes:
    """Rows of settings from the top down; in each a dot for every sampler.

    Exactness: draws the numbers it is given; bars are ± 2 standard errors
    Cost: one dot for each setting and sampler
    Bias: none

    Args:
        dots: sampler -> (row, value, stderr), each (dot,).
        labels: of the rows.
        quantity: what the number is.
        unit: its unit.
        settings: what tells the rows apart.
        is_log: logarithmic axis of the values.
        goal: what is good, for the note.
        right: the value that is right, where there is one: a line.
        order: names of all samplers of a page; each has the same colour in every figure, whoever is shown.
        title: heading.
        ax: where to draw; None makes a Figure.
    """
    height = max(LEAST_ROW, PER_DOT * (len(dots) + 1))
    width = NARROWEST + PER_LETTER * max(map(len, labels))
    ax = style.axes(ax, width, 1.5 + height * len(labels))
    known = [*order, *(name for name in dots if name not in order)]
    step = min(PER_DOT / height, 0.8 / max(1, len(dots)))
    for row in range(1, len(labels)):
        ax.axhline(row - 0.5, color=style.BAND, linewidth=0.6, zorder=0)
    for shift, (name, found) in enumerate(dots.items()):
        rows, value, stderr = (np.atleast_1d(np.asarray(part, dtype=float)) for part in found)
        index = known.index(name)
        look: dict[str, Any] = {"color": style.colour(index), "marker": style.marker(index), "markersize": 5}
        bars: dict[str, Any] = {"xerr": style.ERRORS * stderr, "elinewidth": 1.0, "capsize": 2.5, "capthick": 1.0}
        height_of = rows + step * (shift - (len(dots) - 1) / 2)
        ax.errorbar(value, height_of, **bars, **look, linestyle="none", label=name)
    if right is not None:
        ax.axvline(right, color=style.FAINT, linewidth=1.2, linestyle=(0, (4, 3)), zorder=0, label="right")
    if is_log:
        ax.set_xscale("log", nonpositive="clip")
        style.log_ticks(ax.xaxis)
    ax.set_yticks(range(len(labels)), list(labels))
    ax.set_ylim(len(labels) - 0.5, -0.5)
    note = f"bars: ± {style.ERRORS} standard errors" + (f"; {goal}" if goal else "")
    style.dress(ax, title, note, style.label(quantity, unit), settings)
    style.legend(ax, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)
    return ax
