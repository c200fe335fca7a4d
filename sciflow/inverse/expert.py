"""A second model in a run file: another `model.pt` beside the prior."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sciflow.diffusion.denoiser import Converted, Counted, Denoiser
from sciflow.diffusion.model import load
from sciflow.errors import InputError


@dataclass(frozen=True)
class Expert:
    """Another learned law of the same events.

    Args:
        path: its `model.pt`; a file that the workflow waits for and watches.
    """

    path: str

    def beside(self, prior: Denoiser, like: Tensor) -> Denoiser:
        """The model, under the prior's schedule, in the precision and on the device of `like`; its calls are counted.

        Raises:
            InputError: no readable model, or one of other events.
        """
        file = Path(self.path)
        version = file.stat().st_mtime_ns if file.is_file() else 0
        expert = _loaded(self.path, version, str(like.device), like.dtype)
        if tuple(expert.shape) != tuple(prior.shape):
            raise InputError(
                f"{self.path}: a model of events {tuple(expert.shape)}, the prior has {tuple(prior.shape)}. "
                "Experts see one state: train both on the same grid and channels."
            )
        expert = expert if expert.schedule == prior.schedule else Converted(expert, prior.schedule)
        return Counted(expert, also=prior) if isinstance(prior, Counted) else expert


@functools.lru_cache(maxsize=8)
def _loaded(path: str, version: int, device: str, dtype: torch.dtype) -> Denoiser:
    return load(path, device, dtype)
