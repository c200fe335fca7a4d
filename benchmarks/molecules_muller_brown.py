"""Müller–Brown: do draws and a simulation of one trained model have the exact law, as far as a million frames can tell?

    python benchmarks/molecules_muller_brown.py [--quick] [--json FILE] [--record] [--model MODEL]

A scalar network learns the density at all noise levels, by score matching alone or with the Fokker–Planck residual,
from exact draws that are each seen once: no energy and no force is asked for. Both see the same noise, integrated where
it can be, and weigh levels as the likelihood does. Then, for three seeds of each,

    density     the exact law on 100² cells beside that which the model's density has at its last level, by quadrature
    flow        and beside the law of draws along the flow, by the change of variables
    sampling    draws along the flow from noise
    simulation  frames of Langevin dynamics with the model's force, chain after chain, from such draws

Draws and frames are compared with the exact law on 100² cells: Jensen–Shannon divergence and error of the potential of
mean force. The floor is what as many perfect draws score; beside it a simulation with the exact force, whose frames are
correlated and whose step is finite. Target: the mean over seeds at most two standard deviations above the floor, of 64
sets: eight tell their standard deviation to a quarter. Published by ScoreMD for the best model of its kind and 10⁵
frames: 0.0108 and 0.099.

Training takes minutes, so each model and what it scored is kept in results/ until the plan or the source changes: a run
that was stopped goes on where it was. --model measures one of the two, and takes the rows of the other from the last
record. --quick trains for seconds.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import machine
import torch
from rows import Row, asked, conclude
from torch import Tensor, nn

from sciflow import __version__
from sciflow.diffusion.density import known_log_density, log_likelihood
from sciflow.diffusion.fokker_planck import FokkerPlanck
from sciflow.diffusion.network import NetworkDenoiser
from sciflow.diffusion.schedule import EDM, Scaled
from sciflow.diffusion.times import Karras
from sciflow.domains.molecules.law import Law
from sciflow.domains.molecules.potential import force
from sciflow.domains.molecules.quadrature import draws, lattice
from sciflow.domains.molecules.target import Unobserved
from sciflow.domains.molecules.wells import MullerBrown
from sciflow.inverse import Simulated, Unguided
from sciflow.metrics.boltzmann import js_divergence, pmf_error
from sciflow.metrics.floor import Floor, floor
from sciflow.networks.energy import EnergyMLP
from sciflow.random import Stream
from sciflow.solvers import BAOAB, Kinetic, solve
from sciflow.source import closure
from sciflow.training.checkpoint import load, save
from sciflow.training.loop import fit
from sciflow.training.optimisation import Optimisation

CELLS, PIECE, NEGLIGIBLE = 100, 2**20, 1e-9
WEIGHTS = {"score matching": 0.0, "with Fokker–Planck residual": 10.0}
TIED = "with Fokker–Planck residual"
N_SEEDS = 3
DISTANCES, SAMPLES = ("js", "pmf_error"), ("sampling", "simulation")
PARTS = ("seconds", "density", "flow", *SAMPLES)
LAWS = {"density": "density by quadrature", "flow": "law of draws with steps without error"}
LEARNED_BY = ("sciflow.diffusion.fokker_planck", "sciflow.networks.energy", "sciflow.training.loop")
DRAWN_BY = (*LEARNED_BY, "sciflow.inverse.simulated", "sciflow.inverse.unguided")


@dataclass(frozen=True)
class Training:
    """How long is trained."""

    width: int = 96
    n_steps: int = 20_000
    batch_size: int = 1024
    learning_rate: float = 1e-2
    sharpness: float = 3.0
    mean: float = -1.5


@dataclass(frozen=True)
class Plan:
    """What is trained, and how much is drawn."""

    training: Training = field(default_factory=Training)
    n_draws: int = 1_000_000
    n_levels: int = 60
    n_chains: int = 31_250
    step: float = 0.005
    stride: int = 50


QUICK = Plan(Training(32, 30, 64), n_draws=10_000, n_levels=10, n_chains=200, stride=4)
LEVELS = {"ratio_max": 20.0, "ratio_min": 0.01}
FRICTION, MASS, TILE = 1.0, 0.5, 2000


class Model(NamedTuple):
    """A denoiser of x − centre, and the CPU seconds of its training."""

    denoiser: NetworkDenoiser
    centre: Tensor
    seconds: float


def perfect(n: int, *purpose: str | int) -> Tensor:
    """Exact draws, float32; in pieces, because the table that they are looked up in is large."""
    potential = MullerBrown()
    sizes = [min(PIECE, n - first) for first in range(0, n, PIECE)]
    return torch.cat([draws(potential, m, Stream(20, (*purpose, k))).float() for k, m in enumerate(sizes)])


def untrained(plan: Training, seed: int, std: float) -> NetworkDenoiser:
    """The denoiser that a seed starts from, of data of this standard deviation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(Stream(seed, ("weights",)).key())
        module = EnergyMLP(plan.width, sharpness=plan.sharpness).build((2,))
    return NetworkDenoiser(module, Scaled(EDM(), std), (2,), 0.0)


