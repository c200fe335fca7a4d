"""Problems with known answers, shared by the laws: two mixtures, exact solutions on fine grids, and table variants."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from typing import get_args, get_type_hints

import torch
from torchdiffeq import odeint

from sciflow.diffusion.flow import FRAMES, probability_flow
from sciflow.diffusion.mixture import GaussianMixture, MixtureDenoiser
from sciflow.diffusion.schedule import Schedule
from sciflow.random import Stream
from sciflow.solvers import SOLVERS

FINEST = 256  # steps per unit of λ on the reference grid
START, STOP, HISTORY = -1.5, 1.5, 0.25  # range of λ, and how far before it exact history is kept

AXES = {"order": (1, 2, 3, 4), "frame": FRAMES, "corrector": (False, True), "eta": (0.0, 1.0), "n_corrections": (0, 1)}
CHOICES = {"variant", "variable"}  # options with all the values that their type names


def variants(table: dict[str, type]) -> list:
    """Every entry of a table with every combination of the options named in AXES and CHOICES that it has."""
    found = []
    for cls in table.values():
        names = [f.name for f in dataclasses.fields(cls) if f.name in AXES or f.name in CHOICES]
        options = [AXES.get(name) or get_args(get_type_hints(cls)[name]) for name in names]
        for values in itertools.product(*options):
            with contextlib.suppress(ValueError):  # a combination that the constructor refuses is none of the entry
                found.append(cls(**dict(zip(names, values, strict=True))))
    assert {type(entry) for entry in found} == set(table.values())
    return found


SOLVER_VARIANTS = variants(SOLVERS)


def gaussian() -> GaussianMixture:
    """One correlated Gaussian in three dimensions, far from the origin."""
    factor = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.5, 0.0], [-0.4, 0.2, 0.3]], dtype=torch.float64)
    mean = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    return GaussianMixture(torch.ones(1, dtype=torch.float64), mean, (factor @ factor.T)[None])


def mixture() -> GaussianMixture:
    """Three unequal components in two dimensions."""
    means = torch.tensor([[2.0, 0.0], [-1.5, 1.0], [0.0, -2.0]], dtype=torch.float64)
    factors = torch.tensor(
        [[[0.5, 0.0], [0.2, 0.4]], [[0.3, 0.0], [-0.1, 0.6]], [[0.7, 0.0], [0.3, 0.3]]], dtype=torch.float64
    )
    weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    return GaussianMixture(weights, means, 1.5 * factors @ factors.mT)


LAWS = {"gaussian": gaussian, "mixture": mixture}


SUBSTEPS = 4  # of the reference between two times of the grid: RK4 at h = 1/1024 errs by about 1e-13


def gaussian_flow(
    law: GaussianMixture, schedule: Schedule, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor
) -> torch.Tensor:
    """The probability flow of a Gaussian in closed form: the same quantile in each eigendirection."""
    values, vectors = law.eigen
    spread = [(schedule.alpha(t) ** 2 * values[0] + schedule.sigma(t) ** 2).sqrt() for t in (a, b)]
    centred = (x - schedule.alpha(a) * law.means[0]) @ vectors[0]
    return schedule.alpha(b) * law.means[0] + (centred * spread[1] / spread[0]) @ vectors[0].T


@functools.cache
def solution(law: str, schedule: Schedule) -> tuple[MixtureDenoiser, torch.Tensor, torch.Tensor]:
    """The denoiser, a grid of times equidistant in λ, and the probability flow on it to about 1e-13."""
    denoiser = MixtureDenoiser(LAWS[law](), schedule)
    n_steps = round((STOP - START + HISTORY) * FINEST)
    fine = schedule.time(torch.linspace(START - HISTORY, STOP, n_steps * SUBSTEPS + 1, dtype=torch.float64))
    x = denoiser.initial(float(fine[0]), 16, Stream(1), torch.float64)
    grid = fine[::SUBSTEPS]
    if law == "gaussian":
        return denoiser, grid, torch.stack([gaussian_flow(denoiser.mixture, schedule, x, grid[0], t) for t in grid])
    drift = probability_flow(denoiser).drift
    return denoiser, grid, odeint(lambda t, x: drift(float(t), x), x, fine, method="rk4")[::SUBSTEPS]
