"""Forecasts against lead time: a score at each time, and how long a forecast stays correlated with the truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.metrics.score import Score, average, checked
from sciflow.random import Stream

N_BOOT = 1000
LEVEL = 0.95
"""Probability of the bootstrap interval."""


@dataclass(frozen=True)
class Curve:
    """A score at each lead time.

    Args:
        value: (time,).
        stderr: clustered by trajectory, (time,).
    """

    value: Tensor
    stderr: Tensor


def by_lead(
    metric: Callable[..., Mapping[str, Score]], truth: Tensor, samples: Tensor, stream: Stream | None = None
) -> Curve:
    """A metric of one number at each time of its own, with the trajectory as the independent unit.

    Args:
        metric: of the table METRICS, called with the fields of one time.
        truth: (observation, time, *field).
        samples: (observation, member, time, *field).
        stream: for metrics that draw.
    """
    found = [
        next(iter(metric(truth[:, k], samples[:, :, k], stream=stream and stream.child("lead", k)).values()))
        for k in range(truth.shape[1])
    ]
    values, errors = (torch.tensor([getattr(score, name) for score in found]) for name in ("value", "stderr"))
    return Curve(values, errors)


def excess_by_lead(
    metric: Callable[..., Mapping[str, Score]], truth: Tensor, samples: Tensor, reference: Tensor
) -> Curve:
    """How much higher a metric is than that of a reference at each time, trajectory by trajectory.

        mean over trajectories i of [S_i(samples) − S_i(reference)]

    Both forecast the same truths, so that most of the chance cancels in the difference, and its error is that of the
    difference. For metrics that average over trajectories, as `crps` does.

    Args:
        metric: of the table METRICS.
        truth: (observation, time, *field).
        samples, reference: (observation, member, time, *field), with members of their own number.
    """

    def each(drawn: Tensor, i: int, k: int) -> float:
        return next(iter(metric(truth[i : i + 1, k], drawn[i : i + 1, :, k]).values())).value

    n, n_times = truth.shape[:2]
    gaps = [[each(samples, i, k) - each(reference, i, k) for i in range(n)] for k in range(n_times)]
    found = [average(torch.tensor(row, dtype=torch.float64)) for row in gaps]
    return Curve(torch.tensor([s.value for s in found]), torch.tensor([s.stderr for s in found]))


def correlations(truth: Tensor, samples: Tensor) -> Tensor:
    """Pearson's correlation over space of the ensemble mean with the truth, (observation, time).

        r = <(x̄ − <x̄>)(y − <y>)>/√(<(x̄ − <x̄>)²> <(y − <y>)²>)

    A constant field has none, and counts as 0.
    """
    ensemble = checked(truth, samples)
    n, n_times = truth.shape[:2]
    mean = ensemble.samples.mean(1).reshape(n, n_times, -1)
    pair = [field - field.mean(-1, keepdim=True) for field in (mean, ensemble.truth.reshape(n, n_times, -1))]
    norm = pair[0].norm(dim=-1) * pair[1].norm(dim=-1)
    return torch.where(norm > 0, (pair[0] * pair[1]).sum(-1) / norm.clamp_min(1e-300), 0.0)


def time_below(times: Sequence[float], correlation: Tensor, threshold: float) -> Tensor:
    """The first time at which each row falls below the threshold, by linear interpolation; the last if it never does.

    Args:
        times: (time,); the first is that of the given field, where the correlation is 1.
        correlation: (observation, time).
        threshold: in (0, 1).
    """
    clock = torch.as_tensor(times, dtype=torch.float64)
    is_below = correlation < threshold
    index = is_below.to(torch.int8).argmax(1).clamp_min(1)
    rows = torch.arange(len(correlation))
    before, after = correlation[rows, index - 1], correlation[rows, index]
    share = ((before - threshold) / (before - after).clamp_min(1e-300)).clamp(0, 1)
    crossing = clock[index - 1] + share * (clock[index] - clock[index - 1])
    return torch.where(is_below.any(1), crossing, clock[-1])


def correlation_time(
    truth: Tensor,
    samples: Tensor,
    *,
    times: Sequence[float] | None = None,
    threshold: float = 0.8,
    stream: Stream | None = None,
    mask: Tensor | None = None,
    unit: str = "1",
) -> dict[str, Score]:
    """How long the ensemble mean stays correlated with the truth: median over trajectories of the first time below 0.8.

        τ_i = min {t: r_i(t) < threshold},   median over i, with a bootstrap over trajectories

    Exactness: a fixed function of its input; times between two fields by linear interpolation
    Cost: O(members × elements), and 1000 resamplings of the trajectories
    Bias: trajectories that never fall below count with the last time: the note says how many. A constant mean counts as
        uncorrelated

    Args:
        truth: (observation, time, *field); the first time is that of the given field.
        samples: (observation, member, time, *field).
        times: (time,) [time]; None counts steps.
        threshold: in (0, 1).
        stream: of the bootstrap; None uses seed 0.
        mask, unit: not used; part of the common signature.

    Returns:
        `correlation_time`, in units of `times`; the standard error is that of the bootstrap, whose 95 % interval
        stands in the note.

    Raises:
        InputError: events without two times.

    Source: Lippe et al. (2023), PDE-Refiner, section 4, for the time; Efron (1979) for the bootstrap.
    """
    if truth.ndim < 3 or truth.shape[1] < 2:
        raise InputError(
            f"a correlation time needs (observation, time, *field) with two times, got {tuple(truth.shape)}."
        )
    clock = list(range(truth.shape[1])) if times is None else list(times)
    found = time_below(clock, correlations(truth, samples), threshold)
    n = len(found)
    picks = (stream or Stream(0, ("bootstrap",))).uniform(N_BOOT, (n,), dtype=torch.float64)
    medians = found[(picks * n).long()].median(1).values
    low, high = medians.quantile(torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)).tolist()
    censored = int((found >= clock[-1]).sum())
    note = f"median, r < {threshold:g}; 95 % interval {low:.3g} to {high:.3g}; {censored} of {n} never below"
    stderr = float(medians.std()) if n > 1 else math.nan
    return {"correlation_time": Score(float(found.median()), stderr, n, "1", note)}


def correlation_by_lead(truth: Tensor, samples: Tensor) -> Curve:
    """Mean correlation of the ensemble mean with the truth at each time, clustered by trajectory."""
    found = [average(column) for column in correlations(truth, samples).T]
    return Curve(torch.tensor([s.value for s in found]), torch.tensor([s.stderr for s in found]))
