"""Several children for each particle: same target and evidence for any number; no target for the greedy choice."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from sciflow.errors import InputError, NonFiniteError
from sciflow.particles import smc
from sciflow.particles.nested import CHOICES, GreedyModel, NestedModel
from sciflow.random import Stream

START = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
MOVE = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.3, 0.3, 0.4]], dtype=torch.float64)
LOG_G = torch.tensor([[0.0, 1.0, -2.0], [-1.5, 0.3, 1.2], [0.7, -math.inf, 0.4]], dtype=torch.float64)  # [from, to]


@dataclass
class Chain:
    """A Markov chain on three states, every move weighed by where it comes from and where it goes."""

    n_steps: int = 3

    def initial(self, n: int, stream: Stream) -> tuple[dict[str, Tensor], Tensor]:
        x = _drawn(START.expand(n, 3), stream)
        return {"x": x}, 0.5 * x.double()

    def step(self, k: int, state: dict[str, Tensor], stream: Stream) -> tuple[dict[str, Tensor], Tensor]:
        x = _drawn(MOVE[state["x"]], stream)
        return {"x": x}, LOG_G[state["x"], x]

    def law(self) -> tuple[float, Tensor]:
        """Z and the law of the last state, by matrix products."""
        mass = START * (0.5 * torch.arange(3)).double().exp()
        for _ in range(self.n_steps):
            mass = mass @ (MOVE * LOG_G.exp())
        return float(mass.sum()), mass / mass.sum()


def _drawn(probabilities: Tensor, stream: Stream) -> Tensor:
    u = stream.uniform(len(probabilities), (1,), dtype=torch.float64)
    return (probabilities.cumsum(1) < u).sum(1)


@pytest.mark.parametrize("children", [1, 3, 8])
@pytest.mark.parametrize("threshold", [1e-9, 0.5, 1.0])
def test_children_leave_target_and_evidence_alone(children: int, threshold: float) -> None:
    """E[Ẑ f(x)] = Z E_π[f] for the indicator f of each state, for 6 particles, over 600 runs: 4 standard errors."""
    evidence, law = Chain().law()
    runs = [smc(NestedModel(Chain(), children), 6, Stream(seed), ess_threshold=threshold) for seed in range(600)]
    shares = torch.stack([(run.weights[:, None] * (run.x[:, None] == torch.arange(3))).sum(0) for run in runs])
    mass = torch.tensor([run.log_evidence for run in runs]).double().exp()[:, None] * shares
    error = mass.std(0) / math.sqrt(len(runs))
    assert ((mass.mean(0) - evidence * law).abs() < 4 * error).all()
    assert (error < 0.05 * evidence).all()  # the test can see a bias of a fifth of Z


def test_more_children_make_the_weight_steadier() -> None:
    """Var log of the first weight falls about as 1/M; measured 1 : 0.25 : 0.06, the sample error is 5 %."""
    spread = []
    for children in (1, 4, 16):
        state, _ = Chain().initial(4000, Stream(1))
        _, potential, _ = NestedModel(Chain(), children).step(0, state, Stream(2))
        spread.append(float((potential - _exact_step(state["x"])).exp().var()))
    assert all(b < 0.35 * a for a, b in itertools.pairwise(spread))


def _exact_step(x: Tensor) -> Tensor:
    return (MOVE * LOG_G.exp()).sum(1).log()[x]


def test_the_greedy_choice_targets_another_law() -> None:
    """Largest of 8 children: off the target by more than 0.1 in probability, with an error of √(¼/40 000) = 0.0025."""
    _, law = Chain().law()
    run = smc(GreedyModel(Chain(), 8), 40_000, Stream(0))
    assert run.ess() == pytest.approx(40_000)  # no weights
    share = torch.bincount(run.x, minlength=3) / 40_000
    assert 0.5 * (share - law).abs().sum() > 0.1
    exact = smc(NestedModel(Chain(), 8), 40_000, Stream(0))
    share = torch.stack([exact.weights[exact.x == k].sum() for k in range(3)])
    assert 0.5 * (share - law).abs().sum() < 0.02  # 4 standard errors of 40 000 weighted draws, and their resampling


def test_children_do_not_depend_on_how_particles_are_held() -> None:
    """Rows 64 … 127 of an ensemble move alike whether they are held with the others or alone."""
    model, stream = NestedModel(Chain(), 3), Stream(5)
    state, _ = Chain().initial(128, stream)
    whole, weights, *_ = model.step(0, state, stream)
    half, half_weights, *_ = model.step(0, {"x": state["x"][64:]}, stream.rows_from(64))
    assert torch.equal(whole["x"][64:], half["x"]) and torch.equal(weights[64:], half_weights)


@dataclass
class Broken(Chain):
    value: float = math.nan

    def step(self, k: int, state: dict[str, Tensor], stream: Stream) -> tuple[dict[str, Tensor], Tensor]:
        state, potential = super().step(k, state, stream)
        potential[5] = self.value
        return state, potential


@pytest.mark.parametrize("choice", CHOICES)
def test_bad_children_are_refused(choice: str) -> None:
    with pytest.raises(InputError, match="at least 1 child, got 0"):
        CHOICES[choice](Chain(), 0)
    for value in (math.nan, math.inf):
        with pytest.raises(NonFiniteError, match="step 1 of 3: 1 of 8 log-potentials"):
            smc(CHOICES[choice](Broken(value=value), 3), 8, Stream(0))