def trained(plan: Training, weight: float, seed: int) -> Model:
    """The model of one seed, from exact draws that are each seen once."""
    began = time.process_time()
    data = perfect(plan.n_steps * plan.batch_size, "train", seed)
    centre = data.double().mean(0).float()
    data = data - centre
    loss = FokkerPlanck(weight, plan.mean, noise="integrated", likelihood=True)
    start = untrained(plan, seed, float(data.double().std()))

    def of_batch(module: nn.Module, batch: Tensor, stream: Stream, step: int, first: int = 0) -> Tensor:
        return loss(replace(start, module=module), batch, stream, step, first)

    options = Optimisation(
        n_steps=plan.n_steps, optimiser="soap", batch_size=plan.batch_size, learning_rate=plan.learning_rate,
        weight_decay=0.0, gradient_clip=10.0, ema_decay=0.999,
    )  # fmt: skip
    with torch.enable_grad():
        fitted = fit(start.module, of_batch, data, None, options, Stream(seed, tile=plan.batch_size), progress=None)
    return Model(replace(start, module=fitted.module), centre, time.process_time() - began)


def learned(file: Path, plan: Training, weight: float, seed: int) -> Model:
    """The model of one seed, from its file, or trained and written there."""
    identity = {**asdict(plan), "weight": weight, "seed": seed, "source": source(LEARNED_BY)}
    stored = load(file, "model") if file.is_file() else {}
    if stored.get("identity") == identity:
        start = untrained(plan, seed, stored["std"])
        start.module.load_state_dict(stored["weights"])
        return Model(start, stored["centre"], stored["seconds"])
    model = trained(plan, weight, seed)
    content = {"identity": identity, "weights": model.denoiser.module.state_dict(), "std": model.denoiser.std}
    save(file, {**content, "centre": model.centre, "seconds": model.seconds}, "model")
    return model


def source(modules: Sequence[str]) -> str:
    """Digest of these modules and of what they import."""
    found = closure(modules, Path(__file__).resolve().parents[1])
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()


def density(model: Model, law: Law, refine: int = 6) -> dict[str, float]:
    """Distances of the law that the model's density has at the last level."""
    points = lattice([_midpoints(edges, refine) for edges in law.grid.edges])
    log_density = known_log_density(model.denoiser, float(_levels(1, model)[-1]))
    parts = [log_density((part - model.centre).float()) for part in points.split(2**16)]
    return _distances(torch.cat(parts), law, refine)


def flow(model: Model, law: Law, n_levels: int) -> dict[str, float]:
    """Distances of the law that draws along the flow would have with steps without error.

    One point a cell: p differs from its mean over a cell of width h by h²/24 p″ < 0.3 %, 10⁻⁶ nat. Cells where the
    exact law has next to nothing are left out.
    """
    points = lattice([_midpoints(edges, 1) for edges in law.grid.edges])
    near, times = law.masses[: CELLS**2] > NEGLIGIBLE, _levels(n_levels, model)
    log_q = torch.full((len(points),), -math.inf, dtype=torch.float64)
    parts = (points[near] - model.centre).float().split(2**12)
    log_q[near] = torch.cat([log_likelihood(model.denoiser, part, times).value for part in parts]).double()
    return _distances(log_q, law, 1)


