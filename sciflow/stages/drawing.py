"""How the draws of `sample` are made: one after the other, each from where it was cut short."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from sciflow.data.state import State
from sciflow.diffusion.centred import events
from sciflow.diffusion.denoiser import Counted, Denoiser
from sciflow.errors import InputError, NonFiniteError
from sciflow.inverse.posterior import Posterior
from sciflow.inverse.shared import Shared
from sciflow.inverse.solves import tallied
from sciflow.particles.ranks import Alone, Ranks
from sciflow.stages.artefact import Job
from sciflow.stages.draws import Draw
from sciflow.stages.kept import Kept
from sciflow.stages.shares import done, numbers
from sciflow.training.checkpoint import load as read_checkpoint

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class Task:
    """What draws are made of, by whom, and where they are kept: a folder of all ranks, which the first has locked."""

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
        """One draw of all ranks together, or one of each rank, in the order of the ranks; each is saved at once.

        Raises:
            NonFiniteError: a draw is not finite; names posterior and observation.
            OutOfTime: it is time to stop.
        """
        ranks = self.ranks
        if self.is_shared(piece[0]):
            name, i = piece[0]
            together = replace(self.section.posteriors[name], ranks=ranks)  # type: ignore[type-var]
            return [self._draw(name, i, together, ranks)]

        def one() -> Draw:
            name, i = piece[ranks.rank]
            return self._draw(name, i, self.section.posteriors[name], Alone())

        if ranks.size == 1:
            return [one()]
        found = done(ranks, lambda: one().pack() if ranks.rank < len(piece) else b"")
        return [Draw.unpack(content) for content in found[: len(piece)]]

    def _draw(self, name: str, i: int, posterior: Posterior, ranks: Ranks) -> Draw:
        """Sample one posterior for one observation, on these ranks."""
        late = (
            f"stopped at observation {i} of {name!r} before the time limit; what was finished is saved. Run the same "
            "command again to continue; if not one observation fits, raise resources.sample.runtime."
        )
        counted, start, n = Counted(self.priors(i)), time.monotonic(), self.section.n_samples
        stream = replace(self.job.stream.child(name, i), tile=self.section.tile)
        kept = Kept(self.state, f"ensemble-{place(name, i)}", counted, late, self.is_over, ranks)
        kept()
        try:
            with tallied() as kept.solves:
                particles = posterior(counted, self.likelihoods(i), self.times, n, stream, on_step=kept)
            drawn = events(counted.denoiser, particles.resample(n, stream.child("resample")).x)
            if not bool(drawn.isfinite().all()):
                bad = int((~drawn.flatten(1).isfinite().all(1)).sum())
                raise NonFiniteError(
                    f"{bad} of {len(drawn)} draws are NaN or infinite. Take more steps, or mend the sampler."
                )
        except NonFiniteError as error:
            raise NonFiniteError(f"posterior {name!r}, observation {i}: {error}") from error
        rows, n_solves = (int(sum(numbers(ranks, value))) for value in (counted.rows, kept.solves.rows))
        draw = Draw.of(particles, drawn, rows, n_solves, time.monotonic() - start)
        if self.state and ranks.rank == 0:
            self.state.save(place(name, i), draw.pack())
        kept.forget()
        return draw
