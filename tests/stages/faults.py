"""A plugin whose loss, guidance and writes fail as the file `plan` in the working directory says, each line once.

A line is `<where> <call> <what>`: at the n-th call of `loss` or `guidance`, or of a write of an artefact (`model.pt`),
counted in each process, it gives `nan`, sends SIGTERM (`term`) or SIGKILL (`die`) to this process, or SIGKILL to its
group (`kill`). The file `trace`, if there is one, notes every call with its process.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from sciflow.data import store
from sciflow.diffusion import LOSSES
from sciflow.diffusion.loss import Denoising
from sciflow.inverse import GUIDANCE
from sciflow.inverse.guidance import PiGDM

calls: Counter[str] = Counter()


def fault(where: str) -> str:
    """What is to happen at this call; signals are sent at once."""
    calls[where] += 1
    plan, trace = Path("plan"), Path("trace")
    if trace.is_file():
        with trace.open("a") as file:
            file.write(f"{where} {os.getpid()}\n")
    lines = plan.read_text().splitlines() if plan.is_file() else []
    if not lines or lines[0].split()[:2] != [where, str(calls[where])]:
        return ""
    plan.write_text("\n".join(lines[1:]))
    what = lines[0].split()[2]
    if what in ("term", "die"):
        os.kill(os.getpid(), signal.SIGTERM if what == "term" else signal.SIGKILL)
    if what == "kill":
        os.killpg(os.getpgrp(), signal.SIGKILL)
    return what


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


LOSSES["faulty"] = FaultyLoss
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
