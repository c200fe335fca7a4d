"""Narrow steps of `Auto`: each row has its own frame and nodes, and calls are made where they count.

A step is predicted, the model is called at the prediction, and its answer corrects the step (PEC). What then limits the
accuracy is that the answer belongs to the prediction, not to the corrected state. Every second step therefore has a
second call, at the corrected state (PECE), and at the end of the grid there is one more, so that the last step is
corrected too. These calls are saved at the start, where F hardly changes: several steps share one, and their states in
between are those of the same polynomial. Second calls in turn, not in a block: errors of Adams methods cancel from step
to step as long as the method stays the same, and where it changes what has not cancelled stays.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from sciflow.solvers.dynamics import ModelSplit
from sciflow.solvers.exponential import Step
from sciflow.solvers.solve import Past
from sciflow.solvers.weights import combine, corrections_of, prepared, weights_of

Orders = tuple[tuple[float, int, int], ...]  # steps up to this width in λ: nodes of the prediction, of the correction
ROUGH: Orders = ((0.3, 4, 4), (math.inf, 3, 3))
SMOOTH: Orders = ((0.25, 6, 5), (0.3, 5, 4), (math.inf, 4, 4))
ROUGH_WIDTH = 1.0  # of the velocity frame, in standard deviations of the data
SMOOTH_WIDTH = 0.06  # nearer to the scale on which data differ than all their spread: six nodes need it to be stable
GROUPS = ((25.0, 4), (14.0, 3), (7.0, 2))  # while σ/α is above so many standard deviations, steps that share a call
WIDEST_GROUP = 0.45  # width in λ of such steps together
LEAST_GROUPS = 6  # fewer are not worth it, and the test of smoothness lies among them
WIDEST_SECOND = 0.24  # width in λ of the last step with a second call; those before it have one in turn
N_TESTED = 6  # values of F whose third and fifth divided differences are compared
N_KNOWN = 10  # values of F before that: the first four still bear the low orders of the start
SMOOTHNESS = 0.05  # of the fifth over the third: up to 0.034 for exact denoisers, 0.08 to 0.35 for trained networks
N_KNOWN_GROUPED = 7  # the same where steps share calls, so that the nodes lie 0.2 to 0.4 apart:
SMOOTHNESS_GROUPED = 0.4  # 0.03 to 0.22 for exact denoisers, 0.66 and more for trained networks


@runtime_checkable
class VelocitySplit(ModelSplit, Protocol):
    """The velocity frame of data of some width: its remainder is G = D − c x."""

    @property
    def width(self) -> float: ...

    def narrowed(self, width: float) -> VelocitySplit: ...

    def share(self, t: float) -> float:
        """c: what of x the frame takes for the denoiser's answer."""
        ...


class Calls(NamedTuple):
    """Which steps of a grid have a call of the model at their end, and which have two."""

    once: list[bool]
    twice: list[bool]
    is_grouped: bool


class NarrowStep(NamedTuple):
    """One step: its coefficients for rough and for smooth rows, and which calls it makes.

    The test has two rows of weights of the last values of F, a bound of the ratio, and what turns those values into
    ones of the frame of smooth rows; see `differences`.
    """

    rough: Step
    smooth: Step | None
    calls: int
    begins: bool
    shift: float = 0.0  # c of the rough frame less that of the smooth one, at the end
    test: Test | None = None


class Test(NamedTuple):
    """How rows are told apart; all weights newest node first."""

    third: list[float]
    fifth: list[float]
    bound: float
    shifts: list[float]


class NarrowState(NamedTuple):
    """x, the last values of F, the states they belong to until rows are told apart, and which are smooth: 1 or 0."""

    x: Tensor
    history: tuple[Tensor, ...]
    states: tuple[Tensor, ...] = ()
    is_smooth: Tensor | None = None


