"""Ensemble Kalman filters: Kalman's update with the covariance of an ensemble, for any dynamics."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sciflow.errors import InputError, NonFiniteError
from sciflow.particles.filtering import LinearMeasurements
from sciflow.random import Stream
from sciflow.solvers.state_space import HiddenChain

Variant = Literal["stochastic", "transform"]


@dataclass(frozen=True)
class Analysed:
    """The ensembles after each measurement.

    Args:
        states: equally weighted members, (n, time, d).
        log_evidence: Σ_k log N(y_k; H x̄, H P Hᵀ + σ² I) of the forecast ensembles: right if those were Gaussian.
    """

    states: Tensor
    log_evidence: float


def taper(distance: Tensor, length: float) -> Tensor:
    """Fifth-order compactly supported correlation: 1 at 0, about a Gaussian of width `length`·√0.3, 0 beyond 2·length.

    Source: Gaspari and Cohn (1999), Construction of correlation functions in two and three dimensions, eq. 4.10.
    """
    r = distance.double() / length
    near = 1 + r**2 * (-5 / 3 + r * (5 / 8 + r * (1 / 2 - r / 4)))
    far = 4 - 5 * r + r**2 * (5 / 3 + r * (5 / 8 + r * (-1 / 2 + r / 12))) - 2 / (3 * r.clamp_min(1e-12))
    return torch.where(r <= 1, near, torch.where(r < 2, far.clamp_min(0), 0.0))  # rounding just below 2


def ring(a: Tensor, b: Tensor, circumference: int) -> Tensor:
    """Distances on a circle between places a (m,) and b (d,), (m, d)."""
    apart = (a[:, None] - b[None]).abs()
    return torch.minimum(apart, circumference - apart)


@dataclass(frozen=True)
class EnsembleKalman:
    """Forecast every member, then move the ensemble as Kalman's formula says for its own mean and covariance.

        x̄ += K (y − H x̄),   K = P Hᵀ (H P Hᵀ + σ² I)⁻¹,   P = inflation² · covariance of the forecast members
        stochastic: every member is updated with y + σ v of its own;   transform: anomalies are multiplied by the
        symmetric square root of (I + Yᵀ Y/(n − 1)σ²)⁻¹, Y = H · anomalies, without random numbers

    With localisation, each covariance ("stochastic") or each precision of a measurement, coordinate by coordinate
    ("transform"), is damped with the distance on the ring of coordinates.

    Target: none; p(x_k | y_{0:k}) where all laws are Gaussian and the ensemble is large.
    Exactness: converges to the Kalman filter for linear Gaussian models as members → ∞; for others to no posterior.
    Cost: one solve for each member and time; the analysis O(n m (m + d)), with a localised transform O(d n m²).
    Bias: sampling error of the covariance, which inflation and localisation trade for others; Gaussian laws assumed.
    Args:
        space: the hidden chain.
        measurements: linear and Gaussian; with localisation each row of H must read one coordinate.
        variant: of the analysis.
        inflation: factor of the forecast anomalies, ≥ 1.
        localisation: length of `taper` in coordinates; null damps nothing.
    Raises:
        InputError: options out of range, fewer than two members, or localised measurements of several coordinates.
        NonFiniteError: a forecast that is not finite; names the time.
    Source: Evensen (1994); Burgers, van Leeuwen and Evensen (1998) for the perturbed measurements; Bishop, Etherton
        and Majumdar (2001) and Hunt, Kostelich and Szunyogh (2007) for the transform and its localisation.
    """

    space: HiddenChain
    measurements: LinearMeasurements
    variant: Variant = "stochastic"
    inflation: float = 1.0
    localisation: float | None = None

    def __post_init__(self) -> None:
        if self.variant not in ("stochastic", "transform"):
            raise InputError(f"variant must be 'stochastic' or 'transform', got {self.variant!r}.")
        if not self.inflation >= 1 or not (self.localisation is None or self.localisation > 0):
            got = f"{self.inflation} and {self.localisation}"
            raise InputError(f"an ensemble filter needs inflation ≥ 1 and localisation > 0, got {got}.")

    def run(self, n: int, stream: Stream, on_step: Callable[[int, int], None] | None = None) -> Analysed:
        """The analysed ensembles of all times."""
        if n < 2:
            raise InputError(f"an ensemble Kalman filter needs at least two members, got {n}.")
        x, total, path = self.space.initial(n, stream.child("initial")), 0.0, []
        for k in range(self.space.n_steps + 1):
            own = stream.child("step", k)
            if on_step is not None:
                on_step(k, self.space.n_steps)
            if k:
                x = self.space.noisy(self.space.forecast(k - 1, x, own), own)
            if not bool(x.isfinite().all()):
                raise NonFiniteError(f"the forecast of time {k} is not finite. Take smaller steps or less inflation.")
            x, log_density = self.analyse(k, x, own)
            total += log_density
            path.append(x)
        return Analysed(torch.stack(path, 1), total)

    def analyse(self, k: int, x: Tensor, stream: Stream) -> tuple[Tensor, float]:
        """Members after the measurement of time k, and the log-density of the measurement."""
        if len(self.measurements.values[k]) == 0:
            return x, 0.0
        mean = x.double().mean(0)
        anomalies = self.inflation * (x.double() - mean)
        update = self._perturbed if self.variant == "stochastic" else self._transformed
        return update(k, mean, anomalies, stream).to(x.dtype), self._log_density(k, mean, anomalies)

    def _matrix(self, k: int, like: Tensor) -> Tensor:
        return self.measurements.matrices[k].to(like)

    def _log_density(self, k: int, mean: Tensor, anomalies: Tensor) -> float:
        """log N(y; H x̄, H P Hᵀ + σ² I)."""
        seen = anomalies @ self._matrix(k, mean).T
        m, sigma = seen.shape[1], self.measurements.sigma
        covariance = seen.T @ seen / (len(seen) - 1) + sigma**2 * torch.eye(m, dtype=seen.dtype, device=seen.device)
        factor = torch.linalg.cholesky(covariance)
        white = torch.linalg.solve_triangular(factor, self.measurements.residual(k, mean[None]).T, upper=False)
        log_det = float(factor.diagonal().log().sum())
        return -0.5 * float(white.square().sum()) - log_det - 0.5 * m * math.log(2 * math.pi)

    def _damping(self, k: int, d: int) -> Tensor | None:
        """The taper between measurements and coordinates, (m, d)."""
        if self.localisation is None:
            return None
        matrix = self.measurements.matrices[k].double()
        if not bool(((matrix != 0).sum(1) == 1).all()):
            raise InputError(f"localisation needs measurements of one coordinate each; those of time {k} read several.")
        places = (matrix != 0).double().argmax(1)
        return taper(ring(places, torch.arange(d, device=places.device), d), self.localisation)

    def _perturbed(self, k: int, mean: Tensor, anomalies: Tensor, stream: Stream) -> Tensor:
        """Each member meets a measurement of its own."""
        matrix, sigma, n = self._matrix(k, mean), self.measurements.sigma, len(anomalies)
        cross = (anomalies @ matrix.T).T @ anomalies / (n - 1)  # H P, (m, d)
        damping = self._damping(k, len(mean))
        if damping is not None:
            cross = cross * damping
        innovation = cross @ matrix.T + sigma**2 * torch.eye(len(cross), dtype=mean.dtype, device=mean.device)
        innovation = 0.5 * (innovation + innovation.T)
        noise = stream.child("measurement").normal(n, (len(cross),), dtype=mean.dtype, device=mean.device)
        members = mean + anomalies
        residual = self.measurements.residual(k, members) + sigma * noise
        return members + torch.linalg.solve(innovation, residual.T).T @ cross

    def _transformed(self, k: int, mean: Tensor, anomalies: Tensor, stream: Stream) -> Tensor:
        """Mean and anomalies by one symmetric transform of the members, or one for each coordinate.

        With the thin factorisation Y √ρ/σ = U s Vᵀ the transform is I + U (1/√(1 + s²/(n − 1)) − 1) Uᵀ.
        """
        n, sigma = len(anomalies), self.measurements.sigma
        damping = self._damping(k, len(mean))
        root = mean.new_ones(1, len(self.measurements.values[k])) if damping is None else damping.to(mean).T.sqrt()
        seen = root[:, None] * (anomalies @ self._matrix(k, mean).T / sigma)  # (1 or d, n, m)
        residual = root * (self.measurements.residual(k, mean[None])[0] / sigma)  # (1 or d, m)
        u, s, vt = torch.linalg.svd(seen, full_matrices=False)
        shrunk = 1 / (1 + s**2 / (n - 1))
        columns = anomalies[None] if damping is None else anomalies.T[..., None]  # (1, n, d) or (d, n, 1)
        own = u.mT @ columns
        moved = mean[None, None] if damping is None else mean[:, None, None]
        shift = (s * shrunk * (vt @ residual[..., None])[..., 0] / (n - 1))[:, None] @ own
        after = moved + shift + columns + u @ ((shrunk.sqrt() - 1)[..., None] * own)
        return after[0] if damping is None else after[..., 0].T
