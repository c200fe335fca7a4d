"""From a split to the numbers of a step: weights of many steps at once, and how a step adds them up."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor

from sciflow.solvers.dynamics import Coefficient, Dynamics, NoisySplit, Split

NodeVariable = Literal["log_snr", "ratio", "angle", "time"]
Window = tuple[float, ...]  # a step as its times (a, b, newest node, older nodes …)


class TableSplit(Split, Protocol):
    """A split that knows a shorter way to the coefficients of many steps than one call each."""

    def tabulate(self, times: Sequence[float]) -> TableSplit:
        """The same split, prepared for these times."""
        ...

    def table(self, windows: Sequence[Window]) -> Sequence[Sequence[Coefficient]]:
        """The weights of steps that have equally many nodes."""
        ...


def noisy(solver: object, split: Split, eta: float) -> NoisySplit:
    """The split of the SDE of noise level η.

    Raises:
        ValueError: a split that knows no such SDE.
    """
    if not isinstance(split, NoisySplit):
        raise ValueError(
            f"{type(solver).__name__} with eta = {eta:g} needs a diffusion or flow model, got an equation without "
            "noise levels. Use eta = 0, or EulerMaruyama() for an SDE of your own."
        )
    return split.noisy(eta)


def over(solver: object, split: Split, nodes: NodeVariable) -> Split:
    """The split with polynomials in another variable.

    Raises:
        ValueError: a split that has t alone.
    """
    if not hasattr(split, "nodes"):
        raise ValueError(
            f"{type(solver).__name__} with nodes in {nodes!r} needs a frame of a diffusion or flow model, got an "
            "equation whose polynomials are in t. Leave nodes out."
        )
    return cast(Split, replace(cast(Any, split), nodes=nodes))


def prepared(split: Split, times: Sequence[float]) -> Split:
    return split.tabulate(times) if hasattr(split, "tabulate") else split


def weights_of(split: Split, windows: Sequence[Window]) -> list[tuple[Coefficient, ...]]:
    """The weights of each step, all steps with equally many nodes at once where the split can."""
    if not hasattr(split, "table"):
        return [tuple(split.weights(a, b, nodes)) for a, b, *nodes in windows]
    return [tuple(row) for _, alike in itertools.groupby(windows, len) for row in split.table(list(alike))]


def corrections_of(
    split: Split, windows: Sequence[Window], weights: Sequence[Sequence[Coefficient]], n_nodes: Sequence[int]
) -> list[tuple[Coefficient, ...]]:
    """What a correction adds to the prediction: W* of the new node, and W*_j − W_j; W* has n of the nodes of W."""
    kept = [(a, b, b, *nodes[:n]) for (a, b, *nodes), n in zip(windows, n_nodes, strict=True)]
    return [
        (new, *(w - v for w, v in itertools.zip_longest(old, used, fillvalue=0.0)))
        for (new, *old), used in zip(weights_of(split, kept), weights, strict=True)
    ]


def as_means(
    propagator: Coefficient, weights: tuple[Coefficient, ...]
) -> tuple[Coefficient | None, tuple[Coefficient, ...]]:
    """Propagator and weights, or nested means where P + Σ W_j = 1: they save a pass over the state.

    So it is in the data frame at constant α. The mean with F_j has the weight W_j/(P + W_0 + … + W_j).
    """
    if isinstance(propagator, Tensor) or propagator == 1.0:
        return propagator, weights
    total, means = propagator, []
    for weight in weights:
        total += float(weight)
        if total < 0.5:  # would cost digits
            return propagator, weights
        means.append(weight / total)
    return (None, tuple(means)) if abs(total - 1) < 1e-13 else (propagator, weights)


def combine(
    x: Tensor, propagator: Coefficient | None, weights: Sequence[Coefficient], values: Sequence[Tensor]
) -> Tensor:
    """P x + Σ W_j F_j, in the buffer of x when autograd is off."""
    in_place = not torch.is_grad_enabled()
    if propagator is None:
        for weight, value in zip(weights, values, strict=True):
            value = value if value.dtype == x.dtype else value.to(x.dtype)
            x = x.lerp_(value, weight) if in_place else x.lerp(value, weight)
        return x
    if isinstance(propagator, Tensor):
        x = x * propagator.to(x.device, x.dtype)
    elif propagator != 1.0:
        x = x.mul_(propagator) if in_place else x * propagator
    for weight, value in zip(weights, values, strict=True):
        if isinstance(weight, float):  # asked first, and of the plain type: a third of the price
            x = x.add_(value, alpha=weight) if in_place else x.add(value, alpha=weight)
        else:
            x = x + torch.as_tensor(weight, device=x.device, dtype=x.dtype) * value
    return x


def require_ode(solver: object, dynamics: Dynamics) -> None:
    if dynamics.noise != "none":
        raise ValueError(
            f"{type(solver).__name__} solves ODEs, got dynamics with {dynamics.noise} noise. "
            "Use EulerMaruyama(), or the probability flow of the same model."
        )
