"""A plugin whose loss, guidance and writes fail as the file `plan` in the working directory says, each line once.

A line is `<where> <call> <what>`: at the n-th call of `loss`, `guidance` or `step` (of an ensemble), or of a write of
an artefact (`model.pt`), counted in each process, it gives `nan`, sends SIGTERM (`term`) or SIGKILL (`die`) to this
process, SIGKILL to its group (`kill`), or SIGTERM to the launcher of this rank, which passes it on (`stop`). `loss@1`
is that of the second rank. The file `trace`, if there is one, notes every call with its process.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sciflow.data import store
from sciflow.diffusion import LOSSES
from sciflow.diffusion.loss import Denoising
from sciflow.inverse import GUIDANCE, POSTERIORS
from sciflow.inverse.guidance import PiGDM
from sciflow.inverse.posterior import TwistedSMC
from sciflow.particles.feynman_kac import FeynmanKac, State, Step
from sciflow.random import Stream
from sciflow.stages import kept

calls: Counter[str] = Counter()


def fault(where: str) -> str:
    """What is to happen at this call; signals are sent at once."""
    calls[where] += 1
    plan, trace = Path("plan"), Path("trace")
    if trace.is_file():
        with trace.open("a") as file:
            file.write(f"{where} {os.getpid()}\n")
    lines = plan.read_text().splitlines() if plan.is_file() else []
    here = (where, f"{where}@{os.environ.get('RANK')}")
    if not lines or lines[0].split()[:2] not in [[place, str(calls[where])] for place in here]:
        return ""
    plan.write_text("\n".join(lines[1:]))
    what = lines[0].split()[2]
    if what in ("term", "die"):
        os.kill(os.getpid(), signal.SIGTERM if what == "term" else signal.SIGKILL)
    if what == "kill":
        os.killpg(os.getpgrp(), signal.SIGKILL)
    if what == "stop":
        _stop()
    return what


def _stop() -> None:
    """Go on when the launcher has passed the signal on."""
    heard, before = threading.Event(), signal.getsignal(signal.SIGTERM)

    def hear(*arguments: Any) -> None:
        heard.set()
        if callable(before):
            before(*arguments)

    signal.signal(signal.SIGTERM, hear)
    os.kill(os.getppid(), signal.SIGTERM)
    while not heard.wait(0.05):
        pass


@dataclass(frozen=True)
class FaultyLoss(Denoising):
    """Denoising, until its fault is due."""

    def __call__(self, *arguments, **options) -> Tensor:
        loss = super().__call__(*arguments, **options)
        return loss * float("nan") if fault("loss") == "nan" else loss


@dataclass(frozen=True)
class FaultyGuidance(PiGDM):
    """PiGDM, until its fault is due."""

    def __call__(self, x: Tensor, t) -> Tensor:
        guided = super().__call__(x, t)
        return guided * float("nan") if fault("guidance") == "nan" else guided


@dataclass(frozen=True)
class FaultySteps:
    """A model of an ensemble, until the fault of a step is due."""

    model: FeynmanKac

    @property
    def n_steps(self) -> int:
        return self.model.n_steps

    def initial(self, n: int, stream: Stream) -> tuple[State, Tensor]:
        return self.model.initial(n, stream)

    def step(self, k: int, state: State, stream: Stream) -> Step:
        fault("step")
        return self.model.step(k, state, stream)


@dataclass(frozen=True)
class FaultySMC(TwistedSMC):
    """Twisted SMC, until its fault is due."""

    def model(self, *arguments) -> FaultySteps:
        return FaultySteps(super().model(*arguments))


LOSSES["faulty"] = FaultyLoss
POSTERIORS["faulty"] = FaultySMC
GUIDANCE["faulty"] = FaultyGuidance

if "FAULTY_WRITES" in os.environ:  # in a process of its own only: it cannot be taken back
    flush = store._flush

    def faulty_flush(path: Path) -> None:
        """Half of the file is on the disk, under its temporary name, when the fault comes."""
        if path.is_file():
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2])
            fault(path.name.split("-", 4)[4])
            path.write_bytes(content)
        flush(path)

    store._flush = faulty_flush

if "KEPT_AT_ONCE" in os.environ:  # likewise
    kept.EVERY = 0.0
