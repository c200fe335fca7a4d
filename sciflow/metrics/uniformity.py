"""Is a sample uniform? Its empirical distribution function with bands that hold at all points at once, exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

MOST_POINTS = 50
LEVEL = 0.95


@dataclass(frozen=True)
class Band:
    """Where the empirical distribution function of n independent uniform numbers lies at all points at once.

    Args:
        points: z, (point,).
        low, high: ends, shares in [0, 1], (point,).
        level: probability that all of it lies between them; at least what was asked for.
    """

    points: Tensor
    low: Tensor
    high: Tensor
    level: float


def _points(n: int) -> np.ndarray:
    """z_k = k/(K + 1), K = min(n, 50)."""
    k = min(n, MOST_POINTS)
    return np.arange(1, k + 1) / (k + 1)


def _tails(counts: np.ndarray, n: int, z: np.ndarray) -> np.ndarray:
    """Two-sided tail probabilities of Binomial(n, z) at these counts."""
    from scipy.special import bdtr, bdtrc  # half a second, and only here

    above = np.where(counts > 0, bdtrc(np.maximum(counts - 1, 0), n, z), 1.0)  # P(more than counts − 1)
    return 2 * np.minimum(bdtr(counts, n, z), above)


def _chances(more: np.ndarray, n: np.ndarray, p: float) -> np.ndarray:
    """Binomial(n, p) at `more`; 0 below 0 and above n."""
    from scipy.special import gammaln, xlog1py, xlogy

    k = np.clip(more, 0, n)
    log = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1) + xlogy(k, p) + xlog1py(n - k, -p)
    return np.where((more >= 0) & (more <= n), np.exp(log), 0.0)


def _limits(n: int, tail: float) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest count at each point whose two-sided binomial tail probability is above `tail`."""
    inside = _tails(np.arange(n + 1), n, _points(n)[:, None]) > tail
    return inside.argmax(1), n - inside[:, ::-1].argmax(1)


def probability_inside(n: int, tail: float) -> float:
    """Probability that at every point the count of n uniform numbers has a binomial tail probability above `tail`.

    The counts are a Markov chain: given s numbers below z_a, Binomial(n − s, (z_b − z_a)/(1 − z_a)) more lie below z_b.

    Source: Säilynoja, Bürkner and Vehtari (2022), Graphical test for discrete uniformity, section 2.2.
    """
    if tail >= 1:
        return 0.0
    before, states, chances = 0.0, np.array([0]), np.array([1.0])
    for z, low, high in zip(_points(n), *_limits(n, tail), strict=True):
        reached = np.arange(low, high + 1)
        moved = _chances(reached[:, None] - states, n - states, (z - before) / (1 - before))
        before, states, chances = z, reached, moved @ chances
    return float(chances.sum())


@lru_cache(maxsize=64)
def band(n: int, level: float = LEVEL) -> Band:
    """The narrowest band of equal tail probabilities that holds all of the function with at least this probability."""
    low, high = 0.0, 1.0
    for _ in range(20):  # to 1e-6 of a tail probability
        middle = 0.5 * (low + high)
        low, high = (middle, high) if probability_inside(n, middle) >= level else (low, middle)
    least, most = (torch.from_numpy(limit / n) for limit in _limits(n, low))
    return Band(torch.from_numpy(_points(n)), least, most, probability_inside(n, low))


def distribution(u: Tensor) -> Tensor:
    """The share of u below each point of the band, (n,) → (point,)."""
    z = torch.from_numpy(_points(len(u)))
    return (u.double()[:, None] <= z).double().mean(0)


def uniform_p_value(u: Tensor) -> float:
    """Probability that n uniform numbers depart at least as far, at the point where they depart most.

    Exactness: exact, so that P(p ≤ a) ≤ a for uniform numbers, up to 1e-12 of rounding.

    Args:
        u: independent numbers in [0, 1], (n,).
    Source: Säilynoja, Bürkner and Vehtari (2022), Graphical test for discrete uniformity.
    """
    n, counts = len(u), distribution(u).mul(len(u)).round().numpy()
    tails = _tails(counts, n, _points(n))
    least = float(tails.min()) * (1 + 1e-12)  # a departure of just this size is at least as far, rounding or not
    return min(1.0, max(0.0, 1 - probability_inside(n, least)))


def bonferroni(values: list[float]) -> float:
    """One p-value of several."""
    return min(1.0, len(values) * min(values)) if values else math.nan
