"""What is the data? Porous squares of random permeability, and the pressure that a few sensors read in them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sciflow.data.arrays import from_xarray, to_xarray
from sciflow.diffusion.mixture import GaussianMixture, MixtureDenoiser
from sciflow.diffusion.schedule import Schedule
from sciflow.errors import InputError
from sciflow.inverse.darcy import Darcy, outflow
from sciflow.inverse.likelihood import GaussianNoise
from sciflow.inverse.observe import Observation
from sciflow.random import Stream

if TYPE_CHECKING:
    import xarray as xr

EVENT = ("mode",)
FIELD = ("y", "x")
Count = Annotated[int, Field(gt=0)]


def _sensors() -> Observation:
    return Observation(Darcy(), GaussianNoise(0.05))


@dataclass(frozen=True)
class PorousSquare:
    """Log-permeabilities of a Gaussian random field, as whitened coefficients, and pressures that obey Darcy's law.

        z ~ N(0, I),   u = Σ_k z_k b_k,   −∇·(e^u ∇p) = source,   y = p at the sensors + noise

    Events are the coefficients z, so that the prior is known in closed form and steps of one size fit all of them; the
    file holds the fields b_k as `basis`, with which scores and figures are made of u.

    Exactness: draws exact; pressures of second order. The file holds the largest residual of the equation on the truth
        (`residual`, over the source) and how far readings move where cells are halved (`resolution_error`, over theirs)
    Cost: one factorisation of size² banded unknowns for each observation, twice
    Bias: that of the grid, which must stay below the noise
    Args:
        n_modes: waves of the field, longest first.
        n_samples: draws of the prior in the file.
        n_observations: further draws, which are observed.
        observation: the equation with its sensors and the prior field, operator `darcy`, and the noise.
    Raises:
        InputError: another operator, or a grid so coarse that readings are off by more than their noise.
    Source: Stuart (2010), Inverse problems: a Bayesian perspective, section 3.3; Li et al. (2021), Fourier neural
        operator, section 5.2, for the field.
    """

    n_modes: Count = 25
    n_samples: Annotated[int, Field(ge=10)] = 256
    n_observations: Count = 16
    observation: Observation = field(default_factory=_sensors)

    def __post_init__(self) -> None:
        if not isinstance(self.observation.operator, Darcy):
            name = type(self.observation.operator).__name__
            raise InputError(f"dataset.observation.operator must be of kind 'darcy' for porous squares, got {name}.")

    def simulate(self, stream: Stream) -> xr.Dataset:
        darcy, noise = self.observation.operator, self.observation.noise
        assert isinstance(darcy, Darcy)
        bound = darcy.on((self.n_modes,))
        z = stream.child("data").normal(self.n_samples, (self.n_modes,), dtype=torch.float64)
        truth = stream.child("truth").normal(self.n_observations, (self.n_modes,), dtype=torch.float64)
        records = self.observation.record(truth, stream.child("observe"))
        readings, finer = bound(truth), replace(darcy, size=2 * darcy.size, stride=2 * darcy.stride)(truth)
        off = float((readings - finer).square().mean().sqrt())
        if isinstance(noise, GaussianNoise) and off > noise.sigma > 0:
            raise InputError(
                f"the grid of {darcy.size}² cells moves readings by {off:.2g}, more than their noise, {noise.sigma:g}. "
                "Raise dataset.observation.operator.size (and stride with it)."
            )
        fields, pressures = bound.log_permeability(truth), bound.pressure(truth)
        residual = outflow(fields.exp(), pressures) / darcy.source - 1
        values = {"data": z, "truth": truth, **records, "basis": bound.waves}
        values |= {"log_permeability": fields, "pressure": pressures}
        dims = {
            "data": ("sample", *EVENT),
            "truth": ("observation", *EVENT),
            "measured": ("observation", "measurement"),
            "basis": (*EVENT, *FIELD),
            "log_permeability": ("observation", *FIELD),
            "pressure": ("observation", *FIELD),
        }
        line = (np.arange(darcy.size) + 0.5) / darcy.size
        coords: dict[str, Any] = {
            "split": ("sample", np.where(np.arange(self.n_samples) % 10 == 0, "validation", "train")),
            "unit": ("sample", np.arange(self.n_samples)),
            "y": line,
            "x": line,
            "sensor_y": ("measurement", bound.sensors[:, 0].numpy()),
            "sensor_x": ("measurement", bound.sensors[:, 1].numpy()),
        }
        made = to_xarray(values, dims, coords, dict.fromkeys(dims, "1"))
        error = off / float(readings.square().mean().sqrt())
        return made.assign_attrs(residual=float(residual.abs().max()), resolution_error=error)


def is_porous(data: xr.Dataset) -> bool:
    """Whether events are coefficients of a random field."""
    return "basis" in data.variables and data["data"].dims[1:] == EVENT


def prior(data: xr.Dataset, schedule: Schedule) -> MixtureDenoiser:
    """The exact denoiser of the coefficients, N(0, I)."""
    n = data.sizes["mode"]
    law = GaussianMixture(
        torch.ones(1, dtype=torch.float64),
        torch.zeros(1, n, dtype=torch.float64),
        torch.eye(n, dtype=torch.float64)[None],
    )
    return MixtureDenoiser(law, schedule)


def log_permeability(data: xr.Dataset, coefficients: Tensor) -> Tensor:
    """u of coefficients (…, mode), (…, y, x)."""
    basis = from_xarray(data["basis"], (*EVENT, *FIELD), coefficients.dtype)
    return torch.tensordot(coefficients, basis, 1)
