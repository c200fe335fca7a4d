"""Which particles of an ensemble this process holds, and sums over them whose bits do not depend on that."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.particles.ranks import Ranks


@dataclass(frozen=True)
class Slots:
    """The rows start … stop of an ensemble that one rank holds.

    A single ensemble is cut at tiles of the random stream; islands are never cut, so that each lives within one rank.
    Neither are the rows of one call of the model, whose bits may depend on how many there are.

    Args:
        n: particles on all ranks.
        islands: independent ensembles of n/islands particles each, one after the other.
        tile: rows that are always drawn and summed together.
        rank: of this process.
        size: number of ranks.
        call: rows of one call of the model.

    Raises:
        InputError: fewer pieces than ranks, or islands of different sizes.
    """

    n: int
    islands: int
    tile: int
    rank: int
    size: int
    call: int = 1

    def __post_init__(self) -> None:
        if self.n < 1 or self.islands < 1 or self.n % self.islands:
            raise InputError(
                f"smc needs n ≥ 1 particles in islands of equal size, got n = {self.n} and {self.islands} islands. "
                "Take a multiple of the number of islands."
            )
        if self._n_pieces < self.size:
            whole = f"islands of {self.per_island}" if self.islands > 1 else f"tiles of {self.tile}"
            raise InputError(
                f"{self.n} particles cannot be shared by {self.size} ranks: they are cut after {self.piece} of them, "
                f"so that {whole} and calls of {self.call} rows stay whole, which leaves {self._n_pieces} in all. Use "
                "fewer ranks, more particles, or smaller tiles."
            )

    @property
    def piece(self) -> int:
        """Rows that stay together."""
        return math.lcm(self.per_island if self.islands > 1 else self.tile, self.call)

    @property
    def _n_pieces(self) -> int:
        return -(-self.n // self.piece)

    @property
    def per_island(self) -> int:
        return self.n // self.islands

    @functools.cached_property
    def bounds(self) -> list[int]:
        """First row of each rank, and n."""
        return [min(self._n_pieces * rank // self.size * self.piece, self.n) for rank in range(self.size + 1)]

    @property
    def start(self) -> int:
        return self.bounds[self.rank]

    @property
    def stop(self) -> int:
        return self.bounds[self.rank + 1]

    @property
    def count(self) -> int:
        return self.stop - self.start

    @property
    def own_islands(self) -> range:
        """The islands of which this rank holds all, or, of a single one, a part."""
        return range(1) if self.islands == 1 else range(self.start // self.per_island, self.stop // self.per_island)

    @property
    def is_cut(self) -> bool:
        """Whether one island lies on several ranks."""
        return self.islands == 1 and self.size > 1

    def lengths(self) -> list[int]:
        """Rows of each rank."""
        bounds = self.bounds
        return [stop - start for start, stop in itertools.pairwise(bounds)]


LONGEST = 4096  # numbers that the CPU sums in one go: not enough for it to share them among threads


def folded(values: Tensor) -> Tensor:
    """Sum over the last axis: the order of the additions depends on its length and on nothing else.

    By halves; on a CPU the last 4096 numbers in one pass, which goes row by row.
    """
    is_host = values.device.type == "cpu"
    while values.shape[-1] > (LONGEST if is_host else 1):
        half = -(-values.shape[-1] // 2)
        left, right = values[..., :half], values[..., half:]
        if left.shape == right.shape:
            values = left + right
        else:
            values = left.clone()
            values[..., : right.shape[-1]] += right
    return values.contiguous().sum(-1) if is_host else values[..., 0]


UNIT = 2.0**-61  # of the fixed-point numbers below: sums of one in total leave two bits to spare


def cumulative(values: Tensor, total: float = 1.0, out: Tensor | None = None) -> Tensor:
    """Cumulative sums of non-negative float64 numbers that add up to `total`, the same bits every time.

    On a GPU the order of the additions changes from call to call, which the sums of whole numbers do not notice:
    there the values are first cut to 2⁻⁶¹ of the total.
    """
    if values.device.type == "cpu":
        return torch.cumsum(values, 0, out=out)
    return torch.mul(values.div(total * UNIT).long().cumsum_(0), total * UNIT, out=out)


def add_at(sums: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """sums[index[i]] += values[i] for all i, in place, the same bits every time: see `cumulative`.

    Args:
        values: float64, of magnitudes that add up to at most two.
    """
    if sums.device.type == "cpu":
        return sums.scatter_add_(0, index, values)  # in half the time of index_add_
    whole = index.new_zeros(len(sums)).index_add_(0, index, values.div(UNIT).long())
    return sums.add_(whole.double(), alpha=UNIT)


def mean(values: Tensor, slots: Slots, ranks: Ranks) -> Tensor:
    """Mean over all particles of a number for each, float64, the same bits on any number of ranks.

    Args:
        values: of the particles of this rank, (n,).
    """
    own = values.detach().double().view(len(slots.own_islands), -1)
    tiles = own.new_zeros(len(own), -(-own.shape[1] // slots.tile), slots.tile)
    tiles.flatten(1)[:, : own.shape[1]] = own
    sums = folded(tiles)
    if slots.is_cut:
        sums = ranks.gathered(sums[0], [-(-length // slots.tile) for length in slots.lengths()])[None]
    totals = folded(sums)
    if slots.size > 1 and not slots.is_cut:
        totals = ranks.gathered(totals, [length // slots.per_island for length in slots.lengths()])
    return folded(totals) / slots.n


def tile_sums(values: Tensor, slots: Slots) -> Tensor:
    """The largest value v* of each tile, Σ exp(v − v*) and Σ exp 2(v − v*): all that a sum over tiles needs to know.

    Args:
        values: (own islands, own particles of each), float64.

    Returns:
        (own islands, tiles of each, 3); NaN in a tile that holds NaN or +inf.
    """
    tiles = values.new_empty(len(values), -(-values.shape[1] // slots.tile), slots.tile)
    tiles[:, -1] = -math.inf  # a short one counts as whole
    tiles.flatten(1)[:, : values.shape[1]] = values
    top = tiles.amax(-1)
    first = folded(tiles.sub_(top.where(top > -math.inf, 0.0)[..., None]).exp_())
    return torch.stack([top, first, folded(tiles.square_())], -1)


def log_sums(tiles: Tensor) -> tuple[Tensor, Tensor]:
    """log Σ exp(v) and log Σ exp(2v) of each island from the `tile_sums` of all its tiles; NaN if one is."""
    top, first, second = tiles.unbind(-1)
    most = top.amax(-1, keepdim=True)
    share = (top - most.where(most > -math.inf, 0.0)).exp()
    most = most[..., 0]
    return most + folded(share * first).log(), 2 * most + folded(share.square() * second).log()
