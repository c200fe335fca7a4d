"""Draw an Axes and return it; saving is the caller's business. `figure(…, ax=None)` makes its own Figure."""

from __future__ import annotations

from sciflow.figures.calibration import calibration, rank_histogram
from sciflow.figures.comparison import sampler_comparison
from sciflow.figures.gallery import posterior_gallery
from sciflow.figures.loss import loss_curve
from sciflow.figures.scatter import posterior_scatter
from sciflow.figures.style import panels

FIGURES = {
    "posterior_gallery": posterior_gallery,
    "calibration": calibration,
    "rank_histogram": rank_histogram,
    "loss_curve": loss_curve,
    "sampler_comparison": sampler_comparison,
    "posterior_scatter": posterior_scatter,
}

__all__ = [
    "FIGURES",
    "calibration",
    "loss_curve",
    "panels",
    "posterior_gallery",
    "posterior_scatter",
    "rank_histogram",
    "sampler_comparison",
]
