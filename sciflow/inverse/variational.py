"""RED-diff: a point estimate by stochastic optimisation, with the denoiser at all noise levels for a regulariser."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from sciflow.errors import InputError
from sciflow.inverse.descent import Descent, Problem
from sciflow.inverse.moments import conditioned_draw

Positive = Annotated[float, Field(gt=0)]
Weight = Literal["linear", "sqrt", "square", "log", "clip", "const"]

WEIGHTS: dict[str, Callable[[float], float]] = {
    "linear": lambda s: s,
    "sqrt": math.sqrt,
    "square": lambda s: s**2,
    "log": math.log1p,
    "clip": lambda s: min(s, 1.0),
    "const": lambda s: 1.0,
}
"""w(s) of the noise prediction, by the names of the published code."""

DECAY = (0.9, 0.99)
TINY = 1e-8  # of Adam, beside √v


@dataclass(frozen=True)
class REDDiff(Descent):
    """Regularisation by denoising diffusion: one step of Adam per level, from much noise to little.

        g = −Aᵀ(y − A μ) + strength · w(s) (ε̂(z) − n),   z = μ + s n,   ε̂ − n = (μ − D(z))/s

    The start is the linear estimate for isotropic data of variance v. All draws seek one mode: they differ by the noise
    of the optimiser, and their spread says nothing.

    Target: none
    Exactness: none as a posterior; a point estimate.
    Cost: one denoiser call per level, without backward pass, and two applications of A.
    Bias: no spread; σ_y is not looked at, `strength` stands for it. With "linear" weights the prior fades as s → 0.
    Args:
        strength: weight of the prior against ½ ‖y − A x‖² [1].
        learning_rate: of Adam [data units].
        weight: w(s): "linear" s, "sqrt" √s, "square" s², "log" log(1 + s), "clip" min(s, 1), "const" 1.
        variance: v of the start [data units²]; null takes the square of the schedule's `std`.
    Raises:
        InputError: n < 1, a likelihood that is not linear and Gaussian, or a grid that starts at α = 0.
        NonFiniteError: a draw is NaN or infinite.
    Source: Mardani et al. (2024), A variational perspective on solving inverse problems with diffusion models,
        algorithm 1; Kingma and Ba (2015), Adam, algorithm 1.
    """

    strength: Positive = 0.25
    learning_rate: Positive = 0.1
    weight: Weight = "linear"
    variance: Positive | None = None

    def __post_init__(self) -> None:
        if self.weight not in WEIGHTS:
            raise InputError(f"RED-diff's weight must be one of {list(WEIGHTS)}, got {self.weight!r}.")
        if not (self.strength > 0 and self.learning_rate > 0 and (self.variance is None or self.variance > 0)):
            got = f"{self.strength}, {self.learning_rate}, {self.variance}"
            raise InputError(f"RED-diff needs strength, learning_rate and variance > 0, got {got}.")

    def begin(self, problem: Problem) -> Tensor:
        """μ, and Adam's two means of the gradient, (3, n, *shape)."""
        centre = problem.data(torch.zeros_like(problem.start()), 0)
        mean = conditioned_draw(problem.likelihood, centre, problem.spread(0, self.variance))
        return torch.stack([mean, torch.zeros_like(mean), torch.zeros_like(mean)])

    def step(self, problem: Problem, z: Tensor, k: int) -> Tensor:
        (mean, first, second), s = z, problem.ratios[k]
        prior = (self.strength * WEIGHTS[self.weight](s) / s) * (mean - problem.data(mean + s * problem.noise(k), k))
        gradient = prior - problem.likelihood.operator.adjoint(problem.likelihood.residual(mean))
        first = DECAY[0] * first + (1 - DECAY[0]) * gradient
        second = DECAY[1] * second + (1 - DECAY[1]) * gradient**2
        scale = (second / (1 - DECAY[1] ** (k + 1))).sqrt() + TINY
        step = self.learning_rate / (1 - DECAY[0] ** (k + 1)) * first / scale
        return torch.stack([mean - step, first, second])

    def result(self, problem: Problem, z: Tensor) -> Tensor:
        return z[0]
