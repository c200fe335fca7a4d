"""How did the ensemble fare: effective sample size, parents and evidence after each step, and what the sampler did."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from sciflow.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


DASHES = (0, (4, 3))
BELOW: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": 2}
MOST = 6  # coefficients that a reader can tell apart
SATURATED = 0.5
"""Error by genealogy from which on it is a lower bound: with one family left it is 1, whatever the error."""


def ensemble_traces(
    ess: ArrayLike,
    parents: ArrayLike,
    log_evidence: ArrayLike | None = None,
    *,
    errors: tuple[float, float] = (math.nan, math.nan),
    title: str = "How the ensemble fared",
    ax: Axes | None = None,
) -> Axes:
    """Effective sample size against steps, parents that each resampling kept, and the evidence so far.

    Exactness: draws the numbers it is given
    Cost: three lines
    Bias: an ESS that is high right after a resampling says nothing of duplicates; the parents do

    Args:
        ess: effective sample size after the start and each step, (step,).
        parents: distinct particles kept at each of them; all of them where nothing was resampled, (step,).
        log_evidence: log Ẑ at each of them, (step,); drawn on an axis of its own.
        errors: standard errors of the last log Ẑ, from the genealogy and from islands; NaN where unknown. That of the
            genealogy cannot grow beyond about 1, and is shown as a lower bound from one half on.
        title: heading.
        ax: where to draw; None makes a Figure.
    """
    ax = style.axes(ax, 6.4, 3.8)
    sizes, kept = np.asarray(ess, dtype=float), np.asarray(parents, dtype=float)
    steps, n = np.arange(len(sizes)), float(np.nanmax(kept))
    look: dict[str, Any] = {"linewidth": 1.4, "color": style.colour(0)}
    ax.plot(steps, sizes / n, **look, label="effective sample size")
    resampled = kept < n
    ax.plot(
        steps[resampled], kept[resampled] / n, linestyle="none", marker=style.marker(1), markersize=5,
        color=style.colour(1), label="distinct parents",
    )  # fmt: skip
    ax.set_ylim(0, 1.03)
    if log_evidence is not None:
        other = style.right(ax, f"{style.label('log Ẑ', 'nat')} (dashed)")
        other.plot(steps, np.asarray(log_evidence, dtype=float), color=style.FAINT, linewidth=1.2, linestyle=DASHES)
    note = f"{n:.0f} particles, resampled after {int(resampled.sum())} steps{_ended(log_evidence, errors)}"
    style.dress(ax, title, note, "step", "share of the particles")
    style.legend(ax, **BELOW)
    return ax


def diagnostic_traces(
    shares: Mapping[str, ArrayLike],
    coefficients: Mapping[str, ArrayLike] | None = None,
    *,
    title: str = "What the sampler did",
    ax: Axes | None = None,
) -> Axes:
    """Shares of the particles against steps, and the coefficients of a control on an axis of their own.

    Exactness: draws the numbers it is given
    Cost: a line for each share and each coefficient
    Bias: of many coefficients only those are drawn that become largest, and the note says how many are not

    Args:
        shares: name → share of the particles after the start and each step, (step,), NaN where there is none.
        coefficients: name → θ per unit of log(α/σ) after each of them, (step,); dashed, on the right.
        title: heading.
        ax: where to draw; None makes a Figure.
    """
    ax = style.axes(ax, 6.4, 3.8)
    every = {name: np.asarray(values, dtype=float) for name, values in (coefficients or {}).items()}
    size = {name: float(np.nanmax(np.abs(values), initial=0.0)) for name, values in every.items()}
    shown = sorted(sorted(every, key=lambda name: -size[name])[:MOST])
    for place, (name, values) in enumerate(shares.items()):
        steps = np.arange(np.size(values))
        ax.plot(steps, np.asarray(values, dtype=float), linewidth=1.4, color=style.colour(place), label=name)
    ax.set_ylim(0, 1.03)
    other = style.right(ax, "θ per unit of log(α/σ) (dashed)") if shown else ax
    for place, name in enumerate(shown, start=len(shares)):
        look: dict[str, Any] = {"linewidth": 1.2, "linestyle": DASHES, "color": style.colour(place)}
        other.plot(np.arange(len(every[name])), every[name], **look)
        ax.plot([], [], **look, label=name)  # one legend for both axes
    hidden = len(every) - len(shown)
    note = f"{hidden} smaller coefficients are not shown" if hidden else ""
    style.dress(ax, title, note, "step", "share of the particles")
    style.legend(ax, **BELOW)
    return ax


def _ended(log_evidence: ArrayLike | None, errors: tuple[float, float]) -> str:
    """The last log Ẑ with the errors that are known."""
    genealogy, islands = errors
    least = " at least" if genealogy >= SATURATED else ""
    known = ((genealogy, f"{least} (genealogy)"), (islands, " (islands)"))
    said = [f"± {error:.2g}{where}" for error, where in known if error >= 0]
    if log_evidence is None or not said:
        return ""
    return f"\nlog Ẑ = {np.asarray(log_evidence, dtype=float)[-1]:.2f} {', '.join(said)}"
