"""How good are the samples? Every metric returns its value with a standard error over independent observations.

Ensemble metrics share one signature, `metric(truth, samples, *, mask=None, stream=None, unit="1") -> dict[str, Score]`
with truth (observation, *event), samples (observation, member, *event), mask like truth. Particle metrics compare with
an exact answer and document their own.
"""

from __future__ import annotations

from sciflow.metrics.better import BETTER
from sciflow.metrics.calibration import (
    coverage,
    coverage_curve,
    rank_counts,
    rank_functions,
    rank_histogram,
    sbc,
    snap,
    tarp,
)
from sciflow.metrics.ensemble import crps, energy_score, spread_skill
from sciflow.metrics.field import nrmse, psnr, rmse, ssim, vrmse
from sciflow.metrics.lead import by_lead, correlation_by_lead, correlation_time, excess_by_lead
from sciflow.metrics.lyapunov import Spectrum, lyapunov_spectrum
from sciflow.metrics.particle import (
    ess,
    estimated_mode_weights,
    evidence_error,
    log_evidence,
    mode_weights,
    sliced_w2,
)
from sciflow.metrics.score import Score
from sciflow.metrics.spectrum import energy_spectrum, spectrum_error

METRICS = {
    "psnr": psnr,
    "ssim": ssim,
    "rmse": rmse,
    "nrmse": nrmse,
    "vrmse": vrmse,
    "crps": crps,
    "energy_score": energy_score,
    "coverage": coverage,
    "spread_skill": spread_skill,
    "rank_histogram": rank_histogram,
    "sbc": sbc,
    "tarp": tarp,
}

PARTICLE_METRICS = {
    "sliced_w2": sliced_w2,
    "mode_weights": mode_weights,
    "evidence_error": evidence_error,
    "log_evidence": log_evidence,
    "ess": ess,
}

__all__ = [
    "BETTER",
    "METRICS",
    "PARTICLE_METRICS",
    "Score",
    "Spectrum",
    "by_lead",
    "correlation_by_lead",
    "correlation_time",
    "coverage",
    "coverage_curve",
    "crps",
    "energy_score",
    "energy_spectrum",
    "ess",
    "estimated_mode_weights",
    "evidence_error",
    "excess_by_lead",
    "log_evidence",
    "lyapunov_spectrum",
    "mode_weights",
    "nrmse",
    "psnr",
    "rank_counts",
    "rank_functions",
    "rank_histogram",
    "rmse",
    "sbc",
    "sliced_w2",
    "snap",
    "spectrum_error",
    "spread_skill",
    "ssim",
    "tarp",
    "vrmse",
]
