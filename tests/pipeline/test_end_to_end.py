"""Two tiny runs from raw data to the report: what is on disk, who can read it, and that it is the same every time."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from sciflow.data.schema import DATA, SAMPLES, check
from sciflow.data.store import open_dataset
from sciflow.stages.evaluate import COLUMNS
from tests.pipeline.conftest import TIME_LIMIT
from tests.tiny import ANALYTIC, IMAGING, Place, change, copy_repository

RUNS = {"imaging": IMAGING, "analytic": ANALYTIC}
STABLE = ("data.nc", "model.pt", "samples.nc", "metrics.csv", "metrics.nc")
SIGNED = ("data.nc", "model.pt", "samples.nc", "metrics.csv", "report.html")
READER = """
import json, sys
import xarray as xr
found = {}
for path in sys.argv[1:]:
    with xr.open_dataset(path) as data:
        found[path] = {
            "sizes": dict(data.sizes), "attrs": sorted(data.attrs),
            "finite": bool(data["samples"].notnull().all()) if "samples" in data else True,
            "units": {name: data[name].attrs.get("units", "") for name in data.data_vars},
        }
assert "sciflow" not in sys.modules and "torch" not in sys.modules
print(json.dumps(found))
"""


@pytest.mark.parametrize("name", RUNS)
def test_a_run_leaves_its_artefacts_and_nothing_else(name: str, built: Place) -> None:
    files = {file.name for file in built.results(name).iterdir() if file.is_file()}
    assert files == {*STABLE, *SIGNED, *(f"{file}.provenance.json" for file in SIGNED)}
    assert not [path for path in built.folder.rglob("*") if path.name.startswith(".tmp")]


@pytest.mark.parametrize("name", RUNS)
def test_artefacts_hold_what_their_schema_says(name: str, built: Place) -> None:
    results, values = built.results(name), RUNS[name]
    data, samples = open_dataset(results / "data.nc", stage="dataset"), open_dataset(results / "samples.nc", run=name)
    check(data, DATA)
    check(samples, SAMPLES)
    section = values["sample"]
    assert samples["posterior"].to_numpy().tolist() == list(section["posteriors"])
    assert samples.sizes["member"] == section["n_samples"]
    assert samples["samples"].dtype == section.get("precision", "float32")
    assert samples["samples"].dims[3:] == data["data"].dims[1:]
    assert bool((samples["nfe"] > 0).all())
    estimates = samples["log_evidence"].notnull().all("observation").to_numpy().tolist()
    assert estimates == [posterior["kind"] == "twisted_smc" for posterior in section["posteriors"].values()]


P_VALUES = {"sbc_p", "sbc_fit_p"}


@pytest.mark.parametrize("name", RUNS)
def test_metrics_are_numbers_with_standard_errors(name: str, built: Place) -> None:
    with (built.results(name) / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert {row["run"] for row in rows} == {name}
    assert set(RUNS[name]["sample"]["posteriors"]) <= {row["posterior"] for row in rows}
    for row in rows:
        assert float(row["value"]) == float(row["value"]), row
        assert int(row["n"]) >= 1, row
        # a p-value belongs to the draws at hand, whatever others would say: it has none
        assert math.isnan(float(row["stderr"])) if row["metric"] in P_VALUES else float(row["stderr"]) >= 0, row


def test_plain_xarray_reads_everything(built: Place) -> None:
    """In a process that imports neither sciflow nor torch, as a colleague would."""
    files = [str(built.results(name) / file) for name in RUNS for file in STABLE if file.endswith(".nc")]
    call = [sys.executable, "-c", READER, *files]
    done = subprocess.run(call, cwd=built.folder, capture_output=True, text=True, timeout=TIME_LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for facts in found.values():
        assert {"sciflow_schema", "run", "stage", "section", "source_digest", "seed", "versions", "inputs"} <= {
            *facts["attrs"]
        }
        assert facts["finite"]
    samples = found[str(built.results("imaging") / "samples.nc")]
    assert samples["sizes"] == {"posterior": 2, "observation": 3, "member": 4, "channel": 1, "y": 8, "x": 8}
    assert samples["units"]["samples"] == "1" and samples["units"]["log_evidence"] == "nat"


@pytest.mark.parametrize("name", RUNS)
def test_the_same_run_gives_the_same_bytes(name: str, built: Place, place: Place) -> None:
    torch.rand(17)  # whatever was drawn before in this process does not matter
    place.build(RUNS[name], name, until="evaluate")
    for file in STABLE:
        same = (place.results(name) / file).read_bytes() == (built.results(name) / file).read_bytes()
        assert same, f"{file} differs from one execution to the next"


def test_another_seed_gives_other_numbers(built: Place, place: Place) -> None:
    place.build(change(ANALYTIC, {"seed": 2}), "analytic", until="sample")
    first, second = (open_dataset(where.results("analytic") / "samples.nc") for where in (built, place))
    assert not bool((first["samples"] == second["samples"]).any())


BY_HAND = """
import sys
from sciflow.cli import _run
base, *children = sys.argv[1:]
for child in children:
    files = ["--data", f"{base}/data.nc", "--model", f"{base}/model.pt", "--out", f"{child}/drawn.nc"]
    assert _run(["sample", f"{child}/run.yaml", *files]) == (0, "")
    files = ["--data", f"{base}/data.nc", "--samples", f"{child}/samples.nc", "--out", f"{child}/scored.csv"]
    assert _run(["evaluate", f"{child}/run.yaml", *files]) == (0, "")
