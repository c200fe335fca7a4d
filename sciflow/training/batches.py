"""Which rows make the batch of a step: a function of the step alone."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from sciflow.random import Stream


def batch_rows(n_rows: int, batch_size: int, step: int, stream: Stream) -> Tensor:
    """Row numbers of one full batch: shuffled epochs laid end to end, cut into batches.

        rows = (pi_0, pi_1, pi_2, ...)[step * batch_size : (step + 1) * batch_size],   pi_e a permutation keyed by e

    No row is ever dropped, a batch may span two epochs, and a set smaller than the batch is simply repeated.
    """
    start = step * batch_size
    first, last = start // n_rows, (start + batch_size - 1) // n_rows
    rows = torch.cat([_permutation(n_rows, epoch, stream) for epoch in range(first, last + 1)])
    return rows[start - first * n_rows :][:batch_size]


@lru_cache(maxsize=2)
def _permutation(n_rows: int, epoch: int, stream: Stream) -> Tensor:
    return torch.randperm(n_rows, generator=stream.generator(step=epoch))
