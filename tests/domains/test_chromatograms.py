"""Data set of chromatograms: each substance is its own column, as exact as the file says, and observed at the end."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

from sciflow.domains.pde.chromatograms import Chromatograms
from sciflow.domains.pde.chromatograph import GasChromatograph
from sciflow.errors import InputError
from sciflow.inverse.likelihood import GaussianNoise
from sciflow.inverse.observe import Observation
from sciflow.inverse.sensors import Sensors
from sciflow.random import Stream
from tests.tiny import PDE, Place, change

AT_THE_END = {"kind": "sensors", "stride": 4, "channels": 9, "first": 3}
SMALL = Chromatograms(
    length=6.0, size=4, n_cells=32, step=0.2, duration=16.0, n_times=8, n_samples=40, n_observations=3, test=0.1,
    validation=0.1, observation=Observation(Sensors(4, 9, 3), GaussianNoise(0.02)),
)  # fmt: skip


def made(**options: object) -> xr.Dataset:
    return replace(SMALL, **options).simulate(Stream(1))


def test_every_trajectory_is_that_of_its_own_rates() -> None:
    """Against the closed form with the numbers that the file says; they fill their ranges."""
    data = made()
    own = {name: data[f"parameter_{name}"].to_numpy() for name in ("adsorption", "desorption")}
    for name, (low, high) in SMALL.varied.items():
        assert low <= own[name].min() < low + 0.2 * (high - low) and high - 0.2 * (high - low) < own[name].max() <= high
    times, worst = torch.tensor(data["time"].to_numpy()), 4 * 4 * data.attrs["exact_error"]
    for k, row in enumerate(data["data"].to_numpy()):
        column = GasChromatograph(adsorption=float(own["adsorption"][k]), desorption=float(own["desorption"][k]))
        exact = column.exact_gas(6.0, times, 4).numpy()
        # the stated error is that of held-out rows together; of one, with faster rates, up to 3² = 9 times, with room
        assert np.sqrt(((row - exact) ** 2).mean()) < worst * np.sqrt((exact**2).mean())
    seen = data["observed_parameter_adsorption"].to_numpy()
    assert set(seen.tolist()) <= set(own["adsorption"][data["split"].to_numpy() == "test"].tolist())


def test_the_file_says_how_exact_it_is() -> None:
    """Halving removes three quarters of an error of second order: the error itself is 4/3 of what it moves."""
    attrs = made().attrs
    assert attrs["exact_error"] / attrs["reference_error"] == pytest.approx(4 / 3, rel=0.02)  # a term of order 4
    finer = made(step=0.1, n_cells=64).attrs
    assert attrs["exact_error"] / finer["exact_error"] == pytest.approx(4, rel=0.02)
    assert max(attrs["mass_error"], finer["mass_error"]) < 1e-12  # rounding of sums of some hundred numbers
    assert attrs["boundary"] == '{"x": "open"}'


def test_the_detector_stands_at_the_end_and_reads_with_noise() -> None:
    data = made(n_samples=400, n_observations=40)
    assert data["data"].dims == ("sample", "time", "x") and data["measured"].shape == (40, 9)
    assert (data["sensor_x"].to_numpy() == 6.0).all() and (data["sensor_time"] == data["time"].to_numpy()).all()
    noise = data["measured"].to_numpy() - data["truth"].to_numpy()[:, :, -1]
    assert abs(noise.std() / 0.02 - 1) < 4 / math.sqrt(2 * noise.size)  # standard error of a standard deviation
    train = {row.tobytes() for row in data["data"].to_numpy()[data["split"].to_numpy() == "train"]}
    assert not train & {row.astype(np.float32).tobytes() for row in data["truth"].to_numpy()}


def test_nothing_varied_is_one_column() -> None:
    data = made(varied={})
    assert not [name for name in data.data_vars if "parameter" in str(name)]
    assert (data["data"].to_numpy() == data["data"].to_numpy()[:1]).all()


def test_pulse_and_transit_may_vary_too() -> None:
    """Pulses that the step does not divide; against the closed form, in units of what the file says."""
    data = made(
        varied={"pulse": (2.0, 5.0), "transit": (0.0, 0.4)}, n_samples=20, n_observations=2, step=0.1, n_cells=64
    )
    pulses, transits = (data[f"observed_parameter_{name}"].to_numpy() for name in ("pulse", "transit"))
    times = torch.tensor(data["time"].to_numpy())
    for truth, pulse, transit in zip(data["truth"].to_numpy(), pulses.tolist(), transits.tolist(), strict=True):
        exact = GasChromatograph(transit, pulse).exact_gas(6.0, times, 4).numpy()
        off = np.sqrt(((truth - exact) ** 2).mean() / (exact**2).mean())
        assert off < 2 * data.attrs["exact_error"]  # which is that of both together, √2 of which one may have alone


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_cells": 30}, "does not fill the 4 pieces of the column"),
        ({"varied": {"porosity": (0.1, 0.2)}}, "this equation has the numbers .*'adsorption', 'desorption'"),
        ({"varied": {"desorption": (0.0, 1.0)}}, "dataset.varied.desorption is .*greater than 0"),
        ({"step": 2.0}, "half of both moves the gas by .* Lower dataset.step, and raise dataset.n_cells"),
        ({"n_observations": 30}, "4 of 40 trajectories are held out"),
        ({"observation": Observation(Sensors(1, 1, 7), GaussianNoise(0.1))}, "the first sensor, at point 7, is beyond"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        made(**options)


@pytest.mark.slow
def test_gas_in_the_column_is_inferred_from_a_run_file(place: Place) -> None:
    """All stages; the draws pass by the readings of the detector, and a figure shows it."""
    dataset = {
        "kind": "chromatograms", "length": 6.0, "size": 4, "n_cells": 32, "step": 0.2, "duration": 16.0, "n_times": 8,
        "n_samples": 200, "n_observations": 2,
        "observation": {"operator": AT_THE_END, "noise": {"kind": "gaussian", "sigma": 0.02}},
    }  # fmt: skip
    likelihood = {"kind": "gaussian", "operator": AT_THE_END, "sigma": 0.02}
    posteriors = {"sample.posteriors": {"mixture": {"kind": "conjugate"}}, "train": {"kind": "mixture"}}
    results = place.build(change(PDE, {"dataset": dataset, "sample.likelihood": likelihood, **posteriors}))
    with xr.open_dataset(results / "samples.nc") as drawn, xr.open_dataset(results / "data.nc") as data:
        ends = drawn["samples"].isel(x=-1).mean("member").squeeze("posterior").transpose("observation", "time")
        off = np.sqrt(((ends.to_numpy() - data["measured"].to_numpy()) ** 2).mean())
        assert off < 3 * 0.02  # of the noise and of a mixture fitted to 180 trajectories; the signal is up to 0.6
    page = (results / "report.html").read_text()
    assert "One held-out event in the course of time" in page
    assert "the ensemble knows how wrong it is" in page and "exact draws" not in page  # there are none of these data
