"""The exact filter and smoother of a linear Gaussian chain: what particle and ensemble filters are compared with."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sciflow.particles.filtering import LinearMeasurements


@dataclass(frozen=True)
class Gaussians:
    """One Gaussian for each time.

    Args:
        mean: (time, d), float64.
        covariance: (time, d, d), float64.
        log_evidence: log p(y_{0:K}).
    """

    mean: Tensor
    covariance: Tensor
    log_evidence: float


@dataclass(frozen=True)
class LinearChain:
    """x_0 ~ N(m, P), x_{k+1} = A x_k + c + w_k with w_k ~ N(0, Q), and linear Gaussian measurements of it.

    Args:
        transition: A, (d, d).
        noise: Q, (d, d).
        mean: m, (d,).
        covariance: P, (d, d).
        measurements: y_k; missing ones are left out.
        shift: c, (d,); zero by default.
    """

    transition: Tensor
    noise: Tensor
    mean: Tensor
    covariance: Tensor
    measurements: LinearMeasurements
    shift: Tensor | None = None

    def predict(self, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of the next state."""
        a = self.transition.double()
        ahead = a @ mean if self.shift is None else a @ mean + self.shift.double()
        return ahead, a @ covariance @ a.T + self.noise.double()

    def update(self, k: int, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor, float]:
        """Mean and covariance given y_k, and log p(y_k | y_{0:k−1}); the covariance in Joseph's form."""
        seen, sigma = self.measurements, self.measurements.sigma
        y, h = seen.values[k].double(), seen.matrices[k].double()
        m = len(y)
        if m == 0:
            return mean, covariance, 0.0
        innovation = h @ covariance @ h.T + sigma**2 * torch.eye(m, dtype=torch.float64)
        factor = torch.linalg.cholesky(innovation)
        gain = torch.cholesky_solve(h @ covariance, factor).T
        residual = y - h @ mean
        white = torch.linalg.solve_triangular(factor, residual[:, None], upper=False)
        log_density = -0.5 * float(white.square().sum()) - float(factor.diagonal().log().sum())
        kept = torch.eye(len(mean), dtype=torch.float64) - gain @ h
        joseph = kept @ covariance @ kept.T + sigma**2 * gain @ gain.T
        return mean + gain @ residual, joseph, log_density - 0.5 * m * math.log(2 * math.pi)

    def filtered(self) -> Gaussians:
        """p(x_k | y_{0:k}) for each time, and the evidence.

        Exactness: exact, in float64.
        Cost: O(d³) for each time.
        Bias: none.
        Source: Kalman (1960), A new approach to linear filtering and prediction problems.
        """
        mean, covariance, total = self.mean.double(), self.covariance.double(), 0.0
        means, covariances = [], []
        for k in range(len(self.measurements.values)):
            if k:
                mean, covariance = self.predict(mean, covariance)
            mean, covariance, log_density = self.update(k, mean, covariance)
            total += log_density
            means.append(mean)
            covariances.append(covariance)
        return Gaussians(torch.stack(means), torch.stack(covariances), total)

    def smoothed(self) -> Gaussians:
        """p(x_k | y_{0:K}) for each time, backwards from the filter.

            G = C_k Aᵀ P⁻¹,   m_k += G (m^s_{k+1} − m_pred),   C_k += G (C^s_{k+1} − P) Gᵀ,   P the predicted covariance

        Exactness: exact, in float64.
        Cost: O(d³) for each time.
        Bias: none.
        Source: Rauch, Tung and Striebel (1965), Maximum likelihood estimates of linear dynamic systems.
        """
        forward = self.filtered()
        means, covariances = [forward.mean[-1]], [forward.covariance[-1]]
        for k in reversed(range(len(forward.mean) - 1)):
            mean, covariance = forward.mean[k], forward.covariance[k]
            ahead, predicted = self.predict(mean, covariance)
            gain = torch.linalg.solve(predicted, self.transition.double() @ covariance).T
            means.append(mean + gain @ (means[-1] - ahead))
            covariances.append(covariance + gain @ (covariances[-1] - predicted) @ gain.T)
        return Gaussians(torch.stack(means[::-1]), torch.stack(covariances[::-1]), forward.log_evidence)
