"""Answers that domains of recorded events share: the prior that needs no training, and what is sampled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sciflow.data.arrays import from_xarray
from sciflow.diffusion.mixture import EmpiricalDenoiser
from sciflow.diffusion.schedule import Schedule
from sciflow.errors import InputError
from sciflow.inverse.likelihood import Likelihood, LikelihoodModel
from sciflow.inverse.observe import PREFIX, recorded

if TYPE_CHECKING:
    import xarray as xr


def empirical(data: xr.Dataset, schedule: Schedule) -> EmpiricalDenoiser:
    """The exact denoiser of the training events: a prior that knows them and nothing between them."""
    rows = data["data"][data["split"].to_numpy() == "train"]
    return EmpiricalDenoiser(from_xarray(rows, dtype=torch.float32), schedule)


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


def log_likelihoods(model: LikelihoodModel, data: xr.Dataset, events: Tensor) -> Tensor:
    """log p(y_i | x) of the events of each observation, (observation, k, *event) → (observation, k)."""
    shape, dtype = tuple(events.shape[2:]), events.dtype
    pairs = enumerate(events)
    return torch.stack([likelihood(model, data, i, shape, dtype).log_prob(rows) for i, rows in pairs]).double()
