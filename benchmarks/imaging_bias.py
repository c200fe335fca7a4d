"""How far each posterior sampler is from a posterior that is known: our whole table, deepinv and azula beside it.

    python benchmarks/imaging_bias.py [--quick] [--no-peers] [--json FILE] [--record]

The Gaussian twin: 8 × 8 pixels from N(0.5, 0.2²), a random half of them seen with noise 0.1, exact denoisers for all,
so that every error is the sampler's own. For each sampler, apart for observed and unobserved pixels:

    bias      root mean square of (mean of the draws − exact mean)/exact standard deviation; 0 is right
    variance  of the draws over the exact one; 1 is right
    mass      share of the exact posterior inside the central 90 % interval of the draws; 0.9 is right

Means over observations, each with a truth, a mask and noise of its own; standard errors are those of these means. The
row of exact draws says what as many draws can show.
"""

from __future__ import annotations

import argparse
import datetime
import math
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import machine
import numpy as np
import torch
from rows import Row, libraries, markdown, record, text, write
from torch import Tensor

from sciflow import __version__
from sciflow.diffusion.schedule import EDM, Scaled, Schedule
from sciflow.diffusion.times import LogSNR
from sciflow.inverse import (
    DAPS,
    DDNM,
    DDRM,
    DPS,
    DiffPIR,
    GaussianLikelihood,
    Guided,
    Inpainting,
    MomentMatching,
    PiGDM,
    PnPDM,
    REDDiff,
    TwistedSMC,
)
from sciflow.random import Stream
from sciflow.types import broadcast

HERE = Path(__file__).resolve().parent
PEERS = HERE.parent / ".venv-peers/bin/python"
MEAN, STD, NOISE, SHAPE = 0.5, 0.2, 0.1, (1, 8, 8)
LEVEL, FARTHEST = 0.9, 0.02  # mass, and how far from it a recommended sampler may be
RECOMMENDED = ("twisted SMC", "guided, moment matching")
COLUMNS = ("bias", "variance", "mass")
PARTS = ("observed", "unobserved")


