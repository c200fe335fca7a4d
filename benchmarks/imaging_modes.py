"""The 25 modes of MCGDiff's protocol: are draws as near to the posterior as exact draws are, and at what cost?

    python benchmarks/imaging_modes.py [--quick] [--measured N …] [--no-peers] [--json FILE] [--record]

A mixture of 25 unit Gaussians in 8 dimensions with random weights, a random matrix with singular values uniform on
[0, 1], noise uniform below the largest of them; a problem of its own for each seed. 1000 draws; means over problems:

    distance  sliced Wasserstein-2 to 1000 exact draws, over that of 1000 other exact draws
    weights   total variation between the mode weights of the draws and the exact ones
    time      CPU seconds, one thread, over those of deepinv's ΠGDM with 400 steps on the same problem

Twisted SMC differentiates a denoiser that hides its covariance, as ΠGDM does; beside it, the same with the covariance.
Targets: distance ≤ 1.5, weights ≤ 0.03, time ≤ 1; of time on a quiet machine alone. --measured takes one number of
measurements after the other: what each gave is kept in results/, and --record shows those that are there.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import machine
import numpy as np
import torch
from imaging_bias import peers
from particles_twisted import Opaque
from rows import Row, libraries, markdown, record, text, write
from torch import Tensor

from sciflow import __version__
from sciflow.diffusion.mixture import GaussianMixture, MixtureDenoiser
from sciflow.diffusion.schedule import EDM
from sciflow.diffusion.times import LogSNR
from sciflow.inverse import Dense, GaussianLikelihood, TwistedSMC
from sciflow.metrics.particle import mode_weights, sliced_w2
from sciflow.random import Stream

DIMENSION, N = 8, 1000
FARTHEST, HEAVIEST, LONGEST = 1.5, 0.03, 1.0
MEASURED = (1, 2, 4)
N_PARTICLES, N_STEPS = 3072, 70  # chosen on seeds 100 to 129: of equal cost, steps gain more than particles
KEPT = Path("results/benchmark-imaging-modes")


class Problem(NamedTuple):
    """A prior, an observation, and the exact posterior."""

    prior: MixtureDenoiser
    likelihood: GaussianLikelihood
    exact: GaussianMixture


def problem(n_measurements: int, seed: int) -> Problem:
    """Weights ∝ χ²₁, as published."""
    stream = Stream(seed, ("modes", n_measurements))
    grid = [torch.tensor([8.0 * i, 8.0 * j] * (DIMENSION // 2)) for i in range(-2, 3) for j in range(-2, 3)]
    weights = stream.child("weights").normal(25, dtype=torch.float64) ** 2
    eye = torch.eye(DIMENSION, dtype=torch.float64).expand(25, -1, -1)
    law = GaussianMixture(weights / weights.sum(), torch.stack(grid).double(), eye)
    operator = Dense(n_measurements, "spectral").draw((DIMENSION,), stream.child("matrix"))
    largest = float(torch.linalg.matrix_norm(operator.matrix, 2))
    noise = max(float(stream.child("level").uniform(1)) * largest, 1e-3)
    clean = operator(law.sample(1, stream.child("truth")))
    y = clean + noise * stream.child("noise").normal(1, (n_measurements,), dtype=torch.float64)
    exact, _ = law.posterior(operator.matrix, y[0], noise)
    return Problem(MixtureDenoiser(law, EDM()), GaussianLikelihood(y[0], operator, noise), exact)


class Method(NamedTuple):
    """A sampler, and whether it may see the covariance of the denoiser."""

    sampler: Any
    n_steps: int = N_STEPS
    is_opaque: bool = True


JUDGED = "twisted SMC"
METHODS = {
    JUDGED: Method(TwistedSMC(N_PARTICLES, tile=N_PARTICLES)),
    "twisted SMC, covariance given": Method(TwistedSMC(N_PARTICLES, tile=N_PARTICLES), is_opaque=False),
}


def ours(method: Method, known: Problem, seed: int) -> tuple[Tensor, float]:
    """Draws (n, d) and CPU seconds."""
    times = LogSNR(method.n_steps, ratio_max=150.0, ratio_min=0.01)(known.prior.schedule)
    prior = Opaque(known.prior) if method.is_opaque else known.prior
    start = time.process_time()
    drawn = method.sampler(prior, known.likelihood, times, N, Stream(seed, tile=N))
    x = drawn.resample(N, Stream(seed).child("draws")).x
    return x, time.process_time() - start


def theirs(problems: list[Problem]) -> dict[str, np.ndarray]:
    """Draws and seconds of deepinv's ΠGDM."""
    laws, likelihoods = [p.prior.mixture for p in problems], [p.likelihood for p in problems]
    given = {
        "means": laws[0].means,
        "weights": torch.stack([law.weights for law in laws]),
        "matrix": torch.stack([likelihood.operator.matrix for likelihood in likelihoods]),
        "y": torch.stack([likelihood.observation for likelihood in likelihoods]),
        "noise": torch.tensor([likelihood.sigma for likelihood in likelihoods], dtype=torch.float64),
    }
    return peers("modes", N, **{name: value.numpy() for name, value in given.items()})


