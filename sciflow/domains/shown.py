"""Figures that domains of fields and images share: whether the uncertainty can be believed, and how training went."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sciflow.domains.protocol import Drawing, Evidence, unmarked
from sciflow.figures.calibration import calibration, rank_functions, rank_histogram
from sciflow.figures.loss import loss_curve
from sciflow.figures.style import wrapped
from sciflow.metrics.uniformity import LEVEL

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes


ENDS = ("point", "low", "high")
ROUNDING = 1e-12  # of a p-value


def coverage(evidence: Evidence) -> Drawing:
    """Coverage of credible intervals against their nominal level."""
    arrays = evidence.arrays
    names = arrays["posterior"].to_numpy().tolist()
    both = arrays[["coverage", "coverage_stderr"]]
    chosen = {unmarked(name): both.sel(posterior=name) for name in names}
    curves = {name: (one["coverage"].to_numpy(), one["coverage_stderr"].to_numpy()) for name, one in chosen.items()}
    ax = calibration(arrays["level"].to_numpy(), curves)
    return Drawing(
        ax,
        "A calibrated posterior lies on the diagonal: its 90 % intervals hold the truth 90 % of the time. Below the "
        "diagonal it is over-confident. Only values that had to be inferred, and vary, are counted.",
    )


def rank_panels(axes: Sequence[Axes], arrays: xr.Dataset, names: Sequence[str]) -> None:
    """A rank histogram for each posterior, each in an Axes of its own."""
    for ax, name in zip(axes, names, strict=True):
        chosen = arrays.sel(posterior=name)
        density, stderr = chosen["rank_density"].to_numpy(), chosen["rank_density_stderr"].to_numpy()
        rank_histogram(arrays["rank_edge"].to_numpy(), density, stderr, title=unmarked(name), ax=ax)


def ranks(evidence: Evidence) -> Drawing:
    """Rank of the truth among its draws, one panel for each posterior."""
    names = evidence.arrays["posterior"].to_numpy().tolist()
    axes = wrapped(len(names))
    rank_panels(axes, evidence.arrays, names)
    return Drawing(
        axes[0],
        "Where the truth falls among the sorted draws. Flat is calibrated; high ends mean that the draws are too "
        "narrow, a hump that they are too wide, a slope that they are shifted.",
    )


def functions(evidence: Evidence) -> Drawing | None:
    """Distribution functions of the ranks of test quantities, one panel for each posterior."""
    if "rank_function" not in evidence.arrays:
        return None
    arrays = evidence.arrays
    names, shown = arrays["posterior"].to_numpy().tolist(), arrays["quantity"].to_numpy().tolist()
    axes = wrapped(len(names), 5.2, 4.0)
    points, low, high = (arrays[f"rank_{n}"].to_numpy() for n in ENDS)
    for ax, name in zip(axes, names, strict=True):
        lines = {quantity: arrays["rank_function"].sel(posterior=name, quantity=quantity) for quantity in shown}
        rank_functions(points, {k: v.to_numpy() for k, v in lines.items()}, low, high, title=unmarked(name), ax=ax)
    return Drawing(
        axes[0],
        "Simulation-based calibration over all observations: a calibrated posterior keeps each line within the grey "
        "band. The log-likelihood looks at the data and sees draws that ignore it; the distance is that of TARP.",
    )


def loss(evidence: Evidence) -> Drawing | None:
    """Training and validation loss; nothing for a prior that was not trained here."""
    history = evidence.history
    validation = history.get("validation", {})
    values = history.get("loss", [])
    if not values:
        return None
    ax = loss_curve(np.arange(1, len(values) + 1), values, list(validation), list(validation.values()))
    return Drawing(
        ax,
        "The network's denoising error during training. A validation loss that rises while the training loss falls "
        "would mean that the prior memorises its training set.",
    )


def verdicts(evidence: Evidence) -> list[str]:
    """Whether the credible intervals can be believed."""
    covered = [
        f"{row['posterior']}: 90 % credible intervals hold the truth in {_percent(row['value'], row['stderr'])} of the "
        f"inferred values ({row['note'].partition('; ')[2] or row['note']})."
        for row in evidence.rows
        if row["metric"] == "coverage_90"
    ]
    return [*covered, *calibration_verdicts(evidence)]


def _percent(share: float, stderr: float) -> str:
    """A share with its error, if there is one: a single observation gives none."""
    return f"{100 * share:.1f}{'' if math.isnan(stderr) else f' ± {100 * stderr:.1f}'} %"


def calibration_verdicts(evidence: Evidence) -> list[str]:
    """Which samplers' ranks are not uniform, where simulation-based calibration was asked for."""
    tested: dict[str, list[dict]] = {}
    for row in evidence.rows:
        if row["metric"] in ("sbc_p", "sbc_fit_p"):
            tested.setdefault(row["posterior"], []).append(dict(row))
    found = []
    for name, rows in tested.items():
        worst = min(rows, key=lambda row: row["value"])
        p = len(rows) * float(worst["value"])  # one of several was chosen
        wrong = f"is not calibrated: {worst['note']} (p {f'= {p:.2g}' if p > ROUNDING else '< 1e-12'})"
        right = f"passes simulation-based calibration over {worst['n']} observations"
        found.append(f"{name} {wrong if p < 1 - LEVEL else right}.")
    return found


CALIBRATION: dict[str, Callable[[Evidence], Drawing | None]] = {
    "calibration": coverage,
    "rank_histogram": ranks,
    "rank_functions": functions,
    "loss_curve": loss,
}
