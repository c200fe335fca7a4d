"""What is good? Close to exact draws of the posterior, or of the target, which are known here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from sciflow.data.arrays import from_xarray, to_xarray
from sciflow.diffusion.mixture import GaussianMixture
from sciflow.domains.analytic import paths
from sciflow.domains.analytic.network import law, target
from sciflow.domains.protocol import Findings, Row
from sciflow.domains.recorded import likelihood as recorded
from sciflow.domains.recorded import log_likelihoods
from sciflow.domains.scored import FIT, FUNCTION_DIMS, fit_row, function_arrays, together
from sciflow.inverse.likelihood import GaussianLikelihood, LikelihoodModel
from sciflow.metrics.better import LESS, Direction
from sciflow.metrics.calibration import DISTANCE, QUANTITIES, sbc, tarp
from sciflow.metrics.particle import evidence_error, mode_weights, sliced_w2
from sciflow.metrics.score import Score, average
from sciflow.random import Stream

if TYPE_CHECKING:
    import xarray as xr

EXACT, REFERENCE = "exact draws", "reference"
DIMS = ("observation", "member", "dimension")
LEAST_MEMBERS = 1
NUMBERS = ("log_evidence", "log_evidence_stderr", "log_evidence_stderr_islands", "ess")
GRID = 121  # points of the plotted density along each axis


@dataclass(frozen=True)
class Answers:
    """The exact laws of every observation, and exact draws from them.

    Args:
        posteriors: one mixture for each observation.
        log_evidence: log p(y), or log Z of the target that the data set names, (observation,) [nat].
        draws, fresh: two independent sets of exact draws, (observation, member, dimension).
        stream: for the directions of projections.
        modes: the mode that each component belongs to; None: each is one.
    """

    posteriors: Sequence[GaussianMixture]
    log_evidence: Tensor
    draws: Tensor
    fresh: Tensor
    stream: Stream
    modes: Tensor | None = None

    def _gathered(self, values: Tensor) -> Tensor:
        """Components (…, component) summed into their modes."""
        if self.modes is None:
            return values
        summed = values.new_zeros(*values.shape[:-1], int(self.modes.max()) + 1)
        return summed.index_add_(-1, self.modes, values)

    @property
    def weights(self) -> Tensor:
        """Exact mode weights, (observation, mode)."""
        return self._gathered(torch.stack([posterior.weights for posterior in self.posteriors]))

    def responsibilities(self, x: Tensor) -> Tensor:
        """Probability of each mode given a draw, (observation, member, mode)."""
        pairs = zip(self.posteriors, x.double(), strict=True)
        return torch.stack([self._gathered(posterior.components(rows).softmax(-1)) for posterior, rows in pairs])


def answers(data: xr.Dataset, model: LikelihoodModel, n: int, stream: Stream) -> Answers:
    """What the samples should have been: the target that the data set names, or else the posterior.

    The posterior is that under the likelihood which the samples assumed.
    """
    named, modes = target(data), None
    if named is None:
        posteriors, evidence = _posteriors(data, model)
    else:
        posteriors = [named] * int(data.sizes["observation"])
        evidence = [from_xarray(data["target_log_evidence"], dtype=torch.float64).reshape(())] * len(posteriors)
        modes = from_xarray(data["target_mode"]).long()

    def draw(name: str) -> Tensor:
        return torch.stack([p.sample(n, stream.child(name, i)) for i, p in enumerate(posteriors)])

    return Answers(posteriors, torch.stack(evidence), draw("exact"), draw("fresh"), stream, modes)


def _posteriors(data: xr.Dataset, model: LikelihoodModel) -> tuple[list[GaussianMixture], list[Tensor]]:
    """The posterior and the log-evidence of each observation, in closed form."""
    prior, shape = law(data), (int(data.sizes["dimension"]),)
    posteriors, evidence = [], []
    for i in range(int(data.sizes["observation"])):
        likelihood = cast(GaussianLikelihood, recorded(model, data, i, shape, torch.float64))
        matrix = likelihood.operator(torch.eye(shape[0], dtype=torch.float64)).T
        posterior, log_evidence = prior.posterior(matrix, likelihood.observation, likelihood.sigma)
        posteriors.append(posterior)
        evidence.append(log_evidence)
    return posteriors, evidence


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
    stderr, islands = numbers["log_evidence_stderr"], numbers.get("log_evidence_stderr_islands")
    return evidence_error(answers.log_evidence, estimate, stderr=stderr, stderr_islands=islands)


def _ess(answers: Answers, x: Tensor, numbers: Mapping[str, Tensor]) -> dict[str, Score]:
    """Effective sample size of the final weights, before they were made equal.

    Exactness: (Σ w)²/Σ w²
    Cost: none
    Bias: blind to modes that no particle reached
    Source: Kong, Liu and Wong (1994).
    """
    return {"ess": average(numbers["ess"], "samples", "of the final weights")}


def _sbc(answers: Answers, x: Tensor, numbers: Mapping[str, Tensor]) -> dict[str, Score]:
    """Simulation-based calibration over observations.

    Exactness: as `sciflow.metrics.sbc`
    Cost: O(members × dimensions)
    Bias: conservative; needs truths that were drawn from the prior
    Source: Talts et al. (2018).
    """
    return {} if "truth" not in numbers else sbc(numbers["truth"], x, stream=answers.stream.child("sbc"))


def _tarp(answers: Answers, x: Tensor, numbers: Mapping[str, Tensor]) -> dict[str, Score]:
    """Tests of accuracy with random points over observations.

    Exactness: as `sciflow.metrics.tarp`
    Cost: O(members × dimensions)
    Bias: none; needs truths that were drawn from the prior
    Source: Lemos et al. (2023).
    """
    return {} if "truth" not in numbers else tarp(numbers["truth"], x, stream=answers.stream.child("tarp"))


def _path_error(answers: Answers, x: Tensor, numbers: Mapping[str, Tensor]) -> dict[str, Score]:
    """Median distance between the ends of `unguided` draws and those of the sampler "reference" from the same starts.

    Exactness: that of the reference; root mean square over coordinates, median over draws
    Cost: O(members)
    Bias: none; blind to the few draws that end in another mode
    Source: Lu et al. (2022), DPM-Solver, section 4.1, with a median.
    """
    if "reference" not in numbers:
        return {}
    distances = (x - numbers["reference"]).square().mean(-1).sqrt()
    return {"path_error": average(distances.median(-1).values)}


MIXTURE: dict[str, Callable[[Answers, Tensor, Mapping[str, Tensor]], dict[str, Score]]] = {
    "sliced_w2": _sliced_w2,
    "mode_weights": _mode_weights,
    "evidence_error": _evidence,
    "ess": _ess,
    "sbc": _sbc,
    "tarp": _tarp,
    "path_error": _path_error,
}
BETTER: dict[str, Mapping[str, Direction]] = {"path_error": {"path_error": LESS}, **paths.BETTER}
METRICS: dict[str, Callable] = {**MIXTURE, **paths.METRICS}
"""Those of mixtures, then those of paths; a metric of the other kind says nothing."""


def evaluate(
    names: Sequence[str], data: xr.Dataset, samples: xr.Dataset, likelihood: LikelihoodModel, stream: Stream,
    shown: Sequence[str] | None = None,
) -> Findings:  # fmt: skip
    """How far every sampler is from the exact posterior, beside exact draws; of paths, how far from the truth."""
    shown = names if shown is None else shown
    if "equation" in data.attrs:
        return paths.evaluate(names, data, samples, stream, shown)
    known = answers(data, likelihood, int(samples.sizes["member"]), stream)
    names_given = [str(name) for name in samples["posterior"].to_numpy()]
    drawn = {name: from_xarray(samples["samples"].sel(posterior=name), DIMS) for name in names_given}
    numbers = {name: _numbers(data, samples, drawn, name) for name in drawn}
    rows = [row for metric in names if metric in MIXTURE for row in _rows(metric, known, drawn, numbers)]
    if not shown:
        return Findings(rows, to_xarray({}, {}))
    ranked = {
        name: _functions(data, likelihood, numbers[name]["truth"], x, known)
        for name, x in drawn.items()
        if "truth" in numbers[name]
    }
    if "sbc" in shown:
        rows += [fit_row(name, arrays, len(known.posteriors)) for name, arrays in ranked.items()]
    arrays = _density(data, samples, known)
    if ranked:
        arrays = arrays.merge(together(ranked, FUNCTION_DIMS, {"quantity": [*QUANTITIES, FIT, DISTANCE]}))
    return Findings(rows, arrays)


def _numbers(data: xr.Dataset, samples: xr.Dataset, drawn: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """What metrics may ask for besides the draws of a sampler."""
    chosen = samples.sel(posterior=name)
    numbers = {key: from_xarray(chosen[key]) for key in NUMBERS if key in chosen}
    if name != REFERENCE and REFERENCE in drawn:
        numbers["reference"] = drawn[REFERENCE]
    if target(data) is None and "truth" in data.variables and drawn[name].shape[1] > 1:
        numbers["truth"] = from_xarray(data["truth"], ("observation", "dimension"))
    return numbers


def _rows(
    metric: str, known: Answers, drawn: Mapping[str, Tensor], numbers: Mapping[str, Mapping[str, Tensor]]
) -> list[Row]:
    """Rows of one metric for every sampler, then those of exact draws."""
    rows: list[Row] = []
    floors: dict[str, Row] = {}
    for name, x in drawn.items():
        for key, score in MIXTURE[metric](known, x, numbers[name]).items():
            if key.endswith("_floor"):
                floors[key] = Row(EXACT, key.removesuffix("_floor"), score)
            else:
                rows.append(Row(name, key, score))
    return [*rows, *floors.values()]


def _functions(data: xr.Dataset, model: LikelihoodModel, truth: Tensor, x: Tensor, known: Answers) -> dict[str, Tensor]:
    """The arrays behind the figure of rank functions, the exact likelihood among the quantities."""
    fits = log_likelihoods(model, data, truth[:, None])[:, 0], log_likelihoods(model, data, x)
    return function_arrays(truth, x, None, known.stream, {FIT: fits})


def _density(data: xr.Dataset, samples: xr.Dataset, known: Answers) -> xr.Dataset:
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
