"""report: pages that stand alone, escape what they are given, and say it in words."""

from __future__ import annotations

import html.parser
import math
import re
from pathlib import Path

import pytest

from sciflow.data.store import open_dataset, read_provenance, write_dataset, write_provenance
from sciflow.stages.page import number, score
from tests.tiny import ANALYTIC, IMAGING, Place, change

HOSTILE = "<script>alert(1)</script> & \"quotes\" 'single' $\\frac{$ {{ 7*7 }} </title><img src=x onerror=alert(1)>"


NAME = "$\\frac{$ <b onclick=x>'a'</b> {{ 7*7 }}"  # TeX between dollar signs, HTML, a template


class Page(html.parser.HTMLParser):
    """What a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def links(self) -> list[str]:
        """Everything that a browser would fetch or follow."""
        return [attrs[name] or "" for _, attrs in self.tags for name in ("src", "href", "srcset") if name in attrs]


def page(file: Path) -> Page:
    return Page(file.read_text(encoding="utf-8"))


def assert_stands_alone(shown: Page) -> None:
    """Figures are embedded; nothing is fetched; links lead to pages beside it."""
    for link in shown.links():
        assert link.startswith("data:image/png;base64,") or re.fullmatch(r"[\w./~=%+,-]+\.html", link), link[:80]
    assert not any(tag in ("script", "link", "iframe", "object", "embed") for tag, _ in shown.tags)
    assert not any(name.startswith("on") for _, attrs in shown.tags for name in attrs)
    assert "url(" not in "".join(shown.words) and "@import" not in "".join(shown.words)


@pytest.mark.parametrize("name", ["imaging", "analytic"])
def test_a_report_stands_alone_and_says_it_in_words(name: str, built: Place) -> None:
    shown = page(built.results(name) / "report.html")
    assert_stands_alone(shown)
    images = [attrs for tag, attrs in shown.tags if tag == "img"]
    assert len(images) >= 3 and all(attrs.get("alt") for attrs in images), "every figure has words for it"
    for heading in ("What came out", "What it cost", "How it can be checked"):
        assert heading in shown.text
    values = IMAGING if name == "imaging" else ANALYTIC
    for posterior in values["sample"]["posteriors"]:
        assert posterior in shown.text
    assert " ± " in shown.text, "numbers have error bars"
    assert "seed" in shown.text and "torch 2" in shown.text
    if name == "imaging":
        assert "90 % credible intervals hold the truth in" in shown.text
        assert "Does it work?" in shown.text and values["title"] in shown.text


def test_the_cost_of_every_stage_is_told(copied: Place) -> None:
    """With a device in two of them: seconds are added up, of memory the largest counts."""
    files = [copied.results("imaging") / name for name in ("data.nc", "model.pt", "samples.nc", "metrics.csv")]
    for file, peak in zip(files[1:3], (700.0, 900.0), strict=True):
        write_provenance(file, {**read_provenance(file), "gpu_seconds": 1000.0, "peak_gpu_memory_mb": peak})
    assert copied.sciflow("report", "imaging.yaml").status == 0
    shown = " ".join(page(copied.results("imaging") / "report.html").text.split())
    facts = [read_provenance(file) for file in files]
    rows = sum(facts[2]["posterior_rows"].values()) + facts[1]["network_rows"]
    assert facts[1]["network_rows"] == IMAGING["train"]["optimisation"]["batch_size"] * facts[1]["steps"] > 0
    cpu, memory = sum(fact["cpu_seconds"] for fact in facts), max(fact["peak_memory_mb"] for fact in facts)
    assert f" {cpu:.4g} 2000 {memory:.4g} 900 {rows:.4g} Of all attempts" in shown
    assert f" sample {facts[2]['seconds']:.4g} {facts[2]['cpu_seconds']:.4g} 1000 " in shown
    assert facts[1]["written"] in shown, "when each was finished"


def test_hostile_words_are_shown_and_not_obeyed(place: Place) -> None:
    """In the title, the question, the names of samplers (also inside figures) and the run file at the end."""
    posteriors = {NAME: {"kind": "guided"}, '=1+1,"x"': {"kind": "twisted_smc", "n_particles": 16}}
    values = change(ANALYTIC, {"sample.posteriors": posteriors, "title": HOSTILE, "question": HOSTILE})
    shown = page(place.build(values) / "report.html")
    assert_stands_alone(shown)
    assert sum(HOSTILE in word for word in shown.words) >= 4, "title, heading, question, run file"
    assert sum(NAME in word for word in shown.words) >= 4, "verdict, scores, costs, run file"
    assert place.sciflow("index").status == 0
    index = page(place.folder / "results/index.html")
    assert_stands_alone(index)
    assert HOSTILE in index.text and index.links() == ["run/report.html"]


def test_the_index_links_every_page(copied: Place) -> None:
    assert copied.sciflow("index").status == 0
    index = page(copied.folder / "results/index.html")
    assert index.links() == ["analytic/report.html", "imaging/report.html"]
    assert "A tiny run" in index.text and "coverage 90" in index.text


@pytest.mark.parametrize(
    ("changes", "n_figures"),
    [
        ({"sample.posteriors": {"guided": {"kind": "guided"}}}, 4),  # no sampler weighs particles
        ({"dataset.n_problems": 1, "sample.n_samples": 1}, 5),
        ({"dataset.modes_per_axis": 1}, 6),  # one mode: nothing can be wrong with its weight
        ({"evaluate": {"metrics": ["ess"]}}, 3),
        ({"sample.precision": "float32"}, 6),
    ],
    ids=["guided alone", "one of one", "one mode", "one metric", "single precision"],
)
def test_whatever_is_missing_the_report_is_written(changes: dict, n_figures: int, place: Place) -> None:
    shown = page(place.build(change(ANALYTIC, changes)) / "report.html")
    assert len([tag for tag, _ in shown.tags if tag == "img"]) == n_figures
    assert "nan" not in re.findall(r"[a-z]+", shown.text.partition("How it can be checked")[0])


def test_where_there_is_no_verdict_there_is_no_box_for_it(place: Place) -> None:
    text = (place.build(change(IMAGING, {"evaluate": {"metrics": ["rmse"]}})) / "report.html").read_text(
        encoding="utf-8"
    )
    assert '<div class="words">' not in text and "What came out" in text


def test_an_untrained_prior_has_no_loss_curve(place: Place) -> None:
    values = change(IMAGING, {"train": {"kind": "closed_form"}, "dataset.n_observations": 1, "evaluate": {}})
    shown = page(place.build(values) / "report.html")
    assert len([tag for tag, _ in shown.tags if tag == "img"]) == 4


def test_a_sweep_is_compared(built: Place, tmp_path: Path) -> None:
    """Children as Snakemake lays them out: every metric against the swept value."""
    place = Place(built.copy(tmp_path / "copy"))
    for n_steps in (5, 10):
        folder = place.results(f"analytic~sample.times.n_steps={n_steps}")
        folder.mkdir()
        (folder / "metrics.csv").write_bytes((place.results("analytic") / "metrics.csv").read_bytes())
        (folder / "run.yaml").write_text(f"name: a\nswept: {{sample.times.n_steps: {n_steps}}}\n")
    out = place.results("analytic") / "comparison.html"
    runs = [place.results(f"analytic~sample.times.n_steps={n_steps}") for n_steps in (5, 10)]
    outcome = place.sciflow("compare", *runs, "--out", out)
    assert outcome.status == 0, outcome.text
    shown = page(out)
    assert_stands_alone(shown)
    assert "sample.times.n_steps" in shown.text and "sliced w2" in shown.text.lower()
    assert "../analytic~sample.times.n_steps%3D5/report.html" in shown.links()
    text = shown.text.partition("sliced w2")[2]
    assert re.search(
        r"Best: [\w =]+ with sample.times.n_steps 5, [\d.]+ ± [\d.]+\. [1-9]\d* of the others cannot", text
    )
    assert len([tag for tag, _ in shown.tags if tag == "img"]) >= 2


def test_a_sweep_sets_errors_against_cost(built: Place, tmp_path: Path) -> None:
    """Two runs, the same errors, one at twice the calls: none of its samplers is on the front."""
    place = Place(built.copy(tmp_path / "copy"))
    runs = [place.results(f"analytic~sample.times.n_steps={n_steps}") for n_steps in (5, 10)]
    with open_dataset(place.results("analytic") / "samples.nc", load=False) as opened:
        samples = opened.load()
    for factor, folder in enumerate(runs, start=1):
        folder.mkdir()
        (folder / "metrics.csv").write_bytes((place.results("analytic") / "metrics.csv").read_bytes())
        (folder / "run.yaml").write_text(f"name: a\nswept: {{sample.times.n_steps: {5 * factor}}}\n")
        write_dataset(folder / "samples.nc", samples.assign(nfe=samples["nfe"] * factor))
    outcome = place.sciflow("compare", *runs, "--out", place.results("analytic") / "comparison.html")
    assert outcome.status == 0, outcome.text
    text = (place.results("analytic") / "comparison.html").read_text()
    chapter = text.partition("<h3>sliced w2 against cost</h3>")[2].partition("</table>")[0]
    assert "analytic~sample.times.n_steps%3D5/report.html" in chapter
    assert "analytic~sample.times.n_steps%3D10/report.html" not in chapter


@pytest.mark.parametrize(
    ("value", "stderr", "shown"),
    [
        (0.123456, 0.01, "0.123 ± 0.010"),
        (12.3456, 2.5, "12.3 ± 2.5"),
        (12345.6, 250.0, "12346 ± 250"),
        (0.5, 0.0, "0.5"),
        (0.5, math.nan, "0.5"),
        (0.5, math.inf, "0.5"),
        (math.nan, 1.0, "nan"),
        (1e-7, 1e-9, "0.0000001000 ± 0.0000000010"),
    ],
)
def test_numbers_stop_where_their_error_begins(value: float, stderr: float, shown: str) -> None:
    assert score({"value": value, "stderr": stderr}) == shown


def test_what_is_no_number_stays_as_it_is() -> None:
    assert (number(0.123456), number("x"), number(None), number(3)) == ("0.1235", "x", "None", "3")
