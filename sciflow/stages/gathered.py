"""What a sweep gave: the tables of its children in lines, each the mean over seeds where seeds are swept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sciflow.data.seeds import SEED, over_seeds
from sciflow.data.table import read_rows
from sciflow.domains.protocol import unmarked
from sciflow.metrics.better import known
from sciflow.yamlfile import load

LONGEST = 36  # letters of a name in a figure: longer ones leave no room for what they name


@dataclass(frozen=True)
class Child:
    """One run of a sweep.

    Args:
        name: of its folder.
        swept: key → value.
        rows: of metrics.csv.
    """

    name: str
    swept: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]

    @property
    def seed(self) -> str:
        """The swept seed as text; empty where none is swept."""
        return _written(self.swept[SEED]) if SEED in self.swept else ""


@dataclass(frozen=True)
class Line:
    """One number of a sampler at one setting of the swept keys.

    Args:
        at: the setting: for each key that is not the seed the value, as text that tells values apart.
        posterior, metric, unit, note: as in metrics.csv; no note where several runs stand in one line.
        value, stderr: as in metrics.csv; with seeds, mean over them and its standard error from their spread.
        n: as in metrics.csv; with seeds, how many there are.
        runs: seed (empty where none is swept) → the run.
        values: seed → the value in that run.
    """

    at: tuple[str, ...]
    posterior: str
    metric: str
    unit: str
    note: str
    value: float
    stderr: float
    n: int
    runs: Mapping[str, str]
    values: Mapping[str, float]


@dataclass(frozen=True)
class Gathered:
    """A sweep as its page shows it.

    Args:
        keys: swept keys, the seed left out.
        values: of each key, its values as they were written, by their text.
        truth: of each key, what was true of it, where the data set says so.
        seeds: of the sweep; empty where they are not swept.
        samplers: names in the run file; other lines (exact draws, classical reconstructions) are there to compare with.
        better: metric → which way is better, empty where it is not ranked.
        lines: metric by metric, in the order of the tables.
    """

    keys: tuple[str, ...]
    values: tuple[Mapping[str, Any], ...]
    truth: tuple[float | None, ...]
    seeds: tuple[str, ...]
    samplers: tuple[str, ...]
    better: Mapping[str, str]
    lines: tuple[Line, ...]

    @property
    def metrics(self) -> dict[str, list[Line]]:
        """Metric → its lines."""
        found: dict[str, list[Line]] = {}
        for line in self.lines:
            found.setdefault(line.metric, []).append(line)
        return found

    @property
    def names(self) -> dict[str, str]:
        """Sampler → its name as a figure shows it: short, and like no other."""
        found: dict[str, str] = {}
        for line in self.lines:
            if line.posterior not in found:
                name = shown(line.posterior)
                taken = name in found.values()
                found[line.posterior] = f"{name} ({len(found) + 1})" if taken else name
        return found

    def is_sampler(self, line: Line) -> bool:
        """False for what stands beside the samplers; a sweep that names none has nothing but samplers."""
        return not self.samplers or line.posterior in self.samplers

    @property
    def varied(self) -> list[int]:
        """Places of the keys that have more than one value: the axes of a figure."""
        return [k for k, values in enumerate(self.values) if len(values) > 1]

    def are_numbers(self, places: Sequence[int]) -> bool:
        """Whether all values of these keys are numbers."""
        found = [value for k in places for value in self.values[k].values()]
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in found)


def gather(runs: Sequence[Path]) -> Gathered:
    """Read the children of a sweep.

    Args:
        runs: their folders, each with run.yaml and metrics.csv.

    Raises:
        InputError: a file is missing or not one of ours.
    """
    children, settings = [], []
    for folder in runs:
        settings.append(load(folder / "run.yaml"))
        swept = settings[-1].get("swept")
        rows = read_rows(folder / "metrics.csv")
        children.append(Child(folder.name, swept if isinstance(swept, Mapping) else {}, rows))
    keys = tuple(dict.fromkeys(key for child in children for key in child.swept if key != SEED))
    values: list[dict[str, Any]] = []
    for key in keys:
        found = [child.swept[key] for child in children if key in child.swept]
        values.append(dict(zip(_texts(found), found, strict=True)))
    seeds = dict.fromkeys(child.seed for child in children if child.seed)
    better: dict[str, str] = {}
    for row in (row for child in children for row in child.rows):
        better[row["metric"]] = better.get(row["metric"]) or known(row["better"])
    places = [{_written(value): text for text, value in named.items()} for named in values]
    named = [
        tuple(
            of[_written(child.swept[key])] if key in child.swept else "" for key, of in zip(keys, places, strict=True)
        )
        for child in children
    ]
    samplers = dict.fromkeys(name for setting in settings for name in _samplers(setting))
    truth = tuple(_truth(key, settings[-1]) for key in keys)
    lines = tuple(_lines(children, named, bool(seeds)))
    return Gathered(keys, tuple(values), truth, tuple(seeds), tuple(samplers), better, lines)


def _lines(children: Sequence[Child], named: Sequence[tuple[str, ...]], has_seeds: bool) -> list[Line]:
    """Rows of all children by metric, setting and sampler."""
    groups: dict[tuple, dict[str, tuple[str, Mapping[str, Any]]]] = {}
    for child, at in zip(children, named, strict=True):
        for row in child.rows:
            groups.setdefault((row["metric"], at, row["posterior"]), {})[child.seed] = child.name, row
    metrics = list(dict.fromkeys(metric for metric, *_ in groups))
    order = sorted(groups, key=lambda key: metrics.index(key[0]))
    return [_line(key, groups[key], has_seeds) for key in order]


def _line(key: tuple, group: Mapping[str, tuple[str, Mapping[str, Any]]], has_seeds: bool) -> Line:
    metric, at, posterior = key
    rows = [row for _, row in group.values()]
    value, stderr, n = rows[0]["value"], rows[0]["stderr"], rows[0]["n"]
    if has_seeds:
        value, stderr, n = (part.item() for part in over_seeds([row["value"] for row in rows]))
    note = rows[0]["note"] if len(rows) == 1 else ""
    runs, values = {s: name for s, (name, _) in group.items()}, {s: row["value"] for s, (_, row) in group.items()}
    return Line(at, posterior, metric, rows[0]["unit"], note, value, stderr, n, runs, values)


def shown(text: str, most: int = LONGEST) -> str:
    """A word of a user as a figure shows it: in one line, cut where it is long, dollar signs and all."""
    line = " ".join(text.split())
    return unmarked(line if len(line) <= most else f"{line[: most - 1]}…")


def _written(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _texts(values: Sequence[Any]) -> list[str]:
    """Values as a page shows them: a mapping by its kind alone where no other value goes by that word."""
    words = [
        str(value["kind"]) if isinstance(value, Mapping) and "kind" in value
        else value if isinstance(value, str)
        else _written(value)
        for value in values
    ]  # fmt: skip
    meant: dict[str, set[str]] = {}
    for word, value in zip(words, values, strict=True):
        meant.setdefault(word, set()).add(_written(value))
    return [
        word if isinstance(value, str) or len(meant[word]) == 1 else _written(value)
        for word, value in zip(words, values, strict=True)
    ]


def _samplers(setting: Mapping[str, Any]) -> list[str]:
    """Names of the samplers in a resolved run."""
    section = setting.get("sample")
    named = section.get("posteriors") if isinstance(section, Mapping) else None
    return [str(name) for name in named] if isinstance(named, Mapping) else []


def _truth(key: str, values: Mapping[str, Any]) -> float | None:
    """What was true of a swept assumption, where the data set of the run says it; None of anything else."""
    stage, _, name = key.partition(".likelihood.")
    if stage != "sample":
        return None
    place: Any = values
    for part in f"dataset.observation.{'noise.sigma' if name == 'sigma' else name}".split("."):
        place = place.get(part) if isinstance(place, Mapping) else None
    return float(place) if isinstance(place, int | float) else None
