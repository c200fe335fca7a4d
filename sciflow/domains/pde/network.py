"""What learns it? A network on fields; without training, simulated trajectories themselves, or the law of a field."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.schedule import Schedule
from sciflow.domains.pde import porous
from sciflow.domains.recorded import empirical

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["closed_form"]


def closed_form(data: xr.Dataset, schedule: Schedule) -> Denoiser:
    """The exact denoiser of a Gaussian field where the data are its coefficients; else that of the training events."""
    return porous.prior(data, schedule) if porous.is_porous(data) else empirical(data, schedule)
