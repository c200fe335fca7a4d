"""sciflow's side of the overhead benchmark."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from overhead_cases import N_STEPS, RHO, SIGMA_MAX, SIGMA_MIN, calls, denoiser, noise_levels, start
from torch import Tensor

from sciflow.diffusion.flow import probability_flow
from sciflow.diffusion.schedule import EDM
from sciflow.solvers.exponential import EABM
from sciflow.solvers.solve import solve

SOLVERS = {
    "2M": EABM(order=2, frame="data"),
    "AB3": EABM(order=3, frame="noise"),
    "ABM3": EABM(order=3, frame="noise", corrector=True),
}


class Shared:
    """The shared denoiser with sciflow's face."""

    def __init__(self, case: str, times: Tensor) -> None:
        self.schedule = EDM(SIGMA_MIN, SIGMA_MAX, RHO)
        self.shape = tuple(start(case).shape[1:])
        self.function = denoiser(case)
        self.sigma = dict(zip(times.tolist(), noise_levels().tolist(), strict=True))

    def __call__(self, x: Tensor, t: float) -> Tensor:
        return self.function(x, 1.0, self.sigma[t])


def by_hand(model: Shared, x: Tensor, times: list[float]) -> Callable[[], Tensor]:
    """The least a step of order 2 can do in torch: given coefficients, three passes over the state, in place."""
    split = probability_flow(model).split("data")
    nodes = [(times[0],), *((b, a) for a, b in itertools.pairwise(times[:-1]))]
    ends = zip(itertools.pairwise(times), nodes, strict=True)
    steps = [(a, split.propagator(a, b), split.weights(a, b, used)) for (a, b), used in ends]

    def run() -> Tensor:
        state, older = x.clone(), None
        for t, propagator, weights in steps:
            data = model(state, t)
            state.mul_(propagator).add_(data, alpha=weights[0])
            if older is not None:
                state.add_(older, alpha=weights[1])
            older = data
        return state

    return run


def variants(case: str) -> dict[str, Callable[[], Tensor]]:
    """Name → one whole run, planning included; "calls" is the denoiser alone, "by hand" a loop without a library."""
    times, x = torch.linspace(0, 1, N_STEPS + 1, dtype=torch.float64), start(case)
    model = Shared(case, times)

    def run(solver: EABM) -> Callable[[], Tensor]:
        return lambda: solve(probability_flow(model), x, times, solver)

    found = {f"sciflow {name}": run(solver) for name, solver in SOLVERS.items()}
    return {"calls": calls(case), "by hand 2M": by_hand(model, x, times.tolist())} | found
