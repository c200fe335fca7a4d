"""Adaptive tempering: temperatures, step sizes, metric and drift chosen from the particles, then frozen.

`pilot` has a loop of its own, the only one beside `smc`: it does not know how many moves there will be, and has neither
islands, ranks nor checkpoints. What it finds is for a run of `smc`, whose evidence is the one to quote.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sciflow.errors import InputError, NonFiniteError
from sciflow.particles.genealogy import Genealogy
from sciflow.particles.kernels import MALA, Kernel
from sciflow.particles.particles import Particles
from sciflow.particles.resampling import ess, log_mean_exp, systematic
from sciflow.particles.tempering import Path, Stage, advance, moved
from sciflow.particles.transport import Basis, Drift, fit_drift
from sciflow.random import Stream
from sciflow.solvers.metropolis import Scale, look

Metric = Literal["unit", "diagonal", "full"]
BISECTIONS = 30  # of an interval of inverse temperatures: to 1e-9 of its length


def next_temperature(log_weight: Callable[[float], Tensor], a: float, share: float) -> float:
    """The largest β in (a, 1] at which the conditional ESS is at least this share of n, by bisection.

        CESS(β) = n (Σ W_i w_i)²/Σ W_i w_i²;   for equal weights W it is the ESS of w

    Args:
        log_weight: β → log w of equally weighted particles of γ_a, (n,).
        a: where they are.
        share: in (0, 1).

    Source: Zhou, Johansen and Aston (2016), Toward automatic model comparison, section 3.2.2; Jasra, Stephens, Doucet
        and Tsagaris (2011) for the bisection.
    """

    def is_even(beta: float) -> bool:
        values = log_weight(beta)
        return float(ess(values)) >= share * len(values)

    if is_even(1.0):
        return 1.0
    low, high = a, 1.0
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if is_even(middle) else (low, middle)
    return low if low > a else high


@dataclass(frozen=True)
class Pilot:
    """What an adaptive run found, and its particles.

    Args:
        stages: temperatures with step, metric and map; give them to `Tempering` for a run with unbiased evidence.
        particles: equally weighted draws of the target, with the evidence of this very run: consistent, not unbiased,
            since the stages were chosen from the same particles.
        acceptance: mean acceptance at each temperature.
    """

    stages: tuple[Stage, ...]
    particles: Particles
    acceptance: tuple[float, ...]


@dataclass(frozen=True)
class Adaptation:
    """How a pilot run adapts to its particles.

    Args:
        share: conditional ESS at which the next temperature is put, as a share of the particles, in (0, 1).
        metric: steps in units of 1 ("unit"), of the standard deviation of each coordinate ("diagonal"), or of the
            Cholesky factor of the covariance ("full") of the particles.
        drift: basis of the fitted drift; "none" leaves particles where they are when the temperature changes.
        most: temperatures after which the run gives up.
    Raises:
        InputError: a share outside (0, 1).
    """

    share: float = 0.9
    metric: Metric = "diagonal"
    drift: Literal["none", "diagonal", "affine"] = "none"
    most: int = 500

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InputError(f"the share of the conditional ESS must lie in (0, 1), got {self.share}.")

    def scale(self, x: Tensor, log_weights: Tensor) -> Scale:
        """The metric of weighted particles, float64."""
        if self.metric == "unit":
            return 1.0
        weights, points = log_weights.double().softmax(0), x.double()
        centred = points - weights @ points
        if self.metric == "diagonal":
            return (weights @ centred**2).sqrt()
        covariance = (weights[:, None] * centred).T @ centred
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if int(failed):
            raise NonFiniteError(
                f"the covariance of {len(x)} particles in {x.shape[1]} dimensions is singular. Use more particles, or "
                "the metric 'diagonal'."
            )
        return factor


def pilot(
    path: Path,
    n: int,
    stream: Stream,
    kernel: Kernel | None = None,
    adaptation: Adaptation | None = None,
    n_moves: int = 1,
    tile: int = 4096,
    on_step: Callable[[int, float], None] | None = None,
) -> Pilot:
    """Annealed SMC that chooses temperatures, step sizes, metric and drift from its own particles as it goes.

    It resamples at every temperature, so that the conditional ESS is that of the weights. The step follows the mean
    acceptance: h ← h exp(acceptance − target), for kernels with a test.

    Target: γ/∫γ; evidence ∫γ.
    Exactness: consistent as n → ∞. Its evidence is not unbiased, because the stages depend on the particles; a run of
        `Tempering` with the stages found here, on another stream, is.
    Cost: as `Tempering` with n particles; with a drift about 30 log-densities more for each temperature.
    Bias: O(1/n) in means and evidence.
    Args:
        path: from base to target.
        n: particles.
        stream: random numbers.
        kernel: rejuvenation; MALA by default.
        adaptation: what adapts, and how.
        n_moves: moves at each temperature.
        tile: rows per call of a log-density.
        on_step: called with (temperatures done, inverse temperature); it may raise to stop.

    Raises:
        NonFiniteError: log-weights that are NaN or +inf, or a target that is not reached.
    Source: Beskos, Jasra, Kantas and Thiery (2016), On the convergence of adaptive sequential Monte Carlo methods;
        Buchholz, Chopin and Jacob (2021) for tuned kernels.
    """
    kernel, adaptation = kernel or MALA(), adaptation or Adaptation()
    x, step, beta = path.base.sample(n, stream.child("base")), kernel.step, 0.0
    family, log_evidence = Genealogy.of(n, x.device), 0.0
    stages: list[Stage] = []
    rates: list[float] = []
    sizes: list[float] = []
    while beta < 1:
        if len(stages) == adaptation.most:
            raise NonFiniteError(f"{len(stages)} temperatures reach β = {beta:.3g} only. Lower `share`, or move more.")
        drift = _drift(path, x, beta, adaptation.drift)
        ahead = _chosen(path, x, beta, drift, adaptation.share)
        transport = drift.flow(ahead - beta) if drift else None
        x, weight = advance(path, x, beta, ahead, transport)
        _refuse(weight, ahead)
        log_evidence += float(log_mean_exp(weight))
        log_weights = weight - weight.logsumexp(0)
        sizes.append(float(ess(log_weights)))
        own = stream.child("temperature", len(stages))
        stages.append(Stage(ahead, step, adaptation.scale(x, log_weights), transport))
        ancestors = systematic(log_weights, n, own.child("resample"))
        family, beta = family.resampled(ancestors, log_weights), ahead
        x, acceptance = moved(path.at(beta), x[ancestors], kernel, stages[-1], n_moves, own, tile)
        rates.append(rate := float(acceptance.mean()))
        step *= 1.0 if kernel.target_acceptance is None else math.exp(rate - kernel.target_acceptance)
        if on_step is not None:
            on_step(len(stages), beta)
    equal = torch.full((n,), -math.log(n), dtype=torch.float64, device=x.device)
    found = Particles(
        x, equal, log_evidence, family.stderr(equal), torch.tensor(sizes), eve=family.eve, n_resampled=len(stages),
        diagnostics={"acceptance": torch.tensor(rates, dtype=torch.float64)[:, None]},
    )  # fmt: skip
    return Pilot(tuple(stages), found, tuple(rates))


def _drift(path: Path, x: Tensor, beta: float, basis: Basis | Literal["none"]) -> Drift | None:
    if basis == "none":
        return None
    return fit_drift(x, look(path.at(beta), x, 1.0).slope, path.rate(x), basis)


def _chosen(path: Path, x: Tensor, beta: float, drift: Drift | None, share: float) -> float:
    """The next temperature."""
    if drift is None:
        rate = path.rate(x)
        _refuse(rate, beta)
        return next_temperature(lambda b: (b - beta) * rate, beta, share)
    return next_temperature(lambda b: advance(path, x, beta, b, drift.flow(b - beta))[1], beta, share)


def _refuse(weight: Tensor, beta: float) -> None:
    bad, dead = (weight.isnan() | (weight == math.inf)).sum(), (weight == -math.inf).all()
    if int(bad) or bool(dead):
        what = f"{int(bad)} of {len(weight)} log-weights are NaN or +inf" if int(bad) else "all particles weigh nothing"
        raise NonFiniteError(f"pilot run at β = {beta:.4g}: {what}. Check the target density there.")
