"""The command line as a user meets it: what it prints, what it writes, how it ends, and what plugins may add."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sciflow import __version__, cli
from sciflow.data.store import open_dataset, read_header
from sciflow.data.table import read_rows
from sciflow.runs import STAGES
from tests.tiny import ANALYTIC, IMAGING, Place, change

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (
    "dataset",
    "train",
    "sample",
    "evaluate",
    "report",
    "compare",
    "index",
    "check",
    "schema",
    "list",
    "new",
    "apply",
    "status",
)

# What a user writes to add an operator, a network and a metric without touching sciflow.
PLUGIN = '''
"""Every second measurement, a linear network, and the largest error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field

from sciflow.inverse import OPERATORS
from sciflow.inverse.operator import LinearOperator
from sciflow.metrics import BETTER, METRICS
from sciflow.metrics.score import average
from sciflow.networks import NETWORKS


@dataclass(frozen=True)
class EverySecond(LinearOperator):
    """Every k-th number of an event is measured; the adjoint and all solves come with the base class."""

    step: Annotated[int, Field(gt=0)] = 2

    def forward(self, x):
        return x.flatten(1)[:, :: self.step]


class Linear(torch.nn.Module):
    def __init__(self, n):
        super().__init__()
        self.weight = torch.nn.Linear(n + 1, n)

    def forward(self, x, noise_level):
        return self.weight(torch.cat([x.flatten(1), noise_level[:, None]], 1)).reshape(x.shape)


@dataclass(frozen=True)
class LinearNetwork:
    """One matrix."""

    def build(self, shape):
        return Linear(torch.Size(shape).numel())


def largest_error(truth, samples, *, mask, stream, unit):
    """Largest absolute error of the posterior mean."""
    return {"largest_error": average((samples.mean(1) - truth).abs().flatten(1).amax(1), unit, "observations")}


