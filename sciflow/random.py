"""One seed, independent streams: random numbers keyed by (seed, purpose, tile of rows, step).

A counter-based generator per number costs 100 times more in torch, so one generator call draws one whole tile of
`tile` rows. Row k therefore gets the same bits whatever the number of rows, the chunking, the shard or the order of
evaluation, on one device, at one tile shape and dtype.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Stream:
    """A named source of random numbers.

        generator(tile, step) is seeded by blake2b(seed, purpose, tile, step)

    Two streams with different purposes are independent; the same (seed, purpose) gives the same numbers for ever.

    Args:
        seed: seed of the run.
        purpose: path of names and indices, e.g. ("sample", 3, "noise").
        tile: rows drawn by one generator call. Part of the identity of the numbers: changing it changes them.

    Raises:
        ValueError: `tile` is not positive.
    """

    seed: int
    purpose: tuple[str | int, ...] = ()
    tile: int = 64

    def __post_init__(self) -> None:
        if self.tile < 1:
            raise ValueError(f"tile must be a positive number of rows, got {self.tile}.")

    def child(self, *purpose: str | int) -> Stream:
        """The stream for a narrower purpose."""
        return replace(self, purpose=(*self.purpose, *purpose))

    def key(self, tile: int = 0, step: int = 0) -> int:
        """A 63-bit seed for one tile at one step."""
        text = repr((self.seed, self.purpose, tile, step)).encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1

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
        """Draw whole tiles that cover the rows first … first + n, and cut them to size."""
        start, stop = first // self.tile, -(-(first + n) // self.tile)
        rows = torch.empty(((stop - start) * self.tile, *shape), dtype=dtype, device=device)
        generator = torch.Generator(device=device)
        for index, tile in enumerate(range(start, stop)):
            generator.manual_seed(self.key(tile, step))
            fill(rows[index * self.tile : (index + 1) * self.tile], generator=generator)
        offset = first - start * self.tile
        return rows[offset : offset + n]
