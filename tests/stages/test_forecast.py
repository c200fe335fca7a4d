"""A forecast through all stages: the same in shards and after interruptions, from a state of your own, or refused."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from sciflow.data import LAYOUTS, Simulations
from sciflow.networks.fourier import FNO
from sciflow.networks.mlp import MLP
from sciflow.networks.unet import UNet
from sciflow.stages.rows import check_grid, interval
from tests.tiny import FORECAST, GIVEN, PDE, Place, change, restored_tables


@pytest.fixture(scope="module")
def forecast(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The tiny forecast, built once."""
    place = Place(tmp_path_factory.mktemp("forecast"))
    place.build(FORECAST)
    return place


@pytest.fixture
def own(forecast: Place, tmp_path: Path) -> Iterator[Place]:
    with restored_tables():
        yield forecast.copy(tmp_path / "own") and Place(tmp_path / "own")


def test_the_report_compares_forecasts_with_the_exact_draws(forecast: Place) -> None:
    results = forecast.results()
    with (results / "metrics.csv").open(newline="") as file:
        rows = {(row["posterior"], row["metric"]): row for row in csv.DictReader(file)}
    assert {name for name, _ in rows} == {"ensemble", "twin", "exact draws"}
    assert float(rows["twin", "spread_skill"]["value"]) == 0
    with xr.open_dataset(results / "metrics.nc") as arrays:
        assert arrays["lead"].to_numpy().tolist() == [0.5, 1.0, 1.5]
        np.testing.assert_array_equal(arrays["lead_crps_excess"].sel(posterior="exact draws"), 0)
        mean = float(arrays["lead_crps"].sel(posterior="twin").mean())
        assert mean == pytest.approx(float(rows["twin", "crps"]["value"]), rel=1e-6)  # equally many places at each lead
    with xr.open_dataset(results / "samples.nc") as drawn:
        assert drawn["nfe"].to_numpy().tolist() == [[12.0] * 3, [3.0] * 3]  # 3 leads of 3 steps and a last denoising
        with xr.open_dataset(results / "data.nc") as data:
            start = np.broadcast_to(data["truth"].to_numpy()[None, :, None, 0], (*drawn["samples"].shape[:3], 16))
        np.testing.assert_array_equal(drawn["samples"].isel(time=0), start.astype(np.float32))
    page = (results / "report.html").read_text()
    assert "How far the exact draws are from 1 is what chance does" in page
    assert "from the exact draws; spread–skill" in page and page.count("data:image/png") >= 6


def test_shards_and_fewer_members_are_the_same_draws(own: Place) -> None:
    whole = xr.load_dataset(own.results() / "samples.nc")["samples"]
    for index in (1, 2):
        assert own.sciflow("sample", "run.yaml", "--shard", f"{index}/2", "--out", f"part{index}.nc").status == 0
    assert own.sciflow("sample", "run.yaml", "--gather", "part1.nc", "part2.nc", "--out", "all.nc").status == 0
    np.testing.assert_array_equal(xr.load_dataset(own.folder / "all.nc")["samples"], whole)
    own.write(change(FORECAST, {"sample.n_samples": 2}))
    assert own.sciflow("sample", "run.yaml").status == 0
    few = xr.load_dataset(own.results() / "samples.nc")["samples"]
    np.testing.assert_array_equal(few, whole[:, :, :2])


def test_training_continues_to_the_same_bits(own: Place) -> None:
    """A limit that is over at once: every call does one step, 2 of the one forecaster and then 3 of the other."""
    straight = (own.results() / "model.pt").read_bytes()
    statuses = [own.sciflow("train", "run.yaml", "--time-limit", "1e-9").status for _ in range(4)]
    assert statuses == [75, 75, 75, 0]
    assert (own.results() / "model.pt").read_bytes() == straight


def test_a_state_of_ones_own_is_forecast(own: Place) -> None:
    """The recorded state gives the recorded forecast; a state of another size is refused."""
    with xr.open_dataset(own.results() / "data.nc") as data:
        state = data["measured"].to_numpy()[0]
    np.savez(own.folder / "state.npz", measured=state)
    outcome = own.sciflow("apply", "run.yaml", "state.npz", "--out", "own.nc")
    assert outcome.status == 0, outcome.text
    whole = xr.load_dataset(own.results() / "samples.nc")["samples"]
    np.testing.assert_array_equal(xr.load_dataset(own.folder / "own.nc")["samples"], whole[:, :1])
    np.savez(own.folder / "state.npz", measured=state[:8])
    outcome = own.sciflow("apply", "run.yaml", "state.npz", "--out", "own.nc")
    assert outcome.status == 2 and "8 measurements" in outcome.text


def simulations(own: Place, **changes: Any) -> Simulations:
    """The observed trajectories, as a solver would write them."""
    with xr.open_dataset(own.results() / "data.nc") as data:
        truth, time, x = (data[name].to_numpy() for name in ("truth", "time", "x"))
    return Simulations(**{"fields": {"u": truth}, "time": time, "space": {"x": x}, **changes})


