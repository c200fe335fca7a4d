"""How fast neighbouring states of a dynamics part: the Lyapunov spectrum."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.forward_ad import dual_level, make_dual, unpack_dual

from sciflow.errors import InputError, NonFiniteError


@dataclass(frozen=True)
class Spectrum:
    """Exponents from the largest down, (k,) [1/time].

    Args:
        values: mean over trajectories.
        stderr: standard error of that mean; NaN for one trajectory.
    """

    values: Tensor
    stderr: Tensor

    @property
    def dimension(self) -> float:
        """Kaplan and Yorke's: j + Σ_{i ≤ j} λ_i/|λ_{j+1}| for the last j with a sum ≥ 0; NaN if all of them are."""
        sums = self.values.cumsum(0)
        if float(sums[-1]) >= 0:
            return math.nan
        j = int((sums >= 0).sum())
        return j + (float(sums[j - 1]) if j else 0.0) / abs(float(self.values[j]))


def lyapunov_spectrum(
    step: Callable[[Tensor], Tensor],
    start: Tensor,
    interval: float,
    n_steps: int,
    n_exponents: int | None = None,
    warm_up: int = 0,
) -> Spectrum:
    """The largest Lyapunov exponents, by tangents that are carried along and made orthonormal after every step.

        T_{n+1} R_{n+1} = Dφ(x_n) T_n  (QR),   λ_i = mean over n of log |R_ii|/interval

    Args:
        step: φ, the flow over one interval, (rows, d) → (rows, d), differentiable forwards, each row for itself.
        start: independent starts, (batch, d), float64.
        interval: time of a step.
        n_steps: steps to average over.
        n_exponents: how many, from the largest down; None for all d.
        warm_up: steps before, on which states and tangents settle.

    Raises:
        InputError: a shape or number that does not fit.
        NonFiniteError: a trajectory blows up; says after how long.
    Source: Benettin, Galgani, Giorgilli and Strelcyn (1980), Lyapunov characteristic exponents for smooth dynamical
        systems, part 2.
    """
    k = start.shape[-1] if n_exponents is None else n_exponents
    if start.ndim != 2 or not 1 <= k <= start.shape[1] or n_steps < 1 or not interval > 0:
        raise InputError(
            "a Lyapunov spectrum needs starts (batch, d), 1 ≤ n_exponents ≤ d, n_steps ≥ 1 and interval > 0, got "
            f"{tuple(start.shape)}, {k}, {n_steps} and {interval}."
        )
    batch, d = start.shape
    x = start.detach()
    tangents = torch.eye(d, dtype=x.dtype, device=x.device)[:k].expand(batch, k, d)
    total = torch.zeros(batch, k, dtype=torch.float64, device=x.device)
    for n in range(warm_up + n_steps):
        rows = x.repeat_interleave(k, 0)
        with dual_level():
            end = step(make_dual(rows, tangents.reshape(batch * k, d)))
            moved, carried = unpack_dual(end)
        if carried is None:
            raise InputError("the step of a Lyapunov spectrum does not depend on the state. Give the flow itself.")
        x = moved.detach()[::k]
        if not bool(x.isfinite().all()):
            raise NonFiniteError(f"a trajectory blows up after t = {(n + 1) * interval:g}. Take smaller steps.")
        basis, triangle = torch.linalg.qr(carried.detach().reshape(batch, k, d).transpose(1, 2))
        tangents = basis.transpose(1, 2)
        if n >= warm_up:
            total += triangle.diagonal(dim1=1, dim2=2).abs().double().log()
    rates = total / (n_steps * interval)
    return Spectrum(rates.mean(0), rates.std(0) / math.sqrt(batch))
