"""The figure of particle samplers: which to take for what, what it is exact for, and what it costs in network calls.

    python docs/particle_samplers.py

Each posterior of the table samples the Gaussian of `benchmarks/particles_twisted.py`, of which half is measured, with a
denoiser that counts its calls and the backward passes through it. Writes docs/images/particle_samplers.png.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
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
from sciflow.random import Stream  # noqa: E402
from sciflow.types import facts  # noqa: E402

N, STEPS, DIMENSION = 64, 40, 8
LEFT, WHEN = 0.0016, 0.011  # where the columns begin, on the axis of calls


@dataclass(frozen=True)
class Twin:
    """An expert that is the prior itself: its calls are counted as those of another model."""

    def beside(self, prior: Any, like: torch.Tensor) -> Any:
        return prior


SMALL = {"ensemble": {"n_particles": N}}
PAIR, SEVERAL = {"expert": Twin()}, {"experts": (Twin(),)}
FULL = {"tile": N}  # whose last tile is filled up with rows that would be counted
TABLE: dict[str, tuple[tuple[str, str, dict[str, Any]], ...]] = {
    "a posterior,\ny linear and Gaussian": (
        ("up to some hundred numbers", "twisted_smc", {"twist": "jacobian"}),
        ("images and networks", "twisted_smc", {"twist": "pigdm"}),
        ("many measurements, an evidence", "tilted", SMALL),
        ("no backward pass", "fps", {}),
    ),
    "a posterior,\nany other likelihood": (
        ("it has a gradient", "das", {}),
        ("a black box, or a reward", "fk_steering", {}),
        ("the same, children for particles", "svdd", {}),
    ),
    "other powers of models": (
        ("one, colder or warmer", "annealed", SMALL),
        ("two: guidance, RLG", "geometric", SMALL | PAIR),
        ("several that must agree", "product", SMALL | SEVERAL),
    ),
    "draws of several models": (
        ("of any of them", "superdiff_or", SEVERAL | FULL),
        ("equally likely under all", "superdiff_and", SEVERAL | FULL),
    ),
    "the largest likelihood\nthat can be found": (
        ("a budget of calls", "rollover_budget_forcing", {"tile": 1}),
        ("a fixed number of children", "greedy_svdd", {}),
    ),
    "a density in place\nof a network": (("an evidence besides", "tempered", {}),),
    "a state that moves,\nby an equation": (
        ("few measurements at a time", "particle_filter", {}),
        ("many, or dear solves", "ensemble_kalman", {}),
    ),
}
"""What is wanted, what decides, and what to take."""
NO_NETWORK = {
    "tempered": "gradients of the density, no network",
    "particle_filter": "one solve for each time, no network",
    "ensemble_kalman": "one solve for each time, no network",
}
CLASSES = ("exact for the chain, any steps", "exact as steps shrink", "no target")
"""What a sampler is exact for, with many particles."""


def class_of(kind: str) -> int:
    """Number of the entry of CLASSES."""
    cls = POSTERIORS[kind]
    if facts(cls)["target"].startswith("none"):
        return 2
    return 0 if "islands" in cls.__dataclass_fields__ else 1


def built(kind: str, options: Mapping[str, Any]) -> Any:
    """The sampler, with N particles if it has particles of its own."""
    cls, given = POSTERIORS[kind], dict(options)
    if "ensemble" in given:
        ensemble = cls.__dataclass_fields__["ensemble"].default_factory
        given["ensemble"] = type(ensemble())(**given["ensemble"])
    return cls(**given, **({"n_particles": N} if "n_particles" in cls.__dataclass_fields__ else {}))


def cost(kind: str, options: Mapping[str, Any]) -> tuple[float, float]:
    """Network calls, and backward passes, for each particle or draw and step."""
    prior, likelihood, _ = half_observed(DIMENSION)
    counted = Opaque(prior)
    built(kind, options)(counted, likelihood, LogSNR(STEPS, 100.0, 0.01)(EDM()), N, Stream(0))
    return counted.calls / (N * STEPS), counted.passes[0] / (N * STEPS)


def row(ax: Axes, y: float, when: str, kind: str, options: Mapping[str, Any]) -> None:
    """One sampler: a filled mark for its calls, an open one for calls and backward passes."""
    style = {"color": colour(class_of(kind)), "markersize": 7, "zorder": 3}
    ax.text(WHEN, y, when, va="center", fontsize=9, color=INK)
    name = f"{kind}, {options['twist']}" if "twist" in options else kind
    ax.text(0.62, y, name, ha="right", va="center", fontsize=9, color=colour(class_of(kind)), family="monospace")
    if kind in NO_NETWORK:
        ax.text(0.8, y, NO_NETWORK[kind], va="center", fontsize=8.5, color=FAINT)
        return
    calls, passes = cost(kind, options)
    ax.plot([calls, calls + passes], [y, y], linewidth=1.4, **{**style, "zorder": 2})
    ax.plot(calls, y, "o", **style)
    if passes > 0.05:
        ax.plot(calls + passes, y, "o", markerfacecolor="white", **style)
    print(f"{kind:24} {calls:6.2f} calls {passes:6.2f} passes   {CLASSES[class_of(kind)]}")


def draw() -> Axes:
    """All samplers, in groups by what is wanted."""
    (ax,) = panels(1, 9.6, 6.6)
    y = 0.0
    for wanted, samplers in TABLE.items():
        ax.text(LEFT, y - 0.5 * (len(samplers) - 1), wanted, va="center", fontsize=9.5, color=INK, fontweight="bold")
        for when, kind, options in samplers:
            row(ax, y, when, kind, options)
            y -= 1
        ax.axhline(y + 0.1, color=FAINT, linewidth=0.4)
        y -= 0.8
    for number, name in enumerate(CLASSES):
        ax.plot([], [], "o", color=colour(number), label=name)
    ax.plot([], [], "o", color=FAINT, markerfacecolor="white", label="with backward passes")
    ax.set_xscale("log")
    ax.set_xlim(LEFT, 16)
    ax.set_ylim(y + 0.6, 0.9)
    ax.set_xticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
    ax.minorticks_off()
    ax.set_yticks([])
    note = (
        "what you want, what decides, what to take, and its network calls for each particle and step,\n"
        f"counted on a Gaussian of {DIMENSION} numbers, half of them measured; several models are two, calls of both"
    )
    dress(ax, "Which particle sampler", note, "network calls for each particle and step")
    ax.spines["left"].set_visible(False)
    options = {"fontsize": 8.5, "frameon": False, "labelcolor": INK, "handletextpad": 0.2, "columnspacing": 1.2}
    ax.legend(loc="upper right", bbox_to_anchor=(1, -0.09), ncols=4, **options)
    return ax


if __name__ == "__main__":
    torch.set_num_threads(1)
    draw().figure.savefig(ROOT / "docs/images/particle_samplers.png")
