"""A weighted ensemble and its numbers: what every posterior sampler returns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.particles.ranks import Ranks
from sciflow.particles.resampling import ess, systematic
from sciflow.random import Stream


def _no_numbers() -> Tensor:
    return torch.empty(0, dtype=torch.float64)


def _no_indices() -> Tensor:
    return torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True)
class Particles:
    """Weighted draws from one law, with the evidence where the sampler knows it.

        E[f] ≈ Σ_i w_i f(x_i),   Σ_i w_i = 1

    Args:
        x: the particles, (n, *shape).
        log_weights: log w_i, normalised, float64, (n,).
        log_evidence: log Ẑ; NaN where the sampler gives none.
        log_evidence_stderr: its standard error from the genealogy of this run (see `Genealogy`); NaN without.
        log_evidence_stderr_islands: its standard error from the spread of independent islands; NaN for a single one.
        log_evidence_interval: 95 % interval of log Z, from islands where there are 4 or more, else from the genealogy.
        island_log_evidence: log Ẑ of each island.
        ess_trace: effective sample size after the start and after each step, before resampling.
        parents_trace: distinct particles that were kept at each of those points (n: no resampling).
        evidence_trace: log Ẑ at each of those points.
        eve: founder of each particle, (n,).
        n_resampled: number of resamplings, over all islands.
        events: what a reader should know, e.g. particles of weight zero; counted, never mended.
        diagnostics: name → (step, J), after the start and after each step, NaN where the sampler said nothing then:
            "acceptance" of its moves and "weight_zero", shares of the particles; "control_…", coefficients θ.
    """

    x: Tensor
    log_weights: Tensor
    log_evidence: float = math.nan
    log_evidence_stderr: float = math.nan
    ess_trace: Tensor = field(default_factory=_no_numbers)
    parents_trace: Tensor = field(default_factory=_no_indices)
    eve: Tensor = field(default_factory=_no_indices)
    n_resampled: int = 0
    events: tuple[str, ...] = ()
    log_evidence_stderr_islands: float = math.nan
    log_evidence_interval: tuple[float, float] = (math.nan, math.nan)
    island_log_evidence: Tensor = field(default_factory=_no_numbers)
    evidence_trace: Tensor = field(default_factory=_no_numbers)
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def equal(cls, x: Tensor, events: tuple[str, ...] = ()) -> Particles:
        """Equally weighted independent draws."""
        n = len(x)
        weights = torch.full((n,), -math.log(n), dtype=torch.float64, device=x.device)
        return cls(x, weights, eve=torch.arange(n, device=x.device), events=events)

    def __len__(self) -> int:
        return len(self.x)

    @property
    def weights(self) -> Tensor:
        """w_i, (n,), float64."""
        return self.log_weights.exp()

    @property
    def n_families(self) -> int:
        """Founders that still have a descendant: a handful means that the ensemble is impoverished."""
        return len(self.eve.unique())

    def ess(self) -> float:
        """Effective sample size of the final weights; says nothing of duplicates, `n_families` does."""
        return float(ess(self.log_weights))

    @property
    def ess_min(self) -> float:
        """Smallest effective sample size on the way; NaN for a sampler that has no way."""
        return float(self.ess_trace.min()) if len(self.ess_trace) else math.nan

    def mean(self) -> Tensor:
        """Σ_i w_i x_i, (*shape); float64 for states that are whole numbers."""
        return torch.tensordot(self.weights, self.x.double(), 1).to(self._real)

    def var(self) -> Tensor:
        """Σ_i w_i (x_i − mean)², (*shape)."""
        centred = self.x.double() - torch.tensordot(self.weights, self.x.double(), 1)
        return torch.tensordot(self.weights, centred**2, 1).to(self._real)

    @property
    def _real(self) -> torch.dtype:
        return self.x.dtype if self.x.is_floating_point() else torch.float64

    def quantile(self, q: float) -> Tensor:
        """The smallest x whose cumulative weight reaches q in each coordinate, (*shape).

        Raises:
            InputError: q outside [0, 1].
        """
        if not 0 <= q <= 1:
            raise InputError(f"a quantile needs 0 ≤ q ≤ 1, got {q}.")
        values, order = self.x.flatten(1).sort(0)
        reached = self.weights[order].cumsum(0) < q * (1 - 1e-12)  # rounding must not skip the particle that reaches q
        index = reached.sum(0, keepdim=True).clamp_max(len(self) - 1)
        return values.gather(0, index).reshape(self.x.shape[1:])

    def gathered(self, ranks: Ranks) -> Particles:
        """The whole ensemble on every rank, from the part that each has."""
        lengths = ranks.gathered(torch.tensor([len(self)]), [1] * ranks.size).tolist()
        x, log_weights, eve = (ranks.gathered(part, lengths) for part in (self.x, self.log_weights, self.eve))
        return replace(self, x=x, log_weights=log_weights, eve=eve)

    def resample(self, n: int, stream: Stream) -> Particles:
        """n equally weighted particles, in random order; particles that are equal and n already are left as they are.

        Raises:
            InputError: n < 1.
        """
        if n < 1:
            raise InputError(f"resample needs n ≥ 1, got {n}.")
        if n == len(self) and bool((self.log_weights == self.log_weights[0]).all()):
            return self
        index = systematic(self.log_weights, n, stream.child("ancestors"))
        generator = stream.child("order").generator(device=index.device)
        index = index[torch.randperm(n, generator=generator, device=index.device)]
        drawn = Particles.equal(self.x[index])
        eve = self.eve[index] if len(self.eve) else drawn.eve
        return replace(self, x=drawn.x, log_weights=drawn.log_weights, eve=eve)
