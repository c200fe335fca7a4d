"""Figures of what detectors that stay at one place read in the course of time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sciflow.domains.pde.evolve import EVENT
from sciflow.domains.protocol import Drawing, Evidence, unmarked
from sciflow.figures import style
from sciflow.figures.bands import field_band

LEAST_TIMES = 3


def detector(evidence: Evidence) -> Drawing | None:
    """The first observation in the course of time: at the one detector, and half-way to it; nothing for others."""
    data, samples = evidence.data, evidence.samples["samples"]
    if data["data"].dims[1:] != EVENT or "sensor_x" not in data.variables:
        return None
    places, when = data["sensor_x"].to_numpy(), data["sensor_time"].to_numpy()
    if len(np.unique(places)) > 1 or len(np.unique(when)) < LEAST_TIMES:
        return None
    x, times = data["x"].to_numpy(), data["time"].to_numpy()
    at = int(np.abs(x - places[0]).argmin())
    between = int(np.abs(x - (x[0] + x[at]) / 2).argmin())
    names = [str(name) for name in samples["posterior"].to_numpy()]
    axes = style.grid(len(names), 2, 5.4, 3.7)
    for row, name in enumerate(names):
        drawn = samples.sel(posterior=name).isel(observation=0).transpose("member", *EVENT).to_numpy()
        for column, index in enumerate((at, between)):
            truth, exact = (
                data[key].isel(observation=0, x=index).to_numpy() if key in data.variables else None
                for key in ("truth", "exact")
            )
            seen = (when, data["measured"].isel(observation=0).to_numpy()) if index == at else None
            where = f"{unmarked(name)}: {'the detector, ' if index == at else ''}x = {x[index]:g}"
            shown: dict[str, Any] = {
                "truth": truth,
                "exact": exact,
                "sensors": seen,
                "names": ("time", "u"),
                "title": where,
            }
            field_band(times, drawn[:, :, index], **shown, ax=axes[2 * row + column])
    style.legend(axes[0], loc="upper right")
    return Drawing(
        axes[0],
        "One held-out event in the course of time. Left at the detector, with its readings; right half-way to it, "
        "where nobody measured anything: what went by there has to be inferred. The blue band holds 90 % of the draws "
        "at each time.",
    )


FIGURES: dict[str, Callable[[Evidence], Drawing | None]] = {"detector": detector}
