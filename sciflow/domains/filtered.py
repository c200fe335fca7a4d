"""What filters say of themselves besides their draws, which domains of paths and of fields score alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sciflow.data.arrays import from_xarray
from sciflow.metrics.better import MORE, Direction
from sciflow.metrics.score import Score, average

if TYPE_CHECKING:
    import xarray as xr

REFERENCE = "reference"
"""The sampler whose evidence others are compared with."""


def said(samples: xr.Dataset, name: str) -> dict[str, Tensor]:
    """What a sampler says of each path, (observation,); NaN where it says nothing."""
    own = samples.sel(posterior=name)
    weighs = "ess_trace" in own
    nothing = torch.full((int(own.sizes["observation"]),), torch.nan, dtype=torch.float64)
    evidence = from_xarray(own["log_evidence"]) if "log_evidence" in own else nothing
    least = from_xarray(own["ess_trace"].min("smc_step")) if weighs else torch.full_like(evidence, torch.nan)
    return {"log_evidence": evidence, "ess_min": least}


def log_evidence(numbers: Mapping[str, Tensor], reference: Tensor | None = None) -> dict[str, Score]:
    """Log-evidence of a path's measurements, and its distance from that of the sampler "reference", path by path.

    Exactness: the particle filters' is unbiased on the scale of Ẑ; the ensemble filters' assumes Gaussian forecasts
    Cost: none
    Bias: log Ẑ is low by half its variance; a reference with finitely many particles is low itself
    Source: Del Moral (2004), Feynman–Kac formulae.
    """
    estimate = numbers["log_evidence"]
    if not bool(estimate.isfinite().all()):
        return {}
    found = {"log_evidence": average(estimate, "nat", "mean over paths")}
    if reference is not None and bool(reference.isfinite().all() & (estimate != reference).any()):
        found["log_evidence_gap"] = average(estimate - reference, "nat", "less that of the reference")
    return found


def ess_min(numbers: Mapping[str, Tensor], reference: Tensor | None = None) -> dict[str, Score]:
    """Smallest effective sample size at any time of a path, before resampling.

    Exactness: min_k (Σ w)²/Σ w²
    Cost: none
    Bias: near 1 the filter rests on one particle, and its spread means nothing
    Source: Kong, Liu and Wong (1994).
    """
    least = numbers["ess_min"]
    return {"ess_min": average(least, "samples", "mean over paths")} if bool(least.isfinite().all()) else {}


METRICS: dict[str, Callable[[Mapping[str, Tensor], Tensor | None], dict[str, Score]]] = {
    "log_evidence": log_evidence,
    "ess_min": ess_min,
}
BETTER: dict[str, Mapping[str, Direction]] = {
    "log_evidence": {"log_evidence": MORE, "log_evidence_gap": 0.0},
    "ess_min": {},  # as `ess`
}
