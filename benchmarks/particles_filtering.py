"""Filters and tempering: a bootstrap filter of 10⁵ particles beside `particles`, and log Z of hard densities.

The chain x' = 0.9 x + √0.19 w is measured 50 times with noise 0.5; both libraries filter the same measurements, with
states in float64 and ours in float32 besides (log-weights and evidence are float64 whatever the state is), with
systematic resampling below half of the particles, in two processes that take turns: median over rounds of paired ratios
of CPU times. The error of the log-evidence is root mean square over the rounds, against Kalman's.
Tempering: error of log Ẑ, mean over runs with temperatures of one pilot, for Neal's funnel and for eight double wells.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import machine
import torch
from particles_driver import HERE, PEERS, median
from rows import Row, judged
from torch import Tensor

from sciflow.particles import Adaptation, Bridge, NormalBase, Tempering, pilot, smc
from sciflow.particles.filtering import BootstrapFilter, LinearMeasurements
from sciflow.particles.kalman import LinearChain
from sciflow.particles.kernels import HMC
from sciflow.random import Stream
from sciflow.solvers.dynamics import Equation
from sciflow.solvers.explicit import Euler
from sciflow.solvers.state_space import StateSpace

N_PARTICLES, N_TIMES = 100_000, 50
ROUNDS = {True: 6, False: 60}
PRECISIONS = {"float64": torch.float64, "float32": torch.float32}
RUNS = {True: 4, False: 30}


def problem() -> tuple[BootstrapFilter, float]:
    """Our filter, and the exact log-evidence."""
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    decay = Equation(lambda t, x: -0.1 * x)
    grid = tuple(float(k) for k in range(N_TIMES))
    space = StateSpace(decay, grid, zero, 1.0, math.sqrt(0.19), Euler())
    path = space.simulate(1, Stream(1))[0]
    y = path + 0.5 * Stream(2).normal(N_TIMES, (1,), dtype=torch.float64)
    measured = LinearMeasurements.of(y, one, 0.5)
    exact = LinearChain(0.9 * one, 0.19 * one, zero, one, measured).filtered().log_evidence
    return BootstrapFilter(space, measured), exact


def filter_rows(quick: bool) -> list[Row]:
    """Ours over theirs, and the error of both log-evidences."""
    model, exact = problem()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "y.txt"
        file.write_text("\n".join(repr(float(y)) for y in model.measurements.values))
        peer = None
        if PEERS.exists():
            script = str(HERE / "particles_filtering_peer.py")
            command = [str(PEERS), "-P", "-W", "ignore", script, str(N_PARTICLES), str(file)]
            peer = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        else:
            print(f"There is no {PEERS}, so no comparison with `particles`. `make peers` makes it.", file=sys.stderr)
        watch, theirs = machine.Watch(), []
        models = {name: in_precision(model, dtype) for name, dtype in PRECISIONS.items()}
        ours: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
        for seed in range(ROUNDS[quick] + 1):
            for name, one in models.items():
                start = time.process_time()
                log_evidence = smc(one, N_PARTICLES, Stream(seed)).log_evidence
                ours[name].append((time.process_time() - start, log_evidence - exact))
            if peer is not None:
                theirs.append(asked(peer, seed, exact))
        if peer is not None:
            peer.communicate()
    runs = {f"ours in {name}": found[1:] for name, found in ours.items()}  # the first round compiles and warms up
    runs |= {"`particles`": theirs[1:]} if theirs else {}
    quiet = watch.disturbance(sum(one for found in runs.values() for one, _ in found))[1]
    claim = f"bootstrap filter of 10⁵ particles, {N_TIMES} times"
    found = []
    for name, measured in runs.items():
        errors = torch.tensor([error for _, error in measured], dtype=torch.float64)
        root = float(errors.square().mean().sqrt())
        found.append(judged(f"{claim}, {name} [s]", median([one for one, _ in measured]), [len(errors)], None, quiet))
        found.append(Row(f"its log-evidence, root mean square error, {name}", root, root / math.sqrt(2 * len(errors))))
    for name in ours if theirs else ():
        ratios = [mine / other for (mine, _), (other, _) in zip(ours[name][1:], theirs[1:], strict=True)]
        target = 0.5 if name == "float32" else None
        told = f"{claim}, ours in {name}, CPU time over that of `particles`"
        found.append(judged(told, median(ratios), [len(ratios)], target, quiet))
    return found


def in_precision(model: BootstrapFilter, dtype: torch.dtype) -> BootstrapFilter:
    """The same filter with states of this type; log-weights and evidence are float64 whatever it is."""
    return replace(model, space=replace(model.space, mean=model.space.mean.to(dtype)))


def asked(peer: subprocess.Popen, seed: int, exact: float) -> tuple[float, float]:
    """CPU seconds and error of one run of the other library."""
    assert peer.stdin is not None and peer.stdout is not None
    peer.stdin.write(f"{seed}\n")
    peer.stdin.flush()
    line = peer.stdout.readline()
    if not line:
        raise RuntimeError("the process of the library `particles` ended early; its message stands above.")
    seconds, log_evidence = json.loads(line)
    return seconds, log_evidence - exact


def funnel(x: Tensor) -> Tensor:
    """Neal's funnel in 10 dimensions: x₁ ~ N(0, 3²), the others N(0, e^{x₁}); normalised."""
    first, rest = x[:, 0], x[:, 1:]
    neck = -0.5 * (first / 3) ** 2 - math.log(3)
    return neck - 0.5 * ((rest**2).sum(1) * (-first).exp() + 9 * first) - 5 * math.log(2 * math.pi)


def wells(x: Tensor) -> Tensor:
    """Eight double wells, −x⁴ + 6 x² + x/2 each: 256 modes of unequal weight."""
    return (-(x**4) + 6 * x**2 + 0.5 * x).sum(1)


def tempering_rows(quick: bool) -> list[Row]:
    """Error of log Ẑ with its standard error over runs."""
    line = torch.linspace(-6, 6, 40_001, dtype=torch.float64)
    one_well = float(torch.trapezoid(wells(line[:, None]).exp(), line).log())
    found = []
    for name, target, d, width, exact in (
        ("funnel", funnel, 10, 1.0, 0.0),
        ("double wells", wells, 8, 2.0, 8 * one_well),
    ):
        base = NormalBase(torch.zeros(d, dtype=torch.float64), torch.full((d,), width, dtype=torch.float64))
        path, kernel, n = Bridge(base, target), HMC(0.3, 5), 2000
        stages = pilot(path, n, Stream(0), kernel, Adaptation(0.95), n_moves=2).stages
        model = Tempering(path, stages, kernel, n_moves=2)
        runs = [smc(model, n, Stream(1, (seed,))).log_evidence - exact for seed in range(RUNS[quick])]
        errors = torch.tensor(runs, dtype=torch.float64)
        claim = f"log Ẑ − log Z, {name}, d = {d}, {n} particles, {len(stages)} temperatures"
        found.append(Row(claim, float(errors.mean()), float(errors.std()) / math.sqrt(len(errors))))
    return found


def rows(quick: bool) -> list[Row]:
    return filter_rows(quick) + tempering_rows(quick)
