"""Run files: read, merged with defaults and overrides, swept into child runs, and cut into what each stage depends on.

A value is settled in this order, later wins: `defaults`, the run file, `overrides.every`, `overrides.<run>`, the run's
own `smoke:` (names that end in -smoke only), `overrides.<run>-smoke`, the child's swept values. Two rules join them:
a mapping merges into a mapping unless it names another `kind`, then it replaces it; a dotted key (`train.n_steps: 20`)
replaces the one value it points at. Imports neither torch nor pydantic, so that a Snakefile can afford it.
"""

from __future__ import annotations

import copy
import difflib
import functools
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sciflow.errors import InputError
from sciflow.yamlfile import load, text

STAGES = ("dataset", "train", "sample", "evaluate", "report")
ARTEFACTS = dict(zip(STAGES, ("data.nc", "model.pt", "samples.nc", "metrics.csv", "report.html"), strict=True))
MAKERS = {"data": "dataset", "model": "train", "samples": "sample", "metrics": "evaluate"}  # input → who writes it
INPUTS = {stage: tuple(MAKERS)[:n] for n, stage in enumerate(STAGES)} | {"evaluate": ("data", "samples")}
SHARED = ("seed", "domain", "plugins")  # what every stage depends on: swept, it counts as part of `dataset`
FILES = ("path", "top", "pdb", "system", "notebook")  # keys whose values are files that a stage reads
ASIDE = ("sweep", "smoke")  # keys of a run file that are used up when it is resolved
SETTLED = ("name", "swept", "sweep")  # keys of a run.yaml that say which run of which sweep it is
SMOKE = "-smoke"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
UNSAFE = re.compile(r"[^A-Za-z0-9.,=+_-]")  # what a shell or file system could misread in a name
LONGEST_NAME = 180  # bytes; file systems stop at 255, and artefacts add a suffix


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ " Did you mean 'x'?", or nothing if no name in `known` is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""


