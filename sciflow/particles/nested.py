"""Several children for each particle, one of them kept: exactly, as nested Monte Carlo, or greedily, as a search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.particles.feynman_kac import Diagnostics, FeynmanKac, State, Step
from sciflow.particles.resampling import log_mean_exp
from sciflow.random import Stream


@dataclass(frozen=True)
class NestedModel:
    """Any Feynman–Kac model with M children per particle, one kept in proportion to its potential.

        x^m ~ M_k(x, ·),   m = 1 … M;   keep x^m with probability G^m/Σ_j G^j;   weight ← weight · (1/M) Σ_m G^m

    The kept child and the mean have E[mean · f(kept)] = ∫ M_k(x, dx') G_k(x, x') f(x'), so target and evidence are
    those of the model itself, for any M: children trade calls for variance. It is a Feynman–Kac model again.

    Target: that of the model.
    Exactness: exact for every M; the variance of the weight of one move falls as 1/M.
    Cost: M model steps per step, and M particles' memory for a moment.
    Bias: none.
    Args:
        model: the model.
        children: M.
    Raises:
        InputError: fewer than one child.
    Source: Naesseth, Lindsten and Schön (2015), Nested sequential Monte Carlo methods; Li et al. (2024), SVDD, for the
        choice among children, there without the weight.
    """

    model: FeynmanKac
    children: int = 4

    def __post_init__(self) -> None:
        _counted(self.children)

    @property
    def n_steps(self) -> int:
        return self.model.n_steps

    def initial(self, n: int, stream: Stream) -> tuple[State, Tensor]:
        return self.model.initial(n, stream)

    def step(self, k: int, state: State, stream: Stream) -> Step:
        born, potential, said = _born(self.model, k, state, stream, self.children)
        u = stream.child("choice").uniform(len(potential), (self.children,), dtype=torch.float64)
        gumbel = -(-u.to(potential.device).log()).log()  # the largest of log G + Gumbel has probability G/ΣG
        return _kept(born, (potential + gumbel).argmax(1)), log_mean_exp(potential.T), said


@dataclass(frozen=True)
class GreedyModel:
    """Any Feynman–Kac model with M children per particle, the one of the largest potential kept, without weights.

        x^m ~ M_k(x, ·);   keep the child of max_m G^m;   every weight stays 1/n

    Each particle is a search of its own; more children move the result further from any law. Weights are equal by
    decree, and the evidence that `smc` reports for them means nothing.

    Target: none.
    Exactness: none; for M = 1 the moves of the model without its weights.
    Cost: as `NestedModel`.
    Bias: towards the largest potential, without bound as M grows.
    Args:
        model: the model.
        children: M.
    Raises:
        InputError: fewer than one child.
        NonFiniteError: (from `smc`) a potential is NaN or +inf.
    Source: Li et al. (2024), Derivative-free guidance in continuous and discrete diffusion models with soft value-based
        decoding, whose code takes the largest value.
    """

    model: FeynmanKac
    children: int = 4

    def __post_init__(self) -> None:
        _counted(self.children)

    @property
    def n_steps(self) -> int:
        return self.model.n_steps

    def initial(self, n: int, stream: Stream) -> tuple[State, Tensor]:
        state, potential = self.model.initial(n, stream)
        return state, _unweighted(potential)

    def step(self, k: int, state: State, stream: Stream) -> Step:
        born, potential, said = _born(self.model, k, state, stream, self.children)
        return _kept(born, potential.argmax(1)), _unweighted(potential.sum(1)), said


CHOICES: dict[str, Callable[[FeynmanKac, int], FeynmanKac]] = {"softmax": NestedModel, "argmax": GreedyModel}


def _counted(children: int) -> None:
    if children < 1:
        raise InputError(f"a particle needs at least 1 child, got {children}. Take children = 1 for the model itself.")


def _born(model: FeynmanKac, k: int, state: State, stream: Stream, m: int) -> tuple[State, Tensor, Diagnostics]:
    """The children of every particle, side by side, their log-potentials, (n, M), float64, and means over them."""
    parents = {name: value.repeat_interleave(m, 0) for name, value in state.items()}
    own = stream.child("children")
    born, potential, *told = model.step(k, parents, replace(own, first=own.first * m))
    n = len(state["x"])
    if potential.shape != (n * m,):
        raise InputError(f"{type(model).__name__}: {tuple(potential.shape)} log-potentials for {n} particles × {m}.")
    said = {name: value for diagnostics in told for name, value in diagnostics.items()}
    each = {name: value.double().reshape(n, m).mean(1) if value.ndim == 1 else value for name, value in said.items()}
    return born, potential.double().reshape(n, m), each


def _kept(born: State, choice: Tensor) -> State:
    """Child number `choice` of each particle."""
    first = torch.arange(len(choice), device=choice.device) * (len(born["x"]) // len(choice))
    return {name: value[first + choice] for name, value in born.items()}


def _unweighted(potential: Tensor) -> Tensor:
    """0, but NaN and +inf stay what they are, for `smc` to refuse."""
    return torch.where(potential.isnan() | (potential == torch.inf), potential.double(), 0.0)
