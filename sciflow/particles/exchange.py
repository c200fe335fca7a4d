"""Moving particles to where their copies go: in place, by blocks, and between ranks only those that are needed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sciflow.particles.ranks import Ranks
from sciflow.particles.slots import Slots

BLOCKS = {"cpu": 4096, "cuda": 65_536}  # rows that are in memory twice; a GPU waits for the host between blocks

SMALL = 16  # bytes of a row: less than resampling takes for each particle, so that a second copy does not show


def owned(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state with a memory of its own for each entry: views, expanded and shared tensors are copied."""
    places = [value.untyped_storage().data_ptr() for value in state.values()]

    def is_own(value: Tensor) -> bool:
        whole = value.untyped_storage().nbytes() == value.numel() * value.element_size() and value.is_contiguous()
        return whole and places.count(value.untyped_storage().data_ptr()) == 1 and not value.requires_grad

    return {name: value if is_own(value) else value.clone() for name, value in state.items()}


def gather_rows(values: Tensor, ancestors: Tensor, slot: int = 0) -> None:
    """values[slot + j] = values[ancestors[j]] for all j, in place, for sorted ancestors.

    First, from left to right, the slots that take from their right, then, from right to left, those that take from
    their left: as ancestors are sorted, nobody overwrites what another slot still needs. Rows of a number or two are
    copied all at once.
    """
    if values[:1].numel() * values.element_size() <= SMALL:
        rows = values.view(-1) if values.shape[1:].numel() == 1 else values  # flat: three times faster
        rows[slot : slot + len(ancestors)] = rows.index_select(0, ancestors)
        return
    slots = torch.arange(slot, slot + len(ancestors), device=ancestors.device)
    block = BLOCKS.get(values.device.type, BLOCKS["cpu"])
    rising = (ancestors > slots).nonzero()[:, 0].split(block)
    falling = (ancestors < slots).nonzero()[:, 0].split(block)
    for part in (*rising, *reversed(falling)):
        values.index_copy_(0, slots[part], values.index_select(0, ancestors[part]))


@dataclass(frozen=True)
class Traffic:
    """What one resampling of an ensemble on several ranks sends where.

    Args:
        sent: rows of this rank that each rank needs, once each.
        places: slots of this rank that are filled from each rank.
        copies: which of the rows received each of these slots gets.
        lengths: rows received from each rank.
        own: first slot that is filled from here, and the rows it and those after it get.
    """

    sent: list[Tensor]
    places: list[slice]
    copies: list[Tensor]
    lengths: list[int]
    own: tuple[int, Tensor]

    @classmethod
    def of(cls, ancestors: Tensor, slots: Slots) -> Traffic:
        """From the sorted ancestors of all slots."""
        bounds, me = slots.bounds, slots.rank
        edges = torch.tensor(bounds, device=ancestors.device)
        wanted = [ancestors[bounds[rank] : bounds[rank + 1]] for rank in range(slots.size)]
        cuts = [torch.searchsorted(part, edges).tolist() for part in wanted]
        sent = [
            part[cut[me] : cut[me + 1]].unique_consecutive() - bounds[me]
            for part, cut in zip(wanted, cuts, strict=True)
        ]
        mine, cut = wanted[me], cuts[me]
        places = [slice(cut[rank], cut[rank + 1]) for rank in range(slots.size)]
        found = [mine[place].unique_consecutive(return_inverse=True) for place in places]
        sent[me], places[me] = sent[me][:0], slice(0, 0)
        lengths = [0 if rank == me else len(rows) for rank, (rows, _) in enumerate(found)]
        own = (cut[me], mine[cut[me] : cut[me + 1]] - bounds[me])
        return cls(sent, places, [copies for _, copies in found], lengths, own)

    def carry(self, values: Tensor, ranks: Ranks) -> None:
        """Fill the slots of this rank."""
        got = ranks.exchanged([values.index_select(0, rows) for rows in self.sent], self.lengths)
        gather_rows(values, self.own[1], self.own[0])
        for rows, place, copies in zip(got, self.places, self.copies, strict=True):
            if place.stop > place.start:
                values[place] = rows[copies]
