"""What is good? Close to the truth, and as uncertain as it is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sciflow.data.arrays import from_xarray, to_xarray
from sciflow.domains.protocol import Findings, Row
from sciflow.errors import InputError
from sciflow.inverse.likelihood import LikelihoodModel
from sciflow.metrics import METRICS
from sciflow.metrics.calibration import coverage_curve, rank_counts, snap
from sciflow.random import Stream

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["LEAST_MEMBERS", "METRICS", "evaluate"]

EVENT = ("channel", "y", "x")
WHOLE = ("psnr", "ssim", "rmse", "energy_score")  # of whole images; the others look where something had to be inferred
LEAST_MEMBERS = 2  # spread, ranks and intervals need two draws
RANKED = ("coverage", "rank_histogram")
MOST_LEVELS = 256  # data with at most so many values are grey levels, and draws are rounded to them before ranking


def inferred(data: xr.Dataset) -> Tensor:
    """Which elements had to be inferred: not measured directly, and not constant over the training images.

    Bool, (observation, *event). Without a mask of measured pixels every varying element counts.
    """
    train = from_xarray(data["data"][data["split"].to_numpy() == "train"], ("sample", *EVENT))
    varies = train.amax(0) > train.amin(0)
    if "operator_mask" not in data.variables:
        return varies.expand(data.sizes["observation"], *varies.shape)
    return (from_xarray(data["operator_mask"]) == 0) & varies


def grey_levels(data: xr.Dataset) -> Tensor | None:
    """The values that the data take, if they are few."""
    values = np.unique(data["data"].to_numpy())
    return torch.as_tensor(values) if 2 <= len(values) <= MOST_LEVELS else None


def evaluate(
    names: Sequence[str], data: xr.Dataset, samples: xr.Dataset, likelihood: LikelihoodModel, stream: Stream
) -> Findings:
    """Scores of every posterior against the truth, and the arrays behind the calibration figures.

    Raises:
        InputError: there is no truth to compare with.
    """
    if "truth" not in data.variables:
        raise InputError("data.nc holds no `truth`: nothing can be scored. Leave `evaluate` out for measured data.")
    truth, mask = from_xarray(data["truth"], ("observation", *EVENT)), inferred(data)
    levels, unit = grey_levels(data), data["truth"].attrs.get("units", "1")
    rows, arrays = [], {}
    for name in samples["posterior"].to_numpy().tolist():
        drawn = from_xarray(samples["samples"].sel(posterior=name), ("observation", "member", *EVENT))
        ranked = drawn if levels is None else snap(drawn, levels)
        for metric in names:
            given = ranked if metric in RANKED else drawn
            scores = METRICS[metric](
                truth, given, mask=None if metric in WHOLE else mask, stream=stream.child(metric), unit=unit
            )
            rows += [Row(str(name), key, score) for key, score in scores.items()]
        arrays[name] = _curves(truth, ranked, mask, stream)
    return Findings(rows, _named(arrays))


def _curves(truth: Tensor, samples: Tensor, mask: Tensor, stream: Stream) -> dict[str, Tensor]:
    curve = coverage_curve(truth, samples, mask=mask, stream=stream.child("coverage"))
    ranks = rank_counts(truth, samples, mask=mask, stream=stream.child("rank_histogram"))
    return {
        "level": curve.levels, "coverage": curve.coverage, "coverage_stderr": curve.stderr,
        "rank_edge": ranks.edges, "rank_density": ranks.density, "rank_density_stderr": ranks.stderr,
    }  # fmt: skip


def _named(arrays: Mapping[str, Mapping[str, Tensor]]) -> xr.Dataset:
    first = next(iter(arrays.values()))
    per_posterior = {name: "level" for name in ("coverage", "coverage_stderr")}
    per_posterior |= {name: "bin" for name in ("rank_density", "rank_density_stderr")}
    values = {name: torch.stack([found[name] for found in arrays.values()]) for name in per_posterior}
    return to_xarray(
        {**values, "rank_edge": first["rank_edge"]},
        {**{name: ("posterior", dim) for name, dim in per_posterior.items()}, "rank_edge": ("edge",)},
        {"posterior": np.array(list(arrays)), "level": first["level"].numpy()},
    )