def test_a_file_of_simulations_is_a_state_of_ones_own(own: Place) -> None:
    """The first field of each trajectory; the later ones are not looked at."""
    found = simulations(own)
    later = np.where(np.arange(4)[:, None] > 0, 7.0, found.fields["u"])
    LAYOUTS["pdebench"]().write(own.folder / "state.h5", simulations(own, fields={"u": later}))
    outcome = own.sciflow("apply", "run.yaml", "state.h5", "--out", "own.nc")
    assert outcome.status == 0, outcome.text
    whole = xr.load_dataset(own.results() / "samples.nc")["samples"]
    np.testing.assert_array_equal(xr.load_dataset(own.folder / "own.nc")["samples"], whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fields": {"u": np.zeros((2, 4, 8))}, "space": {"x": np.arange(8.0)}}, "(time, x) = (1, 8), needs (1, 16)"),
        ({"fields": {name: np.zeros((2, 4, 16)) for name in "uv"}}, "several fields, ['u', 'v']"),
        ({"space": {"x": np.linspace(0, 100, 16)}}, "points of 'x' are 6.667 apart, but the model learned from fields"),
        (
            {"boundary": {"x": "wall"}},
            "the boundary of 'x' is 'wall', but the model learned from fields with 'periodic'",
        ),
    ],
)
def test_simulations_of_something_else_are_refused(changes: dict[str, Any], message: str, own: Place) -> None:
    LAYOUTS["cf"]().write(own.folder / "state.nc", simulations(own, **changes))
    outcome = own.sciflow("apply", "run.yaml", "state.nc", "--out", "own.nc")
    assert outcome.status == 2 and message in outcome.text, outcome.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sample.posteriors.twin.forecaster": "maen"},
            "must be one of ['law', 'mean'], got 'maen'. Did you mean 'mean'?",
        ),
        ({"train": {"kind": "closed_form"}}, "got 'law'. Use `train: {kind: forecast}`"),
        (
            {"train.forecasters.law": {"kind": "conditional_diffusion", "loss": {"kind": "target_score"}}},
            "train.forecasters.law: target_score learns whole events, no steps or windows of them. Use `denoising`.",
        ),
    ],
)
def test_forecasters_that_nobody_trains_are_refused_at_once(changes: dict, message: str, place: Place) -> None:
    outcome = place.sciflow("check", place.write(change(FORECAST, changes)))
    assert outcome.status == 2 and message in outcome.text


def test_steps_of_unequal_length_are_refused() -> None:
    data = xr.Dataset(coords={"time": [0.0, 0.5, 1.5]})
    with pytest.raises(Exception, match=r"equidistant times, got steps from 0\.5 to 1 in"):
        interval(data)
    assert interval(data.isel(time=slice(2))) == 0.5


FNO_TINY = {"kind": "fno", "width": 4, "modes": 2, "depth": 1}


@pytest.mark.parametrize(
    ("run", "changes"),
    [
        (FORECAST, {"train.network": FNO_TINY}),
        (PDE, {"train": {"kind": "network", "network": FNO_TINY, "optimisation": {"n_steps": 1}}}),
    ],
    ids=["forecasters", "prior"],
)
def test_a_grid_that_the_network_was_not_made_for_is_told(
    run: dict[str, Any], changes: dict[str, Any], place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """Unequal steps are refused for a Fourier network, a wall warned of where the network joins the ends."""
    fields, x = np.random.default_rng(0).normal(size=(20, 4, 16)), np.arange(16) ** 2.0
    given = Simulations({"u": fields}, np.arange(4.0), {"x": x}, boundary={"x": "wall"})
    LAYOUTS["cf"]().write(place.folder / "flow.nc", given)
    observed = {"operator": GIVEN, "noise": {"kind": "gaussian", "sigma": 0.1}}
    data = {"kind": "simulations", "path": "flow.nc", "n_observations": 1, "observation": observed}
    place.build(change(run, {"dataset": data, **changes}), until="dataset")
    outcome = place.sciflow("train", "run.yaml")
    said = "data.nc: a Fourier network needs equal steps, but those of 'x' go from 1 to 29."
    assert outcome.status == 2 and said in outcome.text, outcome.text
    circular = {"kind": "unet", "channels": [4], "padding": "circular"}  # does not ask how far apart points are
    place.write(change(run, {"dataset": data, **changes, "train.network": circular}))
    assert place.sciflow("train", "run.yaml").status == 0
    assert "data.nc: the boundary of axis 'x' is 'wall', but the network joins its two ends" in caplog.text


@pytest.mark.parametrize(
    ("network", "axes"), [(FNO(), ["y"]), (UNet(padding="circular"), ["y"]), (UNet(padding="zeros"), []), (MLP(), [])]
)
def test_a_network_that_joins_the_ends_of_walls_is_warned_of(network: Any, axes: list[str], caplog: Any) -> None:
    boundary = {"boundary": '{"x": "periodic", "y": "wall"}'}
    data = xr.Dataset({"data": (("sample", "time", "y", "x"), np.zeros((2, 2, 4, 4)))}, attrs=boundary)
    check_grid("of.nc", data, network)
    check_grid("of.nc", data.drop_attrs(), network)  # a file that says nothing
    check_grid("of.nc", data, network, is_told=True)
    rest = "`padding: zeros`, or mlp; forecasters can be told of the ends, `train.boundary: true`."
    said = "of.nc: the boundary of axis {!r} is 'wall', but the network joins its two ends. Use the unet network with "
    assert caplog.messages == [said.format(axis) + rest for axis in axes]


def test_trajectories_shorter_than_what_is_looked_back_on_are_refused(own: Place) -> None:
    own.write(change(FORECAST, {"train.n_given": 4}))
    outcome = own.sciflow("train", "run.yaml")
    assert outcome.status == 2 and "need trajectories of 5 or more, got 4. Lower train.n_given" in outcome.text
