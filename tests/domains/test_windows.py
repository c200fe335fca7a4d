"""A prior of trajectories out of a run that has learned windows of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

from sciflow.diffusion import Karras, WindowedDenoiser, load
from sciflow.errors import InputError
from sciflow.inverse import Dense, GaussianLikelihood, Guided, MomentMatching, PiGDM
from sciflow.inverse.belief import Differentiated
from sciflow.inverse.sensors import Sensors
from sciflow.random import Stream
from sciflow.stages.mixtures import MixtureTraining
from sciflow.stages.train import ForecastTraining
from sciflow.stages.windowed import WindowTraining, windows
from tests.tiny import FORECAST, IMAGING, PDE, Place, change


@pytest.mark.slow
def test_a_network_of_windows_is_a_prior_of_longer_trajectories(place: Place) -> None:
    """Windows of five fields, a trajectory of nine; measured nearly without noise, draws go by what was measured."""
    network = {**IMAGING["train"], "network": {"kind": "mlp", "width": 16, "depth": 2}}
    changes = {"dataset.n_times": 4, "train": network, "sample": PDE["sample"]}
    window = load(place.build(change(FORECAST, changes), until="train") / "model.pt")
    assert window.shape == (5, 16)
    matrix, sigma = torch.eye(9 * 16)[::7], 1e-3
    y = 0.1 * Stream(1).normal(1, (len(matrix),))[0]
    likelihood = GaussianLikelihood(y, Dense.of(matrix, (9, 16)), sigma)
    for guidance, known in ((MomentMatching, window), (MomentMatching, Differentiated(window)), (PiGDM, window)):
        prior = WindowedDenoiser(known, 9)
        draws = Guided(guidance)(prior, likelihood, Karras(6)(prior.schedule), 2, Stream(2)).x
        assert draws.shape == (2, 9, 16) and bool(draws.isfinite().all())
        # ten standard deviations of the noise, for 42 readings; the draws of the prior lie a hundred apart
        assert float((draws.flatten(1) @ matrix.T - y).abs().max()) < 10 * sigma


# From YAML: an HDF5 of a linear chain ---------------------------------------------------------------------------------

KEPT, N_TIMES, EVERY, SIGMA = 0.5, 13, 3, 0.3
SEEN = {"kind": "sensors", "stride": 1, "channels": N_TIMES, "every": EVERY}
LAWS: dict[str, dict[str, Any]] = {
    "mixture": {"kind": "mixture", "n_components": 1, "n_directions": 10},
    "network": {
        "kind": "network", "network": {"kind": "mlp", "width": 64, "depth": 2},
        "optimisation": {"n_steps": 800, "batch_size": 256, "learning_rate": 3e-3, "warm_up": 100, "ema_decay": 0.99},
    },
}  # fmt: skip


def chains(file: Path, n: int) -> None:
    """Two independent chains x_{i+1} = KEPT x_i + √(1 − KEPT²) w_i beside each other, in PDEBench's layout."""
    noise = Stream(5).normal(n, (N_TIMES, 2), dtype=torch.float64)
    states = [noise[:, 0]]
    for i in range(1, N_TIMES):
        states.append(KEPT * states[-1] + (1 - KEPT**2) ** 0.5 * noise[:, i])
    with h5py.File(file, "w") as made:
        made["tensor"] = torch.stack(states, 1).numpy()
        made["x-coordinate"], made["t-coordinate"] = np.arange(2.0), np.arange(N_TIMES + 1.0)


def smoother() -> tuple[Tensor, Tensor]:
    """Gain and standard deviations of the states of a chain, given each EVERY-th with noise."""
    i = torch.arange(N_TIMES, dtype=torch.float64)
    prior = KEPT ** (i[:, None] - i).abs()
    cross = prior[:, ::EVERY]
    gain = torch.linalg.solve(cross[::EVERY] + SIGMA**2 * torch.eye(len(cross[::EVERY])), cross.T).T
    return gain, (prior - gain @ cross.T).diagonal().sqrt()


