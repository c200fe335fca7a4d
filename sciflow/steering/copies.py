"""Particles that were resampled stand in other slots than before: who needs to know finds out without the driver."""

from __future__ import annotations

import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.particles.feynman_kac import State
from sciflow.random import Stream


def slots(x: Tensor, stream: Stream) -> Tensor:
    """The place of each particle in the ensemble; a state carries it as "slot"."""
    return torch.arange(stream.first, stream.first + len(x), device=x.device)


def were_resampled(state: State, stream: Stream) -> Tensor:
    """Whether a particle stands in another slot than the one it carries, shape ()."""
    return (state["slot"] != slots(state["x"], stream)).any()


def refuse_copies(state: State, stream: Stream) -> None:
    """For moves without noise, V = 0.

    Raises:
        InputError: the particles were resampled before this move.
    """
    if bool(were_resampled(state, stream)):
        raise InputError(
            "particles have been resampled, and with V = 0 the copies of one would move together for ever. Take "
            "noise > 0, or a threshold at which nothing is resampled."
        )
