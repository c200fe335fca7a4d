"""How did the ensemble fare: effective sample size, distinct parents and evidence after each step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from sciflow.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
        errors: standard errors of the last log Ẑ, from the genealogy and from islands; NaN where unknown.
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
        other = ax.twinx()
        label = style.label("log Ẑ", "nat")
        other.plot(
            steps, np.asarray(log_evidence, dtype=float), color=style.FAINT, linewidth=1.2, linestyle=(0, (4, 3))
        )
        other.set_ylabel(f"{label} (dashed)", fontsize=9.5, color=style.INK)
        other.tick_params(labelsize=8.5, color=style.FAINT, labelcolor=style.INK, width=0.6)
        for side, spine in other.spines.items():
            spine.set_visible(side == "right")
            spine.set(color=style.FAINT, linewidth=0.8)
    note = f"{n:.0f} particles, resampled after {int(resampled.sum())} steps{_ended(log_evidence, errors)}"
    style.dress(ax, title, note, "step", "share of the particles")
    style.legend(ax, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return ax


def _ended(log_evidence: ArrayLike | None, errors: tuple[float, float]) -> str:
    """The last log Ẑ with the errors that are known."""
    known = zip(errors, ("genealogy", "islands"), strict=True)
    said = [f"± {error:.2g} ({name})" for error, name in known if error >= 0]
    if log_evidence is None or not said:
        return ""
    return f"\nlog Ẑ = {np.asarray(log_evidence, dtype=float)[-1]:.2f} {', '.join(said)}"
