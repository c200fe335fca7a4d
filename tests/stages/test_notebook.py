"""report.notebook: executed on the run that the report is about, shown without scripts, refused in a sentence."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from sciflow.data.table import read_rows
from sciflow.stages import notebook
from tests.stages.test_report import Page, assert_stands_alone
from tests.tiny import ANALYTIC, Place, change

PERCENT = """\
# %% [markdown]
# # Mine <script>alert(1)</script> <img src="https://example.org/x.png">

# %% tags=["parameters"]
run = "replaced"

# %%
import sciflow
import matplotlib.pyplot as plt

tree = sciflow.open(run)
cell = tree["metrics"].to_dataset().sel(metric="sliced_w2", posterior="SMC N=32")
print("found", repr(float(cell["value"])), "in", run)

# %%
plt.plot([0, 1]);
"""
IPYNB = {
    "cells": [
        {"cell_type": "code", "id": "a", "metadata": {}, "outputs": [{"output_type": "stream", "name": "stdout",
         "text": "stored"}], "execution_count": 1, "source": "print('run is', run)"},
    ],
    "metadata": {"kernelspec": {"name": "elsewhere", "display_name": "Another", "language": "python"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}  # fmt: skip


def noted(place: Place, file: str, content: str) -> Path:
    """The built run `analytic` with a notebook in its report."""
    (place.folder / file).write_text(content)
    place.write(change(ANALYTIC, {"report": {"notebook": file}}), "analytic")
    return place.results("analytic") / "report.html"


def inner(report: Path) -> str:
    """The page within the page; nothing in it may run."""
    shown = Page(report.read_text(encoding="utf-8"))
    (frame,) = [attrs for tag, attrs in shown.tags if tag == "iframe"]
    assert frame["sandbox"] is None and frame.keys() == {"class", "sandbox", "title", "srcdoc"}, "nothing is allowed"
    shown.tags = [pair for pair in shown.tags if pair[0] != "iframe"]
    assert_stands_alone(shown)
    page = frame["srcdoc"] or ""
    policies = [attrs["content"] for tag, attrs in Page(page).tags if attrs.get("http-equiv")]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    return page


@pytest.mark.slow
def test_a_percent_notebook_is_executed_on_the_run_and_shown(copied: Place) -> None:
    report = noted(copied, "mine.py", PERCENT)
    outcome = copied.sciflow("report", "analytic.yaml")
    assert outcome.status == 0 and outcome.text == "", "libraries keep their warnings for themselves"
    page = inner(report)
    rows = read_rows(copied.results("analytic") / "metrics.csv")
    (value,) = [row["value"] for row in rows if (row["metric"], row["posterior"]) == ("sliced_w2", "SMC N=32")]
    assert f"found {float(value)!r} in results/analytic" in page
    assert 'src="data:image/png;base64,' in page, "its figure"
    assert not [path for path in copied.folder.rglob("*.ipynb")], "it leaves nothing behind"
    assert (copied.folder / "mine.py").read_text() == PERCENT
    assert copied.sciflow("report", "analytic.yaml").status == 0
    assert inner(report) == page, "the same notebook gives the same page"


@pytest.mark.slow
def test_a_saved_notebook_is_executed_anew_in_this_environment(copied: Place) -> None:
    """Whatever kernel it was saved with; what it stored is gone."""
    report = noted(copied, "mine.ipynb", json.dumps(IPYNB))
    outcome = copied.sciflow("report", "analytic.yaml")
    assert outcome.status == 0, outcome.text
    page = inner(report)
    assert "run is results/analytic" in page and "stored" not in page


@pytest.mark.slow
def test_a_cell_that_raises_is_named_and_the_report_before_is_whole(copied: Place) -> None:
    report = noted(copied, "mine.py", "# %%\nx = 1\n\n# %%\ny = 2\nraise ValueError('as <b>planned</b>')\n")
    before = report.read_bytes()
    outcome = copied.sciflow("report", "analytic.yaml")
    assert outcome.status == 2
    assert (
        "report.notebook: mine.py: cell 3 (y = 2 / raise ValueError('as <b>planned</b>')) raised ValueError: as <b>"
        in outcome.text
    ), "after the cell with the parameter, which comes first"
    assert report.read_bytes() == before


@pytest.mark.slow
def test_a_kernel_that_dies_is_told_as_such(copied: Place) -> None:
    noted(copied, "mine.py", "# %%\nimport os\nos._exit(1)\n")
    outcome = copied.sciflow("report", "analytic.yaml")
    assert outcome.status == 2 and "report.notebook: mine.py: its kernel broke down: " in outcome.text, outcome.text


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("mine.ipynb", "{", "report.notebook: mine.ipynb is no notebook"),
        ("mine.ipynb", "{}", "report.notebook: mine.ipynb is no notebook"),
        ("mine.txt", "", "report.notebook must end in .py or .ipynb, got 'mine.txt'"),
        ("gone.py", None, "report names the file 'gone.py', which is not there"),
    ],
)
def test_what_is_no_notebook_is_refused(file: str, content: str | None, message: str, copied: Place) -> None:
    noted(copied, file, content or "")
    if content is None:
        (copied.folder / file).unlink()
    outcome = copied.sciflow("report", "analytic.yaml")
    assert outcome.status == 2 and message in outcome.text, outcome.text


def test_without_the_extra_it_is_refused_before_any_work(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def bare(name: str, package: str | None = None):
        return None if name in notebook.PACKAGES[:2] else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", bare)
    noted(place, "mine.py", PERCENT)
    for command in ("check", "dataset"):
        outcome = place.sciflow(command, "analytic.yaml")
        assert outcome.status == 2
        assert "report.notebook needs jupytext, papermill, which cannot be imported here." in outcome.text
        assert "pip install 'sciflow[notebook]'" in outcome.text
    assert not (place.folder / "results").exists()
