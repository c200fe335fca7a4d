"""Runs that are resumed from a file in the middle are the uninterrupted ones, bit for bit, for every model there is."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import pytest
import torch
from target_paths import likelihood, mixture, skewed

from sciflow.diffusion.discrete import MaskedModel, TableDenoiser, decoded, markov_table
from sciflow.diffusion.mixture import MixtureDenoiser
from sciflow.diffusion.schedule import EDM, Linear
from sciflow.diffusion.times import LogSNR
from sciflow.inverse import DAS, DOIT, FPS, SVDD, TDS, FKSteering, MCGDiff, TwistedSMC, WeightedDPS
from sciflow.inverse.noised import NoisedLikelihood
from sciflow.particles import (
    HMC,
    BootstrapFilter,
    Bridge,
    FeynmanKac,
    GreedyModel,
    GuidedFilter,
    LinearMeasurements,
    NestedModel,
    NormalBase,
    Particles,
    SMCState,
    Tempering,
    ladder,
    smc,
)
from sciflow.random import Stream
from sciflow.solvers import StateSpace
from sciflow.solvers.dynamics import Equation
from sciflow.steering import (
    AndModel,
    Control,
    OneSided,
    OrModel,
    RaisedReward,
    Ramped,
    TargetPath,
    TransportModel,
    marginal,
)

N, LIKE = 60, torch.empty(0, dtype=torch.float64)
PRIOR, OTHER = (MixtureDenoiser(mixture(seed), EDM()) for seed in (1, 2))
TIMES = LogSNR(6, ratio_max=10.0, ratio_min=0.1)(EDM())


def of_path(path: TargetPath, **options: object) -> FeynmanKac:
    return marginal(path, TIMES, like=LIKE, tile=32, **options)


def of_posterior(sampler) -> FeynmanKac:
    return sampler.model(PRIOR, likelihood(2), TIMES)


def filtering(kind: type) -> FeynmanKac:
    space = StateSpace(Equation(lambda t, x: -x), (0.0, 0.2, 0.4, 0.6, 0.8), torch.ones(2).double(), 1.0, 0.3)
    y = torch.tensor([[0.3], [1.2], [-0.4], [0.9], [0.1]], dtype=torch.float64)
    return kind(space, LinearMeasurements.of(y, torch.tensor([[1.0, -0.5]]).double(), 0.3), tile=32)


def tokens() -> FeynmanKac:
    table = markov_table(torch.tensor([0.5, 0.3, 0.2]), torch.tensor([[0.1, 0.8, 0.1]] * 2 + [[0.6, 0.3, 0.1]]), 3)

    def reward(x: torch.Tensor) -> torch.Tensor:
        return 2.0 * (x == 2).sum(1).double()

    return MaskedModel(TableDenoiser(table), (0.0, 0.25, 0.5, 0.75, 1.0), reward, decoded(reward))


def tempering() -> FeynmanKac:
    base = NormalBase(torch.zeros(2).double(), torch.full((2,), 2.0).double())
    return Tempering(Bridge(base, lambda x: 3 * skewed(x) - 2 * (x - 1).square().sum(1)), ladder(5, 0.3), HMC(0.3))


def transport() -> FeynmanKac:
    flow = OneSided(MixtureDenoiser(mixture(1), Linear()))
    return TransportModel(flow, Ramped(likelihood(2).log_prob), (0.0, 0.3, 0.6, 0.8, 0.95), tile=32, like=LIKE)


REWARDED = TargetPath((PRIOR, OTHER), (1.6, -0.4), RaisedReward(skewed, EDM()))
MOVING = TargetPath((PRIOR, OTHER), (lambda t: 0.5 + t**2, lambda t: 1.0 - 0.4 * t))
TILTED = TargetPath((PRIOR,), (1.0,), NoisedLikelihood(likelihood(2), EDM()))
CONTROL = Control(("position", "score", "gradient"))
MODELS: dict[str, Callable[[], FeynmanKac]] = {
    "marginal, plain": lambda: of_path(MOVING),
    "marginal, control by probes": lambda: of_path(TILTED, control=CONTROL),
    "marginal, affine control": lambda: of_path(REWARDED, control=Control(("affine",))),
    "marginal, order 1": lambda: of_path(REWARDED, order=1),
    "marginal, order 1, control": lambda: of_path(REWARDED, order=1, control=CONTROL),
    "marginal, kernel ratio": lambda: of_path(REWARDED, weights="kernel_ratio"),
    "twisted": lambda: of_posterior(TwistedSMC(tile=32)),
    "tds": lambda: of_posterior(TDS(tile=32)),
    "weighted_dps": lambda: of_posterior(WeightedDPS(tile=32)),
    "fk_steering": lambda: of_posterior(FKSteering(potential="max", interval=2, strength=0.5, tile=32)),
    "das": lambda: of_posterior(DAS(tile=32)),
    "das, adaptive": lambda: of_posterior(DAS(adaptive=True, tile=32)),
    "doit": lambda: of_posterior(DOIT(tile=32)),
    "mcgdiff": lambda: of_posterior(MCGDiff(tile=32)),
    "fps": lambda: of_posterior(FPS(tile=32)),
    "svdd": lambda: of_posterior(SVDD(n_children=3, tile=32)),
    "transport": transport,
    "tokens": tokens,
    "tokens with children": lambda: NestedModel(tokens(), 2),
    "tempering": tempering,
    "bootstrap filter": lambda: filtering(BootstrapFilter),
    "guided filter": lambda: filtering(GuidedFilter),
}
UNWEIGHTED = {
    "greedy": lambda: GreedyModel(tokens(), 3),
    "superdiff or": lambda: OrModel((PRIOR, OTHER), tuple(TIMES.tolist()), like=LIKE),
    "superdiff and": lambda: AndModel((PRIOR, OTHER), tuple(TIMES.tolist()), like=LIKE),
}


def same(a: Particles, b: Particles) -> bool:
    tensors = ("x", "log_weights", "eve", "ess_trace", "parents_trace", "evidence_trace", "island_log_evidence")
    numbers = ("log_evidence", "log_evidence_stderr", "n_resampled", "events")
    said = a.diagnostics.keys() == b.diagnostics.keys() and all(
        torch.equal(a.diagnostics[name].nan_to_num(7.0), b.diagnostics[name].nan_to_num(7.0)) for name in a.diagnostics
    )  # NaN where a step said nothing
    equal = all(torch.equal(getattr(a, name), getattr(b, name)) for name in tensors)
    return said and equal and all(getattr(a, name) == getattr(b, name) for name in numbers)


@pytest.mark.parametrize("name", [*MODELS, *UNWEIGHTED])
def test_a_resumed_run_is_the_uninterrupted_one(name: str) -> None:
    """Particles, weights, traces, diagnostics and evidence; the state goes through a file without code in it."""
    build, files = (MODELS | UNWEIGHTED)[name], dict[int, bytes]()

    def keep(state: SMCState) -> None:
        buffer = io.BytesIO()
        torch.save(state.as_dict(), buffer)
        files[state.k] = buffer.getvalue()

    whole = smc(build(), N, Stream(3), ess_threshold=0.97, on_checkpoint=keep)
    assert math.isfinite(whole.log_evidence) and bool(whole.x.double().isfinite().all())
    assert (whole.n_resampled > 0) == (name in MODELS)
    middle = (max(files) + 1) // 2
    assert 0 < middle < max(files)
    state = SMCState.from_dict(torch.load(io.BytesIO(files[middle]), weights_only=True))
    resumed = smc(build(), N, Stream(3), ess_threshold=0.97, resume=state)  # a model of its own: nothing is remembered
    assert same(resumed, whole)
    other = smc(build(), N, Stream(4), ess_threshold=0.97)
    assert not same(other, whole), "the comparison tells runs apart"
