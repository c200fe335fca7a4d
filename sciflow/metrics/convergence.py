"""Whether weights and chains can be believed: the tail of importance weights, the spread between chains."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sciflow.errors import InputError

FEWEST_TAIL = 5
"""Weights of a tail whose shape is fitted: with fewer nothing can be said."""


def pareto_shape(log_weights: Tensor) -> float:
    """k̂ of importance weights: the shape of a generalised Pareto law fitted to the largest of them.

        p(w) ∝ (1 + k (w − u)/s)^{−1/k − 1},   w > u, the M = min(n/5, 3√n) largest

    The weights have 1/k moments: below 0.5 averages have a finite variance, above 0.7 they cannot be used at any
    number of samples that one can afford.

    Exactness: as the tail grows; the fit spreads by about (1 + k)/√M
    Cost: O(n log n)
    Bias: with the prior of ten observations at 0.5 that the source recommends

    Args:
        log_weights: not normalised, (n,).

    Returns:
        k̂; NaN where the tail has fewer than five weights, −∞ where it is one value: bounded weights.

    Raises:
        InputError: no finite weight.
    Source: Zhang and Stephens (2009), A new and efficient estimation method for the generalized Pareto distribution;
        Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling, section 3 and appendix C.
    """
    values = log_weights.detach().double().flatten()
    if not bool(values.isfinite().any()):
        raise InputError("no importance weight is finite. The draws and the law have nothing in common.")
    n = len(values)
    size = min(n // 5, math.ceil(3 * math.sqrt(n)))
    if size < FEWEST_TAIL:
        return math.nan
    largest = (values - values.max()).exp().sort().values[-size - 1 :]
    tail = largest[1:] - largest[0]
    if float(tail[-1]) <= 0:
        return -math.inf
    k = _fitted(tail[tail > 0])
    return (size * k + 10 * 0.5) / (size + 10)


def _fitted(x: Tensor) -> float:
    """Shape of the generalised Pareto law of sorted positive numbers: the posterior mean over a profile of θ = −k/s."""
    n = len(x)
    m = 30 + math.floor(math.sqrt(n))
    steps = torch.arange(1, m + 1, dtype=torch.float64) - 0.5
    theta = 1 / x[-1] + (1 - (m / steps).sqrt()) / (3 * x[max(0, math.floor(n / 4 + 0.5) - 1)])
    k = (1 - theta[:, None] * x).log().mean(1)  # minus the shape in the paper's sign
    profile = n * ((-theta / k).log() - k - 1)
    best = float((profile.softmax(0) * theta).sum())
    return float((1 - best * x).log().mean())


def split_rhat(chains: Tensor) -> float:
    """R̂ of several chains, each cut in two: 1 where nobody can tell the halves apart.

        R̂² = ((n − 1)/n W + B/n)/W,   W: mean variance within a half, B/n: variance of the means of the halves

    Exactness: tends to 1 for chains that have the same law and forget their start
    Cost: O(chains × frames)
    Bias: about 1/(2 × independent draws of a half) above 1

    Args:
        chains: one number, (chain, frame).

    Returns:
        R̂; NaN where it does not vary, or a half has fewer than two frames.
    Source: Gelman et al. (2013), Bayesian data analysis, eq. 11.4; Vehtari et al. (2021), Rank-normalization, folding
        and localization, section 2.
    """
    n = chains.shape[1] // 2
    if n < 2:
        return math.nan
    halves = torch.cat([chains[:, :n], chains[:, -n:]]).double()
    within, between = float(halves.var(1).mean()), float(halves.mean(1).var())
    return math.sqrt(((n - 1) / n * within + between) / within) if within > 0 else math.nan
