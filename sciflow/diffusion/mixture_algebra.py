"""Products and whole powers of Gaussian mixtures: mixtures again, with their normalising constants in closed form."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sciflow.diffusion.mixture import GaussianMixture


class Product(NamedTuple):
    """A product of mixtures, normalised.

    Attributes:
        law: the mixture.
        log_constant: log of the integral of the product that was not normalised [nat].
        members: which components each of its components is a product of, (k, factors).
    """

    law: GaussianMixture
    log_constant: float
    members: Tensor


def product(*factors: GaussianMixture, drop: float = 0.0) -> Product:
    """Π_j p_j: one component for each choice of one component per factor.

        P = Σ_j P_j,  m = P⁻¹ Σ_j P_j m_j,  log w = Σ_j (log w_j + log N(0; m_j, P_j⁻¹)) − log N(0; m, P⁻¹)

    Args:
        factors: mixtures with positive definite covariances.
        drop: leave out components whose share of the whole is below this; the constant keeps them.
    Source: e.g. Bishop (2006), Pattern recognition and machine learning, section 2.3.
    """
    choices = list(itertools.product(*(range(len(factor.weights)) for factor in factors)))
    return _product(factors, torch.tensor(choices), torch.zeros(len(choices), dtype=torch.float64), drop)


def power(law: GaussianMixture, exponent: int, drop: float = 0.0) -> Product:
    """p^k for a whole k ≥ 1: one component for each multiset of k components, weighted by how many orders it has.

    Args:
        law: mixture with positive definite covariances.
        exponent: k.
        drop: as in `product`.
    Raises:
        ValueError: k < 1.
    """
    if exponent < 1:
        raise ValueError(f"a mixture has a closed form for whole powers from 1 on, got {exponent}.")
    choices = list(itertools.combinations_with_replacement(range(len(law.weights)), exponent))
    orders = [math.lgamma(exponent + 1) - sum(math.lgamma(n + 1) for n in Counter(c).values()) for c in choices]
    return _product((law,) * exponent, torch.tensor(choices), torch.tensor(orders, dtype=torch.float64), drop)


def _product(factors: Sequence[GaussianMixture], choices: Tensor, log_orders: Tensor, drop: float) -> Product:
    d = factors[0].means.shape[1]
    precision = torch.zeros(len(choices), d, d, dtype=torch.float64)
    pulled, log_weights = torch.zeros(len(choices), d, dtype=torch.float64), log_orders.clone()
    for factor, index in zip(factors, choices.T, strict=True):
        inverse = torch.linalg.inv(factor.covariances.double())
        towards = torch.einsum("kij,kj->ki", inverse, factor.means.double())
        constant = factor.weights.double().log() + _log_peak(inverse, factor.means.double(), towards)
        precision, pulled = precision + inverse[index], pulled + towards[index]
        log_weights = log_weights + constant[index]
    means = torch.linalg.solve(precision, pulled)
    log_weights = log_weights - _log_peak(precision, means, pulled)
    log_constant = log_weights.logsumexp(0)
    shares = (log_weights - log_constant).exp()
    kept = shares >= drop
    covariances = torch.linalg.inv(precision[kept])
    covariances = 0.5 * (covariances + covariances.mT)
    law = GaussianMixture(shares[kept] / shares[kept].sum(), means[kept], covariances)
    return Product(law, float(log_constant), choices[kept])


def _log_peak(precision: Tensor, means: Tensor, pulled: Tensor) -> Tensor:
    """log N(0; m, P⁻¹), with P m given."""
    log_det = torch.linalg.slogdet(precision)[1]
    return 0.5 * (log_det - (means * pulled).sum(1) - means.shape[1] * math.log(2 * math.pi))
