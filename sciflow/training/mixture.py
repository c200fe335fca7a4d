"""A Gaussian mixture of events of many numbers: principal directions, and expectation maximisation among them."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from sciflow.diffusion.mixture import GaussianMixture
from sciflow.diffusion.subspace import SubspaceMixture
from sciflow.errors import InputError

FLOOR = 1e-3  # of the mean variance along the directions: added to every covariance, so that none collapses


def fit_mixture(events: Tensor, n_components: int, n_directions: int, n_iterations: int, seed: int) -> SubspaceMixture:
    """A mixture of full covariances along the leading principal directions, white outside them.

    Args:
        events: (sample, d).
        n_components: of the mixture.
        n_directions: r; d or more keeps all.
        n_iterations: most iterations.
        seed: of the start, by k-means.

    Raises:
        InputError: fewer events than directions, or scikit-learn is missing.

    Source: Dempster, Laird and Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture as Fit
    except ImportError:
        raise InputError("train kind 'mixture' needs scikit-learn: pip install 'sciflow[imaging]'.") from None
    x = events.double()
    d, r = x.shape[1], min(n_directions, x.shape[1])
    if len(x) <= n_components * r:
        raise InputError(
            f"{len(x)} training events do not determine {n_components} covariances along {r} directions. Lower "
            "train.n_components or train.n_directions, or give more data."
        )
    mean = x.mean(0)
    values, vectors = torch.linalg.eigh((x - mean).T @ (x - mean) / (len(x) - 1))
    basis, outside = vectors[:, d - r :], float(values[: d - r].clamp_min(0).mean()) if r < d else 0.0
    z = (x - mean) @ basis
    fit = Fit(n_components, reg_covar=FLOOR * float(z.var(0).mean()), max_iter=n_iterations, random_state=seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of iterations is asked for
        fit.fit(z.numpy())
    weights, means, covariances = (torch.as_tensor(part) for part in (fit.weights_, fit.means_, fit.covariances_))
    along = mean @ basis
    mixture = GaussianMixture(weights / weights.sum(), means + along, covariances)
    return SubspaceMixture(basis, mixture, mean - basis @ along, outside**0.5)
