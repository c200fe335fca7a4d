"""Masked discrete diffusion: sequences of tokens that are hidden one by one, and shown again.

At time t each token is visible with probability t, else it is the mask, whatever the others are. Every schedule of a
masked process is this one on another grid, so the grid alone says how fast tokens appear.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.random import Stream
from sciflow.types import Time

Reward = Callable[[Tensor], Tensor]
"""Sequences (n, length) → log of what they are worth, (n,)."""
Value = Callable[[Tensor, Tensor], Tensor]
"""States (n, length) and the denoiser's probabilities (n, length, tokens) → log of what is expected of them, (n,)."""


class TokenDenoiser(Protocol):
    """What each hidden token may be, given the visible ones.

    Attributes:
        length: tokens of a sequence.
        n_tokens: S; the tokens are 0 … S − 1, the mask is S.
    """

    @property
    def length(self) -> int: ...

    @property
    def n_tokens(self) -> int: ...

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        """P(token of position l | visible tokens), (n, length, S); a visible token is certain."""
        ...


def markov_table(start: Tensor, move: Tensor, length: int) -> Tensor:
    """log p(s_1 … s_L) = log start(s_1) + Σ log move(s_l, s_{l+1}), shape (S,) * L, float64.

    Args:
        start: law of the first token, (S,).
        move: law of the next one, (S, S), rows sum to one.
        length: L.
    """
    table = start.double().log()
    for _ in range(length - 1):
        table = table[..., None] + move.double().log()
    return table


@dataclass(frozen=True)
class TableDenoiser:
    """The exact denoiser of a law given by its table: every marginal of it given the visible tokens.

        P(s_l = s | visible) = Σ_{sequences with s_l = s that agree with what is visible} p / the same without s_l = s

    Exactness: exact, and the same at every t: how many tokens are visible says nothing of which.
    Cost: O(S^L L) per state: for small laws.
    Bias: none.
    Args:
        log_probs: log p of every sequence, shape (S,) * L, normalised.
    Raises:
        InputError: axes of different lengths, a sequence of probability 0, or a sum that is not 1.
    Source: Sahoo et al. (2024), Simple and effective masked diffusion language models, for the process.
    """

    log_probs: Tensor

    def __post_init__(self) -> None:
        total = float(self.log_probs.double().logsumexp(tuple(range(self.log_probs.ndim))))
        if len(set(self.log_probs.shape)) != 1 or not bool(self.log_probs.isfinite().all()) or abs(total) > 1e-6:
            raise InputError(
                f"a table of sequences needs axes of one length and positive probabilities that sum to 1, got shape "
                f"{tuple(self.log_probs.shape)} and a log-sum of {total:.3g}. A chain that shows two tokens at once "
                "meets every sequence, so none may be impossible."
            )

    @property
    def length(self) -> int:
        return self.log_probs.ndim

    @property
    def n_tokens(self) -> int:
        return self.log_probs.shape[0]

    @cached_property
    def sequences(self) -> Tensor:
        """Every sequence, (S^L, L), in the order of the flattened table."""
        return torch.tensor(list(itertools.product(range(self.n_tokens), repeat=self.length)))

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        sequences = self.sequences.to(x.device)
        agrees = ((x[:, None] == sequences) | (x[:, None] == self.n_tokens)).all(2)
        weights = torch.where(agrees, self.log_probs.to(x.device).double().flatten(), -torch.inf).softmax(1)
        one_hot = torch.nn.functional.one_hot(sequences, self.n_tokens).double()
        return torch.einsum("nq,qls->nls", weights, one_hot)


@dataclass(frozen=True)
class MaskedModel:
    """The ancestral chain of a masked diffusion, weighed by a reward, as a Feynman–Kac model on integer states.

        reference   each hidden token appears with probability (b − a)/(1 − a), drawn from the denoiser at a
        potential   h_b(x_b)/h_a(x_a);   h of the complete sequence is exp(reward)

    The weighted particles have the law  (chain) × exp(reward)  for every h > 0, and the evidence is its sum. The chain
    draws tokens that appear in one step independently of each other; that alone parts it from the denoiser's law.

    Target: (chain over `times`) × exp(reward); the chain tends to the law of the data as steps → ∞.
    Exactness: exact for the chain, evidence unbiased for any number of particles.
    Cost: one denoiser call per level, n_steps in all, one more for each level that has a value.
    Bias: O(step) in the law of the chain.
    Args:
        denoiser: what hidden tokens may be.
        times: increasing, from 0 (all hidden) to 1 (all visible).
        reward: log-weight of complete sequences; None is 0, and the draws are the chain's own.
        value: log h of incomplete ones, e.g. `decoded(reward)`; None is 0.
    Raises:
        InputError: times that do not lead from 0 to 1.
    Source: Austin et al. (2021), Structured denoising diffusion models in discrete state-spaces, absorbing state; Li et
        al. (2024), SVDD, for values of incomplete sequences.
    """

    denoiser: TokenDenoiser
    times: tuple[float, ...]
    reward: Reward | None = None
    value: Value | None = None

    def __post_init__(self) -> None:
        rises = all(a < b for a, b in itertools.pairwise(self.times))
        if len(self.times) < 2 or not rises or self.times[0] != 0 or self.times[-1] != 1:
            raise InputError(f"a masked chain needs increasing times from 0 to 1, got {_shown(self.times)}.")

    @property
    def n_steps(self) -> int:
        return len(self.times) - 1

    def initial(self, n: int, stream: Stream) -> tuple[dict[str, Tensor], Tensor]:
        x = torch.full((n, self.denoiser.length), self.denoiser.n_tokens)
        state = self._look(x, 0)
        return state, state["log_value"]

    def step(self, k: int, state: dict[str, Tensor], stream: Stream) -> tuple[dict[str, Tensor], Tensor]:
        x, chance = state["x"], (self.times[k + 1] - self.times[k]) / (1 - self.times[k])
        appears, which = (
            stream.child(name).uniform(len(x), x.shape[1:], dtype=torch.float64) for name in ("when", "what")
        )
        edges = state["probabilities"].cumsum(2)
        token = (edges[..., :-1] < which.to(x.device)[..., None] * edges[..., -1:]).sum(2)
        is_shown = (x == self.denoiser.n_tokens) & (appears.to(x.device) < chance)
        ahead = self._look(torch.where(is_shown, token, x), k + 1)
        return ahead, ahead["log_value"] - state["log_value"]

    def _look(self, x: Tensor, k: int) -> dict[str, Tensor]:
        """The state at level k: its probabilities for the next move, and the log of what it is worth."""
        zero = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        if k == self.n_steps:
            return {"x": x, "log_value": zero if self.reward is None else self.reward(x).double()}
        probabilities = self.denoiser(x, self.times[k])
        value = zero if self.value is None else self.value(x, probabilities).double()
        return {"x": x, "probabilities": probabilities, "log_value": value}


def decoded(reward: Reward) -> Value:
    """The reward of the sequence in which every hidden token is the likeliest one: a value without a further model.

    Source: Li et al. (2024), SVDD-PM, whose posterior mean has no meaning for tokens.
    """
    return lambda x, probabilities: reward(probabilities.argmax(2))


def _shown(times: Sequence[float]) -> str:
    return f"{len(times)} times" + (f" from {times[0]:g} to {times[-1]:g}" if times else "")
