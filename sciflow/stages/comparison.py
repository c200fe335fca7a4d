"""The comparison of a sweep: every metric against the swept values, and which runs give least error for their cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sciflow.metrics.better import shortfall, wanted, words
from sciflow.metrics.front import best
from sciflow.stages.gathered import Gathered, Line, gather
from sciflow.stages.page import embedded, templates, write
from sciflow.stages.sweep_costs import Costs, costs, error_fronts
from sciflow.stages.sweep_figures import swept_figures
from sciflow.yamlfile import load


def compare(runs: Sequence[Path], out: Path, owners: Mapping[str, Mapping[str, str]] | None = None) -> None:
    """The comparison page of a sweep: every metric against the swept values, and error against cost.

    Where seeds are swept, every number is the mean over them with the standard error that their spread gives.

    Args:
        runs: folders of the children, each with run.yaml and metrics.csv.
        out: the page to write.
        owners: name of a child → stage → name of the run that builds it, where it is not the child: the costs of
            `train` and `sample` are read from there.

    Raises:
        InputError: a file is missing or not one of ours.
    """
    sweep, asked = gather(runs), load(runs[0] / "run.yaml")
    known = costs({run.name: _built(run, (owners or {}).get(run.name, {})) for run in runs})
    page = (
        templates()
        .get_template("comparison.html")
        .render(
            title=str(asked.get("title") or f"Sweep of {out.parent.name}"),
            question=str(asked.get("question") or ""),
            name=out.parent.name,
            n_runs=len(runs),
            sweep=sweep,
            seeds=sweep.seeds,
            chapters=[_chapter(sweep, metric, known) for metric in sweep.metrics],
            unit=known.unit,
        )
    )
    write(out, page)


def _built(run: Path, owners: Mapping[str, str]) -> dict[str, Path]:
    """The artefacts whose costs count, where they lie: with the run, or with that which builds them for it."""
    found: dict[str, Path] = {}
    for artefact, stage, file in (("model", "train", "model.pt"), ("samples", "sample", "samples.nc")):
        own, other = run / file, run.parent / owners.get(stage, run.name) / file
        found[artefact] = own if own.is_file() else other
    return found


def _chapter(sweep: Gathered, metric: str, known: Costs) -> dict[str, Any]:
    """What the page says of one metric."""
    lines, front = sweep.metrics[metric], error_fronts(sweep, metric, known)
    return {
        "metric": metric,
        "lines": lines,
        "better": words(sweep.better[metric]),
        "best": _best(sweep, metric),
        "figures": [(embedded(figure), caption) for figure, caption in swept_figures(sweep, metric)],
        "front": front and {"image": embedded(front.figure), "lines": front.lines, "cost": front.cost,
                            "is_calls": front.is_calls},
    }  # fmt: skip


def _best(sweep: Gathered, metric: str) -> dict[str, Any] | None:
    """The best line of the samplers, how many others cannot be told from it, and what stands beside it.

    Nothing where better has no meaning or there is nothing to choose from.
    """
    better = sweep.better[metric]
    lines = [line for line in sweep.metrics[metric] if sweep.is_sampler(line)]
    if not better or len(lines) < 2 or not any(math.isfinite(line.value) for line in lines):
        return None
    place, others = best(
        [shortfall(line.value, better) for line in lines],
        [line.stderr for line in lines],
        [_by_seed(line, better) for line in lines] if sweep.seeds else (),
    )
    beside = [line for line in sweep.metrics[metric] if line.at == lines[place].at and not sweep.is_sampler(line)]
    return {"line": lines[place], "others": len(others), "n": len(lines), "beside": beside}


def _by_seed(line: Line, better: str) -> dict[str, float]:
    """How far each seed falls short; with a value that is right, on the side on which the mean lies."""
    around = line.value if wanted(better) is not None else None
    return {seed: shortfall(value, better, around) for seed, value in line.values.items()}
