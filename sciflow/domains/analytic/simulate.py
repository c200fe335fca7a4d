"""What is the data? A law in closed form, draws from it, and linear measurements whose posterior is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sciflow.data.arrays import to_xarray
from sciflow.diffusion.mixture import GaussianMixture
from sciflow.diffusion.mixture_algebra import power
from sciflow.domains.analytic.twin import Lorenz63Paths, Lorenz96Paths
from sciflow.inverse.dense import Dense
from sciflow.inverse.likelihood import GaussianNoise
from sciflow.inverse.observe import Observation
from sciflow.inverse.operator import Identity
from sciflow.random import Stream

if TYPE_CHECKING:
    import xarray as xr

Count = Annotated[int, Field(gt=0)]


def _measured() -> Observation:
    return Observation(Dense(n_measurements=2), GaussianNoise(0.5))


AXES = ("component", "dimension", "dimension_column")


def recorded(
    law: GaussianMixture,
    truth: Tensor,
    observation: Observation,
    n_samples: int,
    stream: Stream,
    more: dict[str, tuple[tuple[str, ...], Tensor]] | None = None,
) -> xr.Dataset:
    """A law, draws of it, measurements of `truth`, and further named arrays with their dims."""
    draws = law.sample(n_samples, stream.child("data"))
    records = observation.record(truth, stream.child("observe"))
    mixture = {"weights": law.weights, "means": law.means, "covariances": law.covariances}
    dims = {
        "data": ("sample", "dimension"),
        "truth": ("observation", "dimension"),
        "measured": ("observation", "measurement"),
        **{f"mixture_{name}": AXES[: value.ndim] for name, value in mixture.items()},
        **{name: axes for name, (axes, _) in (more or {}).items()},
    }
    for name, value in records.items():
        dims.setdefault(name, ("observation", *(f"{name}_{axis}" for axis in range(value.ndim - 1))))
    labels = np.where(np.arange(n_samples) % 10 == 0, "validation", "train")
    values = {f"mixture_{name}": value for name, value in mixture.items()}
    further = {name: value for name, (_, value) in (more or {}).items()}
    return to_xarray(
        {"data": draws, "truth": truth, **records, **values, **further},
        dims,
        {"split": ("sample", labels), "unit": ("sample", np.arange(n_samples))},
        {name: "1" for name in ("data", "truth", "measured")},
    )


@dataclass(frozen=True)
class MixtureGrid:
    """A Gaussian mixture on a square grid of means, and linear measurements of draws from it.

        x ~ Σ_k w_k N(m_k, I),   m_k = spacing · (i, j, i, j, …),   w_k ∝ χ²₁,   y = A x + σ n

    Exactness: prior, posterior and evidence in closed form
    Cost: none
    Bias: none
    Args:
        dimension: d, at least 2.
        modes_per_axis: i and j each take this many values, centred on 0; there are its square of modes.
        spacing: distance of neighbouring means along an axis, in standard deviations of a mode.
        n_problems: independent observations, each with an operator of its own.
        n_samples: draws of the prior, for training a network on it.
        observation: how they are observed.
    Source: Cardoso et al. (2024), Monte Carlo guided diffusion for Bayesian linear inverse problems, section 4.
    """

    dimension: Annotated[int, Field(ge=2)] = 8
    modes_per_axis: Count = 5
    spacing: Annotated[float, Field(gt=0)] = 8.0
    n_problems: Count = 20
    n_samples: Annotated[int, Field(ge=10)] = 4096
    observation: Observation = field(default_factory=_measured)

    def law(self, stream: Stream) -> GaussianMixture:
        """The prior."""
        axis = self.spacing * (torch.arange(self.modes_per_axis, dtype=torch.float64) - (self.modes_per_axis - 1) / 2)
        pairs = torch.cartesian_prod(axis, axis)
        means = pairs[:, torch.arange(self.dimension) % 2]
        weights = stream.child("weights").normal(len(means), dtype=torch.float64) ** 2
        identity = torch.eye(self.dimension, dtype=torch.float64)
        return GaussianMixture(weights / weights.sum(), means, identity.expand(len(means), -1, -1).contiguous())

    def simulate(self, stream: Stream) -> xr.Dataset:
        law = self.law(stream)
        truth = law.sample(self.n_problems, stream.child("truth"))
        return recorded(law, truth, self.observation, self.n_samples, stream)


@dataclass(frozen=True)
class MixturePower:
    """A Gaussian mixture in the plane whose power is to be drawn, with the power in closed form.

        p = Σ_k N(m_k, s² I)/K,   m_k uniform on [−side, side]²,   target p^power/Z: a mixture of all multisets

    Observations are independent repeats. What they measure is recorded, but samplers of a power do not look at it.

    Exactness: law, target and log Z in closed form; components of the target with a share below 10⁻⁷ are left out
    Cost: binomial(components + power − 1, power) components of the target
    Bias: none
    Args:
        n_components: K.
        side: half the side of the square.
        std: s.
        power: β, whole.
        n_problems: repeats.
        n_samples: draws of the law, for training a network on it.
        observation: how draws of the target are observed.
    Source: Skreta et al. (2025), Feynman–Kac correctors in diffusion: annealing of forty components with power 3.
    """

    n_components: Count = 40
    side: Annotated[float, Field(gt=0)] = 40.0
    std: Annotated[float, Field(gt=0)] = 2.126928011042972  # log(1 + e²)
    power: Count = 3
    n_problems: Count = 4
    n_samples: Annotated[int, Field(ge=10)] = 4096
    observation: Observation = field(default_factory=lambda: Observation(Identity(), GaussianNoise(1.0)))

    def law(self, stream: Stream) -> GaussianMixture:
        """The prior."""
        uniform = stream.child("means").uniform(self.n_components, (2,), dtype=torch.float64)
        weights = torch.full((self.n_components,), 1 / self.n_components, dtype=torch.float64)
        covariances = self.std**2 * torch.eye(2, dtype=torch.float64).repeat(self.n_components, 1, 1)
        return GaussianMixture(weights, self.side * (2 * uniform - 1), covariances)

    def simulate(self, stream: Stream) -> xr.Dataset:
        law = self.law(stream)
        target, log_constant, members = power(law, self.power, drop=1e-7)
        axes = (f"target_{AXES[0]}", *AXES[1:])
        values = {"weights": target.weights, "means": target.means, "covariances": target.covariances}
        more = {f"target_{name}": (axes[: value.ndim], value) for name, value in values.items()}
        more["target_mode"] = (axes[:1], members.mode(1).values)  # the component of p that it has most of
        more["target_log_evidence"] = ((), torch.tensor(log_constant, dtype=torch.float64))
        truth = target.sample(self.n_problems, stream.child("truth"))
        return recorded(law, truth, self.observation, self.n_samples, stream, more)


DATASETS: dict[str, type] = {
    "mixture_grid": MixtureGrid,
    "mixture_power": MixturePower,
    "lorenz96": Lorenz96Paths,
    "lorenz63": Lorenz63Paths,
}
