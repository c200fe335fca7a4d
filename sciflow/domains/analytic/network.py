"""What learns it? Nothing needs to: the denoiser of a mixture has a closed form. A network may try."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sciflow.data.arrays import from_xarray
from sciflow.diffusion.mixture import GaussianMixture, MixtureDenoiser
from sciflow.diffusion.schedule import Schedule

if TYPE_CHECKING:
    import xarray as xr

EVENT = ("dimension",)


def law(data: xr.Dataset) -> GaussianMixture:
    """The mixture that a data set was drawn from."""
    parts = (from_xarray(data[f"mixture_{n}"], dtype=torch.float64) for n in ("weights", "means", "covariances"))
    return GaussianMixture(*parts)


def closed_form(data: xr.Dataset, schedule: Schedule) -> MixtureDenoiser:
    """The exact denoiser of the mixture."""
    return MixtureDenoiser(law(data), schedule)
