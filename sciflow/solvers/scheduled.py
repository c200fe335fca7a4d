"""A solver that may choose frame, order and corrector anew in each step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sciflow.solvers.dynamics import Dynamics, ModelSplit, lagrange, model_split
from sciflow.solvers.solve import Past, StepNoise

COMPENSATED = 3  # nodes of the polynomial that moves the newest one


@dataclass(frozen=True)
class Choice:
    """What one step does.

    Args:
        order: number of nodes, as far as there is history.
        frame: in which the polynomial runs.
        corrector: redo the step with the value at its end, which then is the next step's newest: no extra call. None
            on the last step.
        ratio: ρ; the newest value is read off the parabola through the last three at ρ λ_0 + (1 − ρ) λ_{−1}.
            1 leaves it alone; above 1 extrapolates.
    """

    order: Annotated[int, Field(ge=1, le=6)] = 3
    frame: Literal["noise", "data", "velocity"] = "data"
    corrector: bool = False
    ratio: float = 1.0


class Sum(NamedTuple):
    """P x + Σ_j d_j D_j + e_j x_j over the history, newest first, in float64."""

    propagator: float
    data: tuple[float, ...]
    states: tuple[float, ...]


class Step(NamedTuple):
    """From a to b; `asks` for D at its start unless the step before has asked already."""

    a: float
    b: float
    split: ModelSplit
    asks: bool
    predictor: Sum
    corrector: Sum | None


class State(NamedTuple):
    """The current x, and the last pairs (D, x at which it was asked), newest first."""

    x: Tensor
    history: tuple[tuple[Tensor, Tensor], ...]


@dataclass(frozen=True)
class Scheduled:
    """Exponential Adams steps whose frame, order and corrector are chosen step by step.

        x_b = P x_a + Σ_j W_j G_j,   G = D (data), x − α D (noise), D − α x/r² (velocity)

    The history holds D and the state it was asked at, so that each frame can be read off it. A constant choice is EABM.

    Order: the least of the choices, p or p + 1 with corrector (with exact starting values).
    Cost: 1 model call per step.
    Bias: O(h^p).
    Args:
        choices: of each step; the last one is repeated as long as there are steps. In a run file whose `sample.search`
            finds choices, these are put in.
    Raises:
        ValueError: no choice or more choices than steps, dynamics with noise or of no diffusion or flow model.
    Source: Liu et al. (2024), A unified sampling framework for solver searching, section 3; the form is ours.
    """

    choices: Annotated[tuple[Choice, ...], Field(min_length=1)] = (Choice(),)

    @property
    def order(self) -> int:
        return max(choice.order for choice in self.choices)

    @property
    def convergence(self) -> int:
        return min(choice.order + choice.corrector for choice in self.choices)

    @property
    def _kept(self) -> int:
        return max(self.order, COMPENSATED)

    def plan(self, dynamics: Dynamics, times: Sequence[float], past: Sequence[float] = ()) -> list[Step]:
        n_steps = len(times) - 1
        if not 1 <= len(self.choices) <= n_steps:
            raise ValueError(f"Scheduled needs 1 to {n_steps} choices for {n_steps} steps, got {len(self.choices)}.")
        choices = [*self.choices, *[self.choices[-1]] * (n_steps - len(self.choices))]
        splits = {choice.frame: model_split(self, dynamics, choice.frame) for choice in choices}
        data, known = model_split(self, dynamics, "data"), [*past, *times]
        steps, asks = [], True
        for k, choice in enumerate(choices):
            end = len(past) + k + 1
            nodes = known[max(end - self._kept, 0) : end][::-1]
            split, corrects = splits[choice.frame], choice.corrector and k < n_steps - 1
            predictor = step_sum(split, choice, times[k], times[k + 1], nodes)
            corrector = step_sum(split, choice, times[k], times[k + 1], nodes, implicit=True) if corrects else None
            steps.append(Step(times[k], times[k + 1], data, asks, predictor, corrector))
            asks = not corrects
        return steps

    def init(self, dynamics: Dynamics, times: Sequence[float], x: Tensor, past: Past = ()) -> State:
        split = model_split(self, dynamics, "data")
        return State(x, tuple((split.remainder(t, x), x) for t, x in reversed([*past][-self._kept :])))

    def step(self, dynamics: Dynamics, coefficients: Step, state: State, noise: StepNoise) -> State:
        a, b, split, asks, predictor, corrector = coefficients
        x, history = state
        if asks:
            history = ((split.remainder(a, x), x), *history)
        end = added(predictor, x, history)
        if corrector:
            history = ((split.remainder(b, end), end), *history)
            end = added(corrector, x, history)
        return State(end, history[: self._kept])

    def value(self, state: State) -> Tensor:
        return state.x


def step_sum(
    split: ModelSplit, choice: Choice, a: float, b: float, known: Sequence[float], implicit: bool = False
) -> Sum:
    """The coefficients of one step whose history lies at the times `known`, and at b if implicit."""
    nodes = known[: choice.order]
    weights = np.zeros(len(known) + implicit)
    found = split.weights(a, b, [b, *nodes] if implicit else nodes)
    weights[: len(found)] = [float(weight) for weight in found]
    moved = min(COMPENSATED, len(known))
    if choice.ratio != 1.0 and moved > 1:
        first = int(implicit)
        weight, weights[first] = weights[first], 0.0
        weights[first : first + moved] += weight * _moved(split, known[:moved], choice.ratio)
    levels = [split.levels(t) for t in ([b, *known] if implicit else known)]
    alpha, sigma = np.array(levels).T
    if choice.frame == "noise":
        on_data, on_states = -alpha * weights, weights
    else:
        on_data, on_states = weights, -weights * alpha / (alpha**2 + sigma**2) * (choice.frame == "velocity")
    return Sum(float(split.propagator(a, b)), tuple(on_data.tolist()), tuple(on_states.tolist()))


def _moved(split: ModelSplit, nodes: Sequence[float], ratio: float) -> np.ndarray:
    """Lagrange weights, in λ, of the value at ρ λ_0 + (1 − ρ) λ_{−1}."""
    log_snr = np.array([math.log(alpha / sigma) for alpha, sigma in map(split.levels, nodes)])
    return lagrange(log_snr, np.array(ratio * log_snr[0] + (1 - ratio) * log_snr[1]))


def added(terms: Sum, x: Tensor, history: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """P x + Σ d_j D_j + e_j x_j."""
    total = x * terms.propagator
    for on_data, on_state, (data, state) in zip(terms.data, terms.states, history, strict=False):
        if on_data:
            total = torch.add(total, data.to(x.dtype), alpha=on_data)
        if on_state:
            total = torch.add(total, state, alpha=on_state)
    return total
