"""A training run in a process of its own, to be killed or to be one of several ranks."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from sciflow.errors import InputError, OutOfTime
from sciflow.networks import MLP
from sciflow.random import Stream
from sciflow.training import Checkpoint, Optimisation, fit
from sciflow.training.checkpoint import save
from sciflow.training.launch import ranks


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    for name, default in {"dropout": 0.0, "accumulate": 1, "pause": 0.0, "n_steps": 60}.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--seed-by-rank", action="store_true")
    parser.add_argument("--time-limit", type=float)
    parser.add_argument("--scratch", type=Path)
    options = parser.parse_args()

    def loss(module: torch.nn.Module, batch: Tensor, stream: Stream, step: int, first: int) -> Tensor:
        if module.training:
            print("step")
        time.sleep(options.pause)
        noise = stream.normal(len(batch), (2,), step=step, first=first)
        return (module(batch + noise) - batch).square().mean(dim=1)

    with ranks() as device:
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        stream = Stream(seed=rank if options.seed_by_rank else 0)
        torch.manual_seed(0)
        module = MLP(width=32, depth=2, dropout=options.dropout).build((2,)).to(device)
        optimisation = Optimisation(
            n_steps=options.n_steps, batch_size=37, accumulate=options.accumulate, warm_up=5, validate_every=10,
            checkpoint_every=0,
        )  # fmt: skip
        deadline = None if options.time_limit is None else time.monotonic() + options.time_limit
        fitted = fit(
            module, loss, stream.child("train").normal(500, (2,)), stream.child("test").normal(51, (2,)), optimisation,
            stream, checkpoint=Checkpoint(options.folder / "training.pt", options.scratch), deadline=deadline,
            progress=None,
        )  # fmt: skip
        if rank == 0:
            content = {"weights": fitted.module.state_dict(), "loss": fitted.history.loss}
            save(options.folder / "model.pt", {**content, "validation": fitted.history.validation}, "model")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except OutOfTime as error:
        print(error, file=sys.stderr)
        sys.exit(75)
