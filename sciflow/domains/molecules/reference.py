"""Draws of a Boltzmann law to compare with, and a certificate that says how far they can be trusted.

Tempered SMC finds the wells in their proportion, from a law that covers all of them; Hamiltonian chains go on from
there and give the frames. Three things would show a mistake: islands of particles that disagree about log Z, averages
that drift while the chains run, and islands that are further apart than their own noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from sciflow.domains.molecules.potential import FreeCoordinates, Potential
from sciflow.errors import InputError
from sciflow.metrics.boltzmann import w2_1d
from sciflow.metrics.floor import floor
from sciflow.particles.adaptation import Adaptation, pilot
from sciflow.particles.feynman_kac import smc
from sciflow.particles.kernels import HMC
from sciflow.particles.resampling import systematic
from sciflow.particles.tempering import Bridge, NormalBase, Stage, Tempering, moved
from sciflow.random import Stream

Count = Annotated[int, Field(gt=0)]
LARGEST_Z, LARGEST_ERROR = 5.0, 0.03
"""Of a certificate: in standard deviations, and of log Z [nat]. Student's |t| > 5 with 7 degrees has 0.0016."""
N_SPLITS = 20  # random halves of the chains, for the noise of the distance between islands


@dataclass(frozen=True)
class Certificate:
    """What was measured of a reference.

    Args:
        log_partition: log ∫ e^{−U/kT}, over positions with the centre at 0 for clusters.
        log_partition_stderr: from the spread of the islands, which are resampled as equals.
        drift: the largest |t| of an average between the end of tempering and the end of the chains.
        drift_of: which average.
        distance: the largest z of the distance between two halves of the islands, above that of random halves.
        distance_of: of which number.
        acceptance: of the chains.
    """

    log_partition: float
    log_partition_stderr: float
    drift: float
    drift_of: str
    distance: float
    distance_of: str
    acceptance: float

    @property
    def holds(self) -> bool:
        """Whether nothing speaks against the reference."""
        return self.log_partition_stderr < LARGEST_ERROR and max(self.drift, self.distance) < LARGEST_Z

    def attributes(self) -> dict[str, float | str | int]:
        """For a file, each under `reference_…`."""
        return {f"reference_{name}": value for name, value in {**asdict(self), "holds": int(self.holds)}.items()}


@dataclass(frozen=True)
class Reference:
    """Frames of independent chains, (chain, frame, *shape), float64, and what was measured of them."""

    frames: Tensor
    certificate: Certificate


@dataclass(frozen=True)
class Tempered:
    """How reference draws are made: tempered SMC in islands, then Hamiltonian chains from its particles.

    Args:
        n_chains: particles, and chains, over all islands.
        n_islands: independent ensembles, each with an estimate of log Z of its own.
        step: of HMC in standard deviations of the particles, before it is tuned.
        n_leapfrog: steps of one trajectory.
        n_moves: trajectories at each temperature, and between two frames.
        share: conditional ESS at which the next temperature is put.
    Raises:
        InputError: islands that do not share the chains evenly, or too few for a certificate.
    """

    n_chains: Annotated[int, Field(ge=16)] = 4096
    n_islands: Annotated[int, Field(ge=4)] = 8
    step: Annotated[float, Field(gt=0)] = 0.3
    n_leapfrog: Count = 6
    n_moves: Count = 3
    share: Annotated[float, Field(gt=0, lt=1)] = 0.95

    def __post_init__(self) -> None:
        if self.n_chains % self.n_islands or self.n_chains < 2 * self.n_islands:
            raise InputError(
                f"dataset.reference: {self.n_chains} chains in {self.n_islands} islands. Take a multiple of those."
            )

    @property
    def kernel(self) -> HMC:
        return HMC(self.step, self.n_leapfrog)

    def __call__(self, potential: Potential, n_frames: int, stream: Stream) -> Reference:
        """Frames of every chain, with their certificate."""
        free, kernel = FreeCoordinates(potential), self.kernel
        mean, std = potential.cover
        centre = torch.full((free.dimension,), 0.0 if free.is_centred else mean, dtype=torch.float64)
        path = Bridge(NormalBase(centre, torch.full_like(centre, std)), free.log_density)
        tuned = pilot(path, self.n_chains, stream.child("pilot"), kernel, Adaptation(self.share), self.n_moves)
        model = Tempering(path, tuned.stages, kernel, self.n_moves)
        found = smc(model, self.n_chains, stream.child("smc"), islands=self.n_islands)
        start = self._equal(found.x, found.log_weights, stream.child("equal"))
        frames, acceptance = chains(
            free, start, kernel, tuned.stages[-1], n_frames, self.n_moves, stream.child("chains")
        )
        before, after = (numbers(potential, free.events(z)) for z in (start, frames[:, -1]))
        drift_of, drift = largest(drifts(before, after, self.n_islands))
        distance_of, distance = largest(self._distances(after, stream.child("splits")))
        certificate = Certificate(
            found.log_evidence, found.log_evidence_stderr_islands,
            drift, drift_of, distance, distance_of, acceptance,
        )  # fmt: skip
        events = free.events(frames.flatten(0, 1)).reshape(*frames.shape[:2], *potential.shape)
        return Reference(events, certificate)

    def _equal(self, x: Tensor, log_weights: Tensor, stream: Stream) -> Tensor:
        """Equally weighted particles, each island among its own."""
        size, found = self.n_chains // self.n_islands, []
        for island, (rows, weights) in enumerate(zip(x.split(size), log_weights.split(size), strict=True)):
            found.append(rows[systematic(weights - weights.logsumexp(0), size, stream.child(island))])
        return torch.cat(found)

    def _distances(self, values: Mapping[str, Tensor], stream: Stream) -> dict[str, float]:
        """z of the distance between even and odd islands, above that of random halves of all chains."""
        odd = torch.arange(self.n_chains) // (self.n_chains // self.n_islands) % 2 == 1
        halves = []
        for split in range(N_SPLITS):
            order = torch.randperm(self.n_chains, generator=stream.generator(step=split))
            halves.append(order.chunk(2))
        found = {}
        for name, row in values.items():
            noise = floor([w2_1d(row[first], row[second]) for first, second in halves])
            found[name] = noise.z(w2_1d(row[~odd], row[odd]))
        return found


