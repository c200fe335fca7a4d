"""A guide of any twist: ancestral kernels, proposals with or without gradients, and the reward that ends the chain.

reference         m = p
gradient          m = p moved by k (σ_a²/α_a) ∇ log h, the move that D + (σ²/α) ∇ log h in place of D makes;
                  s² ∇ log h to first order in the step
Doob              m = p moved by an estimate of s² ∇ log E_p[h], from rewards alone
a given kernel    any function that draws and weighs
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.schedule import Schedule
from sciflow.errors import InputError
from sciflow.particles.feynman_kac import State
from sciflow.random import Stream
from sciflow.steering.reward import Reward
from sciflow.steering.twisted import Move, Twist, normal

LARGEST_RATIO = 1e6
"""σ/α beyond which ∇ log h, which falls as α, is all rounding: the move counts as if the ratio were this."""


class Kernel(Protocol):
    """A proposal beside the reference p = N(mean, s² I)."""

    def __call__(self, state: State, move: Move, stream: Stream) -> tuple[Tensor, Tensor]:
        """A draw of m, (n, d), and log p − log m, (n,). `state["force"]` is ∇ log h, (n, d), where it was asked for."""
        ...


@dataclass(frozen=True)
class Shifted:
    """N(mean + shift, s² I), for any shift that does not look at the noise drawn here.

        log p − log m = −j·(z + j/2),   j = shift/s

    Args:
        shift: (state, move, stream) → (n, d); it may be random.
    """

    shift: Callable[[State, Move, Stream], Tensor]

    def __call__(self, state: State, move: Move, stream: Stream) -> tuple[Tensor, Tensor]:
        noise = normal(state["x"], stream.child("noise"))
        jump = self.shift(state, move, stream.child("shift")) / move.s
        return move.mean + move.s * (jump + noise), -(jump * (noise + 0.5 * jump)).double().sum(1)


def reference(state: State, move: Move, stream: Stream) -> tuple[Tensor, Tensor]:
    """The reference itself."""
    x = move.mean + move.s * normal(state["x"], stream.child("noise"))
    return x, torch.zeros(len(x), dtype=torch.float64, device=x.device)


def gradient(schedule: Schedule) -> Shifted:
    """The gradient proposal under the noise levels of `schedule`."""

    def shift(state: State, move: Move, stream: Stream) -> Tensor:
        alpha, sigma = float(schedule.alpha(move.a)), float(schedule.sigma(move.a))
        return (move.pull * sigma**2 / max(alpha, sigma / LARGEST_RATIO)) * state["force"]

    return Shifted(shift)


def doob(schedule: Schedule, reward: Reward, n_looks: int, variance: float | None = None) -> Shifted:
    """A shift towards the reward that needs no gradient of it, by Gaussian integration by parts.

        s² ∇ log E_z[h(mean + s z)] ≈ s Σ_m (w_m − 1/M) z_m,   w = softmax of log h,   z_m standard normal

    1/M takes the noise of the z_m away where the reward does not tell them apart. h is the reward at D + g s z_m, where
    the denoised state goes if the noise stays: no network call.

    Args:
        schedule: noise levels.
        reward: log h of the data.
        n_looks: number of z_m.
        variance: v of isotropic data, g = 1/(α + σ²/α v); None freezes the noise, g = 1/α.
    Source: after DOIT (2026), Doob's h-transform by rollouts; the estimate is Stein's (1981) lemma.
    """

    def shift(state: State, move: Move, stream: Stream) -> Tensor:
        x, data = state["x"], state["data"]
        shape, (n, d) = x.shape[1:], data.shape
        z = stream.normal(n, (n_looks, d), dtype=x.dtype, device=x.device)
        alpha, sigma = float(schedule.alpha(move.b)), float(schedule.sigma(move.b))
        gain = 1 / (alpha + (0.0 if variance is None else sigma**2 / (alpha * variance)))
        ends = data[:, None] + gain * move.s * z
        values = reward(ends.reshape(n * n_looks, *shape)).double().reshape(n, n_looks)
        return move.s * torch.einsum("nm,nmd->nd", (values.softmax(1) - 1 / n_looks).to(x.dtype), z)

    return Shifted(shift)


@dataclass(frozen=True)
class Steered:
    """The guide of any twist, any proposal and any reward, with the ancestral chain of the prior.

    Exactness: exact for the chain that takes x₁ = D(x_K) at its end.
    Cost: one denoiser call per look; one backward pass with `with_force`.
    Bias: the ancestral chain ends too narrow by O(step).
    Args:
        prior: denoiser.
        reward: log G of the data.
        twist: log h.
        kernel: proposal.
        with_force: differentiate log h, through the denoiser.
    Raises:
        InputError: a twist that cannot be differentiated where its gradient is asked for, or not one value per state.
    Source: Wu et al. (2023), TDS, algorithm 1; Ho et al. (2020), DDPM, for the chain.
    """

    prior: Denoiser
    reward: Reward
    twist: Twist
    kernel: Kernel = reference
    with_force: bool = False

    def look(self, x: Tensor, t: float, stream: Stream) -> State:
        if not self.with_force:
            data = self.prior(x, t)
            return {"data": data.flatten(1), "log_twist": self._checked(self.twist(x, t, data), x)}
        with torch.inference_mode(False), torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            data = self.prior(leaf, t)
            log_twist = self._checked(self.twist(leaf, t, data), x)
            if not log_twist.requires_grad:
                raise InputError(
                    "the twist carries no gradient, and the proposal needs one. Take a differentiable reward, or a "
                    "proposal that looks at values alone (fk_steering, doit, svdd)."
                )
            (force,) = torch.autograd.grad(log_twist.sum(), leaf)
        alive = (log_twist.detach() > -math.inf)[:, None]  # a weightless particle follows the reference
        force = torch.where(alive, force.flatten(1), 0)
        return {"data": data.detach().flatten(1), "log_twist": log_twist.detach(), "force": force}

    def propose(self, state: State, move: Move, stream: Stream) -> tuple[Tensor, Tensor]:
        return self.kernel(state, move, stream)

    def conclude(self, state: State, stream: Stream) -> tuple[Tensor, Tensor]:
        """x₁ = D: the discretised prior is the law of D at the end of the chain."""
        x1 = state["data"].reshape(state["x"].shape)
        return state["data"], self._checked(self.reward(x1), x1) - state["log_twist"]

    def _checked(self, values: Tensor, x: Tensor) -> Tensor:
        if values.shape != (len(x),):
            raise InputError(f"a reward of {len(x)} states must have shape ({len(x)},), got {tuple(values.shape)}.")
        return values.double()


def denoised(reward: Reward) -> Twist:
    """The reward where the data are expected, h_t(x) = G(D(x, t)): no account of how far they may lie from there."""
    return lambda x, t, data: reward(data)
