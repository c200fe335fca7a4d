"""A score is a number with its standard error: the checked ensemble every metric reads, and clustered averages."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sciflow.errors import InputError, NonFiniteError


@dataclass(frozen=True)
class Score:
    """One number of a table: value ± standard error.

    Args:
        value: the estimate, in `unit`.
        stderr: its standard error over independent observations; NaN for one observation.
        n: observations that count.
        unit: unit of value and stderr; "1" is dimensionless.
        note: what a reader of the table should know.
    """

    value: float
    stderr: float
    n: int
    unit: str = "1"
    note: str = ""

    def __str__(self) -> str:
        unit = "" if self.unit == "1" else f" {self.unit}"
        return f"{self.value:.4g} ± {self.stderr:.2g}{unit}"


@dataclass(frozen=True)
class Ensemble:
    """Truths and the members drawn for each, checked, in float64 and with flat events.

    Args:
        truth: (observation, element).
        samples: (observation, member, element).
        mask: (observation, element), true where an element counts.
    """

    truth: Tensor
    samples: Tensor
    mask: Tensor

    @property
    def n_members(self) -> int:
        return self.samples.shape[1]

    def sum(self, values: Tensor) -> Tensor:
        """Sum of `values` (observation, element) over the elements that count, (observation,)."""
        return (values * self.mask).sum(1)

    def mean(self, values: Tensor, unit: str = "1", note: str = "") -> Score:
        """Mean over all elements that count, standard error clustered by observation."""
        value, stderr, n = ratio(self.sum(values), self.mask.double().sum(1))
        return Score(value, stderr, n, unit, note)


def checked(truth: Tensor, samples: Tensor, mask: Tensor | None = None, n_members: int = 1) -> Ensemble:
    """Check the shapes and values that every ensemble metric needs.

    Args:
        truth: (observation, *event).
        samples: (observation, member, *event).
        mask: bool, (observation, *event) or an event shape that is the same for all; None counts every element.
        n_members: least number of members that the metric needs.

    Raises:
        InputError: shapes disagree, too few members, nothing counts, or a truth that counts is not finite.
        NonFiniteError: a sample that counts is not finite.
    """
    truth, samples = (torch.as_tensor(values).detach().to("cpu", torch.float64) for values in (truth, samples))
    if truth.ndim < 1 or samples.ndim != truth.ndim + 1 or samples[:, 0].shape != truth.shape:
        raise InputError(
            f"truth has shape {tuple(truth.shape)} and samples {tuple(samples.shape)}, needs (observation, *event) and "
            "(observation, member, *event). Give both the same observations and events."
        )
    if samples.shape[1] < n_members:
        raise InputError(f"This metric needs at least {n_members} members, got {samples.shape[1]}. Raise `n_samples`.")
    counts = torch.ones(()) if mask is None else torch.as_tensor(mask)
    try:
        counts = counts.to("cpu", torch.bool).broadcast_to(truth.shape)
    except RuntimeError:
        raise InputError(
            f"mask has shape {tuple(counts.shape)}, needs {tuple(truth.shape)}, the shape of the truth."
        ) from None
    if not counts.any():
        raise InputError("No element counts: the mask is false everywhere. Choose other observations or no mask.")
    truth, samples = truth.masked_fill(~counts, 0.0), samples.masked_fill(~counts[:, None], 0.0)
    if not torch.isfinite(truth).all():
        raise InputError("The truth holds NaN or infinite values where it counts. Mask them, or mend the data set.")
    if not torch.isfinite(samples).all():
        raise NonFiniteError("The samples hold NaN or infinite values where they count. Sample again with more steps.")
    n, m = samples.shape[:2]
    return Ensemble(truth.reshape(n, -1), samples.reshape(n, m, -1), counts.reshape(n, -1))


def average(values: Tensor, unit: str = "1", note: str = "") -> Score:
    """Mean of one value per observation, (observation,), with the standard error over observations."""
    value, stderr, n = ratio(values, torch.ones_like(values))
    return Score(value, stderr, n, unit, note)


def ratio(numerator: Tensor, denominator: Tensor) -> tuple[float, float, int]:
    """A ratio of sums over independent observations, and its standard error.

        r = Σ_i a_i / Σ_i b_i        se² = k/(k−1) Σ_i (a_i − r b_i)² / (Σ_i b_i)²

    The k observations are the clusters: elements inside one may depend on each other in any way.

    Args:
        numerator: a_i, (observation,).
        denominator: b_i ≥ 0, (observation,); an observation with b_i = 0 does not count.

    Returns:
        r, se and k. se is NaN for k = 1.

    Source: Cochran (1977), Sampling Techniques, chapter 6.
    """
    counted = denominator > 0
    a, b = numerator[counted], denominator[counted]
    k, total = len(a), b.sum()
    value = a.sum() / total
    stderr = math.sqrt(k / (k - 1)) * (a - value * b).norm() / total if k > 1 else math.nan
    return float(value), float(stderr), k