@pytest.mark.parametrize("law", ["mixture", pytest.param("network", marks=pytest.mark.slow)])
def test_a_run_file_learns_windows_and_finds_the_smoother(law: str, place: Place) -> None:
    n_samples, n_observations = 128, 4
    chains(place.folder / "chains.hdf5", 3000)
    values = change(
        PDE,
        {
            "dataset": {
                "kind": "simulations", "path": str(place.folder / "chains.hdf5"), "n_observations": n_observations,
                "observation": {"operator": SEEN, "noise": {"kind": "gaussian", "sigma": SIGMA}},
            },
            "train": {"kind": "windows", "length": 5, "of": LAWS[law]},
            "sample.likelihood": {"kind": "gaussian", "operator": SEEN, "sigma": SIGMA},
            "sample.posteriors": {"a": {"kind": "guided", "guidance": {"kind": "moment_matching"}}},
            "sample.times.n_steps": 16,
            "sample.n_samples": n_samples,
            "sample.tile": n_samples,
            "sample.precision": "float64",
        },
    )  # fmt: skip
    results = place.build(values, until="sample")
    prior = load(results / "model.pt")
    assert isinstance(prior, WindowedDenoiser) and prior.shape == (N_TIMES, 2) and prior.width == 5
    gain, deviation = smoother()
    with xr.open_dataset(results / "data.nc") as data, xr.open_dataset(results / "samples.nc") as made:
        y = torch.as_tensor(data["measured"].to_numpy()).double().reshape(n_observations, -1, 2)
        draws = torch.as_tensor(made["samples"].to_numpy()).double()
    draws = draws.reshape(n_observations, n_samples, N_TIMES, 2)
    exact = torch.einsum("ij,njx->nix", gain, y)
    off, nothing = (float(((x - exact) / deviation[:, None]).square().mean()) for x in (draws.mean(1), 0 * exact))
    ratios = draws.var(1).mean((0, 2)) / deviation**2
    if law == "network":  # after a training of seconds: a quarter of what the prior alone is off by, at most
        assert off < nothing / 16
        return
    # windows of five with conjugate gradients are 0.03 deviations off, and 5 % of a variance, where they are exact.
    # 104 squares of neighbours that are alike weigh as half as many
    assert off < (1 / n_samples + 0.03**2) * (1 + 4 * (2 / 52) ** 0.5)
    assert float((ratios - 1).abs().max()) < 0.05 + 4 * (2 / n_samples / (2 * n_observations)) ** 0.5


@pytest.mark.parametrize(
    ("training", "dims", "message"),
    [
        ((MixtureTraining(), 4), ("time", "x"), "train.length must be odd, got 4: a window has a middle. Take 5."),
        ((ForecastTraining(), 5), ("time", "x"), "train.of must learn a law of events, but ForecastTraining does not"),
        ((MixtureTraining(), 9), ("time", "x"), "train.length is 9, but the trajectories of data.nc have 7 states"),
        (
            (MixtureTraining(), 5),
            ("y", "x"),
            r"cut out of trajectories \(time, …\), but data.nc has events \('y', 'x'\)",
        ),
    ],
)
def test_what_has_no_windows_is_refused(training: tuple[Any, int], dims: tuple[str, str], message: str) -> None:
    events = xr.Dataset({"data": (("sample", *dims), np.zeros((3, 7, 2)))})
    with pytest.raises(InputError, match=message):
        WindowTraining(*training).look("data.nc", events)


def test_windows_are_successive_states_in_the_split_of_their_trajectory() -> None:
    values = np.arange(2 * 4 * 3.0).reshape(2, 4, 3)
    labels = {"split": ("sample", ["train", "test"]), "time": [0.0, 1.0, 2.0, 3.0]}
    cut = windows(xr.Dataset({"data": (("sample", "time", "x"), values)}, labels), 3)
    assert (
        cut["data"].dims == ("sample", "time", "x") and cut["split"].to_numpy().tolist() == ["train"] * 2 + ["test"] * 2
    )
    assert np.array_equal(cut["data"], [values[0, :3], values[0, 1:], values[1, :3], values[1, 1:]])


def test_sensors_see_each_so_manieth_time() -> None:
    x = torch.arange(2 * 7 * 4.0).reshape(2, 7, 4)
    assert torch.equal(Sensors(2, 6, 1, 3)(x), x[:, [0, 3]][..., [1, 3]].flatten(1))
