"""What domains of fields and images answer to "what is good?": close to the truth, and as uncertain as wrong."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sciflow.data.arrays import to_xarray
from sciflow.domains.protocol import Findings, Row
from sciflow.metrics import METRICS
from sciflow.metrics.calibration import DISTANCE, QUANTITIES, coverage_curve, rank_counts, rank_functions, snap
from sciflow.metrics.score import Score
from sciflow.metrics.uniformity import LEVEL
from sciflow.random import Stream

if TYPE_CHECKING:
    import xarray as xr

WHOLE = ("psnr", "ssim", "rmse", "energy_score")  # of whole events; the others look at the mask
MOST_BINS = 20  # of a rank histogram
RANKED = ("coverage", "rank_histogram", "sbc", "tarp")
FIT = "log-likelihood"
FUNCTION_DIMS = {
    "rank_function": ("posterior", "quantity", "point"), "rank_p": ("posterior", "quantity"),
    "rank_point": ("point",), "rank_low": ("point",), "rank_high": ("point",),
}  # fmt: skip
LEAST_MEMBERS = 2  # spread, ranks and intervals need two draws


@dataclass(frozen=True, eq=False)
class Metrics(Mapping[str, Callable[..., Any]]):
    """METRICS as a domain sees it: with entries of its own, and without those that do not fit; plugins add to it.

    Args:
        own: what the domain adds.
        without: names of METRICS that are left out.
    """

    own: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    without: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Callable[..., Any]:
        if name in self.without:
            raise KeyError(name)
        return self.own[name] if name in self.own else METRICS[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name in (*METRICS, *self.own) if name not in self.without)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True, eq=False)
class Scores:
    """Draws of every posterior against the truth: rows metric by metric, and the arrays behind the calibration figures.

    Args:
        truth: (observation, *event).
        draws: posterior → (observation, member, *event).
        mask: what had to be inferred, bool, (observation, *event).
        stream: for ties and projections.
        unit: of the data.
        levels: the values that the data take, if they are few: draws are rounded to them before ranking.
        fit: a quantity that looks at the data, (observation, k, *event) → (observation, k), e.g. the log-likelihood.
    """

    truth: Tensor
    draws: Mapping[str, Tensor]
    mask: Tensor
    stream: Stream
    unit: str = "1"
    levels: Tensor | None = None
    fit: Callable[[Tensor], Tensor] | None = None

    @functools.cached_property
    def ranked(self) -> Mapping[str, Tensor]:
        """The draws as they are ranked."""
        levels = self.levels
        return self.draws if levels is None else {name: snap(drawn, levels) for name, drawn in self.draws.items()}

    def rows(self, metric: str) -> list[Row]:
        """One of METRICS, of every posterior."""
        rows = []
        for name, drawn in (self.ranked if metric in RANKED else self.draws).items():
            mask, stream = None if metric in WHOLE else self.mask, self.stream.child(metric)
            scores = METRICS[metric](self.truth, drawn, mask=mask, stream=stream, unit=self.unit)
            rows += [Row(str(name), key, value) for key, value in scores.items()]
        return rows

    def calibration(self, shown: Sequence[str]) -> Findings:
        """The arrays, and the rows that are made of them; nothing where no metric is shown."""
        if not shown:
            return Findings((), to_xarray({}, {}))
        rows, arrays = [], {}
        n_bins = min(MOST_BINS, *(drawn.shape[1] + 1 for drawn in self.draws.values()))  # one histogram for all
        for name, ranked in self.ranked.items():
            more = {} if self.fit is None else {FIT: (self.fit(self.truth[:, None])[:, 0], self.fit(ranked))}
            arrays[str(name)] = _curves(self.truth, ranked, self.mask, self.stream, n_bins)
            arrays[str(name)] |= function_arrays(self.truth, ranked, self.mask, self.stream, more)
            if more and "sbc" in shown:
                rows.append(fit_row(str(name), arrays[str(name)], len(self.truth)))
        quantities = [*QUANTITIES, *(() if self.fit is None else (FIT,)), DISTANCE]
        return Findings(rows, _named(arrays, quantities))


def function_arrays(
    truth: Tensor, samples: Tensor, mask: Tensor | None, stream: Stream, more: Mapping[str, tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    """The arrays behind the figure of rank functions, for one posterior; dims are those of FUNCTION_DIMS."""
    found = rank_functions(truth, samples, mask=mask, stream=stream.child("sbc"), more=more)
    return {
        "rank_point": found.band.points, "rank_low": found.band.low, "rank_high": found.band.high,
        "rank_function": found.functions, "rank_p": torch.tensor(found.p_values, dtype=torch.float64),
    }  # fmt: skip


def fit_row(posterior: str, arrays: Mapping[str, Tensor], n: int) -> Row:
    """The p-value of the ranks of the quantity that looks at the data: draws of the prior do not pass it."""
    p = float(arrays["rank_p"][len(QUANTITIES)])
    note = f"ranks of the {FIT} are {'not ' * (p < 1 - LEVEL)}uniform{' as far as can be seen' * (p >= 1 - LEVEL)}"
    return Row(posterior, "sbc_fit_p", Score(p, math.nan, n, "1", note))


def _curves(truth: Tensor, samples: Tensor, mask: Tensor, stream: Stream, n_bins: int) -> dict[str, Tensor]:
    curve = coverage_curve(truth, samples, mask=mask, stream=stream.child("coverage"))
    ranks = rank_counts(truth, samples, mask=mask, stream=stream.child("rank_histogram"), n_bins=n_bins)
    return {
        "level": curve.levels, "coverage": curve.coverage, "coverage_stderr": curve.stderr,
        "rank_edge": ranks.edges, "rank_density": ranks.density, "rank_density_stderr": ranks.stderr,
    }  # fmt: skip


def _named(arrays: Mapping[str, Mapping[str, Tensor]], quantities: Sequence[str]) -> xr.Dataset:
    dims = {"rank_edge": ("edge",), **FUNCTION_DIMS}
    dims |= {name: ("posterior", "level") for name in ("coverage", "coverage_stderr")}
    dims |= {name: ("posterior", "bin") for name in ("rank_density", "rank_density_stderr")}
    return together(arrays, dims, {"level": next(iter(arrays.values()))["level"].numpy(), "quantity": quantities})


def together(
    arrays: Mapping[str, Mapping[str, Tensor]], dims: Mapping[str, tuple[str, ...]], coords: Mapping[str, Any]
) -> xr.Dataset:
    """The arrays of every posterior as one; what has no dim of that name is the same for all."""
    first = next(iter(arrays.values()))
    values = {
        name: torch.stack([found[name] for found in arrays.values()]) if "posterior" in of else first[name]
        for name, of in dims.items()
    }
    return to_xarray(
        values, dims, {"posterior": np.array(list(arrays)), **{k: np.asarray(v) for k, v in coords.items()}}
    )
