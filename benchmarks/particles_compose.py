"""Composition: the mixture of two models, paths that keep densities equal, and children exact and greedy.

Two mixtures of four modes each in eight dimensions, weighted 1 : 3, give 4000 draws a run; distances are sliced W2 to
exact draws of their mixture, over that of as many fresh exact draws. "Fixed weights" averages the denoisers by the
weights of the models instead of by κ, as is often done. Densities are kept equal for two Gaussians of variances 0.3 and
2 in the plane, for which the drift of the published step is known.

Tokens: a Markov chain of four tokens out of three under a reward, whose law is known by enumeration; distances are
total variation, over that of as many independent draws; at equal calls: the greedy search and the exact choice have
four children, and the filter four times the particles. A step's cost is its CPU time over that of one call of the
network, on one tile, medians of rounds.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import machine
import torch
from rows import Row, judged
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.discrete import MaskedModel, TableDenoiser, decoded, markov_table
from sciflow.diffusion.mixture import GaussianDenoiser, GaussianMixture, MixtureDenoiser
from sciflow.diffusion.network import NetworkDenoiser
from sciflow.diffusion.schedule import EDM, Scaled
from sciflow.diffusion.times import Karras
from sciflow.metrics.particle import sliced_w2
from sciflow.networks import NETWORKS
from sciflow.particles import smc
from sciflow.particles.feynman_kac import FeynmanKac
from sciflow.particles.nested import GreedyModel, NestedModel
from sciflow.particles.particles import Particles
from sciflow.random import Stream
from sciflow.steering.agreement import AndModel
from sciflow.steering.compose import MixtureOf, OrModel

LIKE = torch.empty(0, dtype=torch.float64)
OMEGA, DIMENSION, N_DRAWS = (0.25, 0.75), 8, 4000
LENGTH, TOKENS, N_PARTICLES = 4, 3, 8000


def measured(claim: str, values: Sequence[float], target: float | None = None) -> Row:
    """Mean and standard error over runs; a verdict where four standard errors cannot change it."""
    value, stderr = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
    can_tell = target is not None and abs(value - target) > 4 * stderr
    return Row(claim, value, stderr, target, value <= target if can_tell and target is not None else None)


# Mixtures --------------------------------------------------------------------------------------------------------


def laws() -> tuple[GaussianMixture, GaussianMixture, GaussianMixture]:
    """Two experts and their mixture."""
    stream, eye = Stream(5), torch.eye(DIMENSION, dtype=torch.float64)
    found = []
    for name, shift in (("first", -1.0), ("second", 1.0)):
        means = shift + 2.5 * stream.child(name).normal(4, (DIMENSION,), dtype=torch.float64)
        weights = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
        found.append(GaussianMixture(weights, means, torch.stack([s * eye for s in (0.3, 0.6, 1.0, 1.5)])))
    both = GaussianMixture(
        torch.cat([w * law.weights for w, law in zip(OMEGA, found, strict=True)]),
        torch.cat([law.means for law in found]),
        torch.cat([law.covariances for law in found]),
    )
    return found[0], found[1], both


@dataclass(frozen=True)
class Fixed:
    """The denoiser Σ ω_i D_i, whose weights know no state."""

    experts: tuple[Denoiser, ...]

    def __post_init__(self) -> None:
        first = self.experts[0]
        object.__setattr__(self, "schedule", first.schedule)
        object.__setattr__(self, "shape", first.shape)
        object.__setattr__(self, "initial", first.initial)

    def __call__(self, x: Tensor, t: float | Tensor) -> Tensor:
        return sum(w * expert(x, t) for w, expert in zip(OMEGA, self.experts, strict=True))  # type: ignore[return-value]


def mixture_rows(n_runs: int, n_steps: int) -> list[Row]:
    """Distance to the exact mixture over its floor, wrong mass, and the error of κ."""
    schedule = EDM(sigma_max=60.0)
    first, second, both = laws()
    experts = MixtureDenoiser(first, schedule), MixtureDenoiser(second, schedule)
    levels = tuple(Karras(n_steps, 60.0, 0.01)(schedule).tolist())
    models = {
        "SuperDiff OR": OrModel(experts, levels, OMEGA, like=LIKE),
        "fixed weights": OrModel((Fixed(experts),), levels, like=LIKE),
        "the mixture's own denoiser": OrModel((MixtureOf(experts, OMEGA),), levels, like=LIKE),
    }
    distances: dict[str, list[float]] = {name: [] for name in models}
    wrong: dict[str, list[float]] = {name: [] for name in models}
    for seed in range(n_runs):
        exact, fresh = (both.sample(N_DRAWS, Stream(seed, (name,))) for name in ("exact", "fresh"))
        for name, model in models.items():
            x = smc(model, N_DRAWS, Stream(seed, ("draws",))).x
            found = sliced_w2(exact[None], x[None], fresh=fresh[None])
            distances[name].append(found["sliced_w2"].value / found["sliced_w2_floor"].value)
            shares = both.components(x).softmax(1).mean(0)
            wrong[name].append(0.5 * float((shares - both.weights).abs().sum()))
    floor = float((both.weights * (1 - both.weights) / N_DRAWS).sqrt().sum()) / math.sqrt(2 * math.pi)
    claim = f"{n_steps} steps, sliced W2 over that of exact draws"
    found = [measured(f"{name}, {claim}", distances[name], 2.0 if name == "SuperDiff OR" else None) for name in models]
    found += [measured(f"{name}, mass in the wrong mode (exact draws: {floor:.3f})", wrong[name]) for name in models]
    return [*found, measured("SuperDiff OR, largest rms error of κ along the path", kappa_errors(n_runs, n_steps))]


def kappa_errors(n_runs: int, n_steps: int) -> list[float]:
    schedule = EDM(sigma_max=60.0)
    experts = tuple(MixtureDenoiser(law, schedule) for law in laws()[:2])
    model = OrModel(experts, tuple(Karras(n_steps, 60.0, 0.01)(schedule).tolist()), OMEGA, like=LIKE)
    exact, found = MixtureOf(experts, OMEGA), []
    for seed in range(n_runs):
        stream, largest = Stream(seed), 0.0
        state, _ = model.initial(500, stream.child("initial"))
        for k, t in enumerate(model.levels):
            error = (model.kappa(state) - exact.kappa(state["x"], t))[:, 0]
            largest = max(largest, float(error.square().mean().sqrt()))
            state, _ = model.step(k, state, stream.child("step", k))
        found.append(largest)
    return found


def agreement_rows(n_runs: int, n_steps: int) -> list[Row]:
    """How far the true densities of two Gaussians drift apart between the first level and the last."""
    schedule, variances = EDM(sigma_max=60.0), (0.3, 2.0)
    eye, means = torch.eye(2, dtype=torch.float64), torch.tensor([[1.0, 0.0], [-1.0, 0.5]], dtype=torch.float64)
    experts = tuple(GaussianDenoiser(mean, v * eye, schedule) for mean, v in zip(means, variances, strict=True))
    levels = tuple(Karras(n_steps, 60.0, 0.02, 3.0)(schedule).tolist())
    first, second = (math.log((v + 60.0**2) / (v + 0.02**2)) for v in variances)
    found = []
    for name, curvature in (("with the curvature", True), ("as published", False)):
        drifts = []
        for seed in range(n_runs):
            model, stream, gaps = AndModel(experts, levels, curvature, like=LIKE), Stream(seed), []
            state, _ = model.initial(500, stream.child("initial"))
            for k, t in enumerate(levels):
                if k in (0, len(levels) - 1):
                    gaps.append(experts[0].log_prob(state["x"], t) - experts[1].log_prob(state["x"], t))
                state, _ = model.step(k, state, stream.child("step", k))
            drifts.append(float((gaps[1] - gaps[0]).mean()))
        expected = "" if curvature else f" (in theory {0.5 * (first - second):.3f})"
        claim = f"{n_steps} steps, mean drift of log q₁ − log q₂{expected} [nat]"
        found.append(measured(f"SuperDiff AND {name}, {claim}", drifts))
    return found


# Tokens ----------------------------------------------------------------------------------------------------------


def reward(x: Tensor) -> Tensor:
    place = torch.tensor([1.5, 0.8, 0.3, -0.4], dtype=torch.float64)
    return ((x == 2) * place).sum(1) - 0.7 * (x[:, -1] == 0) + 0.5 * (x[:, 0] == x[:, 3])


def table() -> TableDenoiser:
    move = torch.tensor([[0.1, 0.8, 0.1], [0.15, 0.15, 0.7], [0.6, 0.3, 0.1]])
    return TableDenoiser(markov_table(torch.tensor([0.5, 0.3, 0.2]), move, LENGTH))


def enumerated(denoiser: TableDenoiser, times: Sequence[float]) -> tuple[Tensor, float]:
    """The law of (chain) × exp(reward) and its evidence, through every state with masks."""
    every = torch.tensor(list(itertools.product(range(TOKENS + 1), repeat=LENGTH)))
    mass = (every == TOKENS).all(1).double()
    for a, b in itertools.pairwise(times):
        chance = (b - a) / (1 - a)
        hidden = torch.cat([chance * denoiser(every, a), torch.full((len(every), LENGTH, 1), 1 - chance)], 2)
        kernel = torch.ones(len(every), len(every), dtype=torch.float64)
        for place in range(LENGTH):
            kept = torch.nn.functional.one_hot(every[:, place], TOKENS + 1).double()
            moves = torch.where((every[:, place] == TOKENS)[:, None], hidden[:, place], kept)
            kernel *= moves[:, every[:, place]]
        mass = mass @ kernel
    target = mass[(every < TOKENS).all(1)] * reward(denoiser.sequences).exp()
    return target / target.sum(), float(target.sum())


def token_rows(n_runs: int) -> list[Row]:
    """Distances and evidence of nested, greedy and plain filters at equal calls of the denoiser."""
    denoiser, times = table(), tuple(torch.linspace(0, 1, 6, dtype=torch.float64).tolist())
    law, evidence = enumerated(denoiser, times)
    model = MaskedModel(denoiser, times, reward, decoded(reward))
    kinds: dict[str, tuple[FeynmanKac, int]] = {
        "SVDD, exact": (NestedModel(model, 4), N_PARTICLES),
        "SVDD, argmax": (GreedyModel(model, 4), N_PARTICLES),
        "filter": (model, 4 * N_PARTICLES),
    }
    digits = TOKENS ** torch.arange(LENGTH - 1, -1, -1)
    floor = float((law * (1 - law) / N_PARTICLES).sqrt().sum()) / math.sqrt(2 * math.pi)
    found = []
    for name, (kind, n) in kinds.items():
        runs: list[Particles] = [smc(kind, n, Stream(seed, (name,))) for seed in range(n_runs)]
        shares = [torch.zeros_like(law).index_add_(0, (run.x * digits).sum(1), run.weights) for run in runs]
        values = [0.5 * float((share - law).abs().sum()) / floor for share in shares]
        claim = f"{name}, total variation over that of {N_PARTICLES} exact draws"
        found.append(measured(claim, values, 2.0 if name == "SVDD, exact" else None))
        if name != "SVDD, argmax":
            found.append(measured(f"{name}, Ẑ/Z", [math.exp(run.log_evidence) / evidence for run in runs]))
    return found


# Cost ------------------------------------------------------------------------------------------------------------


def cpu_seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def cost_rows(n_rounds: int) -> list[Row]:
    """CPU time of one step of each composition of two networks, in calls of one of them on the same tile."""
    schedule, rows = Scaled(EDM(), 1.0), 512
    networks: tuple[Denoiser, ...] = tuple(
        NetworkDenoiser(
            NETWORKS["mlp"](width=1024, depth=4).build((64,)).eval().requires_grad_(False), schedule, (64,), 0.0
        )
        for _ in range(2)
    )
    levels, like = (0.3, 0.4, 0.5), torch.empty(0)
    models: dict[str, FeynmanKac] = {
        "one expert, ancestral": OrModel(networks[:1], levels, tile=rows, like=like),
        "SuperDiff OR of two": OrModel(networks, levels, tile=rows, like=like),
        "SuperDiff AND of two": AndModel(networks, levels, tile=rows, like=like),
        "SuperDiff AND of two, as published": AndModel(networks, levels, False, tile=rows, like=like),
    }
    watch, own, x = machine.Watch(), 0.0, torch.randn(rows, 64)
    states = {name: model.initial(rows, Stream(0))[0] for name, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for index in range(n_rounds):
        unit = cpu_seconds(lambda: networks[0](x, 0.3))
        for name, model in models.items():
            spent = cpu_seconds(lambda m=model, n=name, i=index: m.step(0, states[n], Stream(i)))
            seconds[name].append(spent / unit)
            own += spent
        own += unit
    quiet = watch.disturbance(own)[1]

    def median(values: list[float]) -> Callable[[Sequence[int]], float]:
        return lambda chosen: statistics.median(values[i] for i in chosen)

    claim = "CPU of a step in network calls"
    return [judged(f"{name}, {claim}", median(values), [n_rounds], None, quiet) for name, values in seconds.items()]


def rows(quick: bool) -> list[Row]:
    """Every row of this part."""
    n_runs, n_steps = (3, 100) if quick else (8, 200)
    found = [*mixture_rows(n_runs, n_steps), *agreement_rows(n_runs, n_steps)]
    return [*found, *token_rows(5 if quick else 20), *cost_rows(15 if quick else 60)]
