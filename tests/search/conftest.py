"""Makes the tests of the searches importable from one another, and the mixture of the laws."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from sciflow.diffusion.mixture import GaussianMixture, MixtureDenoiser
from sciflow.diffusion.schedule import EDM

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def mixture() -> MixtureDenoiser:
    """Three components in the plane."""
    means = torch.tensor([[2.0, 0.0], [-1.5, 1.0], [0.0, -2.0]], dtype=torch.float64)
    weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    covariances = torch.tensor([0.2, 0.1, 0.3], dtype=torch.float64)[:, None, None] * torch.eye(2, dtype=torch.float64)
    return MixtureDenoiser(GaussianMixture(weights, means, covariances), EDM())
