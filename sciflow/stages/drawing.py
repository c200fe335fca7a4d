"""How the draws of `sample` are made: one after the other, each from where it was cut short."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch

from sciflow.data.state import State
from sciflow.diffusion.centred import events
from sciflow.diffusion.denoiser import Counted, Denoiser
from sciflow.errors import InputError, NonFiniteError, OutOfTime
from sciflow.inverse.posterior import Posterior
from sciflow.inverse.shared import Shared
from sciflow.inverse.solves import Solves, tallied
from sciflow.particles.ranks import Ranks
from sciflow.particles.smc_state import SMCState
from sciflow.progress import within
from sciflow.stages.artefact import Job
from sciflow.stages.draws import Draw
from sciflow.stages.shares import done, numbers
from sciflow.training.checkpoint import load as read_checkpoint
from sciflow.training.checkpoint import save as write_checkpoint

logger = logging.getLogger(__name__)
EVERY = 60.0  # seconds from one saving of an ensemble to the next


class Section(Protocol):
    """What is asked of the section `sample`."""

    @property
    def posteriors(self) -> Mapping[str, Posterior]: ...

    @property
    def n_samples(self) -> int: ...

    @property
    def tile(self) -> int: ...


def place(name: str, i: int) -> str:
    """Where a finished draw is kept: by the name of its posterior, whatever stands beside it in the run file."""
    return f"{hashlib.sha256(name.encode()).hexdigest()[:16]}-{i}.pt"


def recall(state: State | None, name: str, i: int) -> Draw | None:
    """What was drawn before an interruption; what a bad disk made of it is drawn again, to the same numbers."""
    path = state.path(place(name, i)) if state else None
    if path is None:
        return None
    try:
        return Draw(**read_checkpoint(path, "draw"))
    except InputError as error:
        logger.warning("%s: observation %d of %r is drawn again", str(error).partition(" Delete it")[0], i, name)
        path.unlink()
        return None


@dataclass
class Kept:
    """Told of each step of one draw; keeps its ensemble every minute, and before the time is over.

    Args:
        state: where; None keeps nothing.
        name: of the file.
        counted: the prior, whose calls so far are kept, too.
        stop: called after each step; raises where it is time.
        is_over: whether it is.
        every: seconds between two savings.
        solves: so far, kept like the calls.
    """

    state: State | None
    name: str
    counted: Counted
    stop: Callable[..., None]
    is_over: Callable[[], bool]
    every: float = EVERY
    saved: float = field(default_factory=time.monotonic)
    solves: Solves = field(default_factory=Solves)

    def __call__(self, *step: int) -> None:
        self.stop(*step)

    def keep(self, ensemble: SMCState) -> None:
        """Save an ensemble between two steps, if it is time."""
        if self.state is None or (time.monotonic() - self.saved < self.every and not self.is_over()):
            return
        content = {"ensemble": ensemble.as_dict(), "rows": self.counted.rows, "solves": self.solves.rows}
        self.state.save(self.name, lambda path: write_checkpoint(path, content, "ensemble"))
        self.saved = time.monotonic()

    def resumed(self) -> SMCState | None:
        """What was saved, on the devices that it was on; what cannot be read counts as nothing."""
        path = self.state.path(self.name) if self.state else None
        if path is None:
            return None
        try:
            content = read_checkpoint(path, "ensemble", where=None)
            found = SMCState.from_dict(content["ensemble"])
        except InputError as error:
            logger.warning("%s: an ensemble starts anew", str(error).partition(" Delete it")[0])
            path.unlink()
            return None
        self.counted.rows, self.solves.rows = content["rows"], content["solves"]
        return found

    def forget(self) -> None:
        """The draw is done."""
        if self.state and (path := self.state.path(self.name)):
            path.unlink()


@dataclass(frozen=True)
class Task:
    """What draws are made of, and by whom."""

    job: Job
    section: Section
    priors: Callable[[int], Denoiser]
    times: torch.Tensor
    likelihoods: Callable[[int], Any]
    is_over: Callable[[], bool]
    ranks: Ranks
    state: State | None

    def is_shared(self, item: tuple[str, int]) -> bool:
        """Whether all ranks hold the ensemble of this draw together."""
        posterior = self.section.posteriors[item[0]]
        return self.ranks.size > 1 and isinstance(posterior, Shared) and posterior.is_shared

    def draws(self, piece: Sequence[tuple[str, int]]) -> list[Draw]:
        """One draw of all ranks together, or one of each rank, in the order of the ranks.

        Raises:
            NonFiniteError: a draw is not finite; names posterior and observation.
            OutOfTime: it is time to stop.
        """
        ranks = self.ranks
        if self.is_shared(piece[0]):
            posterior = replace(self.section.posteriors[piece[0][0]], ranks=ranks)  # type: ignore[type-var]
            draw = self._draw(*piece[0], posterior, lambda: any(numbers(ranks, self.is_over())))
            rows, solves = (int(sum(numbers(ranks, value))) for value in (draw.rows, draw.solves))
            return [replace(draw, rows=rows, solves=solves)]

        def one() -> Draw:
            name, i = piece[ranks.rank]
            return self._draw(name, i, self.section.posteriors[name], self.is_over)

        if ranks.size == 1:
            return [one()]
        found = done(ranks, lambda: one().pack() if ranks.rank < len(piece) else b"")
        return [Draw.unpack(content) for content in found[: len(piece)]]

    def _draw(self, name: str, i: int, posterior: Posterior, is_over: Callable[[], bool]) -> Draw:
        """Sample one posterior for one observation."""

        def stop(*step: int) -> None:
            if step:
                within(*step)
            if is_over():
                raise OutOfTime(
                    f"stopped at observation {i} of {name!r} before the time limit; what was finished is saved. Run "
                    "the same command again to continue; if not one observation fits, raise resources.sample.runtime."
                )

        stop()
        counted, start, n = Counted(self.priors(i)), time.monotonic(), self.section.n_samples
        stream = replace(self.job.stream.child(name, i), tile=self.section.tile)
        try:
            state = self.state if self.ranks.size == 1 else None
            with tallied() as solves:
                kept = Kept(state, f"ensemble-{place(name, i)}", counted, stop, is_over, solves=solves)
                particles = posterior(counted, self.likelihoods(i), self.times, n, stream, on_step=kept)
            drawn = events(counted.denoiser, particles.resample(n, stream.child("resample")).x)
            if not bool(drawn.isfinite().all()):
                bad = int((~drawn.flatten(1).isfinite().all(1)).sum())
                raise NonFiniteError(
                    f"{bad} of {len(drawn)} draws are NaN or infinite. Take more steps, or mend the sampler."
                )
        except NonFiniteError as error:
            raise NonFiniteError(f"posterior {name!r}, observation {i}: {error}") from error
        kept.forget()
        return Draw.of(particles, drawn, counted.rows, solves.rows, time.monotonic() - start)
