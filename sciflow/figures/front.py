"""Error against cost of many runs, with the runs that no other beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sciflow.figures import style
from sciflow.figures.comparison import cost_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Point = tuple[float, float, float, str]  # cost, error, its standard error, what it is


def error_and_cost(
    points: Mapping[str, Sequence[Point]],
    front_cost: Sequence[float],
    front_error: Sequence[float],
    *,
    quantity: str = "error",
    unit: str = "1",
    cost: str = "network calls per draw (NFE)",
    is_log: bool = True,
    goal: str = "lower left is better",
    title: str = "Error against cost",
    ax: Axes | None = None,
) -> Axes:
    """Every run of a sweep at its cost and error; a line joins those that no other beats in both.

    Exactness: draws the numbers it is given; bars are ± 2 standard errors
    Cost: one point for each run and sampler
    Bias: none

    Args:
        points: sampler -> its points; those on the front are named in the figure.
        front_cost, front_error: the Pareto front, in order of cost.
        quantity: what the error is.
        unit: its unit.
        cost: what the horizontal axis counts.
        is_log: logarithmic axis of the error; use False where it may be negative.
        goal: what is good, for the note.
        title: heading.
        ax: where to draw; None makes a Figure.
    """
    ax = style.axes(ax, 6.4, 4.0)
    ax.step(front_cost, front_error, where="post", color=style.FAINT, linewidth=1.2, linestyle=(0, (4, 3)), zorder=0,
            label="no run beats these")  # fmt: skip
    named = set(zip(front_cost, front_error, strict=True))
    for index, (name, found) in enumerate(points.items()):
        x, y, stderr, labels = zip(*found, strict=True)
        bars = [style.ERRORS * error for error in stderr]
        look: dict[str, Any] = {
            "color": style.colour(index),
            "marker": style.marker(index),
            "markersize": 5,
            "linestyle": "none",
        }
        ax.errorbar(x, y, yerr=bars, elinewidth=1.0, capsize=2.5, capthick=1.0, **look, label=name)
        for place, label in zip(zip(x, y, strict=True), labels, strict=True):
            if place in named:
                ax.annotate(label, place, (4, 4), textcoords="offset points", fontsize=7.5, color=style.INK)
    cost_axis(ax, [[point[0] for point in found] for found in points.values()])
    if is_log:
        ax.set_yscale("log", nonpositive="clip")
        style.log_ticks(ax.yaxis)
    style.dress(ax, title, f"bars: ± {style.ERRORS} standard errors; {goal}", cost,
                style.label(quantity, unit))  # fmt: skip
    style.legend(ax, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)
    return ax
