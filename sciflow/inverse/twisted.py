"""Twisted SMC as a Feynman–Kac model: the prior's own chain, looking ahead to the observation.

    reference   p(x_b | x_a), from noise to data, then p(x₁ | x_K)
    twist       h_k(x) ≈ p(y | x_k = x)
    proposal    m(x_b | x_a), the reference moved towards y
    potential   h_{k+1}(x_b)/h_k(x_a) · p(x_b | x_a)/m(x_b | x_a);   h of the data is the likelihood itself

The potentials telescope, so the weighted particles have the law  (discretised prior) × (true likelihood)  whatever the
twist and the proposal: these only decide how many particles that takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.flow import transition
from sciflow.inverse.belief import Belief
from sciflow.inverse.likelihood import GaussianLikelihood
from sciflow.particles.feynman_kac import State
from sciflow.random import Stream


@dataclass(frozen=True)
class TwistedModel:
    """The Feynman–Kac model of a diffusion prior and one observation.

    From a to b, with ζ = 1 − (α_a σ_b/α_b σ_a)², the noising process given x₁ moves by

        x_b = √(1 − ζ) (σ_b/σ_a) x_a + α_b ζ x₁ + σ_b √ζ z

    and the belief about x₁ at x_a makes reference and proposal of it. Beliefs are carried along, so that each level
    costs one denoiser call.

    Args:
        prior: denoiser.
        likelihood: bound to the prior's shape.
        belief: what is believed about x₁ at each state.
        levels: increasing times with σ > 0.
        tile: rows per denoiser call.
    Source: Wu et al. (2023), Practical and asymptotically exact conditional sampling in diffusion models.
    """

    prior: Denoiser
    likelihood: GaussianLikelihood
    belief: Belief
    levels: tuple[float, ...]
    tile: int = 1024

    @property
    def n_steps(self) -> int:
        """One move to each further level, and one to the data."""
        return len(self.levels)

    def initial(self, n: int, stream: Stream) -> tuple[State, Tensor]:
        """The prior's law of x_0, weighted by the first twist."""
        observation = self.likelihood.observation
        x = self.prior.initial(self.levels[0], n, stream.child("x"), observation.dtype).to(observation.device)
        state = self._look(x, self.levels[0], stream)
        return state, state["log_twist"]

    def step(self, k: int, state: State, stream: Stream) -> tuple[State, Tensor]:
        x, a = state["x"], self.levels[k]
        noise = _normal(x, stream.child("noise")).flatten(1)
        if k == self.n_steps - 1:
            x1, log_ratio = self.belief.conclude(state, noise)
            return {"x": x1.reshape(x.shape)}, log_ratio
        b, schedule = self.levels[k + 1], self.prior.schedule
        mean, s = transition(self.prior, x.flatten(1), state["data"], a, b)
        zeta = (s / float(schedule.sigma(b))) ** 2
        deviation, log_ratio = self.belief.propose(state, s, float(schedule.alpha(b)) * zeta, noise)
        ahead = self._look((mean + deviation).reshape(x.shape), b, stream)
        return ahead, ahead["log_twist"] - state["log_twist"] + log_ratio

    def _look(self, x: Tensor, t: float, stream: Stream) -> State:
        """The belief at x, tile by tile."""
        tiles = zip(x.split(self.tile), _normal(x, stream.child("probe")).split(self.tile), strict=True)
        seen = [self.belief.look(rows, t, probe) for rows, probe in tiles]
        return {"x": x, **{name: torch.cat([tile[name] for tile in seen]) for name in seen[0]}}


def _normal(x: Tensor, stream: Stream) -> Tensor:
    return stream.normal(len(x), x.shape[1:], dtype=x.dtype, device=x.device)
