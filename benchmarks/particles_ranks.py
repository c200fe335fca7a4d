"""One of two processes that run one ensemble, by turns the first alone and both together.

python benchmarks/particles_ranks.py RANK FOLDER ROUNDS        rank 0 answers with a line of JSON
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sciflow.particles.feynman_kac import State, smc
from sciflow.particles.ranks import Alone, Group, Ranks
from sciflow.random import Stream

N, N_STEPS, DIMENSION, TILE, WIDTH = 8 * 1024, 10, 64, 1024, 768


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(DIMENSION, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, DIMENSION)
    )


@dataclass(frozen=True)
class Chain:
    """Moves by a network, one call for each tile and step, towards an off-centre target."""

    n_steps: int = N_STEPS
    drift: nn.Module = field(default_factory=network)

    def initial(self, n: int, stream: Stream) -> tuple[State, Tensor]:
        x = stream.normal(n, (DIMENSION,))
        return {"x": x}, -0.5 * (x[:, 0] - 1).square()

    def step(self, k: int, state: State, stream: Stream) -> tuple[State, Tensor]:
        x = state["x"]
        for start in range(0, len(x), TILE):
            rows = x[start : start + TILE]
            noise = stream.normal(len(rows), (DIMENSION,), first=start)
            rows.mul_(0.9).add_(self.drift(rows), alpha=0.1).add_(noise, alpha=0.3)
        return state, -0.5 * (x[:, 0] - 1).square()


def timed(ranks: Ranks) -> tuple[float, int]:
    """Wall seconds of one run, and how often it resampled."""
    start = time.perf_counter()
    run = smc(Chain(), N, Stream(0, tile=TILE), ess_threshold=0.7, ranks=ranks)
    return time.perf_counter() - start, run.n_resampled


def main(rank: int, folder: str, n_rounds: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    both, found = Group.here(), []
    with torch.no_grad():
        timed(both)  # the code that a first call loads
        for _ in range(n_rounds):
            alone = timed(Alone())[0] if rank == 0 else 0.0
            dist.barrier()
            together, resampled = timed(both)
            dist.barrier()
            found.append([alone, together, resampled])
    if rank == 0:
        print(json.dumps({"rounds": found, "seconds": time.process_time()}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
