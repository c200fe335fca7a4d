"""What is the data? Fields that gusts hit at random times and places: a future that the present does not determine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sciflow.data.arrays import to_xarray
from sciflow.data.split import shares
from sciflow.domains.pde.boxes import Box, periodic
from sciflow.domains.pde.equations import Burgers, PeriodicEquation
from sciflow.domains.pde.evolve import COARSEST, COURANT, cells, fields
from sciflow.domains.pde.observed import held_out
from sciflow.domains.pde.varied import check_varied, drawn, stored, stored_dims, with_own
from sciflow.errors import InputError, NonFiniteError
from sciflow.random import Stream

if TYPE_CHECKING:
    import xarray as xr

MOST_GUSTS = 16  # in one kick; with at most one expected, more have probability 1e-15
Kick = Callable[[int], Tensor]
"""k → what is added at time kτ, (n, *grid)."""
Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Kicked:
    """Trajectories of a field that is kicked at equal times, and held-out states whose future is to be told.

        u_t + c (u²/2)_x = L u + Σ_k f_k(x) δ(t − kτ),   τ = interval/kicks
        f_k = Σ_{j ≤ N_k} ± s (g(x − x_j) − ḡ) + a √τ Σ_{k ≤ waves} (ξ_k cos k̃x + η_k sin k̃x)/√waves
        N_k ~ Poisson(gust_rate τ),   x_j uniform,   g(r) = exp((cos(2πr/length) − 1)/(2π gust_width/length)²)

    Between kicks the equation is solved as accurately as one likes, so that forecasts have a certified truth: `exact`
    holds trajectories of the same law from each held-out state, the best ensemble that there can be. Rare gusts make
    the law of the next field far from Gaussian: mostly calm, and now and then a gust anywhere. A mean field forecast
    knows none, Gaussian residuals spread them thinly over all places and times.

    On a torus, which `navier_stokes` lives on, g is the product of both directions' and the sum goes over pairs of
    numbers, |k| ≤ waves, over the root of how many there are: with gust_rate 0, stochastic forcing of the vorticity.

    Exactness: order 4 in time, spectral in space; the file holds how far the held-out fields move where steps are
        doubled (`reference_error`) and points are doubled (`resolution_error`), over their root mean square
    Cost: 8 transforms per step, trajectory and exact member
    Bias: that of the grid, and of the start from rest: the spin-up must be longer than memory, length²/(4π² ν) at most
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
        spin_up: time from rest to the first kept field, in which data forget the rest.
        n_samples: trajectories, those held out included.
        n_observations: of held-out trajectories.
        n_given: first fields of a held-out trajectory that a forecaster is given.
        n_exact: members of the exact ensemble from the last of these.
        validation: share for the validation loss.
        test: share held out.
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
    n_samples: Annotated[int, Field(ge=10)] = 2048
    n_observations: Count = 48
    n_given: Count = 1
    n_exact: Annotated[int, Field(ge=2)] = 32
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.05
    test: Annotated[float, Field(gt=0, lt=1)] = 0.05

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
        if self.step > self.between / 2:
            raise InputError(
                f"dataset.step is {self.step:g}, needs {self.between / 2:g} at most, half of the time between kicks: "
                "its error is measured by doubling it. Lower it."
            )
        shares(self.test, self.validation)
        if self.n_given > self.n_times:
            raise InputError(
                f"dataset.n_given is {self.n_given}: of {self.n_times + 1} fields none is left to forecast."
            )
        check_varied(self.equation, self.varied)

    def known_parameters(self) -> list[str]:
        """What a surrogate can be told of each trajectory."""
        return [*self.varied]

    def known_constants(self) -> list[str]:
        """Fields that do not change: none."""
        return []

    def known_boundary(self) -> dict[str, str]:
        """What the ends of the axes are."""
        return dict.fromkeys(self.box.axes, "periodic")

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

    def simulate(self, stream: Stream) -> xr.Dataset:
        kicks, n, event = stream.child("kicks"), self.n_samples, ("time", *self.box.axes)
        past = math.ceil(self.spin_up / self.interval)
        labels, chosen = held_out(n, self.test, self.validation, self.n_observations, stream.child("split"))
        rest = torch.zeros(n, *self.box.shape, dtype=torch.float64)
        own = drawn(self.varied, n, stream.child("varied"))
        seen = {name: values[chosen] for name, values in own.items()}
        start = self.follow(rest, lambda k: self.kick(n, kicks, k), past, self.step, own)[:, -1]
        first = past * self.kicks
        made = self.follow(start, lambda k: self.kick(n, kicks, first + k), self.n_times, self.step, own)
        errors = self.errors(made[chosen], lambda box, k: box.kick(n, kicks, first + k)[chosen], seen)
        truth = made[chosen]
        values = {
            "data": made.float(), "truth": truth, "measured": truth[:, : self.n_given].flatten(1),
            "exact": self.exact(truth, seen, stream.child("exact")),
        }  # fmt: skip
        units = {name: "1" for name in values}
        dims = {
            "data": ("sample", *event), "truth": ("observation", *event),
            "measured": ("observation", "measurement"), "exact": ("observation", "exact_member", *event),
        }  # fmt: skip
        coords: dict[str, Any] = {
            "split": ("sample", labels.astype(str)),
            "unit": ("sample", np.arange(n)),
            "time": self.interval * np.arange(self.n_times + 1),
            **{axis: self.box.places.numpy() for axis in self.box.axes},
        }
        values, dims = values | stored(own, chosen), dims | stored_dims(own)
        return to_xarray(values, dims, coords, units).assign_attrs(
            errors, n_given=self.n_given, boundary=periodic(self.box)
        )

    def exact(self, truth: Tensor, own: Mapping[str, Tensor], stream: Stream) -> Tensor:
        """Trajectories of the same law from the last given field of each truth, (observation, n_exact, time, *grid)."""
        n, given = len(truth), self.n_given
        starts = truth[:, given - 1].repeat_interleave(self.n_exact, 0)
        kick = lambda k: self.kick(len(starts), stream, k)  # noqa: E731
        each = {name: values.repeat_interleave(self.n_exact) for name, values in own.items()}
        later = self.follow(starts, kick, self.n_times + 1 - given, self.step, each)[:, 1:]
        before = truth[:, None, :given].expand(-1, self.n_exact, *truth[0, :given].shape)
        return torch.cat([before, later.unflatten(0, (n, self.n_exact))], 2)

    def errors(
        self, made: Tensor, kick: Callable[[Kicked, int], Tensor], own: Mapping[str, Tensor]
    ) -> dict[str, float]:
        """How far the last of these fields (n, time, *grid) move if step or points are doubled, under the same kicks.

        Raises:
            InputError: by more than a hundredth of their root mean square.
            NonFiniteError: with doubled steps they blow up; says which step would do.
        """
        start, end, fine = made[:, 0], made[:, -1], replace(self, size=2 * self.size)
        try:
            coarse = self.follow(start, lambda k: kick(self, k), self.n_times, 2 * self.step, own)[:, -1]
        except NonFiniteError as error:
            raise NonFiniteError(
                f"with steps of twice dataset.step, which measure its error, {error} Half of that for dataset.step."
            ) from error
        finest = fine.follow(self.box.finer(start), lambda k: kick(fine, k), self.n_times, self.step, own)[:, -1]
        sharp = self.box.coarser(finest)
        found = {
            "reference_error": (coarse, "Lower dataset.step."),
            "resolution_error": (sharp, "Raise dataset.size, or take smoother fields: larger viscosity, wider gusts."),
        }
        scale, errors = end.square().mean().sqrt(), {}
        for name, (other, remedy) in found.items():
            errors[name] = float((end - other).square().mean().sqrt() / scale)
            if not errors[name] <= COARSEST:
                raise InputError(f"the {name.replace('_', ' ')} of these fields is {errors[name]:.1%}. {remedy}")
        return errors


def _poisson(uniform: Tensor, rate: float) -> Tensor:
    """Poisson numbers up to MOST_GUSTS by inversion of their distribution."""
    n = torch.arange(MOST_GUSTS, dtype=torch.float64)
    share = torch.exp(n * math.log(max(rate, 1e-300)) - rate - torch.lgamma(n + 1)).cumsum(0)
    return (uniform[:, None] > share).sum(1)
