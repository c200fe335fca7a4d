"""What benchmarks/pde.py measures: generators against analytic solutions, and costs beside the peers."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rows import Row, judged

from sciflow.domains.pde.boxes import Ring, Torus
from sciflow.domains.pde.chromatograph import GasChromatograph
from sciflow.domains.pde.equations import Burgers, KortewegDeVries, KuramotoSivashinsky, semilinear
from sciflow.domains.pde.evolve import fields
from sciflow.domains.pde.navier_stokes import NavierStokes
from sciflow.inverse.darcy import outflow, pressure
from sciflow.random import Stream

HERE = Path(__file__).resolve().parent
TORCH, JAX = (str(HERE.parent / f"{name}/bin/python") for name in (".venv-peers", ".venv-peers-jax"))
TRAJECTORIES, KEPT_STEPS = 2048, 2000  # of PDE-Refiner's set: 2000 steps of 0.05 on 256 points
CPU_MINUTES = 3.0


def exact(claim: str, value: float, target: float | None = None) -> Row:
    """A row without a clock: its verdict needs no quiet machine."""
    return Row(claim, value, 0.0, target, None if target is None else value <= target)


def order(errors: Sequence[float]) -> float:
    return math.log2(errors[-2] / errors[-1])


def soliton_rows() -> list[Row]:
    ring, speed, errors = Ring(20.0, 256), 5.0, []

    def wave(t: float) -> torch.Tensor:
        away = torch.remainder(ring.places - speed * t, ring.length) - ring.length / 2
        return 0.5 * speed / (0.5 * math.sqrt(speed) * away).cosh() ** 2

    for step in (4e-3, 2e-3, 1e-3):
        end = fields(semilinear(KortewegDeVries(), ring), ring, wave(0.0)[None], [0.0, 1.0], step)[0, -1]
        errors.append(float((end - wave(1.0)).abs().max()))
    return [
        exact("Korteweg–de Vries soliton: 4 less the measured order", 4 - order(errors), 0.1),
        exact("Korteweg–de Vries soliton: error at steps of 0.001", errors[-1]),
    ]


def burgers_rows() -> list[Row]:
    found = []
    for viscosity, size, n_steps in ((0.1, 256, 600), (0.05, 512, 1000), (0.02, 1024, 1500)):
        ring = Ring(2 * math.pi, size)
        end = fields(semilinear(Burgers(viscosity), ring), ring, -ring.places.sin()[None], [0.0, 1.5], 1.5 / n_steps)
        x, y = ring.places.numpy(), np.linspace(-6 * math.pi, 8 * math.pi, 40001)
        logs = -(np.cos(y) + (x[:, None] - y) ** 2 / 3) / (2 * viscosity)
        weights = np.exp(logs - logs.max(1, keepdims=True))
        truth = ((x[:, None] - y) / 1.5 * weights).sum(1) / weights.sum(1)
        error = float(np.abs(end[0, -1].numpy() - truth).max())
        found.append(exact(f"Burgers, ν = {viscosity}: distance from Cole and Hopf", error, 1e-9))
    return found


def flow_rows() -> list[Row]:
    torus, flow = Torus(2 * math.pi, 64), NavierStokes(viscosity=0.01)
    y, x = torch.meshgrid(torus.side.places, torus.side.places, indexing="ij")
    start = 2 * (2 * x).cos() * (2 * y).cos()
    end = fields(flow.dynamics(torus), torus, start[None], [0.0, 1.0], 0.01)[0, -1]
    taylor = float((end - start * math.exp(-0.01 * 8)).abs().max())
    u = 2 * Stream(0).normal(4, (64, 64), dtype=torch.float64)
    residual = float((outflow(u.exp(), pressure(u.exp())) - 1).abs().max())
    column, errors = GasChromatograph(), []
    for step in (0.1, 0.05):
        t = torch.arange(int(60 / step), dtype=torch.float64) * step + column.transit * 10
        errors.append(float((column.signal(10.0, t, int(10 / step)) - column.exact(10.0, t)).abs().max()))
    return [
        exact("Taylor–Green vortices: error after decay", taylor, 1e-12),
        exact("Darcy, contrasts of 10⁵: residual of the truth over the source", residual, 1e-10),
        exact("gas chromatograph: 2 less the measured order", 2 - order(errors), 0.03),
    ]


def set_rows(quick: bool) -> list[Row]:
    """The whole set, or a part of its trajectories for as many steps."""
    n, ring = (128 if quick else TRAJECTORIES), Ring(64.0, 256)
    k = 2 * math.pi / 64 * torch.arange(1, 3, dtype=torch.float64)
    drawn = Stream(0).uniform(n, (10, 3), dtype=torch.float64)
    waves = k[(drawn[..., 2] > 0.5).long()][..., None] * ring.places + 2 * math.pi * drawn[..., 1:2]
    start = ((drawn[..., :1] - 0.5) * waves.sin()).sum(1)
    begun = time.process_time()
    for part in start.split(128):
        fields(semilinear(KuramotoSivashinsky(), ring), ring, part, [0.0, 0.05 * KEPT_STEPS], 0.05)
    minutes = (time.process_time() - begun) / 60 * TRAJECTORIES / n
    note = f", from {n} of them" if quick else ""
    claim = f"Kuramoto–Sivashinsky, {TRAJECTORIES} trajectories of {KEPT_STEPS} steps{note} [CPU-minutes]"
    return [exact(claim, minutes, CPU_MINUTES)]


class Side:
    """A process that times when asked."""

    def __init__(self, python: str, *arguments: str | int, memory: bool = False) -> None:
        own = {name: value for name, value in os.environ.items() if not (memory and name.startswith("MALLOC_"))}
        own |= {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(HERE.parent),
            "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
        }
        own |= {"MALLOC_MMAP_THRESHOLD_": "65536"} if memory else {}
        command = [python, "-P", str(HERE / "pde_worker.py"), *map(str, arguments)]
        self.process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=own)
        self.facts = self.answer()

    def answer(self):
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("a process that measures ended early; its message stands above.")
        return json.loads(line)

    def seconds(self) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.answer()

    def end(self) -> None:
        self.process.communicate()


def ratio(ours: Side, peer: Side, rounds: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds of both by turns, and ours over theirs."""
    for side in (ours, peer):
        side.seconds()  # warms up
    pairs = [(ours.seconds(), peer.seconds()) for _ in range(rounds)]
    return [a for a, _ in pairs], [b for _, b in pairs], [a / b for a, b in pairs]


