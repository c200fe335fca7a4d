"""What is good for paths? Near the truth at each time, and as uncertain as wrong; the evidence beside a reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sciflow.data.arrays import from_xarray, to_xarray
from sciflow.domains import filtered
from sciflow.domains.protocol import Findings, Row
from sciflow.metrics.better import LESS, Direction
from sciflow.metrics.calibration import rank_counts, rank_histogram
from sciflow.metrics.ensemble import crps, spread_skill
from sciflow.metrics.field import rmse
from sciflow.metrics.score import Score
from sciflow.random import Stream

if TYPE_CHECKING:
    import xarray as xr

EVENT = ("time", "coordinate")
FREE, REFERENCE = "no measurements", filtered.REFERENCE


@dataclass(frozen=True)
class Paths:
    """The truths of a twin experiment.

    Args:
        truth: (observation, time, coordinate).
        unmeasured: true where nothing was measured, like truth.
        stream: for ranks.
        evidence: log Ẑ of the sampler "reference", (observation,), where there is one.
    """

    truth: Tensor
    unmeasured: Tensor
    stream: Stream
    evidence: Tensor | None = None


def _rmse(known: Paths, x: Tensor, numbers: Mapping[str, Tensor]) -> dict[str, Score]:
    """Root mean square error of the mean of paths, over all times, and where nothing was measured.

    Exactness: as `sciflow.metrics.rmse`
    Cost: O(members × elements)
    Bias: upward by the spread over the members
    Source: definition.
    """
    found = rmse(known.truth, x)
    if bool(known.unmeasured.any()):
        found["rmse_unmeasured"] = rmse(known.truth, x, mask=known.unmeasured)["rmse"]
    return found


def _crps(known: Paths, x: Tensor, numbers: Mapping[str, Tensor]) -> dict[str, Score]:
    """Fair CRPS of every coordinate at every time.

    Exactness: as `sciflow.metrics.crps`
    Cost: O(members log members) for each element
    Bias: none
    Source: Ferro (2014).
    """
    return crps(known.truth, x)


def _spread_skill(known: Paths, x: Tensor, numbers: Mapping[str, Tensor]) -> dict[str, Score]:
    """Spread of the members over the error of their mean: 1 is calibrated, below 1 over-confident.

    Exactness: as `sciflow.metrics.spread_skill`
    Cost: O(members × elements)
    Bias: O(1/paths) of a ratio
    Source: Fortin, Abaza, Anctil and Turcotte (2014).
    """
    return spread_skill(known.truth, x)


def _ranks(known: Paths, x: Tensor, numbers: Mapping[str, Tensor]) -> dict[str, Score]:
    """How far the ranks of the truth among the members are from uniform.

    Exactness: as `sciflow.metrics.rank_histogram`
    Cost: O(members × elements)
    Bias: none; the times of one path are one observation
    Source: Hamill (2001).
    """
    return rank_histogram(known.truth, x, stream=known.stream.child("ranks"))


def _log_evidence(known: Paths, x: Tensor, numbers: Mapping[str, Tensor]) -> dict[str, Score]:
    return filtered.log_evidence(numbers, known.evidence)


def _ess(known: Paths, x: Tensor, numbers: Mapping[str, Tensor]) -> dict[str, Score]:
    return filtered.ess_min(numbers)


_log_evidence.__doc__, _ess.__doc__ = filtered.log_evidence.__doc__, filtered.ess_min.__doc__

METRICS: dict[str, Callable[[Paths, Tensor, Mapping[str, Tensor]], dict[str, Score]]] = {
    "rmse": _rmse,
    "crps": _crps,
    "spread_skill": _spread_skill,
    "rank_histogram": _ranks,
    "log_evidence": _log_evidence,
    "ess_min": _ess,
}
BETTER: dict[str, Mapping[str, Direction]] = {
    "rmse": {"rmse": LESS, "rmse_unmeasured": LESS},
    **filtered.BETTER,
}


def evaluate(
    names: Sequence[str], data: xr.Dataset, samples: xr.Dataset, stream: Stream, shown: Sequence[str]
) -> Findings:
    """How far every filter is from the truth, beside free paths of the model, which know no measurement."""
    truth = from_xarray(data["truth"], ("observation", *EVENT))
    seen = from_xarray(data["operator_mask"], ("observation", *EVENT)) if "operator_mask" in data else torch.ones(())
    drawn = {
        str(name): from_xarray(samples["samples"].sel(posterior=name), ("observation", "member", *EVENT))
        for name in samples["posterior"].to_numpy()
    }
    numbers = {name: filtered.said(samples, name) for name in drawn}
    reference = numbers[REFERENCE]["log_evidence"] if REFERENCE in numbers else None
    known = Paths(truth, (seen == 0).expand(truth.shape), stream, reference)
    free = from_xarray(data["data"], ("sample", *EVENT))
    nothing = torch.full((len(truth),), torch.nan, dtype=torch.float64)
    drawn[FREE], numbers[FREE] = free.expand(len(truth), *free.shape), {"log_evidence": nothing, "ess_min": nothing}
    rows = [
        Row(name, key, score)
        for metric in names
        if metric in METRICS
        for name, x in drawn.items()
        for key, score in METRICS[metric](known, x, numbers[name]).items()
    ]
    return Findings(rows, _arrays(known, drawn, data) if shown else to_xarray({}, {}))


def _arrays(known: Paths, drawn: Mapping[str, Tensor], data: xr.Dataset) -> xr.Dataset:
    """Error and spread of each time, rank histograms, and the mean and spread of every path."""
    ranks, means, spreads, errors = [], [], [], []
    for x in drawn.values():
        ranks.append(rank_counts(known.truth, x, stream=known.stream.child("ranks"), n_bins=16))
        means.append(x.mean(1))
        spreads.append(x.var(1).mean((0, 2)).sqrt())
        errors.append((x.mean(1) - known.truth).square().mean((0, 2)).sqrt())
    deviations = torch.stack([x.std(1) for x in drawn.values()])
    names = ("posterior", "time")
    return to_xarray(
        {
            "error": torch.stack(errors), "spread": torch.stack(spreads), "mean": torch.stack(means),
            "deviation": deviations, "unmeasured": known.unmeasured.to(torch.uint8),
            "rank_density": torch.stack([rank.density for rank in ranks]),
            "rank_density_stderr": torch.stack([rank.stderr for rank in ranks]), "rank_edge": ranks[0].edges,
        },
        {
            "error": names, "spread": names, "mean": ("posterior", "observation", *EVENT),
            "deviation": ("posterior", "observation", *EVENT), "unmeasured": ("observation", *EVENT),
            "rank_density": ("posterior", "bin"), "rank_density_stderr": ("posterior", "bin"), "rank_edge": ("edge",),
        },
        {"posterior": np.array(list(drawn)), "time": data["time"].to_numpy()},
    )  # fmt: skip
