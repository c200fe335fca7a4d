"""The comparison page of a sweep: seeds gathered, every metric ranked as it says, two costs, and hostile words."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sciflow
from sciflow.data.store import provenance_path, read_provenance, write_provenance
from sciflow.figures import category_dots
from sciflow.stages.gathered import gather
from sciflow.stages.sweep_costs import costs, error_fronts
from sciflow.stages.sweep_figures import MOST_ROWS, short, swept_figures
from tests.stages.test_report import HOSTILE, NAME, Page, assert_stands_alone, page
from tests.sweeps import sweep
from tests.tiny import IMAGING, Place, change

STEPS, KIND, SIGMA = "sample.times.n_steps", "sample.times.kind", "sample.likelihood.sigma"
LEARNED = "train.optimisation.n_steps"


def swept(**keys: Any) -> dict[str, Any]:
    return {**IMAGING, "sweep": keys}


def same(at: Mapping[str, Any], name: str, metric: str) -> tuple[float, float]:
    """The same numbers for every seed, better with more steps."""
    error = (1.0 if name == "PiGDM" else 1.5) + 3 / at.get(STEPS, 10)
    return {"crps": error, "psnr": 20 - error, "coverage_90": 0.9 + 0.01 * error, "ess": 5.0}[metric], 0.01


def compared(place: Place, folders: list[Path]) -> str:
    out = place.results("swept") / "comparison.html"
    outcome = place.sciflow("compare", *folders, "--out", out)
    assert outcome.status == 0, outcome.text
    return out.read_text(encoding="utf-8")


def noisy(at: Mapping[str, Any], name: str, metric: str) -> tuple[float, float]:
    """A large part that all samplers of a seed share, and a small one of their own."""
    common = random.Random(at["seed"]).gauss(0, 1)
    own = random.Random(f"{at['seed']} {name} {at.get(STEPS)}").gauss(0, 0.01)
    return 10 + common + own + (0.1 if name == "stochastic" else 0.0), 1e-6


def test_seeds_are_gathered(place: Place) -> None:
    """Mean and error against numpy, in the table and in the tree; each seed keeps its report."""
    folders = sweep(place, swept(seed=[0, 1, 2, 3], **{STEPS: [5, 10]}), noisy, metrics={"crps": "less"})
    values = np.array([noisy({"seed": s, STEPS: 10}, "PiGDM", "crps")[0] for s in range(4)])
    mean, stderr = values.mean(), values.std(ddof=1) / 2  # of four
    shown = Page(compared(place, folders))
    assert f"10 PiGDM {mean:.2f} ± {stderr:.2f} 4 0 1 2 3 " in shown.text
    assert len([line for line in shown.links() if "report.html" in line and "n_steps%3D10" in line]) >= 8
    assert "mean over 4 seeds 0, 1, 2, 3" in shown.text
    cube = sciflow.open(place.results("swept"))["sweep"].to_dataset()
    found = cube.sel({STEPS: 10, "posterior": "PiGDM", "metric": "crps"})
    assert found["value"].dims == ("seed",) and found["mean"].dims == ()
    np.testing.assert_allclose([found["mean"], found["mean_stderr"]], [mean, stderr], rtol=1e-12)  # sums of four
    assert int(found["n_seeds"]) == 4 and found["better"].item() == "less"


def test_seeds_tell_apart_what_their_means_do_not(place: Place) -> None:
    """A difference of 0.1 in each seed, where the mean of either is known to 0.5 alone."""
    text = Page(compared(place, sweep(place, swept(seed=[*range(5)]), noisy, metrics={"crps": "less"}))).text
    assert re.search(r"Best: PiGDM, [\d.]+ ± 0\.\d+\. All others can be told from it", text)


def test_a_missing_seed_and_one_that_failed(place: Place) -> None:
    def cell(at: Mapping[str, Any], name: str, metric: str) -> tuple[float, float] | None:
        if at["seed"] == 2 and name == "stochastic":
            return None
        return (math.nan if at["seed"] == 1 and name == "PiGDM" else 1.0 + at["seed"]), 0.1

    lines = gather(sweep(place, swept(seed=[0, 1, 2]), cell, metrics={"crps": "less"})).lines
    assert [(line.posterior, line.n) for line in lines] == [("PiGDM", 3), ("stochastic", 2)]
    assert math.isnan(lines[0].value) and (lines[1].value, lines[1].stderr) == (1.5, 0.5)


def test_every_metric_is_ranked_as_its_table_says(place: Place) -> None:
    """And what stands beside the samplers is never the best of them."""

    def cell(at: Mapping[str, Any], name: str, metric: str) -> tuple[float, float]:
        return (0.0, 0.01) if name == "exact draws" and metric == "crps" else same(at, "PiGDM", metric)

    text = Page(compared(place, sweep(place, swept(**{STEPS: [5, 10]}), cell, beside=["exact draws"]))).text
    assert "Best: PiGDM with sample.times.n_steps 10, 1.300 ± 0.010." in text and "exact draws: 0.000 ± 0.010." in text
    assert "Best: PiGDM with sample.times.n_steps 10, 18.700 ± 0.010." in text, "more is better"
    assert "Best: PiGDM with sample.times.n_steps 10, 0.913 ± 0.010." in text, "nearer to 0.9"
    assert text.count("Best: ") == 3 and "ess not ranked" in text


def test_a_swept_training_is_set_against_the_seconds_that_it_took(place: Place) -> None:
    """Calls of a draw differ between samplers, and yet training is what is paid for."""

    def cost(at: Mapping[str, Any], name: str) -> tuple[float, float, float]:
        return (10.0, 4.0, 2.0 * at[LEARNED]) if name == "PiGDM" else (20.0, 8.0, 2.0 * at[LEARNED])

    def cell(at: Mapping[str, Any], name: str, metric: str) -> tuple[float, float]:
        return 100 / at[LEARNED] + (name == "stochastic"), 0.1

    folders = sweep(place, swept(**{LEARNED: [50, 100]}), cell, metrics={"crps": "less"}, cost=cost)
    text = compared(place, folders)
    chapter = Page(text.partition("<h3>crps against cost</h3>")[2].partition("</table>")[0]).text
    assert "CPU seconds of train and sample" in chapter
    assert re.findall(r"(\d+) PiGDM (\d+) (\d+) ", chapter) == [("50", "10", "104"), ("100", "10", "204")]
    assert "stochastic" not in chapter, "it is beaten in both"


@pytest.mark.parametrize(("is_gpu", "unit"), [(False, "CPU seconds"), (True, "GPU seconds")])
def test_seconds_count_where_all_calls_are_equal(is_gpu: bool, unit: str, place: Place) -> None:
    """A sweep of the assumed noise, with the seconds of devices where every run held one."""

    def cost(at: Mapping[str, Any], name: str) -> tuple[float, float, float]:
        return 10.0, 4.0 + at[SIGMA], 2.0

    values = change(IMAGING, {"sample.posteriors": {"a": IMAGING["sample"]["posteriors"]["PiGDM"]}})
    values["sweep"] = {SIGMA: [0.1, 0.2]}
    folders = sweep(place, values, lambda at, *_: (at[SIGMA], 0.01), metrics={"crps": "less"}, cost=cost)
    for folder in folders if is_gpu else ():
        facts = read_provenance(folder / "samples.nc")
        write_provenance(folder / "samples.nc", {**facts, "gpu_seconds": 3.0 + float(folder.name[-1])})
    files = {f.name: {"samples": f / "samples.nc", "model": place.results("swept") / "model.pt"} for f in folders}
    known, found = costs(files), gather(folders)
    front = error_fronts(found, "crps", known)
    assert known.unit == unit and front is not None and front.cost == f"{unit} of train and sample"
    seconds = [4.0] if is_gpu else [6.1]  # the other costs more and errs more
    assert [one for _, one, _ in front.lines] == pytest.approx(seconds, abs=1e-3)  # sidecars hold milliseconds
    for folder in folders:
        provenance_path(folder / "samples.nc").unlink()
    assert error_fronts(found, "crps", costs(files)) is None, "nothing is known of the cost"


def marks(figure: Any) -> list[str]:
    """Labels of the rows of a figure."""
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_values_that_are_no_numbers_have_a_figure(place: Place) -> None:
    found = gather(sweep(place, swept(**{KIND: ["karras", "uniform"]}), same))
    ((figure, caption),) = swept_figures(found, "crps")
    assert marks(figure) == ["karras", "uniform"] and caption == f"crps for each value of {KIND}."
    containers = {bar.get_label(): bar[0].get_xdata().tolist() for bar in figure.axes[0].containers}
    assert containers == {"PiGDM": [1.3, 1.3], "stochastic": [1.8, 1.8]}


def test_three_keys_have_a_figure_with_the_best_first(place: Place) -> None:
    keys = {STEPS: [2, 4, 8], KIND: ["karras", "uniform"], SIGMA: [0.1, 0.2, 0.3]}

    def cell(at: Mapping[str, Any], name: str, metric: str) -> tuple[float, float]:
        return at[SIGMA] + 1 / at[STEPS] + (at[KIND] == "uniform") + (name == "stochastic"), 0.1

    found = gather(sweep(place, swept(**keys), cell))
    ((figure, caption),) = swept_figures(found, "crps")
    assert marks(figure)[:2] == ["n_steps 8, kind karras, sigma 0.1", "n_steps 8, kind karras, sigma 0.2"]
    assert len(marks(figure)) == MOST_ROWS < 18 and f"The first {MOST_ROWS} of 18; the table has all." in caption
    assert list(swept_figures(found, "ess")) == [], "too many, and none of them before another"
    ((last, _),) = swept_figures(found, "psnr")
    assert marks(last)[0] == "n_steps 2, kind uniform, sigma 0.3", "more is better"


def test_seeds_alone_have_a_row_for_each_sampler(place: Place) -> None:
    found = gather(sweep(place, swept(seed=[0, 1]), same))
    ((figure, caption),) = swept_figures(found, "crps")
    assert marks(figure) == ["PiGDM", "stochastic"]
    assert caption == "crps for each sampler. Mean over 2 seeds, error from their spread."


def test_keys_are_cut_as_far_as_they_differ() -> None:
    assert short(["a.b.c", "a.d"]) == ["c", "d"] and short(["a.b.c", "a.d.c"]) == ["b.c", "d.c"]


def test_mappings_of_one_kind_are_told_apart(place: Place) -> None:
    grids = [{"kind": "karras", "n_steps": 3}, {"kind": "karras", "n_steps": 4}, {"kind": "uniform"}]
    found = gather(sweep(place, swept(**{"sample.times": grids}), same))
    assert list(found.values[0]) == ['{"kind": "karras", "n_steps": 3}', '{"kind": "karras", "n_steps": 4}', "uniform"]
    assert len(found.lines) == 3 * 2 * 4, "none is lost under the name of another"


@pytest.mark.parametrize(
    "keys", [{}, {KIND: [HOSTILE, "karras"]}, {KIND: [HOSTILE, NAME], STEPS: [3, 4], SIGMA: [1, 2]}]
)
def test_hostile_words_are_shown_and_not_obeyed(keys: dict[str, list], place: Place) -> None:
    """As names of samplers and metrics, swept values, units, notes and directions; in figures, too."""
    posteriors = {NAME: {"kind": "guided"}, HOSTILE: {"kind": "guided"}}
    asked = {"title": NAME, "question": HOSTILE}
    values = {**change(IMAGING, {"sample.posteriors": posteriors}), **asked, "sweep": {**keys, "seed": [0, 1]}}

    def cell(at: Mapping[str, Any], name: str, metric: str) -> tuple[float, float]:
        return 1.0 + at["seed"] + len(name), 0.1

    def cost(at: Mapping[str, Any], name: str) -> tuple[float, float, float]:
        return float(len(name)), 1.0, 1.0

    metrics = {HOSTILE: "less", NAME: HOSTILE}
    options: dict[str, Any] = {"metrics": metrics, "unit": HOSTILE, "note": HOSTILE, "cost": cost, "beside": ["$$"]}
    folders = sweep(place, values, cell, **options)
    text = compared(place, folders)
    shown = Page(text)
    assert_stands_alone(shown)
    assert sum(HOSTILE in word for word in shown.words) >= 4, "sampler, unit, metric, and what is swept"
    assert sum(NAME in word for word in shown.words) >= 2
    assert "against cost" in shown.text and "not ranked" in shown.text
    assert shown.text.index(NAME) < shown.text.index("Sweep of swept") < shown.text.index("What was asked")
    assert_stands_alone(Page(compared(place, folders[:1])))  # one run has notes: they are attributes
    assert place.sciflow("index").status == 0
    assert_stands_alone(page(place.folder / "results/index.html"))


def test_dots_of_one_sampler_keep_their_colour_in_every_figure() -> None:
    dots = {"a": ([0], [1.0], [0.1]), "b": ([0], [2.0], [0.1])}
    whole, part = (category_dots(found, ["x"], order="ab") for found in (dots, {"b": dots["b"]}))
    assert whole.containers[1][0].get_color() == part.containers[0][0].get_color()
