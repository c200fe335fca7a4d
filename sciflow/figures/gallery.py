"""Pictures of a posterior: truth, observation, mean, standard deviation and single draws, one row for each case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from sciflow.errors import InputError
from sciflow.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.image import AxesImage

GAP, FOOT = 0.08, 0.5
"""Space between tiles, and below them for the colour bars, in tiles."""
TILE = 1.0
"""Side of a tile in inches."""
LARGE, HEADING = 128, 0.14
"""Pixels from which a single case is shown in two rows of tiles twice as large, and the room of their headings."""


def posterior_gallery(
    truth: ArrayLike | None,
    observation: ArrayLike | None,
    samples: ArrayLike,
    *,
    unit: str = "1",
    others: Mapping[str, ArrayLike] | None = None,
    n_rows: int = 5,
    n_members: int = 4,
    title: str = "What was measured, and what the posterior makes of it",
    ax: Axes | None = None,
) -> Axes:
    """A mosaic with one row for each observation; hatched grey marks pixels that were not measured.

    One observation of 128 pixels or more stands in two rows of larger tiles.

    Exactness: draws the numbers it is given; mean and standard deviation are over all members, not only those shown
    Cost: one small picture for each tile
    Bias: none

    Args:
        truth: (observation, [channel,] y, x), in `unit`; None leaves the column out.
        observation: (observation, [channel,] y, x), NaN where nothing was measured; with a grid of its own it has a
            grey scale of its own, and is stretched to a tile.
        samples: (observation, member, [channel,] y, x), in `unit`. Several channels are shown as their mean.
        unit: unit of the values.
        others: heading -> reconstructions (observation, [channel,] y, x), shown before the mean.
        n_rows: at most so many observations.
        n_members: at most so many single draws.
        title: heading.
        ax: where to draw; None makes a Figure.
    """
    from matplotlib.colors import Normalize

    draws = np.asarray(samples, dtype=float)[:n_rows]
    columns = _columns(truth, observation, draws, n_members, others or {})
    ratio = columns["mean"].shape[1] / columns["mean"].shape[2]
    per_row, heading, tile = len(columns), 0.0, TILE
    if len(draws) == 1 and min(columns["mean"].shape[1:]) >= LARGE and len(columns) > 5:
        columns["std. dev."] = columns.pop("std. dev.")  # last, above its colour bar
        per_row, heading, tile = -(-len(columns) // 2), HEADING, 2 * TILE
    step = np.array([1 + GAP, ratio + GAP + heading])
    places = [divmod(k, per_row)[::-1] for k in range(len(columns))]
    width, height = step * (per_row, places[-1][1] + len(draws)) - (GAP, GAP + heading)
    ax = style.axes(ax, tile * width + 0.2, tile * (height + FOOT) + 0.65)
    shown = columns.get("truth", columns["mean"])
    scales = {name: Normalize(np.nanmin(shown), np.nanmax(shown)) for name in columns}
    if observation is not None and columns["observed"].shape[1:] != columns["mean"].shape[1:]:
        scales["observed"] = Normalize(np.nanmin(columns["observed"]), np.nanmax(columns["observed"]))
    rounding = max(1e-3 * float(np.nanmax(shown) - np.nanmin(shown)), 1e-12)  # draws that are all alike: no spread
    scales["std. dev."] = Normalize(0, max(float(columns["std. dev."].max()), rounding))
    images = {}
    for place, (name, tiles) in zip(places, columns.items(), strict=True):
        colours = style.SPREAD if name == "std. dev." else style.VALUES
        left, top = step * place
        for row, picture in enumerate(tiles):
            corner = np.array([left, top + step[1] * row])
            images[name] = _tile(ax, picture, corner, ratio, colours, scales[name])
        ax.text(left + 0.5, top - 0.06, name, ha="center", va="bottom", fontsize=9, color=style.INK)
    ax.set(xlim=(0, width), ylim=(height + FOOT, 0), aspect="equal", anchor="NW")
    style.dress(ax, title, "\n")
    ax.set_axis_off()
    spread = places[list(columns).index("std. dev.")][0] * step[0]
    _foot(ax, images, spread, height, unit)
    is_missing = any(np.isnan(tiles).any() for tiles in columns.values())
    note = "hatched: not measured\n" * is_missing + f"mean and std. dev. over all {draws.shape[1]} draws"
    end = width if spread + 1 < width - GAP else spread - GAP  # beside the bar of the spread, not on it
    ax.text(end, height + 0.12, note, ha="right", va="top", fontsize=8, color=style.FAINT)
    return ax


def _columns(
    truth: ArrayLike | None,
    observation: ArrayLike | None,
    draws: np.ndarray,
    n_members: int,
    others: Mapping[str, ArrayLike],
) -> dict[str, np.ndarray]:
    """Heading -> pictures (row, y, x), from left to right."""
    n, members = draws.shape[:2]
    columns = {} if truth is None else {"truth": _pictures(truth, n)}
    if observation is not None:
        columns["observed"] = _pictures(observation, n)
    columns |= {name: _pictures(images, n) for name, images in others.items()}
    columns["mean"] = _pictures(draws.mean(1), n)
    columns["std. dev."] = _pictures(draws.std(1, ddof=min(1, members - 1)), n)
    return columns | {f"draw {m + 1}": _pictures(draws[:, m], n) for m in range(min(n_members, members))}


def _pictures(values: ArrayLike, n: int) -> np.ndarray:
    """The first n pictures, (n, y, x): channels averaged."""
    pictures = np.asarray(values, dtype=float)[:n]
    if pictures.ndim not in (3, 4):
        raise InputError(
            f"posterior_gallery needs pictures ([channel,] y, x), got events of shape {pictures.shape[1:]}. "
            "Leave it out of `report.figures`."
        )
    return pictures.mean(1) if pictures.ndim == 4 else pictures


def _tile(
    ax: Axes, picture: np.ndarray, corner: np.ndarray, height: float, colours: str, scale: Normalize
) -> AxesImage:
    """One picture, one unit wide, with its upper left corner at `corner`; missing pixels hatched."""
    from matplotlib.patches import Rectangle

    x, y = corner
    if np.isnan(picture).any():
        look: dict[str, Any] = {"facecolor": "#c9d3dc", "edgecolor": "#9fb0be", "hatch": "/////", "linewidth": 0}
        ax.add_patch(Rectangle((x, y), 1, height, **look))
    extent = (x, x + 1, y + height, y)
    return ax.imshow(picture, cmap=colours, norm=scale, extent=extent, interpolation="nearest", zorder=2)


def _foot(ax: Axes, images: dict[str, AxesImage], place: float, height: float, unit: str) -> None:
    """The colour bars, each below the columns whose colours it explains."""
    _bar(ax, images["std. dev."], place, 1.0, height, style.label("std. dev.", unit))
    _bar(ax, images["mean"], 0.0, max(1.0, place - 1 - 2 * GAP), height, style.label("value", unit))


def _bar(ax: Axes, image: AxesImage, x: float, width: float, height: float, name: str) -> None:
    """A colour bar below the mosaic, under the columns whose colours it explains."""
    from matplotlib.ticker import MaxNLocator

    whole, total = ax.get_xlim()[1], height + FOOT
    frame = ax.inset_axes((x / whole, (FOOT - 0.2) / total, width / whole, 0.08 / total))
    bar = ax.figure.colorbar(image, cax=frame, orientation="horizontal", ticks=MaxNLocator(4 if width > 1 else 3))
    bar.set_label(name, fontsize=8, color=style.INK, labelpad=1)
    bar.ax.tick_params(labelsize=7, width=0.6, length=2, pad=1.5)
    bar.outline.set_visible(False)