def scores(draws: list[Tensor], problems: list[Problem], n_measurements: int) -> dict[str, tuple[float, float]]:
    """Distance over the floor and weights; value and standard error over problems."""
    exact, fresh = (
        torch.stack([p.exact.sample(N, Stream(k, (name, n_measurements))) for k, p in enumerate(problems)])
        for name in ("exact", "fresh")
    )
    x = torch.stack(draws).double()
    found = sliced_w2(exact, x, fresh=fresh, stream=Stream(5))
    exact_weights = torch.stack([p.exact.weights for p in problems])
    weights = mode_weights(exact_weights, _shares(problems, x), fresh=_shares(problems, fresh))
    floor = found["sliced_w2_floor"].value
    return {
        "distance": (found["sliced_w2"].value / floor, found["sliced_w2"].stderr / floor),
        "weights": (weights["mode_weight_tv"].value, weights["mode_weight_tv"].stderr),
        "weights of exact draws": (weights["mode_weight_tv_floor"].value, weights["mode_weight_tv_floor"].stderr),
    }


def spent() -> float:
    """CPU seconds of this process and of the peers that it has started."""
    return sum(os.times()[:4])


def _shares(problems: list[Problem], x: Tensor) -> Tensor:
    """Probability of each mode given a draw, (problem, draw, mode)."""
    return torch.stack([p.exact.components(rows).softmax(-1) for p, rows in zip(problems, x, strict=True)])


def rows(n_measurements: int, n_seeds: int, with_peers: bool, watch: machine.Watch) -> list[Row]:
    problems = [problem(n_measurements, seed) for seed in range(n_seeds)]
    peer, where, found = theirs(problems) if with_peers else {}, f"{n_measurements} measured", []
    for name, method in METHODS.items():
        runs = [ours(method, known, seed) for seed, known in enumerate(problems)]
        numbers = scores([x for x, _ in runs], problems, n_measurements)
        seconds = torch.tensor([s for _, s in runs], dtype=torch.float64)
        numbers["CPU seconds"] = float(seconds.mean()), float(seconds.std() / math.sqrt(n_seeds))
        targets = {"distance": FARTHEST, "weights": HEAVIEST}
        if peer:
            ratio = seconds / torch.from_numpy(peer["seconds"])
            numbers["time over deepinv's ΠGDM"] = float(ratio.median()), float(ratio.std() / math.sqrt(n_seeds))
            targets["time over deepinv's ΠGDM"] = LONGEST
        if name != JUDGED:
            numbers.pop("weights of exact draws")
            targets = {}
        is_quiet = watch.disturbance(spent())[1]
        for label, (value, error) in numbers.items():
            most = targets.get(label)
            can_tell = most is not None and (is_quiet or not label.startswith("time"))
            found.append(Row(f"{where}, {name}: {label}", value, error, most, value <= most if can_tell else None))
    if peer:
        numbers = scores(list(torch.from_numpy(peer["draws"])), problems, n_measurements)
        found += [Row(f"{where}, deepinv ΠGDM: {label}", *numbers[label]) for label in ("distance", "weights")]
        seconds = peer["seconds"]
        found.append(Row(f"{where}, deepinv ΠGDM: CPU seconds", seconds.mean(), seconds.std() / math.sqrt(n_seeds)))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 problems instead of 20")
    parser.add_argument("--measured", type=int, nargs="*", default=list(MEASURED), help="numbers of measurements")
    parser.add_argument("--no-peers", action="store_true", help="our samplers alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/ and benchmarks/README.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    watch, n_seeds = machine.Watch(), 3 if options.quick else 20
    with torch.no_grad():
        for n_measurements in options.measured:
            of_one = rows(n_measurements, n_seeds, not options.no_peers, watch)
            print(text(of_one), flush=True)
            words = watch.disturbance(spent())[0]
            write(KEPT / f"{n_measurements}-of-{n_seeds}.json", of_one, during=words, date=str(datetime.date.today()))
    kept = {m: KEPT / f"{m}-of-{n_seeds}.json" for m in MEASURED}
    stored = {m: json.loads(file.read_text()) for m, file in kept.items() if file.is_file()}
    found = [Row(**row) for one in stored.values() for row in one["rows"]]
    known: dict[str, Any] = {
        "benchmark": "imaging_modes",
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python benchmarks/imaging_modes.py", *sys.argv[1:]]),
        "machine": machine.in_words(),
        "versions": {"sciflow": __version__, "torch": torch.__version__, "deepinv": "0.5.0"},
        "problems": n_seeds,
        "during the run": "; ".join(f"{m} measured: {one['during']}" for m, one in stored.items()),
    }
    if options.json:
        write(options.json, found, **known)
    if options.record:
        said = f"{known['date']}, `{known['command']}`, {n_seeds} problems. {known['machine']}; {libraries(known)}. "
        said += f"During the run: {known['during the run']}."
        record("imaging_modes", f"{said}\n\n{markdown(found)}", found, **known)
    return 0


if __name__ == "__main__":
    sys.exit(main())
