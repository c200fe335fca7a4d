"""What a user can get wrong before the first job: one clear message, no work done, nothing lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.pipeline.conftest import Project

RUN = "workflows/runs/toy.yaml"
MISTAKES: dict[str, tuple[str, str, tuple[str, ...], str]] = {
    "not YAML": ("seed: 0", "seed: [0", (), "toy.yaml:4: not valid YAML"),
    "unknown kind": ("kind: heun", "kind: huen", (), "sample.solver"),
    "unknown setting": ("seed: 0", "seed: 0", ("--config", "rums=[toy]"), "Did you mean 'runs'?"),
    "unknown target": ("seed: 0", "seed: 0", ("results/tyo/report.html",), "Did you mean 'toy'?"),
    "missing plugin": ("seed: 0", "seed: 0\nplugins: [mine.py]", (), "plugins: mine.py cannot be read"),
    "missing data file": (
        "{n_samples: 4}",
        "{kind: file, path: scan.nc}",
        (),
        "dataset names the file 'scan.nc'",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_stops_before_any_job(mistake: str, changed: Callable[[], Project]) -> None:
    old, new, arguments, message = MISTAKES[mistake]
    project = changed()
    before = {file: file.read_bytes() for file in (project.folder / "results").rglob("*") if file.is_file()}
    calls = project.calls()
    project.edit(RUN, old, new)
    result = project.snakemake(*arguments)
    assert result.status == 1, result.text
    assert message in result.text
    assert "Traceback (most recent call last)" not in result.text
    assert project.calls() == calls, "a job ran"
    assert {file: file.read_bytes() for file in before} == before, "a result was lost"
