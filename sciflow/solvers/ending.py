"""The last of few, wide steps: how many nodes it has, for each row by the width of the data around it.

Two answers tell that width. For data N(m, w² I) the denoiser is linear, D = m − w² S with the score S = (D − z)/u² at
z = x/α and u = σ/α, so that between any two states ΔD = −w² ΔS. For other data w² is the least-squares fit; it is
negative where D still moves from one mode to the next.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sciflow.solvers.dynamics import ModelSplit
from sciflow.solvers.exponential import Step
from sciflow.solvers.per_row import row_sums
from sciflow.solvers.weights import weights_of

Bounds = tuple[tuple[float, int], ...]  # from this w/u on, so many nodes; the first bound is −∞


class Ending(NamedTuple):
    """Weights of the last step and of its test, all newest node first.

    `changes` are added to the weights of the step for rows whose (w/u)² is above the bound before them.
    """

    step: Step
    moved: list[float]
    bent: list[float]
    changes: list[tuple[float, list[float]]]


def width_test(split: ModelSplit, before: Step, a: float) -> tuple[list[float], list[float]]:
    """ΔD/u and −u ΔS between the nodes of the step `before`, which ends at a, as weights of G = x − α D.

    The difference of the states is what the step added: z_a − z_b = Σ_j W_j G_j/α_a.
    """
    (alpha, sigma), (alpha_b, sigma_b) = split.levels(a), split.levels(before.a)
    u = sigma / alpha
    moved = [-1 / alpha, *(float(w) / alpha for w in before.weights)]
    moved[1] += 1 / alpha_b
    bent = [alpha / sigma**2, -alpha_b / sigma_b**2]
    return [w / u for w in moved], [u * w for w in bent]


def planned_ending(split: ModelSplit, before: Step, last: Step, nodes: Sequence[float], bounds: Bounds) -> Ending:
    """The last step with the nodes of the first bound, and what each further bound changes.

    Args:
        split: the noise frame.
        before: the step before.
        last: the last step, whose weights are replaced.
        nodes: times where F is known, newest first.
        bounds: how many nodes the step has, by w/u.
    """
    counts = [min(n, len(nodes)) for _, n in bounds]
    most = max(counts)
    rows = [weights_of(split, [(last.a, last.b, *nodes[:n])])[0] for n in counts]
    padded = [[*map(float, row), *[0.0] * (most - len(row))] for row in rows]
    changes = [
        (bound**2, [new - old for old, new in zip(*pair, strict=True)])
        for (bound, _), pair in zip(bounds[1:], itertools.pairwise(padded), strict=True)
    ]
    return Ending(last._replace(weights=tuple(padded[0])), *width_test(split, before, last.a), changes)


def ratios(ending: Ending, values: Sequence[Tensor]) -> Tensor:
    """(w/u)² of each row, shape (batch,); infinite where F is constant along the path."""
    with torch.no_grad():
        moved, bent = (
            sum((v * w for w, v in zip(weights, values, strict=False)), torch.zeros_like(values[0]))
            for weights in (ending.moved, ending.bent)
        )
        return row_sums(moved * bent) / row_sums(bent.square())


def ended(ending: Ending, x: Tensor, values: Sequence[Tensor]) -> Tensor:
    """P x + Σ W_j F_j with the weights of each row, in the buffer of x when autograd is off.

    Args:
        x: the state at the last node.
        values: F at the nodes, newest first.
    """
    in_place, ratio = not torch.is_grad_enabled(), ratios(ending, values)
    above = [(ratio > bound).to(x.dtype).reshape(-1, *[1] * (x.ndim - 1)) for bound, _ in ending.changes]
    propagator = ending.step.propagator
    assert isinstance(propagator, float)  # of the noise frame
    x = x.mul_(propagator) if in_place else x * propagator
    for k, (weight, value) in enumerate(zip(ending.step.weights, values, strict=False)):
        own = sum(
            (flag * row[k] for flag, (_, row) in zip(above, ending.changes, strict=True)), torch.zeros_like(above[0])
        )
        own = own + weight
        x = x.addcmul_(own, value) if in_place else x.addcmul(own, value)
    return x
