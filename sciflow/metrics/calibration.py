"""Are the credible intervals right? Ranks of the truth among its draws: coverage, rank histogram, SBC, TARP, curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sciflow.metrics.score import Ensemble, Score, average, checked, ratio
from sciflow.metrics.uniformity import LEVEL, Band, band, bonferroni, distribution, uniform_p_value
from sciflow.random import Stream

LEVELS = (0.5, 0.9)
CURVE_LEVELS = tuple(level / 100 for level in range(5, 100, 5))


@dataclass(frozen=True)
class CoverageCurve:
    """Share of truths inside the central interval of each level.

    Args:
        levels: nominal levels, (level,).
        coverage: observed shares, (level,).
        stderr: standard errors clustered by observation, (level,).
        n: observations.
    """

    levels: Tensor
    coverage: Tensor
    stderr: Tensor
    n: int


@dataclass(frozen=True)
class RankHistogram:
    """Density of the relative rank of the truth among its draws; 1 everywhere for a calibrated ensemble.

    Args:
        edges: of the bins on [0, 1], (bin + 1,).
        density: heights, (bin,).
        stderr: standard errors clustered by observation, (bin,).
        n: observations.
    """

    edges: Tensor
    density: Tensor
    stderr: Tensor
    n: int


def snap(samples: Tensor, levels: Tensor | Sequence[float]) -> Tensor:
    """Move each sample to the nearest value that the data can take.

    Digits have 17 grey levels: a continuous draw never ties with them, so its rank would say that a pixel drawn at
    0.003 differs from the 0 that was measured. Snap the draws first; ties are then broken at random.

    Args:
        samples: any shape.
        levels: the possible values, at least two.
    """
    samples = torch.as_tensor(samples)
    grid = torch.as_tensor(levels, dtype=samples.dtype, device=samples.device).sort().values
    return grid[torch.bucketize(samples, (grid[1:] + grid[:-1]) / 2)]


def relative_rank(data: Ensemble, stream: Stream | None = None) -> Tensor:
    """Relative rank of the truth among its m draws, ties and the place within a rank drawn at random.

        u = (#{X_i < y} + U · (#{X_i = y} + 1)) / (m + 1),    U ~ uniform(0, 1)

    u is exactly uniform on (0, 1) when the truth and its draws are exchangeable, for any m and any ties.

    Args:
        data: truth (observation, element) and samples (observation, member, element).
        stream: of the random places; None uses seed 0.

    Returns:
        u, (observation, element).

    Source: Czado, Gneiting and Held (2009), randomised PIT, with m draws in place of a distribution.
    """
    n, n_elements = data.truth.shape
    places = (stream or Stream(0, ("ties",))).uniform(n, (n_elements,), dtype=torch.float64)
    below = (data.samples < data.truth[:, None]).sum(1)
    ties = (data.samples == data.truth[:, None]).sum(1)
    return (below + places * (ties + 1)) / (data.n_members + 1)


def coverage(
    truth: Tensor, samples: Tensor, *, mask: Tensor | None = None, stream: Stream | None = None, unit: str = "1"
) -> dict[str, Score]:
    """Share of truths inside their central 50 % and 90 % credible intervals.

        mean of 1{ |u − 1/2| ≤ level / 2 },  u the relative rank of the truth among its draws

    Exactness: equals the level in expectation for exchangeable draws, any number of members, ties included
    Cost: O(members × elements)
    Bias: none; standard error clustered by observation

    Args:
        truth: (observation, *event), in `unit`.
        samples: (observation, member, *event), in `unit`; `snap` them if the data take few values.
        mask: (observation, *event), true where an element counts, e.g. unobserved pixels that vary.
        stream: of the random places among ties.
        unit: not used; part of the common signature.

    Returns:
        `coverage_50` and `coverage_90`, shares in [0, 1]; the note says in words which way they are off.

    Source: Gneiting, Balabdaoui and Raftery (2007), central prediction intervals.
    """
    data = checked(truth, samples, mask)
    inside = (relative_rank(data, stream) - 0.5).abs()
    found = {}
    for level in LEVELS:
        score = data.mean((inside <= level / 2).double())
        found[f"coverage_{100 * level:.0f}"] = Score(score.value, score.stderr, score.n, "1", verdict(score, level))
    return found


def verdict(score: Score, level: float) -> str:
    """What a coverage says about the posterior, in words; three standard errors decide."""
    nominal = f"nominal {level:.2f}; "
    if math.isnan(score.stderr):
        return nominal + "one observation gives no standard error"
    stderr = score.stderr or math.sqrt(level * (1 - level) / score.n)  # all inside or all outside: binomial error
    if abs(score.value - level) <= 3 * stderr:
        return nominal + "calibrated within 3 standard errors"
    return nominal + ("over-confident: too narrow" if score.value < level else "under-confident: too wide")


def coverage_curve(
    truth: Tensor,
    samples: Tensor,
    *,
    mask: Tensor | None = None,
    stream: Stream | None = None,
    levels: Sequence[float] = CURVE_LEVELS,
) -> CoverageCurve:
    """Coverage at every level, for the calibration figure. Arguments as in `coverage`."""
    data = checked(truth, samples, mask)
    inside = (relative_rank(data, stream) - 0.5).abs()
    scores = [data.mean((inside <= level / 2).double()) for level in levels]
    values, stderrs = (torch.tensor([getattr(s, name) for s in scores]) for name in ("value", "stderr"))
    return CoverageCurve(torch.tensor(levels), values, stderrs, scores[0].n)


def rank_counts(
    truth: Tensor,
    samples: Tensor,
    *,
    mask: Tensor | None = None,
    stream: Stream | None = None,
    n_bins: int | None = None,
) -> RankHistogram:
    """Histogram of the relative rank, for the figure; by default at most 20 bins. Arguments as in `coverage`."""
    data = checked(truth, samples, mask)
    counts = _bins(data, stream, n_bins)
    columns = [ratio(counts[:, b], counts.sum(1)) for b in range(counts.shape[1])]
    heights = counts.shape[1] * torch.tensor([column[:2] for column in columns], dtype=torch.float64)
    edges = torch.linspace(0, 1, counts.shape[1] + 1, dtype=torch.float64)
    return RankHistogram(edges, heights[:, 0], heights[:, 1], columns[0][2])


def rank_histogram(
    truth: Tensor, samples: Tensor, *, mask: Tensor | None = None, stream: Stream | None = None, unit: str = "1"
) -> dict[str, Score]:
    """How far the ranks of the truth are from uniform: distance, tilt and curvature.

        distance   = mean over B bins of (height − 1)², less its sampling noise   (pairs of different observations only)
        bias       = mean u − 1/2              above 0: the draws are too low
        dispersion = 12 mean (u − 1/2)² − 1    above 0: too narrow (U shape); below 0: too wide

    Exactness: all three have expectation 0 for exchangeable draws, any number of members, ties included
    Cost: O(members × elements)
    Bias: none; the distance may be negative, its standard error is a jackknife over observations (safe near 0)

    Args:
        truth: (observation, *event), in `unit`.
        samples: (observation, member, *event), in `unit`; `snap` them if the data take few values.
        mask: (observation, *event), true where an element counts.
        stream: of the random places among ties.
        unit: not used; part of the common signature.

    Returns:
        `rank_distance`, `rank_bias`, `rank_dispersion`, dimensionless.

    Source: Hamill (2001), rank histogram; Hoeffding (1948), U-statistics, for the noise.
    """
    data = checked(truth, samples, mask)
    u = relative_rank(data, stream) - 0.5
    return {
        "rank_distance": _distance(_bins(data, stream, None)),
        "rank_bias": data.mean(u, note="above 0: draws too low"),
        "rank_dispersion": data.mean(12 * u**2 - 1, note="above 0: too narrow, below 0: too wide"),
    }


def _bins(data: Ensemble, stream: Stream | None, n_bins: int | None) -> Tensor:
    """Counts of relative ranks, (observation, bin)."""
    n_bins = n_bins or min(data.n_members + 1, 20)
    index = (relative_rank(data, stream) * n_bins).long().clamp(max=n_bins - 1)
    return torch.stack([data.sum((index == b).double()) for b in range(n_bins)], dim=1)


def _distance(counts: Tensor) -> Score:
    """Squared distance from the flat histogram over pairs of different observations, with its jackknife error."""
    sizes = counts.sum(1)
    counts, sizes = counts[sizes > 0], sizes[sizes > 0]
    k, n_bins = counts.shape
    excess = counts - sizes[:, None] / n_bins

    def pairs(sums: Tensor, squares: Tensor, total: Tensor, total_squares: Tensor) -> Tensor:
        return n_bins * (sums**2 - squares).sum(-1) / (total**2 - total_squares)

    moments = excess.sum(0), (excess**2).sum(0), sizes.sum(), (sizes**2).sum()
    value = float(pairs(*moments)) if k > 1 else math.nan
    if k < 3:
        return Score(value, math.nan, k, "1", "needs three observations for a standard error")
    left_out = pairs(moments[0] - excess, moments[1] - excess**2, moments[2] - sizes, moments[3] - sizes**2)
    stderr = math.sqrt((k - 1) / k) * float((left_out - left_out.mean()).norm())
    return Score(value, stderr, k, "1", f"{n_bins} bins; 0 is flat")


@dataclass(frozen=True)
class RankFunctions:
    """Distribution functions of the rank of the truth, one for each test quantity, with their band.

    Args:
        names: of the test quantities.
        functions: share of observations whose relative rank is below each point, (quantity, point).
        band: where one of them lies, at all points at once, for a calibrated posterior.
        p_values: of each.
    """

    names: tuple[str, ...]
    functions: Tensor
    band: Band
    p_values: tuple[float, ...]


N_PROJECTIONS = 2
QUANTITIES = ("mean", "mean square", *(f"projection {k + 1}" for k in range(N_PROJECTIONS)))
DISTANCE = "distance"


def quantities(data: Ensemble, stream: Stream) -> dict[str, tuple[Tensor, Tensor]]:
    """What is ranked of an event: mean, mean square, projections on random directions; over the elements that count."""
    count = data.mask.double().sum(1).clamp_min(1)
    directions = stream.child("directions").normal(N_PROJECTIONS, (data.truth.shape[1],), dtype=torch.float64)

    def measured(x: Tensor) -> list[Tensor]:
        mask, each = (data.mask, count) if x.ndim == 2 else (data.mask[:, None], count[:, None])
        kept = x * mask
        return [kept.sum(-1) / each, kept.square().sum(-1) / each, *(kept @ directions.T).unbind(-1)]

    return dict(zip(QUANTITIES, zip(measured(data.truth), measured(data.samples), strict=True), strict=True))


def distances(data: Ensemble, reference: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Distances of truth (observation,) and draws (observation, member) from a reference; by default the first draw.

    Exchangeable for a calibrated posterior given any reference that does not depend on the truth.
    """
    first = data.samples[:, 0] if reference is None else reference.flatten(1).double()
    drawn = data.samples[:, 1:] if reference is None else data.samples
    return ((data.truth - first) * data.mask).norm(dim=1), ((drawn - first[:, None]) * data.mask[:, None]).norm(dim=2)


def _ranked(truth: Tensor, samples: Tensor, stream: Stream) -> Tensor:
    """Relative ranks of one quantity, (observation,)."""
    return relative_rank(checked(truth[:, None], samples[..., None]), stream)[:, 0]


def rank_functions(
    truth: Tensor,
    samples: Tensor,
    *,
    mask: Tensor | None = None,
    stream: Stream | None = None,
    reference: Tensor | None = None,
    more: Mapping[str, tuple[Tensor, Tensor]] | None = None,
) -> RankFunctions:
    """Ranks of test quantities and of the distance from a reference (TARP), for the figure and its numbers.

    Args:
        truth, samples, mask, stream: as in `coverage`.
        reference: made of the observation, shaped like `truth`: without one that looks at y, or a quantity that does,
            draws of the prior pass for a posterior.
        more: further quantities, name → (of the truth (observation,), of the draws (observation, member)).
    Source: Talts et al. (2018); Modrák et al. (2023) for quantities that look at the data; Lemos et al. (2023).
    """
    data, stream = checked(truth, samples, mask, 2), stream or Stream(0, ("sbc",))
    ranked = {**quantities(data, stream), **(more or {}), DISTANCE: distances(data, reference)}
    ranks = [_ranked(*pair, stream.child("ties", name)) for name, pair in ranked.items()]
    functions = torch.stack([distribution(u) for u in ranks])
    return RankFunctions(tuple(ranked), functions, band(len(ranks[0])), tuple(uniform_p_value(u) for u in ranks))


def sbc(
    truth: Tensor, samples: Tensor, *, mask: Tensor | None = None, stream: Stream | None = None, unit: str = "1"
) -> dict[str, Score]:
    """Simulation-based calibration: whether ranks of the truth are uniform over observations.

        p = q · min over q test quantities of P(a uniform sample departs as far),   at most 1

    The quantities are mean, mean square and two random projections of the event.

    Exactness: P(p ≤ a) ≤ a for exchangeable draws, any number of members and observations, ties included
    Cost: O(members × elements), and O(observations^{3/2}) for the exact probability
    Bias: conservative; none of these quantities looks at the observation, so that draws of the prior pass

    Args:
        truth: (observation, *event), drawn from the prior: as many independent cases as there are observations.
        samples: (observation, member, *event).
        mask: (observation, *event), true where an element counts.
        stream: of the projections and the random places among ties.
        unit: not used; part of the common signature.

    Returns:
        `sbc_p`, without a standard error: a p-value is a statement about one set of truths.

    Source: Talts et al. (2018), Validating Bayesian inference algorithms with simulation-based calibration; Säilynoja,
        Bürkner and Vehtari (2022), Graphical test for discrete uniformity, for the band.
    """
    data, stream = checked(truth, samples, mask, 2), stream or Stream(0, ("sbc",))
    ranked = quantities(data, stream)
    values = {name: uniform_p_value(_ranked(*pair, stream.child("ties", name))) for name, pair in ranked.items()}
    worst, p = min(values, key=lambda name: values[name]), bonferroni(list(values.values()))
    note = "ranks are uniform as far as can be seen" if p > 1 - LEVEL else f"ranks of the {worst} are not uniform"
    return {"sbc_p": Score(p, math.nan, len(data.truth), "1", note)}


def tarp(
    truth: Tensor, samples: Tensor, *, mask: Tensor | None = None, stream: Stream | None = None, unit: str = "1"
) -> dict[str, Score]:
    """Tests of accuracy with random points: whether the truth is as far from a reference as its draws are.

        f = share of the draws that are nearer to the reference than the truth
        ATC = ∫_{1/2}^1 (P(f < a) − a) da,   above 0: too wide, below 0: too narrow

    The reference of each observation is one of its own draws, which is then left out.

    Exactness: expectation 0 for exchangeable draws, any number of members, ties included
    Cost: O(members × elements)
    Bias: none; the reference does not look at the observation, so that draws of the prior pass

    Args:
        truth: (observation, *event).
        samples: (observation, member, *event), at least two members.
        mask: (observation, *event), true where an element counts.
        stream: of the random places among ties.
        unit: not used; part of the common signature.

    Returns:
        `tarp_atc`, dimensionless.

    Source: Lemos et al. (2023), Sampling-based accuracy testing of posterior estimators for general inference.
    """
    data = checked(truth, samples, mask, 2)
    u = _ranked(*distances(data), stream or Stream(0, ("tarp",)))
    return {"tarp_atc": average(1 - u.clamp_min(0.5) - 3 / 8, note="above 0: too wide, below 0: too narrow")}
