"""How good are the samples? Every metric returns its value with a standard error over independent observations.

Ensemble metrics share one signature, `metric(truth, samples, *, mask=None, stream=None, unit="1") -> dict[str, Score]`
with truth (observation, *event), samples (observation, member, *event), mask like truth. Particle metrics compare with
an exact answer and document their own.
"""

from __future__ import annotations

from sciflow.metrics.calibration import coverage, coverage_curve, rank_counts, rank_histogram, snap
from sciflow.metrics.ensemble import crps, energy_score, spread_skill
from sciflow.metrics.field import psnr, rmse, ssim
from sciflow.metrics.particle import ess, estimated_mode_weights, evidence_error, mode_weights, sliced_w2
from sciflow.metrics.score import Score

METRICS = {
    "psnr": psnr,
    "ssim": ssim,
    "rmse": rmse,
    "crps": crps,
    "energy_score": energy_score,
    "coverage": coverage,
    "spread_skill": spread_skill,
    "rank_histogram": rank_histogram,
}

PARTICLE_METRICS = {
    "sliced_w2": sliced_w2,
    "mode_weights": mode_weights,
    "evidence_error": evidence_error,
    "ess": ess,
}

__all__ = [
    "METRICS",
    "PARTICLE_METRICS",
    "Score",
    "coverage",
    "coverage_curve",
    "crps",
    "energy_score",
    "ess",
    "estimated_mode_weights",
    "evidence_error",
    "mode_weights",
    "psnr",
    "rank_counts",
    "rank_histogram",
    "rmse",
    "sliced_w2",
    "snap",
    "spread_skill",
    "ssim",
]
