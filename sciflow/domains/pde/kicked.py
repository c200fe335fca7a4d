"""What is the data? Fields that gusts hit at random times and places: a future that the present does not determine."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sciflow.data.arrays import to_xarray
from sciflow.data.split import shares
from sciflow.domains.pde.boxes import periodic
from sciflow.domains.pde.chain import KickedChain
from sciflow.domains.pde.evolve import COARSEST
from sciflow.domains.pde.kicks import Count, Kicks
from sciflow.domains.pde.observed import held_out, observed_dims, sensor_places
from sciflow.domains.pde.varied import Told, drawn, stored, stored_dims
from sciflow.errors import InputError, NonFiniteError
from sciflow.inverse.observe import Observation
from sciflow.random import Stream

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Kicked(Kicks, Told):
    """Trajectories of a field that is kicked at equal times, and held-out states whose future is to be told.

        u_t + c (u²/2)_x = L u + Σ_k f_k(x) δ(t − kτ),   f_k as in `Kicks`

    Between kicks the equation is solved as accurately as one likes, so that forecasts have a certified truth: `exact`
    holds trajectories of the same law from each held-out state, the best ensemble that there can be. Rare gusts make
    the law of the next field far from Gaussian: mostly calm, and now and then a gust anywhere. A mean field forecast
    knows none, Gaussian residuals spread them thinly over all places and times.

    With an `observation` states are measured in time, anywhere in the trajectory, and nothing is given whole: every
    field is to be told (`n_given` 0 in the file). The exact law is then not known and left out, but the file holds the
    chain that made it, for `train: {kind: dynamics}`.

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
        observation: how trajectories are measured in time; null: the first `n_given` fields are given whole.
    Raises:
        InputError: numbers that do not fit one another, or fields that step or grid do not resolve.
    Source: Bec, Frisch and Khanin (2000), Kicked Burgers turbulence, J. Fluid Mech. 416; random gusts as in compound
        Poisson forcing.
    """

    n_samples: Annotated[int, Field(ge=10)] = 2048
    n_observations: Count = 48
    n_given: Count = 1
    n_exact: Annotated[int, Field(ge=2)] = 32
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.05
    test: Annotated[float, Field(gt=0, lt=1)] = 0.05
    observation: Observation | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
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
        if self.observation is not None and self.n_given > 1:
            raise InputError(
                f"dataset.n_given is {self.n_given}, but dataset.observation says what is measured. Leave one of them "
                "out."
            )

    @property
    def space(self) -> KickedChain:
        """The chain that makes the fields, which filters follow.

        Raises:
            InputError: nothing is measured in time, or trajectories differ in a number of the equation.
        """
        if self.observation is None:
            raise InputError(
                "a filter follows measurements in time, but `kicked` gives the first field whole and no later one. Say "
                "how fields are measured: `dataset.observation: {operator: {kind: sensors, …, channels: n_times + 1}}`."
            )
        return KickedChain(Kicks(**{entry.name: getattr(self, entry.name) for entry in fields(Kicks)}))

    def simulate(self, stream: Stream) -> xr.Dataset:
        kicks, n, event = stream.child("kicks"), self.n_samples, ("time", *self.box.axes)
        labels, chosen = held_out(n, self.test, self.validation, self.n_observations, stream.child("split"))
        own = drawn(self.varied, n, stream.child("varied"))
        seen = {name: values[chosen] for name, values in own.items()}
        start, first = self.settled(n, kicks, own), self.first_kick
        made = self.follow(start, lambda k: self.kick(n, kicks, first + k), self.n_times, self.step, own)
        errors = self.errors(made[chosen], lambda box, k: box.kick(n, kicks, first + k)[chosen], seen)
        truth = made[chosen]
        values = {"data": made.float(), "truth": truth, **self.recorded(truth, seen, stream)}
        units = {str(name): "1" for name in ("data", "truth", "measured", "exact") if name in values}
        dims = {
            "data": ("sample", *event), "truth": ("observation", *event),
            "measured": ("observation", "measurement"), "exact": ("observation", "exact_member", *event),
        }  # fmt: skip
        coords: dict[str, Any] = {
            "split": ("sample", labels.astype(str)),
            "unit": ("sample", np.arange(n)),
            "time": self.interval * np.arange(self.n_times + 1),
            **{axis: self.box.places.numpy() for axis in self.box.axes},
            **self.places(),
        }
        values, dims = values | stored(own, chosen), observed_dims(values, dims) | stored_dims(own)
        return to_xarray(values, dims, coords, units).assign_attrs(errors, **self.facts(), boundary=periodic(self.box))

    def recorded(self, truth: Tensor, own: Mapping[str, Tensor], stream: Stream) -> dict[str, Tensor]:
        """What is known of the truths (observation, time, *grid); with the exact ensemble where a field is given."""
        if self.observation is not None:
            return self.observation.record(truth, stream.child("observe"))
        given = truth[:, : self.n_given].flatten(1)
        return {"measured": given, "exact": self.exact(truth, own, stream.child("exact"))}

    def places(self) -> dict[str, tuple[str, np.ndarray]]:
        """When and where sensors measure."""
        if self.observation is None:
            return {}
        times = self.interval * torch.arange(self.n_times + 1, dtype=torch.float64)
        return sensor_places(
            self.observation.operator, {"time": times, **dict.fromkeys(self.box.axes, self.box.places)}
        )

    def facts(self) -> dict[str, Any]:
        """How many fields are given whole, and the chain that made all of them, where filters could follow it."""
        if self.observation is None:
            return {"n_given": self.n_given}
        chain = {} if self.varied else {"chain": json.dumps({"kind": KickedChain.kind, **self.space.stored()})}
        return {"n_given": 0, **chain}

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
