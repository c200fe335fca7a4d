"""Masked diffusion of tokens: its denoiser, the law of its chain by enumeration, and rewards with exact weights."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from sciflow.diffusion.discrete import MaskedModel, TableDenoiser, decoded, markov_table
from sciflow.errors import InputError
from sciflow.particles import smc
from sciflow.particles.nested import GreedyModel, NestedModel
from sciflow.random import Stream

LENGTH, TOKENS = 4, 3
START = torch.tensor([0.5, 0.3, 0.2])
MOVE = torch.tensor([[0.1, 0.8, 0.1], [0.15, 0.15, 0.7], [0.6, 0.3, 0.1]])
DENOISER = TableDenoiser(markov_table(START, MOVE, LENGTH))
LAW = DENOISER.log_probs.exp().flatten()


def grid(n_steps: int) -> tuple[float, ...]:
    return tuple(torch.linspace(0, 1, n_steps + 1, dtype=torch.float64).tolist())


def reward(x: Tensor) -> Tensor:
    """Asymmetric in tokens and places: 2's are worth much at the start, 0's little at the end."""
    place = torch.tensor([1.5, 0.8, 0.3, -0.4], dtype=torch.float64)
    return ((x == 2) * place).sum(1) - 0.7 * (x[:, -1] == 0) + 0.5 * (x[:, 0] == x[:, 3])


def states() -> Tensor:
    """Every state with masks, ((S + 1)^L, L)."""
    return torch.tensor(list(itertools.product(range(TOKENS + 1), repeat=LENGTH)))


def chain_law(n_steps: int) -> Tensor:
    """The law of the complete sequences, by multiplying the kernels of every position over every state."""
    every, times = states(), grid(n_steps)
    mass = (every == TOKENS).all(1).double()
    shown = torch.eye(TOKENS + 1, dtype=torch.float64)[:, None]  # a visible token stays
    for a, b in itertools.pairwise(times):
        chance = (b - a) / (1 - a)
        probabilities = torch.cat([chance * DENOISER(every, a), torch.full((len(every), LENGTH, 1), 1 - chance)], 2)
        kernel = torch.ones(len(every), len(every), dtype=torch.float64)
        for place in range(LENGTH):
            one = torch.where((every[:, place] == TOKENS)[:, None], probabilities[:, place], shown[every[:, place], 0])
            kernel *= one[:, every[:, place]]
        mass = mass @ kernel
    is_complete = (every < TOKENS).all(1)
    assert float(mass[~is_complete].abs().sum()) < 1e-12
    return mass[is_complete]  # in the order of `sequences`, both are lexicographic


def number(x: Tensor) -> Tensor:
    """Where a complete sequence stands in the table."""
    return (x * TOKENS ** torch.arange(LENGTH - 1, -1, -1)).sum(1)


def test_denoiser_is_the_conditional_law() -> None:
    """P(token | visible) as a ratio of sums over the table, indexed by hand."""
    table = LAW.reshape((TOKENS,) * LENGTH)
    for x in states():
        visible = tuple(slice(None) if s == TOKENS else slice(s, s + 1) for s in x.tolist())
        part = table[visible] / table[visible].sum()
        for place, found in enumerate(DENOISER(x[None], 0.5)[0]):
            marginal = part.sum(tuple(axis for axis in range(LENGTH) if axis != place))
            expected = marginal if x[place] == TOKENS else torch.eye(TOKENS).double()[x[place]]
            assert torch.allclose(found, expected, rtol=0, atol=1e-14)  # float64 sums of 81 numbers


def test_draws_follow_the_chain_by_enumeration() -> None:
    """χ² of 40 000 draws over 81 sequences, on 3 steps, which leave the law of the data: 80 ± √160."""
    law = chain_law(3)
    run = smc(MaskedModel(DENOISER, grid(3)), 40_000, Stream(0))
    assert run.log_evidence == 0 and run.ess() == pytest.approx(40_000)
    copies = torch.bincount(number(run.x), minlength=len(law))
    statistic = ((copies - 40_000 * law).square() / (40_000 * law)).sum()
    assert abs(statistic - 80) < 4 * math.sqrt(160)
    assert ((copies - 40_000 * LAW).square() / (40_000 * LAW)).sum() > 80 + 8 * math.sqrt(160)  # and not the data's


def test_chain_tends_to_the_law_of_the_data() -> None:
    """Total variation falls as the step: two tokens appear together with a probability of that order."""
    errors = [0.5 * float((chain_law(n) - LAW).abs().sum()) for n in (8, 16, 32)]
    assert all(1.8 < a / b < 2.2 for a, b in itertools.pairwise(errors))


def tilted(n_steps: int) -> tuple[float, Tensor]:
    """Z and the law of (chain) × exp(reward)."""
    mass = chain_law(n_steps) * reward(DENOISER.sequences).exp()
    return float(mass.sum()), mass / mass.sum()


FEW = [(True, 0, 0.5), (True, 4, 0.5)]
MORE = [(True, 0, 1e-9), (True, 0, 1.0), (False, 0, 0.5), (False, 3, 1.0)]
CASES = [*FEW, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE)]


@pytest.mark.slow
@pytest.mark.parametrize(("has_value", "children", "threshold"), CASES)
def test_evidence_and_law_are_exact_for_any_value_and_children(
    has_value: bool, children: int, threshold: float
) -> None:
    """E[Ẑ f] = Z E[f], f the share of each token at each place: 400 runs of 8 particles, 5 steps, 4 standard errors."""
    evidence, law = tilted(5)
    model = MaskedModel(DENOISER, grid(5), reward, decoded(reward) if has_value else None)
    model = NestedModel(model, children) if children else model
    runs = [smc(model, 8, Stream(seed), ess_threshold=threshold) for seed in range(400)]
    one_hot = torch.nn.functional.one_hot(torch.stack([run.x for run in runs]), TOKENS).double()
    shares = torch.einsum("rn,rnls->rls", torch.stack([run.weights for run in runs]), one_hot)
    mass = torch.tensor([run.log_evidence for run in runs]).double().exp()[:, None, None] * shares
    expected = evidence * torch.einsum("q,qls->ls", law, torch.nn.functional.one_hot(DENOISER.sequences).double())
    error = mass.std(0) / math.sqrt(len(runs))
    assert ((mass.mean(0) - expected).abs() < 4 * error).all()
    total = torch.tensor([run.log_evidence for run in runs]).double().exp()
    assert abs(total.mean() - evidence) < 4 * total.std() / 20 < 0.1 * evidence


def test_greedy_children_miss_the_law() -> None:
    """The best of 4 children, beside the exact choice, at 20 000 particles: total variation to the enumerated law."""
    _, law = tilted(5)
    model = MaskedModel(DENOISER, grid(5), reward, decoded(reward))
    distance = {}
    for kind in (NestedModel, GreedyModel):
        run = smc(kind(model, 4), 20_000, Stream(1))
        share = torch.zeros_like(law).index_add_(0, number(run.x), run.weights)
        distance[kind] = 0.5 * float((share - law).abs().sum())
    # 81 cells, weights and resampling: the floor of 20 000 independent draws is Σ √(p/2πn) ≈ 0.02
    assert distance[NestedModel] < 0.06 < 0.3 < distance[GreedyModel]


def test_what_makes_no_chain_is_refused() -> None:
    with pytest.raises(InputError, match="from 0 to 1"):
        MaskedModel(DENOISER, (0.1, 1.0))
    for table in (
        torch.zeros(2, 2),
        torch.tensor([[-math.inf, math.log(0.5)], [math.log(0.25)] * 2]),
        torch.zeros(2, 3),
    ):
        with pytest.raises(InputError, match="table of sequences"):
            TableDenoiser(table)
