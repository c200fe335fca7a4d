"""Replica exchange: frames of a molecule at several temperatures, whose hottest crosses the barriers of the coldest."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from sciflow.data.arrays import to_xarray
from sciflow.data.split import shares
from sciflow.domains.molecules.collective import Collective
from sciflow.domains.molecules.dynamics import HIGHEST, N_GROUPS, Count, OfFrames, Positive, Share, named
from sciflow.domains.molecules.molecule import BOLTZMANN
from sciflow.domains.molecules.reweighting import need_pymbar
from sciflow.domains.molecules.systems import AlanineDipeptide, MolecularSystem
from sciflow.errors import InputError
from sciflow.random import Stream
from sciflow.solvers.kinetic import BAOAB, Kinetic
from sciflow.solvers.solve import solve
from sciflow.solvers.times import times

if TYPE_CHECKING:
    import xarray as xr


def exchanged(energies: Tensor, inverse: Tensor, uniform: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Which replica each temperature takes over, and the acceptance probabilities.

        neighbours k, k + 1 swap with probability min(1, exp((b_k − b_{k+1})(U_k − U_{k+1})))

    Args:
        energies: U of each replica, (ladder, temperature), float64.
        inverse: b = 1/kT of each temperature, (temperature,).
        uniform: numbers on [0, 1), (ladder, temperature).
        first: pairs begin at temperature 0 or 1, in turn.

    Returns:
        Places (ladder, temperature), and the probabilities of the pairs, (ladder, pair).

    Exactness: leaves Π_k e^{−b_k U(x_k)} invariant, by detailed balance of each pair.
    Source: Geyer (1991), Markov chain Monte Carlo maximum likelihood; Sugita and Okamoto (1999), Replica-exchange
        molecular dynamics.
    """
    n = energies.shape[1]
    lower = torch.arange(first, n - 1, 2)
    log_ratio = (inverse[lower] - inverse[lower + 1]) * (energies[:, lower] - energies[:, lower + 1])
    probability = log_ratio.clamp_max(0).exp()
    swaps = uniform[:, lower] < probability
    places = torch.arange(n).repeat(len(energies), 1)
    places[:, lower] += swaps.long()
    places[:, lower + 1] -= swaps.long()
    return places, probability


class Ladder(NamedTuple):
    """What replica exchange leaves.

    Attributes:
        cold, hot: frames at the lowest and the highest temperature, (ladder, frame, atom, 3) [nm].
        energies: U at each temperature, (temperature, ladder, frame) [kJ/mol], float64.
        collective: variables, (temperature, ladder, frame, variable) [°, nm].
        acceptance: of the exchange of each pair of neighbours, (temperature − 1,).
    """

    cold: Tensor
    hot: Tensor
    energies: Tensor
    collective: Tensor
    acceptance: Tensor


