"""Langevin steps at a fixed noise level, and the sampler that corrects each step of another solver by them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from sciflow.solvers.dynamics import Dynamics, ModelSplit, model_split
from sciflow.solvers.exponential import ExponentialEuler
from sciflow.solvers.per_row import column, row_sums
from sciflow.solvers.solve import Past, Solver, StepNoise

FIRST_DRAW = 1000  # draws of a step from here on belong to the corrector, those before to the predictor
LARGEST_STEP = 1.0  # of σ²: a Langevin step of Gaussian data is unstable from 2 on

Norm = Literal["level", "row"]


def langevin(x: Tensor, deviation: Tensor, sigma: float, ratio: float, z: Tensor, norm: Norm = "level") -> Tensor:
    """One unadjusted Langevin step at the law of x_t.

        x + ε s + √(2ε) z,   s = (α D − x)/σ²

        level: ε = 2 r² σ²                  a fixed fraction of the level's variance
        row:   ε = 2 (r ‖z‖/‖s‖)², at most σ²   with the norms of each row

    For Gaussian data whose x_t has variance v its stationary variance is v/(1 − ε/2v). A step that depends on state and
    noise has no such law: as r → 0, "row" inflates the variance of white data by (1 + 2/d)² in d dimensions. The
    published rule averages the norms over the batch, which makes a row depend on its batch mates.

    Args:
        x: state, shape (batch, ...).
        deviation: x − α D(x, t) = −σ² s.
        sigma: σ_t.
        ratio: r, the signal-to-noise ratio of a step [1].
        z: standard normal numbers like x.
        norm: which rule sets ε.
    Source: Song et al. (2021), Score-based generative modeling through SDEs, algorithm 4 (α_i = 1 in algorithm 5).
    """
    if norm == "level":
        fraction = min(2 * ratio**2, LARGEST_STEP)  # ε/σ²
        return x.sub(deviation, alpha=fraction).add(z, alpha=math.sqrt(2 * fraction) * sigma)
    with torch.no_grad():
        size = column(row_sums(z.square()) / row_sums(deviation.square()), x)  # ‖z‖²/‖σ² s‖²
        share = (2 * ratio**2 * sigma**2 * size).clamp_max(LARGEST_STEP)
    return x - share * deviation + (2 * share).sqrt() * sigma * z


class Corrected(NamedTuple):
    """One step: what the predictor planned, and the level its end is corrected at."""

    predictor: Any
    split: ModelSplit
    end: float
    sigma: float


@dataclass(frozen=True)
class PredictorCorrector:
    """A step of any one-step solver, then Langevin steps at the level it has reached.

        x ← predictor(x, a → b);   n times: x ← x + ε s(x, b) + √(2ε) z,   ε = 2 r² σ_b²

    with s the score. Nothing is corrected at σ_b = 0. `langevin` says what each `norm` means and leaves behind.

    Order: that of the predictor without corrections; with them none, since ε does not shrink with the grid.
    Cost: that of the predictor, and n_corrections drift calls, per step.
    Bias: of the variance at most r² for "level" (Gaussian data), and about 4/d besides for "row" in d dimensions.
    Args:
        predictor: a solver of the probability flow that remembers nothing but x.
        n_corrections: n, Langevin steps at each level.
        ratio: r, the signal-to-noise ratio of a correction [1].
        norm: "level" takes ε = 2 r² σ²; "row" the published 2 (r ‖z‖/‖s‖)², with norms of each row.
    Raises:
        ValueError: dynamics with noise of its own, or of no model; a predictor with a history.
    Source: Song et al. (2021), Score-based generative modeling through SDEs, algorithms 1 to 5.
    """

    predictor: Solver = field(default_factory=ExponentialEuler)
    n_corrections: Annotated[int, Field(ge=0)] = 1
    ratio: Annotated[float, Field(gt=0)] = 0.16
    norm: Norm = "level"

    @property
    def convergence(self) -> float:
        return 0 if self.n_corrections else self.predictor.convergence

    def plan(self, dynamics: Dynamics, times: Sequence[float], past: Sequence[float] = ()) -> list[Corrected]:
        split = model_split(self, dynamics, "noise")
        predictor = self.predictor.plan(dynamics, times)
        ends = [(b, split.levels(b)[1]) for _, b in itertools.pairwise(times)]
        return [Corrected(step, split, *end) for step, end in zip(predictor, ends, strict=True)]

    def init(self, dynamics: Dynamics, times: Sequence[float], x: Tensor, past: Past = ()) -> Tensor:
        state = self.predictor.init(dynamics, times, x)
        if not isinstance(state, Tensor):
            raise ValueError(
                f"PredictorCorrector moves the state between steps, and {type(self.predictor).__name__} remembers "
                "earlier ones. Use a one-step predictor: ExponentialEuler() or Heun()."
            )
        return state

    def step(self, dynamics: Dynamics, coefficients: Corrected, state: Tensor, noise: StepNoise) -> Tensor:
        predictor, split, end, sigma = coefficients
        x = self.predictor.step(dynamics, predictor, state, noise)
        for draw in range(self.n_corrections if sigma > 0 else 0):
            deviation = split.remainder(end, x)  # x − α D
            x = langevin(x, deviation, sigma, self.ratio, noise(FIRST_DRAW + draw), self.norm)
        return x

    def value(self, state: Tensor) -> Tensor:
        return state
