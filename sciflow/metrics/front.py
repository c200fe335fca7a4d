"""Which of many results are worth their cost?"""

from __future__ import annotations

import math
from collections.abc import Sequence

LESS_IS_BETTER = frozenset(
    {"rmse", "crps", "energy_score", "sliced_w2", "mode_weight_tv", "path_error", "rank_distance"}
)
"""Rows of a table of metrics that are distances, 0 for a perfect sampler (or what exact draws score)."""

MORE_IS_BETTER = frozenset({"log_evidence", "psnr", "ssim"})
"""Rows that are larger the better."""


def best(value: Sequence[float], stderr: Sequence[float]) -> tuple[int, list[int]]:
    """The place of the least value, and those that cannot be told from it: nearer than twice the error of a difference.

    The errors count as independent; where runs share observations their differences are known better than that. One
    that is not known counts as none.

    Args:
        value: of each point; NaN never is the least.
        stderr: its standard error, NaN where it is not known.
    Raises:
        ValueError: no value at all.
    """
    known = [k for k, one in enumerate(value) if math.isfinite(one)]
    if not known:
        raise ValueError("there is no finite value, so none is the least.")
    least = min(known, key=lambda k: value[k])
    error = [one if math.isfinite(one) else 0.0 for one in stderr]
    near = [k for k in known if value[k] - value[least] <= 2 * math.hypot(error[k], error[least])]
    return least, [k for k in near if k != least]


def front(cost: Sequence[float], error: Sequence[float]) -> list[int]:
    """The Pareto front: places of the points that no other point beats, in order of cost.

    A point is beaten if another costs no more and errs no more, and one of the two is less. Of equal points the first
    counts. The errors are taken as they are: points closer than their standard errors may change places.

    Args:
        cost, error: of each point, finite.

    Source: Kung, Luccio and Preparata (1975), On finding the maxima of a set of vectors, section 2.
    """
    order = sorted(range(len(cost)), key=lambda k: (cost[k], error[k]))
    kept: list[int] = []
    for k in order:
        if not kept or error[k] < error[kept[-1]]:
            kept.append(k)
    return kept
