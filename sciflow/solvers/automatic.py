"""The default choice among the exponential multistep methods: from the grid, and for narrow steps from each row."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor

from sciflow.solvers.dynamics import Coefficient, Dynamics, ModelSplit, model_split
from sciflow.solvers.ending import Bounds, Ending, ended, planned_ending
from sciflow.solvers.exponential import EABM, State, Step, multistep
from sciflow.solvers.rule import log_ratio
from sciflow.solvers.solve import Past, StepNoise
from sciflow.solvers.weights import combine, prepared, weights_of

Nodes = tuple[list[int], list[int]]  # of the prediction and of the correction of each step
Orders = tuple[tuple[float, int, int], ...]  # steps up to this width in λ: nodes of the prediction, of the correction
ROUGH: Orders = ((0.3, 4, 4), (math.inf, 3, 3))
SMOOTH: Orders = ((0.3, 6, 5), (math.inf, 4, 4))
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
NARROW = 0.19  # mean width up to which smooth rows have more nodes
WIDTH = 0.1  # of the velocity frame there: nearer to the scale on which data differ than all their spread
N_TESTED = 6  # values of F whose third and fifth divided differences are compared
N_KNOWN = 10  # values of F before that: the first four still bear the low orders of the start
SMOOTHNESS = 0.05  # of the fifth over the third: up to 0.034 for exact denoisers, 0.08 to 0.35 for trained networks
LARGE = 1e9  # width of a step from α = 0 or to σ = 0 in the velocity frame, where it is nothing special
WHITE = 1e-4  # α/σ below which the noise frame, whose scale is α, loses digits


class Method(NamedTuple):
    """What is done on a grid: the stepping, its frame, and the nodes of each step, for smooth rows besides.

    With `bounds` the nodes of the last step are chosen for each row.
    """

    solver: EABM
    split: ModelSplit
    rough: Nodes
    smooth: Nodes | None
    bounds: Bounds | None = None


class Planned(NamedTuple):
    """A step: the stepping, its coefficients, and others for smooth rows; with a test, it finds which rows are.

    The test has two rows of weights of the last values of F; see `differences`.
    """

    solver: EABM
    rough: Step
    smooth: Step | None = None
    test: tuple[list[float], list[float]] | None = None
    begins: bool = False  # the known values of F are computed in it, because the frame is in the plan
    ending: Ending | None = None  # of the last of few, wide steps


class AutoState(NamedTuple):
    """x and the last values of F, the earlier states before the first step, and which rows are smooth: 1 or 0 each."""

    inner: State
    past: Past
    is_smooth: Tensor | None


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


def differences(split: ModelSplit, times: Sequence[float]) -> tuple[list[float], list[float]]:
    """What the last node but two, and the last, add to the step between the two newest of the nodes `times`.

    As weights of the values of F, newest first: a weight times a divided difference, the third and the fifth for six
    nodes. They have the same parity, so that an oscillation shows in their ratio whatever its phase.
    """
    a, b, newest_first = times[-2], times[-1], times[::-1]
    rows = [[*map(float, weights_of(split, [(a, b, *newest_first[:n])])[0])] for n in range(3, len(times) + 1)]
    padded = [row + [0.0] * (len(times) - len(row)) for row in rows]
    added = [[y - x for x, y in zip(*pair, strict=True)] for pair in itertools.pairwise(padded)]
    return added[-3], added[-1]


@dataclass(frozen=True)
class Auto:
    """The solver that this library takes if it is not told which: exponential Adams methods, chosen by the grid.

        mean width h̄ of the steps in λ   nodes of a step of width h                           frame
        h̄ > 1.45                         4, the last step 2 to 5                              noise
        0.9 < h̄ ≤ 1.45                   3, the last step 2 to 4                              noise
        0.48 < h̄ ≤ 0.9                   3                                                    noise
        0.25 < h̄ ≤ 0.48                  4                                                    noise
        0.19 < h̄ ≤ 0.25                  4 corrected for h ≤ 0.3, else 3 corrected            noise
        h̄ ≤ 0.19                         the same for rough rows; for smooth ones             velocity, of data
                                         6 corrected with 5 for h ≤ 0.3, else 4 corrected     of width 0.1

    For h̄ > 0.9 each row has its own nodes in the last step, by w/u: u = σ/α at its start, and w the width of the data
    around the row, as the last two answers tell it (`sciflow.solvers.ending`). For h̄ > 1.45 they are two below 0.75,
    three below 1.2, four below 1.7, else five; for smaller h̄ two below 0.85, three below 1.6, four below 4.6, else
    three. If the last step is not wider than 2, or goes to σ = 0, all steps have three.

    A row is smooth if in its fifth to tenth value of F the fifth divided difference adds less than a twentieth of what
    the third adds to a step: so it is with exact denoisers, and not with trained networks, where six nodes become
    unstable. It is said once and for each row alone: orders that follow the differences from step to step were up to
    15 times worse than any fixed one. The narrow velocity frame takes up most of the decay e^{−λ} of errors off the
    data, which bounds the steps of an Adams method the more the higher its order.

    A grid that starts at α = 0 is taken in the velocity frame of width 1, without a test.

    Order: 6 for smooth rows as steps become narrow, given exact starting values; the ramp at the start caps it at 3.
    Cost: 1 drift call per step; a history of up to 6 states, and up to 12 passes over them for narrow steps.
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
        rough, smooth = nodes(rule, steps), None
        if not is_white and mean <= NARROW and hasattr(split, "narrowed"):
            split, smooth = split.narrowed(WIDTH), nodes(SMOOTH, steps)
        most = max([*(smooth or rough)[0], *(n for _, n in bounds or ())])
        stepping = EABM(most, "velocity" if is_white else "noise", corrector=rule is ROUGH)
        return Method(stepping, split, rough, smooth, bounds)

    def plan(self, dynamics: Dynamics, times: Sequence[float], past: Sequence[float] = ()) -> list[Planned]:
        solver, split, rough, smooth, bounds = self.method(dynamics, times)
        known = [*past, *times]
        split = cast(ModelSplit, prepared(split, known))
        steps = multistep(split, known, rough[0], rough[1] if solver.corrector else ())
        planned = [Planned(solver, step, begins=k == 0) for k, step in enumerate(steps)]
        if bounds and len(steps) > 1 and len(known) > N_ENDING:
            ending = planned_ending(split, steps[-2], steps[-1], known[-2::-1], bounds)
            planned[-1] = planned[-1]._replace(ending=ending)
        first = max(N_KNOWN - len(past), N_TESTED) - 1  # the step before which so many values of F are known
        if smooth is None or first >= len(steps):
            return planned
        last = len(past) + first + 1
        test = differences(split, known[last - N_TESTED : last])
        for k, better in enumerate(multistep(split, known, *smooth)[first:], start=first):
            planned[k] = Planned(solver, steps[k], better, test if k == first else None)
        return planned

    def init(self, dynamics: Dynamics, times: Sequence[float], x: Tensor, past: Past = ()) -> AutoState:
        return AutoState(State(x, ()), past, None)

    def step(self, dynamics: Dynamics, coefficients: Planned, state: AutoState, noise: StepNoise) -> AutoState:
        solver, rough, smooth, test, begins, ending = coefficients
        before, past, is_smooth = state
        if begins:
            before = solver.begin(rough.split, (rough.a,), before.x, past)
        if ending:
            values = (rough.split.remainder(rough.a, before.x), *before.history)
            return AutoState(State(ended(ending, before.x, values), values), (), None)
        if smooth is None:
            return AutoState(solver.step(dynamics, rough, before, noise), (), None)
        is_smooth = smooth_rows(test, before) if test else is_smooth
        assert is_smooth is not None
        x, history = before
        x = mixed(x, rough.propagator, rough.weights, smooth.weights, history, is_smooth)
        if smooth.corrector:
            history = (rough.split.remainder(rough.b, x), *history)
            x = mixed(x, 1.0, rough.corrector, smooth.corrector, history, is_smooth)
        return AutoState(State(x, history[: solver.order]), (), is_smooth)

    def value(self, state: AutoState) -> Tensor:
        return state.inner.x