"""
TITLE = 'An overlay\'s $(touch broken) `touch broken` "{x}" %s; touch broken\\n\nand a second line'
SHARDS = {stage: {"shards": 2} for stage in ("sample", "evaluate")}
SWEPT = {**ANALYTIC, "sweep": {"sample.times.n_steps": [5, 10]}, "resources": SHARDS}


@pytest.mark.slow
@pytest.mark.timeout(3 * TIME_LIMIT)
def test_snakemake_builds_a_sweep_with_one_training(tmp_path: Path) -> None:
    """With an overlay, from data to the comparison page and Snakemake's report; commands by hand agree bit for bit."""
    place, environment = Place(tmp_path / "copy"), copy_repository(tmp_path / "copy")
    place.write(SWEPT, "swept")
    overlay = f"runs: [swept.yaml]\noverrides: {{every: {{seed: 5, title: {json.dumps(TITLE)}}}}}\n"
    (place.folder / "overlay.yaml").write_text(overlay)

    def python(*arguments: object) -> str:
        call = [sys.executable, *map(str, arguments)]
        done = subprocess.run(
            call,
            cwd=place.folder,
            env=environment,
            stdout=-1,
            stderr=-2,
            text=True,
            timeout=2 * TIME_LIMIT,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def snakemake(*options: str) -> str:
        return python("-m", "snakemake", "--cores", "2", "--configfile", "overlay.yaml", *options)

    snakemake()
    base, children = place.results("swept"), [place.results(f"swept~sample.times.n_steps={n}") for n in (5, 10)]
    kept = {path.name for path in base.iterdir() if path.suffix != ".json"}
    assert kept == {".state", "run.yaml", "data.nc", "model.pt", "comparison.html"}
    for child in children:
        own = {path.name for path in child.iterdir() if path.suffix != ".json" and path.name != ".state"}
        assert own == {"run.yaml", "samples.nc", "metrics.csv", "metrics.nc", "report.html"}
        assert not list(child.glob("*part*")), "shards, and what was noted of them, are gone"
        settled = yaml.safe_load((child / "run.yaml").read_text())
        assert (settled["seed"], settled["title"]) == (5, TITLE)
    python("-c", BY_HAND, base, *children)
    for child in children:
        for artefact, alone in (("samples.nc", "drawn.nc"), ("metrics.csv", "scored.csv"), ("metrics.nc", "scored.nc")):
            same = (child / artefact).read_bytes() == (child / alone).read_bytes()
            assert same, f"{artefact}: two shards are not one process, or the source digests differ"
    dry = snakemake("--dry-run")
    assert "Nothing to be done" in dry, dry
    page = (base / "comparison.html").read_text()
    assert all(child.name.replace("=", "%3D") in page for child in children) and "data:image/png;base64," in page
    index = (place.folder / "results/index.html").read_text()
    assert index.count("report.html") == 2 and "swept/comparison.html" in index
    snakemake("--report", "own.html")
    own = (place.folder / "own.html").read_text()
    assert "comparison.html" in own and "An overlay" in own
    assert not (place.folder / "broken").exists(), "a shell obeyed the title"
