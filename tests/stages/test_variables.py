"""Several variables of one file: each in its own units, forecast together, and turned back."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import sciflow
from sciflow.data import LAYOUTS, Simulations
from sciflow.domains.pde.files import SimulationFile
from sciflow.errors import InputError
from sciflow.inverse.likelihood import GaussianNoise
from sciflow.inverse.observe import Observation
from sciflow.inverse.sensors import Sensors
from sciflow.metrics import crps, rmse, spread_skill
from sciflow.random import Stream
from tests.tiny import FORECAST, Place, change

N, T = 40, 4
WHOLE = Observation(Sensors(stride=1), GaussianNoise(0.0))
UNITS = {"density": "kg m-3", "u": "m s-1", "v": "m s-1"}


def flow(n_axes: int, factor: float = 1.0, shift: float = 0.0) -> Simulations:
    """Waves that run at speeds of their own: a density, in units that may be others, and two velocities."""
    x, y = (np.linspace(0, 2 * np.pi, n, endpoint=False) for n in (16, 8))
    drawn = np.random.default_rng(0)
    speed, phase = drawn.uniform(0.5, 1.5, N), drawn.uniform(0, 2 * np.pi, (3, N))
    time = np.arange(T) / 4
    wave = x - (speed[:, None] * time)[..., None]  # (sample, time, x)
    fields = [np.sin((k + 1) * wave + phase[k][:, None, None]) for k in range(3)]
    if n_axes == 2:
        fields = [field[..., None] * np.cos(y) for field in fields]
    names = dict(zip(UNITS, (factor * (3 + 0.1 * fields[0]) + shift, fields[1], 20 * fields[2]), strict=True))
    return Simulations(names, time, dict([("x", x), ("y", y)][:n_axes]), boundary={"x": "periodic"}, units=UNITS)


def section(path: Path, *variables: str) -> SimulationFile:
    return SimulationFile(str(path), variable=variables, n_observations=2, observation=WHOLE)


@pytest.mark.parametrize("n_axes", [1, 2])
def test_each_variable_has_unit_variance_and_is_turned_back(n_axes: int, tmp_path: Path) -> None:
    given = flow(n_axes)
    LAYOUTS["cf"]().write(tmp_path / "a.nc", given)
    found = section(tmp_path / "a.nc", "u", "density").simulate(Stream(1))
    assert found["data"].dims == ("sample", "time", "channel", *("x", "yx")[n_axes - 1])
    assert found["channel"].to_numpy().tolist() == ["u", "density"], "in the order of the run file"
    train = found["data"][found["split"].to_numpy() == "train"].astype(float)
    others = [dim for dim in train.dims if dim != "channel"]
    assert np.abs(train.mean(others)).max() < 1e-6 and np.abs(train.std(others) - 1).max() < 1e-6  # float32
    back = found["data"] * found["scale"] + found["offset"]
    for name in ("u", "density"):
        wanted = given.fields[name] if n_axes == 1 else given.fields[name].transpose(0, 1, 3, 2)
        assert np.abs(back.sel(channel=name).transpose("sample", "time", ...).to_numpy() - wanted).max() < 1e-5


def test_the_unit_of_a_variable_does_not_matter(tmp_path: Path) -> None:
    """Degrees of another scale, say: the same data, and so the same model and draws."""
    found = []
    for factor, shift in ((1.0, 0.0), (1e3, 50.0)):
        LAYOUTS["cf"]().write(tmp_path / "a.nc", flow(1, factor, shift))
        found.append(section(tmp_path / "a.nc", "density", "u").simulate(Stream(1)))
    one, other = (data["data"].to_numpy() for data in found)
    assert np.abs(one - other).max() < 1e-5  # rounding of float32 at values of up to 3
    assert float(found[1]["scale"][0] / found[0]["scale"][0]) == pytest.approx(1e3, rel=1e-9)


def test_variables_that_never_change_or_are_not_there_are_refused(tmp_path: Path) -> None:
    LAYOUTS["cf"]().write(tmp_path / "a.nc", flow(1, factor=0.0, shift=0.1))
    with pytest.raises(InputError, match=r"\['density'\] never change"):
        section(tmp_path / "a.nc", "density", "u").simulate(Stream(1))
    with pytest.raises(InputError, match=r"no field 'w', found \['density', 'u', 'v'\]"):
        section(tmp_path / "a.nc", "u", "w").look()
    with pytest.raises(InputError, match="names a field twice"):
        section(tmp_path / "a.nc", "u", "u").look()
    with pytest.raises(InputError, match="would leave out variables"):
        SimulationFile(str(tmp_path / "a.nc"), variable=("u", "v")).look()


def check_scores_of_each(rows: dict[tuple[str, str], float], results: Path) -> None:
    """Each variable in the unit of its file: as if it had been turned back and scored alone."""
    run = sciflow.open(results)
    named = run["data"], run["samples"]["samples"].sel(posterior="ensemble")
    with (results / "metrics.csv").open(newline="") as file:
        units = {row["metric"]: row["unit"] for row in csv.DictReader(file)}
    for variable in ("density", "v"):
        truth, drawn = (
            torch.as_tensor(
                (values * named[0]["scale"] + named[0]["offset"]).sel(channel=variable).isel(time=slice(1, None))
                .transpose("observation", ..., "time", *[axis for axis in ("y", "x") if axis in values.dims]).to_numpy()
            )
            for values in (named[0]["truth"], named[1])
        )  # fmt: skip
        for score in (rmse, crps, spread_skill):
            ((name, wanted),) = score(truth, drawn).items()
            # a large offset was added and taken away again: rounding of float64
            assert rows["ensemble", f"{name}_{variable}"] == pytest.approx(wanted.value, rel=1e-9)
        assert units[f"crps_{variable}"] == units[f"rmse_{variable}"] == UNITS[variable]
        assert units[f"spread_skill_{variable}"] == "1"


@pytest.mark.parametrize("n_axes", [1, 2])
def test_variables_are_forecast_together_and_from_a_state_of_ones_own(n_axes: int, place: Place) -> None:
    """All five stages; a file of states, in the units of the file, gives the draws of the run."""
    given, path = flow(n_axes), place.folder / "flow.nc"
    LAYOUTS["cf"]().write(path, given)
    seen = {"kind": "sensors", "stride": 1, "channels": 1}
    exact: dict[str, Any] = {"operator": seen, "noise": {"kind": "gaussian", "sigma": 0.0}}
    data = {"kind": "simulations", "path": str(path), "variable": ["density", "v"], "n_observations": 2}
    values = change(FORECAST, {"dataset": {**data, "observation": exact}})
    results = place.build(values)
    with (results / "metrics.csv").open(newline="") as file:
        rows = {(row["posterior"], row["metric"]): float(row["value"]) for row in csv.DictReader(file)}
    assert all(math.isfinite(rows["ensemble", name]) for name in ("crps", "spectrum_error"))
    drawn, learned = (xr.load_dataset(results / name) for name in ("samples.nc", "data.nc"))
    check_scores_of_each(rows, results)
    assert drawn["samples"].dims[3:] == ("time", "channel", *("x", "yx")[n_axes - 1])
    assert "density, the first variable. One held-out trajectory" in (results / "report.html").read_text()
    run = sciflow.open(results)
    density = (run["samples"]["samples"] * run["data"]["scale"] + run["data"]["offset"]).sel(channel="density")
    wanted = drawn["samples"].isel(channel=0).to_numpy().astype(float) * float(learned["scale"][0]) + float(
        learned["offset"][0]
    )
    assert np.allclose(density.to_numpy(), wanted, rtol=1e-12)
    back = (learned["truth"] * learned["scale"] + learned["offset"]).transpose("channel", "observation", "time", ...)
    own = back.to_numpy() if n_axes == 1 else back.transpose(..., "x", "y").to_numpy()
    states = Simulations(dict(zip(("density", "v"), own, strict=True)), given.time, given.space)
    LAYOUTS["cf"]().write(place.folder / "state.nc", states)
    outcome = place.sciflow("apply", "run.yaml", "state.nc", "--out", "own.nc")
    assert outcome.status == 0, outcome.text
    found = xr.load_dataset(place.folder / "own.nc")["samples"].to_numpy()
    # the state went through its own units and back: rounding of float32, which a few steps of a network raise tenfold
    assert np.abs(found - drawn["samples"].to_numpy()).max() < 1e-4
    np.savez(place.folder / "state.npz", measured=back.transpose("observation", "time", "channel", ...)[:, 0].to_numpy()
             .reshape(2, -1))  # fmt: skip
    outcome = place.sciflow("apply", "run.yaml", "state.npz", "--out", "own.nc")
    assert outcome.status == 0, outcome.text
    found = xr.load_dataset(place.folder / "own.nc")["samples"].to_numpy()
    assert np.abs(found - drawn["samples"].to_numpy()).max() < 1e-4
