"""One of two processes that train one network, by turns the first alone and both together.

python benchmarks/workflow_ranks.py RANK FOLDER ROUNDS        rank 0 answers with a line of JSON
"""

from __future__ import annotations

import json
import sys
import time

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sciflow.networks.unet import UNet
from sciflow.random import Stream
from sciflow.training.loop import fit
from sciflow.training.optimisation import Optimisation

SHAPE, BATCH, N_STEPS = (1, 16, 16), Optimisation().batch_size, 12


def loss(module: nn.Module, batch: Tensor, stream: Stream, step: int, first: int) -> Tensor:
    return (module(batch, torch.ones(len(batch))) - batch).square().flatten(1).mean(1)


def timed(rows: Tensor) -> float:
    """Wall seconds of a step, start and end of the training included."""
    torch.manual_seed(0)
    network = UNet().build(SHAPE)
    options = Optimisation(n_steps=N_STEPS, batch_size=BATCH, validate_every=10**6)
    start = time.perf_counter()
    fit(network, loss, rows, None, options, Stream(0), progress=None)
    return (time.perf_counter() - start) / N_STEPS


def main(rank: int, folder: str, n_rounds: int) -> None:
    torch.set_num_threads(1)
    rows, found = Stream(0).normal(2 * BATCH, SHAPE), []
    timed(rows)  # the code that a first call loads
    for k in range(n_rounds):
        alone = timed(rows) if rank == 0 else 0.0
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet{k}", rank=rank, world_size=2)
        dist.barrier()
        together = timed(rows)
        dist.barrier()
        dist.destroy_process_group()
        found.append([alone, together])
    if rank == 0:
        print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
