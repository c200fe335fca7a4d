"""What a folder of results holds: the artefacts of a run, wherever its stages put them, and the children of a sweep.

Reads run.yaml and names of files, no array; what is not there is named. Imports neither torch nor xarray.
"""

from __future__ import annotations

import glob
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sciflow.errors import InputError
from sciflow.runs import ARTEFACTS, SHARED, STAGES, Run, did_you_mean, label, name_of, rank, read
from sciflow.yamlfile import load

FILES = {
    "data": ("dataset", ARTEFACTS["dataset"]),
    "model": ("train", ARTEFACTS["train"]),
    "samples": ("sample", ARTEFACTS["sample"]),
    "metrics": ("evaluate", ARTEFACTS["evaluate"]),
    "arrays": ("evaluate", "metrics.nc"),
    "report": ("report", ARTEFACTS["report"]),
}
"""Artefact → the stage that writes it, and its file."""

LARGEST = 100_000
"""Children that a sweep may plan: a run.yaml of a few lines can plan more than any memory holds."""


@dataclass(frozen=True)
class Sweep:
    """The children of a run, as a grid over the swept values.

    Args:
        values: swept key → its values, numbers in order.
        children: place in the grid (an index for each key) → name of the child, built or not.
        built: names of the children that have been evaluated.
        left_out: other folders of the same base that hold metrics, and why they have no place in the grid.
        is_planned: false where no run.yaml says what was asked for (it was written by sciflow 0.1.0 or by hand): then
            values of which no child has begun cannot be known.
    """

    values: Mapping[str, tuple[Any, ...]]
    children: Mapping[tuple[int, ...], str]
    built: frozenset[str]
    left_out: tuple[str, ...] = ()
    is_planned: bool = True

    @property
    def missing(self) -> list[str]:
        """Names of the children without metrics, in the order of the grid."""
        return [name for name in self.children.values() if name not in self.built]


@dataclass(frozen=True)
class Results:
    """One run as it lies on the disk.

    Args:
        folder: of the run, absolute.
        run: what its run.yaml holds; None where there is none (stages called by hand on a run file).
        files: artefact → file, for those that are there; of a child, some lie in the folders of other runs.
        missing: the artefacts that are not there, by file and stage.
        sweep: the children, if the run is the base of a sweep.
    """

    folder: Path
    run: Run | None
    files: Mapping[str, Path]
    missing: tuple[str, ...] = ()
    sweep: Sweep | None = None

    def owner(self, artefact: str) -> str | None:
        """Name of the run that builds an artefact; None where no run.yaml says so."""
        return None if self.run is None else self.run.owner(FILES[artefact][0])


def look(folder: Path | str) -> Results:
    """See what a folder of results holds.

    Args:
        folder: results/<run>; of a sweep it need not exist, if a child does.

    Raises:
        InputError: no folder, a folder that is no run, or a run.yaml that is not one.
    """
    folder = Path(folder).absolute()
    children = {path.name: path for path in sorted(folder.parent.glob(f"{glob.escape(folder.name)}~*"))}
    children = {name: path for name, path in children.items() if path.is_dir()}
    if not folder.is_dir() and not children:
        raise InputError(_absent(folder))
    run = _settled(folder / "run.yaml")
    sweep = _sweep(folder, run, children)
    places = {name: _owned(folder, run, stage) / file for name, (stage, file) in FILES.items()}
    files = {name: path for name, path in places.items() if path.is_file()}
    if run is None and sweep is None and not files and not (folder / ".state").is_dir():
        raise InputError(_no_run(folder))
    missing = [
        f"{path.name} (stage {FILES[name][0]})"
        for name, path in places.items()
        if name not in files and (sweep is None or _is_shared(sweep, FILES[name][0]))
    ]
    return Results(folder, run, files, tuple(missing), sweep)


def _absent(folder: Path) -> str:
    """What to say of a folder that is not there."""
    if folder.exists():
        return f"{folder} is neither a folder nor a file. Give the folder of a run."
    known = _runs(folder.parent)
    hint = did_you_mean(folder.name, known) or (f" {folder.parent} holds {_few(known)}." if known else "")
    return f"{folder} is not there.{hint} Give the folder of a run, or build it: snakemake --cores all"


def _no_run(folder: Path) -> str:
    """What to say of a folder that holds no run."""
    known = _runs(folder)
    said = f"{folder} is the folder of no run: it holds neither run.yaml nor {', '.join(f for _, f in FILES.values())}."
    return f"{said} It holds the runs {_few(known)}: give one of them." if known else f"{said} Give results/<run>."


