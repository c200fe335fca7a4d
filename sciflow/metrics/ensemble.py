"""Proper scores of a whole ensemble and its spread: CRPS, energy score, spread–skill ratio."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sciflow.metrics.score import Score, average, checked, ratio
from sciflow.random import Stream


def crps(
    truth: Tensor, samples: Tensor, *, mask: Tensor | None = None, stream: Stream | None = None, unit: str = "1"
) -> dict[str, Score]:
    """Fair continuous ranked probability score of each element, averaged: small is good.

        1/m Σ_i |X_i − y| − 1/(2m(m−1)) Σ_ij |X_i − X_j|,    Σ_ij |X_i − X_j| = 2 Σ_k (2k − m + 1) X_(k), k = 0 … m−1

    Exactness: unbiased for m ≥ 2 members: the expectation does not depend on m
    Cost: O(m log m) for each element, by sorting
    Bias: none; may be negative for one observation

    Args:
        truth: y, (observation, *event), in `unit`.
        samples: X, (observation, member, *event), in `unit`.
        mask: (observation, *event), true where an element counts.
        stream: not used; part of the common signature.
        unit: unit of the data.

    Returns:
        `crps`, in `unit`.

    Source: Ferro (2014), fair scores for ensemble forecasts; Zamo and Naveau (2018), by sorting.
    """
    data = checked(truth, samples, mask, n_members=2)
    m = data.n_members
    weights = torch.arange(1 - m, m, 2, dtype=torch.float64)[:, None]
    distance = (data.samples - data.truth[:, None]).abs().mean(1)
    spread = (weights * data.samples.sort(1).values).sum(1) / (m * (m - 1))
    return {"crps": data.mean(distance - spread, unit, f"fair, {m} members")}


def energy_score(
    truth: Tensor, samples: Tensor, *, mask: Tensor | None = None, stream: Stream | None = None, unit: str = "1"
) -> dict[str, Score]:
    """Fair energy score of each whole event: the CRPS with |·| replaced by the Euclidean norm over the event.

        1/m Σ_i ‖X_i − y‖ − 1/(2m(m−1)) Σ_ij ‖X_i − X_j‖

    Exactness: unbiased for m ≥ 2 members; equals the fair CRPS for events of one element
    Cost: O(m² × elements) for each observation
    Bias: none; insensitive to wrong correlations in many dimensions

    Args:
        truth: y, (observation, *event), in `unit`.
        samples: X, (observation, member, *event), in `unit`.
        mask: (observation, *event), true where an element counts.
        stream: not used; part of the common signature.
        unit: unit of the data.

    Returns:
        `energy_score`, in `unit`: a norm, so it grows with the root of the number of elements.

    Source: Gneiting and Raftery (2007), equation 22.
    """
    data = checked(truth, samples, mask, n_members=2)
    m = data.n_members
    distance = torch.linalg.vector_norm(data.samples - data.truth[:, None], dim=2).mean(1)
    spread = torch.stack([torch.nn.functional.pdist(members).sum() for members in data.samples]) / (m * (m - 1))
    return {"energy_score": average((distance - spread)[data.mask.any(1)], unit, f"fair, {m} members")}


def spread_skill(
    truth: Tensor, samples: Tensor, *, mask: Tensor | None = None, stream: Stream | None = None, unit: str = "1"
) -> dict[str, Score]:
    """Spread of the ensemble over the error of its mean: 1 for a calibrated ensemble, below 1 if it is too narrow.

        sqrt( (m+1)/m · Σ s² / Σ (x̄ − y)² ),    s² = 1/(m−1) Σ_i (X_i − x̄)²

    Exactness: both sums have equal expectations for exchangeable draws, at any m ≥ 2
    Cost: O(members × elements)
    Bias: O(1/observations), of a ratio; the standard error is first order (delta method)

    Args:
        truth: y, (observation, *event), in `unit`.
        samples: X, (observation, member, *event), in `unit`.
        mask: (observation, *event), true where an element counts.
        stream: not used; part of the common signature.
        unit: unit of the data.

    Returns:
        `spread_skill`, dimensionless.

    Source: Fortin, Abaza, Anctil and Turcotte (2014), why ensemble spread should match the error of the mean.
    """
    data = checked(truth, samples, mask, n_members=2)
    m = data.n_members
    spread, skill = data.sum(data.samples.var(1)), data.sum((data.samples.mean(1) - data.truth) ** 2)
    value, stderr, n = ratio(spread, skill)
    root = math.sqrt((m + 1) / m * value)
    error = root / 2 * stderr / value if value else 0.0
    return {"spread_skill": Score(root, error, n, "1", f"{m} members; 1 is calibrated")}
