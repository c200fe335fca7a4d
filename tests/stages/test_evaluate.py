"""`evaluate` in shards: the bytes of one process, whatever the cut; what does not belong together is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sciflow.data.store import provenance_path, read_provenance
from sciflow.domains.protocol import question
from tests.tiny import ANALYTIC, FORECAST, IMAGING, MOLECULES, PATHS, PDE, ROOT, Place, change

RUNS: dict[str, dict[str, Any]] = {
    "digits": change(IMAGING, {"train": {"kind": "closed_form"}}),
    "scan": change(
        IMAGING,
        {
            "train": {"kind": "closed_form"},
            "dataset.observation.operator": {"kind": "parallel_beam", "n_views": 4},
            "sample.likelihood.operator": {"kind": "parallel_beam", "n_views": 4},
        },
    ),
    "mixture": ANALYTIC,
    "paths": PATHS,
    "pde": PDE,
    "forecast": FORECAST,
    "molecules": MOLECULES,
}
PLUGIN = '''"""A metric that kills its process where a plan lies."""

import os
import signal
from pathlib import Path

from sciflow.metrics import METRICS
from sciflow.metrics.field import rmse


def fragile(truth, samples, *, mask=None, stream=None, unit="1"):
    """Root mean square error.

    Exactness: that of rmse
    Cost: that of rmse
    Bias: that of rmse
    Source: definition.
    """
    if Path("plan").exists():
        Path("plan").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"fragile": rmse(truth, samples, mask=mask)["rmse"]}


METRICS["fragile"] = fragile
'''


def whole(results: Path) -> dict[str, bytes]:
    return {name: (results / name).read_bytes() for name in ("metrics.csv", "metrics.nc")}


def shards(place: Place, name: str, count: int) -> list[str]:
    """The tables of all shards of a run, each made by a command of its own."""
    parts = [f"results/{name}/metrics.part{index}of{count}.csv" for index in range(1, count + 1)]
    for index, part in enumerate(parts, start=1):
        outcome = place.sciflow("evaluate", f"{name}.yaml", "--shard", f"{index}/{count}", "--out", part)
        assert outcome.status == 0, outcome.text
    return parts


@pytest.mark.parametrize("name", RUNS)
def test_shards_give_the_bytes_of_one_process(name: str, place: Place) -> None:
    """All metrics, from the last to the first; once a shard more than there are pieces, which is empty."""
    metrics = [*question(RUNS[name]["domain"], "evaluate").METRICS][::-1]
    results = place.build(change(RUNS[name], {"evaluate.metrics": metrics}), name, until="evaluate")
    made = whole(results)
    for count in (1, 2, 3, len(metrics) + 2) if name == "digits" else (2, 3):
        parts = shards(place, name, count)
        for file in made:
            (results / file).unlink()
        outcome = place.sciflow("evaluate", f"{name}.yaml", "--gather", *reversed(parts))
        assert outcome.status == 0, outcome.text
        assert whole(results) == made, f"{count} shards"


def test_the_metrics_and_the_arrays_are_shared_and_made_once(copied: Place) -> None:
    """Three metrics and the arrays in two shards: two rows of metrics each, the arrays in the second alone."""
    parts = [copied.folder / part for part in shards(copied, "imaging", 2)]
    first, second = ([line.split(",")[2] for line in part.read_text().splitlines()[1:]] for part in parts)
    assert set(first) == {"psnr", "crps"} and not set(first) & set(second)
    assert any(metric.startswith("coverage") for metric in second)
    sizes = [part.with_suffix(".nc").stat().st_size for part in parts]
    assert sizes[0] < sizes[1]
    spent = [read_provenance(part) for part in parts]
    assert copied.sciflow("evaluate", "imaging.yaml", "--gather", *map(str, parts)).status == 0
    told = read_provenance(copied.results("imaging") / "metrics.csv")
    assert told["shards"] == 2 and told["rows"] == len(first) + len(second)
    assert told["cpu_seconds"] == pytest.approx(sum(one["cpu_seconds"] for one in spent), abs=1e-2)  # rounded to ms
    assert told["seconds"] == max(one["seconds"] for one in spent)
    assert not any(provenance_path(part).exists() for part in parts)
    assert {line["shard"]: line["state"] for line in _told(copied)} == dict.fromkeys(("", "1/2", "2/2"), "done")
    assert copied.sciflow("report", "imaging.yaml").status == 0


WRONG = {
    "one is missing": (lambda parts: parts[:1], "the files hold the shards ['1/2'], not each of 1 once."),
    "one is there twice": (lambda parts: parts[:1] * 2, "the shards ['1/2', '1/2'], not each of 2 once."),
    "none": (lambda parts: [], "--gather and the shards to join go together"),
}


@pytest.mark.parametrize("what", WRONG)
def test_missing_and_repeated_shards_are_refused(what: str, copied: Place) -> None:
    choose, message = WRONG[what]
    parts, before = shards(copied, "imaging", 2), whole(copied.results("imaging"))
    outcome = copied.sciflow("evaluate", "imaging.yaml", "--gather", *choose(parts))
    assert outcome.status == 2 and message in outcome.text, outcome.text
    assert whole(copied.results("imaging")) == before


def test_shards_of_another_section_or_hand_and_shards_for_the_whole_are_refused(copied: Place) -> None:
    one, two = shards(copied, "imaging", 2)
    outcome = copied.sciflow("report", "imaging.yaml", "--metrics", one)
    assert outcome.status == 2 and f"{one} is shard 1/2 of the metrics. Join all shards first" in outcome.text
    table = copied.folder / two
    table.write_text(table.read_text().replace("coverage", "coverages"))
    outcome = copied.sciflow("evaluate", "imaging.yaml", "--gather", one, two)
    assert outcome.status == 2 and f"{two} is not the file that its stage wrote" in outcome.text
    copied.write(change(IMAGING, {"evaluate.metrics": ["psnr", "crps"]}), "imaging")
    shards(copied, "imaging", 2)
    copied.write(IMAGING, "imaging")
    call = ("evaluate", "imaging.yaml", "--shard", "2/2", "--out", two)
    assert copied.sciflow(*call).status == 0
    outcome = copied.sciflow("evaluate", "imaging.yaml", "--gather", one, two)
    assert outcome.status == 2 and "belongs to another run, section or input than" in outcome.text


def test_more_shards_than_pieces_are_refused(place: Place) -> None:
    file = place.write({**IMAGING, "resources": {"evaluate": {"shards": 5}}})
    outcome = place.sciflow("check", file)
    assert outcome.status == 2
    assert "resources.evaluate asks for 5 shards of 3 metrics and the arrays behind the figures. Take 4 at most." in (
        outcome.text
    )
    file = place.write({**IMAGING, "resources": {"evaluate": {"shards": 4}}})
    assert place.sciflow("check", file).status == 0


@pytest.mark.slow
def test_a_shard_that_is_killed_begins_anew_and_the_others_stay(copied: Place) -> None:
    """SIGKILL in the metric of the second of three shards: the same command again, and the bytes of one process."""
    (copied.folder / "fragile.py").write_text(PLUGIN)
    values = {**change(IMAGING, {"evaluate.metrics": ["psnr", "fragile", "crps"]}), "plugins": ["fragile.py"]}
    made = whole(copied.build(values, "imaging", until="evaluate"))
    for file in made:
        (copied.results("imaging") / file).unlink()
    parts = [f"results/imaging/metrics.part{index}of3.csv" for index in (1, 2, 3)]
    call = ("evaluate", "imaging.yaml", "--shard", "1/3", "--out", parts[0])
    assert copied.sciflow(*call).status == 0
    (copied.folder / "plan").touch()
    call = ("evaluate", "imaging.yaml", "--shard", "2/3", "--out", parts[1])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(
        [sys.executable, "-m", "sciflow.cli", *call], cwd=copied.folder, env=environment, check=False, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL
    assert not [path for path in copied.results("imaging").iterdir() if "2of3" in path.name]
    states = {line["shard"]: line["state"] for line in _told(copied)}
    assert states["1/3"] == "done" and states["2/3"] == "killed"
    assert copied.sciflow(*call).status == 0
    assert copied.sciflow("evaluate", "imaging.yaml", "--shard", "3/3", "--out", parts[2]).status == 0
    assert copied.sciflow("evaluate", "imaging.yaml", "--gather", *parts).status == 0
    assert whole(copied.results("imaging")) == made


def _told(place: Place) -> list[dict[str, Any]]:
    """What `sciflow status` says of `evaluate`."""
    lines = json.loads(place.sciflow("status", "results/imaging", "--json").text)
    return [line for line in lines if line["stage"] == "evaluate"]
