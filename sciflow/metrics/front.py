"""Which of many results are worth their cost?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.special import stdtrit

LEVEL = 0.975  # of Student's t: two-sided 95 %


def best(
    value: Sequence[float], stderr: Sequence[float], seeds: Sequence[Mapping[Any, float]] = ()
) -> tuple[int, list[int]]:
    """The place of the least value, and those that cannot be told from it: nearer than twice the error of a difference.

    The errors count as independent; where runs share observations their differences are known better than that. One
    that is not known counts as none. Where two points share seeds, their differences seed by seed decide instead, what
    the seeds have in common left out, with Student's t in place of two: of n seeds

        d̄ ≤ t_{0.975, n−1} sd(d)/√n

    The least of many is chosen by luck, too: the more points there are, the more may be its equals.

    Args:
        value: of each point; NaN never is the least.
        stderr: its standard error, NaN where it is not known.
        seeds: of each point, seed → value; empty where there are none.

    Raises:
        ValueError: no value at all.

    Source: Student (1908), The probable error of a mean, for paired differences.
    """
    known = [k for k, one in enumerate(value) if math.isfinite(one)]
    if not known:
        raise ValueError("there is no finite value, so none is the least.")
    least = min(known, key=lambda k: value[k])
    error = [one if math.isfinite(one) else 0.0 for one in stderr]

    def is_near(k: int) -> bool:
        shared = [seed for seed in seeds[k] if seed in seeds[least]] if seeds else []
        if len(shared) < 2:
            return value[k] - value[least] <= 2 * math.hypot(error[k], error[least])
        differences = [seeds[k][seed] - seeds[least][seed] for seed in shared]
        mean = sum(differences) / len(shared)
        squares = sum((one - mean) ** 2 for one in differences)
        return mean <= float(stdtrit(len(shared) - 1, LEVEL)) * math.sqrt(squares / len(shared) / (len(shared) - 1))

    return least, [k for k in known if k != least and is_near(k)]


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