def _levels(n_levels: int, model: Model) -> Tensor:
    return Karras(n_levels, **LEVELS)(model.denoiser.schedule)


def _distances(log_q: Tensor, law: Law, refine: int) -> dict[str, float]:
    """Of a log-density on cells cut into refine² parts, made to have the same share outside."""
    mass = log_q.double().softmax(0).reshape(CELLS, refine, CELLS, refine).sum((1, 3)).flatten()
    q = torch.cat([mass * (1 - law.grid.outside), torch.tensor([law.grid.outside], dtype=torch.float64)])
    return {"js": js_divergence(law.masses, q), "pmf_error": pmf_error(law.masses, q)}


def _midpoints(edges: Tensor, refine: int) -> Tensor:
    width = (edges[1] - edges[0]) / refine
    return (edges[:-1, None] + width * (torch.arange(refine, dtype=torch.float64) + 0.5)).flatten()


def drawn(kind: str, model: Model, plan: Plan, seed: int) -> Tensor:
    """Draws along the flow, or frames of a simulation with the model's force, as many as the plan says."""
    times, like = _levels(plan.n_levels, model), Unobserved(torch.zeros(1))
    speed = math.sqrt(MullerBrown().temperature / MASS)
    sampler = (
        Simulated(plan.n_chains, plan.stride, 0, plan.step, FRICTION, speed) if kind == "simulation" else Unguided()
    )
    return sampler(model.denoiser, like, times, plan.n_draws, Stream(seed, (kind,), TILE)).x + model.centre


def exactly_simulated(plan: Plan, k: int) -> Tensor:
    """Frames of the same simulation with the exact force from exact draws."""
    potential, stream = MullerBrown(), Stream(21, ("exact", k), plan.n_chains)
    bath = Kinetic(force(potential), potential.temperature, FRICTION, MASS)
    x = draws(potential, plan.n_chains, stream.child("start")).float()
    state, frames = bath.thermal(x, stream.child("velocity").normal(len(x), (2,))), []
    grid = [plan.step * i for i in range(plan.stride + 1)]
    for frame in range(plan.n_draws // plan.n_chains):
        state = solve(bath, state, grid, BAOAB(), stream=stream.child("frame", frame))
        frames.append(state[:, 0])
    return torch.stack(frames, 1).flatten(0, 1)


def distances(x: Tensor, law: Law, sizes: Sequence[int]) -> dict[str, list[float]]:
    """js and pmf_error of the first samples, as many as each size says."""
    return {name: [getattr(law, name)(x[:n]) for n in sizes] for name in DISTANCES}


def parts(plan: Plan, law: Law, model: Model, seed: int) -> dict[str, Callable[[], Any]]:
    """What there is to know of one model; each takes from seconds to minutes."""
    return {
        "seconds": lambda: model.seconds,
        "density": lambda: density(model, law),
        "flow": lambda: flow(model, law, 2 * plan.n_levels // 5),  # of fourth order: fewer do
        **{k: lambda k=k: distances(drawn(k, model, plan, seed), law, sizes_of(plan)) for k in SAMPLES},
    }


def sizes_of(plan: Plan) -> list[int]:
    return [plan.n_draws // 10, plan.n_draws]


def kept(folder: Path, plan: Plan, law: Law, models: Sequence[str], n_seeds: int) -> dict[str, list[dict[str, Any]]]:
    """Model → scores of each of its seeds, of each from its file, or computed and written there."""
    identity = {**asdict(plan), **LEVELS, "source": source(DRAWN_BY)}
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, Any]]] = {model: [] for model in models}
    for said, seed in itertools.product(reversed(models), range(n_seeds)):  # those that are judged come first
        file = folder / f"seed-{seed}-weight-{WEIGHTS[said]}.json"
        stored = json.loads(file.read_text()) if file.is_file() else {}
        scores = stored["scores"] if stored.get("identity") == identity else {}
        if len(scores) < len(PARTS):
            model = learned(file.with_suffix(".pt"), plan.training, WEIGHTS[said], seed)
            for part, work in parts(plan, law, model, seed).items():
                if part not in scores:
                    scores[part] = work()
                    print(f"seed {seed}, {said}, {part}: {scores[part]}", flush=True)
                    file.write_text(json.dumps({"identity": identity, "scores": scores}, indent=1))
        found[said].append(scores)
    return found


