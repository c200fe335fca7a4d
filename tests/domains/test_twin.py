"""Twin experiments: what is stored is what was made, its error is certified, and the five stages carry it."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from sciflow import config
from sciflow.data.schema import DATA, check
from sciflow.domains.analytic.network import dynamics
from sciflow.domains.analytic.paths import FREE
from sciflow.domains.analytic.twin import Lorenz63Paths, Lorenz96Paths, reference_error
from sciflow.errors import InputError
from sciflow.random import Stream
from tests.tiny import ANALYTIC, PATHS, Place, change

SMALL = Lorenz96Paths(n_times=4, n_problems=3, n_samples=12)


@pytest.mark.parametrize("twin", [SMALL, Lorenz63Paths(n_times=4, n_problems=3, n_samples=12)], ids=lambda t: t.kind)
def test_a_data_set_of_paths(twin) -> None:
    data = twin.simulate(Stream(0).child("dataset"))
    check(data, DATA)
    d = twin.space.dimension
    assert data["truth"].shape == (3, 5, d) and data["data"].shape == (12, 5, d)
    mask = data["operator_mask"].to_numpy().astype(bool)
    noise = data["measured"].to_numpy() - np.stack([x[m] for x, m in zip(data["truth"].to_numpy(), mask, strict=True)])
    sigma = twin.observation.noise.sigma
    assert abs(noise.std() / sigma - 1) < 4 / math.sqrt(2 * noise.size), "4 standard errors of a standard deviation"
    assert (mask == mask[:, :1]).all(), "the same coordinates at all times"
    prior = dynamics(data)
    assert prior.space.dynamics == twin.space.dynamics and prior.space.grid == pytest.approx(twin.space.grid)
    assert (prior.space.noise, prior.space.n_substeps) == (twin.model_noise, twin.n_substeps)
    assumed = dynamics(data, n_substeps=3, model_noise=0.1).space
    assert (assumed.noise, assumed.n_substeps) == (0.1, 3)


@pytest.mark.parametrize("twin", [SMALL, Lorenz63Paths(n_times=4, n_problems=3, n_samples=12)], ids=lambda t: t.kind)
def test_the_stored_error_is_that_of_the_solver(twin) -> None:
    """Against moves of sixteen times finer steps, whose own error is 16⁴ times less."""
    data = twin.simulate(Stream(1))
    path = torch.as_tensor(data["truth"].to_numpy())
    exact = replace(twin.space, n_substeps=16 * twin.n_substeps)
    wrong = max(
        float((twin.space.forecast(k, path[:, k], Stream(0)) - exact.forecast(k, path[:, k], Stream(0))).abs().max())
        for k in range(4)
    )
    assert data.attrs["reference_error"] == pytest.approx(wrong, rel=0.1)  # the next order of the step
    assert data.attrs["reference_error"] < 0.02 * twin.model_noise, "the solver's error drowns in the model noise"
    halved = reference_error(replace(twin.space, n_substeps=2 * twin.n_substeps), path)
    assert 11 < data.attrs["reference_error"] / halved < 23


def test_paths_start_in_the_climate() -> None:
    """Mean of the first time equals that of the last over 400 free paths: 4 standard errors over independent paths."""
    paths = SMALL.space.simulate(400, Stream(3)).mean(2)
    assert abs(float((paths[:, 0] - paths[:, -1]).mean())) < 4 * float((paths[:, 0] - paths[:, -1]).std()) / 20
    spread = SMALL.space.simulate(400, Stream(3))[:, 0].std()
    assert 3.0 < float(spread) < 4.5, "the width of Lorenz-96 at F = 8 is about 3.6"


def test_what_does_not_fit_is_refused(place: Place) -> None:
    data = SMALL.simulate(Stream(0))
    with pytest.raises(InputError, match="names no equation"):
        dynamics(data.assign_attrs({}).drop_attrs())
    closed = {"train": {"kind": "closed_form"}, "sample.posteriors": ANALYTIC["sample"]["posteriors"]}
    place.build(change(PATHS, closed), until="dataset")
    outcome = place.sciflow("train", "run.yaml")
    assert outcome.status == 2 and "names no mixture" in outcome.text


@pytest.mark.parametrize(
    ("run", "changes", "message"),
    [
        (
            PATHS,
            {"sample.posteriors.EnKF": {"kind": "unguided"}},
            "EnKF asks a denoiser, and `train: {kind: dynamics}`",
        ),
        (ANALYTIC, {"train": {"kind": "dynamics"}}, "MixtureGrid was made by no equation that a filter could follow"),
        (PATHS, {"train": {"kind": "closed_form"}}, "'reference', 'smoother', 'EnKF' follow an equation in time"),
        (PATHS, {"train.model_noise": 0.0}, "reference: a guided filter needs additive model noise > 0"),
        (PATHS, {"dataset.model_noise": 0.0}, "smoother: smoothing draws backwards through additive model noise > 0"),
    ],
)
def test_what_filters_cannot_follow_is_refused_before_any_work(
    run: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        config.parse(change(run, changes), "run.yaml")


def test_the_five_stages_carry_paths(place: Place) -> None:
    results = place.build(PATHS)
    with (results / "metrics.csv").open(newline="") as file:
        rows = {(row["posterior"], row["metric"]): row for row in csv.DictReader(file)}
    for name in ("reference", "EnKF"):
        assert float(rows[name, "rmse"]["value"]) < 0.6 * float(rows[FREE, "rmse"]["value"])
        assert float(rows[name, "rmse_unmeasured"]["value"]) < float(rows[FREE, "rmse_unmeasured"]["value"])
        assert int(rows[name, "rmse"]["n"]) == 3, "paths are what is independent"
    assert ("reference", "log_evidence_gap") not in rows and float(rows["EnKF", "log_evidence_gap"]["value"]) != 0
    assert 1 <= float(rows["reference", "ess_min"]["value"]) <= 256 and ("EnKF", "ess_min") not in rows
    with xr.open_dataset(results / "samples.nc") as samples:
        assert samples["samples"].dims == ("posterior", "observation", "member", "time", "coordinate")
        least = samples["ess_trace"].sel(posterior="reference").min("smc_step")
        assert float(least.mean()) == pytest.approx(float(rows["reference", "ess_min"]["value"]))
    page = (results / "report.html").read_text()
    assert page.count("<figure>") == 4 and "smoother" in page and "spread" in page
