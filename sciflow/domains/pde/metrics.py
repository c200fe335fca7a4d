"""What is good? A forecast close to the truth, as uncertain as it is wrong, beside draws of the exact law."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sciflow.data.arrays import from_xarray, to_xarray
from sciflow.data.layouts.simulations import AXES
from sciflow.domains import filtered
from sciflow.domains.pde import variables
from sciflow.domains.pde.porous import EVENT, is_porous, log_permeability
from sciflow.domains.protocol import Findings, Row
from sciflow.domains.scored import LEAST_MEMBERS, Metrics, Scores
from sciflow.errors import InputError
from sciflow.inverse.likelihood import LikelihoodModel
from sciflow.metrics.better import LESS, MORE, Direction
from sciflow.metrics.ensemble import crps, spread_skill
from sciflow.metrics.lead import by_lead, correlation_by_lead, correlation_time, excess_by_lead
from sciflow.metrics.spectrum import energy_spectrum, spectrum_error
from sciflow.random import Stream

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["BETTER", "LEAST_MEMBERS", "METRICS", "evaluate"]

EXACT = "exact draws"
TRAJECTORY: dict[str, Callable[..., Any]] = {
    "correlation_time": correlation_time,
    "spectrum_error": spectrum_error,
}  # look at whole trajectories
BETTER: dict[str, Mapping[str, Direction]] = {
    "correlation_time": {"correlation_time": MORE}, "spectrum_error": {"spectrum_error": LESS}, **filtered.BETTER,
    "by_variable": {},  # its rows are named after the variables of a file
}  # fmt: skip
OWN: dict[str, Callable[..., Any]] = {**TRAJECTORY, **filtered.METRICS, **variables.METRICS}
METRICS = Metrics(own=OWN, without=("psnr", "ssim"))  # without what is made for pictures


def evaluate(
    names: Sequence[str], data: xr.Dataset, samples: xr.Dataset, likelihood: LikelihoodModel, stream: Stream,
    shown: Sequence[str] | None = None,
) -> Findings:  # fmt: skip
    """Scores of the fields after those that were given whole, for every posterior and for draws of the exact law.

    Where none was given, as with measurements in time, all fields are scored, the first too. The exact draws are those
    of the true likelihood, whatever the samples assumed. With several fields to score, the arrays hold scores at each
    lead time, too.

    Raises:
        InputError: there is no truth to compare with.
    """
    if "truth" not in data.variables:
        raise InputError("data.nc holds no `truth`: nothing can be scored. Leave `evaluate` out for measured data.")
    shown = names if shown is None else shown
    if is_porous(data):
        return _permeabilities(names, data, samples, stream, shown)
    event = tuple(map(str, data["truth"].dims[1:]))
    dims = ("observation", "member", *event)
    found = samples["samples"]
    draws = {str(name): from_xarray(found.sel(posterior=name), dims) for name in found["posterior"].to_numpy().tolist()}
    if "exact" in data.variables:
        draws[EXACT] = from_xarray(data["exact"], ("observation", "exact_member", *event))
    truth = from_xarray(data["truth"], ("observation", *event))
    draws = {name: drawn.to(truth.dtype) for name, drawn in draws.items()}
    given = int(data.attrs.get("n_given", 1))
    later = {name: drawn[:, :, given:] for name, drawn in draws.items()}
    mask = torch.ones_like(truth[:, given:], dtype=torch.bool)
    unit = data["truth"].attrs.get("units", "1")
    scores = Scores(truth[:, given:], later, mask, stream, unit)
    clock, n_axes = data["time"].to_numpy().astype(float), sum(axis in event for axis in AXES)
    rows = []
    for name in names:
        if name in filtered.METRICS:
            rows += _of_filters(name, samples)
        elif name in variables.METRICS:
            rows += variables.rows(data, truth[:, given:], later)
        elif name in TRAJECTORY:
            rows += _of_trajectories(name, truth, draws, given, clock, n_axes, stream)
        else:
            rows += scores.rows(name)
    findings = scores.calibration(shown)
    rows += findings.rows
    if truth.shape[1] - given < 2 or not shown:
        return Findings(rows, findings.arrays)
    shapes = curves(truth[:, given:], later, clock[given:] - clock[max(given - 1, 0)], n_axes)
    return Findings(rows, findings.arrays.merge(shapes))


def _of_filters(metric: str, samples: xr.Dataset) -> list[Row]:
    """Rows of what samplers say of themselves; none of those that say nothing."""
    numbers = {str(name): filtered.said(samples, str(name)) for name in samples["posterior"].to_numpy()}
    reference = numbers.get(filtered.REFERENCE, {}).get("log_evidence")
    return [
        Row(name, key, score)
        for name, own in numbers.items()
        for key, score in filtered.METRICS[metric](own, reference).items()
    ]


def _of_trajectories(
    metric: str, truth: Tensor, draws: Mapping[str, Tensor], given: int, clock: np.ndarray, n_axes: int, stream: Stream
) -> list[Row]:
    """Rows of a metric that looks at whole trajectories, from the last given field on.

    A correlation time starts from a field that is known: where none is given, there are no rows of it.
    """
    rows: list[Row] = []
    for name, drawn in draws.items():
        if metric == "correlation_time" and not given:
            continue
        if metric == "correlation_time":
            times = (clock[given - 1 :] - clock[given - 1]).tolist()
            pair = truth[:, given - 1 :], drawn[:, :, given - 1 :]
            found = correlation_time(*pair, times=times, stream=stream.child("correlation_time"))
        else:
            found = spectrum_error(truth[:, given:], drawn[:, :, given:], n_axes=n_axes)
        rows += [Row(name, key, value) for key, value in found.items()]
    return rows


def curves(truth: Tensor, draws: Mapping[str, Tensor], lead: np.ndarray, n_axes: int) -> xr.Dataset:
    """Scores at each lead time and spectra at the last, the arrays behind the figures of a forecast.

    Args:
        truth: (observation, lead, *field).
        draws: posterior → (observation, member, lead, *field).
        lead: times since the last given field, or since the first of all.
        n_axes: axes of the grid, the last ones of a field; spectra are means over the variables before them.
    """
    values: dict[str, list[Tensor]] = {}

    def add(name: str, value: Tensor) -> None:
        values.setdefault(name, []).append(value)

    for drawn in draws.values():
        found = {
            "crps": by_lead(crps, truth, drawn), "spread_skill": by_lead(spread_skill, truth, drawn),
            "correlation": correlation_by_lead(truth, drawn),
        }  # fmt: skip
        if EXACT in draws:
            found["crps_excess"] = excess_by_lead(crps, truth, drawn, draws[EXACT])
        for name, curve in found.items():
            add(f"lead_{name}", curve.value)
            add(f"lead_{name}_stderr", curve.stderr)
        add("lead_spread", drawn.var(1).flatten(2).mean((0, 2)).sqrt())
        add("lead_error", (drawn.mean(1) - truth).square().flatten(2).mean((0, 2)).sqrt())
        add("spectrum", energy_spectrum(drawn[:, :, -1], n_axes).flatten(0, -2).mean(0))
    dims = {name: ("posterior", "shell" if name == "spectrum" else "lead") for name in values}
    return to_xarray(
        {
            **{name: torch.stack(value) for name, value in values.items()},
            "spectrum_truth": energy_spectrum(truth[:, -1], n_axes).flatten(0, -2).mean(0),
        },
        {**dims, "spectrum_truth": ("shell",)},
        {"posterior": np.array(list(draws)), "lead": lead},
    )


def _permeabilities(
    names: Sequence[str], data: xr.Dataset, samples: xr.Dataset, stream: Stream, shown: Sequence[str]
) -> Findings:
    """Scores of the log-permeability at every place."""
    truth = log_permeability(data, from_xarray(data["truth"], ("observation", *EVENT)).double())
    draws = {}
    for name in samples["posterior"].to_numpy().tolist():
        drawn = from_xarray(samples["samples"].sel(posterior=name), ("observation", "member", *EVENT))
        draws[str(name)] = log_permeability(data, drawn.double())
    scores = Scores(truth, draws, torch.ones_like(truth, dtype=torch.bool), stream)
    found = scores.calibration(shown)
    rows = [row for name in names if name not in METRICS.own for row in scores.rows(name)]
    return Findings([*rows, *found.rows], found.arrays)
