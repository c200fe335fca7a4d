"""The grid of two power rules."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from sciflow.diffusion.flow import probability_flow
from sciflow.diffusion.mixture import GaussianDenoiser
from sciflow.diffusion.nested import KarrasPower
from sciflow.diffusion.schedule import EDM, Linear, VariancePreserving
from sciflow.diffusion.times import Karras
from sciflow.solvers.exponential import ExponentialEuler
from sciflow.solvers.solve import solve


@pytest.mark.parametrize("schedule", [EDM(), Linear(), VariancePreserving()], ids=str)
def test_ends_and_rule(schedule: object) -> None:
    outer = Karras(8, rho=5.0)(schedule)
    grid = KarrasPower()(schedule)
    assert len(grid) == 7 and (grid[0], grid[-1]) == (outer[0], outer[6])
    roots = (1 - grid) ** (1 / 1.2)
    assert torch.allclose(roots.diff(), roots.diff().mean().expand(6), atol=1e-12)  # rounding
    assert KarrasPower(power=1.0)(schedule).diff().std() < 1e-12


def test_what_is_left_on_a_gaussian() -> None:
    """One DDIM step from a to b keeps cos(a − b) of the standard deviation, u = c tan a."""
    c, schedule = 0.5, EDM()
    denoiser = GaussianDenoiser(torch.zeros(1).double(), c**2 * torch.eye(1, dtype=torch.float64), schedule)
    grid = KarrasPower()(schedule)
    u = schedule.sigma(grid)
    angles = torch.atan(u / c).tolist()
    start = math.hypot(c, float(u[0]))
    end = solve(probability_flow(denoiser), torch.full((1, 1), start).double(), grid, ExponentialEuler())
    law = math.prod(math.cos(a - b) ** 2 for a, b in itertools.pairwise(angles))
    assert float(end) ** 2 / (c**2 + float(u[-1]) ** 2) == pytest.approx(law, rel=1e-6)  # x is float32 at first


def test_a_node_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="one of the 8 steps"):
        KarrasPower(last=9)
