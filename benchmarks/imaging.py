"""What imaging costs: tomography by sciflow and by deepinv, and a step of DPS over a loop written by hand.

    python benchmarks/imaging.py [--quick] [--json FILE] [--record] [--no-peers] [--peers PYTHON]

(a) A and Aᵀ of parallel-beam tomography with 60 views of one image in float32, both libraries with a detector that
    sees the whole square; sciflow's matrix is made before, as it is kept for all images of a geometry. Targets: deepinv
    takes at least 3 times as long for A and 6 times for Aᵀ.
(b) A whole run of DPS, 100 steps of the flow for 400 images of 8 × 8, half of the pixels measured, over the same
    mathematics in a plain loop with the same denoiser, a mixture of 10 Gaussians (and one whose denoiser costs nothing,
    without a target). Target: at most 1.3.

One thread; the libraries take turns within a round, each in its own environment. Values are medians over rounds of
paired ratios of CPU time. There is no verdict on a machine that does other work, or where the error exceeds 5 % of the
value.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import machine
import torch
from rows import Row, judged, report
from torch import Tensor

from sciflow.diffusion import Cosine, FromView, GaussianMixture, Karras
from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.subspace import SubspaceDenoiser, SubspaceMixture
from sciflow.inverse import DPS, GaussianLikelihood, Guided, Inpainting, ParallelBeam
from sciflow.random import Stream
from sciflow.solvers import EABM

HERE = Path(__file__).resolve().parent
PEERS = HERE.parent / ".venv-peers/bin/python"
VIEWS, SIDES = 60, (128, 256)
FASTER = {"A": 1 / 3, "Aᵀ": 1 / 6}
N_IMAGES, N_STEPS, MOST = 400, 100, 1.3
SHORTEST = 0.05  # seconds of one measurement


class Peer:
    """The process of the other library."""

    def __init__(self, python: Path) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        environment.pop("PYTHONPATH", None)
        command = [str(python), str(HERE / "imaging_peer.py")]
        self.process = subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.cpu = 0.0
        self.version = str(self._answer()["version"])

    def _answer(self) -> dict:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the process of deepinv ended early; its message stands above.")
        found = json.loads(line)
        self.cpu = found["cpu"]
        return found

    def seconds(self, side: int, way: str, repeats: int) -> float:
        assert self.process.stdin is not None
        request = {"side": side, "way": "A" if way == "A" else "adjoint", "views": VIEWS, "repeats": repeats}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return float(self._answer()["seconds"])


def seconds(run: Callable[[], object]) -> float:
    """CPU seconds of one run, warm and repeated."""
    run()
    repeats, start = 0, time.process_time()
    while repeats < 3 or time.process_time() - start < SHORTEST:
        run()
        repeats += 1
    return (time.process_time() - start) / repeats


def scanner(side: int) -> dict[str, Callable[[], Tensor]]:
    operator, image = ParallelBeam(VIEWS).on((1, side, side)), torch.rand(1, 1, side, side)
    measured = operator(image)
    return {"A": lambda: operator(image), "Aᵀ": lambda: operator.adjoint(measured)}


def priors() -> dict[str, Denoiser]:
    """Denoisers of images of 8 × 8."""
    root = Stream(0).normal(10, (64, 64), dtype=torch.float32) / 8
    covariances = 0.05 * root @ root.transpose(1, 2) + 0.01 * torch.eye(64)
    law = GaussianMixture(torch.full((10,), 0.1), 0.2 * Stream(1).normal(10, (64,)), covariances)
    schedule = Cosine()
    mixture = SubspaceDenoiser(SubspaceMixture.whole(law), schedule, (1, 8, 8))
    trivial = FromView(lambda x, t: 0.5 * x, "data", schedule, (1, 8, 8))
    return {"a mixture of 10": mixture, "no denoiser to speak of": trivial}


def by_hand(prior: Denoiser, likelihood: GaussianLikelihood, times: list[float], x: Tensor) -> Tensor:
    """The same run in a plain loop: the exact step of a flow whose denoised value is held, DDIM."""
    operator, y = likelihood.operator, likelihood.observation
    alphas, sigmas = ([float(level(t)) for t in times] for level in (prior.schedule.alpha, prior.schedule.sigma))
    for k in range(len(times) - 1):
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            data = prior(x, times[k])
            loss = (y - operator(data)).square().sum() / (2 * likelihood.sigma**2)
        (slope,) = torch.autograd.grad(loss, x)
        guided = data.detach() - sigmas[k] ** 2 / alphas[k] * slope
        ratio = sigmas[k + 1] / sigmas[k]
        x = ratio * x.detach() + (alphas[k + 1] - ratio * alphas[k]) * guided
    return x


def guidance(prior: Denoiser) -> dict[str, Callable[[], Tensor]]:
    """A run of DPS by sciflow and by hand, which agree."""
    operator = Inpainting(0.5).draw((1, 8, 8), Stream(2))
    likelihood = GaussianLikelihood(torch.full((32,), 0.3), operator, 1.0)
    grid = Karras(n_steps=N_STEPS, ratio_max=20.0, ratio_min=0.05)(prior.schedule)
    posterior = Guided(functools.partial(DPS), EABM(order=1), final=False)
    stream = Stream(3, tile=N_IMAGES)
    start = prior.initial(float(grid[0]), N_IMAGES, stream.child("initial"))

    def ours() -> Tensor:
        return posterior(prior, likelihood, grid, N_IMAGES, stream).x

    def hand() -> Tensor:
        return by_hand(prior, likelihood, grid.tolist(), start)

    difference = float((ours() - hand()).abs().max())
    if difference > 1e-3:
        raise RuntimeError(f"DPS by sciflow and by hand differ by {difference:.2g}: they are not the same run.")
    return {"sciflow": ours, "by hand": hand}


def rounds(limit: float, peer: Peer | None) -> list[dict[str, float]]:
    """Seconds of each variant per round, at least three rounds."""
    scanners = {side: scanner(side) for side in SIDES}
    with torch.no_grad():
        loops = {name: guidance(prior) for name, prior in priors().items()}
        found, stop = [], time.monotonic() + limit
        while len(found) < 3 or time.monotonic() < stop:
            one = {}
            for side, ways in scanners.items():
                for way, run in ways.items():
                    one[f"ours {side} {way}"] = seconds(run)
                    if peer is not None:
                        one[f"peer {side} {way}"] = peer.seconds(side, way, 3)
            for name, both in loops.items():
                for who, run in both.items():
                    one[f"{name} {who}"] = seconds(run)
            found.append(one)
    return found


def table(found: list[dict[str, float]], quiet: bool, with_peer: bool) -> list[Row]:
    def ratio(claim: str, above: str, below: str, target: float | None) -> Row:
        ratios = [one[above] / one[below] for one in found]
        return judged(claim, lambda chosen: statistics.median(ratios[i] for i in chosen), [len(found)], target, quiet)

    def plain(claim: str, name: str) -> Row:
        values = [1e3 * one[name] for one in found]
        return judged(claim, lambda chosen: statistics.median(values[i] for i in chosen), [len(found)], None, quiet)

    rows = []
    for side in SIDES:
        for way, target in FASTER.items():
            if with_peer:
                claim = f"(a) {way}, {side}² × {VIEWS} views: over deepinv"
                rows.append(ratio(claim, f"ours {side} {way}", f"peer {side} {way}", target))
            rows.append(plain(f"(a) {way}, {side}² × {VIEWS} views: sciflow [ms]", f"ours {side} {way}"))
    for name, target in (("a mixture of 10", MOST), ("no denoiser to speak of", None)):
        rows.append(ratio(f"(b) DPS, {name}: over the loop by hand", f"{name} sciflow", f"{name} by hand", target))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="twenty seconds instead of two minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/ and benchmarks/README.md")
    parser.add_argument("--no-peers", action="store_true", help="sciflow alone")
    parser.add_argument("--peers", type=Path, default=PEERS, help="python with deepinv")
    options = parser.parse_args()
    if not options.no_peers and not options.peers.exists():
        print(f"There is no {options.peers}. Run `make peers`, or pass --no-peers.", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    watch, own = machine.Watch(), time.process_time()
    peer = None if options.no_peers else Peer(options.peers)
    found = rounds(20 if options.quick else 120, peer)
    spent = time.process_time() - own + (peer.cpu if peer else 0.0)
    words, quiet = watch.disturbance(spent)
    rows = table(found, quiet, peer is not None)
    versions = {library: importlib.metadata.version(library) for library in ("sciflow", "torch")}
    versions |= {} if peer is None else {"deepinv": peer.version}
    report("imaging", rows, len(found), versions, machine.in_words(), (words, quiet), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
