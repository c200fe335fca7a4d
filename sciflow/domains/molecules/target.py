"""What do we sample? The Boltzmann law itself: nothing is observed. Of hotter frames: the law at the temperature."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from sciflow.domains.molecules.molecule import BOLTZMANN
from sciflow.domains.molecules.potential import Potential
from sciflow.domains.molecules.stored_potential import potential_of
from sciflow.inverse.likelihood import Likelihood, LikelihoodModel
from sciflow.particles.tempering import Cooling
from sciflow.random import Stream

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Unobserved:
    """A likelihood that says nothing: samplers of the prior take its dtype and device.

        log p(y | x) = 0

    Args:
        observation: y, one number that means nothing.
    """

    observation: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x))

    def on(self, shape: tuple[int, ...]) -> Self:
        return self

    def bind(self, parameters: Mapping[str, Tensor], shape: tuple[int, ...]) -> Self:
        return self


@dataclass(frozen=True)
class Colder(Unobserved):
    """What turns frames of a hotter bath into the law of a potential at its own temperature T.

        log p(y | x) = −(1/kT − 1/kT_h) U(x);   the prior draws e^{−U/kT_h}

    Args:
        observation: y, one number that means nothing.
        potential: U and kT.
        hottest: kT_h [energy].
    """

    potential: Potential
    hottest: float

    def log_prob(self, x: Tensor) -> Tensor:
        return (1 / self.hottest - 1 / self.potential.temperature) * self.potential.energy(x)

    def path(self, draw: Callable[[int, Stream], Tensor]) -> Cooling:
        """From frames at T_h to the law at T; its evidence is Z(T)/Z(T_h)."""
        shape = self.potential.shape

        def energy(x: Tensor) -> Tensor:
            return self.potential.energy(x.reshape(-1, *shape))

        return Cooling(draw, energy, 1 / self.hottest, 1 / self.potential.temperature)


def likelihood(
    model: LikelihoodModel,
    data: xr.Dataset,
    index: int,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> Likelihood:
    """No likelihood, whatever the run file assumes; the way down from the hottest replica, where there are some."""
    nothing = torch.zeros(1, dtype=dtype, device=device)
    if "hottest" not in data.variables:
        return Unobserved(nothing)
    return Colder(nothing, potential_of(data), BOLTZMANN * float(data["replica_kelvin"].max()))
