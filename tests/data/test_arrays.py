"""Tensors become named arrays and come back, on one road."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sciflow.data.arrays import from_xarray, to_xarray
from sciflow.data.store import open_dataset, write_dataset
from sciflow.errors import InputError
from sciflow.random import Stream


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bool])
def test_round_trip_through_a_file(tmp_path, dtype):
    values = (3 * Stream(0).normal(4, (2, 3))).to(dtype)
    named = to_xarray({"samples": values}, {"samples": ("member", "y", "x")}, {"y": [0.5, 1.5]}, {"samples": "K"})
    write_dataset(tmp_path / "a.nc", named)
    back = open_dataset(tmp_path / "a.nc")
    assert back["samples"].attrs["units"] == "K" and back["y"].values.tolist() == [0.5, 1.5]
    assert torch.equal(from_xarray(back["samples"]), values) and from_xarray(back["samples"]).dtype == dtype


def test_axes_come_in_the_order_that_is_asked_for():
    named = to_xarray({"a": torch.arange(6).reshape(2, 3)}, {"a": ("x", "y")})
    assert from_xarray(named["a"], ("y", "x"), torch.float32).tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]


def test_gradients_and_short_floats_stay_behind():
    value = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    assert to_xarray({"a": value}, {"a": ("x",)})["a"].dtype == np.float32


def test_the_tensor_owns_its_memory():
    named = to_xarray({"a": torch.zeros(2)}, {"a": ("x",)})
    from_xarray(named["a"]).add_(1)
    assert named["a"].values.tolist() == [0.0, 0.0]


def test_wrong_dims_are_refused():
    with pytest.raises(InputError, match=r"'a' has shape \(2, 3\) and dims \('x',\)"):
        to_xarray({"a": torch.zeros(2, 3)}, {"a": ("x",)})
    with pytest.raises(InputError, match=r"'a' has dims \('x',\), needs \('y',\)"):
        from_xarray(to_xarray({"a": torch.zeros(2)}, {"a": ("x",)})["a"], ("y",))
