"""Target paths: laws made of the laws of denoisers, at every noise level, and the rate at which their weights change.

    log γ_t(x) = Σ_i β_i(t) log p_i,t(x) + r_t(x)

One expert with power β anneals, powers 1 − w and w are a geometric average (classifier-free guidance), several powers
make a product, a potential r tilts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser, noise, score
from sciflow.diffusion.schedule import Schedule
from sciflow.errors import InputError

Power = float | Callable[[float], float]
"""β: a number, or a function of time."""


@runtime_checkable
class Potential(Protocol):
    """r_t(x), a log-density up to a constant that must not depend on x.

    It may offer `gradient(x, t)`, shape of x, else autograd makes one; a potential that has none says
    `has_gradient = False`, and moves that are weighed or accepted by r itself stay exact.
    """

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """(n, *shape) → (n,)."""
        ...


def pull(potential: Potential | None, x: Tensor, t: float) -> Tensor:
    """∇r_t(x), the shape of x; zero where there is no potential or it has no gradient."""
    if potential is None or not getattr(potential, "has_gradient", True):
        return torch.zeros_like(x)
    own: Callable[[Tensor, float], Tensor] | None = getattr(potential, "gradient", None)
    if own is not None:
        return own(x, t)
    with torch.inference_mode(False), torch.enable_grad():
        state = x.detach().clone().requires_grad_()
        value = potential(state, t)
        if not value.requires_grad:
            raise InputError(
                f"{type(potential).__name__} cannot be differentiated: its value carries no gradient. "
                "Give it a method `gradient(x, t)`, or the attribute has_gradient = False."
            )
        return torch.autograd.grad(value.sum(), state)[0]


def imbalance(noises: Tensor, powers: Tensor) -> Tensor:
    """‖Σ β_i E_i‖² − Σ β_i ‖E_i‖² of noise predictions E, (n, experts, d) → (n,) in float64.

    With B = Σ β_i and Ē = Σ β_i E_i/B it is B(B − 1)‖Ē‖² − Σ β_i ‖E_i − Ē‖², which has no large terms to cancel when
    B = 1.
    """
    weights = powers.to(noises)
    total = float(powers.sum())
    mean = torch.einsum("i,nid->nd", weights, noises) / total
    spread = ((noises - mean[:, None]).double() ** 2).sum(2) @ powers.to(noises.device)
    return total * (total - 1) * (mean.double() ** 2).sum(1) - spread


@dataclass(frozen=True)
class TargetPath:
    """log γ_t = Σ_i β_i(t) log p_i,t + r_t, from the base to the data.

    Simulated with drift b and noise V, of which V is free,

        b = ẋ_Σ + ½ V² (σ + ∇r),   ẋ_Σ = (α̇/α) x + ½ g² σ,   σ = Σ β_i ∇log p_i,   g² = 2σ_t²(α̇/α − σ̇_t/σ_t)

    every Laplacian cancels from the rate of the log-weights:

        R = ∂_t r + ẋ_Σ · ∇r + Σ β̇_i log p_i + (1 − Σ β_i) d α̇/α + ½ g² (‖σ‖² − Σ β_i ‖∇log p_i‖²)

    With noise predictions E_i the last term is λ̇ (‖Σ β_i E_i‖² − Σ β_i ‖E_i‖²), λ = log(α/σ): it stays bounded.

    Args:
        experts: denoisers on one schedule, of one event shape.
        powers: β_i, numbers or functions of time; functions need experts that offer `log_prob(x, t)`.
        potential: r, or None for 0.
    Raises:
        InputError: experts that do not fit together, or powers that make no law at large noise (Σ β ≤ 0).
    Source: Skreta et al. (2025), Feynman–Kac correctors in diffusion, propositions 3.1–3.4 and D.5, with any V.
    """

    experts: tuple[Denoiser, ...]
    powers: tuple[Power, ...] = (1.0,)
    potential: Potential | None = None

    def __post_init__(self) -> None:
        if not self.experts or len(self.experts) != len(self.powers):
            got = f"{len(self.experts)} experts and {len(self.powers)} powers"
            raise InputError(f"a target path needs one power for each of its experts, at least one, got {got}.")
        for expert in self.experts[1:]:
            if tuple(expert.shape) != self.shape:
                raise InputError(f"experts must share one event shape, got {self.shape} and {tuple(expert.shape)}.")
            if expert.schedule != self.schedule:
                raise InputError(
                    f"experts must share one schedule, got {self.schedule} and {expert.schedule}. "
                    "Wrap one in diffusion.denoiser.Converted."
                )
        if self.is_moving and not all(hasattr(expert, "log_prob") for expert in self.experts):
            raise InputError(
                "powers that change with time need experts that know their density, log_prob(x, t). "
                "Use constant powers, or experts in closed form."
            )
        self.betas(0.0), self.betas(1.0)

    @property
    def schedule(self) -> Schedule:
        return self.experts[0].schedule

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.experts[0].shape)

    @property
    def is_moving(self) -> bool:
        """Whether a power changes with time."""
        return any(callable(power) for power in self.powers)

    def betas(self, t: float) -> Tensor:
        """β_i(t), float64.

        Raises:
            InputError: not finite, or a sum that is not positive.
        """
        values = torch.tensor([float(p(t)) if callable(p) else float(p) for p in self.powers], dtype=torch.float64)
        if not bool(values.isfinite().all()) or float(values.sum()) <= 0:
            raise InputError(
                f"powers must be finite with a positive sum, got {values.tolist()} at t = {t:g}: at large noise all "
                "experts look alike, and their product has no normalising constant unless Σ β > 0."
            )
        return values

    def _rates(self, t: float) -> tuple[float, float, float]:
        """α̇/α, σ̇/σ and λ̇."""
        levels = self.schedule
        grow = float(levels.alpha_rate(t)) / float(levels.alpha(t))
        fade = float(levels.sigma_rate(t)) / float(levels.sigma(t))
        return grow, fade, grow - fade

    def score(self, x: Tensor, t: float) -> Tensor:
        """σ + ∇r, the gradient of log γ_t."""
        parts = [beta * score(expert, x, t) for beta, expert in zip(self.betas(t).tolist(), self.experts, strict=True)]
        return sum(parts, pull(self.potential, x, t))

    def drift(self, x: Tensor, t: float, noise_level: float = 0.0) -> Tensor:
        """b for V = noise_level · g; 0 is ẋ_Σ."""
        grow, _, rise = self._rates(t)
        half = float(self.schedule.sigma(t)) ** 2 * rise  # ½ g²
        steered = pull(self.potential, x, t)
        total = self.score(x, t)
        return grow * x + half * (total - steered) + noise_level**2 * half * total

    def rate(self, x: Tensor, t: float) -> Tensor:
        """R without the terms of r, (n,), float64."""
        grow, _, rise = self._rates(t)
        betas = self.betas(t)
        noises = torch.stack([noise(expert, x, t).flatten(1) for expert in self.experts], 1)
        found = rise * imbalance(noises, betas) + (1 - float(betas.sum())) * grow * noises.shape[2]
        if self.is_moving:
            found = found + self.log_densities(x, t) @ self.beta_rates(t).to(x.device)
        return found

    def beta_rates(self, t: float, step: float = 1e-4) -> Tensor:
        """β̇_i(t) by central differences within [0, 1]; samplers use differences of β itself."""
        low, high = max(t - step, 0.0), min(t + step, 1.0)
        return (self.betas(high) - self.betas(low)) / (high - low)

    def log_densities(self, x: Tensor, t: float) -> Tensor:
        """log p_i,t(x), (n, experts), float64, of experts that know it."""
        return torch.stack([expert.log_prob(x, t).double() for expert in self.experts], 1)  # type: ignore[attr-defined]

    @property
    def knows_density(self) -> bool:
        """Whether every expert offers `log_prob(x, t)`."""
        return all(hasattr(expert, "log_prob") for expert in self.experts)


def annealed(denoiser: Denoiser, power: Power) -> TargetPath:
    """p^β, a tempered law."""
    return TargetPath((denoiser,), (power,))


def geometric(first: Denoiser, second: Denoiser, power: float) -> TargetPath:
    """p₁^{1−w} p₂^w; w > 1 extrapolates as classifier-free guidance does (p₁ unconditional, p₂ conditional).

    With p₁ a reference model and p₂ the same tuned by a reward it is p₁ (p₂/p₁)^w, reinforcement learning guidance
    (RLG): if p₂ ∝ p₁ e^{r/β}, the law is p₁ e^{w r/β}, and w sets the strength of the reward without training again.

    Source: Jin et al. (2025), Inference-time alignment control for diffusion models with reinforcement learning
        guidance, for RLG, there without weights.
    """
    return TargetPath((first, second), (1.0 - power, power))


def product(experts: Sequence[Denoiser], power: Power = 1.0) -> TargetPath:
    """Π p_i^β, a product of experts."""
    return TargetPath(tuple(experts), (power,) * len(experts))


def tilted(denoiser: Denoiser, potential: Potential) -> TargetPath:
    """p_t e^{r_t}, a reward or a likelihood."""
    return TargetPath((denoiser,), (1.0,), potential)


@dataclass(frozen=True)
class RaisedReward:
    """A reward of the data as a potential: r_t(x) = strength(t) · f(x/α_t).

    Exactness: exact at the data when strength(1) is the wanted one; the path between is a choice.
    Args:
        function: f, (n, *shape) → (n,), of data [nat].
        schedule: that of the experts.
        strength: of t; the default α²/(α² + σ²) starts near 0 and ends at 1 (unit-variance data).
        has_gradient: whether f can be differentiated.
    """

    function: Callable[[Tensor], Tensor]
    schedule: Schedule
    strength: Callable[[float], float] | None = None
    has_gradient: bool = True

    def __call__(self, x: Tensor, t: float) -> Tensor:
        alpha, ratio = float(self.schedule.alpha(t)), math.exp(-2 * float(self.schedule.log_snr(t)))
        size = getattr(self.schedule, "std", 1.0) ** 2
        strength = size / (size + ratio) if self.strength is None else self.strength(t)
        return strength * self.function(x / alpha)
