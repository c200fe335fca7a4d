"""From a denoiser to a dynamics: the probability flow and the reverse SDE, with their exactly solvable frames.

In a frame the state divided by a scale obeys dz/dq = F, with F one view of the denoiser:

    frame      scale          clock q            F = dz/dq                  constant F means
    noise      α              u = σ/α            E[x₀|x]                    DDIM
    data       σ              1/u = α/σ          E[x₁|x]                    DDIM
    velocity   r = √(α²+σ²)   θ = arctan(σ/α)    (α/r) E[x₀|x] − (σ/r) E[x₁|x]   rotation at constant speed

A polynomial for F needs a variable; it may be λ = log(α/σ), u, θ or t, and its choice names the method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser, velocity
from sciflow.diffusion.schedule import Schedule
from sciflow.solvers.dynamics import Equation, lagrange, quadrature

Frame = Literal["noise", "data", "velocity"]
NodeVariable = Literal["log_snr", "ratio", "angle", "time"]
FRAMES: tuple[Frame, ...] = ("noise", "data", "velocity")
DEFAULT_NODES: dict[Frame, NodeVariable] = {"noise": "log_snr", "data": "log_snr", "velocity": "angle"}


def _levels(schedule: Schedule, t: float) -> tuple[float, float]:
    return float(schedule.alpha(t)), float(schedule.sigma(t))


@dataclass(frozen=True)
class FrameSplit:
    """The split of the probability flow in one frame.

        x_b = (s_b/s_a) x_a + s_b ∫_{q_a}^{q_b} F dq,   W_j = s_b ∫ ℓ_j(c(q)) dq

    with s the scale of the frame and ℓ_j the Lagrange basis in the node variable c. Weights are Gauss–Legendre
    integrals over c, in float64; with a single node they have a closed form that holds at σ = 0 and α = 0 too.

    Args:
        denoiser: the model.
        frame: "noise", "data" or "velocity".
        nodes: variable of the polynomial: "log_snr" λ, "ratio" u, "angle" θ or "time" t.
    Source: Zhang and Chen (2023), DEIS; Lu et al. (2022), DPM-Solver++; the common form is derived in docs/concepts.
    """

    denoiser: Denoiser
    frame: Frame
    nodes: NodeVariable

    def _scale(self, t: float) -> float:
        alpha, sigma = _levels(self.denoiser.schedule, t)
        return {"noise": alpha, "data": sigma, "velocity": math.hypot(alpha, sigma)}[self.frame]

    def propagator(self, a: float, b: float) -> float:
        scale = self._scale(a)
        if scale == 0.0:
            raise ValueError(
                f"the {self.frame} frame has no solution from t = {a:g}, where its scale "
                f"{'α' if self.frame == 'noise' else 'σ'} is 0. Start the grid later, or use the velocity frame."
            )
        return self._scale(b) / scale

    def _whole(self, a: float, b: float) -> float:
        """s_b (q_b − q_a), the weight of a constant F, free of 0 · ∞."""
        (alpha_a, sigma_a), (alpha_b, sigma_b) = (_levels(self.denoiser.schedule, t) for t in (a, b))
        if self.frame == "noise":
            return sigma_b - alpha_b * sigma_a / alpha_a
        if self.frame == "data":
            return alpha_b - sigma_b * alpha_a / sigma_a
        return math.hypot(alpha_b, sigma_b) * (math.atan2(sigma_b, alpha_b) - math.atan2(sigma_a, alpha_a))

    def weights(self, a: float, b: float, nodes: Sequence[float]) -> list[float]:
        integrals = [self._whole(a, b)] if len(nodes) == 1 else self._integrals(a, b, nodes)
        return [w * self._normalisation(t) for w, t in zip(integrals, nodes, strict=True)]

    def _integrals(self, a: float, b: float, nodes: Sequence[float]) -> list[float]:
        variable = np.array([self._variable(t) for t in (a, b, *nodes)])
        if not np.isfinite(variable).all():
            raise ValueError(
                f"the node variable {self.nodes!r} is infinite on the step from t = {a:g} to {b:g}. "
                "End the grid before σ = 0 and start it after α = 0, use order 1 there, or nodes in 'angle'."
            )
        start, stop = variable[:2]
        points, weights = quadrature(start, stop)
        kernel = self._scale(b) * self._clock_rate(points)
        return [float(w) for w in lagrange(variable[2:].tolist(), points) @ (weights * kernel)]

    def _variable(self, t: float) -> float:
        alpha, sigma = _levels(self.denoiser.schedule, t)
        if self.nodes == "time":
            return t
        if self.nodes == "angle":
            return math.atan2(sigma, alpha)
        if self.nodes == "ratio":
            return sigma / alpha if alpha > 0 else math.inf
        return math.log(alpha / sigma) if alpha > 0 and sigma > 0 else math.inf

    def _clock_rate(self, c: np.ndarray) -> np.ndarray:
        """dq/dc at values c of the node variable."""
        if self.nodes == "angle":
            return {"noise": 1 / np.cos(c) ** 2, "data": -1 / np.sin(c) ** 2, "velocity": np.ones_like(c)}[self.frame]
        if self.nodes == "ratio":
            return {"noise": np.ones_like(c), "data": -1 / c**2, "velocity": 1 / (1 + c**2)}[self.frame]
        if self.nodes == "log_snr":
            log_snr, chain = c, np.ones_like(c)
        else:
            t, schedule = torch.from_numpy(c), self.denoiser.schedule
            log_snr = schedule.log_snr(t).numpy()
            chain = (schedule.alpha_rate(t) / schedule.alpha(t) - schedule.sigma_rate(t) / schedule.sigma(t)).numpy()
        rate = {"noise": -np.exp(-log_snr), "data": np.exp(log_snr), "velocity": -0.5 / np.cosh(log_snr)}
        return rate[self.frame] * chain

    def _normalisation(self, t: float) -> float:
        """F/G at a node: `remainder` returns G, which needs one pass over the state, not three."""
        alpha, sigma = _levels(self.denoiser.schedule, t)
        if self.frame == "data":
            return 1.0
        if self.frame == "noise":
            return 1 / sigma
        return -math.hypot(alpha, sigma) / sigma

    def remainder(self, t: float, x: Tensor) -> Tensor:
        """G = D (data), x − α D = σ F (noise), D − α x/r² = −(σ/r) F (velocity)."""
        data = self.denoiser(x, t)
        alpha, sigma = _levels(self.denoiser.schedule, t)
        if self.frame == "noise":
            return torch.sub(x, data, alpha=alpha)
        if self.frame == "velocity":
            return torch.sub(data, x, alpha=alpha / (alpha**2 + sigma**2))
        return data.clone() if data.data_ptr() == x.data_ptr() else data


def frames(denoiser: Denoiser, nodes: NodeVariable | None = None) -> dict[str, FrameSplit]:
    """The three frames of a denoiser, each with its usual node variable unless `nodes` is given."""
    return {frame: FrameSplit(denoiser, frame, nodes or DEFAULT_NODES[frame]) for frame in FRAMES}


def probability_flow(denoiser: Denoiser, nodes: NodeVariable | None = None) -> Equation:
    """The ODE whose solution has the law p_t at every t.

        dx/dt = α̇ D + σ̇ (x − α D)/σ

    Args:
        denoiser: the model; its schedule names the noise levels.
        nodes: variable of the polynomials of multistep methods; None is λ (noise, data) or θ (velocity).
    Source: Song et al. (2021), eq. 13; Albergo et al. (2023), eq. 2.10.
    """
    return Equation(drift=lambda t, x: velocity(denoiser, x, t), splits=frames(denoiser, nodes))


def reverse_sde(denoiser: Denoiser, noise_level: float = 1.0) -> Equation:
    """The SDE with the same laws p_t and any amount of noise.

        dx = (v + V²/2 ∇ log p_t) dt + V dW,   V = noise_level · g,   g² = 2σ²(α̇/α − σ̇/σ)

    Args:
        denoiser: the model.
        noise_level: 0 is the probability flow, 1 the time reversal of the noising process [dimensionless].
    Raises:
        ValueError: negative noise level.
    Source: Karras et al. (2022), eq. 6; Song et al. (2021), eq. 6 for noise_level = 1.
    """
    if noise_level < 0:
        raise ValueError(f"noise_level must be ≥ 0, got {noise_level}.")
    schedule = denoiser.schedule

    def squared(t: float) -> float:
        alpha, sigma, rates = *_levels(schedule, t), (float(schedule.alpha_rate(t)), float(schedule.sigma_rate(t)))
        return 2 * sigma * (sigma * rates[0] / alpha - rates[1])

    def drift(t: float, x: Tensor) -> Tensor:
        alpha, sigma = _levels(schedule, t)
        data = denoiser(x, t)
        rates = float(schedule.alpha_rate(t)), float(schedule.sigma_rate(t))
        langevin = 0.5 * noise_level**2 * squared(t) / sigma**2  # multiplies α D − x
        return (rates[0] - alpha * rates[1] / sigma + alpha * langevin) * data + (rates[1] / sigma - langevin) * x

    return Equation(drift, lambda t, x: noise_level * math.sqrt(squared(t)), "scalar" if noise_level else "none")


def transition(
    denoiser: Denoiser, x: Tensor, data: Tensor, a: float, b: float, eta: float = 1.0
) -> tuple[Tensor, float]:
    """Mean and standard deviation of the ancestral step from a to b, given D(x, a).

        x_b ~ N(α_b D + σ_b √(1 − η²ζ) (x − α_a D)/σ_a,  σ_b² η² ζ I),   ζ = 1 − (α_a σ_b / α_b σ_a)²

    η = 1 is the time reversal of the noising kernel with x₁ replaced by its mean; η = 0 is DDIM.

    Source: Song et al. (2021), Denoising diffusion implicit models, eqs. 12 and 16.
    """
    (alpha_a, sigma_a), (alpha_b, sigma_b) = _levels(denoiser.schedule, a), _levels(denoiser.schedule, b)
    zeta = eta**2 * (1 - (alpha_a * sigma_b / (alpha_b * sigma_a)) ** 2)
    kept = sigma_b * math.sqrt(1 - zeta) / sigma_a
    return kept * x + (alpha_b - kept * alpha_a) * data, sigma_b * math.sqrt(zeta)
