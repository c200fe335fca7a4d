"""What learns it? A network on fields; without training, trajectories themselves, their equation, or a field's law."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.known import CHAINS, KnownDynamics
from sciflow.diffusion.schedule import Schedule
from sciflow.domains.pde import porous
from sciflow.domains.pde.chain import KickedChain
from sciflow.domains.recorded import empirical
from sciflow.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["closed_form", "dynamics"]


def closed_form(data: xr.Dataset, schedule: Schedule) -> Denoiser:
    """The exact denoiser of a Gaussian field where the data are its coefficients; else that of the training events."""
    return porous.prior(data, schedule) if porous.is_porous(data) else empirical(data, schedule)


def dynamics(data: xr.Dataset, n_substeps: int | None = None, model_noise: float | None = None) -> KnownDynamics:
    """The kicked equation that made a data set, or what is assumed of it; arguments as `KickedChain.assuming`.

    Raises:
        InputError: no chain made it that is the same for all trajectories.
    """
    if "chain" not in data.attrs:
        raise InputError(
            "data.nc names no chain that made it. `train: {kind: dynamics}` needs the data set `kicked` with an "
            "`observation` in time and without `varied`. Train windows on other trajectories."
        )
    stored = json.loads(data.attrs["chain"])
    if stored.get("kind") not in CHAINS:
        raise InputError(
            f"the chain that made data.nc is a {stored.get('kind')!r}, which is not known, only {sorted(CHAINS)}. Load "
            "the plugin that defines it."
        )
    chain = CHAINS[stored["kind"]].restored(stored)
    if isinstance(chain, KickedChain):
        return KnownDynamics(chain.assuming(n_substeps, model_noise))
    if n_substeps is not None or model_noise is not None:
        raise InputError(f"train: a chain {stored['kind']!r} takes no n_substeps and model_noise. Leave them out.")
    return KnownDynamics(chain)