def median(values: Sequence[float]):
    return lambda chosen: float(np.median([values[i] for i in chosen]))


def network_rows(quick: bool, quiet: bool = True) -> list[Row]:
    """Training steps beside neuraloperator: time, memory, and what doubling the resolution does."""
    if not Path(TORCH).exists():
        print(f"There is no {TORCH}, so no comparison with neuraloperator. `make peers` makes it.", file=sys.stderr)
        return []
    found: list[Row] = []
    for size in ((16, 32, 64, 12),) if quick else ((16, 32, 64, 12), (8, 64, 64, 16), (8, 32, 128, 12)):
        shape = "batch {}, width {}, {} points a side, {} modes".format(*size)
        ours, peer = Side(sys.executable, "ours", *size), Side(TORCH, "neuralop", *size)
        _, _, ratios = ratio(ours, peer, 6 if quick else 20)
        small, large = (Side(p, s, *size, memory=True) for p, s in ((sys.executable, "ours"), (TORCH, "neuralop")))
        claim = f"training step, {shape}: CPU time over that of neuraloperator"
        found.append(judged(claim, median(ratios), [len(ratios)], 1 / 1.2, quiet))
        memory = small.facts["memory"] / large.facts["memory"]
        found.append(exact(f"training step, {shape}: peak memory over that of neuraloperator", memory, 0.75))
        for side in (ours, peer, small, large):
            side.end()
    for name, side in (("sciflow", ours), ("neuraloperator", peer)):
        target = 1e-5 if name == "sciflow" else None  # float32
        found.append(exact(f"weights of one, float32, twice the points: error, {name}", side.facts["doubling"], target))
    return found


def stepping_rows(quick: bool, quiet: bool = True) -> list[Row]:
    """ETDRK4 steps beside exponax, compiled."""
    if not Path(JAX).exists():
        print(f"There is no {JAX}, so no comparison with exponax. `make peers` makes it.", file=sys.stderr)
        return []
    found = []
    for batch in (1, 64):
        sides = [Side(python, side, batch, 256, 400) for python, side in ((sys.executable, "solve"), (JAX, "exponax"))]
        far = max(abs(a - b) for a, b in zip(sides[0].facts["end"], sides[1].facts["end"], strict=True))
        mine, theirs, ratios = ratio(*sides, 4 if quick else 12)
        claim = f"Kuramoto–Sivashinsky, {batch} × 256, float64, ETDRK4"
        found.append(judged(f"{claim}: CPU time over that of exponax", median(ratios), [len(ratios)], 1.0, quiet))
        for name, seconds in (("sciflow", mine), ("exponax", theirs)):
            rate = [400 * batch / value for value in seconds]
            found.append(
                judged(f"{claim}: steps of a field in a second, {name}", median(rate), [len(rate)], None, quiet)
            )
        found.append(exact(f"{claim}: distance of both at t = 20", far))
        for side in sides:
            side.end()
    return found