def numbers(potential: Potential, x: Tensor) -> dict[str, Tensor]:
    """Energy and observables of each row, (n,)."""
    return {"energy": potential.energy(x), **potential.observables(x)}


def chains(
    free: FreeCoordinates, z: Tensor, kernel: HMC, stage: Stage, n_frames: int, n_moves: int, stream: Stream
) -> tuple[Tensor, float]:
    """Frames (chain, frame, dimension) of Hamiltonian chains, n_moves trajectories apart, and their acceptance."""
    frames, rates = [], []
    for frame in range(n_frames):
        z, rate = moved(free.log_density, z, kernel, stage, n_moves, stream.child(frame), 4096)
        frames.append(z)
        rates.append(float(rate.mean()))
    return torch.stack(frames, 1), sum(rates) / len(rates)


def drifts(before: Mapping[str, Tensor], after: Mapping[str, Tensor], n_groups: int) -> dict[str, float]:
    """|t| of the change of each average between two states of the same chains, with groups of chains as the unit.

    t = mean_g(Δ_g)/(sd_g(Δ_g)/√G),   Δ_g: mean change in group g; groups, since chains may have a common ancestor
    """
    found = {}
    for name in before:
        change = (after[name] - before[name]).double().reshape(n_groups, -1).mean(1)
        stderr = float(change.std()) / math.sqrt(n_groups)
        found[name] = abs(float(change.mean())) / stderr if stderr > 0 else math.inf
    return found


def largest(values: Mapping[str, float]) -> tuple[str, float]:
    """The name with the largest value, and the value."""
    return max(values.items(), key=lambda entry: entry[1])


def restarted(
    potential: Potential, frames: Tensor, stream: Stream, *, n_frames: int = 60, n_tuning: int = 40, n_groups: int = 8
) -> dict[str, float]:
    """|t| of the drift of each average when chains go on from given frames: small if these follow the law.

    A reference of your own, or of others, is asked whether the law leaves it where it is. Frames must not be copies of
    one another.

    Args:
        potential: whose law the frames are said to follow.
        frames: (n, *shape), n a multiple of n_groups.
        stream: random numbers.
        n_frames: of the chains, three trajectories of ten steps apart.
        n_tuning: trajectories that tune the step, of copies.
        n_groups: of frames, whose means are the unit of the error.

    Raises:
        InputError: frames of another form.
    """
    if tuple(frames.shape[1:]) != tuple(potential.shape) or len(frames) % n_groups:
        raise InputError(
            f"frames of shape {tuple(frames.shape)} for {type(potential).__name__}: give (n, "
            f"{', '.join(map(str, potential.shape))}) with n a multiple of {n_groups}."
        )
    free, kernel = FreeCoordinates(potential), HMC(0.2, 10)
    start = free.of(frames.double())
    scale, step, z = start.std(0), kernel.step, start
    for k in range(n_tuning):
        z, rate = moved(free.log_density, z, kernel, Stage(1.0, step, scale), 1, stream.child("tuning", k), 4096)
        # 0.8 is above the best acceptance, so that no region is left with much smaller steps
        step *= math.exp(float(rate.mean()) - 0.8)
    end, _ = chains(free, start, kernel, Stage(1.0, step, scale), n_frames, 3, stream.child("chains"))
    before, after = (numbers(potential, free.events(part)) for part in (start, end[:, -1]))
    return drifts(before, after, n_groups)
