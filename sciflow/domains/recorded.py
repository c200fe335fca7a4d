"""The answer that domains with recorded observations give to "what do we sample?"."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sciflow.data.arrays import from_xarray
from sciflow.errors import InputError
from sciflow.inverse.likelihood import Likelihood, LikelihoodModel
from sciflow.inverse.observe import PREFIX, recorded

if TYPE_CHECKING:
    import xarray as xr


def likelihood(
    model: LikelihoodModel,
    data: xr.Dataset,
    index: int,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> Likelihood:
    """The likelihood of observation `index`, with the operator parameters recorded beside it.

    Raises:
        InputError: no observations were recorded, or the assumed operator does not fit them.
    """
    if "measured" not in data.variables:
        raise InputError("data.nc holds no `measured`. Give `dataset.observation`, or record some of your own.")
    y = from_xarray(data["measured"][index], dtype=dtype)
    parameters = {str(n): from_xarray(data[n][index]) for n in data.data_vars if str(n).startswith(PREFIX)}
    cast = {n: v.to(device, dtype) if v.is_floating_point() else v.to(device) for n, v in parameters.items()}
    return recorded(model, y.to(device), cast, shape)
