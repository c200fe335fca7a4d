"""What each run of a sweep cost, and which give least error for it: calls of a draw, or seconds of train and sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.data.seeds import over_seeds
from sciflow.data.store import open_dataset, provenance_path, read_provenance
from sciflow.figures.front import error_and_cost
from sciflow.metrics.better import LESS, MORE, shortfall
from sciflow.metrics.front import front
from sciflow.stages.gathered import Gathered, Line, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Run = tuple[str, str]  # name of the run, sampler


@dataclass(frozen=True)
class Costs:
    """Costs of every sampler of every run, where they are known.

    Args:
        calls: network calls of a draw.
        seconds: of training, and of the sampler's share of sampling.
        unit: "CPU seconds", or "GPU seconds" where every run held a GPU.
    """

    calls: Mapping[Run, float]
    seconds: Mapping[Run, float]
    unit: str

    def of(self, line: Line, is_calls: bool) -> float:
        """Mean over the seeds of a line; NaN where one is not known."""
        known = self.calls if is_calls else self.seconds
        return over_seeds([known.get((run, line.posterior), math.nan) for run in line.runs.values()])[0].item()

    def counts_calls(self, sweep: Gathered) -> bool:
        """Whether calls of a draw are the cost to look at: they differ, and training is not swept."""
        return len(set(self.calls.values())) > 1 and not any(key.startswith("train.") for key in sweep.keys)


@dataclass(frozen=True)
class Front:
    """One metric against cost.

    Args:
        figure: all runs and samplers.
        lines: those that no other beats, each with calls and seconds, in order of cost.
        cost: what is counted, in words.
        is_calls: whether that is calls of a draw.
    """

    figure: Figure
    lines: Sequence[tuple[float, float, Line]]
    cost: str
    is_calls: bool


def costs(files: Mapping[str, Mapping[str, Path]]) -> Costs:
    """Read what the runs cost.

    Args:
        files: name of a run → artefact (`model`, `samples`) → its file, wherever it lies.

    Raises:
        InputError: a file that is truncated, damaged or foreign.
    """
    calls: dict[Run, float] = {}
    spent: dict[str, dict[Run, float]] = {"cpu_seconds": {}, "gpu_seconds": {}}
    read: dict[Path, Mapping[str, float]] = {}
    for run, own in files.items():
        samples = own.get("samples")
        if samples is None or not samples.is_file():
            continue
        if samples not in read:
            read[samples] = _calls(samples)
        calls |= {(run, name): value for name, value in read[samples].items()}
        trained, drawn = _facts(own.get("model")), _facts(samples)
        for kind, found in spent.items():
            found |= {(run, name): value for name, value in _seconds(trained, drawn, kind).items()}
    held = spent["gpu_seconds"]
    kind = "gpu_seconds" if held and held.keys() == spent["cpu_seconds"].keys() else "cpu_seconds"
    return Costs(calls, spent[kind], f"{kind[:3].upper()} seconds")


def _facts(artefact: Path | None) -> Mapping[str, Any]:
    return read_provenance(artefact) if artefact is not None and provenance_path(artefact).is_file() else {}


def _calls(samples: Path) -> dict[str, float]:
    """Sampler → network calls of a draw."""
    with open_dataset(samples, stage="sample", load=False) as opened:
        calls = opened["nfe"].mean("observation").load()
    return {str(name): float(calls.sel(posterior=name)) for name in opened["posterior"].to_numpy()}


def _seconds(trained: Mapping[str, Any], drawn: Mapping[str, Any], kind: str) -> dict[str, float]:
    """Sampler → seconds of training and of its share of sampling; empty where neither sidecar has seconds of a kind.

    s_k = s_train + s_sample t_k / Σ_j t_j,   t_k the sampler's own seconds by the clock
    """
    clock = drawn.get("posterior_seconds")
    known = [facts[kind] for facts in (trained, drawn) if kind in facts]
    if not known or not isinstance(clock, Mapping) or not sum(clock.values()) > 0:
        return {}
    train, sample = (float(facts.get(kind, 0.0)) for facts in (trained, drawn))
    return {str(name): train + sample * float(own) / sum(clock.values()) for name, own in clock.items()}


def error_fronts(sweep: Gathered, metric: str, known: Costs) -> Front | None:
    """One metric against cost, and the lines that no other beats in both.

    Nothing where less or more is not better, for fewer than two points, or where all cost the same.
    """
    better, is_calls = sweep.better[metric], known.counts_calls(sweep)
    if better not in (LESS, MORE):
        return None
    points = [(known.of(line, is_calls), line) for line in sweep.metrics[metric] if sweep.is_sampler(line)]
    points = [(cost, line) for cost, line in points if math.isfinite(cost) and math.isfinite(line.value)]
    if len({cost for cost, _ in points}) < 2:
        return None
    chosen = front([cost for cost, _ in points], [shortfall(line.value, better) for _, line in points])
    cost = "network calls of a draw" if is_calls else f"{known.unit} of train and sample"
    return Front(
        _drawn(sweep, points, chosen, cost),
        [(known.of(points[k][1], True), known.of(points[k][1], False), points[k][1]) for k in chosen],
        cost,
        is_calls,
    )


def _drawn(sweep: Gathered, points: Sequence[tuple[float, Line]], chosen: Sequence[int], cost: str) -> Figure:
    curves: dict[str, list[tuple]] = {}
    for at, line in points:
        curves.setdefault(sweep.names[line.posterior], []).append(
            (at, line.value, line.stderr, shown(", ".join(line.at[k] for k in sweep.varied)))
        )
    line = points[0][1]
    words, is_less = shown(line.metric.replace("_", " ")), sweep.better[line.metric] == LESS
    drawn: Any = error_and_cost(
        curves,
        [points[k][0] for k in chosen],
        [points[k][1].value for k in chosen],
        quantity=words,
        unit=shown(line.unit),
        cost=cost,
        is_log=is_less and all(line.value > 0 for _, line in points),
        goal=f"{'lower' if is_less else 'upper'} left is better",
        title=f"{words} against cost",
    )
    return drawn.figure