def _few(names: list[str]) -> str:
    return str(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _runs(folder: Path) -> list[str]:
    """Names of what looks like a run in a folder, the children of a sweep by their base."""
    marks = ("run.yaml", *(file for _, file in FILES.values()))
    below = sorted(folder.iterdir()) if folder.is_dir() else []
    return list(dict.fromkeys(p.name.split("~")[0] for p in below if any((p / mark).is_file() for mark in marks)))


def _settled(file: Path) -> Run | None:
    """The run that a run.yaml of a result holds, checked as far as it says where things lie; None without the file."""
    if not file.is_file():
        return None
    raw = load(file)
    name, heads = raw.get("name"), (*STAGES, *SHARED)
    if not isinstance(name, str) or "/" in name or name in ("", ".", ".."):
        raise InputError(
            f"{file} is no run of a result: name must be that of its folder, got {name!r}. "
            "Give the folder results/<run> that the workflow made; a run file has no results yet."
        )
    for part, wanted in (("swept", object), ("sweep", list)):
        entry = raw.get(part, {})
        if not isinstance(entry, Mapping) or not all(
            key.split(".")[0] in heads and isinstance(value, wanted) and value != [] for key, value in entry.items()
        ):
            shape = "key: value" if part == "swept" else "key: [value, …]"
            raise InputError(
                f"{file}: {part} must map dotted keys of {list(heads)} as `{shape}`, got {entry!r}. "
                "Delete the file and run the workflow again."
            )
    return read(file)


def _owned(folder: Path, run: Run | None, stage: str) -> Path:
    """The folder in which a stage of the run lies: its own, or that of another run of the same sweep."""
    return folder if run is None or run.owner(stage) == run.name else folder.parent / run.owner(stage)


def _is_shared(sweep: Sweep, stage: str) -> bool:
    """Whether a stage belongs to the base of the sweep: it comes before every swept key."""
    return STAGES.index(stage) < min(map(rank, sweep.values))


def _sweep(folder: Path, run: Run | None, folders: Mapping[str, Path]) -> Sweep | None:
    """The children of a run; None if there are none, and none are planned."""
    fixed = dict(run.assignments) if run else {}
    base = run.base if run else folder.name
    own = _plan(run)
    if own and own.keys() <= fixed.keys():  # the last of its chain
        return None
    plans = [own] if own else []
    others: dict[str, dict[str, Any]] = {}  # folders that no plan names → their swept values
    left_out: list[str] = []
    named = {name for plan in plans for _, name in _grid(base, _at(plan, fixed))}
    for name, path in folders.items():
        if name in named:
            continue
        child = _settled(path / "run.yaml")
        if child is None:
            left_out.append(f"{name} (no run.yaml)")
            continue
        others[name] = dict(child.assignments)
        if plan := _plan(child):
            _add(plans, plan)
            named = {name for plan in plans for _, name in _grid(base, _at(plan, fixed))}
    candidates = plans or [{key: {label(v): v} for key, v in swept.items()} for swept in others.values()]
    if not candidates:
        return None
    chosen = own or max(candidates, key=len)
    for name, swept in others.items():
        if swept.keys() == chosen.keys():
            _add([chosen], {key: {label(value): value} for key, value in swept.items()})
        elif name not in named and (folders[name] / ARTEFACTS["evaluate"]).is_file():
            left_out.append(f"{name} (swept over {', '.join(swept) or 'nothing'})")
    return _filled(base, _at(chosen, fixed), folder.parent, left_out, is_planned=bool(plans))


Plan = dict[str, dict[str, Any]]
"""Swept key → label of a value → the value."""


def _plan(run: Run | None) -> Plan:
    """The whole sweep that a run says it belongs to."""
    asked = run.values.get("sweep", {}) if run else {}
    return {key: {label(value): value for value in values} for key, values in asked.items()}


def _add(plans: list[Plan], plan: Plan) -> None:
    """Join a plan with the one over the same keys, or put it beside them."""
    for known in plans:
        if known.keys() == plan.keys():
            for key, values in plan.items():
                known[key].update((name, value) for name, value in values.items() if name not in known[key])
            return
    plans.append(plan)


def _at(plan: Plan, fixed: Mapping[str, Any]) -> Plan:
    """The part of a plan in which some keys have one value."""
    return {key: {label(fixed[key]): fixed[key]} if key in fixed else values for key, values in plan.items()}


def _grid(base: str, plan: Plan) -> Iterator[tuple[tuple[str, ...], str]]:
    """Labels of the values, and name, of every child that a plan asks for."""
    if (n := math.prod(map(len, plan.values()))) > LARGEST:
        raise InputError(
            f"{base}: the sweep in its run.yaml plans {n} children, at most {LARGEST} are read. Cut it into smaller"
            " ones, or delete the file."
        )
    for values in itertools.product(*(entries.items() for entries in plan.values())):
        pairs = [(key, value) for key, (_, value) in zip(plan, values, strict=True)]
        yield tuple(name for name, _ in values), name_of(base, pairs)


def _filled(base: str, plan: Plan, results: Path, left_out: list[str], is_planned: bool) -> Sweep:
    """The grid with a name at every place."""
    order = {key: _ordered(values) for key, values in plan.items()}
    place = {key: {label(value): k for k, value in enumerate(values)} for key, values in order.items()}
    found = {tuple(place[key][n] for key, n in zip(plan, at, strict=True)): name for at, name in _grid(base, plan)}
    table = ARTEFACTS["evaluate"]
    built = {name for name in found.values() if (results / name / table).is_file()}
    return Sweep(order, dict(sorted(found.items())), frozenset(built), tuple(left_out), is_planned)


def _ordered(values: Mapping[str, Any]) -> tuple[Any, ...]:
    """Numbers in order; anything else as it was written."""
    found = tuple(values.values())
    return tuple(sorted(found)) if all(isinstance(v, int | float) for v in found) else found
