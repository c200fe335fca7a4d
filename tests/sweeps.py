"""Sweeps that nobody had to run: folders of children with the tables, samples and sidecars that their stages write."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from sciflow.catalogue import leaves
from sciflow.data.store import Header, write_dataset, write_provenance
from sciflow.runs import resolve
from sciflow.stages.evaluate import COLUMNS
from tests.tiny import Place

Cell = tuple[float, float]  # value and standard error
BETTER = {"crps": "less", "psnr": "more", "coverage_90": "0.9", "ess": ""}


def sweep(
    place: Place,
    values: Mapping[str, Any],
    cell: Callable[[Mapping[str, Any], str, str], Cell | None],
    *,
    beside: Sequence[str] = (),
    metrics: Mapping[str, str] = BETTER,
    unit: str = "1",
    note: str = "",
    cost: Callable[[Mapping[str, Any], str], tuple[float, float, float]] | None = None,
) -> list[Path]:
    """Write the children of a run file "swept"; their folders.

    Args:
        place: where.
        values: of the run file, with `sweep` and `sample.posteriors`.
        cell: (swept values, sampler, metric) → its cell; None where there is no such row.
        beside: names that have rows without being samplers.
        metrics: name → direction.
        unit, note: of every row.
        cost: (swept values, sampler) → network calls of a draw, its seconds by the clock, CPU seconds of training;
            sampling takes as many CPU seconds as seconds by the clock. None writes neither samples nor sidecars.
    """
    runs = resolve(place.folder / place.write(values, "swept"))
    for run in runs.values():
        place.results(run.name).mkdir(parents=True, exist_ok=True)
        (place.results(run.name) / "run.yaml").write_text(run.text())
    samplers = list(values["sample"]["posteriors"])
    for run in leaves(runs):
        swept, folder = dict(run.assignments), place.results(run.name)
        rows = [
            (run.name, name, metric, *map(repr, found), 5, unit, note, better)
            for metric, better in metrics.items()
            for name in [*samplers, *beside]
            if (found := cell(swept, name, metric)) is not None
        ]
        with (folder / "metrics.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
        if cost is not None:
            told = {name: cost(swept, name) for name in samplers}
            _write_costs(folder / "samples.nc", place.results(run.owner("train")) / "model.pt", told)
    return [place.results(run.name) for run in leaves(runs)]


def _write_costs(samples: Path, model: Path, told: Mapping[str, tuple[float, float, float]]) -> None:
    calls = np.array([[number] for number, _, _ in told.values()])
    arrays = xr.Dataset({"nfe": (("posterior", "observation"), calls)}, {"posterior": np.array([*told])})
    write_dataset(samples, arrays, Header(samples.parent.name, "sample"))
    clock = {name: seconds for name, (_, seconds, _) in told.items()}
    write_provenance(samples, {"cpu_seconds": sum(clock.values()), "posterior_seconds": clock})
    model.write_bytes(b"")
    write_provenance(model, {"cpu_seconds": max(trained for *_, trained in told.values())})
