"""The figure of the solver benchmark: error against calls for each problem, and against seconds for one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from sciflow.figures.style import colour, dress, legend, marker, panels

SHOWN = {  # what stands for a row, and how it is drawn
    "sciflow auto": "sciflow, auto",
    "diffusers DDIM": "DDIM",
    "diffusers ++2M": "DPM-Solver++ 2M",
    "diffusers UniPC-3 bh2": "UniPC-3",
    "diffusers DEIS-3": "DEIS-3",
    "azula zEAB-4": "azula zEAB-4",
    "k-diffusion Heun": "Heun (EDM)",
}
SECONDS_FOR = "mixture d=64"


def curves(ax: Axes, table: Mapping[tuple[str, str, int], Mapping[str, float]], problem: str, against: str) -> None:
    for index, (name, label) in enumerate(SHOWN.items()):
        points = [(f[against], f["error"]) for (p, n, _), f in table.items() if (p, n) == (problem, name)]
        points = sorted(point for point in points if point[1] < 3)
        if points:
            style = {"color": colour(index), "marker": marker(index), "markersize": 3.5}
            ax.plot(*zip(*points, strict=True), label=label, linewidth=2.4 if index == 0 else 1.0, **style)
    ax.set_xscale("log")
    ax.set_yscale("log")


def draw(table: Mapping[tuple[str, str, int], Mapping[str, float]], folder: Path) -> None:
    """solvers-calls.png and solvers-seconds.png in the folder."""
    names = list(dict.fromkeys(problem for problem, *_ in table))
    all_axes = panels(len(names), width=3.4, height=3.4)
    for ax, problem in zip(all_axes, names, strict=True):
        curves(ax, table, problem, "calls")
        ax.set_xticks([5, 10, 20, 64], ["5", "10", "20", "64"])
        ax.minorticks_off()
        dress(ax, problem, x="network calls", y="median error" if ax is all_axes[0] else "")
    legend(all_axes[0])
    all_axes[0].figure.savefig(folder / "solvers-calls.png")
    (ax,) = panels(1)
    curves(ax, table, SECONDS_FOR, "seconds")
    ax.xaxis.set_minor_formatter(NullFormatter())  # labels of a decade that is not whole would overlap
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter("{x:g}")
    dress(ax, f"Error against seconds, {SECONDS_FOR}", "CPU time of a whole run with an exact denoiser", "s", "error")
    legend(ax)
    ax.figure.savefig(folder / "solvers-seconds.png")
