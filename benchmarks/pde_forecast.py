"""Forecasts of kicked Burgers: is a generative ensemble better than its deterministic twin, given every chance?

    python benchmarks/pde_forecast.py [--quick] [--json FILE] [--record]

The data are those of the run `stochastic-flow`, the same for all seeds; a seed is that of training and sampling. One
U-Net is trained as a regression (the twin) and as a conditional diffusion, half as long as in that run. From each
held-out state 32 members forecast eight fields: the diffusion; the twin; the twin with its fitted residual added each
step; the twin from perturbed states, with that size of the perturbation, of three, that scores best on these very
truths. The exact ensemble is made by the solver. CRPS is fair, averaged over lead times, places and trajectories;
intervals are Student's over seeds. The last rows vary the noise of the sampler of one trained model on a few
trajectories, in three times as many steps.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import machine
import torch
from rows import Row, asked, conclude
from torch import Tensor

from sciflow import __version__
from sciflow.data.arrays import from_xarray
from sciflow.diffusion.forecast import ConditionalDiffusion, Forecasts, Regression
from sciflow.diffusion.loss import Denoising
from sciflow.diffusion.model import unpack
from sciflow.diffusion.paths import Follmer
from sciflow.diffusion.times import Karras
from sciflow.domains.pde.kicked import Kicked
from sciflow.inverse.likelihood import GaussianLikelihood
from sciflow.inverse.rollout import Rollout
from sciflow.inverse.sensors import Sensors
from sciflow.metrics.ensemble import crps, spread_skill
from sciflow.metrics.score import Score
from sciflow.networks.unet import UNet
from sciflow.random import Stream
from sciflow.solvers.exponential import EABM
from sciflow.stages.artefact import Job
from sciflow.stages.train import ForecastTraining
from sciflow.training.optimisation import Optimisation

STUDENT = {3: 4.303, 4: 3.182, 5: 2.776}  # 97.5 % quantile of Student's t for n − 1 degrees of freedom
N_MEMBERS, N_NOISY = 32, 6
SIZES = (0.25, 0.5, 1.0)
TIMES = Karras(8, 80.0, 0.05, 4.0)
FLOW = EABM(order=3, frame="velocity")
ENSEMBLE, TWIN, RESIDUALS, PERTURBED = "generative ensemble", "twin", "twin + residual noise", "twin, perturbed states"


def trained(data, seed: int, n_steps: int) -> Forecasts:
    """Both forecasters, of one seed."""
    law = ConditionalDiffusion(Follmer(), Denoising(mean=0.3, spread=1.6))
    options = Optimisation(
        n_steps=n_steps, batch_size=128, learning_rate=4e-3, warm_up=100, ema_decay=0.995, validate_every=200
    )
    network = UNet(channels=(16, 32), padding="circular")
    training = ForecastTraining(network, {"mean": Regression(max(1, n_steps // 3)), "law": law}, 1, options)
    with torch.enable_grad():
        learned = training.learn(Job("pde_forecast", "train", "pde", seed, "", "", Path("model.pt")), data, None)
    found = unpack(learned.model)
    assert isinstance(found, Forecasts)
    return found


def rolled(forecasts: Forecasts, rollout: Rollout, truth: Tensor, seed: int, times: Karras = TIMES) -> Tensor:
    """Members from each given state, (observation, member, lead, place)."""
    grid, found = times(forecasts.schedule), []
    for i, state in enumerate(truth[:, 0]):
        given = GaussianLikelihood(state, Sensors(1, 1), 0.1)
        stream = Stream(seed, ("rollout", i), tile=N_MEMBERS)
        found.append(rollout(forecasts, given, grid, N_MEMBERS, stream).x[:, 1:])
    return torch.stack(found)


def scored(forecasts: Forecasts, truth: Tensor, seed: int) -> tuple[dict[str, float], float]:
    """CRPS of each forecast, and the spread–skill ratio of the generative ensemble."""
    later = truth[:, 1:]
    members = rolled(forecasts, Rollout("law", FLOW), truth, seed)
    others = {TWIN: Rollout("mean"), RESIDUALS: Rollout("mean", residual=1.0)}
    found = {ENSEMBLE: crps(later, members)["crps"].value}
    for name, rollout in others.items():
        found[name] = crps(later, rolled(forecasts, rollout, truth, seed))["crps"].value
    found[PERTURBED] = min(
        crps(later, rolled(forecasts, Rollout("mean", perturbation=size), truth, seed))["crps"].value for size in SIZES
    )
    return found, spread_skill(later, members)["spread_skill"].value


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean, standard error, and half-width of the 95 % interval over seeds."""
    n, numbers = len(values), torch.tensor(values, dtype=torch.float64)
    error = float(numbers.std()) / math.sqrt(n) if n > 1 else math.nan
    return float(numbers.mean()), error, STUDENT.get(n, math.nan) * error


