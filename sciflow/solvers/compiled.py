"""Compiled solves: one graph for all steps of a kind, whose coefficients are rows of a table."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from sciflow.solvers.automatic import Auto, Planned
from sciflow.solvers.dynamics import Dynamics, ModelSplit
from sciflow.solvers.exponential import State, Step
from sciflow.solvers.solve import Solver, StepNoise
from sciflow.solvers.times import checked

ENDS = 6  # numbers of a row that are not coefficients: time, α and σ at both ends


@runtime_checkable
class TracedSplit(ModelSplit, Protocol):
    """A split that answers at times that are tensors."""

    def remainder_at(self, x: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor: ...


class Kind(NamedTuple):
    """What two steps must share to be one graph: numbers of weights, whether they are nested means, kept history."""

    n_weights: int
    n_corrections: int
    means: bool
    asks: bool  # for F at the start: methods with corrector know it already
    kept: int


def kind_of(step: Step, corrector: bool, order: int) -> Kind:
    return Kind(len(step.weights), len(step.corrector), step.propagator is None, not corrector, order - (not corrector))


def row_of(step: Step) -> list[float]:
    """Everything about a step that is a number."""
    split = cast(TracedSplit, step.split)
    ends = (step.a, *split.levels(step.a), step.b, *split.levels(step.b))
    kept = 1.0 if step.propagator is None else step.propagator
    return [float(value) for value in (*ends, kept, *step.weights, *step.corrector)]


def advance(split: TracedSplit, kind: Kind, row: Tensor, x: Tensor, *history: Tensor) -> tuple[Tensor, ...]:
    """One step of `EABM` from a row of the table: x and the history after it."""
    numbers = row.unbind()
    kept, *weights = (number.to(x.dtype) for number in numbers[ENDS:])
    if kind.asks:
        history = (split.remainder_at(x, *numbers[:3]).to(x.dtype), *history)
    if kind.means:
        for weight, value in zip(weights[: kind.n_weights], history, strict=False):
            x = x + weight * (value - x)
    else:
        x = kept * x
        for weight, value in zip(weights[: kind.n_weights], history, strict=False):
            x = x + weight * value
    if kind.n_corrections:
        history = (split.remainder_at(x, *numbers[3:ENDS]).to(x.dtype), *history)
        for weight, value in zip(weights[kind.n_weights :], history, strict=False):
            x = x + weight * value
    return x, *history[: kind.kept]


def compiled(
    dynamics: Dynamics, times: Tensor | Sequence[float], solver: Solver, *, backend: str | Callable = "inductor"
) -> Callable[[Tensor], Tensor]:
    """x at times[0] → x at times[-1], planned once and compiled without a graph break.

    For the exponential Adams family (`eabm`, `auto`, and the named methods that are rules of it) the step is
    compiled, once for each number of nodes: at most order + 1 graphs, however many steps there are. Its coefficients
    are rows of a float64 table on the device of x, so that a step waits for nothing. Other methods, `auto` where its
    rows differ (on narrow steps, and at the end of few wide ones), those that start by single steps, and equations
    without noise levels are unrolled into one graph, which grows with the steps.

    "cudagraphs" compiles nothing: it records the kernels of `solve` itself at the first call with a shape, and
    launches all of them at once from then on, which saves what the host needs to ask for them one by one.

    Equal to `solve` to rounding: 1e-12 in float64, 1e-5 in float32, relative to the largest state. The unrolled loop by
    the backends "eager" and "aot_eager" and the recorded one are equal to the last bit.

    Args:
        dynamics: an ODE whose drift or split torch can trace.
        times: increasing grid.
        solver: a deterministic method whose steps do not depend on values.
        backend: of torch.compile, where "inductor" needs a C++ compiler; or "cudagraphs", which needs x on a GPU.
    Raises:
        ValueError: dynamics that the solver refuses, before anything is compiled.
    """
    grid = checked(times)
    method, plan = solver, solver.plan(dynamics, grid)
    if backend == "cudagraphs":
        return Recorded(_loop(dynamics, grid, method, plan))
    if isinstance(solver, Auto) and all(isinstance(step, Planned) and step.ending is None for step in plan):
        method, plan = plan[0].solver, [step.step for step in plan]
    steps = [step for step in plan if isinstance(step, Step) and _has_numbers(step)]
    if len(steps) < len(plan):
        return torch.compile(_loop(dynamics, grid, method, plan), fullgraph=True, backend=backend)
    return _by_table(dynamics, grid, method, steps, backend)


def _has_numbers(step: Step) -> bool:
    numbers = (step.propagator, *step.weights, *step.corrector)
    return isinstance(step.split, TracedSplit) and not step.spread and not any(isinstance(n, Tensor) for n in numbers)


def _by_table(
    dynamics: Dynamics, grid: list[float], solver: Solver, plan: Sequence[Step], backend: str | Callable
) -> Callable[[Tensor], Tensor]:
    split = cast(TracedSplit, plan[0].split)
    corrector, order = bool(getattr(solver, "corrector", False)), int(getattr(solver, "order", 1))
    kinds = [kind_of(step, corrector, order) for step in plan]
    graphs = {
        kind: torch.compile(functools.partial(advance, split, kind), fullgraph=True, dynamic=False, backend=backend)
        for kind in dict.fromkeys(kinds)
    }
    rows = [torch.tensor(row_of(step), dtype=torch.float64) for step in plan]

    @functools.cache
    def table(device: torch.device) -> list[Tensor]:
        return [row.to(device) for row in rows]

    def loop(x: Tensor) -> Tensor:
        state = cast(State, solver.init(dynamics, grid, x.clone()))
        x, history = state.x, tuple(state.history)
        for kind, row in zip(kinds, table(x.device), strict=True):
            x, *kept = graphs[kind](row, x, *history)
            history = tuple(kept)
        return x

    return loop


def _loop(dynamics: Dynamics, grid: list[float], solver: Solver, plan: Sequence) -> Callable[[Tensor], Tensor]:
    """`solve` from a plan that is made already."""

    def loop(x: Tensor) -> Tensor:
        state = solver.init(dynamics, grid, x.clone())
        for k, step in enumerate(plan):
            state = solver.step(dynamics, step, state, StepNoise(None, k, x, type(solver).__name__))
        return solver.value(state)

    return loop


@dataclass
class Recorded:
    """A function of one tensor whose kernels are recorded at the first call with a shape and replayed at the others.

    Args:
        function: one that never waits for the device, and draws no random numbers.
    Raises:
        ValueError: a tensor that is not on a GPU.
    """

    function: Callable[[Tensor], Tensor]
    graphs: dict[tuple, tuple[Any, Tensor, Tensor]] = field(default_factory=dict)

    def __call__(self, x: Tensor) -> Tensor:
        if x.device.type != "cuda":
            raise ValueError(f"a CUDA graph needs a state on a GPU, got one on {x.device}. Use another backend.")
        key = (x.shape, x.dtype, x.device)
        if key not in self.graphs:
            self.graphs[key] = self._record(x)
        graph, given, answer = self.graphs[key]
        given.copy_(x)
        graph.replay()
        return answer.clone()

    def _record(self, x: Tensor) -> tuple[Any, Tensor, Tensor]:
        given, graph, aside = x.clone(), torch.cuda.CUDAGraph(), torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), torch.cuda.stream(aside):
            self.function(given)  # what is made once, workspaces of libraries for example, is no part of the graph
        torch.cuda.current_stream().wait_stream(aside)
        with torch.no_grad(), torch.cuda.graph(graph):
            answer = self.function(given)
        return graph, given, answer
