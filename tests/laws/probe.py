"""The affine map of a sampler, read off the sampler itself: one run whose rows differ in one random number each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

Purpose = tuple[str | int, ...]


@dataclass(frozen=True)
class Probe:
    """Stands in for a `Stream`: row r gets the numbers of row r of a table, whose columns are drawn numbers in turn.

    Args:
        table: (rows, numbers), float64.
        places: (purpose, step) → first column, filled on the way.
        purpose: as that of a stream.
    """

    table: Tensor
    places: dict[tuple[Purpose, int], tuple[int, int]] = field(default_factory=dict)
    purpose: Purpose = ()

    @property
    def tile(self) -> int:
        return len(self.table)

    def child(self, *purpose: str | int) -> Probe:
        return replace(self, purpose=(*self.purpose, *purpose))

    def rows_from(self, first: int) -> Probe:
        assert first == 0, "one tile holds all rows"
        return self

    def normal(self, n: int, shape: Sequence[int] = (), *, step: int = 0, dtype=torch.float32, device="cpu") -> Tensor:
        size = math.prod(shape)
        start, stop = self.places.setdefault((self.purpose, step), (self.used, self.used + size))
        assert stop - start == size
        numbers = torch.zeros(n, size, dtype=torch.float64)
        part = self.table[:n, start:stop]
        numbers[:, : part.shape[1]] = part
        return numbers.reshape(n, *shape).to(device, dtype)

    def uniform(self, n: int, shape: Sequence[int] = (), *, step: int = 0, dtype=torch.float32, device="cpu") -> Tensor:
        return torch.zeros((n, *shape), dtype=dtype, device=device)  # which component of a mixture: there is one

    @property
    def used(self) -> int:
        return max((stop for _, stop in self.places.values()), default=0)


def moments(sample: Callable[[Probe, int], Tensor]) -> tuple[Tensor, Tensor, float]:
    """Mean and covariance of what `sample(stream, n)` draws, and how far it is from affine in its random numbers.

    Row 0 has all random numbers 0, row 1 + j has number j = 1 and the others 0, the last has all of them at random. So
    the mean is row 0, the columns of the map are the differences from it, and the last row says whether it is affine.
    """
    counted = Probe(torch.zeros(1, 0, dtype=torch.float64))
    sample(counted, 1)
    size = counted.used
    mixed = torch.randn(1, size, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    table = torch.cat([torch.zeros(1, size, dtype=torch.float64), torch.eye(size, dtype=torch.float64), mixed])
    probe = Probe(table)
    rows = sample(probe, len(table)).flatten(1)
    assert probe.used == size, "as many random numbers for one row as for many"
    columns = rows[1:-1] - rows[0]
    departure = (rows[-1] - rows[0] - mixed[0] @ columns).abs().max() / rows.abs().max()
    return rows[0], columns.T @ columns, float(departure)
