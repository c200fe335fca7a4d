"""Denoising MCMC: a Markov chain over states and noise levels together, whose states are denoised from where they are.

The chain runs on p(y, u) = p_u(y) p(u) for y = x/α, the data blurred by noise of standard deviation u. At large u it
crosses between modes; from small u a few solver steps denoise. All in y, where the score is (D − y)/u².
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.flow import probability_flow
from sciflow.diffusion.schedule import Schedule
from sciflow.random import Stream
from sciflow.search.gaussian import Moments
from sciflow.solvers.exponential import EABM
from sciflow.solvers.solve import Solver, solve
from sciflow.types import broadcast

LevelLaw = Callable[[Tensor], Tensor]
"""log p_u(y) + constant for each row and each level, (batch, *shape) → (batch, levels)."""


@dataclass(frozen=True)
class Chain:
    """States y = x/α, and for each the index of its noise level."""

    y: Tensor
    level: Tensor


@dataclass(frozen=True)
class DenoisingMCMC:
    """Langevin steps at the level of each row, and exact draws of the level given the state.

        y ← y + (η/2) (D − y)/u² + √η z,   η = step · (u² + least);   u ~ p(u | y) ∝ p(u) p_u(y)

    Exactness: the draw of the level is exact; the Langevin step has a bias O(step). On N(0, c²) and at a fixed level
        the stationary variance is v/(1 − η/4v), v = c² + u².
    Cost: 1 denoiser call per step, and what `law` costs.
    Bias: O(step); draws of one chain are correlated: report their effective sample size.
    Args:
        denoiser: the model.
        times: of the noise levels, any order.
        law: log p_u(y) at all levels; see `level_law` and `gaussian_law`.
        prior: log p(u) of each level up to a constant; None is uniform over the levels.
        step: η over u² + least, below 4 for stability.
        least: smallest variance of the data [squared data units]; 0 where it is not known.
    Raises:
        ValueError: a step that cannot be stable.
    Source: Kim and Ye (2023), Denoising MCMC, algorithm 1; the exact level and the scaled step are ours.
    """

    denoiser: Denoiser
    times: tuple[float, ...]
    law: LevelLaw
    prior: tuple[float, ...] | None = None
    step: float = 0.5
    least: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.step < 4:
            raise ValueError(f"step must lie between 0 and 4, where the Langevin step is stable, got {self.step}.")

    def _ratio(self, chain: Chain) -> tuple[Tensor, Tensor, Tensor]:
        """Times, α and u of each row."""
        grid = torch.tensor(self.times, dtype=torch.float64, device=chain.y.device)
        t = grid[chain.level]
        schedule = self.denoiser.schedule
        return t, schedule.alpha(t), schedule.sigma(t) / schedule.alpha(t)

    def move(self, chain: Chain, noise: Tensor) -> Chain:
        """One Langevin step at the level of each row; noise: standard normal, like y."""
        t, alpha, ratio = self._ratio(chain)
        squared = broadcast(ratio.to(chain.y.dtype), chain.y) ** 2
        eta = self.step * (squared + self.least)
        data = self.denoiser(chain.y * broadcast(alpha.to(chain.y.dtype), chain.y), t)
        return Chain(chain.y + 0.5 * eta * (data - chain.y) / squared + eta**0.5 * noise, chain.level)

    def relevel(self, chain: Chain, uniform: Tensor) -> Chain:
        """A fresh level for each row given its state; uniform: numbers in [0, 1), one for each row."""
        logits = self.law(chain.y).double()
        if self.prior is not None:
            logits = logits + torch.tensor(self.prior, dtype=torch.float64, device=logits.device)
        reached = logits.softmax(-1).cumsum(-1)
        level = torch.searchsorted(reached, uniform.double()[:, None], right=True)[:, 0]
        return Chain(chain.y, level.clamp_max(len(self.times) - 1))

    def run(self, chain: Chain, n_steps: int, stream: Stream) -> Chain:
        """Many steps: a move, then a level. Row k gets the same numbers for any number of rows."""
        n, *shape = chain.y.shape
        options = {"dtype": chain.y.dtype, "device": chain.y.device}
        with torch.no_grad():
            for k in range(n_steps):
                chain = self.move(chain, stream.child("move").normal(n, shape, step=k, **options))
                chain = self.relevel(
                    chain, stream.child("level").uniform(n, step=k, dtype=torch.float64).to(chain.y.device)
                )
        return chain

    def denoised(self, chain: Chain, stop: float, n_steps: int, solver: Solver | None = None) -> Tensor:
        """Every state carried from its own level to time `stop` along the flow; the chain goes on from where it was.

        Rows of a level share a grid, equidistant in λ; those beyond `stop` already stay.
        """
        result, schedule = chain.y.clone(), self.denoiser.schedule
        with torch.no_grad():
            for level in chain.level.unique().tolist():
                start, rows = self.times[level], (chain.level == level).nonzero()[:, 0]
                if start >= stop:
                    continue
                low, high = float(schedule.log_snr(start)), float(schedule.log_snr(stop))
                inner = schedule.time(torch.linspace(low, high, n_steps + 1, dtype=torch.float64))[1:-1].tolist()
                x = solve(
                    probability_flow(self.denoiser),
                    chain.y[rows] * float(schedule.alpha(start)),
                    [start, *inner, stop],
                    solver or EABM(2, "data"),
                )
                result[rows] = x / float(schedule.alpha(stop))
        return result


def level_law(denoiser: Denoiser, times: tuple[float, ...]) -> LevelLaw:
    """The exact law of the level, for a denoiser that knows log p_t: a closed-form one."""

    def law(y: Tensor) -> Tensor:
        alpha = [float(denoiser.schedule.alpha(t)) for t in times]
        size = y[0].numel()  # of x = α y: the density of y is α^d that of x
        rows = [denoiser.log_prob(a * y, t) + size * math.log(a) for a, t in zip(alpha, times, strict=True)]  # type: ignore[attr-defined]
        return torch.stack(rows, -1)

    return law


def gaussian_law(denoiser: Denoiser, times: tuple[float, ...], variances: Tensor, mean: Tensor) -> LevelLaw:
    """The law of the level as if the data were Gaussian with independent coordinates; for networks, and biased.

    Args:
        denoiser: the model; only its schedule is asked.
        times: of the levels.
        variances: of each coordinate, shape (*shape).
        mean: shape (*shape).
    """
    ratios = [float(denoiser.schedule.sigma(t) / denoiser.schedule.alpha(t)) for t in times]

    def law(y: Tensor) -> Tensor:
        centred = (y - mean.to(y)).flatten(1).double()
        spread = variances.to(y.device).double().flatten()
        rows = [-0.5 * (centred**2 / (spread + u**2) + (spread + u**2).log()).sum(-1) for u in ratios]
        return torch.stack(rows, -1)

    return law


def moments_law(moments: Moments, schedule: Schedule, times: tuple[float, ...]) -> LevelLaw:
    """The law of the level as if the data were Gaussian with these moments, correlations included."""
    ratios = torch.tensor([float(schedule.sigma(t) / schedule.alpha(t)) for t in times], dtype=torch.float64)
    variances = moments.variances[:, None] + ratios**2  # (r, levels)
    across = moments.floor + ratios**2
    n_across = moments.mean.numel() - len(moments.variances)

    def law(y: Tensor) -> Tensor:
        centred = (y.double().cpu() - moments.mean).flatten(1)
        rotated = centred @ moments.directions
        left = (centred.square().sum(1) - rotated.square().sum(1)).clamp_min(0)
        squared = rotated.square() @ (1 / variances) + left[:, None] / across
        return (-0.5 * (squared + variances.log().sum(0) + n_across * across.log())).to(y.device)

    return law


def effective_size(values: Tensor) -> float:
    """Effective number of independent draws in a chain of numbers, shape (steps,).

        n / (1 + 2 Σ ρ_k) over the autocorrelations, in pairs, until a pair is negative

    Source: Geyer (1992), Practical Markov chain Monte Carlo, section 3.3.
    """
    centred = (values - values.mean()).double()
    n = len(centred)
    spectrum = torch.fft.rfft(centred, 2 * n)
    correlation = torch.fft.irfft(spectrum.abs() ** 2, 2 * n)[:n]
    if float(correlation[0]) <= 0:
        return float(n)
    pairs = (correlation / correlation[0])[: n - n % 2].reshape(-1, 2).sum(-1)
    negative = (pairs <= 0).nonzero()
    stop = int(negative[0]) if len(negative) else len(pairs)
    return n / max(float(2 * pairs[:stop].sum() - 1), 1e-12)
