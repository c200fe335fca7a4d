"""What learns it? A network on positions; without training, the frames themselves, the hottest where there are some."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sciflow.data.arrays import from_xarray
from sciflow.diffusion.mixture import EmpiricalDenoiser
from sciflow.diffusion.schedule import Schedule
from sciflow.domains.molecules.potential import force
from sciflow.domains.molecules.stored_potential import potential_of
from sciflow.domains.recorded import empirical

if TYPE_CHECKING:
    import xarray as xr


def closed_form(data: xr.Dataset, schedule: Schedule) -> EmpiricalDenoiser:
    """The exact denoiser of the training frames; of replicas the hottest: there cooling starts."""
    if "hottest" not in data.variables:
        return empirical(data, schedule)
    rows = data["hottest"][data["split"].to_numpy() == "train"]
    return EmpiricalDenoiser(from_xarray(rows, ("sample", "particle", "axis"), torch.float32), schedule)


def score(data: xr.Dataset) -> Callable[[Tensor], Tensor]:
    """∇log p = −∇U/kT of the Boltzmann law that the frames are of; NaN where the energy is not finite.

    Raises:
        InputError: the file names no potential that is known.
    """
    potential = potential_of(data)
    along = force(potential)

    def told(x: Tensor) -> Tensor:
        is_known = potential.energy(x).isfinite().reshape(-1, *[1] * (x.ndim - 1))
        return torch.where(is_known, along(x) / potential.temperature, math.nan)  # a field has force 0 at an overlap

    return told
