"""The comparison of a sweep: every metric against the swept values, and which runs give least error for their cost."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.data.store import open_dataset
from sciflow.data.table import read_rows
from sciflow.figures.comparison import sampler_comparison
from sciflow.figures.front import error_and_cost
from sciflow.figures.sweep import sweep_map
from sciflow.metrics.front import LESS_IS_BETTER, MORE_IS_BETTER, best, front
from sciflow.stages.page import embedded, templates, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def compare(runs: Sequence[Path], out: Path) -> None:
    """The comparison page of a sweep: every metric against the swept values, and error against cost.

    Args:
        runs: folders of the children, each with run.yaml and metrics.csv; with samples.nc too, where sampling is
            part of what is swept, errors are set against the network calls of a draw.
        out: the page to write.
    """
    children, keys, truth = read_children(runs)
    lines = [
        ([_brief(swept.get(key, "")) for key in keys], name, row["posterior"], row)
        for name, swept, rows in children
        for row in rows
    ]
    costs = {folder.name: calls for folder in runs if (calls := _calls(folder / "samples.nc"))}
    metrics = list(dict.fromkeys(row["metric"] for *_, row in lines))
    grouped = [(metric, [line for line in lines if line[3]["metric"] == metric]) for metric in metrics]
    figures = [(embedded(figure), caption) for figure, caption in swept_figures(children, keys, metrics, truth)]
    fronts = [_front(metric, rows, costs) for metric, rows in grouped if metric in LESS_IS_BETTER and costs]
    page = (
        templates()
        .get_template("comparison.html")
        .render(
            title=f"Sweep of {out.parent.name}",
            keys=keys,
            grouped=grouped,
            figures=figures,
            bests={metric: found for metric, rows in grouped if (found := _best(metric, rows))},
            fronts=[found for found in fronts if found],
            children=[c[0] for c in children],
        )
    )
    write(out, page)


def _best(metric: str, lines: Sequence[tuple]) -> dict[str, Any] | None:
    """The best line of one metric, and how many others cannot be told from it; nothing where better has no meaning."""
    sign = 1 if metric in LESS_IS_BETTER else -1 if metric in MORE_IS_BETTER else 0
    values = [sign * row["value"] for *_, row in lines]
    if not sign or len(lines) < 2 or not any(map(math.isfinite, values)):
        return None
    place, others = best(values, [row["stderr"] for *_, row in lines])
    return {"line": lines[place], "others": len(others)}


def read_children(runs: Sequence[Path]) -> tuple[list[tuple], list[str], list[float | None]]:
    """(name, swept values, rows of metrics.csv) of each child, the swept keys, and what was true of each key."""
    from sciflow.yamlfile import load

    children: list[tuple] = []
    values: dict[str, Any] = {}
    for folder in runs:
        values = load(folder / "run.yaml")
        children.append((folder.name, values.get("swept", {}), read_rows(folder / "metrics.csv")))
    keys = list(dict.fromkeys(key for _, swept, _ in children for key in swept))
    return children, keys, [_truth(key, values) for key in keys]


def _brief(value: Any) -> str:
    return str(value.get("kind", json.dumps(value))) if isinstance(value, Mapping) else str(value)


def _truth(key: str, values: Mapping[str, Any]) -> float | None:
    """What was true of a swept assumption, where the data set of the run says it; None of anything else."""
    stage, _, name = key.partition(".likelihood.")
    if stage != "sample":
        return None
    place: Any = values.get("dataset", {}).get("observation", {})
    for part in ("noise.sigma" if name == "sigma" else name).split("."):
        place = place.get(part) if isinstance(place, Mapping) else None
    return float(place) if isinstance(place, int | float) else None


def swept_figures(
    children: Sequence[tuple], keys: Sequence[str], metrics: Sequence[str], truth: Sequence[float | None]
) -> Iterable[tuple]:
    """Figure and caption for each metric against one swept key, or a map over two, if they are numbers."""
    if len(keys) not in (1, 2) or not all(
        isinstance(swept.get(key), int | float) for _, swept, _ in children for key in keys
    ):
        return
    for metric in metrics:
        found: dict[str, dict[tuple, dict]] = {}
        for _, swept, rows in children:
            for row in rows:
                if row["metric"] == metric:
                    found.setdefault(row["posterior"], {})[tuple(swept[key] for key in keys)] = row
        name = metric.replace("_", " ")
        if len(keys) == 1:
            yield _curves(found, name, keys[0], truth[0]).figure, f"{name} for each value of {keys[0]}."
        else:
            for posterior, cells in found.items():
                yield (
                    _map(cells, name, posterior, keys, truth).figure,
                    f"{name} of {posterior} over {keys[0]} and {keys[1]}.",
                )


def _is_evidence(cells: Mapping[tuple, Mapping[str, Any]]) -> bool:
    return all(row["metric"] == "log_evidence" for row in cells.values())


def _curves(found: Mapping[str, Mapping[tuple, Mapping]], name: str, key: str, truth: float | None) -> Axes:
    """One curve for each sampler."""
    columns: dict[str, Any] = {
        posterior: tuple(zip(*sorted((*at, row["value"], row["stderr"]) for at, row in cells.items()), strict=True))
        for posterior, cells in found.items()
    }
    evidence = all(map(_is_evidence, found.values()))
    positive = not evidence and all(row["value"] > 0 for cells in found.values() for row in cells.values())
    goal = "higher explains the data better" if evidence else ""
    title = f"{name} against {key}"
    options: dict[str, Any] = {"is_log": positive, "goal": goal, "truth": truth, "title": title}
    return sampler_comparison(columns, quantity=name, cost=key, **options)


def _map(
    cells: Mapping[tuple, Mapping], name: str, posterior: str, keys: Sequence[str], truth: Sequence[float | None]
) -> Axes:
    """One cell for each pair of values."""
    axes = [sorted({at[k] for at in cells}) for k in range(2)]
    nothing = {"value": math.nan, "stderr": math.nan}
    value, stderr = (
        [[float(cells.get((x, y), nothing)[part]) for x in axes[0]] for y in axes[1]] for part in ("value", "stderr")
    )
    unit = next(iter(cells.values()))["unit"]
    return sweep_map(
        *(*axes, value, stderr),
        names=(keys[0], keys[1]),
        quantity=name,
        unit=unit,
        truth=(truth[0], truth[1]),
        is_difference=_is_evidence(cells),
        title=f"{name}, {posterior}",
    )


def _calls(samples: Path) -> dict[str, float]:
    """Sampler → network calls of a draw; empty where the run has no samples of its own."""
    if not samples.is_file():
        return {}
    with open_dataset(samples, stage="sample", load=False) as opened:
        calls = opened["nfe"].mean("observation").load()
    return {str(name): float(calls.sel(posterior=name)) for name in opened["posterior"].to_numpy()}


def _front(metric: str, lines: Sequence[tuple], costs: Mapping[str, Mapping[str, float]]) -> dict[str, Any] | None:
    """One error against cost: figure, and the runs that no other beats in both; nothing where all cost the same."""
    points = [
        (costs[run][name], row, line) for line in lines for _, run, name, row in [line] if name in costs.get(run, ())
    ]
    points = [point for point in points if math.isfinite(point[1]["value"])]
    if len({cost for cost, *_ in points}) < 2:
        return None
    chosen = front([cost for cost, *_ in points], [row["value"] for _, row, _ in points])
    labels = [", ".join(values) for _, _, (values, *_) in points]
    curves: dict[str, list[tuple]] = {}
    for (cost, row, (*_, name, _)), label in zip(points, labels, strict=True):
        curves.setdefault(name, []).append((cost, row["value"], row["stderr"], label))
    words = metric.replace("_", " ")
    drawn: Any = error_and_cost(
        curves,
        [points[k][0] for k in chosen],
        [points[k][1]["value"] for k in chosen],
        quantity=words,
        unit=points[0][1]["unit"],
        title=f"{words} against cost",
    )
    return {
        "metric": metric,
        "image": embedded(drawn.figure),
        "lines": [(points[k][0], *points[k][2]) for k in chosen],
    }
