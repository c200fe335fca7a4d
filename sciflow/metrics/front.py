"""Which of many results are worth their cost?"""

from __future__ import annotations

from collections.abc import Sequence

LESS_IS_BETTER = frozenset(
    {"rmse", "crps", "energy_score", "sliced_w2", "mode_weight_tv", "path_error", "rank_distance"}
)
"""Rows of a table of metrics that are distances, 0 for a perfect sampler (or what exact draws score)."""


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
