"""The driver: how fast it resamples, how much memory it takes, and what a second rank gains.

Systematic resampling of 10⁶ float64 weights beside the compiled code of the library `particles`, in two processes that
take turns, from log-weights and from weights that are normalised, each beside the other's of the same kind (`combed`
overwrites its weights; the copy that it gets is made beforehand): medians over rounds of paired ratios of CPU times.
Peak memory of a whole run in a process of its own, whose arrays have pages of their own. Two processes that hold one
ensemble, by turns the first alone and both together: median over rounds of paired ratios of wall times.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import machine
import torch
from rows import Row, Statistic, judged

from sciflow.particles.resampling import combed, systematic, uniform
from sciflow.random import Stream

HERE = Path(__file__).resolve().parent
PEERS = HERE.parent / ".venv-peers/bin/python"
N_WEIGHTS, TILE = 1_000_000, 4096
ROUNDS = {True: 20, False: 400}


class Peer:
    """The other library's process; None answers where its environment is not made."""

    def __init__(self) -> None:
        command = [str(PEERS), "-P", "-W", "ignore", str(HERE / "particles_peer.py"), str(N_WEIGHTS)]
        self.process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.answer()

    def answer(self) -> tuple[float, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the process of the library `particles` ended early; its message stands above.")
        whole, resampling = json.loads(line)
        return whole, resampling

    def end(self) -> None:
        """Let it end, so that its work counts as that of this benchmark."""
        self.process.communicate()

    def seconds(self) -> tuple[float, float]:
        """From log-weights, and from normalised weights."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.answer()


def cpu_seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def median(values: Sequence[float]) -> Statistic:
    """Of the rounds that are chosen."""
    return lambda chosen: statistics.median(values[i] for i in chosen)


def resampling_rows(quick: bool) -> list[Row]:
    """Ours over theirs, and ours in milliseconds."""
    log_weights = torch.randn(N_WEIGHTS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights, stream, peer = log_weights.softmax(0), Stream(0), Peer() if PEERS.exists() else None
    if peer is None:
        print(f"There is no {PEERS}, so no comparison with `particles`. `make peers` makes it.", file=sys.stderr)
    watch, own, ours, theirs = machine.Watch(), 0.0, [], []
    for index in range(ROUNDS[quick]):
        one, copy = stream.child(index), weights.clone()
        whole = cpu_seconds(lambda one=one: systematic(log_weights, N_WEIGHTS, one))
        part = cpu_seconds(lambda one=one, copy=copy: combed(copy, N_WEIGHTS, uniform(1, one, copy)))
        ours.append((whole, part))
        theirs += [peer.seconds()] if peer else []
        own += whole + part + (theirs[-1][0] if theirs else 0.0)
    quiet, found = watch.disturbance(own)[1], []
    if peer:
        peer.end()
    for place, what in enumerate(("log-weights", "normalised weights")):
        claim = f"systematic resampling of 10⁶ {what}"
        found.append(judged(f"{claim} [ms]", median([1e3 * one[place] for one in ours]), [len(ours)], None, quiet))
        if theirs:
            ratios = [mine[place] / other[place] for mine, other in zip(ours, theirs, strict=True)]
            found.append(judged(f"{claim}, over `particles`", median(ratios), [len(ratios)], 1.0, quiet))
    return found


def answer(script: str, *arguments: object) -> subprocess.Popen:
    """Another process of ours, whose last line is its answer."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment |= {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE)


def told(process: subprocess.Popen) -> dict:
    text, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{process.args} ended with exit code {process.returncode}.")
    return json.loads(text.splitlines()[-1])


def memory_rows(quick: bool) -> list[Row]:
    """Peak memory of a whole run over the state and what one tile takes."""
    found = []
    for model, most in (("in place", 100), ("marginal", 2), ("twisted", 2)):
        n, n_steps = (200_000, min(most, 10)) if quick else (1_000_000, most)
        tile = [told(answer("particles_memory.py", model, TILE, 2))["bytes"] for _ in range(2 if quick else 5)]
        whole = [told(answer("particles_memory.py", model, n, n_steps)) for _ in range(2)]
        over = [one["bytes"] / (one["state"] + statistics.median(tile)) for one in whole]
        resampled = f"{whole[0]['resampled']} resamplings"
        claim = f"{n:.0e} particles of 64 float32, {model}, {n_steps} steps, {resampled}"
        found += [
            judged(f"{claim}: peak memory over state and one tile", median(over), [1] * 2, 1.2, True),
            judged(f"{claim}: CPU seconds", median([one["seconds"] for one in whole]), [1] * 2, None, True),
        ]
    return found


def rank_rows(quick: bool) -> list[Row]:
    """Wall time of two ranks over that of one."""
    watch, n_rounds = machine.Watch(), 2 if quick else 15
    with tempfile.TemporaryDirectory() as folder:
        processes = [answer("particles_ranks.py", rank, folder, n_rounds) for rank in range(2)]
        found, _ = told(processes[0]), processes[1].wait()
    quiet = watch.disturbance()[1]  # both have ended
    ratios = [together / alone for alone, together, _ in found["rounds"]]
    claim = f"two ranks over one, a network's time, {found['rounds'][0][2]} resamplings: wall time"
    return [judged(claim, median(ratios), [len(ratios)], 1 / 1.7, quiet)]


def rows(quick: bool) -> list[Row]:
    """Every row of this part."""
    return [*resampling_rows(quick), *memory_rows(quick), *rank_rows(quick)]
