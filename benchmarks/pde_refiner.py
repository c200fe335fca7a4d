"""Kuramoto–Sivashinsky: how long forecasts stay correlated with the truth, against what their training cost.

    python benchmarks/pde_refiner.py [--quick] [--json FILE] [--record]

A small problem: the ring of length 22, whose largest Lyapunov exponent is 0.048, with 32 points, fields one time unit
apart, 192 trajectories of 60 fields to learn from, 48 held-out states, each followed for 128 time units. (A ring of
length 32 will not do: its chaos dies out within some 100 time units, and what remains is steady or travels.) One
Fourier network of 0.08 million parameters is trained, for one number of optimiser steps after another and from two
seeds, as: a regression of the increment; the same with two fields given; PDE-Refiner with three refinements; a
conditional diffusion, drawn in eight steps of its flow.

The correlation time is the median, over states and seeds, of the first time at which the correlation over space falls
below 0.8; one draw stands for those that draw. Its interval is a bootstrap over states, with both seeds of a state
together: it does not tell how other seeds would have fared. A step of training costs the same for all, but for a
channel of the first layer; CPU seconds, at one thread, stand beside. Published runs train some hundred times longer, on
longer rings: see `docs/pde.md`.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import machine
import numpy as np
import torch
from rows import Row, asked, conclude
from torch import Tensor

from sciflow import __version__
from sciflow.data.arrays import to_xarray
from sciflow.diffusion.forecast import ConditionalDiffusion, Forecaster, PDERefiner, Regression
from sciflow.diffusion.loss import Denoising
from sciflow.diffusion.model import unpack
from sciflow.diffusion.one_step import ForecastModel, RefinerModel, RegressionModel
from sciflow.diffusion.schedule import EDM
from sciflow.diffusion.times import Karras
from sciflow.domains.pde.boxes import Ring
from sciflow.domains.pde.equations import KuramotoSivashinsky, semilinear
from sciflow.domains.pde.evolve import fields
from sciflow.figures.style import colour, dress, legend, marker, panels
from sciflow.inverse.rollout import increment
from sciflow.metrics.lead import correlations, time_below
from sciflow.networks.fourier import FNO
from sciflow.random import Stream
from sciflow.solvers.exponential import EABM
from sciflow.stages.artefact import Job
from sciflow.stages.train import ForecastTraining
from sciflow.training.optimisation import Optimisation

HERE = Path(__file__).resolve().parent
RING, INTERVAL, STEP, SPIN_UP = Ring(22.0, 32), 1.0, 0.05, 200.0
THRESHOLD, N_BOOT, LEVEL = 0.8, 1000, 0.95
NETWORK = FNO(width=24, modes=15)
GRID, FLOW = EDM().log_snr(Karras(8, 20.0, 1e-3)(EDM())), EABM(order=3)
MSE, HISTORY, REFINER = "regression", "regression, two fields given", "PDE-Refiner, K = 3"
DIFFUSION = "diffusion, 8 steps"
METHODS: dict[str, tuple[Forecaster, int]] = {
    MSE: (Regression(), 1),
    HISTORY: (Regression(), 2),
    REFINER: (PDERefiner(n_refinements=3, min_noise=2e-3), 1),
    DIFFUSION: (ConditionalDiffusion(loss=Denoising(mean=-2.0, spread=2.5)), 1),
}


@dataclass(frozen=True)
class Size:
    """How much is done."""

    budgets: tuple[int, ...] = (200, 800, 2400)
    n_seeds: int = 2
    n_train: int = 192
    n_fields: int = 60
    n_states: int = 48
    n_leads: int = 128


QUICK = Size((4, 8), 1, 12, 12, 4, 10)


@dataclass(frozen=True)
class Found:
    """What one training and its forecasts came to.

    Args:
        times: of decorrelation, (state,).
        one_step: root mean square error of one step over that of the increments.
        seconds: CPU time of training.
        model: what was trained.
    """

    times: Tensor
    one_step: float
    seconds: float
    model: ForecastModel


def simulated(n: int, n_fields: int, stream: Stream) -> Tensor:
    """Trajectories on the attractor, (n, n_fields, size), from random fields of four waves long before."""
    waves = 2 * math.pi / RING.length * torch.arange(1, 5, dtype=torch.float64)[:, None] * RING.places
    drawn = stream.uniform(n, (4, 2), dtype=torch.float64)
    start = ((drawn[..., :1] - 0.5) * (waves + 2 * math.pi * drawn[..., 1:]).sin()).sum(1)
    times = [0.0, *(SPIN_UP + INTERVAL * k for k in range(n_fields))]
    return fields(semilinear(KuramotoSivashinsky(), RING), RING, start, times, STEP)[:, 1:]


def trained(data, name: str, n_steps: int, seed: int) -> tuple[ForecastModel, float]:
    """One forecaster, and the CPU seconds that it took."""
    forecaster, n_given = METHODS[name]
    options = Optimisation(
        n_steps=n_steps, batch_size=32, learning_rate=3e-3, warm_up=50, ema_decay=0.98, validate_every=n_steps
    )
    begun = time.process_time()
    with torch.enable_grad():
        training = ForecastTraining(NETWORK, {name: forecaster}, n_given, options)
        learned = training.learn(Job("pde_refiner", "train", "pde", seed, "", "", Path("model.pt")), data, None)
    return unpack(learned.model).models[name], time.process_time() - begun  # type: ignore[attr-defined]


def stepped(model: ForecastModel, past: Tensor, stream: Stream) -> Tensor:
    """The next fields of all states at once, (state, 1, size)."""
    if isinstance(model, RegressionModel):
        return model.mean(past)
    return past[:, -1] + increment(model, past, GRID, FLOW, stream)[0]


def followed(model: ForecastModel, truth: Tensor, seed: int) -> tuple[Tensor, float]:
    """When forecasts from the first two fields lose the truth, and the relative error of their first step."""
    path = list(truth[:, :2, None].float().unbind(1))
    for lead in range(truth.shape[1] - 2):
        past = torch.stack(path[-model.n_given :], 1)
        path.append(stepped(model, past, Stream(seed, ("lead", lead), tile=len(truth))))
    drawn = torch.stack(path[1:], 1)[:, :, 0].double()
    drawn = torch.where(drawn.isfinite() & (drawn.abs() < 1e3), drawn, 0.0)  # what has blown up is not correlated
    truth = truth[:, 1:]
    clock = [INTERVAL * k for k in range(truth.shape[1])]
    error = (drawn[:, 1] - truth[:, 1]).square().mean() / truth.diff(dim=1).square().mean()
    return time_below(clock, correlations(truth, drawn[:, None]), THRESHOLD), float(error.sqrt())


def median_of(times: Tensor) -> tuple[float, float, float, float]:
    """Median over (seed, state), its standard error and the ends of its interval, by a bootstrap over states."""
    picks = (Stream(0, ("bootstrap",)).uniform(N_BOOT, (times.shape[1],)) * times.shape[1]).long()
    medians = times[:, picks].transpose(0, 1).flatten(1).median(1).values
    low, high = medians.quantile(torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)).tolist()
    return float(times.flatten().median()), float(medians.std()), low, high


def level_rows(model: RefinerModel, data, n_steps: int) -> list[Row]:
    """The loss of each level of the refiner over that below which the next level sees what it was trained on."""
    fields_held = torch.as_tensor(data["data"].to_numpy()[data["split"].to_numpy() == "validation"])[:, :, None]
    windows = torch.cat([fields_held[:, k : k + 2] for k in range(0, fields_held.shape[1] - 1, 4)])
    noise, found = Stream(0).normal(len(windows), model.shape), []
    for k, (sigma, finer) in enumerate(zip(model.noises[:-1], model.noises[1:], strict=True)):
        loss = model.loss_at(torch.full((len(windows),), k), windows, noise).double() / float(finer / sigma) ** 2
        claim = f"PDE-Refiner, {n_steps} steps, level {k}: loss over (σ_{k + 1}/σ_{k})²"
        found.append(Row(claim, float(loss.mean()), float(loss.std()) / math.sqrt(len(loss))))
    return found


def rows(size: Size) -> tuple[list[Row], dict[str, list[tuple[float, ...]]]]:
    """All rows, and for each method the points of the figure: steps, median, ends of its interval."""
    fields_made = simulated(size.n_train, size.n_fields, Stream(0, ("train",)))
    splits = np.where(np.arange(size.n_train) % 12 == 0, "validation", "train")
    coords = {"split": ("sample", splits), "unit": ("sample", np.arange(size.n_train))}
    coords |= {"time": INTERVAL * np.arange(size.n_fields), "x": RING.places.numpy()}
    data = to_xarray({"data": fields_made.float()}, {"data": ("sample", "time", "x")}, coords, {"data": "1"})
    truth = simulated(size.n_states, size.n_leads + 2, Stream(1, ("test",)))
    said: list[Row] = []
    points: dict[str, list[tuple[float, ...]]] = {name: [] for name in METHODS}
    for n_steps in size.budgets:
        for name in METHODS:
            found = []
            for seed in range(size.n_seeds):
                model, seconds = trained(data, name, n_steps, seed)
                found.append(Found(*followed(model, truth, seed), seconds, model))
            value, stderr, low, high = median_of(torch.stack([one.times for one in found]))
            seconds = sum(one.seconds for one in found) / len(found)
            error = sum(one.one_step for one in found) / len(found)
            said.append(
                Row(f"{name}, {n_steps} steps: correlation time (95 %: {low:.1f} to {high:.1f})", value, stderr)
            )
            said.append(Row(f"{name}, {n_steps} steps: error of one step over the increment", error, math.nan))
            said.append(Row(f"{name}, {n_steps} steps: CPU seconds of training", seconds, math.nan))
            points[name].append((n_steps, value, low, high))
            print(f"{said[-3].claim} {value:.1f} ± {stderr:.1f}; one step {error:.3g}; {seconds:.0f} s", flush=True)
            if name == REFINER:
                assert isinstance(found[0].model, RefinerModel)
                said += level_rows(found[0].model, data, n_steps)
    return said, points


def draw(points: dict[str, list[tuple[float, ...]]], file: Path) -> None:
    """Correlation time against steps of training."""
    (ax,) = panels(1, 6.2, 4.2)
    for index, (name, found) in enumerate(points.items()):
        steps, value, low, high = np.array(found).T
        bars = np.stack([value - low, high - value])
        look = {"color": colour(index), "marker": marker(index), "markersize": 4.5, "linewidth": 1.5, "capsize": 2.5}
        ax.errorbar(steps, value, bars, label=name, **look)  # type: ignore[arg-type]
    ax.set_xscale("log")
    budgets = sorted({int(point[0]) for found in points.values() for point in found})
    ax.set_xticks(budgets, [str(n) for n in budgets])
    ax.minorticks_off()
    ax.set_ylim(bottom=0)
    note = "bars: 95 % intervals over 48 held-out states; two seeds"
    dress(ax, "How long a forecast of Kuramoto–Sivashinsky holds", note, "steps of training", "correlation time")
    legend(ax, loc="upper left")
    ax.figure.savefig(file)  # type: ignore[union-attr]


def main() -> int:
    options = asked(__doc__, "hardly trained, in a minute: shows that it runs")
    torch.set_num_threads(1)
    with torch.no_grad():
        found, points = rows(QUICK if options.quick else Size())
    versions = {"sciflow": __version__, "torch": torch.__version__}
    conclude("pde_refiner", found, versions, machine.in_words(), options)
    if options.record:
        draw(points, HERE.parent / "docs" / "images" / "pde_refiner.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
