"""Several learned laws as one: any of them (their mixture), in closed form or by densities recorded along the path.

The experts share one schedule. Along a path of the reverse SDE, each one's log-density is known up to the noise of the
recorder (`sciflow.diffusion.ito`), without a divergence; the weights κ of the experts follow from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sciflow.diffusion.denoiser import Converted, Denoiser, Tiled
from sciflow.diffusion.density import log_base
from sciflow.diffusion.flow import transition
from sciflow.diffusion.ito import log_change
from sciflow.diffusion.schedule import Schedule
from sciflow.errors import InputError
from sciflow.particles.feynman_kac import State
from sciflow.random import Stream
from sciflow.steering.target import TargetPath
from sciflow.types import Time


def under(schedule: Schedule, expert: Denoiser) -> Denoiser:
    """The expert under another schedule: itself where it has that one already."""
    return expert if expert.schedule == schedule else Converted(expert, schedule)


def aligned(experts: Sequence[Denoiser], weights: Sequence[float] = ()) -> Tensor:
    """log ω_i, normalised, of experts that can be composed; no weights are equal weights.

    Raises:
        InputError: no expert, other schedules or shapes than the first one's, or weights that are not positive.
    """
    if not experts:
        raise InputError("a composition needs at least one expert, got none.")
    first = experts[0]
    for i, expert in enumerate(experts):
        if expert.schedule != first.schedule or tuple(expert.shape) != tuple(first.shape):
            got = f"expert {i} has {expert.schedule} and events {tuple(expert.shape)}"
            raise InputError(
                f"{got}, the first one {first.schedule} and {tuple(first.shape)}. Experts of a composition see one "
                "state: bring them under one schedule by Converted(expert, schedule)."
            )
    given = torch.tensor(list(weights) or [1.0] * len(experts), dtype=torch.float64)
    if len(given) != len(experts) or not bool((given > 0).all() and given.isfinite().all()):
        raise InputError(
            f"a mixture of {len(experts)} experts needs as many positive weights, got {list(weights)}. A negative "
            "weight has no mixture; a product of powers may have it."
        )
    return given.log() - given.sum().log()


def but_not(first: Denoiser, other: Denoiser, power: float = 0.5) -> TargetPath:
    """One law without another: negation, for `marginal`, where such a law exists.

        γ ∝ q_first / q_other^power

    It has a normalising constant where the other one's tails, raised to the power, are wider than the first one's.
    `marginal` refuses mixtures for which it has none, and particles that run away.

    Args:
        first: what is wanted.
        other: what is not.
        power: how much of it, 0 < power < 1: with powers that sum to 0 or less nothing holds at large noise.
    Raises:
        InputError: a power outside (0, 1), or experts that do not belong together.
    Source: Du et al. (2023), Reduce, reuse, recycle, section 3, for the law; Skreta et al. (2025), Feynman–Kac
        correctors in diffusion, for its weights.
    """
    if not 0 < power < 1:
        raise InputError(f"but_not needs 0 < power < 1, got {power}. Others make no law at large noise.")
    return TargetPath((first, other), (1.0, -power))


def _start(
    experts: Sequence[Denoiser], log_weights: Tensor, t: float, n: int, stream: Stream, dtype: torch.dtype
) -> Tensor:
    """n draws of the experts' laws of x_t, mixed by their weights."""
    u = stream.child("expert").uniform(n, dtype=torch.float64)
    edges = log_weights.exp().cumsum(0)
    chosen = torch.searchsorted(edges / edges[-1], u, right=True)
    x = torch.stack([e.initial(t, n, stream.child("x", i), dtype) for i, e in enumerate(experts)])
    return x[chosen, torch.arange(n)]


