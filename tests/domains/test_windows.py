"""A prior of trajectories out of a run that has learned windows of them."""

from __future__ import annotations

import pytest
import torch

from sciflow.diffusion import Karras, WindowedDenoiser, load
from sciflow.inverse import Dense, GaussianLikelihood, Guided, MomentMatching, PiGDM
from sciflow.inverse.belief import Differentiated
from sciflow.random import Stream
from tests.tiny import FORECAST, IMAGING, PDE, Place, change


@pytest.mark.slow
def test_a_network_of_windows_is_a_prior_of_longer_trajectories(place: Place) -> None:
    """Windows of five fields, a trajectory of nine; measured nearly without noise, draws go by what was measured."""
    network = {**IMAGING["train"], "network": {"kind": "mlp", "width": 16, "depth": 2}}
    changes = {"dataset.n_times": 4, "train": network, "sample": PDE["sample"]}
    window = load(place.build(change(FORECAST, changes), until="train") / "model.pt")
    assert window.shape == (5, 16)
    matrix, sigma = torch.eye(9 * 16)[::7], 1e-3
    y = 0.1 * Stream(1).normal(1, (len(matrix),))[0]
    likelihood = GaussianLikelihood(y, Dense.of(matrix, (9, 16)), sigma)
    for guidance, known in ((MomentMatching, window), (MomentMatching, Differentiated(window)), (PiGDM, window)):
        prior = WindowedDenoiser(known, 9)
        draws = Guided(guidance)(prior, likelihood, Karras(6)(prior.schedule), 2, Stream(2)).x
        assert draws.shape == (2, 9, 16) and bool(draws.isfinite().all())
        # ten standard deviations of the noise, for 42 readings; the draws of the prior lie a hundred apart
        assert float((draws.flatten(1) @ matrix.T - y).abs().max()) < 10 * sigma
