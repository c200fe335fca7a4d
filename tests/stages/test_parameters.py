"""Numbers of each trajectory that a surrogate is told: what they teach, and where they come from."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from sciflow.data.layouts import CF, Simulations
from sciflow.diffusion.forecast import Forecasts, Regression
from sciflow.diffusion.model import unpack
from sciflow.diffusion.one_step import told
from sciflow.domains.pde.equations import Advection
from sciflow.domains.pde.files import SimulationFile
from sciflow.domains.pde.simulate import Evolving
from sciflow.errors import InputError
from sciflow.inverse.likelihood import GaussianNoise
from sciflow.inverse.observe import Observation
from sciflow.inverse.sensors import Sensors
from sciflow.networks.fourier import FNO
from sciflow.random import Stream
from sciflow.stages.artefact import Job
from sciflow.stages.rows import parameters, rows
from sciflow.stages.train import ForecastTraining
from sciflow.training.optimisation import Optimisation
from tests.tiny import FORECAST, Place, change

SPEEDS = (0.2, 2.0)
MOVING = Evolving(
    equation=Advection(), varied={"speed": SPEEDS}, size=16, waves=3, duration=1.0, n_times=2, n_samples=400,
    n_observations=2, n_exact=2, test=0.3, validation=0.1,
    observation=Observation(Sensors(1, 1), GaussianNoise(0.01)),
)  # fmt: skip


def trained(data: xr.Dataset, names: tuple[str, ...], n_steps: int = 150) -> Forecasts:
    """A regression of the next field, told of these parameters."""
    options = Optimisation(n_steps=n_steps, batch_size=32, learning_rate=5e-3, warm_up=10, validate_every=n_steps)
    training = ForecastTraining(FNO(width=12, modes=5, depth=2), {"mean": Regression()}, 1, options, names)
    learned = training.learn(Job("r", "train", "pde", 0, "", "", Path("model.pt")), data, None)
    found = unpack(learned.model)
    assert isinstance(found, Forecasts)
    return found


def errors(forecasts: Forecasts, data: xr.Dataset) -> torch.Tensor:
    """Mean square error of one step over that of the increment, of each held-out trajectory."""
    fields, model = rows(data, "test")[:, :, None], forecasts.named("mean")
    held = torch.as_tensor(data["split"].to_numpy() == "test")
    shown = model.scale.channels(
        {name: torch.as_tensor(data["parameter_speed"].to_numpy())[held] for name in ["speed"]}
    )
    with torch.no_grad():
        left = model.mean(told(fields[:, :1], shown)) - fields[:, 1]
    return left.square().flatten(1).mean(1) / (fields[:, 1] - fields[:, 0]).square().mean()


def test_a_surrogate_that_is_told_the_speed_learns_more() -> None:
    """One field does not show how fast it moves. Paired by trajectory: at 4 standard errors, by a factor of 2."""
    data = MOVING.simulate(Stream(1))
    without, with_speed = (errors(trained(data, names), data) for names in ((), ("speed",)))
    gap = without / 2 - with_speed
    assert float(gap.mean()) > 4 * float(gap.std()) / math.sqrt(len(gap))


def test_a_parameter_that_never_differs_changes_nothing() -> None:
    """To the last bit, and other values of it are refused."""
    data = replace(MOVING, varied={}).simulate(Stream(1))
    n = data.sizes["sample"]
    data = data.assign({"parameter_speed": ("sample", np.full(n, 1.0, np.float32))})
    plain, constant = (trained(data, names, 5).named("mean").module.state_dict() for names in ((), ("speed",)))
    assert plain.keys() == constant.keys() and all(torch.equal(plain[key], constant[key]) for key in plain)
    with pytest.raises(InputError, match="trained at speed = 1 alone, and cannot tell of 2"):
        trained(data, ("speed",), 1).given({"speed": 2.0})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, r"asks for 'sped', but data.nc knows \['speed'\]. Did you mean 'speed'\? A file has them"),
        (np.full(20, np.nan), "must be a finite number for each trajectory"),
        (np.zeros((20, 2)), "must be a finite number for each trajectory"),
    ],
)
def test_parameters_that_are_not_there_are_refused(values: np.ndarray | None, message: str) -> None:
    data = xr.Dataset({"parameter_speed": ("sample", np.ones(20))}, {"split": ("sample", np.full(20, "train"))})
    if values is not None:
        data["parameter_sped"] = (("sample", "pair")[: values.ndim], values)
    with pytest.raises(InputError, match=message):
        parameters(data, ("sped",))


def told_run(**changes: Any) -> dict[str, Any]:
    """The tiny forecast, of advection at random speeds."""
    dataset = {
        "kind": "evolving", "equation": {"kind": "advection"}, "varied": {"speed": [0.2, 2.0]}, "size": 16, "waves": 2,
        "n_times": 3, "n_samples": 40, "n_observations": 3, "n_exact": 4, "test": 0.1, "validation": 0.1,
        "observation": {"operator": {"kind": "sensors", "stride": 1}, "noise": {"kind": "gaussian", "sigma": 0.01}},
    }  # fmt: skip
    return change(FORECAST, {"dataset": dataset, "train.parameters": ["speed"], **changes})


def test_a_state_of_ones_own_comes_with_its_parameter(place: Place) -> None:
    """The recorded state and speed give the recorded forecast; another speed another; none is refused."""
    results = place.build(told_run())
    with xr.open_dataset(results / "data.nc") as data:
        state, speed = data["measured"].to_numpy(), data["observed_parameter_speed"].to_numpy()
    whole = xr.load_dataset(results / "samples.nc")["samples"]
    forecasts = {}
    for name, known in {"same": speed, "other": speed + 0.5}.items():
        np.savez(place.folder / "own.npz", measured=state, parameter_speed=known)
        outcome = place.sciflow("apply", "run.yaml", "own.npz", "--out", f"{name}.nc")
        assert outcome.status == 0, outcome.text
        forecasts[name] = xr.load_dataset(place.folder / f"{name}.nc")["samples"]
    np.testing.assert_array_equal(forecasts["same"], whole)
    assert bool((forecasts["other"] != whole).isel(time=-1).any())
    np.savez(place.folder / "own.npz", measured=state)
    outcome = place.sciflow("apply", "run.yaml", "own.npz", "--out", "none.nc")
    assert (
        outcome.status == 2 and "'speed' is missing" in outcome.text and "`parameter_speed` in a file" in outcome.text
    )


def test_check_says_which_parameters_the_data_have(place: Place) -> None:
    outcome = place.sciflow("check", place.write(told_run(**{"train.parameters": ["sped"]})))
    assert outcome.status == 2 and "but the data have ['speed']. Did you mean 'speed'?" in outcome.text


def test_parameters_of_a_file_come_with_what_is_observed(tmp_path: Path) -> None:
    """Each held-out trajectory keeps its own number."""
    drawn, numbers = np.random.default_rng(0).normal(size=(20, 3, 8)), np.arange(20) / 4
    fields = {"u": (drawn + numbers[:, None, None]).astype(np.float32)}
    CF().write(tmp_path / "a.nc", Simulations(fields, np.arange(3.0), {"x": np.arange(8.0)}, {}, {"nu": numbers}))
    file = SimulationFile(str(tmp_path / "a.nc"), n_observations=2)
    assert file.known_parameters() == ["nu"]
    data = file.simulate(Stream(1))
    same = (data["data"] == data["truth"]).all(("time", "x"))  # (sample, observation)
    found = [float(data["parameter_nu"][int(i)]) for i in same.argmax("sample")]
    assert data["observed_parameter_nu"].to_numpy().tolist() == found and len(set(found)) == 2