def beside_the_record(rows: Sequence[Row]) -> list[Row]:
    """The rows of the last record, those that were measured now in their places."""
    found = {_unscored(row.claim): row for row in rows}
    last = max((Path(__file__).parent / "results").glob("molecules_muller_brown-*.json"))
    stored = [Row(**row) for row in json.loads(last.read_text())["rows"]]
    joined = [found.pop(_unscored(row.claim), row) for row in stored]
    if found:
        raise ValueError(f"{last} has no rows {list(found)}: record both models.")
    return joined


def _unscored(claim: str) -> str:
    return claim.partition(" (z = ")[0]


def pooled(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error."""
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def floor_rows(floors: Mapping[str, Sequence[Floor]], law: Law, plan: Plan, n_sets: int) -> list[Row]:
    """What perfect draws score, and a simulation with the exact force."""
    exact = [distances(exactly_simulated(plan, k), law, sizes_of(plan)) for k in range(n_sets)]
    said = []
    for place, n in enumerate(sizes_of(plan)):
        for name in DISTANCES:
            own = floors[name][place]
            said.append(Row(f"{n} perfect draws: {name} (sd {own.std:.2g})", own.mean, own.stderr))
        for name in DISTANCES:
            mean, error = pooled([scores[name][place] for scores in exact])
            z = floors[name][place].z(mean)
            said.append(Row(f"{n} frames of a simulation with the exact force: {name} (z = {z:.1f})", mean, error))
    return said


def model_rows(
    found: Mapping[str, Sequence[Any]], floors: Mapping[str, Sequence[Floor]], plan: Plan, quick: bool
) -> list[Row]:
    """Every distance of both models, and the verdict on the one with the residual."""
    said = []
    for model in found:
        mean, error = pooled([scores["seconds"] for scores in found[model]])
        said.append(Row(f"{model}: CPU seconds of training", mean, error))
        for law, name in itertools.product(LAWS, DISTANCES):
            mean, error = pooled([scores[law][name] for scores in found[model]])
            said.append(Row(f"{model}: {LAWS[law]}, {name}", mean, error))
    for model, kind, name in itertools.product(found, SAMPLES, DISTANCES):
        for place, n in enumerate(sizes_of(plan)):
            own = floors[name][place]
            mean, error = pooled([scores[kind][name][place] for scores in found[model]])
            target = None if quick or model != TIED else own.mean + 2 * own.std
            holds = None if target is None else mean <= target
            said.append(Row(f"{n} frames, {model}, {kind}: {name} (z = {own.z(mean):.1f})", mean, error, target, holds))
    return said


def rows(found: Mapping[str, Sequence[Any]], law: Law, plan: Plan, quick: bool) -> list[Row]:
    """Floors, then what the seeds that are there score."""
    n_sets = 8 if quick else 64
    floors = {
        name: [floor([getattr(law, name)(law.perfect(k, n)) for k in range(1, n_sets + 1)]) for n in sizes_of(plan)]
        for name in DISTANCES
    }
    return floor_rows(floors, law, plan, 2 if quick else 3) + model_rows(found, floors, plan, quick)


def main() -> int:
    options = asked(__doc__, "untrained in a minute: shows that it runs", WEIGHTS)
    torch.set_num_threads(1)
    plan = QUICK if options.quick else Plan()
    law = Law(MullerBrown(), torch.zeros(2, 2, dtype=torch.float64), CELLS, Stream(13))
    with torch.no_grad():
        folder = Path("results/benchmark-muller-brown") / ("quick" if options.quick else "full")
        models = [options.model] if options.model else list(WEIGHTS)
        found = kept(folder, plan, law, models, 2 if options.quick else N_SEEDS)
        table = rows(found, law, plan, options.quick)
    if options.model and not options.quick:
        table = beside_the_record(table)
    versions = {"sciflow": __version__, "torch": torch.__version__}
    conclude("molecules_muller_brown", table, versions, machine.in_words(), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
