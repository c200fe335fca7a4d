"""A gas that is carried through a column and held back by its wall."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Annotated, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sciflow.errors import InputError

Positive = Annotated[float, Field(gt=0)]


class Response(NamedTuple):
    """What gas that is let in for ever does, at times τ_j = j step after the first of it came by.

    Attributes:
        gas: c at the ends of n_places equal pieces of the column, (place, time).
        held: what the wall of the whole column holds, in the gas's own unit times length, (time,).
    """

    gas: np.ndarray
    held: np.ndarray


@dataclass(frozen=True)
class GasChromatograph:
    """A column into which a pulse of gas is let, without dispersion.

        transit c_t + c_x = −q_t,   q_t = adsorption c − desorption q
        c(0, t) = 1 for 0 < t < pulse, else 0;   c = q = 0 before

    c is the gas, q what the wall holds. In τ = t − transit x the gas is c_x = desorption q − adsorption c at fixed τ:
    each cell of the column filters the signal that enters it. Of what comes by at x, the integral over time is pulse,
    the mean time pulse/2 + (transit + adsorption/desorption) x, the variance pulse²/12 + 2 adsorption x/desorption².

    Exactness: order 2 in cells and times; at the edges of the pulse by superposition, so that they cost no order. The
        closed form is `exact`. Gas is conserved to rounding: what came in is what went out and what is held
    Cost: one recursive filter of all times for each cell
    Bias: none beyond the grid; dispersion is left out
    Args:
        transit: time that gas takes through one unit of column if the wall holds nothing back.
        pulse: how long gas is let in.
        adsorption: of gas onto the wall [1/length].
        desorption: from the wall [1/time].
    Source: Thomas (1944), Heterogeneous ion exchange in a flowing system, linear case.
    """

    transit: Annotated[float, Field(ge=0)] = 0.0633
    pulse: Positive = 4.0
    adsorption: Positive = 1.0
    desorption: Positive = 1.0

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
        response = torch.as_tensor(self.response(length, n_cells, step, len(tau)).gas[-1])
        later = torch.cat([torch.zeros(min(lag, len(tau)), dtype=torch.float64), response[: max(len(tau) - lag, 0)]])
        return response - later

    def gas(self, length: float, times: Tensor, n_cells: int, step: float, n_places: int) -> Tensor:
        """c at the ends of n_places equal pieces of the column, at any times, (time, place).

        Times between those of the grid are interpolated by cubic polynomials, which keep the order.

        Args:
            length: of the column.
            times: (time,), float64.
            n_cells: of the column, a multiple of n_places.
            step: of τ.
            n_places: where c is kept.

        Raises:
            InputError: cells that do not fill the pieces, or a step that is not positive.
        """
        if not step > 0 or n_places < 1 or n_cells % n_places or n_cells < 1:
            raise InputError(
                f"a column needs cells that fill {n_places} pieces and a positive step, got {n_cells} cells and a step "
                f"of {step:g}. Take a multiple of {n_places} cells."
            )
        tau = self._retarded(length, times, n_places)
        n = max(int(np.ceil(tau.max() / step)), 0) + 4
        response = self.response(length, n_cells, step, n, n_places).gas
        first, later = (_interpolated(response, step, when) for when in (tau, tau - self.pulse))
        return torch.as_tensor((first - later).T.copy())

    def response(self, length: float, n_cells: int, step: float, n_times: int, n_places: int = 1) -> Response:
        """Gas let in for ever, by trapezoidal rules in x and τ.

        With lengths in units of 1/adsorption, times in those of 1/desorption, q in the gas's, and c', q' at the next
        cell:

            (1 + γ) c' − γ q' = (1 − γ) c + γ q,   q_j = α q_{j−1} + β (c_j + c_{j−1});
            s_j = α q'_j + β c'_j obeys a recursion of first order, and gives both
        """
        from scipy.signal import lfilter

        cell, step = self.adsorption * length / n_cells, self.desorption * step
        gamma, alpha, beta = cell / 2, (1 - step / 2) / (1 + step / 2), step / (2 + step)
        solved = 1 + gamma - gamma * beta
        gain = beta * (1 + alpha) / solved
        pole = alpha + gamma * gain
        c, q = np.ones(n_times), alpha ** np.arange(n_times)
        q = 1 - q  # what the wall of the inlet holds: q' = 1 − q by the same rule
        kept, held = [], np.zeros(n_times)
        for k in range(n_cells):
            right = (1 - gamma) * c + gamma * q
            held += gamma * q
            first = right[0] / (1 + gamma)
            later, _ = lfilter([gain], [1, -pole], right[1:], zi=[pole * beta * first])
            before = np.concatenate([[beta * first], later])[: n_times - 1]  # s_{j−1}
            c = np.concatenate([[first], (right[1:] + gamma * before) / solved])
            q = np.concatenate([[0.0], before + beta * c[1:]])
            held += gamma * q
            if (k + 1) % (n_cells // n_places) == 0:
                kept.append(c)
        return Response(np.stack(kept), held / self.desorption)

    def exact(self, length: float, times: Tensor) -> Tensor:
        """c at the end of the column in closed form.

            c = S(X, T) − S(X, T − desorption pulse),   X = adsorption x,   T = desorption τ
            S = e^{−X} + 2√X ∫₀^{√T} e^{−(√X − s)²} Ĩ₁(2 √X s) ds for T ≥ 0, else 0

        with the scaled Bessel function Ĩ₁ = e^{−z} I₁, which does not overflow; Gauss–Legendre quadrature in s.
        """
        x, tau = self.adsorption * length, times.double().numpy() - self.transit * length
        first, later = (_response(x, self.desorption * when) for when in (tau, tau - self.pulse))
        return torch.as_tensor(first - later)

    def exact_gas(self, length: float, times: Tensor, n_places: int) -> Tensor:
        """As `gas`, in closed form, (time, place)."""
        return torch.stack([self.exact(length * (i + 1) / n_places, times) for i in range(n_places)], 1)

    def _retarded(self, length: float, times: Tensor, n_places: int) -> np.ndarray:
        """τ, (place, time)."""
        places = length * (np.arange(n_places) + 1) / n_places
        return times.double().numpy() - self.transit * places[:, None]


@cache
def _quadrature() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of Gauss and Legendre on [−1, 1]; an eigenvalue problem, solved once."""
    return np.polynomial.legendre.leggauss(400)