@dataclass(frozen=True)
class MixtureOf:
    """The exact denoiser of a mixture, for experts that know their log-density: any sampler takes it for its prior.

        q = Σ_i ω_i q_i,   D = Σ_i κ_i D_i,   κ = softmax_i(log ω_i + log q_i(x, t))

    Exactness: exact at every noise level.
    Cost: one call and one log-density of each expert.
    Bias: none.
    Args:
        experts: denoisers with `log_prob(x, t)`, of one schedule and shape.
        weights: ω_i > 0, in any scale; none are equal weights.
    Raises:
        InputError: experts without `log_prob`, or that do not belong together.
    Source: Skreta et al. (2025), The superposition of diffusion models using the Itô density estimator, proposition 2
        in closed form.
    """

    experts: tuple[Denoiser, ...]
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        aligned(self.experts, self.weights)
        without = [type(expert).__name__ for expert in self.experts if not hasattr(expert, "log_prob")]
        if without:
            raise InputError(
                f"MixtureOf needs experts with log_prob(x, t), which {without} have not. Record their densities along "
                "the path instead, by OrModel."
            )

    @property
    def schedule(self) -> Schedule:
        return self.experts[0].schedule

    @property
    def shape(self) -> tuple[int, ...]:
        return self.experts[0].shape

    def initial(self, t: float, n: int, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
        return _start(self.experts, aligned(self.experts, self.weights), t, n, stream, dtype)

    def _joint(self, x: Tensor, t: Time) -> Tensor:
        """log ω_i + log q_i(x, t), shape (n, experts)."""
        densities = [expert.log_prob(x, t) for expert in self.experts]  # type: ignore[attr-defined]
        return torch.stack(densities, 1) + aligned(self.experts, self.weights).to(x)

    def log_prob(self, x: Tensor, t: Time) -> Tensor:
        """log q(x, t), shape (n,)."""
        return self._joint(x, t).logsumexp(1)

    def kappa(self, x: Tensor, t: Time) -> Tensor:
        """κ, the probability of each expert given x, shape (n, experts)."""
        return self._joint(x, t).softmax(1)

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        return _mixed(self.kappa(x, t), torch.stack([expert(x, t) for expert in self.experts], 1))

    def __getattr__(self, name: str) -> Any:
        """`covariance`, where every expert has one: by the law of total covariance, shape (n, d, d)."""
        if name != "covariance":
            raise AttributeError(f"{type(self).__name__} has no {name!r}")
        within = [expert.covariance for expert in self.experts]  # type: ignore[attr-defined]

        def covariance(x: Tensor, t: Time) -> Tensor:
            kappa, data = self.kappa(x, t), torch.stack([expert(x, t) for expert in self.experts], 1).flatten(2)
            centred = data - _mixed(kappa, data)[:, None]
            inner = _mixed(kappa, torch.stack([one(x, t) for one in within], 1))
            return inner + torch.einsum("ni,nia,nib->nab", kappa, centred, centred)

        return covariance


def _mixed(kappa: Tensor, values: Tensor) -> Tensor:
    """Σ_i κ_i v_i along the second axis."""
    return (_like(kappa, values) * values).sum(1)


def _like(kappa: Tensor, values: Tensor) -> Tensor:
    """κ (n, experts) shaped like values (n, experts, ...), in their dtype."""
    return kappa.to(values.dtype).reshape(*kappa.shape, *[1] * (values.ndim - 2))


@dataclass(frozen=True)
class OrModel:
    """Any of several experts, as a Feynman–Kac model without weights: the chain of their mixture.

        q = Σ_i ω_i q_i,   κ = softmax_i(log ω_i + log q_i),   x_b ~ ancestral step with D = Σ_i κ_i D_i
        log q_i ← log q_i + log p_rev,i(y_b | y_a) − log p_fwd(y_a | y_b)       (`ItoDensity`, form "ratio")

    State: "x", and "log_q" of y = x/α, (n, experts). The last move goes to x₁ = Σ_i κ_i D_i. Potentials are 0.

    Target: Σ_i ω_i q_i.
    Exactness: as steps → ∞; κ is exact up to the recorder, O(N^{−1/2}) per path or better.
    Cost: one call of each expert per level.
    Bias: O(1/N); the base density of an expert without `log_prob` is taken for N(0, σ²), the same for all.
    Args:
        experts: denoisers of one schedule and shape.
        levels: increasing times with α > 0 and σ > 0.
        weights: ω_i > 0, in any scale; none are equal weights.
        tile: rows per expert call.
        like: dtype and device of the state.
    Raises:
        InputError: experts that do not belong together, or levels beyond α > 0 and σ > 0.
    Source: Skreta et al. (2025), The superposition of diffusion models using the Itô density estimator, algorithm 1;
        without its temperature, which would have no mixture for its law.
    """

    experts: tuple[Denoiser, ...]
    levels: tuple[float, ...]
    weights: tuple[float, ...] = ()
    tile: int = 1024
    like: Tensor = field(default_factory=lambda: torch.empty(0))

    def __post_init__(self) -> None:
        aligned(self.experts, self.weights)
        finite_levels(self.experts[0].schedule, self.levels)

    @property
    def n_steps(self) -> int:
        """One move to each further level, and one to the data."""
        return len(self.levels)

    def initial(self, n: int, stream: Stream) -> tuple[State, Tensor]:
        return started(self.experts, aligned(self.experts, self.weights), self.levels[0], n, stream, self.like)

    def kappa(self, state: State) -> Tensor:
        """κ, the probability of each expert given the path, shape (n, experts)."""
        return (aligned(self.experts, self.weights).to(state["log_q"].device) + state["log_q"]).softmax(1)

    def step(self, k: int, state: State, stream: Stream) -> tuple[State, Tensor]:
        x, a, log_q = state["x"], self.levels[k], state["log_q"]
        data = torch.stack([Tiled(expert, self.tile)(x, a) for expert in self.experts], 1)
        mixed, weightless = _mixed(self.kappa(state), data), torch.zeros_like(log_q[:, 0])
        if k == self.n_steps - 1:
            return {"x": mixed, "log_q": log_q}, weightless
        b, schedule = self.levels[k + 1], self.experts[0].schedule
        mean, s = transition(self.experts[0], x, mixed, a, b)
        after = mean + s * stream.child("noise").normal(len(x), x.shape[1:], dtype=x.dtype, device=x.device)
        (alpha_a, u_a), (alpha_b, u_b) = ratio(schedule, a), ratio(schedule, b)
        moved = (after.double() / alpha_b - x.double() / alpha_a).flatten(1)[:, None]
        score = scores(data, x.double() / alpha_a, u_a)
        return {"x": after, "log_q": log_q + log_change("ratio", moved, score, u_a, u_b)}, weightless


def finite_levels(schedule: Schedule, levels: Sequence[float]) -> None:
    """Refuse levels where y = x/α or its score is infinite."""
    for t in levels:
        alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
        if not (alpha > 0 and sigma > 0):
            raise InputError(
                f"composition needs α > 0 and σ > 0 at every level, got α = {alpha:g} and σ = {sigma:g} at t = {t:g}. "
                "Start the grid later, and end it before the data, which the last move reaches on its own."
            )


def ratio(schedule: Schedule, t: float) -> tuple[float, float]:
    """α and u = σ/α."""
    alpha = float(schedule.alpha(t))
    return alpha, float(schedule.sigma(t)) / alpha


def scores(data: Tensor, y: Tensor, u: float) -> Tensor:
    """∇ log q_i(y) = (D_i − y)/u², shape (n, experts, d), float64."""
    return (data.double().flatten(2) - y.flatten(1)[:, None]) / u**2


def started(
    experts: Sequence[Denoiser], log_weights: Tensor, t: float, n: int, stream: Stream, like: Tensor
) -> tuple[State, Tensor]:
    """Draws at the noisy end, with the log-density of y = x/α under each expert up to a constant that all share."""
    x = _start(experts, log_weights, t, n, stream, like.dtype).to(like.device)
    log_q = torch.stack([log_base(expert, t)(x).double() for expert in experts], 1)
    return {"x": x, "log_q": log_q}, torch.zeros_like(log_q[:, 0])
