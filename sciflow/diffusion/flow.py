"""From a denoiser to a dynamics: the probability flow and the reverse SDE, with their exactly solvable frames.

In a frame the state divided by a scale obeys dz/dq = F, with F one view of the denoiser:

    frame      scale          clock q            F = dz/dq                  constant F means
    noise      α              u = σ/α            E[x₀|x]                    DDIM
    data       σ              1/u = α/σ          E[x₁|x]                    DDIM
    velocity   r = √(α²+σ²)   θ = arctan(σ/α)    (α/r) E[x₀|x] − (σ/r) E[x₁|x]   rotation at constant speed

A polynomial for F needs a variable; it may be λ = log(α/σ), u, θ or t, and its choice names the method. The velocity
frame can be that of data of another width w, x₁ = w (x₁/w): α becomes w α. It is exact for data N(0, w² I).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser, velocity
from sciflow.diffusion.schedule import Schedule, is_value
from sciflow.solvers.dynamics import Equation, Split, lagrange, quadrature
from sciflow.types import Time

Frame = Literal["noise", "data", "velocity"]
NodeVariable = Literal["log_snr", "ratio", "angle", "time"]
Level = float | np.ndarray
FRAMES: tuple[Frame, ...] = ("noise", "data", "velocity")
DEFAULT_NODES: dict[Frame, NodeVariable] = {"noise": "log_snr", "data": "log_snr", "velocity": "angle"}


def _levels(schedule: Schedule, t: float) -> tuple[float, float]:
    return float(schedule.alpha(t)), float(schedule.sigma(t))


@dataclass(frozen=True)
class _Levels:
    """What is left of a denoiser without the model."""

    schedule: Schedule


@dataclass(frozen=True)
class FrameSplit:
    """The split of the probability flow in one frame.

        x_b = (s_b/s_a) x_a + s_b ∫_{q_a}^{q_b} F dq,   W_j = s_b ∫ ℓ_j(c(q)) dq

    with s the scale of the frame and ℓ_j the Lagrange basis in the node variable c. Weights are Gauss–Legendre
    integrals over c, in float64; with a single node they have a closed form that holds at σ = 0 and α = 0 too.

    With noise level η the equation is `reverse_sde(denoiser, η)`, whose linear part and noise are solved exactly:

        frame   scale s          clock q           standard deviation of the noise of a step
        noise   α                (1 + η²) u        η α_b √(u_a² − u_b²)
        data    σ (σ/α)^{η²}     (α/σ)^{1 + η²}    σ_b √(1 − e^{−2η²(λ_b − λ_a)})

    Args:
        denoiser: the model.
        frame: "noise", "data" or "velocity".
        nodes: variable of the polynomial: "log_snr" λ, "ratio" u, "angle" θ or "time" t.
        eta: η, amount of noise; 0 is the probability flow, 1 the time reversal of the noising process [dimensionless].
        width: w of the velocity frame; see `narrowed` [data units].
        known: (α, σ) at times where they are known already; see `tabulate`.
        grid: the same as arrays of times, α and σ, in increasing order of time.
    Source: Zhang and Chen (2023), DEIS; Lu et al. (2022), DPM-Solver++; the common form is derived in docs/concepts.
    """

    denoiser: Denoiser
    frame: Frame
    nodes: NodeVariable
    eta: float = 0.0
    width: float = 1.0
    known: Mapping[float, tuple[float, float]] = field(default_factory=dict, repr=False, compare=False)
    grid: tuple[np.ndarray, ...] | None = field(default=None, repr=False, compare=False)

    def tabulate(self, times: Sequence[float]) -> FrameSplit:
        """The same split with α and σ at these times in a table: two calls of the schedule instead of two per use."""
        grid, schedule = torch.tensor(times, dtype=torch.float64), self.denoiser.schedule
        levels = schedule.alpha(grid), schedule.sigma(grid)
        known = dict(zip(times, zip(*(level.tolist() for level in levels), strict=True), strict=True))
        return replace(self, known=known, grid=tuple(array.numpy() for array in (grid, *levels)))

    def alone(self) -> FrameSplit | None:
        """The split of the schedule without the model, from which all coefficients follow, to be a key of plans.

        None where the schedule may change under the same name.
        """
        schedule = self.denoiser.schedule
        return replace(self, denoiser=cast(Denoiser, _Levels(schedule))) if is_value(schedule) else None

    def of(self, other: Split) -> FrameSplit:
        """The split of the model of another, with the tables of this one."""
        return replace(self, denoiser=cast(FrameSplit, other).denoiser)

    def noisy(self, eta: float) -> FrameSplit:
        """The split of the reverse SDE of noise level η.

        Raises:
            ValueError: the velocity frame, where no linear part takes up the noise.
        """
        if eta and self.frame == "velocity":
            raise ValueError(
                f"the velocity frame has no noise, got eta = {eta:g}. Use the frame 'data' or 'noise', or eta = 0."
            )
        return replace(self, eta=eta)

    def spread(self, a: float, b: float) -> float:
        """The standard deviation of the noise of a step, integrated exactly: 0 at η = 0."""
        if not self.eta:
            return 0.0
        (alpha_a, sigma_a), (alpha_b, sigma_b) = self.levels(a), self.levels(b)
        if self.frame == "noise":
            before = sigma_a * alpha_b / alpha_a
            return self.eta * math.sqrt((before - sigma_b) * (before + sigma_b))
        shrink = alpha_a * sigma_b / (alpha_b * sigma_a)  # e^{−h}
        return sigma_b * (math.sqrt(-math.expm1(2 * self.eta**2 * math.log(shrink))) if shrink else 1.0)

    def narrowed(self, width: float) -> FrameSplit:
        """The velocity frame of data whose standard deviation is `width` times what the schedule is written for."""
        return replace(
            self, frame="velocity", nodes="log_snr", width=width * getattr(self.denoiser.schedule, "std", 1.0)
        )

    def levels(self, t: float) -> tuple[float, float]:
        """α and σ, in float64."""
        return self.known.get(t) or _levels(self.denoiser.schedule, t)

    def row_levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """α and σ at one time per row, in the precision of t."""
        return self.denoiser.schedule.alpha(t), self.denoiser.schedule.sigma(t)

    def time(self, log_snr: Time) -> Time:
        """The time with this λ = log(α/σ); for a tensor, the times of each of its numbers."""
        found = self.denoiser.schedule.time(log_snr)
        return found if isinstance(log_snr, Tensor) else float(found)

    def between(self, a: float, b: float, fraction: float) -> float:
        """The time at a fraction of the step in the node variable, or in θ where that is infinite."""
        if self.nodes == "time":
            return a + fraction * (b - a)
        levels = np.array([self._own(a), self._own(b)])
        nodes, c = self.nodes, self._variable(np.array([a, b]), *levels.T)
        if not np.isfinite(c).all():
            nodes, c = "angle", np.arctan2(*levels.T[::-1])
        inside = float(c[0] + fraction * (c[1] - c[0]))
        log_snr = inside if nodes == "log_snr" else -math.log(inside if nodes == "ratio" else math.tan(inside))
        return float(self.denoiser.schedule.time(log_snr - math.log(self.width)))

    def _own(self, t: float) -> tuple[float, float]:
        """w α and σ: the levels of x₁/w."""
        alpha, sigma = self.levels(t)
        return self.width * alpha, sigma

    def _own_levels(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same at an array of times, looked up in one go where all of them are known."""
        if self.grid is not None:
            times, alpha, sigma = self.grid
            place = np.minimum(times.searchsorted(t), len(times) - 1)
            if (times[place] == t).all():
                return self.width * alpha[place], sigma[place]
        own = np.array([self._own(time) for time in t.ravel().tolist()])
        return own[:, 0].reshape(t.shape), own[:, 1].reshape(t.shape)

    def _scale(self, alpha: Level, sigma: Level) -> Level:
        return alpha if self.frame == "noise" else sigma if self.frame == "data" else np.hypot(alpha, sigma)

    def propagator(self, a: float, b: float) -> float:
        scale = self._scale(*self._own(a))
        if scale == 0.0:
            raise ValueError(
                f"the {self.frame} frame has no solution from t = {a:g}, where its scale "
                f"{'α' if self.frame == 'noise' else 'σ'} is 0. Start the grid later, or use the velocity frame."
            )
        ratio = self._scale(*self._own(b)) / scale
        return float(ratio * self._damping(*self.levels(a), *self.levels(b)) if self.eta else ratio)

    def _damping(self, alpha_a: Level, sigma_a: Level, alpha_b: Level, sigma_b: Level) -> Level:
        """What noise does to the propagator: e^{−η²(λ_b − λ_a)} in the data frame."""
        return (alpha_a * sigma_b / (alpha_b * sigma_a)) ** self.eta**2 if self.frame == "data" else 1.0

    def weights(self, a: float, b: float, nodes: Sequence[float]) -> list[float]:
        return self.table([(a, b, *nodes)])[0]

    def table(self, windows: Sequence[tuple[float, ...]]) -> list[list[float]]:
        """The weights of many steps (a, b, *nodes) with equally many nodes, in one go over arrays."""
        t = np.array(windows)
        alpha, sigma = self._own_levels(t)
        whole = t.shape[1] == 3  # one node: the integral of a constant
        integrals = self._whole(alpha, sigma) if whole else self._integrals(t, alpha, sigma)
        return (integrals * self._normalisation(alpha[:, 2:], sigma[:, 2:])).tolist()

    def _whole(self, alpha: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        """s_b (q_b − q_a), the weight of a constant F, free of 0 · ∞; shape (steps, 1)."""
        (alpha_a, alpha_b), (sigma_a, sigma_b) = alpha.T[:2, :, None], sigma.T[:2, :, None]
        if self.frame == "noise":
            return (sigma_b - alpha_b * sigma_a / alpha_a) * (1 + self.eta**2)
        if self.frame == "data":
            kept = sigma_b * alpha_a / sigma_a
            return alpha_b - (kept * self._damping(alpha_a, sigma_a, alpha_b, sigma_b) if self.eta else kept)
        return np.hypot(alpha_b, sigma_b) * (np.arctan2(sigma_b, alpha_b) - np.arctan2(sigma_a, alpha_a))

    def _integrals(self, t: np.ndarray, alpha: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        """s_b ∫ ℓ_j dq for each step and node, shape (steps, nodes)."""
        variable = self._variable(t, alpha, sigma)
        if not np.isfinite(variable).all():
            a, b, *_ = t[~np.isfinite(variable).all(1)][0]
            raise ValueError(
                f"the node variable {self.nodes!r} is infinite on the step from t = {a:g} to {b:g}. "
                "End the grid before σ = 0 and start it after α = 0, or use order 1 there (final: first), or nodes in "
                "'angle'."
            )
        points, weights = quadrature(variable[:, :1], variable[:, 1:2])
        basis = lagrange(variable.T[2:, :, None], points)
        rate = self._clock_rate(points) * (self._gain(points, variable[:, 1:2]) if self.eta else 1.0)
        integrals = (basis * (weights * rate)).sum(-1).T
        return integrals * self._scale(alpha[:, 1:2], sigma[:, 1:2])

    def _gain(self, c: np.ndarray, c_b: np.ndarray) -> Level:
        """What noise does to s_b dq/dc: 1 + η², and e^{−η²(λ_b − λ)} in the data frame."""
        gain = 1 + self.eta**2
        return gain * np.exp(self.eta**2 * (self._log_snr(c) - self._log_snr(c_b))) if self.frame == "data" else gain

    def _log_snr(self, c: np.ndarray) -> np.ndarray:
        """λ at values c of the node variable."""
        if self.nodes == "time":
            return self.denoiser.schedule.log_snr(torch.from_numpy(c)).numpy() + math.log(self.width)
        return c if self.nodes == "log_snr" else -np.log(c if self.nodes == "ratio" else np.tan(c))

    def _variable(self, t: np.ndarray, alpha: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        """c at times t; infinite where it is not defined."""
        if self.nodes == "time":
            return t
        if self.nodes == "angle":
            return np.arctan2(sigma, alpha)
        with np.errstate(divide="ignore"):
            return sigma / alpha if self.nodes == "ratio" else np.log(alpha / sigma)

    def _clock_rate(self, c: np.ndarray) -> np.ndarray:
        """dq/dc at values c of the node variable."""
        if self.nodes == "angle":
            return {"noise": 1 / np.cos(c) ** 2, "data": -1 / np.sin(c) ** 2, "velocity": np.ones_like(c)}[self.frame]
        if self.nodes == "ratio":
            return {"noise": np.ones_like(c), "data": -1 / c**2, "velocity": 1 / (1 + c**2)}[self.frame]
        if self.nodes == "log_snr":
            return self._log_snr_rate(c)
        t, schedule = torch.from_numpy(c), self.denoiser.schedule
        chain = schedule.alpha_rate(t) / schedule.alpha(t) - schedule.sigma_rate(t) / schedule.sigma(t)
        return self._log_snr_rate(self._log_snr(c)) * chain.numpy()

    def _log_snr_rate(self, log_snr: np.ndarray) -> np.ndarray:
        """dq/dλ."""
        if self.frame == "velocity":
            return -0.5 / np.cosh(log_snr)
        return -np.exp(-log_snr) if self.frame == "noise" else np.exp(log_snr)

    def _normalisation(self, alpha: Level, sigma: Level) -> Level:
        """F/G at a node: `remainder` returns G, which needs one pass over the state, not three."""
        if self.frame == "data":
            return 1.0
        return 1 / sigma if self.frame == "noise" else -np.hypot(alpha, sigma) / (self.width * sigma)

    def remainder(self, t: float, x: Tensor) -> Tensor:
        """G = D (data), x − α D = σ F (noise), D − w² α x/r² = −w (σ/r) F (velocity)."""
        data = self.denoiser(x, t)
        if self.frame == "data":
            # a denoiser may answer with the state itself; a compiler cannot tell, and leaves out what is not needed
            return data.clone() if torch.compiler.is_compiling() or data.data_ptr() == x.data_ptr() else data
        if self.frame == "noise":
            return torch.sub(x, data, alpha=self.levels(t)[0])
        return torch.sub(data, x, alpha=self.share(t))

    def share(self, t: float) -> float:
        """w² α/r²: what of x a denoiser of data N(0, w² I) answers, and the velocity frame leaves out."""
        alpha, sigma = self.levels(t)
        narrow = self.width**2 * alpha
        return narrow / (narrow * alpha + sigma**2)

    def remainder_at(self, x: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """G at a time and levels that are tensors, so that one traced graph serves every step."""
        data = self.denoiser(x, t)
        if self.frame == "data":
            return data
        if self.frame == "noise":
            return x - alpha.to(x.dtype) * data
        return data - (alpha / (alpha**2 + sigma**2)).to(x.dtype) * x


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
        noise_level: 0 is the probability flow itself, 1 the reversal of the noising process [dimensionless].
    Raises:
        ValueError: negative noise level.
    Source: Karras et al. (2022), eq. 6; Song et al. (2021), eq. 6 for noise_level = 1.
    """
    if noise_level < 0:
        raise ValueError(f"noise_level must be ≥ 0, got {noise_level}.")
    if noise_level == 0:
        return probability_flow(denoiser)
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

    return Equation(drift, lambda t, x: noise_level * math.sqrt(squared(t)), "scalar")


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
