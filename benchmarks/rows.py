"""What every benchmark ends in: rows of claim, value, standard error, target and verdict."""

from __future__ import annotations

import itertools
import json
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

N_RESAMPLES = 400
LARGEST_ERROR = 0.05  # of the value: with a larger standard error there is no verdict


@dataclass(frozen=True)
class Row:
    """One number. `holds`: value ≤ target; None without a target, on a loaded machine or with too large an error."""

    claim: str
    value: float
    stderr: float
    target: float | None = None
    holds: bool | None = None


Statistic = Callable[[Sequence[int]], float]  # of the rounds with these numbers


def estimate(statistic: Statistic, sittings: Sequence[int], seed: int = 0) -> tuple[float, float]:
    """The statistic of all rounds, and its standard error by bootstrap over sittings and rounds within them.

    Args:
        statistic: of a choice of rounds.
        sittings: rounds of each sitting. Where its arrays come to lie makes each process a little faster or slower
            for good, so rounds of one sitting are not independent.
    """
    draw, ends = random.Random(seed), list(itertools.accumulate(sittings))
    members = [range(end - size, end) for end, size in zip(ends, sittings, strict=True)]

    def resample() -> list[int]:
        chosen = draw.choices(members, k=len(members))
        return [index for rounds in chosen for index in draw.choices(rounds, k=len(rounds))]

    return statistic(range(ends[-1])), statistics.stdev(statistic(resample()) for _ in range(N_RESAMPLES))


def judged(claim: str, statistic: Statistic, sittings: Sequence[int], target: float | None, quiet: bool) -> Row:
    """The row of a statistic over rounds, with a verdict where one can be given."""
    value, stderr = estimate(statistic, sittings)
    can_tell = target is not None and quiet and stderr <= LARGEST_ERROR * abs(value)
    return Row(claim, value, stderr, target, value <= target if can_tell and target is not None else None)


def verdict(row: Row) -> str:
    if row.target is None:
        return ""
    return {None: "no verdict", True: "holds", False: "DOES NOT HOLD"}[row.holds]


def text(rows: Sequence[Row]) -> str:
    """The rows as lines for a terminal."""
    width = max(len(row.claim) for row in rows)
    lines = [f"{'claim':{width}}  {'value':>9} {'± s.e.':>8} {'target':>8}  verdict"]
    for row in rows:
        target = "" if row.target is None else f"{row.target:.3f}"
        lines.append(f"{row.claim:{width}}  {row.value:9.3f} {row.stderr:8.3f} {target:>8}  {verdict(row)}".rstrip())
    return "\n".join(lines)


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| claim | value | s.e. | target | verdict |", "|---|---:|---:|---:|---|"]
    for row in rows:
        target = "" if row.target is None else f"{row.target:.2f}"
        lines.append(f"| {row.claim} | {row.value:.3g} | {row.stderr:.2g} | {target} | {verdict(row)} |")
    return "\n".join(lines)


def write(file: Path, rows: Sequence[Row], **facts: object) -> None:
    """One JSON object: what was measured, where and when, and its rows."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**facts, "rows": [asdict(row) for row in rows]}, indent=1, ensure_ascii=False) + "\n")
