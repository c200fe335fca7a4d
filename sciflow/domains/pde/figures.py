"""What do we show? The field at the start and at the end, with sensors, truth and the exact posterior's width."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from sciflow.domains.ensembles import ENSEMBLES
from sciflow.domains.pde import detector_figures, forecast_figures, porous_figures
from sciflow.domains.pde.evolve import EVENT
from sciflow.domains.protocol import Drawing, Evidence, unmarked
from sciflow.domains.shown import CALIBRATION
from sciflow.domains.shown import verdicts as coverage_verdicts
from sciflow.figures import style
from sciflow.figures.bands import field_band

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["FIGURES", "verdicts"]


def readings(data: xr.Dataset, time: float) -> tuple[np.ndarray, np.ndarray] | None:
    """Places and values that sensors read of the first observation at this time; None if there are none."""
    if "sensor_x" not in data.variables:
        return None
    now = data["sensor_time"].to_numpy() == time
    places, values = data["sensor_x"].to_numpy()[now], data["measured"].isel(observation=0).to_numpy()[now]
    return (places, values) if now.any() else None


def forecast(evidence: Evidence) -> Drawing | None:
    """The first observation: start and end of the event, for each posterior; nothing for fields in the plane."""
    data, samples = evidence.data, evidence.samples["samples"]
    if data["data"].dims[1:] != EVENT:
        return None
    x, times = data["x"].to_numpy(), data["time"].to_numpy()
    names = samples["posterior"].to_numpy().tolist()
    axes = style.grid(len(names), 2, 5.4, 3.7)
    for row, name in enumerate(names):
        drawn = samples.sel(posterior=name).isel(observation=0).transpose("member", *EVENT).to_numpy()
        for column, index in enumerate((0, len(times) - 1)):
            truth, exact = (
                data[key].isel(observation=0, time=index).to_numpy() if key in data.variables else None
                for key in ("truth", "exact")
            )
            seen = readings(data, float(times[index]))
            title = f"{unmarked(name)}: t = {times[index]:g}"
            field_band(
                x, drawn[:, index], truth=truth, exact=exact, sensors=seen, title=title, ax=axes[2 * row + column]
            )
    handles, labels = axes[0].get_legend_handles_labels()  # sensors may have seen the start alone
    style.legend(axes[1], handles=handles, labels=labels, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return Drawing(axes[0], _said(data, float(times[-1])))


def _said(data: xr.Dataset, end: float) -> str:
    """Who saw what of the start and of the end."""
    if readings(data, end) is None:
        shown = "Left the start, of which sensors saw some places; right the end, of which nobody saw anything: the "
        shown += "forecast. "
    else:
        shown = "Left the start, right the end; dots are what sensors read at these two times, and they read others. "
    shown += "The blue band holds 90 % of the draws at each place"
    if "exact" in data.variables:
        shown += ", the dashed lines 90 % of the exact posterior: a good sampler fills the space between them, no more "
        shown += "and no less"
    return f"One held-out event. {shown}."


def verdicts(evidence: Evidence) -> list[str]:
    """How good each forecast is, and whether its intervals can be believed."""
    return [*forecast_figures.verdicts(evidence), *coverage_verdicts(evidence)]


FIGURES: dict[str, Callable[[Evidence], Drawing | None]] = {
    "forecast": forecast,
    **detector_figures.FIGURES,
    **forecast_figures.FIGURES,
    **porous_figures.FIGURES,
    **CALIBRATION,
    **ENSEMBLES,
}
