"""Errors of samples of a Boltzmann law: on cells whose probabilities are known, of free energies, of one number.

Each distance is above zero for perfect samples too: read it against its floor (`sciflow.metrics.floor`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.metrics.particle import sliced_distance
from sciflow.metrics.score import Score
from sciflow.random import Stream

EMPTY = 1e-6
"""What an empty cell counts as in a potential of mean force."""


def cell_masses(x: Tensor, edges: Sequence[Tensor]) -> Tensor:
    """Share of samples in each cell of a grid, and last the share outside of it, (cells + 1,), float64.

    Args:
        x: samples, (n, dimension).
        edges: of the cells along each axis, increasing and evenly spaced.

    Raises:
        InputError: as many axes as edges are needed.
    """
    if x.ndim != 2 or x.shape[1] != len(edges):
        raise InputError(f"samples of shape {tuple(x.shape)} on a grid of {len(edges)} axes. Give (sample, axis).")
    index, inside, n_cells = torch.zeros(len(x), dtype=torch.int64), torch.ones(len(x), dtype=torch.bool), 1
    for values, own in zip(x.detach().cpu().double().T, edges, strict=True):
        n = len(own) - 1
        cell = ((values - own[0]) * (n / (own[-1] - own[0]))).floor()
        inside &= (cell >= 0) & (cell < n)  # NaN is nowhere
        index, n_cells = index * n + cell.nan_to_num(0).clamp(0, n - 1).long(), n_cells * n
    counts = torch.bincount(torch.where(inside, index, n_cells), minlength=n_cells + 1)
    return counts.double() / len(x)


def js_divergence(p: Tensor, q: Tensor) -> float:
    """Jensen–Shannon divergence of two laws on cells.

        JS = ½ Σ p log(p/m) + ½ Σ q log(q/m),   m = (p + q)/2,   between 0 and log 2

    Exactness: exact for the given cells
    Cost: O(cells)
    Bias: of n samples in k occupied cells against exact probabilities about k/8n

    Args:
        p, q: probabilities of the same cells, each sums to one.

    Returns:
        The divergence, nats.

    Source: Lin (1991), Divergence measures based on the Shannon entropy, eq. 3.8.
    """
    p, q = p.double().flatten(), q.double().flatten()
    middle = 0.5 * (p + q)
    return 0.5 * float(torch.xlogy(p, p / middle).nansum() + torch.xlogy(q, q / middle).nansum())


def pmf_error(p: Tensor, q: Tensor) -> float:
    """Mean squared difference of two potentials of mean force on cells, weighted by their mean law.

        Σ_i w_i (log p_i − log q_i)²,   w = (p + q)/2,   over cells that either occupies; empty ones count as 10⁻⁶

    Exactness: exact for the given cells
    Cost: O(cells)
    Bias: of n samples in k well filled cells against exact probabilities about k/n; cells that samples leave empty
        weigh by what an empty cell counts as

    Args:
        p, q: probabilities of the same cells.

    Returns:
        The error [kT²].

    Source: Arts et al. (2023), Two for one: diffusion models and force fields for coarse-grained molecular dynamics,
        appendix; as in ScoreMD.
    """
    p, q = p.double().flatten(), q.double().flatten()
    seen = (p > 0) | (q > 0)
    p, q = (values[seen].clamp_min(EMPTY) for values in (p, q))
    return float((0.5 * (p + q) * (p.log() - q.log()).square()).sum())


def w2_1d(a: Tensor, b: Tensor, log_weights: Tensor | None = None) -> float:
    """Wasserstein-2 distance between the laws of one number, in its unit.

        W₂² = ∫₀¹ (F_a⁻¹(q) − F_b⁻¹(q))² dq

    Exactness: exact between the two finite sets
    Cost: O(n log n)
    Bias: upward, because both sets are finite

    Args:
        a: values, equally weighted, (n,).
        b: values, (m,).
        log_weights: of b, (m,); None weighs them equally.

    Source: Villani (2003), Topics in optimal transportation, theorem 2.18.
    """
    weights = torch.zeros(len(b), dtype=torch.float64) if log_weights is None else log_weights.double()
    x, y = (values.detach().cpu().double()[:, None] for values in (a, b))
    return float(sliced_distance(x, y, weights, torch.ones(1, 1, dtype=torch.float64)))


def free_energy_difference(
    basins: Tensor,
    stream: Stream,
    *,
    block: int = 1,
    n_bootstrap: int = 200,
    temperature: float = 1.0,
    unit: str = "kT",
) -> Score:
    """Free energy of basin 1 above that of basin 0, with an error that knows of correlations in time.

        ΔF = −kT log(w₁/w₀)

    The standard error is that of a bootstrap over blocks of neighbouring samples: too small, where blocks are shorter
    than the memory of a chain.

    Exactness: exact for the given samples
    Cost: O(n_bootstrap × blocks)
    Bias: O(1/n), of a logarithm of shares

    Args:
        basins: 0 or 1 for each sample, in the order of time, other numbers are in neither, (n,).
        stream: of the bootstrap.
        block: samples of one block; 1 for independent samples.
        n_bootstrap: resampled sets.
        temperature: kT, in `unit`.
        unit: of the result.

    Returns:
        The difference, with the interval between the 2.5 and the 97.5 % quantile of the bootstrap in its note; NaN
        with infinite error where a basin is empty.

    Source: Künsch (1989), The jackknife and the bootstrap for general stationary observations.
    """
    if not 1 <= block <= max(1, len(basins) // 2):
        raise InputError(f"{len(basins)} samples in blocks of {block}: at least two blocks are needed. Shorten them.")
    n_blocks = len(basins) // block
    parts = basins[: n_blocks * block].reshape(n_blocks, block)
    counts = torch.stack([(parts == side).double().sum(1) for side in (0, 1)])
    total = torch.stack([(basins == side).double().sum() for side in (0, 1)])
    if not bool((total > 0).all()):
        return Score(math.nan, math.inf, n_blocks, unit, "a basin is empty")
    u = stream.uniform(n_bootstrap, (n_blocks,), dtype=torch.float64)
    sums = counts[:, (u * n_blocks).long()].sum(2).clamp_min(0.5)  # half a sample, where a resampled basin is empty
    resampled = temperature * (sums[0] / sums[1]).log()
    value, stderr = temperature * float((total[0] / total[1]).log()), float(resampled.std())
    return Score(value, stderr, n_blocks, unit, f"{interval(resampled)} by bootstrap of {n_blocks} blocks")


def interval(resampled: Tensor) -> str:
    """The 95 % interval of a bootstrap, in words."""
    low, high = (float(resampled.quantile(q)) for q in (0.025, 0.975))
    return f"95 % interval {low:.2f} to {high:.2f}"
