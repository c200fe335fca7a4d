"""Feynman–Kac models and the one driver that runs them: `smc()` alone owns weights, evidence and resampling.

A model says how particles start, how they move and what each move weighs,

    γ_k(x_{0:k}) = M_0(x_0) G_0(x_0) Π_{j≤k} M_j(x_j | x_{j−1}) G_j(x_{j−1}, x_j),

and `smc` gives weighted particles of γ_K/Z_K with an unbiased estimate of its normalising constant, the evidence Z_K.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.particles.exchange import Traffic, gather_rows, owned
from sciflow.particles.particles import Particles
from sciflow.particles.ranks import Alone, Ranks
from sciflow.particles.resampling import RESAMPLERS, Resampler
from sciflow.particles.slots import Slots
from sciflow.particles.smc_state import SMCState
from sciflow.random import Stream

State = dict[str, Tensor]
"""What a particle carries: "x", and whatever else the model wants resampled along; particle axis first."""

Diagnostics = dict[str, Tensor]
"""What a step did, by name: a number for each particle, (n,), of which the mean is kept, or numbers of all, (1, J)."""

Step = tuple[State, Tensor] | tuple[State, Tensor, Diagnostics]
"""Particles and log-potentials, (n,), after a move, and what there is to say of it."""

Rejuvenation = Callable[[int, State, Stream], State]
"""A Markov kernel that leaves the law after k steps invariant: (k, state, stream) → state, weights unchanged."""


@runtime_checkable
class FeynmanKac(Protocol):
    """Initial law, moves and log-potentials; moves and potentials come together, so they may share a network call.

    The tensors of a state belong to whoever holds it: the driver overwrites them when it resamples, and a move may
    overwrite those it is given. Row i of a draw from the stream belongs to particle i; a move that asks the stream for
    nothing else, and a network for tiles of fixed size, gives the same bits on one rank and on many.
    """

    @property
    def n_steps(self) -> int:
        """Number of moves."""
        ...

    def initial(self, n: int, stream: Stream) -> tuple[State, Tensor]:
        """n particles and log G_0, shape (n,), not normalised."""
        ...

    def step(self, k: int, state: State, stream: Stream) -> Step:
        """The particles after move k = 0 … n_steps − 1, and the log-potential of that move, shape (n,)."""
        ...


@dataclass
class _Run:
    """One run of the driver on one rank."""

    model: FeynmanKac
    stream: Stream
    slots: Slots
    ranks: Ranks
    resample: Resampler
    threshold: float
    rejuvenate: Rejuvenation | None
    is_known: bool = False

    def start(self, facts: dict[str, object]) -> SMCState:
        with _named("at the start"):
            particles, potential = self.model.initial(self.slots.count, self._rows("initial"))
        _check(particles, self.slots.count, "at the start")
        state = SMCState.start(particles, facts, self.slots)
        state.weigh(potential, self.slots, self.ranks, "at the start")
        return state

    def step(self, state: SMCState) -> None:
        """Resample where it is time to, move and weigh."""
        k, n_steps = state.k, self.model.n_steps
        due = state.ess <= self.threshold * self.slots.per_island * (1 + 1e-9)  # equal weights: n up to rounding
        if bool(due.any()):
            self._resample(state, due.tolist())
        where = f"step {k + 1} of {n_steps}"
        with _named(where):
            particles, potential, *said = self.model.step(k, state.particles, self._rows("step", k))
        _check(particles, self.slots.count, where)
        state.particles = particles
        state.weigh(potential, self.slots, self.ranks, where)
        for diagnostics in said:
            state.note(diagnostics, self.slots, self.ranks, where)

    def _rows(self, *purpose: str | int) -> Stream:
        """The stream of the rows that this rank holds."""
        return self.stream.child(*purpose).rows_from(self.slots.start)

    def _resample(self, state: SMCState, due: list[bool]) -> None:
        """Resample the islands that are due; every rank of a single one computes all its ancestors."""
        slots, m, k = self.slots, self.slots.per_island, state.k
        state.particles = owned(state.particles)
        parents = 0
        for index, island in enumerate(slots.own_islands):
            if not due[island]:
                parents += m
                continue
            weights, stream = state.log_weights[index], self.stream.child("resample", k)
            if slots.is_cut:
                weights = self.ranks.gathered(weights, slots.lengths())
            if slots.islands > 1:
                stream = stream.child(island)
            ancestors = self.resample(weights, m, stream)
            if not self.is_known:
                ancestors = _sorted(ancestors, m)
            state.families[index] = state.families[index].resampled(ancestors, weights)
            state.log_weights[index] = -math.log(m)
            parents += state.families[index].n_parents
            self._move(state.particles, ancestors, index * m)
        state.traces["parents"][-1] = parents if slots.size == 1 or slots.is_cut else self._total(parents)
        if self.rejuvenate is not None:
            state.particles = self.rejuvenate(k, state.particles, self._rows("rejuvenate", k))

    def _move(self, particles: State, ancestors: Tensor, first: int) -> None:
        """Give every slot of one island, which begins at row `first`, the particle of its ancestor."""
        if self.slots.is_cut:
            traffic = Traffic.of(ancestors, self.slots)
            for value in particles.values():
                traffic.carry(value, self.ranks)
            return
        for value in particles.values():
            gather_rows(value[first : first + len(ancestors)], ancestors)

    def _total(self, number: int) -> int:
        """The sum over ranks."""
        return int(self.ranks.gathered(torch.tensor([number]), [1] * self.slots.size).sum())


def smc(
    model: FeynmanKac,
    n: int,
    stream: Stream,
    resampling: str | Resampler = "systematic",
    ess_threshold: float = 0.5,
    on_step: Callable[[int, float], None] | None = None,
    *,
    islands: int = 1,
    ranks: Ranks | None = None,
    call: int = 1,
    rejuvenate: Rejuvenation | None = None,
    on_checkpoint: Callable[[SMCState], None] | None = None,
    resume: SMCState | None = None,
) -> Particles:
    """Sequential Monte Carlo: move and weigh; resample when the effective sample size falls to a share of n.

        log Ẑ = Σ_k log Σ_i W_k^i G_k^i,   W carried until the next resampling,   E[Ẑ] = Z for every threshold

    Islands are independent runs of n/islands particles in one batch, pooled with weights Ẑ_r; their spread is an error
    bar that nothing can spoil, and on several ranks no particle travels. A single ensemble on several ranks resamples
    as one: weights, evidence and particles are the same bits on any number of ranks, and after any restart.

    Exactness: Ẑ is unbiased for any n; means under the weights are consistent, with bias and variance O(1/n).
    Cost: n_steps model steps for n particles; one host synchronisation per step. Memory besides the model's: the state
        and about 60 bytes for each particle, since resampling works in place.
    Bias: E[log Ẑ] ≈ log Z − Var(log Ẑ)/2, which the interval takes into account.
    Args:
        model: what to sample.
        n: number of particles, on all islands and ranks together.
        stream: random numbers; the model gets a child of its own for each step.
        resampling: a name of `RESAMPLERS`, or such a function.
        ess_threshold: resample when ESS ≤ threshold · n; in (0, 1], 1 resamples after every step but the last.
        on_step: called with (steps done, ESS) after the start and each step; it may raise to stop.
        islands: number of independent ensembles; at least 4, better 8, for an interval from them.
        ranks: the processes that hold the ensemble together; `Group.here()` for those of torch.distributed.
        call: rows of one call of the model, from the first row on: ranks take whole calls.
        rejuvenate: applied after each resampling, so that copies become different again.
        on_checkpoint: called with the state after the start and each step; see `SMCState` for how to keep it.
        resume: such a state, to go on from; the result is that of the uninterrupted run.

    Returns:
        Weighted particles at the last step; they are not resampled there. On several ranks each has its own part, with
        weights that sum to one over all; `Particles.gathered(ranks)` puts them together.

    Raises:
        InputError: n, threshold or scheme out of range, a state or potential of the wrong shape, a checkpoint of
            another run, or ranks that were given different seeds or options.
        NonFiniteError: NaN or +inf potentials, or no particle left; names the step. What `on_checkpoint` saved before
            is not touched.
    Source: Del Moral (2004), Feynman–Kac formulae; Del Moral, Doucet and Jasra (2012) for the threshold; Vergé et al.
        (2015), On parallel implementation of sequential Monte Carlo methods: the island particle model.
    """
    ranks = Alone() if ranks is None else ranks
    scheme = resampling if isinstance(resampling, str) else getattr(resampling, "__name__", "own")
    facts = {"seed": stream.seed, "purpose": list(stream.purpose), "tile": stream.tile, "n": n, "islands": islands}
    facts |= {"n_steps": model.n_steps, "ess_threshold": ess_threshold, "resampling": scheme}
    ranks.agree((facts, resume and resume.k))
    if not 0 < ess_threshold <= 1:
        raise InputError(f"smc needs 0 < ess_threshold ≤ 1, got {ess_threshold}.")
    slots = Slots(n, islands, stream.tile, ranks.rank, ranks.size, call)
    run = _Run(model, stream, slots, ranks, _scheme(resampling), ess_threshold, rejuvenate, isinstance(resampling, str))
    state = run.start(facts) if resume is None else _resumed(resume, facts).part(slots)

    def report() -> None:
        if on_checkpoint is not None:
            on_checkpoint(state)
        if on_step is not None:
            on_step(state.k, state.traces["ess"][-1])

    while state.k < model.n_steps:
        report()
        run.step(state)
    report()
    return state.result(slots, ranks)


@contextlib.contextmanager
def _named(where: str) -> Iterator[None]:
    """Say at which step a model refused something."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _resumed(state: SMCState, facts: dict[str, object]) -> SMCState:
    """The state, if it belongs to this run."""
    other = {name: (state.facts.get(name), value) for name, value in facts.items() if state.facts.get(name) != value}
    if other:
        said = "; ".join(f"{name}: {theirs!r} there, {ours!r} here" for name, (theirs, ours) in other.items())
        raise InputError(f"the state to resume is that of another run ({said}). Start anew, or with the same options.")
    return state


