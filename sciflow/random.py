"""One seed, independent streams: random numbers keyed by (seed, purpose, tile of rows, step).

A counter-based generator per number costs 100 times more in torch, and seeding one costs as much as 1000 numbers, so
one generator call draws a block: the tiles of `tile` rows that make about 16384 numbers (2²² on a GPU, where a call
costs as much as a million numbers), at least one tile. Row k therefore gets the same bits whatever the number of rows,
the chunking, the shard or the order of evaluation, on one device, at one tile, shape of a row and dtype.

torch's CPU generator takes the lower 32 bits of a seed and no more. The blocks of one step therefore get seeds that
differ there for certain; two blocks of different steps or purposes share their numbers with probability 2⁻³².
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BLOCKS = {"cpu": 2**14, "cuda": 2**22}  # numbers
FEW = 32  # tiles for which numbers are faster than arrays
_LOW = np.uint64(0xFFFFFFFF)


def _permuted(tiles: np.ndarray, key: int) -> np.ndarray:
    """A permutation of the 32-bit numbers chosen by a 64-bit key: the finalizer of MurmurHash3, keyed twice over."""
    x = tiles
    for add, factor in ((key & 0xFFFFFFFF, 0x85EBCA6B), (key >> 32, 0xC2B2AE35)):
        x = (x + np.uint64(add)) & _LOW  # 32-bit arithmetic in 64 bits: nothing overflows
        x = ((x ^ (x >> np.uint64(16))) * np.uint64(factor)) & _LOW
    return x ^ (x >> np.uint64(13))


def _permuted_one(tile: int, key: int) -> int:
    """The same of one number, without an array: for a few of them twenty times faster."""
    x = tile
    for add, factor in ((key & 0xFFFFFFFF, 0x85EBCA6B), (key >> 32, 0xC2B2AE35)):
        x = (x + add) & 0xFFFFFFFF
        x = ((x ^ (x >> 16)) * factor) & 0xFFFFFFFF
    return x ^ (x >> 13)


@dataclass(frozen=True)
class Stream:
    """A named source of random numbers.

        generator(tile, step) is seeded by π(tile), a permutation π chosen by blake2b(seed, purpose, step)

    Two streams with different purposes are independent; the same (seed, purpose) gives the same numbers for ever.

    Args:
        seed: seed of the run.
        purpose: path of names and indices, e.g. ("sample", 3, "noise").
        tile: rows that are always drawn together. Part of the identity of the numbers: changing it changes them.
        first: the row that row 0 of a draw is; a process that holds rows 4096 … 8191 of an ensemble draws those.

    Raises:
        ValueError: `tile` is not positive, or `first` is negative.
    """

    seed: int
    purpose: tuple[str | int, ...] = ()
    tile: int = 64
    first: int = 0

    def __post_init__(self) -> None:
        if self.tile < 1:
            raise ValueError(f"tile must be a positive number of rows, got {self.tile}.")
        if self.first < 0:
            raise ValueError(f"first must be the number of a row, 0 or more, got {self.first}.")

    def child(self, *purpose: str | int) -> Stream:
        """The stream for a narrower purpose."""
        return Stream(self.seed, (*self.purpose, *purpose), self.tile, self.first)

    def rows_from(self, first: int) -> Stream:
        """The stream whose row 0 is row `first` of this one."""
        return Stream(self.seed, self.purpose, self.tile, self.first + first)

    def keys(self, start: int, stop: int, step: int = 0) -> list[int]:
        """63-bit seeds of the tiles (or blocks) start … stop at one step, by one hash; their lower 32 bits differ."""
        text = repr((self.seed, self.purpose, step)).encode()
        base = int.from_bytes(hashlib.blake2b(text, digest_size=12).digest(), "big")
        low, high = base & (2**64 - 1), base >> 65 << 32
        if stop - start <= FEW:
            return [_permuted_one(tile, low) + high for tile in range(start, stop)]
        return (_permuted(np.arange(start, stop, dtype=np.uint64), low) + np.uint64(high)).tolist()

    def key(self, tile: int = 0, step: int = 0) -> int:
        """A 63-bit seed for one tile at one step."""
        return self.keys(tile, tile + 1, step)[0]

    def generator(self, tile: int = 0, step: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
        """A freshly seeded generator for one tile at one step."""
        return torch.Generator(device=device).manual_seed(self.key(tile, step))

    def normal(self, n: int, shape: Sequence[int] = (), **options) -> Tensor:
        """Standard normal numbers for rows first … first + n, shape (n, *shape). Options as in `_rows`."""
        return self._rows(torch.Tensor.normal_, n, shape, **options)

    def uniform(self, n: int, shape: Sequence[int] = (), **options) -> Tensor:
        """Uniform numbers on [0, 1) for rows first … first + n, shape (n, *shape). Options as in `_rows`."""
        return self._rows(torch.Tensor.uniform_, n, shape, **options)

    def _rows(
        self,
        fill: Callable[..., Tensor],
        n: int,
        shape: Sequence[int],
        *,
        step: int = 0,
        first: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Draw the blocks that cover the rows first … first + n, and cut them to size."""
        first += self.first
        size = BLOCKS.get(torch.device(device).type, BLOCKS["cpu"])
        block = self.tile * max(1, size // (self.tile * max(math.prod(shape), 1)))
        start, stop = first // block, -(-(first + n) // block)
        end = -(-(first + n) // self.tile) * self.tile if self._has_prefixes(shape, device) else stop * block
        rows = torch.empty((end - start * block, *shape), dtype=dtype, device=device)
        generator = torch.Generator(device=device)
        for key, part in zip(self.keys(start, stop, step), rows.split(block), strict=True):
            fill(part, generator=generator.manual_seed(key))
        offset = first - start * block
        return rows[offset : offset + n]

    def _has_prefixes(self, shape: Sequence[int], device: torch.device | str) -> bool:
        """Whether whole tiles at the head of a block are the same numbers as a shorter draw.

        torch's CPU generator fills 16 numbers at a time, one after the other.
        """
        return torch.device(device).type == "cpu" and self.tile * math.prod(shape) % 16 == 0
