"""Figures of filters: a path beside what was believed of it, spread beside error, and ranks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sciflow.domains.analytic.paths import FREE, REFERENCE
from sciflow.domains.protocol import Drawing, Evidence, unmarked
from sciflow.domains.shown import rank_panels
from sciflow.figures.style import grid, panels
from sciflow.figures.tracks import spread_and_error, track

CALIBRATED = 3  # standard errors
CURVES = 4  # in one panel


def _names(evidence: Evidence) -> list[str]:
    return [str(name) for name in evidence.samples["posterior"].to_numpy()]


def is_of_paths(evidence: Evidence) -> bool:
    return "unmeasured" in evidence.arrays


def tracks(evidence: Evidence) -> Drawing | None:
    """One unmeasured coordinate of one path, as two samplers saw it."""
    if not is_of_paths(evidence):
        return None
    arrays, names = evidence.arrays, _names(evidence)
    chosen = [names[0], names[-1]] if len(names) > 1 else names
    first = arrays.isel(observation=0)
    hidden = first["unmeasured"].to_numpy().astype(bool).all(0)
    place = int(np.flatnonzero(hidden)[0]) if hidden.any() else 0
    axes = panels(len(chosen), 6.0, 3.4)
    truth = evidence.data["truth"].isel(observation=0, coordinate=place).to_numpy()
    for ax, name in zip(axes, chosen, strict=True):
        one = first.sel(posterior=name).isel(coordinate=place)
        mean, deviation = one["mean"].to_numpy(), one["deviation"].to_numpy()
        track(arrays["time"].to_numpy(), truth, mean, deviation, title=unmarked(name), ax=ax)
    low = min(ax.get_ylim()[0] for ax in axes)
    high = max(ax.get_ylim()[1] for ax in axes)
    for ax in axes:
        ax.set_ylim(low, high + 0.15 * (high - low))  # room for the legend
    return Drawing(
        axes[0],
        f"Coordinate {place + 1} of the first path, which was never measured: all that is known of it comes through "
        "the equation. The truth should leave the shaded band about one time in twenty.",
    )


def spreads(evidence: Evidence) -> Drawing | None:
    """Error and spread of every sampler against time."""
    if not is_of_paths(evidence):
        return None
    arrays = evidence.arrays
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = {
        unmarked(name): (one["error"].to_numpy(), one["spread"].to_numpy())
        for name, one in ((name, arrays.sel(posterior=name)) for name in _names(evidence))
    }
    names = list(curves)
    groups = [names[k : k + CURVES] for k in range(0, len(names), CURVES)]
    axes = panels(len(groups), 6.4, 3.8)
    for ax, group in zip(axes, groups, strict=True):
        spread_and_error(arrays["time"].to_numpy(), {name: curves[name] for name in group}, ax=ax)
    top = max(ax.get_ylim()[1] for ax in axes)
    for ax in axes:
        ax.set_ylim(0, 1.1 * top)
    return Drawing(
        axes[0],
        "Root mean square over paths and coordinates. A filter whose dashed line lies below its solid one believes too "
        "much of itself: with too few particles it loses a path and does not know it.",
    )


def ranks(evidence: Evidence) -> Drawing | None:
    """Rank of the truth among the members, one panel for each sampler."""
    if not is_of_paths(evidence):
        return None
    arrays, names = evidence.arrays, _names(evidence)
    rows = -(-len(names) // CURVES)
    cells = grid(rows, -(-len(names) // rows), 3.9, 3.4)
    axes = cells[: len(names)]
    for ax in cells[len(names) :]:
        ax.remove()
    rank_panels(axes, arrays, names)
    return Drawing(
        axes[0],
        "Where the truth falls among the sorted members, over all coordinates and times. Flat is calibrated; high ends "
        "mean that the ensemble is too narrow.",
    )


def verdicts(evidence: Evidence) -> list[str]:
    """Which filters know how wrong they are, and how their evidence compares."""
    rows = {(row["posterior"], row["metric"]): row for row in evidence.rows}
    said = []
    for name in dict.fromkeys(row["posterior"] for row in evidence.rows if row["posterior"] != FREE):
        skill, error = rows.get((name, "spread_skill")), rows.get((name, "rmse"))
        if not skill or not error:
            continue
        off = skill["value"] - 1
        is_fine = abs(off) <= CALIBRATED * skill["stderr"]
        verdict = "as it should be" if is_fine else "over-confident" if off < 0 else "too cautious"
        text = (
            f"{name}: error {error['value']:.2f} ± {error['stderr']:.2f}, spread {skill['value']:.2f} of it, {verdict}."
        )
        gap = rows.get((name, "log_evidence_gap"))
        if gap and name != REFERENCE:
            text += f" Its log-evidence is {gap['value']:+.1f} ± {gap['stderr']:.1f} nats from the reference."
        said.append(text)
    return said


FIGURES: dict[str, Callable[[Evidence], Drawing | None]] = {
    "tracks": tracks,
    "spread_and_error": spreads,
    "rank_histogram": ranks,
}
