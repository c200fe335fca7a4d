"""LJ13 cooled from T = 2 to T = 1.5 by a trained model: against annealed SMC, the floor and the published row.

    python benchmarks/molecules_lj13.py [--quick] [--json FILE] [--record] [--kept FOLDER]

The potential is `lj13_idem` (each pair counted twice), that of the published table. Certified frames at T = 2, with
their forces, train one centred diffusion model with an EGNN (`target_score`); its law is cooled by the weighted sampler
`annealed` with β = 2/1.5, which calls the model and never the energy. Annealed SMC cools the same training frames by
the energy itself, with Hamiltonian moves. Every set is compared with certified frames at T = 1.5 that share nothing
with it: E-W1, Wasserstein-1 distance of the energy [energy], and dist-W2, Wasserstein-2 distance of the pooled
distances of pairs [length], its root taken. Floors are those of other frames at T = 1.5. Errors are those of the mean
of independent sets of draws, and the standard deviation of the floor where there is one set; training was done once.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import machine
import numpy as np
import torch
from rows import Row, libraries, markdown, record, text, write
from scipy.stats import wasserstein_distance
from torch import Tensor

from sciflow import __version__
from sciflow.data.arrays import to_xarray
from sciflow.diffusion.centred import events, free
from sciflow.diffusion.denoiser import Counted, Denoiser
from sciflow.diffusion.loss import TargetScore
from sciflow.diffusion.model import unpack
from sciflow.diffusion.schedule import EDM
from sciflow.diffusion.times import Karras
from sciflow.domains.molecules.clusters import LJ13IDEM, pair_distances
from sciflow.domains.molecules.potential import FreeCoordinates
from sciflow.domains.molecules.reference import LARGEST_ERROR, LARGEST_Z, Certificate, Tempered
from sciflow.domains.molecules.stored_potential import packed
from sciflow.domains.molecules.target import Unobserved
from sciflow.inverse.marginal import Annealed, Ensemble
from sciflow.inverse.posterior import Posterior
from sciflow.inverse.unguided import Unguided
from sciflow.metrics.boltzmann import w2_1d
from sciflow.metrics.floor import Floor, floor
from sciflow.networks.egnn import EGNN
from sciflow.particles.adaptation import Adaptation, pilot
from sciflow.particles.feynman_kac import smc
from sciflow.particles.kernels import HMC
from sciflow.particles.tempering import Cooling, Tempering
from sciflow.random import Stream
from sciflow.stages.artefact import Job
from sciflow.stages.train import NetworkTraining
from sciflow.steering.control import Control
from sciflow.training.checkpoint import load as read
from sciflow.training.checkpoint import save
from sciflow.training.optimisation import Optimisation

if TYPE_CHECKING:
    import xarray as xr

HOT, COLD, TILE = 2.0, 1.5, 256
PUBLISHED = {"dist-W2": 0.066, "E-W1": 0.765}  # Skreta et al. (2025), table 3: tempered noise with correctors, T = 1.5
N_FLOORS, OWN = 6, "model at T = 2"
LARGEST_Z_TOLD = 1000  # beyond, a few draws with overlapping atoms rule the distance: a number would say nothing
QUANTILES = (0.25, 0.5, 0.75, 0.99)  # of the energy: what those few draws do not rule


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    chains: int
    frames: int  # of each chain
    steps: int  # of training
    levels: int  # of the annealing
    particles: int
    seeds: int  # of each sampler


FULL, QUICK = Size(16384, 6, 18000, 80, 4096, 3), Size(256, 6, 20, 20, 128, 2)


@dataclass(frozen=True)
class Compared:
    """Certified frames of one temperature: one half that sets are compared with, and the floor from the other half."""

    frames: Tensor
    others: Tensor
    n: int

    @classmethod
    def of(cls, frames: Tensor, n: int) -> Compared:
        """From frames (chain, frame, *shape): no chain is in both halves."""
        half = len(frames) // 2
        mixed = frames[half:].flatten(0, 1)
        order = torch.randperm(len(mixed), generator=Stream(0, ("lj13", "floor")).generator())
        return cls(frames[:half].flatten(0, 1), mixed[order], n)

    def distances(self, x: Tensor) -> dict[str, float]:
        """E-W1 and dist-W2 of equal draws (n, *shape)."""
        energies = [LJ13IDEM().energy(part.double()).numpy() for part in (self.frames, x)]
        pairs = [pair_distances(part.double()).flatten() for part in (self.frames, x)]
        return {"E-W1": float(wasserstein_distance(*energies)), "dist-W2": w2_1d(*pairs)}

    def floors(self) -> dict[str, Floor]:
        """Of sets of n other frames, each frame in one set."""
        size = min(self.n, len(self.others) // N_FLOORS)
        found = [self.distances(rows) for rows in self.others[: N_FLOORS * size].split(size)]
        return {name: floor([one[name] for one in found]) for name in PUBLISHED}


def certified(temperature: float, size: Size, kept: Path | None) -> tuple[Tensor, Certificate]:
    """Frames (chain, frame, *shape) at one temperature, with their certificate; those of a file that is there."""
    file = None if kept is None else kept / f"frames-{temperature}-{size.chains}x{size.frames}.pt"
    if file is None or not file.is_file():
        potential, stream = LJ13IDEM(temperature), Stream(21, ("reference", str(temperature)))
        made = Tempered(size.chains, n_leapfrog=12)(potential, size.frames, stream)  # 6 mix too slowly at T = 1.5
        if file is None:
            return made.frames, made.certificate
        file.parent.mkdir(parents=True, exist_ok=True)
        save(file, {"frames": made.frames, "certificate": asdict(made.certificate)}, "frames")
    content = read(file, "frames")
    return content["frames"], Certificate(**content["certificate"])


def data_of(frames: Tensor) -> xr.Dataset:
    """A data set to learn from, a tenth of the chains for validation."""
    n_chains, n_frames = frames.shape[:2]
    labels = np.where(np.arange(n_chains) < n_chains // 10, "validation", "train").repeat(n_frames)
    dims = {"data": ("sample", "particle", "axis")}
    made = to_xarray({"data": frames.flatten(0, 1).float()}, dims, {"split": ("sample", labels)}, {"data": "1"})
    return made.assign_attrs(potential=packed(LJ13IDEM(HOT)))


def trained(data: xr.Dataset, size: Size, kept: Path | None) -> tuple[Denoiser, float]:
    """The model of the frames at T = 2, and CPU seconds of its training; that of a file that is there."""
    file = None if kept is None else kept / f"model-{size.steps}.pt"
    if file is not None and file.is_file():
        content = read(file, "model")
        return unpack(content), content["cpu_seconds"]
    network, loss = EGNN(width=64, depth=3, n_radial=64), TargetScore(mean=-1.5, spread=1.8, precision=100.0)
    options = Optimisation(
        n_steps=size.steps, optimiser="soap", learning_rate=4e-3, ema_decay=0.998, validate_every=500
    )
    training, start = NetworkTraining(network, EDM(), loss, options, centred=True), time.process_time()
    with torch.enable_grad():
        learned = training.learn(Job("lj13", "train", "molecules", 0, "", "", Path("model.pt")), data, None)
    took = time.process_time() - start
    print(f"trained in {took:.0f} CPU s; validation {learned.history['validation']}", flush=True)
    if file is not None:
        save(file, {**learned.model, "cpu_seconds": took}, "model")
    return unpack(learned.model), took


def by_model(prior: Denoiser, size: Size) -> dict[str, list[Tensor]]:
    """Sets of draws of the model at T = 2, of it cooled without weights, and cooled with weights."""
    like, times = Unobserved(torch.zeros(1)), Karras(size.levels, 40.0, 0.003)(prior.schedule)
    whole = Ensemble(size.particles, control=Control(("position",)), tile=TILE)
    samplers: dict[str, tuple[Posterior, int]] = {
        OWN: (Unguided(), 1),
        "model cooled without weights": (Annealed(HOT / COLD, replace(whole, weights="none", control="none")), 1),
        "model cooled by `annealed`": (Annealed(HOT / COLD, whole), size.seeds),
    }
    found: dict[str, list[Tensor]] = {}
    for name, (sampler, n_seeds) in samplers.items():
        for seed in range(n_seeds):
            counted, stream = Counted(prior), Stream(seed, ("lj13", name), TILE)
            particles = sampler(counted, like, times, size.particles, stream)
            drawn = particles.resample(size.particles, stream.child("end")).x
            found.setdefault(name, []).append(events(prior, drawn))
            calls, evidence = counted.rows / size.particles, float(particles.log_evidence)
            print(f"{name}, seed {seed}: {calls:.0f} calls a draw, log evidence {evidence:.2f}", flush=True)
    return found


def by_energy(train: Tensor, size: Size) -> tuple[list[Tensor], str]:
    """Sets of the training frames cooled by annealed SMC with Hamiltonian moves."""
    space, frames = FreeCoordinates(LJ13IDEM(COLD)), free(train).flatten(1).double()

    def draw(n: int, stream: Stream) -> Tensor:
        return frames[torch.randint(len(frames), (n,), generator=stream.generator(tile=stream.first))]

    path = Cooling(draw, lambda z: space.potential.energy(space.events(z)), 1 / HOT, 1 / COLD)
    found, kernel, stream = [], HMC(0.03, 6), Stream(0, ("lj13", "annealed SMC"))  # of 0.3 hardly a move is accepted
    stages = pilot(path, size.particles, stream.child("pilot"), kernel, Adaptation(0.95), 3).stages
    for seed in range(size.seeds):
        own = stream.child("run", seed)
        particles = smc(Tempering(path, stages, kernel, 3), size.particles, own)
        found.append(space.events(particles.resample(size.particles, own.child("end")).x))
    gradients = len(stages) * 3 * (kernel.n_leapfrog + 1)
    return found, f"{len(stages)} temperatures, {gradients} gradients of the energy a draw"


def judged(
    name: str, sets: list[Tensor], compared: Compared, floors: dict[str, Floor], is_ours: bool = False
) -> list[Row]:
    """Rows of both distances: the mean over sets."""
    values = [compared.distances(x) for x in sets]
    rows = []
    for metric, published in PUBLISHED.items():
        numbers = torch.tensor([one[metric] for one in values], dtype=torch.float64)
        mean, own = float(numbers.mean()), floors[metric]
        stderr = float(numbers.std()) / len(numbers) ** 0.5 if len(numbers) > 1 else own.std
        claim = f"{metric}, {name} ({in_words(own.z(mean))})"
        rows.append(Row(claim, mean, stderr, published if is_ours else None, mean <= published if is_ours else None))
    return rows


def in_words(z: float) -> str:
    """z above the floor, as far as it says something."""
    return f"z = {z:.0f}" if z <= LARGEST_Z_TOLD else f"z > {LARGEST_Z_TOLD}"


def certificate_rows(temperature: float, found: Certificate) -> list[Row]:
    """Of the frames of one temperature: a stated error of log Z, and drift and distance in standard deviations."""
    limits = {"log_partition_stderr": LARGEST_ERROR, "drift": LARGEST_Z, "distance": LARGEST_Z}
    words = {
        "log_partition_stderr": "error of log Z",
        "drift": "drift, Student's t",
        "distance": "distance of islands z",
    }
    values = {name: getattr(found, name) for name in limits}
    return [
        Row(f"frames at T = {temperature:g}: {words[name]}", value, 0.0, limits[name], value <= limits[name])
        for name, value in values.items()
    ]


def own_rows(hot: Tensor, sets: list[Tensor], size: Size) -> list[Row]:
    """How good the model is before it is cooled: rows against frames at T = 2, with their own floor."""
    compared, potential = Compared.of(hot, size.particles), LJ13IDEM(HOT)
    theirs, ours = (potential.energy(x.double()) for x in (hot.flatten(0, 1), torch.cat(sets)))
    said = judged(f"{OWN} against frames at T = 2", sets, compared, compared.floors())
    for q in QUANTILES:
        known = float(theirs.quantile(q))
        said.append(Row(f"energy, quantile {q:g}, {OWN} (frames: {known:.1f})", float(ours.quantile(q)), 0.0))
    return said


def rows(size: Size, kept: Path | None) -> tuple[list[Row], str]:
    """All rows, and what they cost."""
    (hot, first), (cold, second) = (certified(temperature, size, kept) for temperature in (HOT, COLD))
    said = certificate_rows(HOT, first) + certificate_rows(COLD, second)
    compared, data = Compared.of(cold, size.particles), data_of(hot)
    train = hot[len(hot) // 10 :].flatten(0, 1)
    floors = compared.floors()
    said += [Row(f"{name}, floor: other frames at T = 1.5", own.mean, own.std) for name, own in floors.items()]
    order = torch.randperm(len(train), generator=Stream(0, ("lj13", "as they are")).generator())
    said += judged("frames at T = 2 as they are", [train[order[: size.particles]]], compared, floors)
    smc_sets, smc_cost = by_energy(train, size)
    said += judged("annealed SMC by the energy", smc_sets, compared, floors)
    print(text(said), flush=True)
    prior, took = trained(data, size, kept)
    for name, sets in by_model(prior, size).items():
        said += own_rows(hot, sets, size) if name == OWN else judged(name, sets, compared, floors, "annealed" in name)
    said += [Row(f"{name}, as published, tempered noise with correctors", PUBLISHED[name], 0.0) for name in PUBLISHED]
    return said, f"training {took:.0f} CPU s; annealed SMC {smc_cost}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="hardly trained, in a minute: shows that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/ and benchmarks/README.md")
    parser.add_argument("--kept", type=Path, metavar="FOLDER", help="keep frames and model there, and take them again")
    options = parser.parse_args()
    torch.set_num_threads(1)
    flags = [flag for flag, given in (("--quick", options.quick), ("--record", options.record)) if given]
    known: dict[str, object] = {
        "benchmark": "molecules_lj13",
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python benchmarks/molecules_lj13.py", *flags]),
        "machine": machine.in_words(),
        "versions": {"sciflow": __version__, "torch": torch.__version__},
    }
    with torch.no_grad():
        found, cost = rows(QUICK if options.quick else FULL, options.kept)
    print(cost, text(found), sep="\n")
    took = {"cpu_seconds": round(time.process_time(), 1), "cost": cost}
    if options.record:
        said = f"{known['date']}, `{known['command']}`, {took['cpu_seconds']} CPU s ({cost}). {libraries(known)}."
        record("molecules_lj13", f"{said}\n\n{markdown(found)}", found, **known, **took)
    if options.json:
        write(options.json, found, **known, **took)
    return 0


if __name__ == "__main__":
    sys.exit(main())
