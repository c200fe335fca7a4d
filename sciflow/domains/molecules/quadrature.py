"""Exact numbers of Boltzmann laws of one, two, or a chain of coordinates, by the trapezoidal rule.

For smooth integrands that vanish at the ends its error falls faster than any power of the spacing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.random import Stream

if TYPE_CHECKING:
    from sciflow.domains.molecules.potential import Box, OnGrid, Potential

REACH, POINTS = 5.0, 1001
"""Of a coordinate of a double well: beyond ±5 its weight is below e^{−500}."""


class Grid(NamedTuple):
    """Cells of a box and the probability in each.

    Attributes:
        edges: of the cells along each axis, (cells + 1,) each.
        mass: probability of each cell, (*cells); what lies outside is missing from its sum.
    """

    edges: tuple[Tensor, ...]
    mass: Tensor

    @property
    def outside(self) -> float:
        """Probability outside of the box."""
        return max(0.0, 1.0 - float(self.mass.sum()))


def lattice(axes: Sequence[Tensor]) -> Tensor:
    """All points of a lattice, (points, dimension)."""
    return torch.cartesian_prod(*axes).reshape(-1, len(axes))


def log_weights(potential: Potential, points: Tensor) -> Tensor:
    """−U/kT at points, float64; in pieces that bound the memory."""
    return torch.cat([-potential.energy(part) / potential.temperature for part in points.split(2**18)])


def log_integral(potential: Potential, box: Box, n: int) -> float:
    """log ∫ e^{−U/kT} over a box, with n intervals along each axis."""
    axes = [torch.linspace(low, high, n + 1, dtype=torch.float64) for low, high in box]
    cell = math.prod((high - low) / n for low, high in box)
    return float(log_weights(potential, lattice(axes)).logsumexp(0)) + math.log(cell)


def chain_log_integral(well: Callable[[Tensor], Tensor], n: int, coupling: float = 0.0) -> float:
    """log ∫ exp(−Σ w(x_i) − coupling/2 Σ (x_{i+1} − x_i)²) of a chain of n coordinates, by its transfer operator."""
    x = torch.linspace(-REACH, REACH, POINTS, dtype=torch.float64)
    log_weight = math.log(2 * REACH / (POINTS - 1)) - well(x)
    if coupling == 0:
        return n * float(log_weight.logsumexp(0))
    log_link = -0.5 * coupling * (x[:, None] - x).square()
    found = log_weight
    for _ in range(n - 1):
        found = log_weight + (log_link + found).logsumexp(1)
    return float(found.logsumexp(0))


@functools.lru_cache(maxsize=8)
def probabilities(potential: Potential, box: Box, n: int, refine: int = 0) -> Grid:
    """The exact probability of each of n cells along each axis of a box.

    Args:
        potential: of one or two coordinates, with a known log Z.
        box: what the cells cover.
        n: cells along each axis.
        refine: midpoints of a cell along each axis; 0 takes as many as make 2000 an axis.

    Raises:
        InputError: a potential of more coordinates, or without log Z.
    """
    log_partition = potential.log_partition()
    if len(potential.shape) != 1 or potential.shape[0] > 2 or log_partition is None:
        raise InputError(
            f"{type(potential).__name__} has no density on a grid: cells need one or two coordinates and a known log Z."
        )
    refine = refine or max(1, 2000 // n)
    edges, points, cell = [], [], 1.0
    for low, high in box:
        width = (high - low) / (n * refine)
        points.append(low + width * (torch.arange(n * refine, dtype=torch.float64) + 0.5))
        edges.append(torch.linspace(low, high, n + 1, dtype=torch.float64))
        cell *= width
    mass = (log_weights(potential, lattice(points)) - log_partition).exp() * cell
    parts = [side for _ in box for side in (n, refine)]
    return Grid(tuple(edges), mass.reshape(parts).sum([2 * axis + 1 for axis in range(len(box))]))


def draws(potential: OnGrid, n: int, stream: Stream) -> Tensor:
    """n independent draws of the law: a cell by its probability, a place uniform in the cell.

    Exactness: but for the cells, 2000 along each axis of two coordinates, 10⁵ of one; that of the potential's own
        `sample`, where it has one
    """
    own: Callable[[int, Stream], Tensor] | None = getattr(potential, "sample", None)
    if own is not None:
        return own(n, stream)
    cumulative, grid = _cumulative(potential)
    u = stream.child("cell").uniform(n, dtype=torch.float64)
    index = torch.searchsorted(cumulative, u * cumulative[-1]).clamp_max(len(cumulative) - 1)
    within = stream.child("within").uniform(n, (len(grid.edges),), dtype=torch.float64)
    places, sides = [], grid.mass.shape
    for axis, edges in enumerate(grid.edges):
        cell = index // math.prod(sides[axis + 1 :]) % sides[axis]
        places.append(edges[cell] + (edges[1] - edges[0]) * within[:, axis])
    return torch.stack(places, 1)


@functools.lru_cache(maxsize=2)
def _cumulative(potential: OnGrid) -> tuple[Tensor, Grid]:
    grid = probabilities(potential, potential.support, 2000 if len(potential.support) == 2 else 100_000, 1)
    return grid.mass.flatten().cumsum(0), grid