def _response(x: float, tau: np.ndarray) -> np.ndarray:
    """S(x, τ)."""
    from scipy.special import ive

    nodes, weights = _quadrature()
    end = np.sqrt(np.maximum(tau, 0))
    start = np.minimum(np.maximum(np.sqrt(x) - 8.0, 0), end)  # before, the bell e^{−(√x − s)²} is below 1e-27
    s = start[:, None] + (end - start)[:, None] * (nodes + 1) / 2
    inside = 2 * np.sqrt(x) * np.exp(-((np.sqrt(x) - s) ** 2)) * ive(1, 2 * np.sqrt(x) * s)
    return np.where(tau >= -1e-12, np.exp(-x) + (inside * weights).sum(1) * (end - start) / 2, 0.0)


def _interpolated(values: np.ndarray, step: float, tau: np.ndarray) -> np.ndarray:
    """Values (place, n) on the grid 0, step, … at τ (place, time), by Lagrange's cubic; 0 before τ = 0."""
    first = np.clip(np.floor(tau / step).astype(int) - 1, 0, values.shape[1] - 4)
    u, found = tau / step - first, np.zeros_like(tau)
    for node in range(4):
        others = [k for k in range(4) if k != node]
        weight = np.prod([(u - k) / (node - k) for k in others], axis=0)
        found += weight * np.take_along_axis(values, first + node, axis=1)
    return np.where(tau >= -1e-12, found, 0.0)
