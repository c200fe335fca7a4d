"""What learns it? A network on images; without training, the images themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sciflow.data.arrays import from_xarray
from sciflow.diffusion.mixture import EmpiricalDenoiser
from sciflow.diffusion.schedule import Schedule

if TYPE_CHECKING:
    import xarray as xr

EVENT = ("channel", "y", "x")


def closed_form(data: xr.Dataset, schedule: Schedule) -> EmpiricalDenoiser:
    """The exact denoiser of the training images: a prior that knows nothing else."""
    rows = data["data"][data["split"].to_numpy() == "train"]
    return EmpiricalDenoiser(from_xarray(rows, ("sample", *EVENT), torch.float32), schedule)
