"""What is good? Close to the truth, and as uncertain as it is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sciflow.data.arrays import from_xarray, to_xarray
from sciflow.domains.imaging.baselines import baselines
from sciflow.domains.protocol import Findings, Row
from sciflow.domains.recorded import log_likelihoods
from sciflow.domains.scored import LEAST_MEMBERS, WHOLE, Metrics, Scores
from sciflow.errors import InputError
from sciflow.inverse.likelihood import LikelihoodModel
from sciflow.metrics.particle import log_evidence
from sciflow.random import Stream

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["LEAST_MEMBERS", "METRICS", "evaluate"]

METRICS = Metrics(own={"log_evidence": log_evidence})
NUMBERS = ("log_evidence", "log_evidence_stderr", "log_evidence_stderr_islands")
NOTE = "one image"
POINT = ("psnr", "ssim", "rmse", "crps")  # what scores one image; its fair CRPS is its mean absolute error
EVENT = ("channel", "y", "x")
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
    names: Sequence[str], data: xr.Dataset, samples: xr.Dataset, likelihood: LikelihoodModel, stream: Stream,
    shown: Sequence[str] | None = None,
) -> Findings:  # fmt: skip
    """Scores of every posterior against the truth, beside classical reconstructions where the operator has some.

    Raises:
        InputError: there is no truth to compare with.
    """
    if "truth" not in data.variables:
        raise InputError("data.nc holds no `truth`: nothing can be scored. Leave `evaluate` out for measured data.")
    truth = from_xarray(data["truth"], ("observation", *EVENT))
    names_drawn = samples["posterior"].to_numpy().tolist()
    dims = ("observation", "member", *EVENT)
    draws = {name: from_xarray(samples["samples"].sel(posterior=name), dims) for name in names_drawn}
    unit = data["truth"].attrs.get("units", "1")
    shown = names if shown is None else shown
    mask = inferred(data)
    fit = partial(log_likelihoods, likelihood, data)
    scores = Scores(truth, draws, mask, stream, unit, grey_levels(data), fit)
    rows = [row for n in names for row in (_evidence(samples) if n == "log_evidence" else scores.rows(n))]
    found = scores.calibration(shown)
    classics = baselines(likelihood, data, truth) if shown else {}
    rows += found.rows
    for name, images in classics.items():
        rows += _of_one_image(name, [n for n in shown if n in POINT], truth, images.to(truth.dtype), mask, unit)
    return Findings(rows, found.arrays.merge(_named(classics)) if classics else found.arrays)


def _of_one_image(
    name: str, metrics: Sequence[str], truth: Tensor, images: Tensor, mask: Tensor, unit: str
) -> list[Row]:
    """Rows of a reconstruction that has no spread."""
    twice = images[:, None].expand(-1, LEAST_MEMBERS, *images.shape[1:])
    rows = []
    for metric in metrics:
        scores = METRICS[metric](truth, twice, mask=None if metric in WHOLE else mask, stream=None, unit=unit)
        rows += [Row(name, key, replace(value, note=NOTE)) for key, value in scores.items()]
    return rows


def _named(classics: Mapping[str, Tensor]) -> xr.Dataset:
    dims = {"baseline_image": ("baseline", "observation", *EVENT)}
    return to_xarray(
        {"baseline_image": torch.stack(list(classics.values()))}, dims, {"baseline": np.array([*classics])}
    )


def _evidence(samples: xr.Dataset) -> list[Row]:
    """One row for each sampler that gives an evidence."""
    rows = []
    for name in samples["posterior"].to_numpy().tolist():
        numbers = (from_xarray(samples[key].sel(posterior=name)) for key in NUMBERS if key in samples)
        rows += [Row(str(name), key, score) for key, score in log_evidence(*numbers).items()]
    return rows
