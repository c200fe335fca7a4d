"""What a GPU gains, and what it must not lose: time and memory on a CUDA device.

    python benchmarks/gpu.py [--quick] [--json FILE] [--record]

Wall times between two synchronisations, medians over rounds; ratios are of medians of the same round. Results are held
against the processor's or a closed form, so that a fast wrong answer fails.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import machine
import torch
from particles_filtering import N_PARTICLES, N_TIMES
from rows import Row, judged, report
from torch import Tensor, nn

import sciflow
from sciflow.diffusion.denoiser import FromView
from sciflow.diffusion.flow import probability_flow
from sciflow.diffusion.network import NetworkDenoiser
from sciflow.diffusion.schedule import EDM, Scaled
from sciflow.networks import UNet
from sciflow.particles import smc
from sciflow.particles.feynman_kac import State
from sciflow.particles.filtering import BootstrapFilter, LinearMeasurements
from sciflow.particles.kalman import LinearChain
from sciflow.particles.resampling import systematic
from sciflow.random import Stream
from sciflow.solvers import EABM, Equation, Euler, solve
from sciflow.solvers.compiled import compiled
from sciflow.solvers.state_space import StateSpace
from sciflow.stages.artefact import device

DEVICE = torch.device("cuda")
SHAPE, BATCH, N_STEPS = (1, 32, 32), 64, 20
MILLION, DIMENSION, TILE = 1_000_000, 64, 65_536


def seconds(run: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def peak(run: Callable[[], object]) -> tuple[int, float]:
    """Bytes that a run takes at most on the device, and its seconds."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    held, taken = torch.cuda.memory_allocated(), seconds(run)
    return torch.cuda.max_memory_allocated() - held, taken


