"""Draw an Axes and return it; saving is the caller's business. `figure(…, ax=None)` makes its own Figure."""

from __future__ import annotations

from sciflow.figures.bands import field_band
from sciflow.figures.calibration import calibration, rank_functions, rank_histogram
from sciflow.figures.categories import category_dots
from sciflow.figures.comparison import sampler_comparison
from sciflow.figures.conformations import estimates, overlap_matrix, ramachandran
from sciflow.figures.front import error_and_cost
from sciflow.figures.gallery import posterior_gallery
from sciflow.figures.lead import score_by_lead, space_time, spectra
from sciflow.figures.loss import loss_curve
from sciflow.figures.profiles import distance_bars, mean_force_profile
from sciflow.figures.scatter import posterior_scatter
from sciflow.figures.style import panels
from sciflow.figures.sweep import sweep_map
from sciflow.figures.traces import diagnostic_traces, ensemble_traces
from sciflow.figures.tracks import spread_and_error, track

FIGURES = {
    "posterior_gallery": posterior_gallery,
    "calibration": calibration,
    "rank_histogram": rank_histogram,
    "rank_functions": rank_functions,
    "loss_curve": loss_curve,
    "sampler_comparison": sampler_comparison,
    "posterior_scatter": posterior_scatter,
    "ensemble_traces": ensemble_traces,
    "diagnostic_traces": diagnostic_traces,
    "field_band": field_band,
    "track": track,
    "spread_and_error": spread_and_error,
    "sweep_map": sweep_map,
    "mean_force_profile": mean_force_profile,
    "distance_bars": distance_bars,
    "error_and_cost": error_and_cost,
    "category_dots": category_dots,
    "score_by_lead": score_by_lead,
    "spectra": spectra,
    "space_time": space_time,
    "ramachandran": ramachandran,
    "estimates": estimates,
    "overlap_matrix": overlap_matrix,
}

__all__ = [
    "FIGURES",
    "calibration",
    "category_dots",
    "diagnostic_traces",
    "distance_bars",
    "ensemble_traces",
    "error_and_cost",
    "estimates",
    "field_band",
    "loss_curve",
    "mean_force_profile",
    "overlap_matrix",
    "panels",
    "posterior_gallery",
    "posterior_scatter",
    "ramachandran",
    "rank_functions",
    "rank_histogram",
    "sampler_comparison",
    "score_by_lead",
    "space_time",
    "spectra",
    "spread_and_error",
    "sweep_map",
    "track",
]
