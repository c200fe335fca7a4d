"""What do we show? How wrong each sampler is, beside exact draws, at what cost."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from sciflow.domains.analytic import path_figures
from sciflow.domains.ensembles import ENSEMBLES
from sciflow.domains.protocol import Drawing, Evidence, unmarked
from sciflow.domains.shown import calibration_verdicts, functions
from sciflow.figures.comparison import sampler_comparison
from sciflow.figures.scatter import posterior_scatter
from sciflow.figures.style import panels

EXACT = "exact draws"
PANELS = 4  # scatter plots in a row


def _compared(
    evidence: Evidence, metric: str, caption: str, quantity: str, unit: str, title: str, is_log: bool = True
) -> Drawing | None:
    """One metric of every sampler against the network calls per draw, with the floor of exact draws."""
    cost = evidence.samples["nfe"].mean("observation")
    rows = [row for row in evidence.rows if row["metric"] == metric]
    curves = {
        row["posterior"]: (float(cost.sel(posterior=row["posterior"])), row["value"], row["stderr"])
        for row in rows
        if row["posterior"] != EXACT
    }
    if not curves:
        return None
    is_log = is_log and all(value > 0 for _, value, _ in curves.values())
    floors = [row for row in rows if row["posterior"] == EXACT]
    floor = (0.0, floors[0]["value"], floors[0]["stderr"]) if floors else None
    order = list(_families({str(name): (0.0, 0.0, 0.0) for name in cost["posterior"].to_numpy()}))
    ax = sampler_comparison(
        _families(curves), floor=floor, quantity=quantity, unit=unit, order=order, title=title, is_log=is_log
    )
    return Drawing(ax, caption)


def _families(curves: dict[str, tuple[float, float, float]]) -> dict[str, tuple]:
    """Samplers that differ in a trailing number of particles form one curve."""
    families: dict[str, list[tuple[float, float, float]]] = {}
    for name, point in curves.items():
        families.setdefault(unmarked(name.split(" N=")[0]), []).append(point)
    return {name: tuple(np.array(sorted(points)).T) for name, points in families.items()}


def distance(evidence: Evidence) -> Drawing | None:
    """Sliced Wasserstein distance against cost."""
    caption = (
        "How far the samples are from exact draws of the same posterior, averaged over observations. The grey band is "
        "the distance between two sets of exact draws: nothing can be seen below it. A guided sampler stays above it "
        "however many steps it takes."
    )
    quantity, title = "sliced W2 to exact draws", "Distance to the exact posterior"
    return _compared(evidence, "sliced_w2", caption, quantity, "1", title)


def modes(evidence: Evidence) -> Drawing | None:
    """Error of the mode weights against cost."""
    caption = (
        "Share of the probability that sits in the wrong mode; 0 is exact, 1 is all of it. Image quality scores cannot "
        "see this error."
    )
    quantity, title = "total variation of mode weights", "Are the modes found in the right proportion?"
    return _compared(evidence, "mode_weight_tv", caption, quantity, "1", title)


def path(evidence: Evidence) -> Drawing | None:
    """Error of the ends against cost, for solvers that start from the same points."""
    caption = (
        "Distance between the end of a solver and the end of the exact flow from the same start, median over draws. "
        "Every solver sees the same exact denoiser on the same grid."
    )
    return _compared(evidence, "path_error", caption, "distance to the exact end", "1", "Error of each solver")


def evidence_bias(evidence: Evidence) -> Drawing | None:
    """Error of the log-evidence against cost; nothing where no sampler estimates it."""
    caption = (
        "Only sequential Monte Carlo estimates the evidence, the probability of the observation under the model. Mean "
        "over observations; exact is 0."
    )
    quantity, title = "log Ẑ − log Z", "Error of the evidence"
    return _compared(evidence, "evidence_bias", caption, quantity, "nat", title, is_log=False)


def scatter(evidence: Evidence) -> Drawing | None:
    """Samples of a few samplers over the exact posterior of one observation."""
    if "shown" not in evidence.arrays:
        return None
    arrays, index = evidence.arrays, int(evidence.arrays["shown"])
    samples = evidence.samples["samples"].isel(observation=index)
    names = [str(name) for name in samples["posterior"].to_numpy()]
    chosen = names if len(names) <= PANELS else [*names[: PANELS - 1], names[-1]]
    axes = panels(len(chosen), 4.0, 4.6)
    x, y, density = (arrays[name].to_numpy() for name in ("x", "y", "log_density"))
    truth = evidence.data["truth"].isel(observation=index).to_numpy()[:2]
    for ax, name in zip(axes, chosen, strict=True):
        dots = samples.sel(posterior=name).to_numpy()[:, :2]
        posterior_scatter(dots, x, y, density, truth=truth, title=unmarked(name), ax=ax)
    return Drawing(axes[0], "One observation, first two coordinates. Shading is the exact posterior, dots are "
                   "draws: empty shading is a lost mode, dots outside it are wrong.")  # fmt: skip


def verdicts(evidence: Evidence) -> list[str]:
    """Which samplers reach the floor of exact draws, and by how much the others miss it."""
    if path_figures.is_of_paths(evidence):
        return path_figures.verdicts(evidence)
    rows = [row for row in evidence.rows if row["metric"] == "sliced_w2"]
    floor = next((row for row in rows if row["posterior"] == EXACT), None)
    if floor is None:
        return []
    found = []
    for row in rows:
        if row["posterior"] == EXACT:
            continue
        excess, stderr = row["value"] - floor["value"], math.hypot(row["stderr"], floor["stderr"])
        times = row["value"] / floor["value"]
        said = f"is {times:.1f} times as far from the exact posterior as exact draws are ({excess:+.2f} ± {stderr:.2f})"
        good = "cannot be told from exact draws at this sample size"
        found.append(f"{row['posterior']} {said if excess > 2 * stderr else good}.")
    return [*found, *calibration_verdicts(evidence)]


FIGURES: dict[str, Callable[[Evidence], Drawing | None]] = {
    "distance": distance,
    "mode_weights": modes,
    "evidence": evidence_bias,
    "scatter": scatter,
    "path_error": path,
    **ENSEMBLES,
    "rank_functions": functions,
    **path_figures.FIGURES,
}
