"""What is the data? A law in closed form, draws from it, and linear measurements whose posterior is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from pydantic import Field

from sciflow.data.arrays import to_xarray
from sciflow.diffusion.mixture import GaussianMixture
from sciflow.inverse.dense import Dense
from sciflow.inverse.likelihood import GaussianNoise
from sciflow.inverse.observe import Observation
from sciflow.random import Stream

if TYPE_CHECKING:
    import xarray as xr

Count = Annotated[int, Field(gt=0)]


def _measured() -> Observation:
    return Observation(Dense(n_measurements=2), GaussianNoise(0.5))


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
        draws = law.sample(self.n_samples, stream.child("data"))
        truth = law.sample(self.n_problems, stream.child("truth"))
        records = self.observation.record(truth, stream.child("observe"))
        mixture = {"weights": law.weights, "means": law.means, "covariances": law.covariances}
        axes = ("component", "dimension", "dimension_column")
        dims = {
            "data": ("sample", "dimension"),
            "truth": ("observation", "dimension"),
            "measured": ("observation", "measurement"),
            **{f"mixture_{name}": axes[: value.ndim] for name, value in mixture.items()},
        }
        for name, value in records.items():
            dims.setdefault(name, ("observation", *(f"{name}_{axis}" for axis in range(value.ndim - 1))))
        labels = np.where(np.arange(self.n_samples) % 10 == 0, "validation", "train")
        values = {f"mixture_{name}": value for name, value in mixture.items()}
        return to_xarray(
            {"data": draws, "truth": truth, **records, **values},
            dims,
            {"split": ("sample", labels), "unit": ("sample", np.arange(self.n_samples))},
            {name: "1" for name in ("data", "truth", "measured")},
        )


DATASETS: dict[str, type] = {"mixture_grid": MixtureGrid}
