"""A weighted ensemble and its numbers: what every posterior sampler returns."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.particles.resampling import ess, systematic
from sciflow.random import Stream


@dataclass(frozen=True)
class Particles:
    """Weighted draws from one law, with the evidence where the sampler knows it.

        E[f] ≈ Σ_i w_i f(x_i),   Σ_i w_i = 1

    Args:
        x: the particles, (n, *shape).
        log_weights: log w_i, normalised, float64, (n,).
        log_evidence: log Ẑ; NaN where the sampler gives none.
        log_evidence_stderr: its standard error from this run alone (see `Genealogy`); NaN where there is none.
        ess_trace: effective sample size after the start and after each step, before resampling.
        parents_trace: distinct particles that were kept at each of those points (n: no resampling).
        eve: founder of each particle, (n,).
        n_resampled: number of resamplings.
        events: what a reader should know, e.g. particles of weight zero; counted, never mended.
    """

    x: Tensor
    log_weights: Tensor
    log_evidence: float = math.nan
    log_evidence_stderr: float = math.nan
    ess_trace: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    parents_trace: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    eve: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    n_resampled: int = 0
    events: tuple[str, ...] = ()

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

    def mean(self) -> Tensor:
        """Σ_i w_i x_i, (*shape)."""
        return torch.tensordot(self.weights, self.x.double(), 1).to(self.x.dtype)

    def var(self) -> Tensor:
        """Σ_i w_i (x_i − mean)², (*shape)."""
        centred = self.x.double() - torch.tensordot(self.weights, self.x.double(), 1)
        return torch.tensordot(self.weights, centred**2, 1).to(self.x.dtype)

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
