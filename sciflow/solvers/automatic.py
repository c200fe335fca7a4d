"""The default choice among the exponential multistep methods: from the grid, and for narrow steps from each row."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from torch import Tensor

from sciflow.solvers.dynamics import Dynamics, ModelSplit, model_split
from sciflow.solvers.ending import Bounds, Ending, ended, planned_ending
from sciflow.solvers.exponential import EABM, State, Step, multistep
from sciflow.solvers.narrow import (
    N_TESTED,
    ROUGH,
    NarrowState,
    NarrowStep,
    Orders,
    VelocitySplit,
    advanced,
    planned,
)
from sciflow.solvers.narrow import begun as narrow_start
from sciflow.solvers.rule import log_ratio
from sciflow.solvers.solve import Past, StepNoise
from sciflow.solvers.weights import prepared

Nodes = tuple[list[int], list[int]]  # of the prediction and of the correction of each step
RULE: tuple[tuple[float, Orders], ...] = (  # up to this mean width; measured, see docs/choose-a-solver.md
    (0.25, ROUGH),
    (0.48, ((math.inf, 4, 0),)),
    (math.inf, ((math.inf, 3, 0),)),
)
WIDE = 1.45  # mean width from which the nodes of all steps are four, if the last step is wide
WIDE_LAST = 2.0  # width of the last step from which its nodes are chosen for each row by the width of the data
FEW = 0.9  # mean width up to which they are not
N_ENDING = 3  # nodes known before it
VERY_WIDE: Orders = ((math.inf, 4, 0),)
VERY_WIDE_ENDING: Bounds = ((-math.inf, 2), (0.75, 3), (1.2, 4), (1.7, 5))
WIDE_ENDING: Bounds = ((-math.inf, 2), (0.85, 3), (1.6, 4), (4.6, 3))
NARROW = 0.19  # mean width up to which rows have nodes, frames and calls of their own
LARGE = 1e9  # width of a step from α = 0 or to σ = 0 in the velocity frame, where it is nothing special
WHITE = 1e-4  # α/σ below which the noise frame, whose scale is α, loses digits


class Method(NamedTuple):
    """What is done on a grid: the stepping, its frame, and the nodes of each step.

    With `bounds` the nodes of the last step are chosen for each row. Without nodes the steps are narrow.
    """

    solver: EABM
    split: ModelSplit
    nodes: Nodes | None
    bounds: Bounds | None = None


class Planned(NamedTuple):
    """A step that is the same for all rows, but for the last of few, wide ones."""

    solver: EABM
    step: Step
    begins: bool = False  # the known values of F are computed in it, because the frame is in the plan
    ending: Ending | None = None  # of the last of few, wide steps


class AutoState(NamedTuple):
    """The state of the stepping, and the earlier states before the first step."""

    inner: State | NarrowState
    past: Past


def widths(split: ModelSplit, times: Sequence[float]) -> list[float]:
    """The widths of the steps in λ, infinite from α = 0 and to σ = 0."""
    return [b - a for a, b in itertools.pairwise(log_ratio(split.levels(t)) for t in times)]


def mean_width(steps: Sequence[float]) -> float:
    """The mean of the finite widths."""
    finite = [width for width in steps if math.isfinite(width)]
    return sum(finite) / len(finite) if finite else math.inf


def nodes(rule: Orders, steps: Sequence[float]) -> Nodes:
    """How many nodes each step has by its width; one to σ = 0, where λ is infinite."""
    rows = [next(row for row in rule if width <= row[0]) for width in steps]
    rows = [row if math.isfinite(width) else (width, 1, 0) for row, width in zip(rows, steps, strict=True)]
    return [predicted for _, predicted, _ in rows], [corrected for *_, corrected in rows]


@dataclass(frozen=True)
class Auto:
    """The solver that this library takes if it is not told which: exponential Adams methods, chosen by the grid.

        mean width h̄ of the steps in λ   nodes of a step of width h                           frame
        h̄ > 1.45                         4, the last step 2 to 5                              noise
        0.9 < h̄ ≤ 1.45                   3, the last step 2 to 4                              noise
        0.48 < h̄ ≤ 0.9                   3                                                    noise
        0.25 < h̄ ≤ 0.48                  4                                                    noise
        0.19 < h̄ ≤ 0.25                  4 corrected for h ≤ 0.3, else 3 corrected            noise
        h̄ ≤ 0.19                         rough rows: the same                                 velocity
                                         smooth rows: 6 corrected with 5 for h ≤ 0.25,        velocity, of data
                                         5 with 4 for h ≤ 0.3, else 4 corrected               of width 0.06

    For h̄ > 0.9 each row has its own nodes in the last step, by w/u: u = σ/α at its start, and w the width of the data
    around the row, as the last two answers tell it (`sciflow.solvers.ending`). For h̄ > 1.45 they are two below 0.75,
    three below 1.2, four below 1.7, else five; for smaller h̄ two below 0.85, three below 1.6, four below 4.6, else
    three. If the last step is not wider than 2, or goes to σ = 0, all steps have three.

    On narrow steps calls are made where they count (`sciflow.solvers.narrow`): above σ/α = 25, 14 and 7 standard
    deviations of the data 4, 3 and 2 steps share one; from there on every second step up to h = 0.24 has a second one,
    at its corrected state, and the last step is corrected. If fewer than six groups of steps share calls, none do.

    A row is smooth if in six values of F the fifth divided difference adds less than 0.4 of what the third adds to a
    step, the second to seventh value where steps share calls; else less than 0.05, the fifth to tenth. So it is with
    exact denoisers, and not with trained networks, where six nodes become unstable. It is said once and for each row
    alone: orders that follow the differences from step to step were up to 15 times worse than any fixed one. A narrow
    velocity frame takes up most of the decay e^{−λ} of errors off the data, which bounds the steps of an Adams method
    the more the higher its order.

    A grid that starts at α = 0 is taken in the velocity frame of width 1, without a test.

    Order: 6 for smooth rows as steps become narrow, given exact starting values; the ramp at the start caps it at 3.
    Cost: 1 drift call per step, on narrow steps in the mean; up to 6 earlier states, and 12 passes over them there.
    Bias: O(h³) to O(h⁶).
    Raises:
        ValueError: dynamics with noise, or without a diffusion or flow model.
    Source: the family of Zhang and Chen (2023), DEIS, and Zhao et al. (2023), UniPC; the rule was measured here.
    """

    order = 6
    convergence = 6
    multistep = False  # on a grid of fewer steps it has fewer nodes

    def method(self, dynamics: Dynamics, times: Sequence[float]) -> Method:
        """The frame and the nodes of each step of this grid."""
        split = model_split(self, dynamics, "noise")
        steps = widths(split, times)
        mean = mean_width(steps)
        rule = next(rule for most, rule in RULE if mean <= most)
        alpha, sigma = split.levels(times[0])
        is_white = alpha < WHITE * sigma
        if is_white:
            split, steps = model_split(self, dynamics, "velocity"), [min(width, LARGE) for width in steps]
        bounds = None if is_white or mean <= FEW or not WIDE_LAST < steps[-1] < math.inf else WIDE_ENDING
        if bounds and mean > WIDE:
            rule, bounds = VERY_WIDE, VERY_WIDE_ENDING
        stepping = "velocity" if is_white else "noise"
        if not is_white and mean <= NARROW and isinstance(split, VelocitySplit):
            return Method(EABM(N_TESTED, stepping, corrector=True), split, None)
        counts = nodes(rule, steps)
        most = max([*counts[0], *(n for _, n in bounds or ())])
        return Method(EABM(most, stepping, corrector=rule is ROUGH), split, counts, bounds)

    def plan(
        self, dynamics: Dynamics, times: Sequence[float], past: Sequence[float] = ()
    ) -> list[Planned] | list[NarrowStep]:
        solver, split, counts, bounds = self.method(dynamics, times)
        if counts is None:
            return planned(cast(VelocitySplit, split), times, past)
        known = [*past, *times]
        split = cast(ModelSplit, prepared(split, known))
        steps = multistep(split, known, counts[0], counts[1] if solver.corrector else ())
        found = [Planned(solver, step, begins=k == 0) for k, step in enumerate(steps)]
        if bounds and len(steps) > 1 and len(known) > N_ENDING:
            ending = planned_ending(split, steps[-2], steps[-1], known[-2::-1], bounds)
            found[-1] = found[-1]._replace(ending=ending)
        return found

    def init(self, dynamics: Dynamics, times: Sequence[float], x: Tensor, past: Past = ()) -> AutoState:
        return AutoState(State(x, ()), past)

    def step(
        self, dynamics: Dynamics, coefficients: Planned | NarrowStep, state: AutoState, noise: StepNoise
    ) -> AutoState:
        before, past = state
        if isinstance(coefficients, NarrowStep):
            begun = narrow_start(coefficients, before.x, past) if coefficients.begins else before
            return AutoState(advanced(coefficients, cast(NarrowState, begun)), ())
        solver, step, begins, ending = coefficients
        before = solver.begin(step.split, (step.a,), before.x, past) if begins else cast(State, before)
        if ending:
            values = (step.split.remainder(step.a, before.x), *before.history)
            return AutoState(State(ended(ending, before.x, values), values), ())
        return AutoState(solver.step(dynamics, step, before, noise), ())

    def value(self, state: AutoState) -> Tensor:
        return state.inner.x