def rounds(runs: Mapping[str, Callable[[], object]], n: int) -> dict[str, list[float]]:
    """Seconds of each by turns; a first round compiles and is thrown away."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(n + 1):
        for name, run in runs.items():
            found[name].append(seconds(run))
    return {name: values[1:] for name, values in found.items()}


def row(claim: str, values: list[float], target: float | None = None) -> Row:
    return judged(claim, lambda chosen: statistics.median(values[i] for i in chosen), [len(values)], target, True)


def over(claim: str, above: list[float], below: list[float], target: float | None = None) -> Row:
    return row(claim, [a / b for a, b in zip(above, below, strict=True)], target)


def noise_rows(n: int) -> list[Row]:
    """A draw whose rows are named, over one call for all of it."""
    stream, generator = Stream(0), torch.Generator(DEVICE)
    found = rounds(
        {
            "stream": lambda: stream.normal(MILLION, (DIMENSION,), device=DEVICE),
            "call": lambda: torch.empty(MILLION, DIMENSION, device=DEVICE).normal_(generator=generator),
        },
        n,
    )
    return [over("a stream's 10⁶ × 64 numbers over one call of the generator", found["stream"], found["call"], 2.0)]


def solver_rows(n: int) -> list[Row]:
    """A step besides the network; and a solve with a U-Net, as it is, compiled, and captured in a CUDA graph."""
    times = torch.linspace(0.01, 0.9, N_STEPS + 1, dtype=torch.float64)
    trivial = probability_flow(FromView(lambda x, t: 0.5 * x, "data", EDM(), SHAPE))
    torch.manual_seed(0)
    module: nn.Module = UNet((32, 64)).build(SHAPE).eval().requires_grad_(False).to(DEVICE)
    for parameter in module.parameters():
        parameter.normal_(std=0.03)  # a new U-Net is the zero function
    flow = probability_flow(NetworkDenoiser(module, Scaled(EDM(), 1.0), SHAPE, 0.0))
    x = 80 * Stream(1).normal(BATCH, SHAPE, device=DEVICE)
    solver = EABM(3, "data")
    captured = {backend: compiled(flow, times, solver, backend=backend) for backend in ("cudagraphs", "inductor")}
    found = rounds(
        {
            "trivial": lambda: solve(trivial, x, times, EABM(2, "data")),
            "trivial calls": lambda: [0.5 * x for _ in range(N_STEPS)],
            "eager": lambda: solve(flow, x, times, solver),
            **{name: (lambda f=function: f(x)) for name, function in captured.items()},
        },
        n,
    )
    exact, size = solve(flow, x, times, solver), f"U-Net, {BATCH} × 32², {N_STEPS} steps"
    overhead = [1e6 * (a - b) / N_STEPS for a, b in zip(found["trivial"], found["trivial calls"], strict=True)]
    rows = [row("a step besides the network, order 2, data frame [µs]", overhead)]
    rows.append(row(f"{size}: solve [ms]", [1e3 * one for one in found["eager"]]))
    for name, function in captured.items():
        distance = float((function(x) - exact).abs().max() / exact.abs().max())
        rows.append(over(f"{size}: {name} over solve", found[name], found["eager"], 1.0))
        rows.append(Row(f"{size}: {name}, largest difference over largest value", distance, 0.0, 1e-4, distance < 1e-4))
    return rows


@dataclass(frozen=True)
class Annealed:
    """The reverse SDE of a mixture of 8 Gaussians of width ½ in 64 dimensions, tilted by exp(−2 t (x₀ − 1.2)²)."""

    n_steps: int
    means: Tensor

    def level(self, k: int) -> float:
        return 4.0 * (0.05 / 4.0) ** (k / self.n_steps)

    def log_tilt(self, x: Tensor, k: int) -> Tensor:
        return -2.0 * k / self.n_steps * (x[:, 0] - 1.2).square()

    def initial(self, n: int, stream: Stream) -> tuple[State, Tensor]:
        x = torch.empty(n, DIMENSION, device=DEVICE)
        for start in range(0, n, TILE):
            rows = x[start : start + TILE]
            rows.copy_(stream.normal(len(rows), (DIMENSION,), first=start, device=DEVICE)).mul_(math.hypot(4.0, 0.5))
        return {"x": x}, x.new_zeros(n)

    def step(self, k: int, state: State, stream: Stream) -> tuple[State, Tensor]:
        x, potential = state["x"], -self.log_tilt(state["x"], k)
        before, after = self.level(k), self.level(k + 1)
        v, gap = before**2 + 0.25, before**2 - after**2
        for start in range(0, len(x), TILE):
            rows = x[start : start + TILE]
            share = ((rows @ self.means.T - 0.5 * self.means.square().sum(1)) / v).softmax(1)
            rows.add_(share @ self.means - rows, alpha=gap / v)
            rows.add_(stream.normal(len(rows), (DIMENSION,), first=start, device=DEVICE), alpha=math.sqrt(gap))
        return state, potential.add_(self.log_tilt(x, k + 1))


def ensemble_rows(n: int, n_steps: int) -> list[Row]:
    """10⁶ particles: resampling alone, a whole run, and its memory."""
    log_weights = Stream(0).normal(MILLION, dtype=torch.float64, device=DEVICE)
    model = Annealed(n_steps, 2 * Stream(5).normal(8, (DIMENSION,), device=DEVICE) / math.sqrt(DIMENSION))
    resampling = rounds({"": lambda: systematic(log_weights, MILLION, Stream(1))}, n)[""]
    smc(model, TILE, Stream(0))  # the workspaces that a first call takes
    tile, _ = peak(lambda: smc(model, TILE, Stream(0)))
    told = [peak(lambda s=seed: smc(model, MILLION, Stream(s))) for seed in range(3)]
    runs, over_tile = [one for _, one in told], told[0][0] / (4 * MILLION * DIMENSION + tile)
    claim = f"10⁶ particles of 64 float32, {n_steps} steps"
    return [
        row("systematic resampling of 10⁶ float64 log-weights [ms]", [1e3 * one for one in resampling]),
        row(f"{claim} [s]", runs),
        Row(f"{claim}: peak memory over state and one tile", over_tile, 0.0, 1.2, over_tile <= 1.2),
    ]


def filter_rows(n: int) -> list[Row]:
    """The bootstrap filter of `particles_filtering.py` on the device, against Kalman."""
    zero, one = torch.zeros(1, dtype=torch.float64, device=DEVICE), torch.ones(1, 1, dtype=torch.float64)
    grid = tuple(float(k) for k in range(N_TIMES))
    space = StateSpace(Equation(lambda t, x: -0.1 * x), grid, zero, 1.0, math.sqrt(0.19), Euler())
    y = space.simulate(1, Stream(1))[0] + 0.5 * Stream(2).normal(N_TIMES, (1,), dtype=torch.float64, device=DEVICE)
    model = BootstrapFilter(space, LinearMeasurements.of(y, one.to(DEVICE), 0.5))
    chain = LinearChain(0.9 * one, 0.19 * one, zero.cpu(), one, LinearMeasurements.of(y.cpu(), one, 0.5))
    exact, errors, times = chain.filtered().log_evidence, [], []
    for seed in range(n + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        errors.append(smc(model, N_PARTICLES, Stream(seed)).log_evidence - exact)
        times.append(time.perf_counter() - start)
    mean = statistics.mean(errors[1:])
    stderr = statistics.stdev(errors[1:]) / math.sqrt(n)
    claim = f"bootstrap filter of 10⁵ particles, {N_TIMES} times"
    return [row(f"{claim} [s]", times[1:]), Row(f"{claim}: log Ẑ − log Z", mean, stderr, None, None)]


def training_rows(n: int) -> list[Row]:
    """A training step of the default U-Net, here and on all cores of this machine."""
    found = {}
    for place in (DEVICE, torch.device("cpu")):
        torch.manual_seed(0)
        module = UNet((32, 64)).build(SHAPE).to(place)
        optimiser = torch.optim.AdamW(module.parameters())
        x, level = Stream(0).normal(BATCH, SHAPE, device=place), torch.zeros(BATCH, device=place)

        def step(module=module, optimiser=optimiser, x=x, level=level) -> None:
            optimiser.zero_grad()
            (module(x, level) - x).square().mean().backward()
            optimiser.step()

        with torch.enable_grad():
            found[place.type] = rounds({"": step}, n)[""]
    claim = f"training step of a U-Net, {BATCH} × 32²"
    cores = f"{torch.get_num_threads()} threads"
    return [
        row(f"{claim}, GPU [ms]", [1e3 * one for one in found["cuda"]]),
        over(f"{claim}: GPU over {cores} of the processor", found["cuda"], found["cpu"]),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/ and benchmarks/README.md")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("torch sees no CUDA device here; this benchmark needs one.", file=sys.stderr)
        return 2
    device("cuda")  # as the stages set it: float32 is float32, the same bits every time
    n, watch, own = 5 if options.quick else 30, machine.Watch(), time.process_time()
    with torch.no_grad():
        found = noise_rows(n) + solver_rows(n) + ensemble_rows(n, 20 if options.quick else 100) + filter_rows(n)
        found += training_rows(n)
    words, quiet = watch.disturbance(time.process_time() - own)
    if not quiet:  # clocks decide nothing then; numbers without a clock have no standard error
        found = [replace(one, holds=None) if one.stderr else one for one in found]
    versions = {"sciflow": sciflow.__version__, "torch": torch.__version__}
    where = f"{torch.cuda.get_device_name()}; {machine.in_words()}"
    report("gpu", found, n, versions, where, (words, quiet), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
