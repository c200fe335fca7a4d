"""Forecasts: a score against lead time, energy spectra, and a field in space and time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from sciflow.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def score_by_lead(
    lead: ArrayLike,
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    reference: str = "",
    goal: tuple[float, float] | None = None,
    quantity: str = "CRPS",
    unit: str = "1",
    note: str = "lower is better",
    has_legend: bool = True,
    clock: str = "lead time",
    title: str = "Score against lead time",
    ax: Axes | None = None,
) -> Axes:
    """A score of each forecast against lead time, with bands of ± 2 standard errors.

    Exactness: draws the numbers it is given
    Cost: one curve and band for each forecast
    Bias: none; bands are those of each curve alone: differences between forecasts of the same truths are surer

    Args:
        lead: (time,).
        curves: name → (value, stderr), each (time,), in `unit`.
        reference: the name of the curve that is drawn in black.
        goal: an interval that is good, drawn in grey; None draws none.
        quantity: what the score is.
        unit: its unit.
        note: what is good.
        has_legend: beside the Axes.
        clock: what the time is counted as.
        title: heading.
        ax: where to draw; None makes a Figure.
    """
    ax = style.axes(ax, 6.4, 3.8)
    x = np.asarray(lead, dtype=float)
    if goal is not None:
        ax.axhspan(*goal, color=style.BAND, linewidth=0, zorder=0)
        ax.axhline(sum(goal) / 2, color=style.FAINT, linewidth=0.8, zorder=0)
    others = [name for name in curves if name != reference]
    for name, (value, stderr) in curves.items():
        is_reference = name == reference
        colour = style.INK if is_reference else style.colour(others.index(name))
        look: dict[str, Any] = {"linestyle": (0, (4, 2))} if is_reference else {}
        mark = "" if is_reference else style.marker(others.index(name))
        y, width = np.asarray(value, dtype=float), style.ERRORS * np.asarray(stderr, dtype=float)
        ax.fill_between(x, y - width, y + width, color=colour, alpha=0.1, linewidth=0)
        ax.plot(x, y, color=colour, marker=mark, markersize=4.5, linewidth=1.5, label=name, **look)
    if all(np.nanmin(np.asarray(value, dtype=float)) >= 0 for value, _ in curves.values()):
        ax.set_ylim(bottom=0)
    shaded = f"shaded: ± {style.ERRORS} standard errors, clustered by trajectory; {note}"
    style.dress(ax, title, shaded, clock, style.label(quantity, unit))
    if has_legend:
        style.legend(ax, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)
    return ax


def spectra(
    curves: Mapping[str, ArrayLike],
    truth: ArrayLike,
    *,
    unit: str = "1",
    floor: float = 1e-9,
    title: str = "Energy at each scale",
    ax: Axes | None = None,
) -> Axes:
    """Mean energy spectra of forecasts and of the truth, over shells of wavenumbers 1, 2, ….

    Exactness: draws the numbers it is given
    Cost: one curve for each forecast
    Bias: none

    Args:
        curves: name → energy of shell 0, 1, …, (shell,), in `unit` squared.
        truth: the same of the truth.
        unit: of the field.
        floor: share of the truth's largest energy below which nothing is shown.
        title: heading.
        ax: where to draw; None makes a Figure.
    """
    ax = style.axes(ax, 6.4, 3.8)
    exact = np.asarray(truth, dtype=float)
    shells = np.arange(1, len(exact))
    lowest = floor * float(exact[1:].max())
    for index, (name, curve) in enumerate(curves.items()):
        energy = np.asarray(curve, dtype=float)[1:]
        shown = np.where(energy > lowest, energy, np.nan)
        look: dict[str, Any] = {"color": style.colour(index), "marker": style.marker(index)}
        ax.plot(shells, shown, markersize=3.5, linewidth=1.3, label=name, **look)
    shown = np.where(exact[1:] > lowest, exact[1:], np.nan)
    ax.plot(shells, shown, color=style.INK, linewidth=1.6, linestyle=(0, (4, 2)), label="truth")
    ax.set_xscale("log")
    ax.set_yscale("log")
    energy_unit = "1" if unit == "1" else f"({unit})²"
    style.dress(ax, title, "on the dashed line is right", "wavenumber", style.label("energy", energy_unit))
    style.legend(ax, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)
    return ax


def space_time(
    x: ArrayLike,
    time: ArrayLike,
    field: ArrayLike,
    *,
    limits: tuple[float, float] | None = None,
    is_spread: bool = False,
    names: Sequence[str] = ("x", "time"),
    unit: str = "1",
    title: str = "A field in space and time",
    ax: Axes | None = None,
) -> Axes:
    """A field on a line as a picture, time upwards, each stored field a row of its own.

    Exactness: draws the numbers it is given, without interpolation
    Cost: one picture
    Bias: none

    Args:
        x: places, (place,), equidistant.
        time: (time,), equidistant.
        field: (time, place), in `unit`.
        limits: of the colours; None takes those of the field.
        is_spread: a standard deviation, in colours of its own from 0 on.
        names: of the axes.
        unit: of the field.
        title: heading.
        ax: where to draw; None makes a Figure.
    """
    ax = style.axes(ax, 3.2, 2.6)
    values = np.asarray(field, dtype=float)
    place, clock = np.asarray(x, dtype=float), np.asarray(time, dtype=float)
    dx, dt = (float(axis[1] - axis[0]) if len(axis) > 1 else 1.0 for axis in (place, clock))
    low, high = limits or ((0.0, float(values.max())) if is_spread else (float(values.min()), float(values.max())))
    image = ax.imshow(
        values, origin="lower", aspect="auto", interpolation="nearest", vmin=low, vmax=max(high, low + 1e-12),
        cmap=style.SPREAD if is_spread else style.SIGNED,
        extent=(place[0] - dx / 2, place[-1] + dx / 2, clock[0] - dt / 2, clock[-1] + dt / 2),
    )  # fmt: skip
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.05, pad=0.03)
    bar.ax.tick_params(labelsize=7.5, color=style.FAINT, labelcolor=style.INK, width=0.6)
    bar.outline.set_visible(False)
    return style.dress(ax, title, "" if unit == "1" else f"in {unit}", names[0], names[1])
