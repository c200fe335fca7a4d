"""The figures of a sweep: curves over one key, maps over two, and dots for what is no number or has more keys."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sciflow.figures.categories import category_dots
from sciflow.figures.comparison import sampler_comparison
from sciflow.figures.sweep import sweep_map
from sciflow.metrics.better import LESS, MORE, shortfall, wanted
from sciflow.stages.gathered import LONGEST, Gathered, Line, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_ROWS = 16  # settings in a figure of dots: more cannot be read, and the table has all
WIDE = 4  # a factor that errors must span for a logarithmic axis
GOALS = {LESS: "lower is better", MORE: "higher is better", "": "not ranked"}


def swept_figures(sweep: Gathered, metric: str) -> Iterator[tuple[Figure, str]]:
    """Figure and caption of one metric over what was swept; none for a metric without finite numbers.

    One key of numbers gives curves, two a map for each sampler; anything else, and more keys, a row for each setting.

    Args:
        sweep: its lines; those of other metrics are left aside.
        metric: of metrics.csv.
    """
    lines = [line for line in sweep.lines if line.metric == metric and math.isfinite(line.value)]
    axes = sweep.varied
    if not lines:
        return
    if len(axes) == 1 and sweep.are_numbers(axes):
        yield _curves(sweep, lines), f"{_name(metric)} for each value of {sweep.keys[axes[0]]}.{_seeds(sweep)}"
    elif len(axes) == 2 and sweep.are_numbers(axes):
        across, up = (sweep.keys[k] for k in axes)
        for posterior in dict.fromkeys(line.posterior for line in lines):
            own = [line for line in lines if line.posterior == posterior]
            yield _map(sweep, own), f"{_name(metric)} of {posterior} over {across} and {up}.{_seeds(sweep)}"
    else:
        yield from _dots(sweep, lines)


def _name(metric: str) -> str:
    return metric.replace("_", " ")


def _seeds(sweep: Gathered) -> str:
    return f" Mean over {len(sweep.seeds)} seeds, error from their spread." if sweep.seeds else ""


def _number(sweep: Gathered, line: Line, key: int) -> float:
    return float(sweep.values[key][line.at[key]])


def _samplers(sweep: Gathered, lines: Sequence[Line]) -> dict[str, list[Line]]:
    """Name as a figure shows it → lines."""
    names = sweep.names
    found: dict[str, list[Line]] = {}
    for line in lines:
        found.setdefault(names[line.posterior], []).append(line)
    return found


def _look(sweep: Gathered, lines: Sequence[Line]) -> dict[str, Any]:
    """What figures of curves and of dots share."""
    metric, better, values = lines[0].metric, sweep.better[lines[0].metric], [line.value for line in lines]
    right = wanted(better)
    return {
        "quantity": shown(_name(metric)),
        "unit": shown(lines[0].unit),
        "is_log": better == LESS and min(values) > 0 and max(values) > WIDE * min(values),
        "goal": f"nearer to {better} is better" if right is not None else GOALS[better],
        "right": right,
        "order": list(sweep.names.values()),
    }


def _curves(sweep: Gathered, lines: Sequence[Line]) -> Figure:
    """One curve for each sampler."""
    (key,) = sweep.varied
    columns: dict[str, Any] = {
        name: tuple(zip(*sorted((_number(sweep, line, key), line.value, line.stderr) for line in own), strict=True))
        for name, own in _samplers(sweep, lines).items()
    }
    look = _look(sweep, lines)
    across = shown(sweep.keys[key], 2 * LONGEST)
    title = f"{look['quantity']} against {across}"
    axes = sampler_comparison(columns, cost=across, truth=sweep.truth[key], title=title, **look)
    return _whole(axes)


def _map(sweep: Gathered, lines: Sequence[Line]) -> Figure:
    """One cell for each pair of values, of one sampler."""
    keys, look = sweep.varied, _look(sweep, lines)
    cells = {tuple(_number(sweep, line, key) for key in keys): line for line in lines}
    x, y = (sorted({float(value) for value in sweep.values[key].values()}) for key in keys)
    value, stderr = (
        [[getattr(cells[a, b], part) if (a, b) in cells else math.nan for a in x] for b in y]
        for part in ("value", "stderr")
    )
    better = sweep.better[lines[0].metric]
    is_ranked = better != "" and sweep.is_sampler(lines[0])
    least = min(cells, key=lambda at: shortfall(cells[at].value, better)) if is_ranked else None
    return _whole(
        sweep_map(
            *(x, y, value, stderr),
            names=(shown(sweep.keys[keys[0]]), shown(sweep.keys[keys[1]])),
            quantity=look["quantity"],
            unit=look["unit"],
            truth=(sweep.truth[keys[0]], sweep.truth[keys[1]]),
            is_difference=lines[0].metric == "log_evidence",
            best=None if least is None else (y.index(least[1]), x.index(least[0])),
            goal=look["goal"],
            title=f"{look['quantity']}, {sweep.names[lines[0].posterior]}",
        )
    )


def _dots(sweep: Gathered, lines: Sequence[Line]) -> Iterator[tuple[Figure, str]]:
    """A row for each setting; where no key has two values, for each sampler. Nothing for too many without a rank."""
    better, look, keys = sweep.better[lines[0].metric], _look(sweep, lines), [sweep.keys[k] for k in sweep.varied]
    marks = [_mark(sweep, line) for line in lines]
    rows = list(dict.fromkeys(marks))
    if len(rows) > MOST_ROWS and not better:
        return
    is_sorted = better != "" and (len(keys) > 2 or len(rows) > MOST_ROWS)
    if is_sorted:
        rows = _ranked(sweep, lines, marks, better)
    places = {row: k for k, row in enumerate(rows[:MOST_ROWS])}
    dots: dict[str, list[tuple]] = {}
    names = sweep.names if keys else {}
    for line, mark in zip(lines, marks, strict=True):
        if mark in places:
            dots.setdefault(names.get(line.posterior, ""), []).append((places[mark], line.value, line.stderr))
    name, what = _name(lines[0].metric), ", ".join(keys) or "sampler"
    axes = category_dots(
        {sampler: tuple(zip(*found, strict=True)) for sampler, found in dots.items()},  # type: ignore[misc]
        [shown(row, 2 * LONGEST) for row in places],
        settings=shown(what if len(keys) < 2 else ""),
        title=f"{look['quantity']} for each {'setting' if keys else 'sampler'}",
        **(look if keys else {**look, "order": ()}),
    )
    order = ", the best first" if is_sorted else ""
    part = f" The first {MOST_ROWS} of {len(rows)}; the table has all." if len(rows) > MOST_ROWS else ""
    yield _whole(axes), f"{name} for each {'value of ' if keys else ''}{what}{order}.{part}{_seeds(sweep)}"


def _ranked(sweep: Gathered, lines: Sequence[Line], marks: Sequence[str], better: str) -> list[str]:
    """Settings in the order of their best sampler; what stands beside the samplers does not count."""
    least = dict.fromkeys(marks, math.inf)
    for line, mark in zip(lines, marks, strict=True):
        if sweep.is_sampler(line):
            least[mark] = min(least[mark], shortfall(line.value, better))
    return sorted(least, key=least.__getitem__)


def _mark(sweep: Gathered, line: Line) -> str:
    """What tells the setting of a line from the others."""
    keys = sweep.varied
    if len(keys) < 2:
        return line.at[keys[0]] if keys else line.posterior
    names = short([sweep.keys[k] for k in keys])
    return ", ".join(f"{name} {line.at[k]}" for name, k in zip(names, keys, strict=True))


def short(keys: Sequence[str]) -> list[str]:
    """Dotted keys by as many of their last parts as tell them apart."""
    cuts = ([".".join(key.split(".")[-n:]) for key in keys] for n in itertools.count(1))
    return next(cut for cut in cuts if len(set(cut)) == len(set(keys)))


def _whole(axes: Any) -> Figure:
    return axes.get_figure(root=True)
