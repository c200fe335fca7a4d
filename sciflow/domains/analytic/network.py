"""What learns it? Nothing needs to: mixtures have a closed form, and paths have an equation. A network may try."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sciflow.data.arrays import from_xarray
from sciflow.diffusion.known import KnownDynamics
from sciflow.diffusion.mixture import GaussianMixture, MixtureDenoiser
from sciflow.diffusion.schedule import Schedule
from sciflow.errors import InputError
from sciflow.solvers import CHAOTIC
from sciflow.solvers.state_space import StateSpace

if TYPE_CHECKING:
    import xarray as xr

EVENT = ("dimension",)


def law(data: xr.Dataset) -> GaussianMixture:
    """The mixture that a data set was drawn from.

    Raises:
        InputError: it was drawn from none.
    """
    if "mixture_weights" not in data.variables:
        raise InputError("data.nc names no mixture that it was drawn from. For paths use `train: {kind: dynamics}`.")
    parts = (from_xarray(data[f"mixture_{n}"], dtype=torch.float64) for n in ("weights", "means", "covariances"))
    return GaussianMixture(*parts)


def target(data: xr.Dataset) -> GaussianMixture | None:
    """The law to be drawn where the data set says it, whatever was measured: a power of its own law."""
    if "target_weights" not in data.variables:
        return None
    parts = (from_xarray(data[f"target_{n}"], dtype=torch.float64) for n in ("weights", "means", "covariances"))
    return GaussianMixture(*parts)


def closed_form(data: xr.Dataset, schedule: Schedule) -> MixtureDenoiser:
    """The exact denoiser of the mixture."""
    return MixtureDenoiser(law(data), schedule)


def dynamics(data: xr.Dataset, n_substeps: int | None = None, model_noise: float | None = None) -> KnownDynamics:
    """The equation that a data set of paths was made with, or what is assumed of it.

    Args:
        data: with the attributes of `sciflow.domains.analytic.twin`.
        n_substeps: Runge–Kutta steps of one move; null: as the data.
        model_noise: q; null: as the data.

    Raises:
        InputError: no equation made it.
    """
    if "equation" not in data.attrs:
        raise InputError("data.nc names no equation that made it. `train: {kind: dynamics}` needs a data set of paths.")
    facts = data.attrs
    options = {str(k).removeprefix("equation_"): v for k, v in facts.items() if str(k).startswith("equation_")}
    options = {name: int(v) if name == "dimension" else float(v) for name, v in options.items()}
    equation = CHAOTIC[str(facts["equation"])](**options)
    space = StateSpace(
        equation,
        tuple(data["time"].to_numpy().tolist()),
        equation.centre,
        float(facts["start_width"]),
        float(facts["model_noise"]),
        n_substeps=int(facts["n_substeps"]),
        spin_up=float(facts["spin_up"]),
    )
    return KnownDynamics(space.assuming(n_substeps, model_noise))
