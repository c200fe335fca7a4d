"""A folder of results as one xarray tree: arrays that are read when they are asked for, tables, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from sciflow import yamlfile
from sciflow.accessor import RunAccessor
from sciflow.data.seeds import SEED, over_seeds
from sciflow.data.store import open_dataset, read_header, read_provenance
from sciflow.data.table import read_rows
from sciflow.errors import InputError
from sciflow.results import FILES, Results, Sweep, look
from sciflow.runs import did_you_mean, label

STORED = ("data", "samples", "arrays")  # artefacts that are netCDF files
SLASH = "∕"  # in names of a tree "/" leads into a group: division slash in its place

xr.register_datatree_accessor("sciflow")(RunAccessor)


def open_tree(folder: str | Path) -> xr.DataTree:
    """A run, or a sweep, as a tree.

    Groups, each there as soon as its stage has ended: `data`, `samples` and `arrays` (metrics.nc) with arrays that are
    read from the open file when they are used; `model`, its facts alone; `metrics`, the table metrics.csv as
    value(posterior, metric) with stderr and n; of the base of a sweep, `sweep`: value, stderr and n over the swept keys
    too, NaN and 0 where a child has no metrics yet; where it has seeds, `mean`, `mean_stderr`, `n_seeds` over them.

    Attributes of the root: run, title, question, domain, seed, folder, run_file (YAML) and, one entry a line, missing
    and stale. Those of a group: what the file says of its making, and `provenance_…` of the sidecar.

    Args:
        folder: results/<run>.

    Raises:
        InputError: no run lies there, or one of its files is truncated, damaged or foreign.
    """
    found = look(folder)
    with ExitStack() as opened:
        nodes = {"/": xr.Dataset(attrs=_facts(found))}
        for name in FILES:
            if name in found.files and name != "report":
                nodes[name] = _node(found, name, opened.callback)
        if found.sweep is not None:
            nodes["sweep"] = cube(found.sweep, found.folder.parent)
        tree = xr.DataTree.from_dict(nodes, name=found.folder.name.replace("/", SLASH))
        opened.pop_all()  # the files stay open for as long as the tree lives
    return tree


def finished(folder: Path, domain: str, names: Sequence[str]) -> list[xr.Dataset]:
    """Artefacts of a run that belong together.

    Args:
        folder: results/<run>.
        domain: that the run must have.
        names: of the artefacts, entries of STORED.

    Raises:
        InputError: as `open_tree`; another domain, an artefact that is not there or was made from another one.
    """
    tree = open_tree(folder)
    if tree.attrs["domain"] != domain:
        raise InputError(f"{folder} is a run of the domain {tree.attrs['domain']!r}, this is for {domain!r} alone.")
    for name in names:
        if name not in tree:
            raise InputError(f"{folder} lacks {FILES[name][1]}. Run its stages first: snakemake --cores all")
    stale = [line for line in tree.attrs["stale"].splitlines() if line.startswith(tuple(FILES[n][1] for n in names))]
    if stale:
        raise InputError(f"{folder}: {stale[0]}.")
    return [tree[name].to_dataset() for name in names]


def _node(found: Results, name: str, closed_later: Callable[..., Any]) -> xr.Dataset:
    """One artefact with the facts of its sidecar among its attributes."""
    path = found.files[name]
    if name in STORED:
        dataset = open_dataset(path, stage=FILES[name][0], run=found.owner(name), load=False)
        closed_later(dataset.close)
    else:
        dataset = table(read_rows(path)) if name == "metrics" else xr.Dataset()
    return dataset.assign_attrs(file=str(path), **_provenance(path, dataset.attrs))


def _provenance(path: Path, known: Mapping[Any, Any]) -> dict[str, Any]:
    """What the sidecar says beyond the header; what has parts becomes JSON text, as in the header of an artefact."""
    facts = read_provenance(path)
    return {
        f"provenance_{key}": value if isinstance(value, int | float | str) else json.dumps(value, ensure_ascii=False)
        for key, value in facts.items()
        if key not in known
    }


def _facts(found: Results) -> dict[str, Any]:
    """Attributes of the root."""
    values = found.run.values if found.run else _from_header(found)
    name = found.run.name if found.run else str(values.get("run", found.folder.name))
    return {
        "run": name,
        "title": str(values.get("title") or name),
        "question": str(values.get("question") or "").strip(),
        "domain": str(values.get("domain", "")),
        "seed": values.get("seed", 0),
        "folder": str(found.folder),
        "run_file": found.run.text() if found.run else "",
        "missing": "\n".join([*found.missing, *(f"{child} (child)" for child in _lacking(found.sweep))]),
        "stale": "\n".join(_stale(found)),
    }


def _lacking(sweep: Sweep | None) -> list[str]:
    return sweep.missing if sweep else []


def _from_header(found: Results) -> dict[str, Any]:
    """Run, seed and domain where there is no run.yaml, from the first artefact that says so."""
    for name in STORED:
        if name in found.files:
            header = read_header(found.files[name])
            section = yamlfile.parse(header.section or "{}")  # JSON, which is YAML too
            domain = section.get("domain", "") if isinstance(section, Mapping) else ""
            return {"run": header.run, "seed": header.seed, "domain": domain}
    return {}


def _stale(found: Results) -> list[str]:
    """Artefacts made from other files than those that lie there now; by the sidecars, so that nothing large is read."""
    lines = []
    for name in ("samples", "arrays"):
        inputs: Mapping[str, str] = read_header(found.files[name]).inputs if name in found.files else {}
        for source, digest in inputs.items():
            written = read_provenance(found.files[source]).get("sha256") if source in found.files else None
            if written not in (None, digest):
                lines.append(f"{FILES[name][1]} was made from another {FILES[source][1]}: run its stage again")
    return lines


def table(rows: Sequence[Mapping[str, Any]]) -> xr.Dataset:
    """metrics.csv as value, stderr and n over (posterior, metric), NaN and 0 where a sampler has no such metric."""
    dataset = _dense([((), rows)], {})
    places = {name: {str(one): k for k, one in enumerate(dataset[name].to_numpy())} for name in dataset.dims}
    notes = np.full(dataset["value"].shape, "", dtype=object)
    for row in rows:
        notes[places["posterior"][row["posterior"]], places["metric"][row["metric"]]] = row["note"]
    return dataset.assign(note=(("posterior", "metric"), notes.astype(str)))


def cube(sweep: Sweep, results: Path) -> xr.Dataset:
    """The metrics of all children over the swept keys, and over posterior and metric.

    Args:
        sweep: the children.
        results: the folder in which theirs lie.
    """
    tables = [
        (at, read_rows(results / name / FILES["metrics"][1]))
        for at, name in sweep.children.items()
        if name in sweep.built
    ]
    coordinates = {key.replace("/", SLASH): _coordinate(values) for key, values in sweep.values.items()}
    dataset = _dense(tables, coordinates)
    names, shape = np.empty(tuple(map(len, coordinates.values())), dtype=object), tuple(coordinates)
    for at, name in sweep.children.items():
        names[at] = name
    is_built = np.isin(names.astype(str), list(sweep.built))
    if SEED in shape:
        dataset = _with_means(dataset)
    return dataset.assign(run=(shape, names.astype(str)), is_built=(shape, is_built)).assign_attrs(
        missing="\n".join(sweep.missing), left_out="\n".join(sweep.left_out), is_planned=int(sweep.is_planned)
    )


def _with_means(dataset: xr.Dataset) -> xr.Dataset:
    """Besides, the mean over seeds, with the error that the spread between them gives."""
    value, is_there = dataset["value"], dataset["n"] > 0
    dims = [dim for dim in value.dims if dim != SEED]
    arrays = over_seeds(value, is_there, value.get_axis_num(SEED))
    about = ("mean over seeds", "standard error of the mean, from the spread between seeds", "seeds with metrics")
    return dataset.assign(
        {
            name: (dims, array, {"long_name": words})
            for name, array, words in zip(("mean", "mean_stderr", "n_seeds"), arrays, about, strict=True)
        }
    )


def stacked(found: Results, path: str) -> xr.DataArray:
    """One stored array of every child, over the swept keys in front of its own dims; NaN where a child lacks it.

    Args:
        found: the base of a sweep.
        path: group and variable: `samples/nfe`, `arrays/coverage`.

    Raises:
        InputError: no sweep, no such array of numbers in any child, or one whose sizes differ between children.
    """
    group, _, name = path.partition("/")
    if found.sweep is None:
        raise InputError(f"stack: {found.folder} has no sweep. Open the base of one: results/<base>.")
    if group not in STORED:
        raise InputError(f"stack: {path!r} must be group/variable, the group one of {list(STORED)}, as 'samples/nfe'.")
    arrays: dict[tuple[int, ...], xr.DataArray] = {}
    seen: set[str] = set()
    for at, child in found.sweep.children.items():
        folder = found.folder.parent / child
        file = look(folder).files.get(group) if folder.is_dir() else None
        if file is None:
            continue
        with open_dataset(file, stage=FILES[group][0], load=False) as opened:
            numbers = {str(key) for key, variable in opened.variables.items() if variable.dtype.kind in "fiub"}
            seen |= numbers
            if name in numbers:
                arrays[at] = opened[name].reset_coords(drop=True).load()
    if not arrays:
        hint = did_you_mean(name, seen)
        raise InputError(f"stack: no child has numbers {name!r} in {group!r}, only {sorted(seen)}.{hint}")
    return _in_grid(arrays, found.sweep, path)


def _in_grid(arrays: Mapping[tuple[int, ...], xr.DataArray], sweep: Sweep, path: str) -> xr.DataArray:
    """Arrays of some children in one block; their labels are joined, unlabelled dims must have one size."""
    try:
        joined = xr.concat([*arrays.values()], dim="child", join="outer", coords="minimal", compat="override")
    except ValueError as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"stack: {path!r} differs between the children ({reason}). Open them one by one.") from error
    joined = joined.transpose("child", ...)
    coordinates = {key.replace("/", SLASH): _coordinate(values) for key, values in sweep.values.items()}
    block = np.full((*map(len, coordinates.values()), *joined.shape[1:]), np.nan)
    for at, values in zip(arrays, joined.to_numpy(), strict=True):
        block[at] = values
    dims = (*coordinates, *joined.dims[1:])
    return xr.DataArray(block, {**joined.coords, **coordinates}, dims, path.partition("/")[2], joined.attrs)


def _coordinate(values: Sequence[Any]) -> np.ndarray:
    """Numbers as numbers; anything else by the label that the name of the child has."""
    is_plain = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return np.asarray(values if is_plain else [label(value) for value in values])


def _dense(
    tables: Sequence[tuple[tuple[int, ...], Sequence[Mapping[str, Any]]]], coordinates: Mapping[str, np.ndarray]
) -> xr.Dataset:
    """Rows of several tables in one block of shape (*coordinates, posterior, metric)."""
    rows = [row for _, part in tables for row in part]
    posteriors, metrics = ({row[key]: None for row in rows} for key in ("posterior", "metric"))
    places = [{name: k for k, name in enumerate(names)} for names in (posteriors, metrics)]
    shape = (*map(len, coordinates.values()), len(posteriors), len(metrics))
    value, stderr, n = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, dtype=int)
    units: dict[str, dict[str, None]] = {name: {} for name in metrics}
    better = {row["metric"]: row["better"] for row in rows}
    for at, part in tables:
        for row in part:
            place = (*at, places[0][row["posterior"]], places[1][row["metric"]])
            value[place], stderr[place], n[place] = row["value"], row["stderr"], row["n"]
            units[row["metric"]][row["unit"]] = None
    dims = (*coordinates, "posterior", "metric")
    words = {"posterior": np.array([*posteriors], dtype=str), "metric": np.array([*metrics], dtype=str)}
    unit = ("metric", np.array([" or ".join(found) for found in units.values()], dtype=str))
    ranked = ("metric", np.array([better[name] for name in metrics], dtype=str), {"long_name": "which way is better"})
    about = {
        "value": {"long_name": "value"},
        "stderr": {"long_name": "standard error"},
        "n": {"long_name": "what it is an average of"},
    }
    arrays = {
        name: (dims, block, about[name])
        for name, block in zip(("value", "stderr", "n"), (value, stderr, n), strict=True)
    }
    return xr.Dataset(arrays, coords={**coordinates, **words, "unit": unit, "better": ranked})