def allotted(ratios: Sequence[float]) -> Calls:
    """The calls of a grid: with the one before the first step at most as many as it has steps.

    Args:
        ratios: σ/α at its times, in standard deviations of the data.
    """
    n, ends = len(ratios) - 1, [0]
    while True:
        k = ends[-1]
        sizes = (m for bound, m in GROUPS if k + m < n and ratios[k + m] >= bound)
        size = next((m for m in sizes if math.log(ratios[k] / ratios[k + m]) <= WIDEST_GROUP), 0)
        if not size:
            break
        ends.append(k + size)
    n_saved = ends[-1] - (len(ends) - 1)
    steps = [k for k in range(ends[-1], n - 1) if ratios[k] <= ratios[k + 1] * math.exp(WIDEST_SECOND)]
    second = steps[::-2][: max(n_saved - 1, 0)]
    if len(ends) <= LEAST_GROUPS or 2 * len(second) < n_saved:
        return Calls([True] * (n - 1) + [False], [False] * n, False)
    is_corrected = ratios[-1] > 0  # at σ = 0 there is nothing to correct
    once = [k in ends for k in range(1, ends[-1] + 1)] + [True] * (n - 1 - ends[-1]) + [is_corrected]
    return Calls(once, [k in second for k in range(n)], True)


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


def _steps(
    split: ModelSplit, past: Sequence[float], times: Sequence[float], calls: Calls, orders: Orders
) -> list[Step]:
    """The steps in one frame: predictions from the values known at the last call, corrections over all steps since."""
    windows, whole, known, starts = [], [], [*past, times[0]], []
    ends = [k + 1 for k, called in enumerate(calls.once) if called]
    for k, (a, b) in enumerate(itertools.pairwise(times)):
        end = next((times[e] for e in ends if e > k), b)
        (alpha, sigma), (alpha_b, sigma_b) = split.levels(known[-1]), split.levels(end)
        wide = math.log(sigma * alpha_b / (alpha * sigma_b)) if sigma_b else math.inf
        n, n_corrected = next((p, c) for width, p, c in orders if wide <= width) if sigma_b else (1, 0)
        windows.append((a, b, *known[: -n - 1 : -1]))
        if calls.once[k]:
            whole.append(((known[-1], b, *known[: -n - 1 : -1]), n_corrected))
            starts.append(k)
            known.append(b)
    weights = weights_of(split, windows)
    corrections: list[tuple] = [()] * len(windows)
    of_whole = [window for window, _ in whole]
    found = corrections_of(split, of_whole, weights_of(split, of_whole), [n for _, n in whole])
    for k, correction in zip(starts, found, strict=True):
        corrections[k] = correction
    return [
        Step(a, b, split, split.propagator(a, b), w, c, 0.0)
        for (a, b, *_), w, c in zip(windows, weights, corrections, strict=True)
    ]


def planned(split: VelocitySplit, times: Sequence[float], past: Sequence[float]) -> list[NarrowStep]:
    """The steps of a narrow grid. `split`: any frame of the model with `narrowed`."""
    everything = [*past, *times]
    rough_split, smooth_split = (
        cast(VelocitySplit, prepared(split.narrowed(width), everything)) for width in (ROUGH_WIDTH, SMOOTH_WIDTH)
    )
    std = rough_split.width / ROUGH_WIDTH
    levels = [rough_split.levels(t) for t in times]
    calls = allotted([sigma / (alpha * std) for alpha, sigma in levels])
    rough = _steps(rough_split, past, times, calls, ROUGH)
    made = [int(once) + int(twice) for once, twice in zip(calls.once, calls.twice, strict=True)]
    steps = [NarrowStep(step, None, n, k == 0) for k, (step, n) in enumerate(zip(rough, made, strict=True))]
    called = [0, *(k + 1 for k, once in enumerate(calls.once) if once)]
    n_known = max((N_KNOWN_GROUPED if calls.is_grouped else N_KNOWN) - len(past), N_TESTED)
    if n_known > len(called) or called[n_known - 1] >= len(steps):
        return steps
    first = called[n_known - 1]
    smooth = _steps(smooth_split, past, times, calls, SMOOTH)
    for k in range(first, len(steps)):
        shift = rough_split.share(times[k + 1]) - smooth_split.share(times[k + 1]) if made[k] else 0.0
        steps[k] = steps[k]._replace(smooth=smooth[k], shift=shift)
    nodes = [*past, *(times[k] for k in called[:n_known])]
    third, fifth = differences(rough_split, nodes[-N_TESTED:])
    shifts = [rough_split.share(t) - smooth_split.share(t) for t in nodes[::-1]]
    bound = SMOOTHNESS_GROUPED if calls.is_grouped else SMOOTHNESS
    steps[first] = steps[first]._replace(test=Test(third, fifth, bound, shifts))
    return steps


