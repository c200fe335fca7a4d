"""A gas that is carried through a column and held back by its wall."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sciflow.errors import InputError


@dataclass(frozen=True)
class GasChromatograph:
    """What leaves a column into which a pulse of gas was let, without dispersion, in scaled variables.

        transit c_t + c_x = −q_t,   q_t = c − q,   c(0, t) = 1 for 0 < t < pulse, else 0;   c = q = 0 before

    c is the gas, q what the wall holds; the exchange rate is one in both units. In τ = t − transit x the gas is
    c_x = q − c at fixed τ: each cell of the column filters the signal that enters it.

    Exactness: order 2 in cells and times; at the edges of the pulse by superposition, so that they cost no order. The
        closed form is `exact`
    Cost: one recursive filter of all times for each cell
    Bias: none beyond the grid; dispersion is left out
    Args:
        transit: time that gas takes through one unit of column if the wall holds nothing back.
        pulse: how long gas is let in.
    Source: Thomas (1944), Heterogeneous ion exchange in a flowing system, linear case.
    """

    transit: Annotated[float, Field(ge=0)] = 0.0633
    pulse: Annotated[float, Field(gt=0)] = 4.0

    def signal(self, length: float, times: Tensor, n_cells: int) -> Tensor:
        """c at the end of the column.

        Args:
            length: of the column.
            times: equally spaced from transit × length on, when the first gas may come, (time,), float64; the pulse
                must be a multiple of their step.
            n_cells: of the column.

        Raises:
            InputError: times that are not as described.
        """
        tau = times.double() - self.transit * length
        step = float(tau[-1] - tau[0]) / max(len(tau) - 1, 1)
        lag = round(self.pulse / step) if step > 0 else 0
        off = (tau - step * torch.arange(len(tau), dtype=torch.float64)).abs().max()
        if step <= 0 or n_cells < 1 or float(off) > 1e-9 * len(tau) * step or abs(lag * step - self.pulse) > 1e-9:
            raise InputError(
                f"the signal needs n_cells ≥ 1 and equal steps that divide the pulse of {self.pulse:g}, from transit × "
                f"length = {self.transit * length:.6g} on; got {n_cells} cells and steps of {step:.6g} from "
                f"{float(times[0]):.6g}. Use torch.arange(n) * pulse/k + transit * length."
            )
        response = torch.as_tensor(self._step_response(length / n_cells, n_cells, step, len(tau)))
        later = torch.cat([torch.zeros(min(lag, len(tau)), dtype=torch.float64), response[: max(len(tau) - lag, 0)]])
        return response - later

    def _step_response(self, cell: float, n_cells: int, step: float, n: int) -> np.ndarray:
        """c at the end for gas let in for ever, (n,): trapezoidal rules in x and τ.

        (1 + γ) c' − γ q' = (1 − γ) c + γ q,   q_j = α q_{j−1} + β (c_j + c_{j−1}),   with c', q' at the next cell:
        s_j = α q'_j + β c'_j obeys a recursion of first order, and gives both
        """
        from scipy.signal import lfilter

        gamma, alpha, beta = cell / 2, (1 - step / 2) / (1 + step / 2), step / (2 + step)
        solved = 1 + gamma - gamma * beta
        gain = beta * (1 + alpha) / solved
        pole = alpha + gamma * gain
        c, q = np.ones(n), alpha ** np.arange(n)
        q = 1 - q  # what the wall of the inlet holds: q' = 1 − q by the same rule
        for _ in range(n_cells):
            right = (1 - gamma) * c + gamma * q
            first = right[0] / (1 + gamma)
            later, _ = lfilter([gain], [1, -pole], right[1:], zi=[pole * beta * first])
            before = np.concatenate([[beta * first], later])[: n - 1]  # s_{j−1}
            c = np.concatenate([[first], (right[1:] + gamma * before) / solved])
            q = np.concatenate([[0.0], before + beta * c[1:]])
        return c

    def exact(self, length: float, times: Tensor) -> Tensor:
        """c at the end of the column in closed form.

            c = S(τ) − S(τ − pulse),   S(τ) = e^{−x} + 2√x ∫₀^{√τ} e^{−(√x − s)²} Ĩ₁(2 √x s) ds for τ ≥ 0, else 0

        with the scaled Bessel function Ĩ₁ = e^{−z} I₁, which does not overflow; Gauss–Legendre quadrature in s.
        """
        tau = times.double().numpy() - self.transit * length
        return torch.as_tensor(_response(length, tau) - _response(length, tau - self.pulse))


def _response(x: float, tau: np.ndarray) -> np.ndarray:
    """S(τ)."""
    from scipy.special import ive

    nodes, weights = np.polynomial.legendre.leggauss(400)
    end = np.sqrt(np.maximum(tau, 0))
    start = np.minimum(np.maximum(np.sqrt(x) - 8.0, 0), end)  # before, the bell e^{−(√x − s)²} is below 1e-27
    s = start[:, None] + (end - start)[:, None] * (nodes + 1) / 2
    inside = 2 * np.sqrt(x) * np.exp(-((np.sqrt(x) - s) ** 2)) * ive(1, 2 * np.sqrt(x) * s)
    return np.where(tau >= -1e-12, np.exp(-x) + (inside * weights).sum(1) * (end - start) / 2, 0.0)
