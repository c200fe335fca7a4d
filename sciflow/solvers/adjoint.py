"""Gradients through a solve, for memory that does not grow like the number of steps.

| | memory | cost beyond the solve | gradient of |
|---|---|---|---|
| `solve` under autograd | every intermediate of N steps | one backward pass | the discrete solve |
| `solve_checkpointed` | √N states and √N steps | one more solve | the discrete solve, to rounding |
| `solve_reversible` | one state, one step | inverse steps, one more solve | the discrete solve, to rounding |
| `solve_adjoint` | one state, one call | one more solve with products | the exact solution: O(h^p) away |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sciflow.random import Stream
from sciflow.solvers.dynamics import Dynamics, Equation
from sciflow.solvers.invertible import Invertible
from sciflow.solvers.solve import Past, Solver, StepNoise, solve
from sciflow.solvers.times import checked


def solve_checkpointed(
    dynamics: Dynamics,
    x: Tensor,
    times: Tensor | Sequence[float],
    solver: Solver,
    *,
    every: int | None = None,
    stream: Stream | None = None,
    past: Past = (),
) -> Tensor:
    """`solve`, keeping the state of every k-th step alone; the steps between are done again in the backward pass.

    Random numbers are keyed by the step, so the repetition meets the same noise. Gradients with respect to x and to
    everything the dynamics closes over are those of autograd.

    Exactness: equal to autograd through `solve`.
    Cost: one solve forwards, one more and a backward pass backwards.
    Bias: none.
    Args:
        dynamics: the equation.
        x: state at times[0], shape (batch, ...).
        times: increasing grid.
        solver: any.
        every: k; None is √N, for the least memory: √N states and the intermediates of √N steps. 1 keeps all states.
        stream: random numbers, for stochastic solvers.
        past: exact earlier states for multistep methods.
    Returns:
        The state at times[-1].
    Raises:
        ValueError: as `solve`, and every < 1.
    Source: Griewank (1992); Chen et al. (2016), Training deep nets with sublinear memory cost, section 4.1.
    """
    if every is not None and every < 1:
        raise ValueError(f"every must be at least 1 step, got {every}.")
    if not torch.is_grad_enabled():
        return solve(dynamics, x, times, solver, stream=stream, past=past)
    grid = checked(times)
    steps = list(solver.plan(dynamics, grid, [t for t, _ in past]))
    length = every or math.isqrt(len(steps) - 1) + 1
    name = type(solver).__name__

    def run(state: Any, first: int) -> Any:
        for k in range(first, min(first + length, len(steps))):
            state = solver.step(dynamics, steps[k], state, StepNoise(stream, k, x, name))
        return state

    state = solver.init(dynamics, grid, x, past)
    for first in range(0, len(steps), length):
        state = checkpoint(run, state, first, use_reentrant=False)
    return solver.value(state)


def _missing(value: Tensor, known: Sequence[Tensor]) -> Tensor | None:
    """A leaf that `value` depends on other than through the known tensors."""
    stop = {t.grad_fn for t in known if t.grad_fn is not None}
    leaves, seen, queue = {id(t) for t in known}, set(stop), [value.grad_fn]
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in leaves:
            return leaf
        queue += [child for child, _ in node.next_functions]
    return None


def _require_known(value: Tensor, known: Sequence[Tensor]) -> None:
    leaf = _missing(value, known)
    if leaf is not None:
        raise ValueError(
            f"the drift depends on a tensor of shape {tuple(leaf.shape)} that requires a gradient and would get none. "
            "Name it in `parameters`, switch it off by requires_grad_(False), or use solve_checkpointed()."
        )


def _products(outputs: Tensor, inputs: Sequence[Tensor], cotangent: Tensor) -> tuple[Tensor, ...]:
    """Jᵀ a for each input; zeros where there is no dependence."""
    if not outputs.requires_grad:
        return tuple(torch.zeros_like(v) for v in inputs)
    return torch.autograd.grad(outputs, list(inputs), cotangent, materialize_grads=True)


@dataclass(frozen=True)
class _Problem:
    """What a backward pass needs besides tensors to be differentiated."""

    dynamics: Dynamics
    grid: list[float]
    solver: Solver
    backward: Solver
    parameters: tuple[Tensor, ...]

    def augmented(self, shape: torch.Size) -> Equation:
        """(x, a, ∂L/∂θ) in s = −t as one row: dx/ds = −f, da/ds = Jᵀa, dg/ds = (∂f/∂θ)ᵀa."""
        n = shape.numel()

        def drift(s: float, row: Tensor) -> Tensor:
            with torch.enable_grad():
                x = row[0, :n].reshape(shape).detach().requires_grad_()
                value = self.dynamics.drift(-s, x)
            if -s == self.grid[-1] and value.requires_grad:  # the first call of the backward pass
                _require_known(value, (x, *self.parameters))
            adjoint = row[0, n : 2 * n].reshape(shape)
            pulled = _products(value, (x, *self.parameters), adjoint)
            return torch.cat([-value.detach().flatten(), *(g.flatten().to(row.dtype) for g in pulled)])[None]

        return Equation(drift=drift)


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, problem: _Problem, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.problem = problem
        end = solve(problem.dynamics, x, problem.grid, problem.solver)
        ctx.save_for_backward(end)
        return end

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        problem, (end,) = ctx.problem, ctx.saved_tensors
        n, sizes = end.numel(), [p.numel() for p in problem.parameters]
        row = torch.cat([end.flatten(), gradient.flatten(), end.new_zeros(sum(sizes))])[None]
        grid = [-t for t in reversed(problem.grid)]
        _, adjoint, rates = solve(problem.augmented(end.shape), row, grid, problem.backward)[0].split(
            [n, n, sum(sizes)]
        )
        parts = zip(rates.split(sizes), problem.parameters, strict=True)
        return None, adjoint.reshape(end.shape), *(g.reshape(p.shape).to(p.dtype) for g, p in parts)


def solve_adjoint(
    dynamics: Dynamics,
    x: Tensor,
    times: Tensor | Sequence[float],
    solver: Solver,
    *,
    parameters: Sequence[Tensor] = (),
    backward: Solver | None = None,
) -> Tensor:
    """`solve` for an ODE, with the gradient from the continuous adjoint, walked back beside the re-computed state.

        da/dt = −(∂f/∂x)ᵀ a,   ∂L/∂θ = ∫ (∂f/∂θ)ᵀ a dt,   a(t₁) = ∂L/∂x(t₁)

    Order: that of `backward`, for the gap to the gradient of the discrete solve.
    Cost: solver calls forwards; as many calls and vector–Jacobian products backwards. Memory of one call.
    Bias: O(h^p); and re-computing x backwards loses what the flow contracts: use it on short or smooth flows. The
        backward pass is one row to its solver: an adaptive one gives a row a gradient that depends on its batch.
    Args:
        dynamics: an ODE. For a diffusion model use `framed_adjoint`, whose clock has no stiff part.
        x: state at times[0], shape (batch, ...).
        times: increasing grid.
        solver: of the ODE.
        parameters: tensors that the drift depends on, to be differentiated with respect to.
        backward: solver of the adjoint equations, without frames; None is `solver`.
    Returns:
        The state at times[-1].
    Raises:
        ValueError: dynamics with noise; a `backward` solver that needs a frame; in the backward
            pass, a drift that depends on a tensor not in `parameters`.
    Source: Chen et al. (2018), Neural ordinary differential equations, algorithm 1.
    """
    if dynamics.noise != "none":
        raise ValueError(
            f"the adjoint is that of an ODE, got dynamics with {dynamics.noise} noise. Use solve_checkpointed()."
        )
    problem = _Problem(dynamics, checked(times), solver, backward or solver, tuple(parameters))
    problem.backward.plan(Equation(dynamics.drift), problem.grid)  # refuses here what it would refuse backwards
    return _Adjoint.apply(problem, x, *parameters)


class _Replayed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, problem: _Problem, x: Tensor, *parameters: Tensor) -> Tensor:
        solver, dynamics = problem.solver, problem.dynamics
        steps = list(solver.plan(dynamics, problem.grid))
        state = solver.init(dynamics, problem.grid, x.clone())
        for k, step in enumerate(steps):
            state = solver.step(dynamics, step, state, StepNoise(None, k, x, type(solver).__name__))
        ctx.problem, ctx.form = problem, _rebuilt(state, iter(torch.empty(0) for _ in _tensors(state)))
        ctx.save_for_backward(*_tensors(state))
        return solver.value(state).clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        problem, solver = ctx.problem, ctx.problem.solver
        totals = [torch.zeros_like(p) for p in problem.parameters]
        steps = list(solver.plan(problem.dynamics, problem.grid))

        def pulled(function: Callable[[Any], Any], state: Any, cotangents: Sequence[Tensor]) -> list[Tensor]:
            """Products with the Jacobian of one function of a state; those of the parameters are summed up."""
            inputs = [t.detach().requires_grad_() for t in _tensors(state)]
            with torch.enable_grad():
                outputs = _tensors(function(_rebuilt(state, iter(inputs))))
            _require_known(outputs[0], (*inputs, *problem.parameters))
            found = torch.autograd.grad(outputs, [*inputs, *problem.parameters], cotangents, materialize_grads=True)
            for total, part in zip(totals, found[len(inputs) :], strict=True):
                total += part
            return list(found[: len(inputs)])

        state = _rebuilt(ctx.form, iter(ctx.saved_tensors))
        adjoints = pulled(solver.value, state, [gradient])
        for k in reversed(range(len(steps))):
            state = solver.inverse_step(problem.dynamics, steps[k], state)
            noise = StepNoise(None, k, gradient, type(solver).__name__)
            again = partial(solver.step, problem.dynamics, steps[k], noise=noise)
            adjoints = pulled(again, state, adjoints)
        first = solver.value(state)
        (of_x,) = pulled(lambda x: solver.init(problem.dynamics, problem.grid, x), first, adjoints)
        return None, of_x, *totals


def _tensors(state: Any) -> list[Tensor]:
    """The tensors of a state, in order."""
    if isinstance(state, Tensor):
        return [state]
    return [t for part in state for t in _tensors(part)] if isinstance(state, tuple) else []


def _rebuilt(state: Any, tensors: Iterator[Any]) -> Any:
    """The state with other tensors in the places of its own."""
    if isinstance(state, Tensor):
        return next(tensors)
    if not isinstance(state, tuple):
        return state
    parts = [_rebuilt(part, tensors) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


def solve_reversible(
    dynamics: Dynamics,
    x: Tensor,
    times: Tensor | Sequence[float],
    solver: Invertible,
    *,
    parameters: Sequence[Tensor] = (),
) -> Tensor:
    """`solve` by an invertible solver: the backward pass runs its steps in reverse instead of remembering them.

    Exactness: equal to autograd through `solve`, up to the rounding of the inversion, which grows like γ^{−N}.
    Cost: one solve forwards; its inverse, one more solve and a backward pass backwards. Memory of one step.
    Bias: none.
    Args:
        dynamics: the probability flow of a model.
        x: state at times[0], shape (batch, ...).
        times: increasing grid.
        solver: one with an inverse: BDIA(), best in float64.
        parameters: tensors that the model depends on, to be differentiated with respect to.
    Returns:
        The state at times[-1].
    Raises:
        ValueError: a solver without an inverse; in the backward pass, a model that depends on a tensor not in
            `parameters`.
    Source: Gomez et al. (2017), The reversible residual network, for the idea.
    """
    if not isinstance(solver, Invertible):
        raise ValueError(
            f"{type(solver).__name__} has no exact inverse to walk back by. Use BDIA(), or solve_checkpointed()."
        )
    problem = _Problem(dynamics, checked(times), solver, solver, tuple(parameters))
    return _Replayed.apply(problem, x, *parameters)
