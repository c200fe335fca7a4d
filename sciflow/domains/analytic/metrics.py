"""What is good? Close to exact draws of the posterior, which is known here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from sciflow.data.arrays import from_xarray, to_xarray
from sciflow.diffusion.mixture import GaussianMixture
from sciflow.domains.analytic.network import law
from sciflow.domains.protocol import Findings, Row
from sciflow.domains.recorded import likelihood as recorded
from sciflow.inverse.likelihood import GaussianLikelihood, LikelihoodModel
from sciflow.metrics.particle import evidence_error, mode_weights, sliced_w2
from sciflow.metrics.score import Score, average
from sciflow.random import Stream

if TYPE_CHECKING:
    import xarray as xr

EXACT = "exact draws"
LEAST_MEMBERS = 1
GRID = 121  # points of the plotted density along each axis


@dataclass(frozen=True)
class Answers:
    """The exact posteriors of every observation, and exact draws from them.

    Args:
        posteriors: one mixture for each observation.
        log_evidence: log p(y), (observation,) [nat].
        draws, fresh: two independent sets of exact draws, (observation, member, dimension).
        stream: for the directions of projections.
    """

    posteriors: Sequence[GaussianMixture]
    log_evidence: Tensor
    draws: Tensor
    fresh: Tensor
    stream: Stream

    @property
    def weights(self) -> Tensor:
        """Exact mode weights, (observation, mode)."""
        return torch.stack([posterior.weights for posterior in self.posteriors])

    def responsibilities(self, x: Tensor) -> Tensor:
        """Probability of each mode given a draw, (observation, member, mode)."""
        pairs = zip(self.posteriors, x.double(), strict=True)
        return torch.stack([posterior.components(rows).softmax(-1) for posterior, rows in pairs])


def answers(data: xr.Dataset, model: LikelihoodModel, n: int, stream: Stream) -> Answers:
    """What the samples should have been, under the likelihood that they assumed."""
    prior, shape = law(data), (int(data.sizes["dimension"]),)
    posteriors, evidence = [], []
    for i in range(int(data.sizes["observation"])):
        likelihood = cast(GaussianLikelihood, recorded(model, data, i, shape, torch.float64))
        matrix = likelihood.operator(torch.eye(shape[0], dtype=torch.float64)).T
        posterior, log_evidence = prior.posterior(matrix, likelihood.observation, likelihood.sigma)
        posteriors.append(posterior)
        evidence.append(log_evidence)

    def draw(name: str) -> Tensor:
        return torch.stack([p.sample(n, stream.child(name, i)) for i, p in enumerate(posteriors)])

    return Answers(posteriors, torch.stack(evidence), draw("exact"), draw("fresh"), stream)


def _sliced_w2(answers: Answers, x: Tensor, numbers: Mapping[str, Tensor]) -> dict[str, Score]:
    """Sliced Wasserstein-2 distance to exact draws, beside the same for exact draws.

    Exactness: as `sciflow.metrics.sliced_w2`
    Cost: O(projections × members log members) for each observation
    Bias: upward; read it against the row of exact draws
    Source: Bonneel, Rabin, Peyré and Pfister (2015).
    """
    return sliced_w2(answers.draws, x, fresh=answers.fresh, stream=answers.stream.child("projections"))


def _mode_weights(answers: Answers, x: Tensor, numbers: Mapping[str, Tensor]) -> dict[str, Score]:
    """Total variation between the weights of the modes and the exact ones.

    Exactness: as `sciflow.metrics.mode_weights`
    Cost: O(members × modes)
    Bias: upward; read it against the row of exact draws
    Source: Levin, Peres and Wilmer (2009), proposition 4.2.
    """
    fresh = answers.responsibilities(answers.fresh)
    return mode_weights(answers.weights, answers.responsibilities(x), fresh=fresh)


def _evidence(answers: Answers, x: Tensor, numbers: Mapping[str, Tensor]) -> dict[str, Score]:
    """Error of the log-evidence, for samplers that give one.

    Exactness: a difference
    Cost: none
    Bias: log Ẑ is low by half its variance when Ẑ is unbiased
    Source: Del Moral (2004), Feynman–Kac formulae.
    """
    estimate = numbers["log_evidence"]
    if not bool(estimate.isfinite().all()):
        return {}
    return evidence_error(answers.log_evidence, estimate, stderr=numbers["log_evidence_stderr"])


def _ess(answers: Answers, x: Tensor, numbers: Mapping[str, Tensor]) -> dict[str, Score]:
    """Effective sample size of the final weights, before they were made equal.

    Exactness: (Σ w)²/Σ w²
    Cost: none
    Bias: blind to modes that no particle reached
    Source: Kong, Liu and Wong (1994).
    """
    return {"ess": average(numbers["ess"], "samples", "of the final weights")}


METRICS: dict[str, Callable[[Answers, Tensor, Mapping[str, Tensor]], dict[str, Score]]] = {
    "sliced_w2": _sliced_w2,
    "mode_weights": _mode_weights,
    "evidence_error": _evidence,
    "ess": _ess,
}


def evaluate(
    names: Sequence[str], data: xr.Dataset, samples: xr.Dataset, likelihood: LikelihoodModel, stream: Stream
) -> Findings:
    """How far every sampler is from the exact posterior, beside how far exact draws are from each other."""
    known = answers(data, likelihood, int(samples.sizes["member"]), stream)
    rows: list[Row] = []
    floors: dict[str, Row] = {}
    for name in samples["posterior"].to_numpy().tolist():
        chosen = samples.sel(posterior=name)
        x = from_xarray(chosen["samples"], ("observation", "member", "dimension"))
        numbers = {key: from_xarray(chosen[key]) for key in ("log_evidence", "log_evidence_stderr", "ess")}
        for metric in names:
            for key, score in METRICS[metric](known, x, numbers).items():
                if key.endswith("_floor"):
                    floors[key] = Row(EXACT, key.removesuffix("_floor"), score)
                else:
                    rows.append(Row(str(name), key, score))
    return Findings([*rows, *floors.values()], _density(data, samples, known, rows))


def _density(data: xr.Dataset, samples: xr.Dataset, known: Answers, rows: Sequence[Row]) -> xr.Dataset:
    """The exact density of the first two coordinates on a grid, for the observation with the most even modes."""
    spread = torch.stack([-(p.weights * p.weights.clamp_min(1e-300).log()).sum() for p in known.posteriors])
    index = int(spread.argmax())
    posterior = known.posteriors[index]
    plane = GaussianMixture(posterior.weights, posterior.means[:, :2], posterior.covariances[:, :2, :2])
    drawn = torch.as_tensor(samples["samples"].to_numpy()[:, index, :, :2].reshape(-1, 2))
    shown = torch.cat([known.draws[index][:, :2], drawn])
    low, high = shown.quantile(0.002, dim=0) - 2, shown.quantile(0.998, dim=0) + 2
    x, y = (torch.linspace(float(a), float(b), GRID, dtype=torch.float64) for a, b in zip(low, high, strict=True))
    points = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 2)
    return to_xarray(
        {"log_density": plane.log_prob(points).reshape(GRID, GRID), "shown": np.int64(index),
         "exact_log_evidence": known.log_evidence, "exact_draws": known.draws[index]},
        {"log_density": ("y", "x"), "shown": (), "exact_log_evidence": ("observation",),
         "exact_draws": ("member", "dimension")},
        {"x": x.numpy(), "y": y.numpy()},
    )  # fmt: skip
