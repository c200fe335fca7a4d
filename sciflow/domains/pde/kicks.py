"""How fields are kicked and followed: the law of one interval, which the data set draws from and filters assume."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from sciflow.domains.pde.boxes import Box
from sciflow.domains.pde.equations import Burgers, PeriodicEquation
from sciflow.domains.pde.evolve import COURANT, cells, fields
from sciflow.domains.pde.varied import check_varied, with_own
from sciflow.errors import InputError
from sciflow.random import Stream

MOST_GUSTS = 16  # in one kick; with at most one expected, more have probability 1e-15
Kick = Callable[[int], Tensor]
"""k → what is added at time kτ, (n, *grid)."""
Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Kicks:
    """A field that is kicked at equal times, and follows its equation in between.

        u_t + c (u²/2)_x = L u + Σ_k f_k(x) δ(t − kτ),   τ = interval/kicks
        f_k = Σ_{j ≤ N_k} ± s (g(x − x_j) − ḡ) + a √τ Σ_{k ≤ waves} (ξ_k cos k̃x + η_k sin k̃x)/√waves
        N_k ~ Poisson(gust_rate τ),   x_j uniform,   g(r) = exp((cos(2πr/length) − 1)/(2π gust_width/length)²)

    On a torus, which `navier_stokes` lives on, g is the product of both directions' and the sum goes over pairs of
    numbers, |k| ≤ waves, over the root of how many there are: with gust_rate 0, stochastic forcing of the vorticity.

    Args:
        equation: what the field obeys between kicks.
        varied: name of a number of the equation → lowest and highest value, as for `evolving`.
        length: of the ring, or of a side of the torus.
        size: grid points, of a side.
        interval: from one kept field to the next [time].
        n_times: fields kept after the first.
        kicks: per interval.
        step: the largest time step.
        gust_rate: gusts per time.
        gust_strength: s, height of a gust; its sign is random.
        gust_width: of a gust [length].
        stirring: a, root mean square of what steady forcing adds in a unit of time.
        waves: of the steady forcing.
        spin_up: time from rest to the first kept field, in which fields forget the rest.
    Raises:
        InputError: waves that the grid does not carry, more gusts in a kick than one, or numbers that the equation has
            not.
    Source: Bec, Frisch and Khanin (2000), Kicked Burgers turbulence, J. Fluid Mech. 416; random gusts as in compound
        Poisson forcing.
    """

    equation: PeriodicEquation = field(default_factory=lambda: Burgers(0.1))
    varied: dict[str, tuple[float, float]] = field(default_factory=dict)
    length: Positive = 2 * math.pi
    size: Annotated[int, Field(ge=8, multiple_of=2)] = 64
    interval: Positive = 0.5
    n_times: Count = 8
    kicks: Count = 2
    step: Positive = 0.05
    gust_rate: Annotated[float, Field(ge=0)] = 0.25
    gust_strength: Positive = 2.0
    gust_width: Positive = 0.3
    stirring: Annotated[float, Field(ge=0)] = 0.02
    waves: Count = 3
    spin_up: Annotated[float, Field(ge=0)] = 10.0

    def __post_init__(self) -> None:
        if self.waves >= self.size / 3:
            raise InputError(
                f"dataset.waves is {self.waves}, but {self.size} points carry waves below {self.size / 3:.0f}. "
                "Use fewer waves or more points."
            )
        if self.gust_rate * self.between > 1:
            raise InputError(
                f"dataset.gust_rate expects {self.gust_rate * self.between:.2g} gusts in a kick, needs 1 at most. "
                "Raise dataset.kicks."
            )
        check_varied(self.equation, self.varied)

    @property
    def between(self) -> float:
        """τ, from one kick to the next."""
        return self.interval / self.kicks

    @property
    def box(self) -> Box:
        return self.equation.box(self.length, self.size)

    def kick(self, n: int, stream: Stream, k: int) -> Tensor:
        """f_k for each of n trajectories, on the grid (n, *grid)."""
        options: dict[str, Any] = {"step": k, "dtype": torch.float64}
        box, n_axes = self.box, len(self.box.axes)
        places = 2 * math.pi * box.places / self.length
        sharp = (self.length / (2 * math.pi * self.gust_width)) ** 2
        rate = self.gust_rate * self.between
        number = _poisson(stream.child("number").uniform(n, **options), rate)
        where = 2 * math.pi * stream.child("where").uniform(n, (MOST_GUSTS, n_axes), **options)
        signs = torch.where(stream.child("sign").uniform(n, (MOST_GUSTS,), **options) < 0.5, -1.0, 1.0)
        heights = self.gust_strength * signs * (torch.arange(MOST_GUSTS) < number[:, None])
        mean = float(torch.special.i0e(torch.tensor(sharp, dtype=torch.float64)))
        total, wide = torch.zeros(n, *box.shape, dtype=torch.float64), (-1, *[1] * n_axes)
        for j in range(int(number.max())):
            gusts = [(((places - where[:, j, axis, None]).cos() - 1) * sharp).exp() for axis in range(n_axes)]
            gust = gusts[0] if n_axes == 1 else gusts[0][:, :, None] * gusts[1][:, None, :]
            total += heights[:, j].reshape(wide) * (gust - mean**n_axes)
        waves, angles = box.waves(self.waves)
        basis = torch.cat([angles.cos(), angles.sin()]) * (self.stirring * math.sqrt(self.between / len(waves)))
        draws = stream.child("stirring").normal(n, (len(basis),), **options)
        for own, wave in zip(draws.unbind(1), basis, strict=True):  # not a product, whose last bits depend on n
            total.addcmul_(own.reshape(wide), wave)
        return total

    def follow(self, start: Tensor, kick: Kick, n_times: int, step: float, own: Mapping[str, Tensor]) -> Tensor:
        """The start (n, *grid) and the fields after each of n_times intervals, (n, n_times + 1, *grid).

        `own` are the numbers of the equation in which trajectories differ, name → (n,).

        Fast waves alone are not refused, as for `evolving`: viscosity may hold them, and `errors` tells.

        Raises:
            NonFiniteError: the fields blow up; names steps that the waves known by then take.
        """
        equation, box = with_own(self.equation, own), self.box
        dynamics, speed = equation.dynamics(box), 0.0
        u, found = start.double(), [start.double()]
        for k in range(n_times * self.kicks):
            u = u + kick(k)
            if cells(box, step, speed) <= COURANT:  # else fields may be wrong by far since, and their speed with them
                speed = max(speed, equation.fastest(box, u))
            u = fields(dynamics, box, u, [0.0, self.between], step, speed=speed)[:, -1]
            if (k + 1) % self.kicks == 0:
                found.append(u)
        return torch.stack(found, 1)

    def settled(self, n: int, kicks: Stream, own: Mapping[str, Tensor]) -> Tensor:
        """Fields after the spin-up from rest, (n, *grid), by the kicks 0 … `first_kick` − 1."""
        rest = torch.zeros(n, *self.box.shape, dtype=torch.float64)
        past = self.first_kick // self.kicks
        return self.follow(rest, lambda k: self.kick(n, kicks, k), past, self.step, own)[:, -1]

    @property
    def first_kick(self) -> int:
        """The number of the first kick after the spin-up."""
        return math.ceil(self.spin_up / self.interval) * self.kicks


def _poisson(uniform: Tensor, rate: float) -> Tensor:
    """Poisson numbers up to MOST_GUSTS by inversion of their distribution."""
    n = torch.arange(MOST_GUSTS, dtype=torch.float64)
    share = torch.exp(n * math.log(max(rate, 1e-300)) - rate - torch.lgamma(n + 1)).cumsum(0)
    return (uniform[:, None] > share).sum(1)
