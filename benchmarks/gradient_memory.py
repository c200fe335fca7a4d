"""How much memory a gradient through a solve takes, against the number of steps.

One loss, its gradient with respect to the start and to all weights of a perceptron, in a process of its own for each
method and number of steps; what is measured is how far the process's peak resident memory rises. The solver of the
first three is EABM of order 2 (noise frame); the adjoint takes the same method as an ODE method in κ = σ/α, and the
reversible solve takes BDIA, which has an inverse: all call the network once per step.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from benchmarks import machine  # noqa: E402
from benchmarks.rows import Row, judged, libraries, markdown, record, text, write  # noqa: E402
from sciflow import __version__  # noqa: E402
from sciflow.diffusion.flow import probability_flow  # noqa: E402
from sciflow.diffusion.framed import framed_adjoint  # noqa: E402
from sciflow.diffusion.schedule import EDM  # noqa: E402
from sciflow.random import Stream  # noqa: E402
from sciflow.solvers.adjoint import solve_checkpointed, solve_reversible  # noqa: E402
from sciflow.solvers.exponential import EABM  # noqa: E402
from sciflow.solvers.invertible import BDIA  # noqa: E402
from sciflow.solvers.solve import solve  # noqa: E402

STEPS = {False: (16, 64, 256), True: (8, 32)}
ROUNDS = {False: 4, True: 2}
BATCH, DIMENSION, WIDTH = 1024, 256, 512  # a state of a MiB: the kernel counts pages to within a quarter of one
FIXED, ROOT = "fixed", "root"  # how memory may grow with the number of steps
SLACK = 1.25  # of memory besides the states: gradients, the code of the first call, pages half used
MIB = 2**20


class Perceptron(nn.Module):
    """D(x, t) by one hidden layer."""

    schedule, shape = EDM(), (DIMENSION,)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(DIMENSION, WIDTH), nn.Linear(WIDTH, DIMENSION)

    def forward(self, x: Tensor, t: float) -> Tensor:
        return self.second(nn.functional.silu(self.first(x / self.schedule.sigma(t).to(x.dtype))))


def _plain(model: Perceptron, x: Tensor, times: Tensor) -> Tensor:
    return solve(probability_flow(model), x, times, EABM(2, "noise"))


def _checkpointed(model: Perceptron, x: Tensor, times: Tensor, every: int | None) -> Tensor:
    return solve_checkpointed(probability_flow(model), x, times, EABM(2, "noise"), every=every)


def _adjoint(model: Perceptron, x: Tensor, times: Tensor) -> Tensor:
    return framed_adjoint(model, x, times, EABM(2, "time"), parameters=list(model.parameters()))


def _reversible(model: Perceptron, x: Tensor, times: Tensor) -> Tensor:
    return solve_reversible(probability_flow(model), x, times, BDIA(), parameters=list(model.parameters()))


METHODS: dict[str, tuple[Callable[[Perceptron, Tensor, Tensor], Tensor], str | None]] = {
    "autograd": (_plain, None),
    "checkpointed, every state kept": (partial(_checkpointed, every=1), None),
    "checkpointed, √N": (partial(_checkpointed, every=None), ROOT),
    "reversible (BDIA)": (_reversible, FIXED),
    "adjoint": (_adjoint, FIXED),
}


def _gradient(method: str, n_steps: int, batch: int) -> None:
    model = Perceptron()
    x = 80 * Stream(0).normal(batch, (DIMENSION,)).requires_grad_()
    end = METHODS[method][0](model, x, torch.linspace(0.0, 0.9, n_steps + 1, dtype=torch.float64))
    end.square().mean().backward()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _each_array_in_pages_of_its_own() -> None:
    """Tell glibc to give the memory of every array back at once, so that what is resident is what is in use."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(-3, 32768)  # M_MMAP_THRESHOLD


def _child(method: str, n_steps: int, answers: object) -> None:
    torch.set_num_threads(1)
    _each_array_in_pages_of_its_own()
    _gradient(method, 4, 1)  # the code that a first call loads
    before, start = _peak(), time.process_time()
    _gradient(method, n_steps, BATCH)
    answers.put((_peak() - before, time.process_time() - start))  # type: ignore[attr-defined]


def measured(method: str, n_steps: int) -> tuple[float, float]:
    """Rise of the peak memory [bytes] and CPU time [s] of one gradient, in a process of its own."""
    context = multiprocessing.get_context("fork")  # this process has not used autograd, so its children may
    answers = context.SimpleQueue()
    process = context.Process(target=_child, args=(method, n_steps, answers))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{method} with {n_steps} steps ended with exit code {process.exitcode}.")
    return answers.get()


def growth(values: Sequence[tuple[float, float]], chosen: Sequence[int]) -> float:
    """Median ratio of the second to the first over rounds."""
    return statistics.median(values[i][1] / values[i][0] for i in chosen)


def run(quick: bool) -> tuple[list[Row], dict[str, object]]:
    """All rows, and the facts that go with them."""
    steps, n_rounds = STEPS[quick], ROUNDS[quick]
    sittings, watch, own = [1] * n_rounds, machine.Watch(), 0.0
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    checkpoint(
        torch.sin, torch.ones(1, requires_grad=True), use_reentrant=False
    )  # imports a lot, once for all children
    for _ in range(n_rounds):
        for method in METHODS:
            for n_steps in steps:
                found.setdefault((method, n_steps), []).append(measured(method, n_steps))
                own += found[method, n_steps][-1][1]
    rows, (least, most) = [], (steps[0], steps[-1])
    for (method, n_steps), values in found.items():
        peaks = [peak / MIB for peak, _ in values]
        claim = f"{method}, {n_steps} steps: peak memory, MiB"
        rows.append(
            judged(claim, lambda chosen, p=peaks: statistics.median(p[i] for i in chosen), sittings, None, True)
        )
    for method, (_, kind) in METHODS.items():
        pairs = [(a[0], b[0]) for a, b in zip(found[method, least], found[method, most], strict=True)]
        target = None if kind is None else SLACK * (1.0 if kind == FIXED else (most / least) ** 0.5)
        claim = f"{method}: peak memory of {most} steps over that of {least}"
        rows.append(judged(claim, partial(growth, pairs), sittings, target, True))
    for method in list(METHODS)[1:]:
        pairs = [(a[1], b[1]) for a, b in zip(found["autograd", most], found[method, most], strict=True)]
        rows.append(judged(f"{method}: CPU time over that of autograd", partial(growth, pairs), sittings, None, True))
    words, quiet = watch.disturbance(own)
    versions = {"sciflow": __version__, "torch": torch.__version__}
    facts = {"machine": machine.in_words(), "versions": versions, "during the run": words, "quiet": quiet}
    return rows, facts | {"rounds": n_rounds}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less than a minute in all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/ and benchmarks/README.md")
    options = parser.parse_args()
    rows, facts = run(options.quick)
    command = " ".join(["python benchmarks/gradient_memory.py", *sys.argv[1:]])
    facts = {"benchmark": "gradient_memory", "date": datetime.date.today().isoformat(), "command": command} | facts
    if options.json:
        write(options.json, rows, **facts)
    if options.record:
        said = f"{facts['date']}, `{command}`, {facts['rounds']} rounds. {facts['machine']}; {libraries(facts)}."
        said += f" During the run: {facts['during the run']}."
        record("gradient_memory", f"{said}\n\n{markdown(rows)}", rows, **facts)
    print(f"{facts['machine']}; {facts['rounds']} rounds\n")
    print(text(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
