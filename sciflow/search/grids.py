"""Optimal time grids: by dynamic programming over any additive cost of a step, or from the local error itself.

On N(0, c²I) everything is known: with u = c tan a, one DDIM step from a to b shrinks the standard deviation, relative
to the exact flow, by cos(a − b). The best grid of N steps is equidistant in a = arctan(u/c), and leaves cos(A/N)^N.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.schedule import Schedule
from sciflow.random import Stream
from sciflow.search.reference import FLOAT32, Path, follow, refined, rms

Several = Annotated[int, Field(ge=2)]
Measure = Literal["relative", "distance", "deviation", "kl_bound"]


def cheapest_path(cost: Tensor, n_steps: int, late: float = 1.0) -> list[int]:
    """The path 0 → M of n_steps jumps with the least Σ_k late^k cost[i_k, i_{k+1}]; O(n_steps M²).

        V_k(i) = min_{j > i} cost[i, j] + late · V_{k−1}(j),   V_0(M) = 0

    Args:
        cost: of a jump from i to j > i, shape (M + 1, M + 1); may be negative.
        n_steps: number of jumps.
        late: γ; above 1 errors of late steps count more.
    Raises:
        ValueError: more jumps than there are nodes.
    Source: Bellman (1957), Dynamic programming; Chen et al. (2024), GITS, for diffusion.
    """
    last = len(cost) - 1
    if not 1 <= n_steps <= last:
        raise ValueError(f"{last + 1} candidate times hold between 1 and {last} steps, got {n_steps}.")
    forward = np.where(np.triu(np.ones(cost.shape, bool), 1), cost.double().numpy(), np.inf)
    value = np.full(last + 1, np.inf)
    value[last], choices = 0.0, []
    for _ in range(n_steps):
        total = forward + late * value
        choices.append(total.argmin(1))
        value = total.min(1)
    path = [0]
    for choice in reversed(choices):
        path.append(int(choice[path[-1]]))
    return path


def jump_cost(path: Path, measure: Measure = "relative") -> Tensor:
    """The cost of one DDIM step from each state of a path to each later time, shape (M + 1, M + 1).

        x̂_j = (σ_j/σ_i) x_i + (α_j − σ_j α_i/σ_i) D_i

        relative:   rms(x̂_j − x_j) / spread(x_j): the error carried to the end by the Gaussian flow of that spread
        distance:   rms(x̂_j − x_j)
        deviation:  mean of ‖x̂_j − chord‖ − ‖x_j − chord‖, in x/α, the chord from the first to the last state;
                    blind to errors along the chord, and so to all errors on N(0, c²I)

    Source: Chen et al. (2024), On the trajectory regularity of ODE-based diffusion sampling (the last two).
    """
    size, spread = len(path.times), path.spread()
    cost = torch.full((size, size), torch.inf, dtype=torch.float64)
    scaled = path.states / path.alpha[:, None, None].to(path.states.dtype)
    direction = scaled[-1] - scaled[0]
    direction = direction / direction.norm(dim=-1, keepdim=True)
    for i in range(size - 1):
        alpha, sigma = path.alpha[i + 1 :], path.sigma[i + 1 :]
        kept = sigma / path.sigma[i]
        x, data = path.states[i].double(), path.data[i].double()
        jumped = kept[:, None, None] * x + (alpha - kept * path.alpha[i])[:, None, None] * data
        if measure == "deviation":
            reached = jumped / alpha[:, None, None]
            cost[i, i + 1 :] = _off(reached - scaled[0], direction) - _off(scaled[i + 1 :] - scaled[0], direction)
        else:
            error = rms(jumped - path.states[i + 1 :])
            cost[i, i + 1 :] = error / spread[i + 1 :] if measure == "relative" else error
    return cost


def _off(vectors: Tensor, direction: Tensor) -> Tensor:
    """Mean distance from a line through the origin, (m, n, d) → (m,)."""
    along = (vectors * direction).sum(-1, keepdim=True)
    return (vectors - along * direction).norm(dim=-1).mean(-1).double()


def kl_bound_cost(denoiser: Denoiser, path: Path, stream: Stream, like: Tensor = FLOAT32) -> Tensor:
    """The Kullback–Leibler bound of the reverse SDE whose denoiser is held over each step, shape (M + 1, M + 1).

        c_ij = ∫_{u_j}^{u_i} E‖D(x_u) − D(x_{u_i})‖² u⁻³ du,   x/α: the ends of a path noised up again

    Its optimum is that of a stochastic sampler, and not that of the probability flow. M + 1 calls of n rows.

    Source: Sabour et al. (2024), Align your steps, theorem 3.1; the integrand is derived here.
    """
    ratio = path.sigma / path.alpha
    y = path.states[-1].double() / path.alpha[-1]
    values = [path.data[-1].double()]
    for k in reversed(range(len(path.times) - 1)):
        grown = (ratio[k] ** 2 - ratio[k + 1] ** 2).sqrt()
        y = y + grown * stream.normal(len(y), y.shape[1:], step=k, dtype=torch.float64)
        x = (path.alpha[k] * y).to(like).reshape(-1, *denoiser.shape)
        with torch.no_grad():
            values.append(denoiser(x, path.times[k]).flatten(1).double().cpu())
    data = torch.stack(values[::-1])
    cost = torch.full((len(ratio), len(ratio)), torch.inf, dtype=torch.float64)
    for i in range(len(ratio) - 1):
        rate = (data[i:] - data[i]).square().sum(-1).mean(-1) / ratio[i:] ** 2  # per unit of λ
        cost[i, i + 1 :] = torch.cumulative_trapezoid(rate, path.log_snr[i:])
    return cost


def equal_error(path: Path, schedule: Schedule, n_steps: int, order: int = 1) -> list[float]:
    """The grid on which every step of a method of this order makes the same local error.

    In the data frame a step of length h in λ errs by about C α h^{p+1} ‖d^pD/dλ^p‖, and the Gaussian flow carries that
    to the end divided by the spread s of x. The sum over steps is least where

        h ∝ (α ‖d^pD/dλ^p‖ / s)^{−1/(p+1)}

    For p = 1 on N(0, c²I) this density is d arctan(u/c)/dλ: the optimal grid of DDIM exactly.

    Source: derived; equidistribution as in de Boor (1973), Good approximation by splines with variable knots.
    """
    log_snr = path.log_snr.numpy()
    rate = path.data.double().numpy()
    for _ in range(order):
        rate = np.gradient(rate, log_snr, axis=0, edge_order=2)
    error = path.alpha * rms(torch.from_numpy(rate)) / path.spread()
    density = error.numpy() ** (1 / (order + 1))
    density = np.maximum(density, 1e-3 * density.mean() + 1e-300)  # a constant denoiser needs some grid, too
    reached = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]) * np.diff(log_snr))])
    inner = np.interp(np.linspace(0, reached[-1], n_steps + 1)[1:-1], reached, log_snr)
    return [path.times[0], *schedule.time(torch.from_numpy(inner)).tolist(), path.times[-1]]


@dataclass(frozen=True)
class DynamicProgramming:
    """The grid with the least sum of step costs, out of many candidate times.

        min Σ_k γ^k c(t_k, t_{k+1}) by dynamic programming

    Exactness: the optimum of the sum; that errors add up is the assumption.
    Cost: 2 n_candidates + 1 calls of n_samples rows, once; with `kl_bound` one half more.
    Bias: none in the flow; it is a choice of steps.
    Args:
        cost: of one step: "relative" error of a DDIM step, its "distance", the "deviation" from the chord, or the
            "kl_bound" of a stochastic sampler.
        n_candidates: candidate steps, equidistant in λ.
        n_samples: samples whose errors are averaged.
        late: γ, the weight of a step over that of the step before.
    Raises:
        ValueError: more steps than candidates, or an end without a finite λ.
    Source: Chen et al. (2024), On the trajectory regularity of ODE-based diffusion sampling.
    """

    cost: Measure = "relative"
    n_candidates: Several = 100
    n_samples: Several = 64
    late: Annotated[float, Field(gt=0)] = 1.0

    def __call__(self, denoiser: Denoiser, times: Tensor, stream: Stream, like: Tensor = FLOAT32) -> Tensor:
        fine = refined(denoiser.schedule, times, self.n_candidates)
        path = follow(denoiser, fine, self.n_samples, stream.child("start"), like)
        bound = self.cost == "kl_bound"
        cost = kl_bound_cost(denoiser, path, stream.child("noise"), like) if bound else jump_cost(path, self.cost)
        return chosen(fine, cheapest_path(cost, len(times) - 1, self.late))


@dataclass(frozen=True)
class TruncationError:
    """The grid on which every step makes the same local error, measured on the model.

        h ∝ (α ‖d^pD/dλ^p‖ / s)^{−1/(p+1)},   s the spread of x_t

    Exactness: asymptotically optimal for a method of this order; on N(0, c²I) and for order 1 at any size of step.
    Cost: 2 n_candidates + 1 calls of n_samples rows, once.
    Bias: none in the flow; it is a choice of steps.
    Args:
        order: p of the solver that will use the grid.
        n_candidates: steps of the path on which D is differentiated, equidistant in λ.
        n_samples: samples whose errors are averaged.
    Raises:
        ValueError: an end without a finite λ.
    Source: derived; equidistribution as in de Boor (1973), Good approximation by splines with variable knots.
    """

    order: Annotated[int, Field(ge=1, le=3)] = 1
    n_candidates: Several = 100
    n_samples: Several = 64

    def __call__(self, denoiser: Denoiser, times: Tensor, stream: Stream, like: Tensor = FLOAT32) -> Tensor:
        fine = refined(denoiser.schedule, times, self.n_candidates)
        path = follow(denoiser, fine, self.n_samples, stream.child("start"), like)
        return torch.tensor(equal_error(path, denoiser.schedule, len(times) - 1, self.order), dtype=torch.float64)


def chosen(fine: Sequence[float], indices: Sequence[int]) -> Tensor:
    """The times with these indices, float64.

    Raises:
        ValueError: indices that do not increase.
    """
    if any(b <= a for a, b in itertools.pairwise(indices)):
        raise ValueError(f"indices of times must increase, got {list(indices)}.")
    return torch.tensor([fine[i] for i in indices], dtype=torch.float64)
