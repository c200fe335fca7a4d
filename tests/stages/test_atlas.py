"""The atlas of solvers: draws of the prior from common starts, and their distance to a reference."""

from __future__ import annotations

import csv
from typing import Any

import pytest

from sciflow.runs import resolve
from tests.tiny import ANALYTIC, ROOT, Place, change

FINE = {"kind": "unguided", "solver": {"kind": "eabm", "order": 4}, "refine": 8}
SOLVERS: dict[str, Any] = {
    "reference": FINE,
    "auto": {"kind": "unguided"},
    "DDIM": {"kind": "unguided", "solver": {"kind": "exponential_euler"}},
    "finer": {**FINE, "refine": 16},
}


def errors(place: Place, n_steps: int) -> dict[str, float]:
    """path_error of each sampler in a run of this many steps."""
    changes = {"sample.posteriors": SOLVERS, "sample.times.n_steps": n_steps, "train.schedule": {"kind": "edm"}}
    run = change(ANALYTIC, {**changes, "evaluate.metrics": ["path_error"], "report.figures": ["path_error"]})
    folder = place.build(run, f"atlas{n_steps}")
    assert "median over draws" in (folder / "report.html").read_text()
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["metric"] for row in rows} == {"path_error"}
    return {row["posterior"]: float(row["value"]) for row in rows}


def test_path_errors_fall_at_the_order_of_the_solver(place: Place) -> None:
    few, many = errors(place, 10), errors(place, 40)
    assert set(few) == {"auto", "DDIM", "finer"}  # the reference has no error to report
    # 4 times the steps: DDIM gains a factor 4 in the limit, order 3 a factor 64; here the limit is not reached
    assert 2 < few["DDIM"] / many["DDIM"] < 8 and few["auto"] / many["auto"] > 16
    assert many["auto"] < many["DDIM"] / 10
    assert many["finer"] < 1e-5  # the reference is converged: from the same starts, half the step changes nothing


def test_the_run_file_sweeps_the_number_of_steps() -> None:
    runs = resolve(ROOT / "workflows/runs/solver-atlas.yaml", smoke=True)
    assert [name.partition("~")[2] for name in runs] == ["", "sample.times.n_steps=5", "sample.times.n_steps=20"]


def test_no_draws_are_refused() -> None:
    from sciflow.errors import InputError
    from sciflow.inverse.unguided import Unguided

    with pytest.raises(InputError, match="n must be at least 1"):
        Unguided()(None, None, [0.0, 0.5], 0, None)  # type: ignore[arg-type]
