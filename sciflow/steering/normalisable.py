"""Whether a product of powers has a normalising constant: in closed form for mixtures, by run-away for any other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.steering.sight import Level
from sciflow.steering.target import TargetPath

MOST = 4096  # combinations of components that are looked at
REACH = 100.0
ROWS = 16384  # that are looked at together, in float64


def check_normalisable(path: TargetPath, levels: Sequence[Level]) -> None:
    """Refuse a product of Gaussian mixtures that grows without bound in some direction at some level.

        tail of log γ along e:  −½ r² (Σ_{β>0} β_i min_k eᵀP_ik e − Σ_{β<0} |β_i| min_k eᵀP_ik e),  P = (C + u²I)⁻¹

    Laws with positive powers alone are always normalisable. A potential is taken as bounded from above and adds no
    confinement. Of experts without a known mixture only the run-away is seen, by `escaped`.

    Raises:
        InputError: names the level at which the law ceases to exist.
    """
    covariances = [expert.mixture.covariances for expert in path.experts if hasattr(expert, "mixture")]
    if len(covariances) < len(path.experts):
        return
    for at in levels:
        betas = path.betas(at.t)
        if bool((betas >= 0).all()):
            continue
        precisions = [_precisions(each, at) for each in covariances]
        if _grows(betas, precisions):
            raise InputError(
                f"the target with powers {[round(b, 6) for b in betas.tolist()]} has no normalising constant at noise "
                f"ratio u = {at.ratio:.4g} (t = {at.t:.4g}): an expert with a negative power is narrower there than "
                "the others. Use a power between 0 and 1, or stop the grid at more noise."
            )


def _precisions(covariances: Tensor, at: Level) -> Tensor:
    values, vectors = torch.linalg.eigh(covariances.double())
    scaled = vectors / (values.clamp_min(0) + at.ratio**2)[:, None]
    return scaled @ vectors.mT


def _grows(betas: Tensor, precisions: list[Tensor]) -> bool:
    """Whether the tail exponent is ≤ 0 in one of the directions that could decide."""
    choices = itertools.islice(itertools.product(*(range(len(p)) for p in precisions)), MOST)
    for choice in choices:
        total = sum(float(beta) * p[k] for beta, p, k in zip(betas, precisions, choice, strict=True))
        values, vectors = torch.linalg.eigh(total)
        if float(values[0]) <= 0 and _tail(vectors[:, 0], betas, precisions) <= 0:
            return True
    return False


def _tail(direction: Tensor, betas: Tensor, precisions: list[Tensor]) -> float:
    least = [torch.einsum("i,kij,j->k", direction, p, direction).min() for p in precisions]
    return float(sum(beta * value for beta, value in zip(betas, least, strict=True)))


def reach(y: Tensor) -> Tensor:
    """How far a particle may go, one number for each: REACH times the root mean square norm of the first cloud."""
    norms = torch.cat([rows.flatten(1).double().norm(dim=1) for rows in y.split(ROWS)])
    return (REACH * norms.square().mean().sqrt()).expand(len(y)).clone()


def escaped(y: Tensor, limit: Tensor) -> Tensor:
    """Which particles are not finite or beyond their reach, (n,)."""
    return ~(y.flatten(1).double().norm(dim=1) <= limit)
