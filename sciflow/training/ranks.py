"""What the ranks of one training run share; with a single process everything here is the identity."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.distributed as dist

from sciflow.errors import LaunchError


@dataclass(frozen=True)
class Ranks:
    """This process's place among the ranks.

    Args:
        rank: number of this process.
        size: how many there are.
        device: where tensors must lie to be exchanged.
    """

    rank: int
    size: int
    device: torch.device

    @classmethod
    def here(cls, device: torch.device) -> Ranks:
        """The place in the default process group, or alone."""
        grouped = dist.is_available() and dist.is_initialized()
        return cls(dist.get_rank() if grouped else 0, dist.get_world_size() if grouped else 1, device)

    def share(self, n_rows: int, n_pieces: int = 1) -> list[tuple[int, int]]:
        """This rank's part of `n_rows` rows, in up to `n_pieces` pieces (start, stop)."""
        start, stop = (n_rows * rank // self.size for rank in (self.rank, self.rank + 1))
        return [(start + a, start + b) for a, b in chunks(stop - start, n_pieces)]

    def total(self, *values: float) -> list[float]:
        """The sum over ranks of each number; every rank gets the same bits."""
        if self.size == 1:
            return list(values)
        numbers = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(numbers)
        return numbers.tolist()

    def agree(self, facts: object) -> None:
        """Refuse to start unless every rank holds the same facts.

        Raises:
            LaunchError: on every rank, if one differs.
        """
        if self.size == 1:
            return
        digest = int.from_bytes(hashlib.blake2b(repr(facts).encode(), digest_size=7).digest(), "big")
        extremes = torch.tensor([digest, -digest], device=self.device)
        dist.all_reduce(extremes, op=dist.ReduceOp.MAX)
        if extremes.sum() != 0:
            raise LaunchError(
                f"the {self.size} ranks of this training run were given different seeds, options, data or "
                f"checkpoints; rank {self.rank} has {facts}. Start all of them with the same command and files."
            )


def chunks(n_rows: int, n_chunks: int) -> list[tuple[int, int]]:
    """`n_rows` cut into at most `n_chunks` pieces (start, stop) of equal size, give or take one row."""
    edges = [n_rows * i // n_chunks for i in range(n_chunks + 1)]
    return [(start, stop) for start, stop in pairwise(edges) if start < stop]
