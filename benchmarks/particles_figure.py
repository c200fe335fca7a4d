"""The figure of the particle samplers' benchmark, from its newest records: results/particles.png.

python benchmarks/particles_figure.py
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from particles_twisted import PUBLISHED

from sciflow.figures.style import ERRORS, FAINT, colour, dress, legend, panels

RESULTS = Path(__file__).resolve().parent / "results"
METHODS = {  # of annealing, and how they are called here
    "exact draws": "exact draws",
    "second order, control": "second order, control",
    "second order": "second order",
    "first order, kernel ratio": "first order,\nkernel ratio",
    "first order, target score": "first order,\nas published",
}
JUDGED = {"mode-weight TV": "total variation of mode weights", "log Ẑ − log Z": "|log Ẑ − log Z| [nat]"}
OF_MODES = {"exact draws": "exact draws", "twisted SMC": "twisted SMC", "MCGDiff stated anew": "MCGDiff, stated anew"}


def newest(part: str) -> dict[str, tuple[float, float]]:
    """Claim → value and standard error, of the latest record of one part."""
    rows = json.loads(sorted(RESULTS.glob(f"particles_{part}-*.json"))[-1].read_text())["rows"]
    return {row["claim"]: (row["value"], row["stderr"]) for row in rows}


def annealing(ax: Axes, found: Mapping[str, tuple[float, float]]) -> None:
    """Both errors of each method, in a row of its own."""
    for index, (name, label) in enumerate(JUDGED.items()):
        style = {"color": colour(index), "markersize": 6, "capsize": 2, "elinewidth": 1, "linestyle": "none"}
        for y, method in enumerate(METHODS):
            value, error = found.get(f"GMM-40, power 3, {method}: {name}", (None, 0.0))
            if value is not None:
                low = min(ERRORS * error, 0.9 * abs(value))  # a bar that reaches 0 has no end on this scale
                place, bar = -y + 0.12 * (1 - 2 * index), [[low], [ERRORS * error]]
                ax.errorbar(abs(value), place, xerr=bar, marker="os"[index], label=None if y else label, **style)
        if name == "log Ẑ − log Z":
            ax.plot([], [], "s", color=colour(index), markersize=6, label=label)
    ax.axvline(0.05, color=FAINT, linewidth=0.8, linestyle=":")
    ax.set_xscale("log")
    ax.set_yticks([-y for y in range(len(METHODS))], list(METHODS.values()))
    ax.set_ylim(-len(METHODS) + 0.4, 0.9)
    note = "GMM-40, power 3, 10⁴ particles, 200 steps\ndotted: the target of 0.05 for both; bars: 2 standard errors"
    dress(ax, "Annealing forty modes", note, "error")
    legend(ax, loc="upper right")


def modes(ax: Axes, found: Mapping[str, tuple[float, float]]) -> None:
    """Distances for each number of measurements, over the published one."""
    for index, (name, label) in enumerate(OF_MODES.items()):
        values = [found[f"(b) {m} measured, {name}: largest sliced distance"] for m in PUBLISHED]
        places = [k + 0.14 * (index - 1) for k in range(len(PUBLISHED))]
        shares = [value / most for (value, _), most in zip(values, PUBLISHED.values(), strict=True)]
        bars = [ERRORS * error / most for (_, error), most in zip(values, PUBLISHED.values(), strict=True)]
        style = {"color": colour(index), "marker": "osD"[index], "markersize": 6, "capsize": 2, "elinewidth": 1}
        ax.errorbar(places, shares, yerr=bars, linestyle="none", label=label, **style)
    ax.axhline(1, color=FAINT, linewidth=0.8, linestyle=":")
    ax.annotate("MCGDiff, published", (2.4, 1), (0, 3), textcoords="offset points", fontsize=8, color=FAINT, ha="right")
    ax.set_xticks(range(len(PUBLISHED)), [str(m) for m in PUBLISHED])
    ax.set_xlim(-0.5, len(PUBLISHED) - 0.5)
    ax.set_ylim(bottom=0)
    note = (
        "25 modes in eight dimensions, 1000 draws; ours makes\nunder half of MCGDiff's calls; bars: 2 standard errors"
    )
    dress(ax, "The problem of MCGDiff", note, "numbers measured", "largest sliced W2, published = 1")
    legend(ax, loc="upper left")


def draw() -> None:
    left, right = panels(2, 5.2, 3.9)
    annealing(left, newest("marginal"))
    modes(right, newest("twisted"))
    left.figure.savefig(RESULTS / "particles.png")


if __name__ == "__main__":
    draw()
