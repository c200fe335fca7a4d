"""Feynman–Kac models and the one driver that runs them: `smc()` alone owns weights, evidence and resampling.

A model says how particles start, how they move and what each move weighs,

    γ_k(x_{0:k}) = M_0(x_0) G_0(x_0) Π_{j≤k} M_j(x_j | x_{j−1}) G_j(x_{j−1}, x_j),

and `smc` gives weighted particles of γ_K/Z_K with an unbiased estimate of its normalising constant, the evidence Z_K.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sciflow.errors import InputError, NonFiniteError
from sciflow.particles.genealogy import Genealogy
from sciflow.particles.particles import Particles
from sciflow.particles.resampling import RESAMPLERS, Resampler, ess
from sciflow.random import Stream

State = dict[str, Tensor]
"""What a particle carries: "x", and whatever else the model wants resampled along; particle axis first."""


@runtime_checkable
class FeynmanKac(Protocol):
    """Initial law, moves and log-potentials; moves and potentials come together, so they may share a network call."""

    @property
    def n_steps(self) -> int:
        """Number of moves."""
        ...

    def initial(self, n: int, stream: Stream) -> tuple[State, Tensor]:
        """n particles and log G_0, shape (n,), not normalised."""
        ...

    def step(self, k: int, state: State, stream: Stream) -> tuple[State, Tensor]:
        """The particles after move k = 0 … n_steps − 1, and the log-potential of that move, shape (n,)."""
        ...


@dataclass
class _Weights:
    """Normalised log-weights in float64, the evidence so far, and the traces."""

    n: int
    log_weights: Tensor
    log_evidence: float
    ess: list[float]
    parents: list[int]
    events: list[str]

    @classmethod
    def equal(cls, n: int, device: torch.device) -> _Weights:
        weights = torch.full((n,), -math.log(n), dtype=torch.float64, device=device)
        return cls(n, weights, 0.0, [], [], [])

    def update(self, potential: Tensor, where: str) -> None:
        """Multiply by the potential; the sum of the weights is the factor of the evidence."""
        if potential.shape != (self.n,):
            raise InputError(f"{where}: the log-potential has shape {tuple(potential.shape)}, needs ({self.n},).")
        values = self.log_weights + potential.detach().double()
        increment = values.logsumexp(0)
        facts = [(potential.isnan() | (potential == math.inf)).sum(), (potential == -math.inf).sum(), increment]
        bad, dead, increment_value = torch.stack([fact.double() for fact in facts]).tolist()
        if bad:
            raise NonFiniteError(
                f"{where}: {int(bad)} of {self.n} log-potentials are NaN or +inf. "
                "Check the model there; −inf is the only infinite value with a meaning."
            )
        if increment_value == -math.inf:
            raise NonFiniteError(
                f"{where}: all {self.n} particles have weight zero. "
                "Use more particles, smaller steps or a softer potential."
            )
        if dead:
            self.events.append(f"{where}: {int(dead)} of {self.n} particles have weight zero")
        self.log_weights = values - increment
        self.log_evidence += increment_value
        self.ess.append(float(ess(self.log_weights)))
        self.parents.append(self.n)


def smc(
    model: FeynmanKac,
    n: int,
    stream: Stream,
    resampling: str | Resampler = "systematic",
    ess_threshold: float = 0.5,
    on_step: Callable[[int, float], None] | None = None,
) -> Particles:
    """Sequential Monte Carlo: move and weigh; resample when the effective sample size falls to a share of n.

        log Ẑ = Σ_k log Σ_i W_k^i G_k^i,   W carried until the next resampling,   E[Ẑ] = Z for every threshold

    Exactness: Ẑ is unbiased for any n; means under the weights are consistent, with bias and variance O(1/n).
    Cost: n_steps model steps for n particles; one host synchronisation per step.
    Bias: E[log Ẑ] ≈ log Z − Var(log Ẑ)/2.
    Args:
        model: what to sample.
        n: number of particles.
        stream: random numbers; the model gets a child of its own for each step.
        resampling: a name of `RESAMPLERS`, or such a function.
        ess_threshold: resample when ESS ≤ threshold · n; in (0, 1], 1 resamples after every step but the last.
        on_step: called with (steps done, ESS) after the start and each step; it may raise to stop.

    Returns:
        Weighted particles at the last step; they are not resampled there.

    Raises:
        InputError: n, threshold or scheme out of range, or a state or potential of the wrong shape.
        NonFiniteError: NaN or +inf potentials, or no particle left; names the step.
    Source: Del Moral (2004), Feynman–Kac formulae; Del Moral, Doucet and Jasra (2012) for the threshold.
    """
    resample = _scheme(resampling)
    if n < 1 or not 0 < ess_threshold <= 1:
        raise InputError(f"smc needs n ≥ 1 and 0 < ess_threshold ≤ 1, got n = {n} and ess_threshold = {ess_threshold}.")
    state, potential = model.initial(n, stream.child("initial"))
    _check(state, n, "at the start")
    weights = _Weights.equal(n, state["x"].device)
    weights.update(potential, "at the start")
    family = Genealogy.of(n, state["x"].device)
    for k in range(model.n_steps):
        if on_step is not None:
            on_step(k, weights.ess[-1])
        if weights.ess[-1] <= ess_threshold * n * (1 + 1e-9):  # equal weights have ESS n up to rounding
            ancestors = resample(weights.log_weights, n, stream.child("resample", k))
            family = family.resampled(ancestors, weights.log_weights)
            weights.log_weights = torch.full_like(weights.log_weights, -math.log(n))
            weights.parents[-1] = family.n_parents
            state = {name: value[ancestors] for name, value in state.items()}
        state, potential = model.step(k, state, stream.child("step", k))
        where = f"step {k + 1} of {model.n_steps}"
        _check(state, n, where)
        weights.update(potential, where)
    if on_step is not None:
        on_step(model.n_steps, weights.ess[-1])
    return Particles(
        x=state["x"],
        log_weights=weights.log_weights,
        log_evidence=weights.log_evidence,
        log_evidence_stderr=family.stderr(weights.log_weights),
        ess_trace=torch.tensor(weights.ess, dtype=torch.float64),
        parents_trace=torch.tensor(weights.parents),
        eve=family.eve,
        n_resampled=family.generations,
        events=tuple(weights.events),
    )


def _scheme(resampling: str | Resampler) -> Resampler:
    if callable(resampling):
        return resampling
    if resampling not in RESAMPLERS:
        raise InputError(f"resampling must be one of {sorted(RESAMPLERS)}, got {resampling!r}.")
    return RESAMPLERS[resampling]


def _check(state: State, n: int, where: str) -> None:
    if "x" not in state:
        raise InputError(f"{where}: the state needs an entry 'x', got {sorted(state)}.")
    for name, value in state.items():
        if value.ndim == 0 or len(value) != n:
            raise InputError(f"{where}: '{name}' has shape {tuple(value.shape)}, it must start with {n} particles.")
