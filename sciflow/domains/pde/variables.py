"""Scores of each variable of a field by itself, in the unit that its file has it in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sciflow.data.layouts.simulations import EACH_UNIT, SCALE
from sciflow.domains.protocol import Row
from sciflow.metrics.ensemble import crps, spread_skill
from sciflow.metrics.field import rmse
from sciflow.metrics.score import Score

if TYPE_CHECKING:
    import xarray as xr


def by_variable(truth: Tensor, samples: Tensor, units: Mapping[str, tuple[float, str]]) -> dict[str, Score]:
    """Error of the mean, CRPS and spread–skill of each variable by itself; nothing where there is only one.

    The other scores are of all variables together, each over its standard deviation.

    Exactness: as `rmse`, `crps` and `spread_skill`
    Cost: O(members log members) for each element
    Bias: as theirs
    Args:
        truth: (observation, time, variable, *grid).
        samples: (observation, member, time, variable, *grid).
        units: variable → what it was divided by, and its unit.

    Returns:
        `rmse_<variable>` and `crps_<variable>` in its unit, and `spread_skill_<variable>`.

    Source: definition.
    """
    found: dict[str, Score] = {}
    for k, (name, (scale, unit)) in enumerate(units.items()):
        own = scale * truth[:, :, k], scale * samples[:, :, :, k]
        scores = rmse(*own, unit=unit) | crps(*own, unit=unit) | spread_skill(*own)
        found |= {f"{key}_{name}": score for key, score in scores.items()}
    return found


METRICS = {"by_variable": by_variable}


def rows(data: xr.Dataset, truth: Tensor, draws: Mapping[str, Tensor]) -> list[Row]:
    """`by_variable` of every posterior, with what the data say of their variables.

    Args:
        data: with a dim `channel` where there are several variables; `scale` is that of each.
        truth: (observation, time, *field).
        draws: posterior → (observation, member, time, *field).
    """
    if "channel" not in data["truth"].dims:
        return []
    names = [str(name) for name in data["channel"].to_numpy()]
    scales = data[SCALE].to_numpy().tolist() if SCALE in data.coords else [1.0] * len(names)
    known = json.loads(data["channel"].attrs.get(EACH_UNIT, json.dumps(["1"] * len(names))))
    units = dict(zip(names, zip(scales, known, strict=True), strict=True))
    return [
        Row(posterior, key, score)
        for posterior, drawn in draws.items()
        for key, score in by_variable(truth.double(), drawn.to(torch.float64), units).items()
    ]
