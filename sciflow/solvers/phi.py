"""The φ-functions of exponential integrators: what an exponential does to a polynomial."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

REACH, N_TERMS = 4.0, 44  # |z| up to which the series is summed, and its terms: 4⁴⁴/44! < 1e-28


def phis(z: Tensor, n: int) -> list[Tensor]:
    """φ_1(z), …, φ_n(z).

        φ_k(z) = ∫_0^1 e^{(1−s) z} s^{k−1}/(k−1)! ds,   φ_{k+1}(z) = (φ_k(z) − 1/k!)/z,   φ_0 = e^z

    By the recursion where |z| is large, by the series Σ_i z^i/(i + k)! where it would lose digits.

    Args:
        z: float64 or complex128, any shape; Re z ≤ 0 for stiff modes.
        n: how many.
    Source: Hochbruck and Ostermann (2010), Exponential integrators, eqs. 2.10 and 2.11.
    """
    near = z.abs() < REACH
    inner, outer = torch.where(near, z, 0), torch.where(near, 1, z)
    found, value = [], outer.exp()
    for k in range(1, n + 1):
        value = (value - 1 / math.factorial(k - 1)) / outer
        found.append(torch.where(near, _series(inner, k), value))
    return found


def _series(z: Tensor, k: int) -> Tensor:
    """Σ_i z^i/(i + k)!, by Horner's rule."""
    total = torch.zeros_like(z)
    for i in range(N_TERMS, -1, -1):
        total = total * z + 1 / math.factorial(i + k)
    return total


def lagrange_integrals(z: Tensor, nodes: Sequence[float]) -> list[Tensor]:
    """∫_0^1 e^{(1−s) z} ℓ_j(s) ds for the Lagrange basis through the nodes, one for each node.

    With ℓ_j = Σ_m c_jm s^m it is Σ_m c_jm m! φ_{m+1}(z).

    Args:
        z: as for `phis`.
        nodes: distinct values of s; 0 is the start of the step, 1 its end, history is negative.
    """
    powers = [math.factorial(m) * value for m, value in enumerate(phis(z, len(nodes)))]
    totals = []
    for j, own in enumerate(nodes):
        others = [other for m, other in enumerate(nodes) if m != j]
        rising = np.atleast_1d(np.poly(others))[::-1] / math.prod(own - other for other in others)  # c_j0, c_j1, …
        terms = [float(c) * power for c, power in zip(rising, powers, strict=True)]
        totals.append(torch.stack(terms).sum(0))
    return totals
