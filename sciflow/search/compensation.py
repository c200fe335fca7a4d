"""Dynamic compensation: one ratio per step, fitted to a handful of fine solutions, that bends the newest value.

Step i replaces the newest value of its history by that of the parabola through the last three, in λ, at
ρ λ_0 + (1 − ρ) λ_{−1}; ρ = 1 is the value itself.
The prediction is then a quadratic in ρ for each sample, so its least squares have a closed form: the roots of a cubic.
The value is replaced for that step only; what later steps see is what the model said.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.flow import probability_flow
from sciflow.random import Stream
from sciflow.search.reference import FLOAT32, Found
from sciflow.solvers.dynamics import model_split
from sciflow.solvers.exponential import EABM
from sciflow.solvers.scheduled import COMPENSATED, Choice, Scheduled, State, added, step_sum
from sciflow.solvers.solve import StepNoise, solve

FINER = 16  # steps of the reference in each step of the grid


def reference(denoiser: Denoiser, times: Sequence[float], x: Tensor) -> list[Tensor]:
    """The flow at each time of a grid, solved with `FINER` steps in between: no interpolation."""
    log_snr = denoiser.schedule.log_snr(torch.tensor(times, dtype=torch.float64))
    pairs = itertools.pairwise(log_snr.tolist())
    parts = [torch.linspace(a, b, FINER + 1, dtype=torch.float64)[1:-1] for a, b in pairs]
    fine = [times[0]]
    for part, end in zip(parts, times[1:], strict=True):
        fine += [*denoiser.schedule.time(part).tolist(), end]
    path = [x]
    with torch.no_grad():
        solver = EABM(3, "data", True)
        solve(probability_flow(denoiser), x, fine, solver, on_step=lambda k, t, x: path.append(x.clone()))
    return path[::FINER]


def compensate(
    denoiser: Denoiser,
    times: Sequence[float] | Tensor,
    stream: Stream,
    choice: Choice | None = None,
    n: int = 10,
    like: Tensor | None = None,
    bound: float = 2.0,
) -> Scheduled:
    """The solver of a constant choice with the ratio of each step fitted, one after another.

        ρ_i = argmin Σ_samples ‖x_{i+1}(ρ) − x_flow(t_{i+1})‖²   of the prediction, from x_i as compensated so far

    Steps with less than three values of history are left alone. Costs 16 + 1 calls of n rows per step, once.

    Args:
        denoiser: the model as it will be sampled: with its guidance and in its precision.
        times: grid the ratios are for.
        stream: random numbers of the starts.
        choice: order, frame and corrector of the solver.
        n: samples.
        like: tensor of the dtype and on the device of the model.
        bound: ρ is kept in 1 ± bound.
    Source: Zhao et al. (2024), DC-Solver, section 3; the minimum in closed form is derived here.
    """
    grid = [float(t) for t in times]
    like = torch.empty(0) if like is None else like
    x = denoiser.initial(grid[0], n, stream, like.dtype).to(like.device)
    truth, flow = reference(denoiser, grid, x), probability_flow(denoiser)
    choice = choice or Choice()
    choices = [choice] * (len(grid) - 1)
    with torch.no_grad():
        plan = Scheduled((choice,)).plan(flow, grid)
        state = State(x, ())
        for k, step in enumerate(plan):
            if step.asks:
                state = State(state.x, ((step.split.remainder(grid[k], state.x), state.x), *state.history))
            if k >= COMPENSATED - 1:
                split, known = (
                    model_split(Scheduled(), flow, choice.frame),
                    grid[k + 1 - len(state.history) : k + 1][::-1],
                )
                ends = [
                    added(step_sum(split, replace(choice, ratio=ratio), grid[k], grid[k + 1], known), *state)
                    for ratio in (0.0, 1.0, 2.0)
                ]
                choices[k] = replace(choice, ratio=best_ratio(ends, truth[k + 1], bound))
            solver = Scheduled(tuple(choices))
            taken = solver.plan(flow, grid)[k]._replace(asks=False)
            state = solver.step(flow, taken, state, StepNoise(None, k, x, "compensate"))
    return Scheduled(tuple(choices))


def best_ratio(ends: Sequence[Tensor], truth: Tensor, bound: float = 2.0) -> float:
    """The ratio in 1 ± bound whose prediction is closest to the truth, from the predictions at 0, 1 and 2."""
    zero, one, two = (end.double() for end in ends)
    square = 0.5 * (two - 2 * one + zero)
    slope, error = one - zero - square, zero - truth.double()

    def dot(a: Tensor, b: Tensor) -> float:
        return float((a * b).sum())

    quartic = np.array([
        dot(square, square), 2 * dot(slope, square), dot(slope, slope) + 2 * dot(error, square),
        2 * dot(error, slope), dot(error, error),
    ])  # fmt: skip
    roots = np.roots(np.polyder(quartic))
    low, high = 1 - bound, 1 + bound
    candidates = [1.0, low, high, *(float(root.real) for root in roots if abs(root.imag) < 1e-9 * (1 + abs(root)))]

    def loss(ratio: float) -> float:
        return float((error + ratio * slope + ratio**2 * square).square().sum())

    return min((ratio for ratio in candidates if low <= ratio <= high), key=loss)


def predicted(fitted: Mapping[int, Sequence[float]], n_steps: int) -> list[float]:
    """Ratios for a number of steps that was not fitted: least squares of a polynomial.

        ρ_i = Σ_{k≤3, l≤2} c_kl (i/N)^k (N/50)^l,   ρ = 1 where there is no history

    Args:
        fitted: number of steps → its ratios.
        n_steps: number of steps wanted.
    Raises:
        ValueError: nothing fitted.
    Source: Zhao et al. (2024), DC-Solver, cascade polynomial regression, section 3.3, without the guidance scale.
    """
    if not fitted:
        raise ValueError("ratios are predicted from fitted ones, got none. Fit two numbers of steps or more.")
    degrees = [(k, level) for k in range(4) for level in range(min(len(fitted), 3))]

    def row(i: int, n: int) -> list[float]:
        return [(i / n) ** k * (n / 50) ** level for k, level in degrees]

    pairs = [(row(i, n), ratio) for n, ratios in fitted.items() for i, ratio in enumerate(ratios)
             if i >= COMPENSATED - 1]  # fmt: skip
    inputs, targets = (np.array(column) for column in zip(*pairs, strict=True))
    weights = np.linalg.lstsq(inputs, targets, rcond=1e-10)[0]
    start = min(COMPENSATED - 1, n_steps)
    return [1.0] * start + [float(np.dot(row(i, n_steps), weights)) for i in range(start, n_steps)]


@dataclass(frozen=True)
class Compensation:
    """The ratio of each step that brings a handful of samples closest to the flow, for one order, frame and corrector.

        ρ_i = argmin Σ_samples ‖x_{i+1}(ρ) − x_flow(t_{i+1})‖²

    The grid stays. A posterior whose solver is `scheduled` takes the choice with the ratios that were found.

    Exactness: the minimum of each step in closed form, one after another.
    Cost: 17 calls of n_samples rows per step, once.
    Bias: none in the flow; it is a choice of steps.
    Args:
        choice: order, frame and corrector of every step.
        n_samples: samples that the ratios are fitted to.
        bound: ratios are kept in 1 ± bound.
    Raises:
        ValueError: a grid that reaches α = 0 or σ = 0.
    Source: Zhao et al. (2024), DC-Solver, section 3; the minimum in closed form is derived here.
    """

    choice: Choice = field(default_factory=Choice)
    n_samples: Annotated[int, Field(gt=0)] = 10
    bound: Annotated[float, Field(gt=0)] = 2.0
    finds_choices = True

    def __call__(self, denoiser: Denoiser, times: Tensor, stream: Stream, like: Tensor = FLOAT32) -> Found:
        ratios = compensate(denoiser, times, stream.child("start"), self.choice, self.n_samples, like, self.bound)
        return Found(times, ratios)
