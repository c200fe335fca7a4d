"""Measurements that are counts of photons: their noise, their likelihoods, and the Gaussians that these tend to."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sciflow.errors import InputError
from sciflow.inverse.likelihood import GaussianLikelihood, Observed
from sciflow.inverse.operator import Identity, LinearOperator
from sciflow.random import Stream
from sciflow.types import placed

NO_PHOTON = 0.1
"""Photons that the logarithm of an empty bin is taken of, as in LoDoPaB-CT; read back as none."""
DENSE = 1024  # measurements up to which weighted systems are solved by their eigenbasis
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


def counted(rate: Tensor, stream: Stream) -> Tensor:
    """Poisson counts of rates (batch, m), float64, by inversion of one uniform number for each."""
    from scipy.stats import poisson  # the half second that it takes to load is for those who count

    u = stream.uniform(len(rate), rate.shape[1:], dtype=torch.float64)
    counts = poisson.ppf(u.numpy(), rate.double().cpu().numpy())
    return torch.as_tensor(np.maximum(counts, 0)).to(rate.device)  # ppf(0) is −1


@dataclass(frozen=True)
class PoissonNoise:
    """Counts of photons, in units of the clean measurement.

        y = N/gain,   N ~ Poisson(gain (A x + background))

    Exactness: exact, by inversion of the distribution function.
    Cost: one uniform number and one quantile per measurement.
    Bias: none.
    Args:
        gain: photons per measurement unit, > 0.
        background: counted besides the signal, ≥ 0 [measurement units].
    Raises:
        InputError: a clean measurement below −background: rates are not negative.
    Source: definition.
    """

    gain: Positive = 100.0
    background: NotNegative = 0.0

    def sample(self, clean: Tensor, stream: Stream) -> Tensor:
        rate = self.gain * (clean.double() + self.background)
        if float(rate.min()) < -1e-6 * float(rate.abs().max()):
            raise InputError(
                f"poisson noise needs rates ≥ 0, got {float(rate.min()):.3g} photons. Give data without negative "
                "values, or a background that lifts them."
            )
        return (counted(rate.clamp_min(0), stream) / self.gain).to(clean.dtype)


@dataclass(frozen=True)
class LogPoissonNoise:
    """Transmission tomography: the logarithm of the share of photons that came through.

        y = −log(N/photons),   N ~ Poisson(photons e^{−A x}),   an empty bin counting as 0.1

    Exactness: exact, by inversion of the distribution function.
    Cost: one uniform number and one quantile per measurement.
    Bias: none.
    Args:
        photons: sent along each ray, > 0.
    Source: Leuschner et al. (2021), LoDoPaB-CT, eq. 3 and its N₀ = 4096.
    """

    photons: Positive = 4096.0

    def sample(self, clean: Tensor, stream: Stream) -> Tensor:
        counts = counted(self.photons * torch.exp(-clean.double()), stream)
        return -(counts.clamp_min(NO_PHOTON) / self.photons).log().to(clean.dtype)


class _Counts(Observed):
    """The density of independent counts, once it is said what they are and what is expected."""

    def counts(self) -> Tensor:
        """N, whole numbers, float64, (m,)."""
        raise TypeError(f"{type(self).__name__} must define counts.")

    def log_rate(self, x: Tensor) -> Tensor:
        """log of the expected counts, float64, (batch, m)."""
        raise TypeError(f"{type(self).__name__} must define log_rate.")

    def log_prob(self, x: Tensor) -> Tensor:
        counts, log_rate = self.counts().to(x.device), self.log_rate(x)
        seen = torch.where(counts > 0, counts * log_rate, 0)  # 0 log 0 = 0
        return (seen - log_rate.exp() - torch.lgamma(counts + 1)).sum(1).to(x.dtype)


@dataclass(frozen=True)
class PoissonLikelihood(_Counts):
    """Counts of photons, of a linear measurement.

        log p(N | x) = Σ N_i log λ_i − λ_i − log N_i!,   λ = gain (A x + background),   y = N/gain

    Exactness: exact, as a probability of N; −∞ where a bin with photons expects none.
    Cost: one operator call.
    Bias: none. Guidance and twists that need a Gaussian take y ~ N(A x + background, max(N, 1)/gain²), right for many
        photons; samplers that steer by a potential, as `tds`, end in the exact likelihood.
    Args:
        observation: y, (m,), counts over gain.
        operator: A.
        gain: photons per measurement unit, > 0.
        background: counted besides the signal, ≥ 0 [measurement units].
    Raises:
        InputError: negative observations, or gain and background out of range.
    Source: definition; Snyder, Hammoud and White (1993) for the background.
    """

    observation: Tensor
    operator: LinearOperator = field(default_factory=Identity)
    gain: Positive = 100.0
    background: NotNegative = 0.0

    def __post_init__(self) -> None:
        self.check_observation()
        if not (0 < self.gain < math.inf and 0 <= self.background < math.inf):
            got = f"gain = {self.gain}, background = {self.background}"
            raise InputError(f"a poisson likelihood needs a finite gain > 0 and background ≥ 0, got {got}.")
        if float(self.observation.min()) < 0:
            raise InputError(
                f"counts cannot be negative, got {float(self.observation.min()):.3g}. Give counts over gain, the "
                "background still in them."
            )

    def counts(self) -> Tensor:
        return (self.gain * self.observation.double()).round()

    def log_rate(self, x: Tensor) -> Tensor:
        return (self.gain * (self.operator(x).double() + self.background)).clamp_min(0).log()

    def gaussian(self) -> GaussianLikelihood:
        """What the likelihood tends to for many photons, its operator and observation divided by the noise."""
        weights = self.gain / self.counts().clamp_min(1).sqrt()
        return _weighted(self.operator, weights, self.observation.double() - self.background, self.observation)


@dataclass(frozen=True)
class LogPoissonLikelihood(_Counts):
    """Transmission tomography: photons counted behind an object, given as the logarithm of their share.

        log p(N | x) = Σ N_i log λ_i − λ_i − log N_i!,   λ = photons e^{−A x},   y = −log(N/photons)

    Its gradient Aᵀ(λ − N) is bounded by the photons sent, and it is concave in x.

    Exactness: exact, as a probability of N.
    Cost: one operator call.
    Bias: none. Guidance and twists that need a Gaussian take y ~ N(A x, 1/max(N, 1)), right for many photons; samplers
        that steer by a potential, as `tds`, end in the exact likelihood.
    Args:
        observation: y, (m,), as `log_poisson` noise makes it.
        operator: A.
        photons: sent along each ray, > 0.
    Raises:
        InputError: photons out of range.
    Source: Lange and Carson (1984), EM reconstruction algorithms for emission and transmission tomography.
    """

    observation: Tensor
    operator: LinearOperator = field(default_factory=Identity)
    photons: Positive = 4096.0

    def __post_init__(self) -> None:
        self.check_observation()
        if not 0 < self.photons < math.inf:
            raise InputError(f"a log_poisson likelihood needs finite photons > 0, got {self.photons}.")

    def counts(self) -> Tensor:
        return (self.photons * torch.exp(-self.observation.double())).round()

    def log_rate(self, x: Tensor) -> Tensor:
        return math.log(self.photons) - self.operator(x).double()

    def gaussian(self) -> GaussianLikelihood:
        """What the likelihood tends to for many photons, its operator and observation divided by the noise."""
        weights = self.counts().clamp_min(1).sqrt()
        return _weighted(self.operator, weights, self.observation.double(), self.observation)


def _weighted(operator: LinearOperator, weights: Tensor, values: Tensor, like: Tensor) -> GaussianLikelihood:
    return GaussianLikelihood((weights * values).to(like.dtype), Weighted(operator, weights).on(operator.shape), 1.0)


@dataclass(frozen=True, eq=False)
class Weighted(LinearOperator):
    """A bound operator with its measurements multiplied by weights, e.g. divided by the noise of each.

        y = diag(w) A x

    Exactness: adjoint exact; solves by the eigenbasis of its A Aᵀ up to 1024 measurements, beyond by conjugate
        gradients.
    Cost: that of A; one eigendecomposition.
    Bias: none.
    Args:
        operator: A, bound to its events.
        weights: w, (m,).
    Source: definition.
    """

    operator: LinearOperator
    weights: Tensor

    @property
    def range_shape(self) -> tuple[int, ...]:
        return tuple(self.operator.range_shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.operator.forward(x) * placed(self.weights, x.device, x.dtype)

    def backward(self, y: Tensor) -> Tensor:
        return self.operator.backward(y * placed(self.weights, y.device, y.dtype))

    def gram_solve(self, v: Tensor, ridge: float | Tensor, scale: float | Tensor = 1.0) -> Tensor:
        if len(self.weights) > DENSE:
            return super().gram_solve(v, ridge, scale)
        values, vectors = (placed(part, v.device, v.dtype) for part in self.gram_basis)
        return (v @ vectors / (scale * values + ridge)) @ vectors.T
