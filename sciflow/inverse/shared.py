"""Posteriors whose particles several processes may hold together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from sciflow.errors import InputError
from sciflow.particles.feynman_kac import FeynmanKac, smc
from sciflow.particles.particles import Particles
from sciflow.particles.ranks import Ranks
from sciflow.particles.resampling import Scheme
from sciflow.particles.slots import Slots
from sciflow.particles.smc_state import SMCState
from sciflow.random import Stream

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all); it may raise to stop."""


@runtime_checkable
class Keeper(Protocol):
    """A `Progress` that keeps an ensemble between two steps, so that one that is cut short goes on from there."""

    def __call__(self, done: int, total: int) -> None: ...

    def keep(self, ensemble: SMCState) -> None:
        """Called after the start and each step, before it is told of."""
        ...

    def resumed(self) -> SMCState | None:
        """What was kept of this very ensemble; None to start."""
        ...


def kept(on_step: Progress | None) -> dict[str, Any]:
    """Options of `smc` by which an ensemble is kept, and goes on."""
    return {"on_checkpoint": on_step.keep, "resume": on_step.resumed()} if isinstance(on_step, Keeper) else {}


class Split(Protocol):
    """A posterior whose particles may be split into independent ensembles."""

    @property
    def n_particles(self) -> int:
        """On all islands and ranks together."""
        ...

    @property
    def islands(self) -> int:
        """Independent ensembles that they are split into."""
        ...


@runtime_checkable
class Shared(Split, Protocol):
    """A posterior with an ensemble of its own, a dataclass; of several ranks each gets all of its particles."""

    @property
    def tile(self) -> int:
        """Rows of one call of the model: ranks take whole calls."""
        ...

    @property
    def resampling(self) -> Scheme: ...

    @property
    def ranks(self) -> Ranks | None:
        """The processes that hold the ensemble together; None: this one alone."""
        ...

    @property
    def is_shared(self) -> bool:
        """Whether particles meet only where they are resampled; ranks cannot hold together what is fitted to all."""
        ...


def check_islands(posterior: Split) -> None:
    """Refuse islands of different sizes.

    Raises:
        InputError: n_particles is no multiple of islands.
    """
    if posterior.islands < 1 or posterior.n_particles % posterior.islands:
        raise InputError(
            f"{type(posterior).__name__}: n_particles is {posterior.n_particles}, no multiple of {posterior.islands} "
            "islands. Take one, so that all islands are of one size."
        )


def check_ranks(posterior: Shared, tile: int, n_ranks: int) -> None:
    """Refuse an ensemble that so many ranks cannot share, before any work.

    Args:
        posterior: whose ensemble.
        tile: of the random stream.
        n_ranks: how many.
    Raises:
        InputError: fewer pieces than ranks.
    """
    Slots(posterior.n_particles, posterior.islands, tile, 0, n_ranks, posterior.tile)


def run(
    posterior: Shared, model: FeynmanKac, stream: Stream, threshold: float, on_step: Progress | None = None
) -> Particles:
    """`smc` with the options of the posterior, on its ranks; all of the ensemble on each of them.

    Args:
        posterior: its options.
        model: what to sample.
        stream: random numbers.
        threshold: of `smc`.
        on_step: called with (steps done, steps in all); it may raise to stop, on all ranks or on none.
    Raises:
        InputError, NonFiniteError: as `smc`.
    """
    report = None if on_step is None else (lambda k, ess: on_step(k, model.n_steps))
    found = smc(
        model, posterior.n_particles, stream, posterior.resampling, threshold, report,
        islands=posterior.islands, ranks=posterior.ranks, call=posterior.tile, **kept(on_step),
    )  # fmt: skip
    return found if posterior.ranks is None else found.gathered(posterior.ranks)