def smooth_rows(test: tuple[list[float], list[float]], state: State) -> Tensor:
    """1 for each row whose fifth difference is small beside the third, else 0; it broadcasts with x."""
    x, history = state
    with torch.no_grad():
        zero = [torch.zeros_like(x) for _ in test]
        third, fifth = (combine(z, 1.0, w, history).flatten(1).square().sum(1) for z, w in zip(zero, test, strict=True))
        is_smooth = fifth < SMOOTHNESS**2 * third
    return is_smooth.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def mixed(
    x: Tensor,
    propagator: Coefficient | None,
    rough: Sequence[Coefficient],
    smooth: Sequence[Coefficient],
    values: Sequence[Tensor],
    is_smooth: Tensor,
) -> Tensor:
    """P x + Σ W_j F_j with the weights of each row, in the buffer of x when autograd is off."""
    in_place = not torch.is_grad_enabled()
    assert isinstance(propagator, float)  # of a frame whose scale is no constant
    x = x.mul_(propagator) if in_place else x * propagator
    n = max(len(rough), len(smooth))
    own, other = ([*row, *[0.0] * (n - len(row))] for row in (rough, smooth))
    for k in range(n):
        weight = torch.add(is_smooth * (other[k] - own[k]), own[k])
        x = x.addcmul_(weight, values[k]) if in_place else x.addcmul(weight, values[k])
    return x
