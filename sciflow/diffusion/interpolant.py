"""The one-sided interpolant between noise and data, and the velocity along it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from sciflow.diffusion.schedule import Schedule
from sciflow.types import Time, broadcast


class Point(NamedTuple):
    """A state x_t and its velocity ẋ_t, both shaped like the data."""

    x: Tensor
    velocity: Tensor


def interpolant(schedule: Schedule, x1: Tensor, x0: Tensor, t: Time) -> Point:
    """Where the path from x₀ to x₁ is at time t, and how fast.

        x_t = α x₁ + σ x₀,   ẋ_t = α̇ x₁ + σ̇ x₀

    Args:
        schedule: α and σ.
        x1: data, (batch, *shape).
        x0: standard normal base, (batch, *shape).
        t: a number, or one per row.
    Source: Albergo, Boffi and Vanden-Eijnden (2023), Stochastic interpolants, eq. 4.1 (one-sided).
    """

    def mixed(of_data: Tensor, of_base: Tensor) -> Tensor:
        return broadcast(of_data, x1) * x1 + broadcast(of_base, x0) * x0

    return Point(mixed(schedule.alpha(t), schedule.sigma(t)), mixed(schedule.alpha_rate(t), schedule.sigma_rate(t)))
