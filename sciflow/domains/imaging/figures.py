"""What do we show? What was measured, what came out, and whether its uncertainty can be believed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from sciflow.domains.protocol import Drawing, Evidence, unmarked
from sciflow.figures.calibration import calibration, rank_histogram
from sciflow.figures.gallery import posterior_gallery
from sciflow.figures.loss import loss_curve
from sciflow.figures.style import panels

if TYPE_CHECKING:
    import xarray as xr

EVENT = ("channel", "y", "x")


def shown_observation(data: xr.Dataset) -> np.ndarray | None:
    """What was measured as images, NaN where nothing was; None if it cannot be shown as one."""
    if "operator_mask" not in data.variables:
        return None
    mask = data["operator_mask"].transpose("observation", *EVENT).to_numpy().astype(bool)
    images = np.full(mask.shape, np.nan)
    images[mask] = data["measured"].to_numpy().ravel()
    return images


def gallery(evidence: Evidence) -> Drawing:
    """Truth, observation, posterior mean, spread and single draws of the first posterior."""
    data, samples = evidence.data, evidence.samples["samples"]
    name = str(samples["posterior"].to_numpy()[0])
    ax = posterior_gallery(
        data["truth"].to_numpy() if "truth" in data.variables else None,
        shown_observation(data),
        samples.isel(posterior=0).transpose("observation", "member", *EVENT).to_numpy(),
        unit=data["data"].attrs.get("units", "1"),
    )
    said = (
        "The draws agree where pixels were measured and differ where they had to be inferred: their standard deviation"
    )
    return Drawing(ax, f"Sampler: {name}. Each row is one held-out image. {said} is the uncertainty.")


def coverage(evidence: Evidence) -> Drawing:
    """Coverage of credible intervals against their nominal level."""
    arrays = evidence.arrays
    names = arrays["posterior"].to_numpy().tolist()
    both = arrays[["coverage", "coverage_stderr"]]
    chosen = {unmarked(name): both.sel(posterior=name) for name in names}
    curves = {name: (one["coverage"].to_numpy(), one["coverage_stderr"].to_numpy()) for name, one in chosen.items()}
    ax = calibration(arrays["level"].to_numpy(), curves)
    return Drawing(
        ax,
        "A calibrated posterior lies on the diagonal: its 90 % intervals hold the truth 90 % of the time. Below the "
        "diagonal it is over-confident. Only inferred pixels that vary are counted.",
    )


def ranks(evidence: Evidence) -> Drawing:
    """Rank of the truth among its draws, one panel for each posterior."""
    arrays = evidence.arrays
    names = arrays["posterior"].to_numpy().tolist()
    axes = panels(len(names))
    for ax, name in zip(axes, names, strict=True):
        chosen = arrays.sel(posterior=name)
        density, stderr = chosen["rank_density"].to_numpy(), chosen["rank_density_stderr"].to_numpy()
        rank_histogram(arrays["rank_edge"].to_numpy(), density, stderr, title=unmarked(name), ax=ax)
    return Drawing(
        axes[0],
        "Where the truth falls among the sorted draws. Flat is calibrated; high ends mean that the draws are too "
        "narrow, a hump that they are too wide, a slope that they are shifted.",
    )


def loss(evidence: Evidence) -> Drawing | None:
    """Training and validation loss; nothing for a prior that was not trained here."""
    history = evidence.history
    validation = history.get("validation", {})
    values = history.get("loss", [])
    if not values:
        return None
    ax = loss_curve(np.arange(1, len(values) + 1), values, list(validation), list(validation.values()))
    return Drawing(
        ax,
        "The network's denoising error during training. A validation loss that rises while the training loss falls "
        "would mean that the prior memorises its training images.",
    )


def verdicts(evidence: Evidence) -> list[str]:
    """Whether the credible intervals can be believed."""
    return [
        f"{row['posterior']}: 90 % credible intervals hold the truth in {100 * row['value']:.1f} ± "
        f"{100 * row['stderr']:.1f} % of the inferred pixels ({row['note'].partition('; ')[2] or row['note']})."
        for row in evidence.rows
        if row["metric"] == "coverage_90"
    ]


FIGURES: dict[str, Callable[[Evidence], Drawing | None]] = {
    "posterior_gallery": gallery,
    "calibration": coverage,
    "rank_histogram": ranks,
    "loss_curve": loss,
}
