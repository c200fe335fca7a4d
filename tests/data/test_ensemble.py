"""Particles become arrays, and parts of unequal length are evened out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray as xr

from sciflow.data.arrays import concatenate, evened, to_xarray
from sciflow.data.store import open_dataset, write_dataset
from sciflow.errors import InputError
from sciflow.particles import Particles, smc
from sciflow.random import Stream


class Pictures:
    """Noise that is weighed by its mean."""

    n_steps = 3

    def initial(self, n: int, stream: Stream) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        x = stream.normal(n, (2, 3))
        return {"x": x}, torch.where(x[:, 0, 0] > 2, -math.inf, 3 * x.mean((1, 2)))

    def step(self, k: int, state: dict[str, torch.Tensor], stream: Stream):
        x = state["x"] + stream.normal(len(state["x"]), (2, 3))
        said = {"last": x[:, 1, 2], "pair": torch.tensor([[k, -k]])}
        return {"x": x}, 3 * x.mean((1, 2)), said if k else {}


def test_particles_with_all_their_numbers(tmp_path) -> None:
    run = smc(Pictures(), 4 * 30, Stream(0), islands=4)
    named = to_xarray(run, ("y", "x_axis"))
    assert named["x"].dims == ("particle", "y", "x_axis")
    sizes = {"particle": 120, "y": 2, "x_axis": 3, "smc_step": 4, "island": 4, "pair_part": 2}
    assert dict(named.sizes) == sizes
    assert named["last_trace"].isnull().values.tolist() == [True, True, False, False]  # nothing was said before
    assert float(named["last_trace"][-1]) == pytest.approx(float(run.x[:, 1, 2].mean()), rel=1e-6)  # float32 sums
    assert named["pair_trace"].dims == ("smc_step", "pair_part") and named["pair_trace"][3].values.tolist() == [2, -2]
    founders = Stream(0).child("initial").normal(120, (2, 3))
    lost = float((founders[:, 0, 0] > 2).double().mean())
    assert lost > 0 and named["weight_zero_trace"].values.tolist() == [lost, 0, 0, 0]
    for name, value in {"log_weights": run.log_weights, "ess": run.ess_trace, "parents": run.parents_trace}.items():
        np.testing.assert_array_equal(named[name], value)
    np.testing.assert_array_equal(named["log_evidence_trace"][-1], run.log_evidence)
    assert named["log_weights"].attrs["units"] == "nat"
    assert named.attrs["log_evidence_interval"] == pytest.approx(run.log_evidence_interval)
    assert named.attrs["n_families"] == run.n_families < 120 and named.attrs["n_resampled"] == run.n_resampled
    assert "particles have weight zero" in named.attrs["events"]
    named.to_netcdf(tmp_path / "particles.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "particles.nc", engine="h5netcdf") as back:
        assert back.attrs["log_evidence_stderr_islands"] == run.log_evidence_stderr_islands
        assert back.equals(named)


def test_equal_draws_have_no_traces_and_no_evidence() -> None:
    named = to_xarray(Particles.equal(torch.zeros(5, 2)))
    assert set(named.data_vars) == {"x", "log_weights", "eve"} and named["x"].dims == ("particle", "dimension")
    assert set(named.attrs) == {"n_resampled", "n_families", "events"}
    assert to_xarray(Particles.equal(torch.zeros(5, 2, 2, 2)))["x"].dims[1:] == ("axis_0", "axis_1", "axis_2")
    with pytest.raises(InputError, match="Give one dim for each axis"):
        to_xarray(Particles.equal(torch.zeros(5, 2)), ("y", "x"))
    with pytest.raises(InputError, match="need a name -> dims mapping"):
        to_xarray({"a": torch.zeros(2)}, ("x",))


def test_parts_of_unequal_length_are_evened_with_nan(tmp_path) -> None:
    long, short = (
        to_xarray(
            {"a": np.ones((1, n)), "b": np.ones(1)},
            {"a": ("observation", "smc_step"), "b": ("observation",)},
            {"observation": [i]},
        ).assign_attrs(kept="yes")
        for i, n in ((0, 3), (1, 2))
    )
    without = short.drop_vars("a").assign_coords(observation=[2])
    joined = concatenate(evened([long, short, without], "smc_step"), "observation")
    assert joined["a"].notnull().sum("smc_step").values.tolist() == [3, 2, 0]
    assert joined["b"].values.tolist() == [1, 1, 1] and joined.attrs["kept"] == "yes"
    write_dataset(tmp_path / "a.nc", joined)
    assert open_dataset(tmp_path / "a.nc").equals(joined)
    assert evened([without], "smc_step")[0].equals(without)


def test_whatever_a_part_lacks_the_order_of_its_traces_is_the_same() -> None:
    """Of one number and of several; a part that lacks one gets it at its place, not at the end."""
    step = ("observation", "smc_step")
    whole = to_xarray(
        {"b_trace": np.ones((1, 3, 2)), "a_trace": np.ones((1, 3)), "x": np.ones(1)},
        {"b_trace": (*step, "b_part"), "a_trace": step, "x": ("observation",)},
    )
    found = evened([whole, whole.drop_vars("b_trace"), whole.drop_vars("a_trace")], "smc_step")
    assert [list(part.data_vars) for part in found] == [["x", "a_trace", "b_trace"]] * 3
    assert [dict(part.sizes) for part in found] == [{"observation": 1, "smc_step": 3, "b_part": 2}] * 3
    assert found[1]["b_trace"].isnull().all() and found[2]["a_trace"].isnull().all()