@dataclass(frozen=True)
class ReplicaExchange(OfFrames):
    """Frames of a molecule at its temperature, from ladders of hotter replicas that exchange their places.

        replica k:  Langevin dynamics of the law e^{−U/kT_k},   T_k in geometric steps from that of the molecule to the
        hottest;  neighbours swap with probability min(1, exp((1/kT_k − 1/kT_{k+1})(U_k − U_{k+1})))

    All replicas start from the one conformation of the molecule and are first heated to the hottest temperature, so
    that the wells are filled in its proportion before the ladders begin. Kept are frames of the lowest and the highest
    temperature, and energies and collective variables of all, for reweighting. "Observations" are independent repeats
    of the sampling, which tell its noise.

    Exactness: that of the attributes `chains_…`: drift of averages between the first and last frame, spread between
        ladders, temperature that the positions show; `exchange_acceptance` of the least willing pair of neighbours
    Cost: n_ladders × n_temperatures × (heating + warm_up + n_frames × every) forces, in float32
    Bias: O(step²) of the positions beyond the harmonic part; a barrier that the hottest replica does not cross
    Args:
        molecule: U and its temperature, the lowest.
        hottest: the highest temperature [K].
        n_temperatures: of a ladder.
        n_ladders: independent ones, a multiple of 8: the unit of every error.
        n_frames: kept of each.
        every: steps between two frames; replicas exchange after each `exchange_every`.
        exchange_every: steps between two exchanges, a divisor of `every` and of `warm_up`.
        heating: steps at the hottest temperature before the ladders begin.
        warm_up: steps of the ladders that are thrown away.
        step: [ps] for atoms of this mass.
        mass: of every atom [Da]: frames do not depend on it, and equal masses allow longer steps than those of
            hydrogen. Time between frames is therefore not that of the molecule.
        friction: γ [1/ps].
        collective: torsions, distances and radii, and basins in which frames are counted.
        n_repeats: independent sets of draws that every sampler makes.
        validation: share of the ladders that nobody uses.
        test: share of the ladders that samples are compared with; samplers start from the hot frames of the others.
    Raises:
        InputError: a hottest temperature that is not above that of the molecule, ladders that are no multiple of 8,
            exchanges that do not divide the steps.
    Source: Sugita and Okamoto (1999), Replica-exchange molecular dynamics method for protein folding; Leimkuhler and
        Matthews (2013) for BAOAB.
    """

    molecule: MolecularSystem = field(default_factory=AlanineDipeptide)
    hottest: Positive = 900.0
    n_temperatures: Annotated[int, Field(ge=2)] = 6
    n_ladders: Annotated[int, Field(ge=16)] = 32
    n_frames: Annotated[int, Field(ge=4)] = 200
    every: Count = 100
    exchange_every: Count = 50
    heating: Annotated[int, Field(ge=0)] = 8_000
    warm_up: Annotated[int, Field(ge=0)] = 4_000
    step: Annotated[float, Field(gt=0, le=0.004)] = 0.003
    mass: Positive = 10.0
    friction: Positive = 5.0
    collective: Collective = field(default_factory=Collective)
    n_repeats: Count = 2
    validation: Share = 0.1
    test: Share = 0.5

    def __post_init__(self) -> None:
        shares(self.test, self.validation)
        if self.hottest <= self.molecule.kelvin:
            raise InputError(
                f"dataset.hottest is {self.hottest} K, not above dataset.molecule.kelvin = {self.molecule.kelvin} K. "
                "A ladder leads upwards."
            )
        if self.n_ladders % N_GROUPS:
            raise InputError(f"dataset.n_ladders must be a multiple of {N_GROUPS}, got {self.n_ladders}.")
        if self.every % self.exchange_every or self.warm_up % self.exchange_every:
            raise InputError(
                f"dataset.exchange_every is {self.exchange_every}; it must divide dataset.every = {self.every} and "
                f"dataset.warm_up = {self.warm_up}."
            )

    @property
    def kelvins(self) -> Tensor:
        """Temperatures [K], (temperature,), float64."""
        share = torch.linspace(0, 1, self.n_temperatures, dtype=torch.float64)
        return self.molecule.kelvin * (self.hottest / self.molecule.kelvin) ** share

    def look(self) -> None:
        """Raise InputError if the molecule or pymbar cannot be had, or an atom of a variable is unknown."""
        need_pymbar()
        super().look()

    def simulate(self, stream: Stream) -> xr.Dataset:
        self.look()
        found = self.ladders(stream.child("dynamics"))
        made = named(
            self.molecule, found.cold, shares(self.test, self.validation), self.n_repeats, stream, self.collective
        )

        def by_frame(values: Tensor) -> Tensor:
            """(…, ladder, frame, …) at axes 1 and 2 as the samples of `named` stand: frame by frame."""
            return values.transpose(1, 2).flatten(1, 2)

        hot = by_frame(found.hot[None])[0].double()
        values = {
            "hottest": (hot - hot.mean(1, keepdim=True)).float(),
            "replica_energy": by_frame(found.energies),
            "replica_collective": by_frame(found.collective).float(),
        }
        dims = {
            "hottest": ("sample", "particle", "axis"),
            "replica_energy": ("replica", "sample"),
            "replica_collective": ("replica", "sample", "variable"),
        }
        units = {"hottest": "nm", "replica_energy": "kJ/mol", "replica_collective": self.collective.unit}
        more = to_xarray(values, dims, {"replica_kelvin": (("replica",), self.kelvins.numpy())}, units)
        return made.merge(more, combine_attrs="no_conflicts").assign_attrs(
            exchange_acceptance=float(found.acceptance.min())
        )

    def ladders(self, stream: Stream) -> Ladder:
        """Run them.

        Raises:
            InputError: the replicas blow up.
        """
        molecule, shape = self.molecule.molecule, (self.n_ladders, self.n_temperatures)
        start = molecule.positions.float().repeat(math.prod(shape), 1, 1)
        normal = stream.child("velocities").normal(len(start), tuple(start.shape[1:]))
        inverse = 1 / (BOLTZMANN * self.kelvins)
        with torch.no_grad():
            state = self._bath(inverse[-1:].expand(shape)).thermal(start, normal)
            state = self._run(state, inverse[-1:].expand(shape), self.heating, stream.child("heating"))
            own, kept, rates = inverse.expand(shape), [], []
            per_frame, before = self.every // self.exchange_every, self.warm_up // self.exchange_every
            for k in range(before + per_frame * self.n_frames):
                here = stream.child("exchange", k)
                state = self._run(state, own, self.exchange_every, here)
                energy = self._energies(state, k).reshape(shape)
                uniform = here.child("uniform").uniform(shape[0], shape[1:], dtype=torch.float64)
                places, probability = exchanged(energy, inverse, uniform, k % 2)
                rows = (places + shape[1] * torch.arange(shape[0])[:, None]).flatten()
                state, energy = state[rows], energy.gather(1, places)
                rates.append(probability.mean(0))
                if k >= before and (k - before + 1) % per_frame == 0:
                    kept.append((state[:, 0].unflatten(0, shape), energy))
        frames = torch.stack([x[:, (0, -1)] for x, _ in kept], 2)  # (ladder, cold or hot, frame, atom, 3)
        variables = torch.stack([self.collective.values(x, molecule.atoms) for x, _ in kept], 2)
        energies = torch.stack([energy for _, energy in kept], 2).transpose(0, 1)
        return Ladder(frames[:, 0], frames[:, 1], energies, variables.transpose(0, 1), self._acceptance(rates))

    def _acceptance(self, rates: list[Tensor]) -> Tensor:
        """Of each pair of neighbours: even pairs had the even turns, odd ones the odd."""
        found = torch.zeros(self.n_temperatures - 1, dtype=torch.float64)
        for first in (0, 1):
            turns = rates[first::2]
            if turns and len(turns[0]):
                found[first::2] = torch.stack(turns).mean(0)
        return found

    def _bath(self, inverse: Tensor) -> Kinetic:
        """All replicas in the bath of the molecule's temperature T, with forces that are scaled by T/T_k.

        e^{−(T/T_k) U/kT} is the law at T_k, and velocities are alike at all temperatures: an exchange keeps them.
        """
        scale = (inverse * self.molecule.temperature).flatten().float()[:, None, None]
        field_of = self.molecule.molecule.field
        return Kinetic(lambda x: scale * field_of.force(x), self.molecule.temperature, self.friction, self.mass)

    def _run(self, state: Tensor, inverse: Tensor, n_steps: int, stream: Stream) -> Tensor:
        if n_steps == 0:
            return state
        solver: Any = BAOAB()
        return solve(self._bath(inverse), state, times(n_steps, 0.0, n_steps * self.step), solver, stream=stream)

    def _energies(self, state: Tensor, k: int) -> Tensor:
        """U of each replica, float64."""
        energy, size = self.molecule.molecule.field.energy(state[:, 0]).double(), state[0, 0].numel()
        lowest = float(self.molecule.energy(self.molecule.molecule.positions[None])[0])
        if not bool((energy < lowest + HIGHEST * size * BOLTZMANN * self.hottest).all()):
            raise InputError(
                f"dynamics blew up before exchange {k}: a step of {self.step} ps is too long for this molecule, or its "
                "conformation too tense. Lower dataset.step, or minimise the conformation."
            )
        return energy
