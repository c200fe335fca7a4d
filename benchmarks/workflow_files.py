"""Checkpoints and artefacts beside what the disk can do, and two ranks beside one."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import xarray as xr
from workflow_jobs import ROUNDS, Found

from sciflow import config
from sciflow.data.store import Header, open_dataset, write_dataset
from sciflow.random import Stream
from sciflow.runs import read
from sciflow.training.checkpoint import Checkpoint
from sciflow.training.loop import fit
from sciflow.training.optimisation import Optimisation

ROOT = Path(__file__).resolve().parents[1]
RUN = ROOT / "workflows/runs/digits-inpainting.yaml"
SHAPE = (1, 8, 8)  # of its images
WRITTEN, LARGE = 256, 512  # MiB: a disk may slow down after some hundred; what a file costs by itself has its own row
MEMORY = Path("/dev/shm")  # files that no disk delays: what is left of writing one is the work of the store
SHARE, OVER_H5PY, OVER_ONE = 0.02, 1 / 0.8, 1 / 1.7  # the targets: of train time, of time, of time


@dataclass
class Watched:
    """A checkpoint that notes how long training stood still for it."""

    checkpoint: Checkpoint
    seconds: list[float] = field(default_factory=list)

    def save(self, state: Mapping[str, Any]) -> None:
        start = time.perf_counter()
        self.checkpoint.save(state)
        self.seconds.append(time.perf_counter() - start)

    def settle(self) -> None:
        self.checkpoint.settle()

    def load(self) -> dict[str, Any] | None:
        return self.checkpoint.load()


def checkpoint(folder: Path, quick: bool) -> list[Found]:
    """Of the network of a default run, after every step; at the default interval there is one a minute."""
    training = config.parse(read(RUN).content, RUN).train
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = training.network.build(SHAPE)
    options = replace(Optimisation(), n_steps=ROUNDS[quick], batch_size=2, checkpoint_every=0, validate_every=10**6)
    rows = Stream(0).normal(64, SHAPE)

    def loss(module: torch.nn.Module, batch: torch.Tensor, stream: Stream, step: int, first: int) -> torch.Tensor:
        return (module(batch, torch.ones(len(batch))) - batch).square().flatten(1).mean(1)

    watched = Watched(Checkpoint(folder / "checkpoint.pt"))
    fit(network, loss, rows, None, options, Stream(0), checkpoint=watched, progress=None)
    size, every = watched.checkpoint.path.stat().st_size / 1e6, Optimisation().checkpoint_every
    return [
        Found(f"a checkpoint of {size:.1f} MB [s]", watched.seconds),
        Found(f"checkpoints every {every:g} s, share of train time", [s / (every + s) for s in watched.seconds], SHARE),
    ]


def store(folder: Path, quick: bool) -> list[Found]:
    """One array, written until it is on the disk, or in memory, and read whole; h5py is told to wait as well."""
    found = []
    if MEMORY.is_dir():
        with tempfile.TemporaryDirectory(prefix="sciflow-store-", dir=MEMORY) as place:
            found += _written("write to memory", Path(place), LARGE, OVER_H5PY, quick)
            empty = {"ours": lambda: _write(Path(place) / "ours.nc", _array(0))}
            found += [Found("an empty file, write to memory [s]", _in_turn(empty, quick)["ours"])]
    found += _written("write", folder, WRITTEN, None, quick)  # a disk that is slow now and then decides nothing
    return found + _read(folder, quick)


def _written(what: str, folder: Path, megabytes: int, target: float | None, quick: bool) -> list[Found]:
    """New files: of an old one h5py would fill the pages again, while the store takes others."""
    array, ours, plain = _array(megabytes), folder / "ours.nc", folder / "plain.h5"

    def new(path: Path) -> None:
        path.unlink(missing_ok=True)

    turns = {"ours": lambda: _write(ours, array), "plain": lambda: _write_plain(plain, array)}
    taken = _in_turn(turns, quick, {"ours": lambda: new(ours), "plain": lambda: new(plain)})
    return _beside(what, megabytes, taken, target)


def _read(folder: Path, quick: bool) -> list[Found]:
    """From files that have long been written."""
    array, ours, plain = _array(LARGE), folder / "ours.nc", folder / "plain.h5"
    _write(ours, array)
    _write_plain(plain, array)

    def read_plain() -> np.ndarray:
        with h5py.File(plain, "r") as file:
            return file["data"][...]

    def read_ours() -> np.ndarray:
        return open_dataset(ours, stage="dataset")["data"].to_numpy()

    if not np.array_equal(read_ours(), read_plain()):
        raise RuntimeError("the two files do not hold the same numbers.")
    opened = {"opened": lambda: open_dataset(ours, stage="dataset", load=False).close()}
    taken = _in_turn({"ours": read_ours, "plain": read_plain, **opened}, quick)
    return [
        *_beside("read", LARGE, taken, OVER_H5PY),
        Found(f"{LARGE} MiB, opened and closed [s]", taken["opened"]),
    ]


def _in_turn(
    turns: Mapping[str, Callable[[], object]], quick: bool, before: Mapping[str, Callable[[], object]] | None = None
) -> dict[str, list[float]]:
    """Seconds of each, by turns; what is done before one does not count."""
    taken: dict[str, list[float]] = {name: [] for name in turns}
    for _, name in itertools.product(range(ROUNDS[quick]), turns):
        if before is not None:
            before[name]()
        start = time.perf_counter()
        turns[name]()
        taken[name].append(time.perf_counter() - start)
    return taken


def _beside(what: str, megabytes: int, taken: Mapping[str, list[float]], target: float | None) -> list[Found]:
    """The seconds of the store and of h5py alone, and their ratio."""
    ours, plain = taken["ours"], taken["plain"]
    return [
        Found(f"{megabytes} MiB, {what} [s]", ours),
        Found(f"{megabytes} MiB, {what} plain [s]", plain),
        Found(f"store, {what}, over plain h5py, wall time", [a / b for a, b in zip(ours, plain, strict=True)], target),
    ]


def _array(megabytes: int) -> np.ndarray:
    return np.random.default_rng(megabytes).standard_normal((megabytes, 512, 512), dtype=np.float32)


def _write(path: Path, array: np.ndarray) -> None:
    """By the store, which waits for the disk."""
    write_dataset(path, xr.Dataset({"data": (("sample", "y", "x"), array)}), Header("run", "dataset"))


def _write_plain(path: Path, array: np.ndarray) -> None:
    """The same by h5py."""
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=array)
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def ranks(folder: Path, quick: bool) -> list[Found]:
    """A training step on two ranks over one, by turns in the same two processes; a core for each."""
    script = Path(__file__).with_name("workflow_ranks.py")
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    calls = [[sys.executable, str(script), str(rank), str(folder), str(ROUNDS[quick])] for rank in (0, 1)]
    started = [subprocess.Popen(call, env=variables, stdout=-1, stderr=-1, text=True) for call in calls]
    said = [process.communicate(timeout=1800) for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError("\n".join(error for _, error in said))
    rounds = json.loads(said[0][0])
    return [
        Found("a training step on one rank [s]", [alone for alone, _ in rounds]),
        Found(
            "training step on two ranks over one, wall time", [both / alone for alone, both in rounds], OVER_ONE
        ),
    ]  # fmt: skip
