"""What the processes that hold one ensemble tell each other; a single process is its own answer to everything."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from sciflow.errors import LaunchError


class Ranks(Protocol):
    """The place of this process among those that hold the ensemble, and how it speaks with the others."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def gathered(self, rows: Tensor, lengths: Sequence[int]) -> Tensor:
        """The rows of all ranks, one after the other; every rank says how many each has."""
        ...

    def exchanged(self, parts: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
        """parts[r] goes to rank r; what comes back from it has lengths[r] rows."""
        ...

    def agree(self, facts: object) -> None:
        """Refuse to go on unless every rank holds the same facts.

        Raises:
            LaunchError: on every rank, if one differs.
        """
        ...


@dataclass(frozen=True)
class Alone:
    """A single process."""

    rank: int = 0
    size: int = 1

    def gathered(self, rows: Tensor, lengths: Sequence[int]) -> Tensor:
        return rows

    def exchanged(self, parts: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
        return list(parts)

    def agree(self, facts: object) -> None:
        return None


@dataclass(frozen=True)
class Group:
    """A process group of torch.distributed, by gloo or NCCL.

    Args:
        rank: number of this process.
        size: how many there are.
        device: where tensors must lie to be sent; None: where they are.
        group: which group; None: the default one.
    """

    rank: int
    size: int
    device: torch.device | None = None
    group: dist.ProcessGroup | None = None

    @classmethod
    def here(cls, device: torch.device | None = None) -> Group | Alone:
        """The place in the default group, or alone without one; NCCL sends what lies on this process's device."""
        if not (dist.is_available() and dist.is_initialized()):
            return Alone()
        if device is None and dist.get_backend() == "nccl":
            device = torch.device("cuda", torch.cuda.current_device())
        return cls(dist.get_rank(), dist.get_world_size(), device)

    def gathered(self, rows: Tensor, lengths: Sequence[int]) -> Tensor:
        longest = max(lengths)
        mine = rows.to(self.device) if self.device else rows
        padded = mine.new_zeros((longest, *mine.shape[1:]))
        padded[: len(mine)] = mine
        found = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(found, padded, self.group)
        return torch.cat([part[:length] for part, length in zip(found, lengths, strict=True)]).to(rows.device)

    def exchanged(self, parts: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
        shape, dtype, place = parts[0].shape[1:], parts[0].dtype, parts[0].device
        n_bytes = math.prod(shape) * dtype.itemsize
        rows = torch.cat(list(parts)).to(self.device or place)
        sent = rows.reshape(len(rows), math.prod(shape)).view(torch.uint8)
        got = sent.new_empty((sum(lengths), n_bytes))
        dist.all_to_all_single(got, sent, list(lengths), [len(part) for part in parts], self.group)
        return list(got.view(dtype).reshape(-1, *shape).to(place).split(list(lengths)))

    def agree(self, facts: object) -> None:
        digest = int.from_bytes(hashlib.blake2b(repr(facts).encode(), digest_size=7).digest(), "big")
        extremes = torch.tensor([digest, -digest], device=self.device)
        dist.all_reduce(extremes, op=dist.ReduceOp.MAX, group=self.group)
        if int(extremes.sum()):
            raise LaunchError(
                f"the {self.size} ranks of one ensemble were given different seeds, sizes, options or checkpoints; "
                f"rank {self.rank} has {facts}. Start all of them with the same command and files."
            )