OPERATORS["every_second"] = EverySecond
NETWORKS["linear"] = LinearNetwork
METRICS["largest_error"] = largest_error
BETTER["largest_error"] = {"largest_error": "less"}
'''
SECOND = {"kind": "every_second", "step": 4}
PLUGGED = {
    **change(
        IMAGING,
        {
            "dataset.observation.operator": SECOND,
            "train.network": {"kind": "linear"},
            "sample.likelihood.operator": SECOND,
            "evaluate.metrics": ["psnr", "largest_error"],
        },
    ),
    "plugins": ["plugin.py"],
}


def test_help_and_version(place: Place) -> None:
    shown = place.sciflow("--help")
    assert shown.status == 0
    for command in COMMANDS:
        assert command in shown.text
    assert place.sciflow("--version").text == f"sciflow {__version__}\n"


@pytest.mark.parametrize("arguments", [("trian", "run.yaml"), ("train",), ("train", "run.yaml", "--ouput", "x")])
def test_a_wrong_call_is_refused(arguments: tuple[str, ...], place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.sciflow(*arguments).status == 2
    assert "Usage:" in capsys.readouterr().err


def test_main_ends_with_the_status_and_the_message(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["check", str(tmp_path / "nowhere.yaml")])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/nowhere.yaml: cannot be read")
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0


def test_the_printed_schema_is_the_committed_file(place: Place) -> None:
    """Write it anew with: sciflow schema --out workflows/config/schema.json."""
    committed = (ROOT / "workflows/config/schema.json").read_text(encoding="utf-8")
    assert place.sciflow("schema").text == committed
    assert place.sciflow("schema", "--out", "mine.json").status == 0
    assert (place.folder / "mine.json").read_text(encoding="utf-8") == committed


def test_a_new_run_file_is_in_order_and_runs(place: Place) -> None:
    outcome = place.sciflow("new", "mine.yaml")
    assert outcome.status == 0 and "snakemake --cores all --config 'runs=[mine.yaml]'" in outcome.text
    written = (place.folder / "mine.yaml").read_text(encoding="utf-8")
    assert written.count("#") > 10, "it is commented"
    checked = place.sciflow("check", "--data", "mine.yaml")
    assert (checked.status, checked.text) == (0, "1 run file is in order.\n")
    again = place.sciflow("new", "mine.yaml")
    assert again.status == 2 and "mine.yaml exists already. Choose another name, or delete it." in again.text
    assert (place.folder / "mine.yaml").read_text(encoding="utf-8") == written
    other = place.sciflow("new", "other.yaml", "--domain", "pdes")
    assert other.status == 2 and "must be one of ['imaging', 'molecules', 'pde'], got 'pdes'" in other.text


@pytest.mark.slow
@pytest.mark.parametrize("domain", ["molecules", "pde"])
def test_a_new_run_file_of_a_domain_runs_to_its_report(domain: str, place: Place) -> None:
    """In its smoke size; that of images is the default run."""
    place.sciflow("new", "mine.yaml", "--domain", domain)
    for stage in STAGES:
        outcome = place.sciflow(stage, "mine.yaml", "--smoke")
        assert outcome.status == 0, outcome.text
    page = (place.results("mine-smoke") / "report.html").read_text(encoding="utf-8")
    assert page.count("<figure") >= 4 and "What was asked" in page


def test_a_run_has_a_smoke_size_of_its_own(place: Place) -> None:
    file = place.write({**ANALYTIC, "smoke": {"dataset.n_problems": 1, "dataset.n_samples": 10}})
    assert place.sciflow("dataset", file, "--smoke").status == 0
    assert not place.results("run").exists()
    data = open_dataset(place.results("run-smoke") / "data.nc", run="run-smoke")
    assert (data.sizes["observation"], data.sizes["sample"]) == (1, 10)


def test_images_of_ones_own_from_check_to_data(place: Place) -> None:
    images = np.random.default_rng(0).random((40, 8, 8))
    np.savez(place.folder / "mine.npz", images=images)
    section = {"kind": "file", "path": "mine.npz", "n_observations": 2}
    file = place.write(change(IMAGING, {"dataset": section}))
    assert place.sciflow("check", "--data", file).status == 0
    assert place.sciflow("dataset", file).status == 0
    header = read_header(place.results("run") / "data.nc")
    assert list(header.inputs) == ["file mine.npz"], "the file is part of where the data come from"
    assert json.loads(header.section)["dataset"] == section


def test_a_plugin_adds_an_operator_a_network_and_a_metric(place: Place) -> None:
    (place.folder / "plugin.py").write_text(PLUGIN)
    results = place.build(PLUGGED)
    data = open_dataset(results / "data.nc")
    np.testing.assert_allclose(
        data["measured"].mean(), data["truth"].to_numpy().reshape(3, 64)[:, ::4].mean(), atol=0.06
    )
    # ^ 48 draws of noise of standard deviation 0.1: the mean is within four standard errors of 0.1/√48
    model = torch.load(results / "model.pt", weights_only=True)
    assert model["network"] == {"kind": "linear"} and model["weights"]["weight.weight"].shape == (64, 65)
    better = {row["metric"]: row["better"] for row in read_rows(results / "metrics.csv")}
    assert better == {"psnr": "more", "largest_error": "less"}
    assert "largest error" in (results / "report.html").read_text()


def test_an_edited_plugin_is_another_source(place: Place) -> None:
    """Comments are no edit; code is, and then nothing old is resumed."""
    plugin = place.folder / "plugin.py"
    digests = []
    for text in (PLUGIN, PLUGIN + "# a remark\n", PLUGIN.replace("amax(1)", "mean(1)")):
        plugin.write_text(text)
        place.build(PLUGGED, until="dataset")
        digests.append(read_header(place.results("run") / "data.nc").source_digest)
    assert digests[0] == digests[1] != digests[2]


def test_without_its_plugin_a_model_is_refused(place: Place) -> None:
    from tests.tiny import restored_tables

    (place.folder / "plugin.py").write_text(PLUGIN)
    with restored_tables():
        place.build(PLUGGED, until="train")
    changes = {
        "dataset.observation": IMAGING["dataset"]["observation"],
        "train": {"kind": "checkpoint", "path": "mine.pt"},
    }
    (place.results("run") / "model.pt").rename(place.folder / "mine.pt")
    outcome = place.sciflow("check", place.write(change(IMAGING, changes), "other"))
    assert outcome.status == 2
    assert "load the plugin that defines its network" in outcome.text


def test_a_metric_that_raises_is_shown_with_its_lines(copied: Place) -> None:
    """That is no mistake in the run file: exit status 1, and where it happened."""
    (copied.folder / "plugin.py").write_text(
        "from sciflow.metrics import METRICS\ndef broken(*a, **k):\n    return 1 / 0\nMETRICS['broken'] = broken\n"
    )
    copied.write({**change(IMAGING, {"evaluate.metrics": ["broken"]}), "plugins": ["plugin.py"]}, "imaging")
    before = (copied.results("imaging") / "metrics.csv").read_bytes()
    outcome = copied.sciflow("evaluate", "imaging.yaml")
    assert outcome.status == 1
    assert "ZeroDivisionError" in outcome.text and "plugin.py" in outcome.text
    assert outcome.text.endswith("This is a bug in sciflow or in a plugin. Please report it with these lines.")
    assert (copied.results("imaging") / "metrics.csv").read_bytes() == before


def test_an_interrupt_ends_quietly(place: Place) -> None:
    (place.folder / "plugin.py").write_text("raise KeyboardInterrupt\n")
    outcome = place.sciflow("dataset", place.write({**ANALYTIC, "plugins": ["plugin.py"]}))
    assert outcome.status == 130
    assert "Traceback" not in outcome.text
