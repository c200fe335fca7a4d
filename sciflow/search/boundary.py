"""The start of a restoration by a diffusion ODE, chosen once on a few known answers and used for every observation.

A sampler h(x_T, y) whose only randomness is its start turns a good start into a good restoration of whatever y. Every
restoration becomes deterministic: that is the aim, and the price. It is no longer a draw from the posterior.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sciflow.random import Stream

Restore = Callable[[Tensor, Tensor], Tensor]
"""(starts, observations), row by row → restored, shape (batch, *shape)."""
Loss = Callable[[Tensor, Tensor], Tensor]
"""(restored, truth) → one number for each row."""


class Start(NamedTuple):
    """A start, and its mean loss on the reference set and on data that had no say in it."""

    x: Tensor
    loss: float
    held_out: float


def squared_error(restored: Tensor, truth: Tensor) -> Tensor:
    """Mean square over the coordinates of each row."""
    return (restored - truth).flatten(1).square().mean(-1)


def mean_loss(restore: Restore, start: Tensor, observations: Tensor, truth: Tensor, loss: Loss) -> Tensor:
    """The loss of one start, averaged over pairs (y, truth)."""
    return loss(restore(start.expand(len(observations), *start.shape[1:]), observations), truth).mean()


def best_start(
    restore: Restore,
    reference: tuple[Tensor, Tensor],
    held_out: tuple[Tensor, Tensor],
    shape: Sequence[int],
    stream: Stream,
    n_candidates: int = 100,
    loss: Loss = squared_error,
    scale: float = 1.0,
) -> Start:
    """The best of some random starts: argmin over candidates of Σ loss(h(x_T, y_i), z_i).

    The gain shrinks as dimensions grow, for all starts lie close to one sphere; `descend` does not.

    Args:
        restore: h, a few solver steps of the flow given y.
        reference: observations and truths to choose by.
        held_out: others, to report by.
        shape: of a start.
        stream: random numbers.
        n_candidates: starts tried.
        loss: of restored against truth.
        scale: standard deviation of a start: σ at the first time.
    Raises:
        ValueError: no candidate.
    Source: Ma et al. (2024), Solving diffusion ODEs with optimal boundary conditions, eq. 11.
    """
    if n_candidates < 1:
        raise ValueError(f"n_candidates must be at least 1, got {n_candidates}.")
    like = reference[1]
    starts = scale * stream.normal(n_candidates, shape, dtype=like.dtype).to(like.device)
    with torch.no_grad():  # for each pair all starts at once, which a model answers in few calls
        losses = torch.stack([
            loss(restore(starts, y.expand(n_candidates, *y.shape)), truth.expand(n_candidates, *truth.shape))
            for y, truth in zip(*reference, strict=True)
        ]).mean(0)  # fmt: skip
    return _start(restore, starts[int(losses.argmin())][None], reference, held_out, loss)


def descend(
    restore: Restore,
    reference: tuple[Tensor, Tensor],
    held_out: tuple[Tensor, Tensor],
    start: Tensor,
    n_steps: int = 50,
    rate: float = 0.1,
    loss: Loss = squared_error,
    norm: float | None = None,
) -> Start:
    """A better start by its gradient through the solver, with Adam.

    Args:
        restore: h, differentiable in the start; the solver must run with autograd on.
        reference: observations and truths to choose by.
        held_out: others, to report by.
        start: where to begin, shape (1, *shape).
        n_steps: of the descent.
        rate: of Adam.
        loss: of restored against truth.
        norm: ‖x_T‖ to keep, σ√d for a start as typical as a random one; None lets it shrink.
    Source: Ma et al. (2024), section 3, with the gradient in place of the random search.
    """
    x = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([x], lr=rate)
    for _ in range(n_steps):
        optimiser.zero_grad()
        mean_loss(restore, x, *reference, loss).backward()
        optimiser.step()
        if norm is not None:
            with torch.no_grad():
                x *= norm / x.norm().clamp_min(1e-30)
    return _start(restore, x.detach(), reference, held_out, loss)


def typical_norm(shape: Sequence[int], scale: float = 1.0) -> float:
    """σ √d: the norm close to which random starts lie."""
    return scale * math.sqrt(math.prod(shape))


def _start(
    restore: Restore, x: Tensor, reference: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor], loss: Loss
) -> Start:
    with torch.no_grad():
        losses = [float(mean_loss(restore, x, *pairs, loss)) for pairs in (reference, held_out)]
    return Start(x, *losses)
