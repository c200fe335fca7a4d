"""Figures of porous squares: what sensors read, and what it says of the permeability."""

from __future__ import annotations

from collections.abc import Callable

from sciflow.data.arrays import from_xarray
from sciflow.domains.pde.porous import is_porous, log_permeability
from sciflow.domains.protocol import Drawing, Evidence, unmarked
from sciflow.figures import style
from sciflow.figures.gallery import posterior_gallery


def permeability(evidence: Evidence) -> Drawing | None:
    """Truth, posterior mean and spread of the log-permeability for some observations; nothing for other data."""
    data, samples = evidence.data, evidence.samples["samples"]
    if not is_porous(data):
        return None
    name = samples["posterior"].to_numpy().tolist()[0]
    drawn = from_xarray(samples.sel(posterior=name), ("observation", "member", "mode")).double()
    fields = log_permeability(data, drawn).numpy()
    truth = data["log_permeability"].transpose("observation", "y", "x").to_numpy()
    title = f"Log-permeability, {unmarked(name)}"
    ax = posterior_gallery(truth, None, fields, n_rows=4, n_members=3, title=title)
    return Drawing(
        ax,
        "Each row is one porous square: the true log-permeability, the mean of the draws, their standard deviation and "
        "single draws. Sensors read pressures alone; they tell long waves of the permeability, and leave open what is "
        "finer than their distance: there the draws differ.",
    )


def pressures(evidence: Evidence) -> Drawing | None:
    """What the sensors read, in the true field of pressures; nothing for other data."""
    data = evidence.data
    if not is_porous(data):
        return None
    shown = data["pressure"].transpose("observation", "y", "x").to_numpy()[:4]
    axes = style.panels(len(shown), 2.9, 2.7)
    limit = float(max(shown.max(), data["measured"].to_numpy()[: len(shown)].max()))
    for i, (ax, field) in enumerate(zip(axes, shown, strict=True)):
        image = ax.imshow(field, origin="lower", extent=(0, 1, 0, 1), vmin=0, vmax=limit, cmap="viridis")
        seen = data["measured"].isel(observation=i).to_numpy()
        ax.scatter(data["sensor_x"], data["sensor_y"], c=seen, vmin=0, vmax=limit, cmap="viridis", s=36, ec="w", lw=0.9)
        style.dress(ax, f"observation {i}", x="x", y="y" if i == 0 else "")
    axes[-1].figure.colorbar(image, ax=axes, label="pressure", shrink=0.85)
    return Drawing(
        axes[0],
        "Pressure of the fluid, zero on the walls: the true field, and in white rings what sensors read of it, with "
        "noise. High plateaus mean that the fluid gets away slowly: low permeability.",
    )


FIGURES: dict[str, Callable[[Evidence], Drawing | None]] = {"permeability": permeability, "pressures": pressures}
