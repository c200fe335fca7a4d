"""`sciflow check`: whatever is wrong with a run and its files is said at once, before any work."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny import ANALYTIC, IMAGING, OBSERVED, Place, change

FILE = {"kind": "file", "path": "scans.npz", "n_observations": 2, "observation": OBSERVED}
INSIDE: dict[str, tuple[dict[str, Any], str]] = {
    "assumed operator": (
        {"sample.likelihood.operator": {"kind": "downsampling"}},
        "run.yaml: the observation has 32 measurements, but Downsampling makes 16 of events of shape (1, 8, 8).",
    ),
    "assumed operator without its parameters": (
        {"dataset.observation.operator": {"kind": "gaussian_blur"}},
        "run.yaml: inpainting needs the parameter 'mask'",
    ),
    "more observations than test images": ({"dataset.n_observations": 400}, "but the test set has "),
    "true operator": (
        {"dataset.observation.operator": {"kind": "dense", "n_measurements": 65}},
        "run.yaml: dense can draw 1 to 64 measurements of events (1, 8, 8), got 65.",
    ),
}


def test_a_good_run_is_in_order(place: Place) -> None:
    files = [place.write(values, name) for name, values in (("a", IMAGING), ("b", ANALYTIC))]
    outcome = place.sciflow("check", "--data", *files)
    assert (outcome.status, outcome.text) == (0, "2 run files are in order.\n")
    assert {file.name for file in place.files()} == {"a.yaml", "b.yaml"}, "a check writes nothing"


def test_everything_wrong_is_said_once_and_at_once(place: Place) -> None:
    first = {**change(IMAGING, {"seed": -1, "sample.n_samples": 0, "dataset": {**FILE, "path": "nowhere.npz"}})}
    first["sweep"] = {"sample.times.n_steps": [3, 0]}
    first["smoke"] = {"train.optimisation.n_steps": -5}
    second = change(ANALYTIC, {"train": {"kind": "checkpoint", "path": "nowhere.pt"}})
    outcome = place.sciflow("check", place.write(first, "first"), place.write(second, "second"))
    assert outcome.status == 2
    assert sorted(line.removeprefix("error: ").split(". ")[0] for line in outcome.text.splitlines()) == [
        "first.yaml: sample.n_samples must be greater than 0, got 0",
        "first.yaml: sample.times.n_steps must be greater than 0, got 0",
        "first.yaml: seed must be greater than or equal to 0, got -1",
        "first.yaml: there is no file 'nowhere.npz'",
        "first.yaml: train.optimisation.n_steps must be greater than 0, got -5",
        "second.yaml: there is no file 'nowhere.pt'",
    ]


@pytest.mark.parametrize("stage", ["dataset", "train", "sample", "evaluate", "report"])
@pytest.mark.parametrize("section", [None, [], "digits", 3])
def test_a_section_that_is_no_mapping_is_named(stage: str, section: Any, place: Place) -> None:
    outcome = place.sciflow("check", place.write(change(IMAGING, {stage: section})))
    assert outcome.status == 2
    assert outcome.text.startswith(f"error: run.yaml: {stage} must be a mapping, got {section!r}.")


@pytest.mark.parametrize("what", INSIDE)
def test_reading_the_data_shows(what: str, place: Place) -> None:
    changes, message = INSIDE[what]
    file = place.write(change(IMAGING, changes))
    assert place.sciflow("check", file).status == 0
    outcome = place.sciflow("check", "--data", file)
    assert outcome.status == 2
    assert message in outcome.text
    assert len(outcome.text.splitlines()) == 1


def test_nan_in_the_data_is_found(place: Place) -> None:
    images = np.random.default_rng(0).random((40, 8, 8))
    images[7, 3, 2] = np.nan
    np.savez(place.folder / "scans.npz", images=images)
    file = place.write(change(IMAGING, {"dataset": FILE}))
    assert place.sciflow("check", file).status == 0, "headers do not show it"
    outcome = place.sciflow("check", "--data", file)
    assert outcome.status == 2
    where = "1 of 2560 values NaN or infinite, the first at (sample 7, channel 0, y 3, x 2)"
    assert where in outcome.text


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((40, 8)), "the array has dims ('sample', 'dimension'), needs ('sample', 'channel', 'y', 'x')."),
        (np.zeros((0, 8, 8)), "the array is empty, shape (0, 1, 8, 8)."),
        (np.full((40, 8, 8), "a"), "the array holds <U1, needs real numbers."),
    ],
)
def test_what_a_header_shows_is_found_without_reading(images: np.ndarray, message: str, place: Place) -> None:
    np.savez(place.folder / "scans.npz", images=images)
    outcome = place.sciflow("check", place.write(change(IMAGING, {"dataset": FILE})))
    assert outcome.status == 2
    assert outcome.text.startswith(f"error: run.yaml: scans.npz: {message}")


def test_an_unreadable_model_is_found(place: Place) -> None:
    (place.folder / "mine.pt").write_text("no model")
    file = place.write(change(IMAGING, {"train": {"kind": "checkpoint", "path": "mine.pt"}}))
    outcome = place.sciflow("check", file)
    assert outcome.status == 2
    assert outcome.text.startswith("error: run.yaml: mine.pt: cannot be read as a model (File is not a zip file).")


def test_a_grid_that_the_schedule_of_a_model_does_not_have_is_found(place: Place, built: Place) -> None:
    """The schedule is known from the file alone."""
    (place.folder / "mine.pt").write_bytes((built.results("imaging") / "model.pt").read_bytes())
    content = {"train": {"kind": "checkpoint", "path": "mine.pt"}}
    assert place.sciflow("check", place.write(change(IMAGING, content))).status == 0
    backwards = {**content, "sample.times.ratio_max": 0.01, "sample.times.ratio_min": 0.1}
    outcome = place.sciflow("check", place.write(change(IMAGING, backwards)))
    assert outcome.status == 2
    assert outcome.text.startswith("error: run.yaml: sample.times: times must hold at least two increasing numbers")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_found_when_asked_for(place: Place) -> None:
    file = place.write({**IMAGING, "resources": {"train": {"gpu": 1}}})
    assert place.sciflow("check", file).status == 0, "a run may be written on a machine without its devices"
    outcome = place.sciflow("check", "--device", file)
    assert outcome.status == 2
    assert "device is 'cuda', but torch sees no CUDA device here." in outcome.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("domain: imaging\nseed: [0\n", "run.yaml:3: not valid YAML"),
        ("domain: imaging\nseed: 0\nseed: 1\n", "run.yaml:3: not valid YAML: key 'seed' appears twice"),
        ("- domain\n", "run.yaml: must hold a mapping of keys to values, got list."),
        ("", "run.yaml: must hold a mapping of keys to values, got NoneType."),
        ("domain: imaging\n\tseed: 0\n", "run.yaml:2: not valid YAML"),
        ("domain: imaging\n", "run.yaml: dataset is missing. Add it; `sciflow new` writes a run file that has it."),
    ],
)
def test_what_is_no_run_file_is_named_with_its_line(content: str, message: str, place: Place) -> None:
    (place.folder / "run.yaml").write_text(content)
    for command in ("check", "dataset", "sample"):
        outcome = place.sciflow(command, "run.yaml")
        assert outcome.status == 2
        assert outcome.text.startswith(f"error: {message}")
    assert place.sciflow("check", "nowhere.yaml").text.startswith("error: nowhere.yaml: cannot be read")
