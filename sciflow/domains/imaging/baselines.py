"""What one would do without a learned prior: one image per observation, for the scanners that have a classic."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sciflow.domains.recorded import likelihood as recorded_likelihood
from sciflow.inverse.likelihood import GaussianLikelihood, Likelihood, LikelihoodModel
from sciflow.inverse.moments import linear_gaussian
from sciflow.inverse.mri import CartesianMRI
from sciflow.inverse.reconstruction import (
    filtered_back_projection,
    least_squares,
    sees_all,
    total_variation,
    zero_filled,
)
from sciflow.inverse.tomography import FanBeam, ParallelBeam

if TYPE_CHECKING:
    import xarray as xr

WEIGHTS = (0.25, 0.5, 1.0, 2.0)  # of total variation that are tried, over the standard deviation of the truth
RIDGES = (1e-3, 1e-2, 1e-1)  # of CG-SENSE that are tried, over the largest eigenvalue of AᵀA
TV_ITERATIONS = 40


def baselines(model: LikelihoodModel, data: xr.Dataset, truth: Tensor) -> dict[str, Tensor]:
    """Classical reconstructions, (observation, *event), float64; none where the operator has no classic.

    The weight of the total variation and the ridge of CG-SENSE are those that are best for these truths on average: an
    advantage that their user does not have.

    Args:
        model: what is assumed, without observation.
        data: with `measured`.
        truth: (observation, *event).
    """
    shape = tuple(truth.shape[1:])
    bound = [recorded_likelihood(model, data, i, shape, torch.float64) for i in range(len(truth))]
    operator = getattr(bound[0], "operator", None)
    if not isinstance(operator, ParallelBeam | FanBeam | CartesianMRI):
        return {}
    gaussian = [linear_gaussian(one, shape, "a baseline") for one in bound]
    found: dict[str, Tensor] = {}
    if isinstance(operator, ParallelBeam) or (isinstance(operator, FanBeam) and sees_all(operator)):
        found["FBP"] = torch.cat([filtered_back_projection(operator, _measured(one)) for one in bound])
    if isinstance(operator, CartesianMRI):
        found["zero-filled"] = torch.stack([zero_filled(one) for one in gaussian])
        tried = [torch.stack([least_squares(one, ridge) for one in gaussian]) for ridge in RIDGES]
        found["CG-SENSE"] = _nearest(tried, truth)
    found["TV"] = _best_total_variation(gaussian, truth)
    return found


def _measured(likelihood: Likelihood) -> Tensor:
    return likelihood.observation.double()[None]


def _best_total_variation(likelihoods: list[GaussianLikelihood], truth: Tensor) -> Tensor:
    scale = float(truth.double().std())
    tried = [
        torch.stack([total_variation(one, weight / scale, TV_ITERATIONS) for one in likelihoods]) for weight in WEIGHTS
    ]
    return _nearest(tried, truth)


def _nearest(tried: list[Tensor], truth: Tensor) -> Tensor:
    return min(tried, key=lambda images: float((images - truth).square().mean()))