def compared(found: Mapping[str, list[float]], floor: Score, ratios: list[float]) -> list[Row]:
    """Rows of CRPS, and whether the intervals of the ensemble and of each other forecast overlap."""
    said = [Row("CRPS, exact ensemble (error over trajectories)", floor.value, floor.stderr)]
    widths = {name: interval(values) for name, values in found.items()}
    for name, (mean, error, width) in widths.items():
        said.append(Row(f"CRPS, {name} (95 % interval ± {width:.2g})", mean, error))
    best, error, width = widths[ENSEMBLE]
    for name in (TWIN, RESIDUALS, PERTURBED):
        worse, other_error, other_width = widths[name]
        value = (best + width) / (worse - other_width)
        claim = f"upper end of the ensemble's interval over lower end of that of {name}"
        stderr = value * math.hypot(error / best, other_error / worse)
        said.append(Row(claim, value, stderr, 1.0, value < 1))
    mean, error, _ = interval(ratios)
    said.append(
        Row("spread–skill of the generative ensemble, distance from 1", abs(mean - 1), error, 0.1, abs(mean - 1) <= 0.1)
    )
    return said


def noises(forecasts: Forecasts, truth: Tensor) -> list[Row]:
    """CRPS and spread–skill of samplers with more and more noise, on the first trajectories."""
    few, said = truth[:N_NOISY], []
    for eta in (0.0, 0.5, 1.0):
        solver = EABM(order=3, frame="data", eta=eta)
        members = rolled(forecasts, Rollout("law", solver), few, 0, replace(TIMES, n_steps=24))
        for metric in (crps, spread_skill):
            ((name, score),) = metric(few[:, 1:], members).items()
            words = {"crps": "CRPS", "spread_skill": "spread–skill"}[name]
            said.append(
                Row(f"{words} of {len(few)} trajectories, noise level η = {eta:g}, 24 steps", score.value, score.stderr)
            )
    return said


def rows(quick: bool) -> list[Row]:
    """All rows, the seeds one after another."""
    n_seeds, n_steps, n_observations = (3, 20, 4) if quick else (3, 600, 32)
    kicked = Kicked(n_samples=256 if quick else 2048, n_observations=n_observations, n_exact=N_MEMBERS)
    data = kicked.simulate(Stream(0))
    truth = from_xarray(data["truth"], ("observation", "time", "x")).float()
    exact = from_xarray(data["exact"], ("observation", "exact_member", "time", "x"))
    floor = crps(truth[:, 1:], exact[:, :, 1:])["crps"]
    found: dict[str, list[float]] = {}
    ratios, forecasts = [], None
    for seed in range(n_seeds):
        forecasts = trained(data, seed, n_steps)
        scores, ratio = scored(forecasts, truth, seed)
        print(f"seed {seed}: " + ", ".join(f"{name} {value:.4f}" for name, value in scores.items()), flush=True)
        ratios.append(ratio)
        for name, value in scores.items():
            found.setdefault(name, []).append(value)
    assert forecasts is not None
    return compared(found, floor, ratios) + noises(forecasts, truth)


def main() -> int:
    options = asked(__doc__, "untrained in a minute: shows that it runs")
    torch.set_num_threads(1)
    with torch.no_grad():
        found = rows(options.quick)
    versions = {"sciflow": __version__, "torch": torch.__version__}
    conclude("pde_forecast", found, versions, machine.in_words(), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
