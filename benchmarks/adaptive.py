"""What a step size for each row saves: sciflow and torchdiffeq in one process, by turns, at equal tolerances.

    python benchmarks/adaptive.py [--quick] [--json FILE] [--record]

(a) 1024 rows relax to a known curve at rates from 1 to 300, each row at its own: x' = −r (x − cos 8t), 16 coordinates.
    Target: at most half of the CPU time of torchdiffeq's dopri5, which takes one step size for the batch. Also against
    dopri5 with the error of the worst row as its norm, which promises what ours does: the tolerance for every row.
(b) The probability flow of a Gaussian mixture, 1024 × 2, where rows are alike: what rows of their own cost. No target.

Tolerances are 1e-6 relative and absolute, float64. CPU time at one thread; each sitting has start values of its own.
Values are medians over rounds of paired ratios with a bootstrap standard error. No verdict on a machine that does other
work, or where the standard error exceeds 5 % of the value.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import machine
import torch
import torchdiffeq
from rows import Row, judged, libraries, markdown, record, text, write
from torch import Tensor

from sciflow.diffusion.flow import probability_flow
from sciflow.diffusion.mixture import GaussianMixture, MixtureDenoiser
from sciflow.diffusion.schedule import Linear
from sciflow.random import Stream
from sciflow.solvers.dynamics import Equation
from sciflow.solvers.embedded import AdaptiveRungeKutta
from sciflow.solvers.per_row import solve_counted

TOLERANCE, OMEGA, FASTEST, N_ROWS, HALF = 1e-6, 8.0, 300.0, 1024, 0.5
SITTINGS = {True: (2, 2), False: (4, 5)}  # quick or not → sittings, rounds of each
OURS, CALLED, WORST = "sciflow", "torchdiffeq, as called", "torchdiffeq, norm of the worst row"


class Problem(NamedTuple):
    """An equation whose drift takes one time per row, its start, its times, and its solution where that is known."""

    name: str
    equation: Equation
    start: Tensor
    times: tuple[float, float]
    exact: Tensor | None


def relaxation(seed: int) -> Problem:
    """The last coordinate of a row is the logarithm of its rate; x = A cos ωt + B sin ωt + (x₀ − A) e^{−rt}."""
    stream = Stream(seed)
    rate = torch.exp(torch.linspace(0, 1, N_ROWS, dtype=torch.float64) * torch.tensor(FASTEST).log())[:, None]
    start = stream.normal(N_ROWS, (16,), dtype=torch.float64)
    moves = torch.ones(17, dtype=torch.float64)
    moves[-1] = 0

    def drift(t: Tensor, x: Tensor) -> Tensor:
        return -x[:, -1:].exp() * (x - torch.cos(OMEGA * t)[:, None]) * moves

    a, b = rate**2 / (rate**2 + OMEGA**2), rate * OMEGA / (rate**2 + OMEGA**2)
    angle = torch.tensor(OMEGA, dtype=torch.float64)
    exact = a * torch.cos(angle) + b * torch.sin(angle) + (start - a) * torch.exp(-rate)
    return Problem("(a) rates 1 to 300", Equation(drift), torch.cat([start, rate.log()], 1), (0.0, 1.0), exact)


def flow(seed: int) -> Problem:
    means = torch.tensor([[2.0, 0.0], [-1.5, 1.0], [0.0, -2.0]], dtype=torch.float64)
    weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    law = GaussianMixture(weights, means, 0.3 * torch.eye(2, dtype=torch.float64).expand(3, 2, 2))
    denoiser = MixtureDenoiser(law, Linear())
    start = denoiser.initial(0.02, N_ROWS, Stream(seed), torch.float64)
    return Problem("(b) flow of a mixture", probability_flow(denoiser), start, (0.02, 0.99), None)


def ours(problem: Problem) -> tuple[Tensor, int]:
    """The end, and the drift calls of all rows."""
    solver = AdaptiveRungeKutta(relative_tolerance=TOLERANCE, absolute_tolerance=TOLERANCE)
    end, calls = solve_counted(problem.equation, problem.start, problem.times, solver)
    return end, int(calls.sum())


def theirs(problem: Problem, norm: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, int]:
    calls = 0

    def drift(t: Tensor, x: Tensor) -> Tensor:
        nonlocal calls
        calls += len(x)
        return problem.equation.drift(t.expand(len(x)), x)  # type: ignore[arg-type]

    grid = torch.tensor(problem.times, dtype=torch.float64)
    options = {} if norm is None else {"norm": norm}
    tolerances = {"rtol": TOLERANCE, "atol": TOLERANCE}
    end = torchdiffeq.odeint(drift, problem.start, grid, method="dopri5", options=options, **tolerances)[-1]
    return end, calls


def worst_row(x: Tensor) -> Tensor:
    return x.square().mean(-1).sqrt().max()


METHODS: dict[str, Callable[[Problem], tuple[Tensor, int]]] = {
    OURS: ours,
    CALLED: theirs,
    WORST: lambda problem: theirs(problem, worst_row),
}


class Run(NamedTuple):
    """One solution: CPU seconds, drift calls of all rows, and the largest error where the solution is known."""

    seconds: float
    calls: int
    error: float


def timed(method: str, problem: Problem) -> Run:
    before = time.process_time()
    with torch.no_grad():
        end, calls = METHODS[method](problem)
    seconds = time.process_time() - before
    error = float("nan") if problem.exact is None else float((end[:, :16] - problem.exact).abs().max())
    return Run(seconds, calls, error)


def measured(n_sittings: int, n_rounds: int) -> dict[str, list[dict[str, Run]]]:
    """Problem → rounds, each with a run of every method, in an order that turns from round to round."""
    found: dict[str, list[dict[str, Run]]] = {}
    names = list(METHODS)
    for seed in range(n_sittings):
        for problem in (relaxation(seed), flow(seed)):
            for name in names:
                timed(name, problem._replace(start=problem.start[:8], exact=None))  # warm
            for k in range(n_rounds):
                turned = names[k % 3 :] + names[: k % 3]
                found.setdefault(problem.name, []).append({name: timed(name, problem) for name in turned})
    return found


def rows_of(problem: str, rounds: list[dict[str, Run]], sittings: list[int], quiet: bool) -> list[Row]:
    """Ours over each of theirs in CPU time, then calls, milliseconds and errors."""
    target = HALF if problem.startswith("(a)") else None
    found = []
    for peer in (CALLED, WORST):
        ratios = [one[OURS].seconds / one[peer].seconds for one in rounds]
        claim = f"{problem}: CPU time over that of {peer}"
        found.append(judged(claim, lambda c, r=ratios: statistics.median(r[i] for i in c), sittings, target, quiet))
    for name in METHODS:
        runs = [one[name] for one in rounds]
        seconds = [run.seconds for run in runs]
        claim = f"{problem}, {name}: CPU time of a solution [s]"
        found.append(judged(claim, lambda c, s=seconds: statistics.median(s[i] for i in c), sittings, None, quiet))
        found.append(Row(f"{problem}, {name}: drift calls per row", runs[0].calls / N_ROWS, 0.0))
        if problem.startswith("(a)"):
            error = max(run.error for run in runs)
            found.append(Row(f"{problem}, {name}: largest error over the tolerance", error / TOLERANCE, 0.0))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less than a minute in all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/ and benchmarks/README.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    watch, own = machine.Watch(), -time.process_time()
    n_sittings, n_rounds = SITTINGS[options.quick]
    rounds = measured(n_sittings, n_rounds)
    words, quiet = watch.disturbance(own + time.process_time())
    rows = [row for name, of in rounds.items() for row in rows_of(name, of, [n_rounds] * n_sittings, quiet)]
    facts: dict[str, object] = {
        "benchmark": "adaptive",
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python benchmarks/adaptive.py", *sys.argv[1:]]),
        "machine": machine.in_words(),
        "versions": {"torch": torch.__version__, "torchdiffeq": torchdiffeq.__version__},
        "during the run": words,
        "quiet": quiet,
    }
    if options.json:
        write(options.json, rows, **facts)
    if options.record:
        said = (
            f"{facts['date']}, `{facts['command']}`. {facts['machine']}; {libraries(facts)}. During the run: {words}."
        )
        record("adaptive", f"{said}\n\n{markdown(rows)}", rows, **facts)
    print(f"{facts['machine']}\nDuring the run: {words}.", "" if quiet else "No verdict: the machine was not quiet.")
    print(text(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
