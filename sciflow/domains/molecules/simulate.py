"""What is the data? Draws of a Boltzmann law, with the certificate of how they were made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from pydantic import Field

from sciflow.data.arrays import to_xarray
from sciflow.data.split import shares, split
from sciflow.domains.molecules.dynamics import Langevin, TrajectoryFile
from sciflow.domains.molecules.potential import Potential, is_on_grid
from sciflow.domains.molecules.reference import Tempered
from sciflow.domains.molecules.replicas import ReplicaExchange
from sciflow.domains.molecules.stored_potential import packed
from sciflow.domains.molecules.wells import MullerBrown
from sciflow.random import Stream

if TYPE_CHECKING:
    import xarray as xr

Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]


def event_dims(potential: Potential) -> tuple[str, ...]:
    """Names of the axes of an event."""
    return ("coordinate",) if len(potential.shape) == 1 else ("particle", "axis")


@dataclass(frozen=True)
class Boltzmann:
    """Frames of a potential at its temperature, from tempered SMC and Hamiltonian chains.

        p(x) ∝ e^{−U(x)/kT}

    Nothing is observed: "observations" are independent repeats of the sampling, which tell its noise.

    Exactness: that of the certificate in the attributes `reference_…`: error of log Z, drift of averages in a restart,
        distance between independent islands; beside it `log_partition` where it is known exactly
    Cost: n_chains × temperatures × n_moves × (n_leapfrog + 1) gradients of the potential
    Bias: O(1/chains) of the SMC, which the chains forget where they cross between wells
    Args:
        potential: U and kT.
        n_samples: frames; all that each chain gives are of one split.
        n_repeats: independent sets of draws that every sampler makes.
        cells: along each axis of the grid on which laws of one or two coordinates are compared.
        validation: share of the chains for the validation loss.
        test: share of the chains that clusters are compared with.
        reference: how frames are made.
    Raises:
        InputError: shares that leave nothing to train on.
    Source: Del Moral, Doucet and Jasra (2006), Sequential Monte Carlo samplers; Neal (2011), MCMC using Hamiltonian
        dynamics.
    """

    potential: Potential = field(default_factory=MullerBrown)
    n_samples: Annotated[int, Field(ge=64)] = 20_000
    n_repeats: Count = 2
    cells: Annotated[int, Field(ge=4)] = 64
    validation: Share = 0.05
    test: Share = 0.25
    reference: Tempered = field(default_factory=Tempered)

    def __post_init__(self) -> None:
        shares(self.test, self.validation)

    def simulate(self, stream: Stream) -> xr.Dataset:
        n_chains = self.reference.n_chains
        n_frames = -(-self.n_samples // n_chains)
        with torch.no_grad():
            made = self.reference(self.potential, n_frames, stream.child("reference"))
            frames = made.frames.transpose(0, 1).flatten(0, 1)[: self.n_samples]  # frame by frame: all chains are there
            energy = self.potential.energy(frames)
        chain = (np.arange(self.n_samples) % n_chains).astype(np.int64)
        fractions = shares(self.test, self.validation)
        labels = split(chain, fractions, stream.child("split"))
        coords: dict[str, Any] = {
            "split": ("sample", labels.astype(str)),
            "unit": ("sample", chain),
            "observation": np.arange(self.n_repeats),
        }
        dims = {"data": ("sample", *event_dims(self.potential)), "potential_energy": ("sample",)}
        arrays = to_xarray({"data": frames.float(), "potential_energy": energy}, dims, coords, {"data": "1"})
        exact = self.potential.log_partition()
        known = {} if exact is None else {"log_partition": exact}
        cells = {"cells": self.cells} if is_on_grid(self.potential) else {}
        return arrays.assign_attrs(potential=packed(self.potential), **known, **cells, **made.certificate.attributes())


DATASETS: dict[str, type] = {
    "boltzmann": Boltzmann,
    "langevin": Langevin,
    "trajectory": TrajectoryFile,
    "replica_exchange": ReplicaExchange,
}
