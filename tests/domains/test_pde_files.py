"""Domain pde: simulations of one's own, from a file to a report, and what is refused before any training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr

from sciflow.data.layouts import CF, Simulations, TheWell
from sciflow.domains.pde.files import SimulationFile
from sciflow.errors import InputError
from sciflow.networks.fourier import FNO
from sciflow.networks.mlp import MLP
from sciflow.random import Stream
from sciflow.stages.train import NetworkTraining
from tests.tiny import FORECAST, PDE, Place, change

N, T, X, Y = 20, 5, 16, 8


def example(axes: int = 2, x: np.ndarray | None = None) -> Simulations:
    shape = (N, T, X, Y)[: 2 + axes]
    drawn = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    space = {"x": np.arange(X) / X if x is None else x, "y": np.arange(Y) / Y}
    return Simulations(
        {"density": drawn[0], "speed": drawn[1]}, np.arange(T) / 4, dict([*space.items()][:axes]),
        {"depth": drawn[0, :, 0]}, {"viscosity": np.linspace(0, 1, N)}, {"x": "periodic"},
    )  # fmt: skip


@pytest.mark.parametrize(("axes", "event"), [(1, ("time", "x")), (2, ("time", "y", "x"))])
def test_events_come_with_coordinates_parameters_and_boundaries(tmp_path: Path, axes: int, event: tuple) -> None:
    given = example(axes)
    CF().write(tmp_path / "a.nc", given)
    made = SimulationFile(str(tmp_path / "a.nc"), variable="speed", n_times=2, every=2, n_observations=1)
    made.look()
    data = made.simulate(Stream(1))
    assert data["data"].dims == ("sample", *event) and data["time"].to_numpy().tolist() == [0.0, 0.5]
    assert np.array_equal(
        data["data"].transpose("sample", "time", *"xy"[:axes]).to_numpy(), given.fields["speed"][:, :4:2]
    )
    assert np.array_equal(data["parameter_viscosity"], given.parameters["viscosity"])
    assert "periodic" in data.attrs["boundary"] and "constant_depth" in data
    held = data["data"].to_numpy()[data["split"].to_numpy() == "test"]
    assert (
        (held == data["truth"].to_numpy()[:, None].reshape(-1, *held.shape[1:])[:1])
        .all((1, 2, *range(3, held.ndim)))
        .any()
    )
    assert set(data["split"].to_numpy()) == {"train", "validation", "test"}


def options(**changes: Any) -> dict[str, Any]:
    return {"variable": "speed", "n_observations": 1, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variable": ""}, r"several fields, found \['density', 'speed'\]. Say which one: `variable: <name>`"),
        ({"variable": "sped"}, "Did you mean 'speed'"),
        ({"n_observations": 5}, "but 2 of 20 trajectories are held out"),
        ({"layout": "pdebench"}, r"another layout: found the keys \[boundary_conditions, .*need PDEBench: `tensor`"),
        ({"layout": "the_wel"}, "Did you mean 'the_well'"),
        ({"test": 0.6, "validation": 0.4}, "nothing to train on"),
        ({"max_gigabytes": 1e-9}, "the limit is 1e-09 GB"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    TheWell().write(tmp_path / "a.h5", example())
    with pytest.raises(InputError, match=message):
        SimulationFile(str(tmp_path / "a.h5"), **options(**changes)).simulate(Stream(1))


def test_three_axes_are_refused(tmp_path: Path) -> None:
    space = {axis: np.arange(2.0) for axis in "xyz"}
    CF().write(tmp_path / "a.nc", Simulations({"u": np.ones((1, 1, 2, 2, 2))}, np.zeros(1), space))
    with pytest.raises(InputError, match="Give one or two: slice them"):
        SimulationFile(str(tmp_path / "a.nc")).look()


def test_a_grid_of_unequal_steps_is_refused_for_a_fourier_network_alone(tmp_path: Path) -> None:
    CF().write(tmp_path / "a.nc", example(1, x=np.linspace(0, 1, X) ** 2))
    data = SimulationFile(str(tmp_path / "a.nc"), **options()).simulate(Stream(1))
    job: Any = SimpleNamespace(inputs={"data": "results/a/data.nc"}, device="no such device")
    with pytest.raises(
        InputError, match=r"results/a/data.nc: a Fourier network needs equal steps, but those of 'x' go"
    ):
        NetworkTraining(network=FNO()).learn(job, data, None)
    with pytest.raises(RuntimeError, match="no such device"):  # the grid is no matter: it comes as far as the device
        NetworkTraining(network=MLP()).learn(job, data, None)


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        ({"x": np.linspace(0, 1, X) ** 2}, "dataset: a Fourier network needs equal steps, but those of 'x' go"),
        ({"t": np.arange(T + 1.0) ** 2}, "one-step forecasters need equidistant times, got steps from"),
        ({"n_times": 1}, "need trajectories of 2 or more, got 1"),
    ],
)
def test_the_check_reads_the_data_and_says_what_training_would(
    place: Place, spoilt: dict[str, Any], message: str
) -> None:
    """Before any work, where `sciflow check --data` is asked to look inside."""
    with h5py.File(place.folder / "a.hdf5", "w") as file:
        file["tensor"] = example(1).fields["speed"]
        file["x-coordinate"] = spoilt.get("x", np.arange(X) / X)
        file["t-coordinate"] = spoilt.get("t", np.arange(T + 1) / 4)
    values = change(
        FORECAST,
        {
            "dataset": {
                "kind": "simulations", "path": str(place.folder / "a.hdf5"), "n_times": spoilt.get("n_times"),
                "n_observations": 2,
                "observation": {"operator": {"kind": "sensors", "stride": 1}, "noise": {"kind": "gaussian"}},
            },
            "train.network": {"kind": "fno", "width": 4, "modes": 3, "depth": 1},
        },
    )  # fmt: skip
    assert place.sciflow("check", place.write(values)).status == 0
    outcome = place.sciflow("check", "--data", place.write(values))
    assert outcome.status == 2 and message in outcome.text


def test_a_whole_run_from_a_file(place: Place) -> None:
    """PDEBench's layout, a Fourier network trained for two steps, a posterior, its scores and its report."""
    with h5py.File(place.folder / "a.hdf5", "w") as file:
        file["tensor"] = example(1).fields["speed"]
        file["x-coordinate"], file["t-coordinate"] = np.arange(X) / X, np.arange(T + 1) / 4
    seen = {"kind": "sensors", "stride": 4}
    values = change(
        PDE,
        {
            "dataset": {
                "kind": "simulations", "path": str(place.folder / "a.hdf5"), "n_times": 2, "n_observations": 2,
                "observation": {"operator": seen, "noise": {"kind": "gaussian", "sigma": 0.1}},
            },
            "train": {
                "kind": "network", "network": {"kind": "fno", "width": 4, "modes": 3, "depth": 1},
                "optimisation": {"n_steps": 2, "batch_size": 4},
            },
            "sample.likelihood": {"kind": "gaussian", "operator": seen, "sigma": 0.1},
            "evaluate.metrics": ["rmse", "crps"],
        },
    )  # fmt: skip
    results = place.build(values)
    assert "PiGDM,crps," in (results / "metrics.csv").read_text()
    with xr.open_dataset(results / "data.nc") as data:
        assert data["data"].sizes == {"sample": N, "time": 2, "x": X}
