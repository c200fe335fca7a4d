"""Errors of a sampler whose target is known: sliced Wasserstein distance, mode weights, evidence, effective size."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.metrics.score import Score, average, ratio
from sciflow.random import Stream


def sliced_w2(
    exact: Tensor,
    samples: Tensor,
    *,
    log_weights: Tensor | None = None,
    fresh: Tensor | None = None,
    stream: Stream | None = None,
    unit: str = "1",
    n_projections: int = 128,
) -> dict[str, Score]:
    """Sliced Wasserstein-2 distance from samples to exact samples, beside the distance of as many fresh exact ones.

        SW₂² = mean over directions θ of ∫₀¹ (F⁻¹_{θ·x}(q) − F⁻¹_{θ·y}(q))² dq

    Exactness: exact in each of `n_projections` fixed directions (weighted quantile functions, no binning)
    Cost: O(projections × N log N) for each observation
    Bias: upward, because both sets are finite: read it against the floor, the same distance for exact samples

    Args:
        exact: exact samples, (observation, n_exact, *event), in `unit`.
        samples: what the sampler gave, (observation, member, *event), in `unit`.
        log_weights: of the samples, (observation, member), any normalisation; None weighs them equally.
        fresh: exact samples independent of `exact`, as many as members: gives the floor.
        stream: of the directions; the same stream gives the same directions.
        unit: unit of the data.
        n_projections: number of directions.

    Returns:
        `sliced_w2`, and `sliced_w2_floor` where `fresh` is given, in `unit`, mean over observations.

    Raises:
        InputError: shapes disagree.

    Source: Bonneel, Rabin, Peyré and Pfister (2015), sliced Wasserstein distance.
    """
    reference = _flat("exact", exact, exact)
    stream = stream or Stream(0, ("projections",))
    directions = stream.normal(n_projections, (reference.shape[2],), dtype=torch.float64)
    directions = directions / directions.norm(dim=1, keepdim=True)
    sets = {"sliced_w2": (_flat("samples", samples, exact), _weights(samples, log_weights))}
    if fresh is not None:
        sets["sliced_w2_floor"] = _flat("fresh", fresh, exact), _weights(fresh, None)
    found = {}
    for name, (values, log_values) in sets.items():
        distances = [
            sliced_distance(x, y, w, directions) for x, y, w in zip(reference, values, log_values, strict=True)
        ]
        note = f"{values.shape[1]} against {reference.shape[1]} exact samples"
        found[name] = average(torch.stack(distances), unit, note)
    return found


def _flat(name: str, values: Tensor, exact: Tensor) -> Tensor:
    """(observation, member, *event) -> (observation, member, dimension) in float64."""
    values = torch.as_tensor(values)
    if values.ndim < 3 or len(values) != len(exact) or values.shape[2:] != exact.shape[2:]:
        raise InputError(
            f"{name} has shape {tuple(values.shape)} beside exact samples of shape {tuple(exact.shape)}, "
            "needs (observation, member, *event). Give both the same observations and events."
        )
    return values.detach().to("cpu", torch.float64).flatten(2)


def _weights(samples: Tensor, log_weights: Tensor | None) -> Tensor:
    """Log-weights (observation, member) in float64; zeros for None."""
    weights = torch.zeros(samples.shape[:2]) if log_weights is None else torch.as_tensor(log_weights)
    if weights.shape != samples.shape[:2]:
        raise InputError(
            f"log_weights has shape {tuple(weights.shape)}, needs {tuple(samples.shape[:2])}: one for each member."
        )
    return weights.detach().to("cpu", torch.float64)


def sliced_distance(x: Tensor, y: Tensor, log_weights: Tensor, directions: Tensor) -> Tensor:
    """Sliced W2 between equally weighted x (n, dimension) and weighted y (m, dimension)."""
    projected_x, _ = (directions @ x.T).sort(dim=1)
    projected_y, order = (directions @ y.T).sort(dim=1)
    levels_x = torch.arange(1, len(x) + 1, dtype=torch.float64).div(len(x)).expand(len(directions), -1).contiguous()
    levels_y = log_weights.softmax(0)[order].cumsum(1)
    levels_y[:, -1] = 1.0
    levels = torch.cat([levels_x, levels_y], dim=1).sort(dim=1).values
    widths = levels.diff(dim=1, prepend=torch.zeros(len(directions), 1, dtype=torch.float64))
    gap = _quantile(projected_x, levels_x, levels) - _quantile(projected_y, levels_y, levels)
    return (widths * gap**2).sum(1).mean().sqrt()


def _quantile(values: Tensor, cumulative: Tensor, levels: Tensor) -> Tensor:
    """F⁻¹(q) = smallest value whose cumulative weight reaches q."""
    index = torch.searchsorted(cumulative, levels).clamp(max=values.shape[1] - 1)
    return values.gather(1, index)


def mode_weights(
    exact_weights: Tensor,
    responsibilities: Tensor,
    *,
    log_weights: Tensor | None = None,
    fresh: Tensor | None = None,
) -> dict[str, Score]:
    """Total variation between the mode weights of the samples and the exact ones.

        TV = ½ Σ_k |ŵ_k − w_k|,    ŵ_k = Σ_i W_i r_k(x_i),    r_k the exact posterior probability of mode k given x

    Exactness: E[ŵ_k] = w_k for exact samples, however much the modes overlap
    Cost: O(members × modes)
    Bias: upward, because the absolute value of noise is positive: read it against the floor

    Args:
        exact_weights: w, (observation, mode), rows sum to one.
        responsibilities: r of the samples, (observation, member, mode), rows sum to one.
        log_weights: of the samples, (observation, member); None weighs them equally.
        fresh: responsibilities of as many exact samples: gives the floor.

    Returns:
        `mode_weight_tv`, and `mode_weight_tv_floor` where `fresh` is given, mean over observations, in [0, 1].

    Source: law of total probability; Levin, Peres and Wilmer (2009), proposition 4.2, for TV.
    """
    exact_weights = torch.as_tensor(exact_weights).to("cpu", torch.float64)
    sets = {"mode_weight_tv": (responsibilities, log_weights)}
    if fresh is not None:
        sets["mode_weight_tv_floor"] = fresh, None
    found = {}
    for name, (probabilities, log_values) in sets.items():
        error = estimated_mode_weights(probabilities, log_values) - exact_weights
        found[name] = average(error.abs().sum(1) / 2, "1", f"{probabilities.shape[1]} samples")
    return found


def estimated_mode_weights(responsibilities: Tensor, log_weights: Tensor | None = None) -> Tensor:
    """ŵ_k = Σ_i W_i r_k(x_i), (observation, mode), from responsibilities (observation, member, mode)."""
    r = torch.as_tensor(responsibilities).detach().to("cpu", torch.float64)
    if log_weights is None:
        return r.mean(1)
    weights = torch.as_tensor(log_weights).detach().to("cpu", torch.float64).softmax(1)
    return torch.einsum("om,omk->ok", weights, r)


def evidence_error(
    exact: Tensor, estimate: Tensor, *, stderr: Tensor | None = None, stderr_islands: Tensor | None = None
) -> dict[str, Score]:
    """Error of the log-evidence over observations: mean, root mean square, and in units of the claimed error.

        e = log Ẑ − log Z;    bias = mean e,  rms = sqrt(mean e²),  z = sqrt(mean (e / claimed stderr)²)

    Exactness: a fixed function of its input
    Cost: O(observations)
    Bias: an unbiased Ẑ makes log Ẑ low by about half its variance

    Args:
        exact: log Z, (observation,), nats.
        estimate: log Ẑ, (observation,), nats.
        stderr: claimed standard error of log Ẑ, (observation,), nats.
        stderr_islands: the same from independent islands, NaN where there is one alone.

    Returns:
        `evidence_bias` and `evidence_error` in nats; `evidence_z` and `evidence_z_islands` (1 if the claim is honest)
        where the errors are given.

    Source: Del Moral (2004), Feynman–Kac Formulae, for unbiasedness of Ẑ.
    """
    error = torch.as_tensor(estimate).to("cpu", torch.float64) - torch.as_tensor(exact).to("cpu", torch.float64)
    found = {"evidence_bias": average(error, "nat", "log Ẑ − log Z"), "evidence_error": _rms(error, "nat", "rms")}
    for key, claimed in (("evidence_z", stderr), ("evidence_z_islands", stderr_islands)):
        if claimed is not None and not bool(torch.as_tensor(claimed).isnan().any()):
            z = error / torch.as_tensor(claimed).to("cpu", torch.float64)
            found[key] = _rms(z, "1", "rms error over claimed standard error; 1 is honest")
    return found


def log_evidence(estimate: Tensor, stderr: Tensor, stderr_islands: Tensor | None = None) -> dict[str, Score]:
    """Log-evidence of all observations together: what models of the measurement are compared by.

        log Ẑ = Σ_i log Ẑ_i,    se² = Σ_i se_i²

    The error is that of sampling alone: models are compared on the same observations.

    Exactness: a sum
    Cost: O(observations)
    Bias: an unbiased Ẑ_i makes log Ẑ_i low by half its variance

    Args:
        estimate: log Ẑ_i, (observation,), nats.
        stderr: its standard error from the genealogy of one run, (observation,), nats.
        stderr_islands: the same from independent islands, NaN where there is one alone.

    Returns:
        `log_evidence`, nats, and `log_evidence_islands`, the same number with the other error, where there are
        islands; nothing where a sampler gives no evidence.

    Source: Kass and Raftery (1995), Bayes factors.
    """
    estimate, stderr = (torch.as_tensor(values).to("cpu", torch.float64) for values in (estimate, stderr))
    if not bool(estimate.isfinite().all()):
        return {}
    note = "sum over observations; error of sampling alone, from genealogies"
    found = {"log_evidence": Score(float(estimate.sum()), float(stderr.norm()), len(estimate), "nat", note)}
    spread = torch.full((1,), math.nan) if stderr_islands is None else torch.as_tensor(stderr_islands).double().cpu()
    if not bool(spread.isnan().any()):
        other = replace(found["log_evidence"], stderr=float(spread.norm()), note="the same; error from islands")
        found["log_evidence_islands"] = other
    return found


def _rms(values: Tensor, unit: str, note: str) -> Score:
    square, stderr, n = ratio(values**2, torch.ones_like(values))
    root = math.sqrt(square)
    return Score(root, stderr / (2 * root) if root else 0.0, n, unit, note)


def ess(log_weights: Tensor) -> dict[str, Score]:
    """Effective sample size of weighted samples, mean over observations.

        ESS = (Σ_i w_i)² / Σ_i w_i²

    Exactness: N for equal weights, 1 when one weight is everything
    Cost: O(members)
    Bias: upward when the samples miss a mode: it sees only the weights that were drawn

    Args:
        log_weights: (observation, member), any normalisation.

    Returns:
        `ess`, number of samples.

    Source: Kong, Liu and Wong (1994), sequential imputations.
    """
    weights = torch.as_tensor(log_weights).detach().to("cpu", torch.float64).softmax(1)
    return {"ess": average(1 / (weights**2).sum(1), "1", f"of {weights.shape[1]}")}
