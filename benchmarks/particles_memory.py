"""A process that runs one ensemble and says how far its peak memory rose. Linux only.

python benchmarks/particles_memory.py MODEL N N_STEPS        answers with a line of JSON

MODEL is "in place", a model that is written for little memory, or one that the package builds: "marginal", the square
of a mixture, with its control, or "twisted", a mixture seen in part, with the twist "pigdm".
"""

from __future__ import annotations

import ctypes
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sciflow.diffusion.mixture import GaussianMixture, MixtureDenoiser
from sciflow.diffusion.schedule import EDM
from sciflow.diffusion.times import LogSNR
from sciflow.inverse import Dense, GaussianLikelihood, TwistedSMC
from sciflow.particles.feynman_kac import FeynmanKac, State, smc
from sciflow.random import Stream
from sciflow.steering import Control, annealed, marginal

DIMENSION, N_MODES, TILE, WIDTH = 64, 8, 4096, 0.5
FIRST = 4.0  # noise level of the start


@dataclass(frozen=True)
class AnnealedMixture:
    """The reverse SDE of a mixture of isotropic Gaussians in 64 dimensions, tilted by exp(−2 t (x₀ − y)²), in place.

    Every move takes a tile at a time: its noise, the score of the mixture, and the change of the tilt.
    """

    n_steps: int

    @property
    def means(self) -> Tensor:
        return 2 * Stream(5).normal(N_MODES, (DIMENSION,)) / math.sqrt(DIMENSION)

    def level(self, k: int) -> float:
        return FIRST * (0.05 / FIRST) ** (k / self.n_steps)

    def log_tilt(self, x: Tensor, k: int) -> Tensor:
        return -2.0 * k / self.n_steps * (x[:, 0] - 1.2).square()

    def initial(self, n: int, stream: Stream) -> tuple[State, Tensor]:
        x = torch.empty(n, DIMENSION)
        for start in range(0, n, TILE):
            rows = x[start : start + TILE]
            rows.copy_(stream.normal(len(rows), (DIMENSION,), first=start)).mul_(math.hypot(FIRST, WIDTH))
        return {"x": x}, torch.zeros(n)

    def step(self, k: int, state: State, stream: Stream) -> tuple[State, Tensor]:
        x, means, potential = state["x"], self.means, torch.empty(len(state["x"]))
        before, after = self.level(k), self.level(k + 1)
        v, gap = before**2 + WIDTH**2, before**2 - after**2
        for start in range(0, len(x), TILE):
            rows, weight = x[start : start + TILE], potential[start : start + TILE]
            weight.copy_(self.log_tilt(rows, k)).neg_()
            share = ((rows @ means.T - 0.5 * means.square().sum(1)) / v).softmax(1)
            rows.add_(share @ means - rows, alpha=gap / v)
            rows.add_(stream.normal(len(rows), (DIMENSION,), first=start), alpha=math.sqrt(gap))
            weight.add_(self.log_tilt(rows, k + 1))
        return state, potential


def prior() -> MixtureDenoiser:
    """Eight modes in 64 dimensions, float32."""
    means = 2 * Stream(5).normal(N_MODES, (DIMENSION,)) / math.sqrt(DIMENSION)
    covariances = WIDTH**2 * torch.eye(DIMENSION).expand(N_MODES, -1, -1)
    return MixtureDenoiser(GaussianMixture(torch.full((N_MODES,), 1 / N_MODES), means, covariances), EDM())


def built(model: str, n_steps: int) -> FeynmanKac:
    """The model of this name."""
    like, times = torch.empty(0), LogSNR(n_steps, ratio_max=FIRST, ratio_min=0.05)(EDM())
    if model == "marginal":
        return marginal(annealed(prior(), 2.0), times, control=Control(("position", "score")), tile=TILE, like=like)
    if model == "twisted":
        seen = GaussianLikelihood(torch.zeros(2), Dense.of(torch.eye(2, DIMENSION)), 0.5)
        return TwistedSMC(twist="pigdm", tile=TILE).model(prior(), seen, times)
    return AnnealedMixture(n_steps)


def memory(what: str) -> int:
    """Bytes of this process that are resident ("VmRSS") or were at most ("VmHWM"); a parent's peak does not count."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(lines[what].split()[0])


def main(model: str, n: int, n_steps: int) -> None:
    torch.set_num_threads(1)
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(-3, 32768)  # M_MMAP_THRESHOLD: every array in pages of its own, so that resident is what is in use
    with torch.no_grad():
        smc(built(model, 4), 256, Stream(0), ess_threshold=1.0)  # the code that a first call loads
        carried, _ = built(model, 4).initial(2, Stream(0))
        state = n // 2 * sum(value.nbytes for value in carried.values())
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before, start = memory("VmRSS"), time.process_time()
        run = smc(built(model, n_steps), n, Stream(0))
    found = {"bytes": memory("VmHWM") - before, "state": state, "seconds": time.process_time() - start}
    print(json.dumps({**found, "resampled": run.n_resampled}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
