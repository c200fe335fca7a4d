"""Which way is better? The direction of every row that a metric gives, beside the tables of metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping

from sciflow.errors import InputError
from sciflow.metrics.calibration import LEVELS

LESS, MORE = "less", "more"
Direction = str | float
"""LESS, MORE, or the value that is right: the nearer to it the better."""

BETTER: dict[str, Mapping[str, Direction]] = {
    "psnr": {"psnr": MORE},
    "ssim": {"ssim": MORE},
    "rmse": {"rmse": LESS},
    "nrmse": {"nrmse": LESS},
    "vrmse": {"vrmse": LESS},
    "crps": {"crps": LESS},
    "energy_score": {"energy_score": LESS},
    "coverage": {f"coverage_{100 * level:.0f}": level for level in LEVELS},
    "spread_skill": {"spread_skill": 1.0},
    "rank_histogram": {"rank_distance": LESS, "rank_bias": 0.0, "rank_dispersion": 0.0},
    "sbc": {},  # p-values: those of a calibrated sampler are uniform, none is better than another
    "tarp": {"tarp_atc": 0.0},
    "sliced_w2": {"sliced_w2": LESS},
    "mode_weights": {"mode_weight_tv": LESS},
    "evidence_error": {"evidence_bias": 0.0, "evidence_error": LESS, "evidence_z": 1.0, "evidence_z_islands": 1.0},
    "log_evidence": {"log_evidence": MORE, "log_evidence_islands": MORE},
    "ess": {},  # large, too, where a whole mode was missed
}
"""Metric → row of metrics.csv → its direction; a row that is not here is not ranked."""


def directions(*tables: Mapping[str, Mapping[str, Direction]]) -> dict[str, str]:
    """Row → "less", "more", or the value that is right as text: the column `better` of metrics.csv.

    Args:
        tables: metric → row → direction; the entry of a metric in a later table replaces that in an earlier one.

    Raises:
        InputError: a direction that is none.
    """
    found: dict[str, str] = {}
    joined = {metric: rows for table in tables for metric, rows in table.items()}
    for metric, rows in joined.items():
        for row, direction in rows.items():
            text = direction if isinstance(direction, str) else f"{direction:g}"
            if not known(text):
                raise InputError(
                    f"BETTER[{metric!r}][{row!r}] must be {LESS!r}, {MORE!r} or the finite number that is right, got "
                    f"{direction!r}. Leave the row out if it is not ranked."
                )
            found[row] = text
    return found


def known(text: str) -> str:
    """The direction that a table holds; empty, not ranked, for anything that is none."""
    return text if text in (LESS, MORE) or wanted(text) is not None else ""


def wanted(better: str) -> float | None:
    """The value that is right, where a direction names one."""
    try:
        value = float(better)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def words(better: str) -> str:
    """A direction as a page says it."""
    if not known(better):
        return "not ranked"
    return f"{better} is better" if wanted(better) is None else f"nearer to {better} is better"


def shortfall(value: float, better: str, around: float | None = None) -> float:
    """How far a value falls short, so that less is better.

        x where less is better,   −x where more is,   |x − x₀| where x₀ is right

    Args:
        value: x.
        better: a direction; must rank.
        around: the mean m that `value` belongs to, with x₀ alone: then sign(m − x₀)(x − x₀), whose mean is |m − x₀|.
    """
    right = wanted(better)
    if right is None:
        return value if better == LESS else -value
    return math.copysign(1.0, (value if around is None else around) - right) * (value - right)


def declared(metric: str, tables: Mapping[str, Mapping[str, Direction]]) -> str:
    """The directions of one metric in a few words, for `sciflow list metrics`."""
    found = directions({metric: tables.get(metric, {})})
    if set(found) == {metric} and wanted(found[metric]) is None:
        return found[metric]
    return (
        ", ".join(f"{row} {'near ' * (wanted(text) is not None)}{text}" for row, text in found.items()) or "not ranked"
    )
