"""What do we show? What was measured, what came out, and whether its uncertainty can be believed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from sciflow.domains.ensembles import ENSEMBLES
from sciflow.domains.protocol import Drawing, Evidence
from sciflow.domains.shown import CALIBRATION, verdicts
from sciflow.figures.gallery import posterior_gallery

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["FIGURES", "verdicts"]

EVENT = ("channel", "y", "x")


def shown_observation(data: xr.Dataset) -> np.ndarray | None:
    """What was measured as images, NaN where nothing was; None if it cannot be shown as one."""
    shape = np.asarray(data["measured"].attrs.get("shape", ())) if "measured" in data.variables else ()
    if "operator_mask" not in data.variables:
        return data["measured"].to_numpy().reshape(-1, *shape) if len(shape) == 3 else None
    mask = data["operator_mask"].transpose("observation", *EVENT).to_numpy().astype(bool)
    images = np.full(mask.shape, np.nan)
    images[mask] = data["measured"].to_numpy().ravel()
    return images


def gallery(evidence: Evidence) -> Drawing:
    """Truth, observation, classical reconstructions, posterior mean, spread and draws of the first posterior."""
    data, samples = evidence.data, evidence.samples["samples"]
    name = str(samples["posterior"].to_numpy()[0])
    shape = data["measured"].attrs.get("shape", ()) if "measured" in data.variables else ()
    classics = evidence.arrays.get("baseline_image")
    ax = posterior_gallery(
        data["truth"].to_numpy() if "truth" in data.variables else None,
        shown_observation(data),
        samples.isel(posterior=0).transpose("observation", "member", *EVENT).to_numpy(),
        unit=data["data"].attrs.get("units", "1"),
        others={}
        if classics is None
        else {str(kind): classics.sel(baseline=kind).to_numpy() for kind in classics["baseline"].to_numpy()},
    )
    if "operator_mask" in data.variables:
        said = "The draws agree where pixels were measured and differ where they had to be inferred: their"
    else:
        said = "The draws agree on what the measurement and the prior together determine, and differ in the rest: their"
    if len(shape) == 3 and "operator_mask" not in data.variables:
        said = "What was measured has a grid and a grey scale of its own. " + said
    rows = "Each row is one held-out image." if samples.sizes["observation"] > 1 else "One held-out image."
    return Drawing(ax, f"Sampler: {name}. {rows} {said} standard deviation is the uncertainty.")


FIGURES: dict[str, Callable[[Evidence], Drawing | None]] = {"posterior_gallery": gallery, **CALIBRATION, **ENSEMBLES}
