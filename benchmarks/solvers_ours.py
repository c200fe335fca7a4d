"""sciflow's side of the solver benchmark: every solver of the table that solves an ODE, at its defaults."""

from __future__ import annotations

import bisect
from collections.abc import Callable

import torch
from solvers_cases import RHO, SIGMA_MAX, SIGMA_MIN, Counting
from torch import Tensor

from sciflow.diffusion.flow import probability_flow
from sciflow.diffusion.schedule import EDM
from sciflow.solvers import SOLVERS
from sciflow.solvers.exponential import EABM
from sciflow.solvers.solve import Solver, solve

Run = Callable[[Counting, Tensor, int], Tensor]  # (denoiser, start, calls at most) → end
SCHEDULE = EDM(SIGMA_MIN, SIGMA_MAX, RHO)
FAMILY = {
    f"eabm {frame} p={order}{' corrected' * corrector}": EABM(order=order, frame=frame, corrector=corrector)
    for frame, order in (("noise", 2), ("noise", 3), ("noise", 4), ("data", 2), ("data", 3), ("velocity", 2))
    for corrector in (False, True)
}
THROUGH_NETWORKS = ("auto", "ddim", *FAMILY)  # whose calls are dear

STEPS: dict[tuple[str, int], int] = {}  # solver, number of calls → steps


class Shared:
    """The shared denoiser with sciflow's face."""

    schedule = SCHEDULE

    def __init__(self, model: Counting, shape: tuple[int, ...]) -> None:
        self.model, self.shape = model, shape

    def __call__(self, x: Tensor, t: float | Tensor) -> Tensor:
        return self.model(x, float(SCHEDULE.sigma(t)))


def affordable(make: Callable[[int], Solver], calls: int, x: Tensor) -> int:
    """The largest number of steps whose run makes at most this many calls; 0 if there is none."""

    def too_many(n_steps: int) -> bool:
        model = Counting(lambda x, sigma: 0.5 * x)
        solve(probability_flow(Shared(model, tuple(x.shape[1:]))), x[:1], grid(n_steps), make(n_steps))
        return model.calls > calls

    return bisect.bisect_left(range(1, calls + 1), True, key=too_many)


def grid(n_steps: int) -> Tensor:
    """Uniform in the schedule's time: our noise levels."""
    return torch.linspace(0, 1, n_steps + 1, dtype=torch.float64)


def run(name: str, make: Callable[[int], Solver]) -> Run:
    def of(model: Counting, x: Tensor, calls: int) -> Tensor:
        if (name, calls) not in STEPS:
            STEPS[name, calls] = affordable(make, calls, x)
        n_steps = STEPS[name, calls]
        if not n_steps:
            raise ValueError(f"no run of at most {calls} calls.")
        return solve(probability_flow(Shared(model, tuple(x.shape[1:]))), x, grid(n_steps), make(n_steps))

    return of


def solves_odes(solver: Solver, x: Tensor) -> bool:
    """Whether it takes the probability flow, and needs no random numbers."""
    model = Counting(lambda x, sigma: 0.5 * x)
    try:
        solve(probability_flow(Shared(model, tuple(x.shape[1:]))), x[:1], grid(8), solver)
    except (ValueError, TypeError):
        return False
    return model.calls > 0


def variants(start: Tensor) -> dict[str, Run]:
    """Name → a whole run, planning included."""
    found: dict[str, Run] = {}
    for kind, cls in SOLVERS.items():
        solver = cls()
        if solves_odes(solver, start):
            found[kind] = run(kind, lambda n_steps, solver=solver: solver)
    found |= {name: run(name, lambda n_steps, solver=solver: solver) for name, solver in FAMILY.items()}
    return {f"sciflow {name}": of for name, of in found.items()}
