"""How wrong is each sampler, and at what cost: an error with its bars against cost, beside what exact samples score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from sciflow.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = tuple[ArrayLike, ArrayLike, ArrayLike]


def sampler_comparison(
    curves: Mapping[str, Curve],
    *,
    floor: Curve | None = None,
    quantity: str = "sliced W2 distance to exact samples",
    unit: str = "1",
    cost: str = "network calls per sample (NFE)",
    is_log: bool = True,
    goal: str = "",
    truth: float | None = None,
    right: float | None = None,
    order: Sequence[str] = (),
    title: str = "Error of each sampler against its cost",
    ax: Axes | None = None,
) -> Axes:
    """An error against cost for each sampler, with the score of exact samples as floor.

    Exactness: draws the numbers it is given; bars and band are ± 2 standard errors
    Cost: one curve for each sampler
    Bias: none

    Args:
        curves: name -> (cost, value, stderr), each (point,) or a number.
        floor: (cost, value, stderr) of exact samples; a single value is drawn over the whole width.
        quantity: what the error is; e.g. "total variation of mode weights".
        unit: its unit.
        cost: what the horizontal axis counts; e.g. "particles".
        is_log: logarithmic error axis; use False for a signed error.
        goal: what is good, for the note; empty is a smaller error. With a goal of its own a value has no zero line.
        truth: where on the horizontal axis the truth lies.
        right: the value that is right, where there is one: a line.
        order: names of all samplers of a page; each has the same colour in every figure, whoever is shown.
        title: heading.
        ax: where to draw; None makes a Figure.
    """
    ax = style.axes(ax, 6.4, 4.0)
    if floor is not None:
        _floor(ax, *(np.atleast_1d(np.asarray(part, dtype=float)) for part in floor))
    known = [*order, *(name for name in curves if name not in order)]
    for name, curve in curves.items():
        index = known.index(name)
        x, value, stderr = (np.atleast_1d(np.asarray(part, dtype=float)) for part in curve)
        look: dict[str, Any] = {
            "color": style.colour(index),
            "marker": style.marker(index),
            "markersize": 5,
            "linewidth": 1.4,
        }
        bars: dict[str, Any] = {"yerr": style.ERRORS * stderr, "elinewidth": 1.0, "capsize": 2.5, "capthick": 1.0}
        ax.errorbar(x, value, **bars, **look, label=name)
    if is_log:
        ax.set_yscale("log", nonpositive="clip")
        style.log_ticks(ax.yaxis)
    elif not goal:
        ax.axhline(0, color=style.FAINT, linewidth=0.8)
    if truth is not None:
        ax.axvline(truth, color=style.FAINT, linewidth=1.2, linestyle=(0, (4, 3)), label="truth", zorder=0)
    if right is not None:
        ax.axhline(right, color=style.FAINT, linewidth=1.2, linestyle=(0, (4, 3)), label="right", zorder=0)
    cost_axis(ax, [np.atleast_1d(np.asarray(curve[0])) for curve in curves.values()])
    goal = goal or ("lower left is better" if is_log else "nearer to 0 is better")
    style.dress(ax, title, f"bars: ± {style.ERRORS} standard errors; {goal}", cost, style.label(quantity, unit))
    style.legend(ax, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)
    return ax


def _floor(ax: Axes, x: np.ndarray, value: np.ndarray, stderr: np.ndarray) -> None:
    """Grey band of what exact samples score."""
    width = style.ERRORS * stderr
    look: dict[str, Any] = {"color": style.FAINT, "linewidth": 1.2, "linestyle": (0, (4, 3))}
    if len(value) == 1:
        ax.axhspan(float(value[0] - width[0]), float(value[0] + width[0]), color=style.BAND, linewidth=0, zorder=0)
        ax.axhline(float(value[0]), **look, label="exact samples (floor)", zorder=1)
    else:
        ax.fill_between(x, value - width, value + width, color=style.BAND, linewidth=0, zorder=0)
        ax.plot(x, value, **look, label="exact samples (floor)", zorder=1)


def cost_axis(ax: Axes, costs: Sequence[ArrayLike]) -> None:
    """Logarithmic where the costs span more than a factor of four, with the costs themselves as ticks."""
    from matplotlib.ticker import NullFormatter, NullLocator

    places = np.unique(np.concatenate([np.asarray(cost, dtype=float) for cost in costs]))
    if places.min() > 0 and places.max() > 4 * places.min():
        ax.set_xscale("log")
        gap = (places.max() / places.min()) ** (1 / 8)
        ticks = [places[0]]
        for place in places:
            if place > gap * ticks[-1]:
                ticks.append(place)
        ax.set_xticks(ticks, [f"{float(f'{tick:.3g}'):g}" for tick in ticks])
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.xaxis.set_minor_locator(NullLocator())