def merge(base: Mapping[str, Any], over: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`base` changed by `over` (see the two rules above); neither is altered."""
    merged = copy.deepcopy(dict(base))
    for key, value in over.items():
        old = merged.get(key)
        if "." in key and key not in merged:
            merged = assign(merged, key, value, where)
        elif (
            isinstance(old, Mapping)
            and isinstance(value, Mapping)
            and value.get("kind", old.get("kind")) == old.get("kind")
        ):
            merged[key] = merge(old, value, f"{where}.{key}")
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def assign(values: Mapping[str, Any], key: str, value: Any, where: str) -> dict[str, Any]:
    """`values` with the one value at the dotted `key` replaced or added.

    Raises:
        InputError: a mapping on the way to the last part of `key` does not exist.
    """
    changed = copy.deepcopy(dict(values))
    *parents, last = key.split(".")
    place: Any = changed
    for depth, part in enumerate(parents):
        if not isinstance(place.get(part), dict):
            above = ".".join(parents[:depth]) or "the run"
            names = [name for name, entry in place.items() if isinstance(entry, dict)]
            hint = did_you_mean(part, names) or " Write it out in the run file first."
            raise InputError(f"{where}: key '{key}' has no place: {above} has no mapping '{part}', only {names}.{hint}")
        place = place[part]
    place[last] = copy.deepcopy(value)
    return changed


def label(value: Any) -> str:
    """A short, stable, readable file-name part for a swept value: 10, 0.05, heun, `karras,n_steps=10`."""
    if isinstance(value, Mapping):
        extras = [f"{k}={label(v)}" for k, v in value.items() if k != "kind"]
        plain = ",".join([str(value.get("kind", "")), *extras]).strip(",")
        simple = all(not isinstance(v, Mapping | list) for v in value.values())
    elif isinstance(value, list | tuple):
        plain, simple = "+".join(label(v) for v in value), all(isinstance(v, int | float | str) for v in value)
    else:
        plain, simple = str(value) if isinstance(value, str) else json.dumps(value, default=str), True
    clean = UNSAFE.sub("-", plain)
    if simple and clean == plain and 0 < len(clean) <= 60:
        return clean
    kind = value.get("kind") if isinstance(value, Mapping) else None
    return f"{(kind or clean)[:40]}-{_short(value)}"


def _short(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:8]


def rank(key: str) -> int:
    """The stage from which on a dotted key matters: 0 for dataset … 4 for report."""
    head = key.split(".")[0]
    return 0 if head in SHARED else STAGES.index(head)


@dataclass(frozen=True)
class Run:
    """One run file, resolved: everything a command may read.

    Args:
        name: folder under results/; `<base>` or `<base>~<key>=<value>~…`.
        base: name of the run that the file itself describes (with -smoke in the smoke size).
        file: the run file.
        values: its settled content, without `smoke`, with `name`, the whole `sweep` that it belongs to and, for a
            child, its `swept` values.
        assignments: the swept (key, value) pairs, in the order of the stages.
    """

    name: str
    base: str
    file: Path
    values: dict[str, Any]
    assignments: tuple[tuple[str, Any], ...] = ()

    @property
    def content(self) -> dict[str, Any]:
        """`values` as a run file could hold them: without `name`, `swept` and `sweep`, which no stage depends on."""
        return {key: value for key, value in self.values.items() if key not in SETTLED}

    def owner(self, stage: str) -> str:
        """Name of the run that builds this stage: the swept values that matter up to it, and no others."""
        return name_of(self.base, [pair for pair in self.assignments if rank(pair[0]) <= STAGES.index(stage)])

    def section(self, stage: str) -> dict[str, Any]:
        """What the stage depends on in the run file: its section, the seed and the domain (report: the prose too)."""
        keys = ("domain", "seed", "plugins", *(("title", "question") if stage == "report" else ()), stage)
        return {key: self.values[key] for key in keys if key in self.values}

    def identity(self, stage: str) -> str:
        """`section` as text (JSON) that is the same for equal sections, whatever the order of their keys."""
        return json.dumps(self.section(stage), sort_keys=True, ensure_ascii=False, default=str)

    def text(self) -> str:
        """The resolved run as YAML: the content of results/<name>/run.yaml."""
        return self._text

    @functools.cached_property
    def _text(self) -> str:
        return text(self.values)

    def files(self, stage: str) -> list[str]:
        """Files the section names under a key of FILES, as written (relative ones start at the working directory)."""
        return sorted({str(value) for key, value in _items(self.values.get(stage) or {}) if key in FILES and value})

    def resource(self, stage: str, key: str, default: int = 0) -> Any:
        """One number of `resources.<stage>`."""
        return (self.values.get("resources", {}).get(stage) or {}).get(key, default)


def _items(value: Any) -> Iterable[tuple[str, Any]]:
    for key, entry in value.items() if isinstance(value, Mapping) else enumerate(value):
        if isinstance(entry, Mapping | list):
            yield from _items(entry)
        else:
            yield str(key), entry


def name_of(base: str, assignments: Sequence[tuple[str, Any]]) -> str:
    """Name, and folder, of the child with these swept (key, value) pairs; a long one ends in a digest of them."""
    name = "~".join([base, *(f"{UNSAFE.sub('-', key)}={label(value)}" for key, value in assignments)])
    return name if len(name.encode()) <= LONGEST_NAME else f"{base}~{_short([list(pair) for pair in assignments])}"


def builders(base: str, sweep: Mapping[str, Sequence[Any]]) -> dict[str, tuple[str, ...]]:
    """Every run of a sweep that builds a stage, by name, and its stages in order (`Run.owner` is the inverse).

    Args:
        base: name of the run that is swept.
        sweep: key → values, keys in the order of the stages.
    """
    ranks = [0, *map(rank, sweep), len(STAGES)]
    found: dict[str, tuple[str, ...]] = {}
    for values in itertools.product(*sweep.values()):
        pairs = list(zip(sweep, values, strict=True))
        for length in range(len(pairs) + 1):
            if stages := STAGES[ranks[length] : ranks[length + 1]]:
                found[name_of(base, pairs[:length])] = stages
    return found


def resolve(
    file: Path | str,
    defaults: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    smoke: bool = False,
) -> dict[str, Run]:
    """The base run of a file and, if it has a `sweep:`, every child and every run that owns a stage of a child.

    Args:
        file: a run file, or the run.yaml of a result (then the one run it holds).
        defaults: put under the run file.
        overrides: `every` and run names -> what to change.
        smoke: apply the file's own `smoke:` and end the name in -smoke.

    Returns:
        Runs by name, the base first; the last of a chain of children (see `leaves`) are the ones to build.

    Raises:
        InputError: unreadable file, bad name, key without a place, empty or unsweepable `sweep`.
    """
    raw, where = load(file), str(file)
    if "name" in raw:
        return _settled(raw, Path(file))
    stem = Path(file).stem
    if not NAME.fullmatch(stem) or stem.endswith(SMOKE):
        raise InputError(
            f"{where}: '{stem}' cannot name a run. Use letters, digits, '.', '_', '-', and no final {SMOKE}."
        )
    overrides = overrides or {}
    values = merge(defaults or {}, raw, where)
    names = ["every", stem]
    if smoke:
        names.append(stem + SMOKE)
    for name in names:
        if name.endswith(SMOKE):
            values = merge(values, _mapping(values, "smoke", where), f"{where}: smoke")
        values = merge(values, _mapping(overrides, name, "overrides"), f"overrides.{name}")
    if not isinstance(values.get("plugins") or [], list):
        raise InputError(
            f"{where}: plugins must be a list, got {values['plugins']!r}. Write `plugins: [my_plugin.py]`."
        )
    sweep = _sweep(_mapping(values, "sweep", where), values, where)
    values = {"name": "", **{key: value for key, value in values.items() if key not in ASIDE}}
    runs: dict[str, Run] = {}
    for combination in itertools.product(*([(key, value) for value in entries] for key, entries in sweep.items())):
        for length in range(len(combination) + 1):
            run = _child(names[-1] if smoke else stem, Path(file), values, combination[:length], sweep)
            runs.setdefault(run.name, run)
    return runs


def read(file: Path | str, smoke: bool = False) -> Run:
    """The one run that a command works on: the base run of a run file, or the run that a run.yaml holds."""
    return next(iter(resolve(file, smoke=smoke).values()))


def _mapping(values: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    entry = values.get(key) or {}
    if not isinstance(entry, Mapping):
        raise InputError(
            f"{where}: '{key}' must be a mapping, got {type(entry).__name__}. Write `{key}: {{key: value}}`."
        )
    return entry


def _settled(raw: dict[str, Any], file: Path) -> dict[str, Run]:
    swept = sorted(_mapping(raw, "swept", str(file)).items(), key=lambda pair: rank(pair[0]))
    name = str(raw["name"])
    return {name: Run(name, name.split("~")[0], file, raw, tuple(swept))}


def _sweep(sweep: Mapping[str, Any], values: Mapping[str, Any], where: str) -> dict[str, list[Any]]:
    for key, entries in sweep.items():
        head = key.split(".")[0]
        if head not in (*STAGES, *SHARED):
            hint = did_you_mean(head, (*STAGES, *SHARED))
            raise InputError(f"{where}: sweep key '{key}' must start with one of {[*STAGES, *SHARED]}.{hint}")
        if not isinstance(entries, list) or not entries:
            raise InputError(
                f"{where}: sweep.{key} must be a list of at least one value, got {entries!r}. Write `{key}: [1, 2]`."
            )
        if len({label(entry) for entry in entries}) < len(entries):
            raise InputError(f"{where}: sweep.{key} holds a value twice: {entries}. Keep each once.")
        assign(values, key, entries[0], f"{where}: sweep")
    return dict(sorted(sweep.items(), key=lambda item: rank(item[0])))


def _child(
    base: str, file: Path, values: dict[str, Any], pairs: Sequence[tuple[str, Any]], sweep: Mapping[str, list[Any]]
) -> Run:
    name = name_of(base, pairs)
    for key, value in pairs:
        values = assign(values, key, value, f"{file}: sweep")
    head = {"name": name, "swept": dict(pairs), "sweep": dict(sweep)}
    settled = {key: entry for key, entry in head.items() if entry}
    return Run(name, base, file, {**settled, **{k: v for k, v in values.items() if k != "name"}}, tuple(pairs))
