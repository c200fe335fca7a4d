"""What domains say of calibration: draws that do not look at the data are found out, in a row and in a sentence."""

from __future__ import annotations

import math
from dataclasses import asdict

import torch
import xarray as xr
from torch import Tensor

from sciflow.diffusion import Cosine, GaussianDenoiser
from sciflow.domains.protocol import Evidence
from sciflow.domains.scored import Scores
from sciflow.domains.shown import functions, verdicts
from sciflow.random import Stream

N, MEMBERS, SIGMA = 120, 40, 0.7


def test_draws_of_the_prior_fail_by_the_log_likelihood_alone() -> None:
    stream = Stream(3)
    truth = stream.child("truth").normal(N, (3,), dtype=torch.float64)
    y = truth + SIGMA * stream.child("noise").normal(N, (3,), dtype=torch.float64)
    white = stream.child("draws").normal(N, (MEMBERS, 3), dtype=torch.float64)
    shrink = 1 / (1 + SIGMA**2)
    draws = {"exact": y[:, None] * shrink + SIGMA * math.sqrt(shrink) * white, "prior": white}

    def fit(x: Tensor) -> Tensor:
        return -0.5 * ((y[:, None] - x) ** 2).sum(-1) / SIGMA**2

    scores = Scores(truth, draws, torch.ones_like(truth, dtype=torch.bool), Stream(4), fit=fit)
    found = scores.calibration(["sbc"])
    of_both = [*scores.rows("sbc"), *found.rows]
    value = {(row.posterior, row.metric): row.score.value for row in of_both}
    assert set(value) == {(name, key) for name in draws for key in ("sbc_p", "sbc_fit_p")}
    assert value["prior", "sbc_p"] > 0.01 and value["prior", "sbc_fit_p"] < 1e-6  # mean and square cannot tell
    assert value["exact", "sbc_p"] > 0.01 and value["exact", "sbc_fit_p"] > 0.01  # fails for 1 seed in 100 at most
    assert all(math.isnan(row.score.stderr) for row in of_both)  # a p-value has no standard error

    rows = [{"posterior": row.posterior, "metric": row.metric, **asdict(row.score)} for row in of_both]
    nothing, prior = xr.Dataset(), GaussianDenoiser(torch.zeros(3), torch.eye(3), Cosine())
    evidence = Evidence(nothing, nothing, found.arrays, rows, {}, prior)
    said = {sentence.partition(" ")[0]: sentence for sentence in verdicts(evidence)}
    assert said["exact"] == "exact passes simulation-based calibration over 120 observations."
    assert "prior is not calibrated: ranks of the log-likelihood are not uniform (p " in said["prior"]
    drawing = functions(evidence)
    assert drawing is not None and len(drawing.figure.axes) == 2
