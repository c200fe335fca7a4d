"""How a target path starts: a Gaussian at the largest noise level, corrected by importance weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sciflow.random import Stream
from sciflow.steering.sight import Level
from sciflow.steering.target import TargetPath


def start(path: TargetPath, at: Level, n: int, stream: Stream, like: Tensor) -> tuple[Tensor, Tensor]:
    """n particles y = x/α and log γ − log(proposal), (n,), float64.

        proposal N(m, w I),   1/w = Σ β_i/(u² + v),   m = mean of the experts' means, weighted by β

    The means are read off one denoiser call each, v is the square of the schedule's `std`. Experts that know their
    density are weighted by it, the others by N(m_i, (u² + v) I), which they are up to O(1/u²). A potential that offers
    `conditioned` (a linear Gaussian likelihood) is part of the proposal; any other is part of the weight.

    Args:
        path: what to start.
        at: the first level.
        n: number of particles.
        stream: random numbers.
        like: a tensor of the dtype and on the device wanted.
    """
    betas = path.betas(at.t)
    wide = at.ratio**2 + getattr(path.schedule, "std", 1.0) ** 2
    origin = like.new_zeros((1, *path.shape))
    centres = [wide / at.ratio**2 * expert(origin, at.t) for expert in path.experts]  # D(0) = m u²/(u² + v)
    shares = (betas / betas.sum()).tolist()
    mean = torch.stack([share * centre for share, centre in zip(shares, centres, strict=True)]).sum(0)
    width = wide / float(betas.sum())
    draws = stream.child("x").normal(n, path.shape, dtype=like.dtype, device=like.device)
    y = mean + math.sqrt(width) * draws
    log_weight = torch.zeros(n, dtype=torch.float64, device=like.device)
    potential = path.potential
    if potential is not None and hasattr(potential, "conditioned"):
        y, log_constant = potential.conditioned(y, mean, width, at.t, stream.child("condition"))
        log_weight = log_weight + log_constant
    elif potential is not None:
        log_weight = potential(at.alpha * y, at.t).detach().double()
    if path.knows_density:
        experts = path.log_densities(at.alpha * y, at.t) + y[0].numel() * math.log(at.alpha)
    else:
        experts = torch.stack([_log_normal(y, centre, wide) for centre in centres], 1)
    return y, log_weight + experts @ betas.to(y.device) - _log_normal(y, mean, width)


def _log_normal(y: Tensor, mean: Tensor, variance: float) -> Tensor:
    squared = ((y - mean).double() ** 2).flatten(1).sum(1)
    return -0.5 * squared / variance - 0.5 * y[0].numel() * math.log(2 * math.pi * variance)
