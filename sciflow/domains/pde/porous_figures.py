"""Figures of porous squares: what sensors read, and what each sampler makes of it. y goes up in all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sciflow.data.arrays import from_xarray
from sciflow.domains.pde.porous import is_porous, log_permeability
from sciflow.domains.protocol import Drawing, Evidence, unmarked
from sciflow.figures import style
from sciflow.inverse.darcy import outflow, pressure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

MOST_ROWS, MOST_SAMPLERS = 4, 2
MOST_SOLVED = 48  # draws whose pressures are computed
FLOW = "viridis"


def _fields(evidence: Evidence) -> dict[str, torch.Tensor]:
    """Log-permeabilities that each sampler drew, (observation, member, y, x)."""
    data, samples, found = evidence.data, evidence.samples["samples"], {}
    for name in samples["posterior"].to_numpy().tolist()[:MOST_SAMPLERS]:
        drawn = from_xarray(samples.sel(posterior=name), ("observation", "member", "mode"))[:MOST_ROWS]
        found[str(name)] = log_permeability(data, drawn.double())
    return found


def _truth(evidence: Evidence, name: str) -> np.ndarray:
    return evidence.data[name].transpose("observation", "y", "x").to_numpy()[:MOST_ROWS]


def _map(ax: Axes, field: np.ndarray, title: str, limits: tuple[float, float], colours: str) -> AxesImage:
    """One field on the unit square, y upwards."""
    shown: dict[str, Any] = {"origin": "lower", "extent": (0, 1, 0, 1), "cmap": colours}
    image = ax.imshow(field, vmin=limits[0], vmax=limits[1], **shown)
    style.dress(ax, title)
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)
    return image


def _bar(image: AxesImage, axes: Sequence[Axes], name: str) -> None:
    bar = axes[0].figure.colorbar(image, ax=list(axes), label=name, shrink=0.8, aspect=18, pad=0.01)
    bar.outline.set_visible(False)


def permeability(evidence: Evidence) -> Drawing | None:
    """Truth, and mean, spread and a draw of each sampler, of some log-permeabilities; nothing for other data."""
    if not is_porous(evidence.data):
        return None
    draws = {name: fields.numpy() for name, fields in _fields(evidence).items()}
    truth = _truth(evidence, "log_permeability")
    size = max(float(np.abs(truth).max()), max(float(np.abs(drawn.mean(1)).max()) for drawn in draws.values()))
    widest = max(float(drawn.std(1, ddof=1).max()) for drawn in draws.values())
    axes = np.array(style.grid(len(truth), 1 + 3 * len(draws), 1.75, 1.7)).reshape(len(truth), -1)
    for row, field in enumerate(truth):
        value = _map(axes[row, 0], field, "truth" * (row == 0), (-size, size), style.SIGNED)
        axes[row, 0].set_ylabel(f"square {row + 1}", fontsize=9.5, color=style.INK)
        for k, (name, drawn) in enumerate(draws.items()):
            of = f"{unmarked(name)}:\n" if row == 0 else ""
            mean, spread, one = axes[row, 1 + 3 * k : 4 + 3 * k]
            _map(mean, drawn[row].mean(0), of and f"{of}mean", (-size, size), style.SIGNED)
            wide = _map(spread, drawn[row].std(0, ddof=1), of and f"{of}std. dev.", (0, widest), style.SPREAD)
            spread.scatter(evidence.data["sensor_x"], evidence.data["sensor_y"], s=3, c="w", lw=0)
            _map(one, drawn[row, 0], of and f"{of}a draw", (-size, size), style.SIGNED)
    _bar(wide, axes.ravel().tolist(), "std. dev.")
    _bar(value, axes.ravel().tolist(), "log-permeability")
    return Drawing(
        axes[0, 0],
        "Each row is one porous square: the true log-permeability, then of each sampler the mean of its draws, their "
        "standard deviation, with the sensors as dots, and one draw. Sensors read pressures alone: they tell long "
        "waves of the permeability, and leave open what is finer than their distance and what lies in the corners, "
        "where hardly anything flows. A sampler whose standard deviation is small where its mean misses the truth is "
        "over-confident.",
    )


def pressures(evidence: Evidence) -> Drawing | None:
    """True pressures with the readings, and those of the draws; nothing for other data."""
    data = evidence.data
    if not is_porous(data):
        return None
    truth, fields = _truth(evidence, "pressure"), _fields(evidence)
    source = float(outflow(torch.as_tensor(_truth(evidence, "log_permeability")).exp(), torch.as_tensor(truth)).mean())
    flows = {
        name: torch.stack([pressure(row[:MOST_SOLVED].exp(), source) for row in drawn]).numpy()
        for name, drawn in fields.items()
    }
    axes = np.array(style.grid(len(truth), 1 + 2 * len(flows), 2.0, 1.85)).reshape(len(truth), -1)
    for row, field in enumerate(truth):
        seen = data["measured"].isel(observation=row).to_numpy()
        limits = (0.0, max(float(one.max()) for one in (field, seen, *(flow[row].mean(0) for flow in flows.values()))))
        widest = max(float(flow[row].std(0, ddof=1).max()) for flow in flows.values())
        value = _map(axes[row, 0], field, "truth, readings" * (row == 0), limits, FLOW)
        rings: dict[str, Any] = {"vmin": limits[0], "vmax": limits[1], "cmap": FLOW, "s": 26, "ec": "w", "lw": 0.8}
        axes[row, 0].scatter(data["sensor_x"], data["sensor_y"], c=seen, **rings)
        axes[row, 0].set_ylabel(f"square {row + 1}", fontsize=9.5, color=style.INK)
        for k, (name, flow) in enumerate(flows.items()):
            of = f"{unmarked(name)}:\n" if row == 0 else ""
            mean, spread = axes[row, 1 + 2 * k : 3 + 2 * k]
            _map(mean, flow[row].mean(0), of and f"{of}mean", limits, FLOW)
            wide = _map(spread, flow[row].std(0, ddof=1), of and f"{of}std. dev.", (0, widest), style.SPREAD)
        _bar(wide, axes[row].tolist(), "std. dev.")
        _bar(value, axes[row].tolist(), "pressure")
    return Drawing(
        axes[0, 0],
        "Pressure of the fluid, zero on the walls, each square with a scale of its own: the true field, and in white "
        "rings what sensors read of it, with noise; then mean and standard deviation of the pressures that the draws "
        "of each sampler lead to. High plateaus mean that the fluid gets away slowly: low permeability. Draws that "
        "explain the readings have the pressures of the truth, though their permeabilities differ.",
    )


FIGURES: dict[str, Callable[[Evidence], Drawing | None]] = {"permeability": permeability, "pressures": pressures}
