"""The figure of particle samplers: what each needs, what it is exact for, and what it costs in network calls.

    python docs/particle_samplers.py

Each posterior of the table samples the Gaussian of `benchmarks/particles_twisted.py`, of which half is measured, with a
denoiser that counts its calls and the backward passes through it. Writes docs/images/particle_samplers.png.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from particles_twisted import Opaque, half_observed  # noqa: E402

from sciflow.diffusion.schedule import EDM  # noqa: E402
from sciflow.diffusion.times import LogSNR  # noqa: E402
from sciflow.figures.style import FAINT, INK, colour, dress, panels  # noqa: E402
from sciflow.inverse import POSTERIORS  # noqa: E402
from sciflow.inverse.shared import Shared  # noqa: E402
from sciflow.random import Stream  # noqa: E402
from sciflow.types import facts  # noqa: E402

N, STEPS, DIMENSION = 64, 40, 8
SMALL = {"ensemble": {"n_particles": N}}
HAVE: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "a linear measurement\nwith Gaussian noise": (
        ("twisted_smc", {"twist": "jacobian"}),
        ("twisted_smc", {"twist": "pigdm"}),
        ("tds", {"spread": 1.0}),
        ("fps", {}),
        ("mcgdiff", {}),
        ("weighted_dps", {}),
    ),
    "a likelihood with\na gradient": (("das", {}), ("tilted", SMALL), ("afdps", SMALL)),
    "a reward that is\na black box": (("fk_steering", {}), ("doit", {}), ("svdd", {}), ("greedy_svdd", {})),
    "powers of one model,\nor of several": (("annealed", SMALL), ("geometric", SMALL)),
}
CLASSES = ("exact for the chain, any steps", "exact as steps shrink", "no target")
"""What a sampler is exact for, with many particles."""


def class_of(kind: str) -> int:
    """Number of the entry of CLASSES."""
    cls = POSTERIORS[kind]
    if facts(cls)["target"].startswith("none"):
        return 2
    return 0 if isinstance(cls(), Shared) else 1


def built(kind: str, options: Mapping[str, Any]) -> Any:
    """The sampler, with N particles."""
    cls = POSTERIORS[kind]
    if "ensemble" in options:
        ensemble = cls.__dataclass_fields__["ensemble"].default_factory
        return cls(ensemble=type(ensemble())(**options["ensemble"]))
    return cls(n_particles=N, **options)


def cost(kind: str, options: Mapping[str, Any]) -> tuple[float, float]:
    """Network calls, and backward passes, for each particle and step."""
    prior, likelihood, _ = half_observed(DIMENSION)
    counted = Opaque(prior)
    built(kind, options)(counted, likelihood, LogSNR(STEPS, 100.0, 0.01)(EDM()), 1, Stream(0))
    return counted.calls / (N * STEPS), counted.passes[0] / (N * STEPS)


def row(ax: Axes, y: float, kind: str, options: Mapping[str, Any]) -> None:
    """One sampler: a filled mark for its calls, an open one for calls and backward passes."""
    calls, passes = cost(kind, options)
    style = {"color": colour(class_of(kind)), "markersize": 7, "zorder": 3}
    ax.plot([calls, calls + passes], [y, y], linewidth=1.4, **{**style, "zorder": 2})
    ax.plot(calls, y, "o", **style)
    if passes > 0.05:
        ax.plot(calls + passes, y, "o", markerfacecolor="white", **style)
    name = f"{kind}, {options['twist']}" if "twist" in options else kind
    ax.text(0.55, y, name, ha="right", va="center", fontsize=9, color=INK, family="monospace")
    print(f"{kind:14} {options!s:44} {calls:6.2f} calls {passes:6.2f} passes   {CLASSES[class_of(kind)]}")


def draw() -> Axes:
    """All samplers, in groups by what is at hand."""
    (ax,) = panels(1, 8.4, 5.6)
    y = 0.0
    for have, samplers in HAVE.items():
        ax.text(0.062, y - 0.5 * (len(samplers) - 1), have, va="center", fontsize=9.5, color=INK, fontweight="bold")
        for kind, options in samplers:
            row(ax, y, kind, options)
            y -= 1
        ax.axhline(y + 0.1, color=FAINT, linewidth=0.4)
        y -= 0.8
    for number, name in enumerate(CLASSES):
        ax.plot([], [], "o", color=colour(number), label=name)
    ax.plot([], [], "o", color=FAINT, markerfacecolor="white", label="with backward passes")
    ax.set_xscale("log")
    ax.set_xlim(0.06, 16)
    ax.set_xticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
    ax.minorticks_off()
    ax.set_yticks([])
    note = f"Counted on a Gaussian of {DIMENSION} numbers, half of them measured; several models: calls of all"
    dress(ax, "Which sampler, what it is exact for, what it costs", note, "network calls for each particle and step")
    ax.spines["left"].set_visible(False)
    options = {"fontsize": 8.5, "frameon": False, "labelcolor": INK, "handletextpad": 0.2, "columnspacing": 1.2}
    ax.legend(loc="upper right", bbox_to_anchor=(1, -0.1), ncols=4, **options)
    return ax


if __name__ == "__main__":
    torch.set_num_threads(1)
    draw().figure.savefig(ROOT / "docs/images/particle_samplers.png")
