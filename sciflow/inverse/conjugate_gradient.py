"""Conjugate gradients for a batch of symmetric positive definite systems, each row with its own steps and stopping."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

SLACK = 1e-3  # rounding of a curvature in float32, with room


class Solution(NamedTuple):
    """x, the relative residual ‖b − M x‖/‖b‖ of each row (as the recurrence sees it), and the iterations made."""

    x: Tensor
    residual: Tensor
    iterations: int


def conjugate_gradient(
    apply: Callable[[Tensor], Tensor],
    b: Tensor,
    tolerance: float = 1e-6,
    max_iterations: int = 100,
    least: float = 0.0,
) -> Solution:
    """Solve M x = b for each row.

    A row rests when it is solved, or when it meets a direction of less curvature than M can have (the Jacobian of an
    imperfect network is no covariance); it then keeps its last iterate and reports its residual. So ‖x‖ stays bounded
    by steps of at most 1/least, however bad the network.

    Args:
        apply: rows v → M v, shape (batch, m) → (batch, m).
        b: right-hand sides, (batch, m).
        tolerance: relative residual at which a row rests; 0 makes exactly `max_iterations` without asking the host.
        max_iterations: most iterations.
        least: lower bound of the eigenvalues of M, where one is known.
    Source: Hestenes and Stiefel (1952), Methods of conjugate gradients for solving linear systems.
    """
    x, r, p = torch.zeros_like(b), b, b
    squared = first = (b**2).sum(1, keepdim=True)
    active, k = first > 0, 0
    while k < max_iterations and (tolerance == 0 or bool(active.any())):
        q = apply(p)
        curvature = (p * q).sum(1, keepdim=True)
        bound = least * (1 - SLACK) * (p**2).sum(1, keepdim=True)
        active = active & (curvature > bound) & (curvature > 0)
        step = torch.where(active, squared / torch.where(active, curvature, 1), 0)
        x, r = x + step * p, r - step * q
        before, squared = squared, torch.where(active, (r**2).sum(1, keepdim=True), squared)
        p = torch.where(active, r + squared / torch.where(active, before, 1) * p, p)
        active = active & (squared > tolerance**2 * first)
        k += 1
    return Solution(x, (squared / torch.where(first > 0, first, 1)).sqrt()[:, 0], k)
