"""One small denoising problem, quick enough to be trained a hundred times."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sciflow.networks import MLP
from sciflow.random import Stream
from sciflow.training import Checkpoint, Fitted, Optimisation, fit


@dataclass(frozen=True)
class Problem:
    """Rows in the plane, a perceptron and a loss; `fit` trains from the same start every time."""

    options: Optimisation
    dropout: float = 0.0
    n_rows: int = 100
    seed: int = 5

    def rows(self, name: str) -> Tensor:
        return Stream(self.seed, ("data", name)).normal(self.n_rows, (2,))

    def module(self) -> torch.nn.Module:
        torch.manual_seed(11)
        return MLP(width=16, depth=2, dropout=self.dropout).build((2,))

    @staticmethod
    def loss(module: torch.nn.Module, batch: Tensor, stream: Stream, step: int, first: int) -> Tensor:
        level = stream.child("level").normal(len(batch), step=step, first=first)
        noisy = batch + level.exp()[:, None] * stream.child("noise").normal(len(batch), (2,), step=step, first=first)
        return (module(noisy, level) - batch).square().mean(dim=1)

    def fit(self, checkpoint=None, *, loss=None, deadline=None, module=None, train=None, validation=None) -> Fitted:
        train = self.rows("train") if train is None else train
        validation = self.rows("validation") if validation is None else validation
        module = self.module() if module is None else module
        torch.manual_seed(torch.seed())  # whatever stands in the default generator must not matter
        stream = Stream(self.seed, ("train",))
        return fit(
            module, loss or self.loss, train, validation, self.options, stream,
            checkpoint=checkpoint, deadline=deadline, progress=None,
        )  # fmt: skip

    def change(self, **options) -> Problem:
        """The same problem, optimised differently."""
        return replace(self, options=replace(self.options, **options))


@pytest.fixture
def problem() -> Problem:
    return Problem(Optimisation(n_steps=30, batch_size=24, warm_up=5, validate_every=10, checkpoint_every=0))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path / "training.pt")


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts `worker.py` in a process of its own, or under torchrun in several; nothing outlives the test."""
    started, root = [], Path(__file__).parents[2]

    def start(folder: Path, *arguments: str, n_ranks: int = 1, **environment: str) -> subprocess.Popen:
        launch = f"import sys; from sciflow.training import launch; sys.exit(launch.relaunch({n_ranks}, sys.argv[1:]))"
        folder.mkdir(exist_ok=True)
        path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
        worker = [str(Path(__file__).with_name("worker.py")), str(folder), *arguments]
        process = subprocess.Popen(
            [sys.executable, "-u", *(["-c", launch] if n_ranks > 1 else []), *worker],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