def begun(step: NarrowStep, x: Tensor, past: Past) -> NarrowState:
    """The state before the first step."""
    split = step.rough.split
    known = [(step.rough.a, x.clone()), *reversed(past)]
    return NarrowState(x, tuple(split.remainder(t, own) for t, own in known), tuple(own for _, own in known))


def advanced(step: NarrowStep, state: NarrowState) -> NarrowState:
    """The state after a step; x is reused when autograd is off."""
    x, history, states, is_smooth = state
    if step.test:
        is_smooth = smooth_rows(step.test, history)
        pairs = zip(history, step.test.shifts, states, strict=False)
        history, states = tuple(g + is_smooth * shift * own for g, shift, own in pairs), ()
    rough = step.rough
    if is_smooth is None:
        x = combine(x, rough.propagator, rough.weights, history[: len(rough.weights)])
        if not step.calls:
            return NarrowState(x, history, states)
        states = (x.clone(), *states)
        history = (rough.split.remainder(rough.b, x), *history)
        return NarrowState(combine(x, 1.0, rough.corrector, history[: len(rough.corrector)]), history, states)
    assert step.smooth is not None
    smooth, propagators = step.smooth, (rough.propagator, step.smooth.propagator)
    x = mixed(x, cast(tuple[float, float], propagators), rough.weights, smooth.weights, history, is_smooth)
    if step.calls:
        history = (_value(step, x, is_smooth), *history)
        x = mixed(x, (1.0, 1.0), rough.corrector, smooth.corrector, history, is_smooth)
    if step.calls == 2:
        history = (_value(step, x, is_smooth), *history[1:])
    return NarrowState(x, history[:N_TESTED], (), is_smooth)


def _value(step: NarrowStep, x: Tensor, is_smooth: Tensor) -> Tensor:
    """F at the end of a step, of each row in its own frame."""
    found = step.rough.split.remainder(step.rough.b, x)
    own = is_smooth * step.shift
    return torch.addcmul(found, own, x)


def smooth_rows(test: Test, history: Sequence[Tensor]) -> Tensor:
    """1 for each row whose fifth difference is small beside the third, else 0; it broadcasts with x."""
    x = history[0]
    with torch.no_grad():
        third, fifth = (
            combine(torch.zeros_like(x), 1.0, w, history[: len(w)]).flatten(1).square().sum(1)
            for w in (test.third, test.fifth)
        )
        is_smooth = fifth < test.bound**2 * third
    return is_smooth.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def mixed(
    x: Tensor,
    propagators: tuple[float, float],
    rough: Sequence,
    smooth: Sequence,
    values: Sequence[Tensor],
    is_smooth: Tensor,
) -> Tensor:
    """P x + Σ W_j F_j with P and W of each row, in the buffer of x when autograd is off."""
    in_place = not torch.is_grad_enabled()
    if propagators != (1.0, 1.0):
        propagator = torch.add(is_smooth * (propagators[1] - propagators[0]), propagators[0])
        x = x.mul_(propagator) if in_place else x * propagator
    n = max(len(rough), len(smooth))
    own, other = ([*row, *[0.0] * (n - len(row))] for row in (rough, smooth))
    for k in range(n):
        weight = torch.add(is_smooth * (other[k] - own[k]), own[k])
        x = x.addcmul_(weight, values[k]) if in_place else x.addcmul(weight, values[k])
    return x