def _scheme(resampling: str | Resampler) -> Resampler:
    if callable(resampling):
        return resampling
    if resampling not in RESAMPLERS:
        raise InputError(f"resampling must be one of {sorted(RESAMPLERS)}, got {resampling!r}.")
    return RESAMPLERS[resampling]


def _sorted(ancestors: Tensor, n: int) -> Tensor:
    """Sorted ancestors, as every scheme of `RESAMPLERS` gives them, of a scheme of the caller's own.

    Raises:
        InputError: a resampler that did not give n particles.
    """
    if ancestors.shape != (n,) or ancestors.dtype != torch.int64:
        raise InputError(
            f"a resampler must give ancestors of shape ({n},), int64, got {tuple(ancestors.shape)}, {ancestors.dtype}."
        )
    if bool((ancestors[1:] < ancestors[:-1]).any()):
        ancestors = ancestors.sort().values
    if ancestors[0] < 0 or ancestors[-1] >= n:
        raise InputError(f"a resampler gave ancestors {int(ancestors[0])} … {int(ancestors[-1])} of {n} particles.")
    return ancestors


def _check(state: State, n: int, where: str) -> None:
    if "x" not in state:
        raise InputError(f"{where}: the state needs an entry 'x', got {sorted(state)}.")
    for name, value in state.items():
        if value.ndim == 0 or len(value) != n:
            raise InputError(f"{where}: '{name}' has shape {tuple(value.shape)}, it must start with {n} particles.")