@dataclass(frozen=True)
class Pixels:
    """The exact denoiser of independent pixels, which hides its covariance, as a network does."""

    schedule: Schedule
    shape: tuple[int, ...] = SHAPE

    def __call__(self, x: Tensor, t: float | Tensor) -> Tensor:
        alpha, sigma = (broadcast(level(t), x) for level in (self.schedule.alpha, self.schedule.sigma))
        return MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x - alpha * MEAN)

    def initial(self, t: float, n: int, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
        alpha, sigma = float(self.schedule.alpha(t)), float(self.schedule.sigma(t))
        return alpha * MEAN + math.hypot(alpha * STD, sigma) * stream.normal(n, self.shape, dtype=dtype)


class Problem(NamedTuple):
    """One observation and its exact posterior, pixel by pixel."""

    likelihood: GaussianLikelihood
    observed: Tensor
    mean: Tensor
    std: Tensor


def problem(k: int) -> Problem:
    stream = Stream(7, ("twin", k))
    operator = Inpainting(0.5).draw(SHAPE, stream.child("mask"))
    truth = MEAN + STD * stream.child("truth").normal(1, SHAPE)
    y = operator(truth) + NOISE * stream.child("noise").normal(1, (operator.n_measurements,))
    observed = operator.parameters()["mask"].flatten().bool()
    gain = torch.where(observed, STD**2 / (STD**2 + NOISE**2), 0.0)
    mean = MEAN + gain * (operator.adjoint(y).flatten() - MEAN)
    return Problem(GaussianLikelihood(y[0], operator, NOISE), observed, mean, STD * (1 - gain).sqrt())


SAMPLERS: dict[str, Any] = {
    "twisted SMC": TwistedSMC(1024),
    "guided, moment matching": Guided(MomentMatching),
    "guided, ΠGDM": Guided(PiGDM),
    "guided, ΠGDM, v = 1 as published": Guided(lambda prior, likelihood: PiGDM(prior, likelihood, variance=1.0)),
    "guided, DPS": Guided(DPS),
    "DAPS": DAPS(),
    "DAPS, r = s and 5 calls as published": DAPS(n_flow_steps=4, variance=math.inf),
    "PnP-DM": PnPDM(),
    "DiffPIR": DiffPIR(),
    "DiffPIR, r = s, λ = 7, ζ = 0.1": DiffPIR(7.0, 0.1, math.inf),
    "DiffPIR, r = s, λ = 1, ζ = 1": DiffPIR(1.0, 1.0, math.inf),
    "DDRM": DDRM(),
    "DDRM as published": DDRM(published=True),
    "DDRM as published, η = 1": DDRM(eta=1.0, published=True),
    "DDNM+": DDNM(),
    "RED-diff": REDDiff(),
}


def scores(draws: Tensor, known: Problem) -> list[float]:
    """Bias, variance and mass, each for observed and unobserved pixels; draws (n, pixels)."""
    draws = draws.double()
    shift = (draws.mean(0) - known.mean) / known.std
    ratio = draws.var(0) / known.std**2
    ends = torch.quantile(draws, torch.tensor([0.5 - LEVEL / 2, 0.5 + LEVEL / 2]).double(), dim=0)
    low, high = torch.special.ndtr((ends - known.mean) / known.std)
    parts = known.observed, ~known.observed
    biases = [float(shift[part].square().mean().sqrt()) for part in parts]
    return biases + [float(v[part].mean()) for v in (ratio, high - low) for part in parts]


def ours(problems: list[Problem], n: int, n_steps: int) -> dict[str, list[list[float]]]:
    """Scores of each sampler for each observation."""
    prior = Pixels(Scaled(EDM(), STD))
    times, found = LogSNR(n_steps)(prior.schedule), {}
    exact = [p.mean + p.std * Stream(1, ("exact", k)).normal(n, (64,)) for k, p in enumerate(problems)]
    found["exact draws"] = [scores(draws, p) for draws, p in zip(exact, problems, strict=True)]
    for name, sampler in SAMPLERS.items():
        found[name] = []
        for k, known in enumerate(problems):
            run = sampler(prior, known.likelihood, times, n, Stream(2, (k,), tile=n))
            found[name].append(scores(run.resample(n, Stream(3, (k,))).x.flatten(1), known))
    return found


def peers(part: str, n: int, **arrays: np.ndarray) -> dict[str, np.ndarray]:
    """What the other libraries answer, from a process of their own; nothing where they are not installed."""
    if not PEERS.exists():
        print(f"There is no {PEERS}, so no comparison. `make peers` makes it.", file=sys.stderr)
        return {}
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "asked.npz", Path(folder) / "answered.npz"
        np.savez(asked, **arrays)
        subprocess.run([PEERS, HERE / "imaging_peers.py", part, asked, answered, str(n)], check=True)
        with np.load(answered) as found:
            return dict(found)


def theirs(problems: list[Problem], n: int) -> dict[str, list[list[float]]]:
    masks = np.stack([p.observed.numpy() for p in problems]).astype(np.uint8)
    drawn = peers("twin", n, mask=masks, y=np.stack([p.likelihood.observation.numpy() for p in problems]))
    return {
        name: [scores(torch.from_numpy(d), p) for d, p in zip(draws, problems, strict=True)]
        for name, draws in drawn.items()
    }


def rows(found: dict[str, list[list[float]]]) -> list[Row]:
    """All numbers; those of recommended samplers are judged."""
    every = []
    for name, values in found.items():
        table = torch.tensor(values, dtype=torch.float64)
        means, errors = table.mean(0).tolist(), (table.std(0) / math.sqrt(len(table))).tolist()
        labels = [f"{column}, {part}" for column in COLUMNS for part in PARTS]
        every += [Row(f"{name}: {label}", *pair) for label, *pair in zip(labels, means, errors, strict=True)]
        if name in RECOMMENDED:
            for k, part in enumerate(PARTS, start=4):
                off = abs(means[k] - LEVEL)
                every.append(Row(f"{name}: |mass − 0.9|, {part}", off, errors[k], FARTHEST, off <= FARTHEST))
    return every


def table(found: list[Row]) -> str:
    """One line for each sampler: observed ∥ unobserved."""
    values = {row.claim: row.value for row in found}
    names = list(dict.fromkeys(row.claim.rpartition(": ")[0] for row in found))
    lines = ["| sampler | bias | variance | mass of 90 % |", "|---|---:|---:|---:|"]
    for name in names:
        cells = [" ∥ ".join(f"{values[f'{name}: {column}, {part}']:.2f}" for part in PARTS) for column in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer observations, draws and steps")
    parser.add_argument("--no-peers", action="store_true", help="our samplers alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/ and benchmarks/README.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    n, n_problems, n_steps = (256, 2, 40) if options.quick else (512, 4, 100)
    start, problems = time.monotonic(), [problem(k) for k in range(n_problems)]
    with torch.no_grad():
        found = rows(ours(problems, n, n_steps) | ({} if options.no_peers else theirs(problems, n)))
    judged = [row for row in found if row.target is not None]
    known: dict[str, Any] = {
        "benchmark": "imaging_bias",
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python benchmarks/imaging_bias.py", *sys.argv[1:]]),
        "machine": machine.in_words(),
        "versions": {"sciflow": __version__, "torch": torch.__version__, "deepinv": "0.5.0", "azula": "0.11.1"},
        "draws": n,
        "observations": n_problems,
        "steps": n_steps,
        "seconds": round(time.monotonic() - start, 1),
    }
    shown = f"{table(found)}\n\n{{}}"
    print(shown.format(text(judged)))
    if options.json:
        write(options.json, found, **known)
    if options.record:
        said = f"{known['date']}, `{known['command']}`: {n} draws, {n_problems} observations, {n_steps} steps of ours; "
        record("imaging_bias", f"{said}{libraries(known)}.\n\n{shown.format(markdown(judged))}", found, **known)
    return 0


if __name__ == "__main__":
    sys.exit(main())
