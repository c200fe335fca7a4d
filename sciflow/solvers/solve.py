"""`solve()`: one loop for ODEs and SDEs, generation, physics and Langevin dynamics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from sciflow.random import Stream
from sciflow.solvers.dynamics import Dynamics
from sciflow.solvers.times import checked

Past = Sequence[tuple[float, Tensor]]


class StepNoise(NamedTuple):
    """The random numbers of one step: call it for standard normals shaped like the state.

    A step that needs several draws numbers them: `noise()`, `noise(1)`, `noise(2)` are independent.

    Attributes:
        key: a seed of its own for a library that draws its own numbers.
    """

    stream: Stream | None
    step: int
    like: Tensor
    solver: str

    def _given(self) -> Stream:
        if self.stream is None:
            raise ValueError(f"{self.solver} draws random numbers. Pass stream=Stream(seed) to solve().")
        return self.stream

    @property
    def key(self) -> int:
        return self._given().key(step=self.step)

    def __call__(self, draw: int = 0) -> Tensor:
        n, *shape = self.like.shape
        stream = self._given().child("draw", draw) if draw else self._given()
        return stream.normal(n, shape, step=self.step, dtype=self.like.dtype, device=self.like.device)


@runtime_checkable
class Solver(Protocol):
    """A numerical method as three pure functions; whatever it remembers is in the state it returns.

    Attributes:
        convergence: the order of convergence it is declared, and tested, to have.
    """

    @property
    def convergence(self) -> float: ...

    def plan(self, dynamics: Dynamics, times: Sequence[float], past: Sequence[float] = ()) -> Sequence[Any]:
        """The coefficients of each step, planned once, in float64. `past`: times of the known earlier states."""
        ...

    def init(self, dynamics: Dynamics, times: Sequence[float], x: Tensor, past: Past = ()) -> Any:
        """The state before the first step; it owns `x`."""
        ...

    def step(self, dynamics: Dynamics, coefficients: Any, state: Any, noise: StepNoise) -> Any:
        """One step. The state may be consumed; `noise()` gives standard normal numbers shaped like x."""
        ...

    def value(self, state: Any) -> Tensor:
        """The current x of a state."""
        ...


def solve(
    dynamics: Dynamics,
    x: Tensor,
    times: Tensor | Sequence[float],
    solver: Solver,
    *,
    stream: Stream | None = None,
    past: Past = (),
    on_step: Callable[[int, float, Tensor], None] | None = None,
) -> Tensor:
    """Carry x from times[0] to times[-1].

    When autograd is off (`torch.no_grad`), steps reuse their buffers; the result is the same either way.

    Args:
        dynamics: the equation.
        x: state at times[0], shape (batch, ...); it is not changed.
        times: increasing grid.
        solver: numerical method.
        stream: random numbers, for stochastic solvers; row k of step n gets the same numbers for any batch size.
        past: exact earlier states, oldest first, as pairs (time, x): starting values for multistep methods.
        on_step: called with (step, time, x) after each step; it must not keep x without copying it.

    Returns:
        The state at times[-1].

    Raises:
        ValueError: times that do not increase, or a stochastic solver without a stream.
    """
    grid = checked(times)
    if any(t >= grid[0] for t, _ in past):
        raise ValueError(f"past states must lie before times[0] = {grid[0]}, got {[t for t, _ in past]}.")
    coefficients = solver.plan(dynamics, grid, [t for t, _ in past])
    state = solver.init(dynamics, grid, x if torch.is_grad_enabled() else x.clone(), past)
    name = type(solver).__name__
    for k, step in enumerate(coefficients):
        state = solver.step(dynamics, step, state, StepNoise(stream, k, x, name))
        if on_step is not None:
            on_step(k, grid[k + 1], solver.value(state))
    return solver.value(state)
