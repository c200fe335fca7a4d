"""What a stochastic step costs: Euler–Maruyama by sciflow and by torchsde, and the tiles of a random stream.

    python benchmarks/stepping.py [--quick] [--json FILE] [--record]

An Ornstein–Uhlenbeck batch, dx = −x dt + ½ dW, 10 000 × 16 in float32, 200 steps on [0, 1], one thread, one process:
all take turns in an order drawn for each round. The scheme and its steps are the same everywhere, so the strong error
is. "By dt" is torchsde's best setting, a Brownian interval that knows the step. Values are medians over rounds of
paired ratios of CPU times.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import machine
import torch
import torchsde
from rows import Row, judged, report
from torch import Tensor

from sciflow.random import Stream
from sciflow.solvers.dynamics import Equation
from sciflow.solvers.solve import solve
from sciflow.solvers.stochastic import EulerMaruyama

SHAPE, N_STEPS = (10_000, 16), 200
OURS, USUAL, BY_DT, NOISE, WHOLE = "sciflow", "torchsde", "torchsde by dt", "noise alone", "one randn"


class Process(torch.nn.Module):
    """The process with torchsde's face."""

    noise_type, sde_type = "diagonal", "ito"

    def f(self, t: Tensor, x: Tensor) -> Tensor:
        return -x

    def g(self, t: Tensor, x: Tensor) -> Tensor:
        return torch.full_like(x, 0.5)


def variants() -> dict[str, Callable[[], object]]:
    x, ends, dt = torch.ones(SHAPE), torch.tensor([0.0, 1.0]), 1 / N_STEPS
    times, ours, theirs = (
        torch.linspace(0, 1, N_STEPS + 1),
        Equation(lambda t, x: -x, lambda t, x: 0.5, "scalar"),
        Process(),
    )
    stream = Stream(0)

    def by_dt() -> Tensor:
        path = torchsde.BrownianInterval(0.0, 1.0, size=SHAPE, dt=dt, entropy=0)
        return torchsde.sdeint(theirs, x, ends, bm=path, method="euler", dt=dt)

    def noise() -> None:
        for step in range(N_STEPS):
            stream.normal(SHAPE[0], SHAPE[1:], step=step)

    def whole() -> None:
        generator = torch.Generator()
        for step in range(N_STEPS):
            torch.empty(SHAPE).normal_(generator=generator.manual_seed(step))

    return {
        OURS: lambda: solve(ours, x, times, EulerMaruyama(), stream=stream),
        USUAL: lambda: torchsde.sdeint(theirs, x, ends, method="euler", dt=dt),
        BY_DT: by_dt,
        NOISE: noise,
        WHOLE: whole,
    }


def rounds(seconds: float) -> list[dict[str, float]]:
    """CPU seconds of each variant per round, at least three rounds."""
    found, stop, table = [], time.monotonic() + seconds, variants()
    for run in table.values():
        run()
    while len(found) < 3 or time.monotonic() < stop:
        one = {}
        for name in random.Random(len(found)).sample(list(table), len(table)):
            before = time.process_time()
            table[name]()
            one[name] = time.process_time() - before
        found.append(one)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ten seconds instead of a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/ and benchmarks/README.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    watch, own = machine.Watch(), time.process_time()
    with torch.no_grad():
        found = rounds(10 if options.quick else 60)
    words, quiet = watch.disturbance(time.process_time() - own)

    def row(claim: str, above: str, below: str, target: float) -> Row:
        ratios = [one[above] / one[below] for one in found]
        return judged(claim, lambda chosen: statistics.median(ratios[i] for i in chosen), [len(found)], target, quiet)

    rows = [
        row("Euler–Maruyama over torchsde.sdeint as it is called", OURS, USUAL, 1 / 5),
        row("Euler–Maruyama over torchsde.sdeint by dt", OURS, BY_DT, 1 / 2.5),
        row("Euler–Maruyama over its noise alone", OURS, NOISE, 1.25),
        row("a stream's tiles of 64 × 16 over one randn", NOISE, WHOLE, 2.0),
    ]
    versions = {library: importlib.metadata.version(library) for library in ("sciflow", "torch", "torchsde")}
    report("stepping", rows, len(found), versions, machine.in_words(), (words, quiet), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
