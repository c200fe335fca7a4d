"""What a draw that is cut short goes on from: its ensemble between two steps, the part of each rank in a file."""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from sciflow.data.state import State
from sciflow.diffusion.denoiser import Counted
from sciflow.errors import InputError, OutOfTime
from sciflow.inverse.solves import Solves
from sciflow.particles.ranks import Alone, Ranks
from sciflow.particles.smc_state import SMCState
from sciflow.progress import within
from sciflow.stages.shares import numbers
from sciflow.training.checkpoint import load as read_checkpoint
from sciflow.training.checkpoint import save as write_checkpoint

logger = logging.getLogger(__name__)
EVERY = 60.0  # seconds from one saving of an ensemble to the next
GO_ON, SAVE, STOP = range(3)
PART = re.compile(r"\.(\d+)\.(\d+)of(\d+)$")  # step, rank and number of ranks, after the name


@dataclass
class Kept:
    """Told of each step of one draw; keeps its ensemble every minute, and before the time is over.

    Each rank writes its part, `name.step.rank of size`. Once all have written, parts of other steps are deleted: killed
    at any moment, one step at least is there in all its parts. Any number of ranks goes on from it.

    Args:
        state: where; None keeps nothing. Ranks write in one folder, of which the first holds the lock.
        name: of the draw.
        counted: the prior, whose calls so far are kept, too.
        late: what is said when it is time to stop.
        is_over: whether it is, for this rank.
        ranks: that hold the ensemble together; all stop and save after the same step.
        every: seconds between two savings.
        solves: so far, kept like the calls.

    Raises:
        OutOfTime: from a call; on all ranks, if it is time for one of them.
    """

    state: State | None
    name: str
    counted: Counted
    late: str
    is_over: Callable[[], bool]
    ranks: Ranks = field(default_factory=Alone)
    every: float = field(default_factory=lambda: EVERY)
    saved: float = field(default_factory=time.monotonic)
    told: int | None = None
    solves: Solves = field(default_factory=Solves)

    def __call__(self, *step: int) -> None:
        if step:
            within(*step)
        told, self.told = self._asked() if self.told is None else self.told, None
        if told == STOP:
            raise OutOfTime(self.late)

    def _asked(self) -> int:
        """What the most pressed of all ranks wants: the one message of a step."""
        is_due = self.state is not None and time.monotonic() - self.saved >= self.every
        return int(max(numbers(self.ranks, STOP if self.is_over() else SAVE if is_due else GO_ON)))

    def keep(self, ensemble: SMCState) -> None:
        """Save an ensemble between two steps, if it is time."""
        self.told = self._asked()
        if self.state is None or self.told == GO_ON:
            return
        content = {"ensemble": ensemble.as_dict(), "rows": self.counted.rows, "solves": self.solves.rows}
        mine = f"{self.name}.{ensemble.k}.{self.ranks.rank}of{self.ranks.size}"
        self.state.save(mine, lambda path: write_checkpoint(path, content, "ensemble"))
        numbers(self.ranks, ensemble.k)  # comes back when all have written
        self._remove(but=(ensemble.k, self.ranks.size))
        self.saved = time.monotonic()

    def resumed(self) -> SMCState | None:
        """What was saved, on the device of this rank; what cannot be read counts as nothing, on all ranks."""
        step, size = self._whole()
        if self.state is None or size == 0:
            return None
        own = [self.ranks.rank] if size == self.ranks.size else range(size)
        parts, error = [], None
        try:
            for rank in own:
                path = self.state.directory / self.state.key / f"{self.name}.{step}.{rank}of{size}"
                parts.append(read_checkpoint(path, "ensemble", where=_here))
            states = [SMCState.from_dict(part["ensemble"]) for part in parts]
            found = states[0] if size == self.ranks.size else SMCState.joined(states)
        except InputError as wrong:
            error = wrong
        if any(numbers(self.ranks, error is not None)):
            if error is not None:
                logger.warning("%s: an ensemble starts anew", str(error).partition(" Delete it")[0])
            self._remove()
            return None
        is_mine = size == self.ranks.size or self.ranks.rank == 0
        self.counted.rows, self.solves.rows = (sum(part[n] for part in parts) * is_mine for n in ("rows", "solves"))
        return found

    def forget(self) -> None:
        """The draw is done, and kept itself."""
        self._remove()

    def _whole(self) -> tuple[int, int]:
        """The last step whose parts are all there, and how many they are; as the first rank sees it, 0 of none."""
        there = Counter((step, size) for step, _, size in self._parts().values())
        step, size = max((one for one, n in there.items() if n == one[1]), default=(0, 0))
        return int(numbers(self.ranks, step)[0]), int(numbers(self.ranks, size)[0])

    def _parts(self) -> dict[str, tuple[int, int, int]]:
        """File → step, rank and number of ranks."""
        names = [] if self.state is None else self.state.names(f"{self.name}.")
        found = {name: PART.fullmatch(name, len(self.name)) for name in names}
        return {name: tuple(map(int, match.groups())) for name, match in found.items() if match}  # type: ignore[misc]

    def _remove(self, but: tuple[int, int] | None = None) -> None:
        """Delete what all ranks have kept of this draw, `but` the parts of one step; the first rank does."""
        if self.state is None or self.ranks.rank > 0:
            return
        for name, (step, _, size) in self._parts().items():
            if (step, size) != but:
                self.state.remove(name)


def _here(storage: Any, location: str) -> Any:
    """A storage from whatever card on that of this rank; None leaves it where it was."""
    return storage.cuda() if location.startswith("cuda") and torch.cuda.is_available() else None
