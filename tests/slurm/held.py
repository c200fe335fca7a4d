"""Losses that wait: `held` from its third step on, while the file `hold` is in the working directory, and `paced` a
second in every step, while the file `slow` is.

The files `trace` and `paced` note the process of every step, and `cards` what a process that reads this may use: its
job and its devices.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from sciflow.diffusion import LOSSES
from sciflow.diffusion.loss import Denoising

LONGEST = 240  # seconds: a process that a failed test forgot comes to its end
calls = 0
with Path("cards").open("a") as seen:
    seen.write(f"{os.environ.get('SLURM_JOB_ID', '')} {os.environ.get('CUDA_VISIBLE_DEVICES', '')}\n")


@dataclass(frozen=True)
class HeldLoss(Denoising):
    """Denoising that can be held in the middle of a training."""

    def __call__(self, *arguments, **options) -> Tensor:
        global calls
        calls += 1
        with Path("trace").open("a") as trace:
            trace.write(f"{os.getpid()}\n")
        end = time.monotonic() + LONGEST
        while calls >= 3 and Path("hold").exists() and time.monotonic() < end:
            time.sleep(0.1)
        return super().__call__(*arguments, **options)


@dataclass(frozen=True)
class PacedLoss(Denoising):
    """Denoising that takes its time."""

    def __call__(self, *arguments, **options) -> Tensor:
        with Path("paced").open("a") as trace:
            trace.write(f"{os.getpid()}\n")
        if Path("slow").exists():
            time.sleep(1)
        return super().__call__(*arguments, **options)


LOSSES |= {"held": HeldLoss, "paced": PacedLoss}
