"""Marginal samplers of a run file: annealing, geometric averages, products and tilting of trained priors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.errors import InputError, NonFiniteError
from sciflow.inverse.expert import Expert
from sciflow.inverse.likelihood import GaussianLikelihood, Likelihood
from sciflow.inverse.noised import NoisedLikelihood
from sciflow.inverse.shared import Progress, kept
from sciflow.particles.feynman_kac import State, Step, smc
from sciflow.particles.particles import Particles
from sciflow.particles.resampling import Scheme
from sciflow.random import Stream
from sciflow.steering.control import Basis, Control
from sciflow.steering.marginal import MarginalModel, marginal
from sciflow.steering.target import Potential, RaisedReward, TargetPath

Positive = Annotated[int, Field(gt=0)]


@dataclass(frozen=True)
class Ensemble:
    """How the particles of a marginal sampler are simulated, weighted and resampled.

    Args:
        n_particles: particles, whatever the number of draws asked for.
        noise: V/g, how much particles move within a level [dimensionless]; 0 needs ess_threshold 0.
        order: 2: Heun's transport, then an adjusted Langevin move; 1: Euler, half the calls.
        weights: "flow"; "kernel_ratio" (order 1, without divergences); "none" drops them: no target law, no evidence.
        control: "default": the bases that suit the target; "none"; or a basis of your own.
        adjusted: whether Langevin moves are accepted by Metropolis' rule.
        resampling: scheme.
        ess_threshold: resample when ESS ≤ threshold × particles; 0 never resamples.
        tile: rows of one denoiser call: bounds the memory.
    """

    n_particles: Positive = 1024
    noise: Annotated[float, Field(ge=0)] = 1.0
    order: Literal[1, 2] = 2
    weights: Literal["flow", "kernel_ratio", "none"] = "flow"
    control: Literal["default", "none"] | Control = "default"
    adjusted: bool = True
    resampling: Scheme = "systematic"
    ess_threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    tile: Positive = 1024

    def __post_init__(self) -> None:
        if self.noise == 0 and self.ess_threshold > 0:
            raise InputError(
                "noise = 0 and ess_threshold > 0: copies that resampling makes would never separate again. "
                "Set ess_threshold to 0, or noise above 0."
            )

    def controlled(self, basis: tuple[Basis, ...]) -> Control | None:
        """The control, where `basis` is that of the target."""
        if isinstance(self.control, Control):
            return self.control
        return None if self.control == "none" or self.weights != "flow" else Control(basis)

    def run(
        self,
        name: str,
        path: TargetPath,
        basis: tuple[Basis, ...],
        like: Tensor,
        times: Tensor | Sequence[float],
        n: int,
        stream: Stream,
        on_step: Progress | None,
    ) -> Particles:
        """Weighted particles of the last level.

        Raises:
            InputError: no draws asked for, a grid or a target that cannot be had.
            NonFiniteError: weights that are not finite, or particles that ran away; names the step.
        """
        if n < 1:
            raise InputError(f"a posterior needs n ≥ 1 draws, got {n}.")
        weights: Literal["flow", "kernel_ratio"] = "kernel_ratio" if self.weights == "kernel_ratio" else "flow"
        model = marginal(
            path, times, noise=self.noise, order=self.order, weights=weights, control=self.controlled(basis),
            adjusted=self.adjusted, tile=self.tile, like=like,
        )  # fmt: skip
        report = None if on_step is None else (lambda k, ess: on_step(k, model.n_steps))
        threshold = self.ess_threshold or 1e-300  # the smallest ESS is 1
        with torch.no_grad():
            try:
                if self.weights == "none":
                    return _dropped(smc(Unweighted(model), self.n_particles, stream, on_step=report, **kept(on_step)))
                return smc(model, self.n_particles, stream, self.resampling, threshold, report, **kept(on_step))
            except NonFiniteError as error:
                raise NonFiniteError(
                    f"{name}: {error} If the denoisers are finite there, particles ran away: the target may have no "
                    "normalising constant, or the steps are too large for this noise."
                ) from error


@dataclass(frozen=True)
class Unweighted:
    """The moves of a model without its weights: what samplers without correction do. It has no target law.

    Args:
        model: whose moves are made.
    """

    model: MarginalModel

    @property
    def n_steps(self) -> int:
        return self.model.n_steps

    def initial(self, n: int, stream: Stream) -> tuple[State, Tensor]:
        state, weight = self.model.initial(n, stream)
        return state, torch.zeros_like(weight)

    def step(self, k: int, state: State, stream: Stream) -> Step:
        state, weight, said = self.model.step(k, state, stream)
        return state, 0 * weight, said  # NaN stays: a run-away is one with or without weights


def _dropped(particles: Particles) -> Particles:
    event = "weights were dropped: the particles have no target law"
    return replace(Particles.equal(particles.x, (*particles.events, event)), diagnostics=particles.diagnostics)


def _like(likelihood: Likelihood) -> Tensor:
    return torch.empty(0, dtype=likelihood.observation.dtype, device=likelihood.observation.device)


@dataclass(frozen=True)
class Annealed:
    """A power of the prior: sharper modes for β > 1, flatter ones for β < 1.

        γ_t = p_t^β,   R = (β − 1)(∇·f + ½ g² β ‖∇log p‖²) in the noising clock

    Target: p(x₁)^β/Z, Z = ∫ p^β; the observation is not looked at.
    Exactness: as steps → 0 and particles → ∞; evidence log Z, of second order in the step.
    Cost: 2 denoiser calls for each step and particle, each with one backward pass for the control.
    Bias: O(step²) in law and log Z, O(1/particles) in means; noise of the last level stays in the draws.
    Args:
        power: β > 0.
        ensemble: how it is simulated.
    Raises:
        InputError: a power that makes no law.
        NonFiniteError: weights that are not finite; names the step.
    Source: Skreta et al. (2025), Feynman–Kac correctors in diffusion, proposition 3.2.
    """

    power: Annotated[float, Field(gt=0)] = 2.0
    ensemble: Ensemble = field(default_factory=Ensemble)

    def __call__(
        self,
        prior: Denoiser,
        likelihood: Likelihood,
        times: Tensor | Sequence[float],
        n: int,
        stream: Stream,
        on_step: Progress | None = None,
    ) -> Particles:
        path = TargetPath((prior,), (self.power,))
        return self.ensemble.run("annealed", path, ("position", "score"), _like(likelihood), times, n, stream, on_step)


@dataclass(frozen=True)
class Geometric:
    """A geometric average of two models, or an extrapolation beyond the second: classifier-free guidance with its law.

        γ_t = p_t^{1−w} p₂,t^w,   R = ½ g² w (w − 1) ‖∇log p − ∇log p₂‖²

    With the prior a reference model and the expert the same tuned by a reward, this is reinforcement learning guidance
    (RLG) with its law: w sets the strength of the reward without training again.

    Target: p(x₁)^{1−w} p₂(x₁)^w/Z; the observation is not looked at.
    Exactness: as steps → 0 and particles → ∞; evidence log Z, of second order in the step.
    Cost: 2 calls of each model for each step and particle, each with one backward pass for the control.
    Bias: O(step²) in law and log Z; for w > 1 there may be no law: mixtures are checked, networks are not.
    Args:
        expert: the second model (conditional); the prior is the first (unconditional). null: the prior twice.
        weight: w; 0 is the prior, 1 the expert, beyond 1 is guidance.
        ensemble: how it is simulated.
    Raises:
        InputError: a model that cannot be read, or two that make no law.
        NonFiniteError: weights that are not finite, particles that ran away; names the step.
    Source: Skreta et al. (2025), Feynman–Kac correctors in diffusion, proposition 3.1; Jin et al. (2025),
        Inference-time alignment control for diffusion models with reinforcement learning guidance, for RLG.
    """

    expert: Expert | None = None
    weight: float = 0.5
    ensemble: Ensemble = field(default_factory=Ensemble)

    def __call__(
        self,
        prior: Denoiser,
        likelihood: Likelihood,
        times: Tensor | Sequence[float],
        n: int,
        stream: Stream,
        on_step: Progress | None = None,
    ) -> Particles:
        like = _like(likelihood)
        second = self.expert.beside(prior, like) if self.expert else prior
        path = TargetPath((prior, second), (1 - self.weight, self.weight))
        return self.ensemble.run("geometric", path, ("position", "score"), like, times, n, stream, on_step)


@dataclass(frozen=True)
class Product:
    """A product of experts with a power each.

        γ_t = p_t^{β₀} Π p_i,t^{β_i},   R by the master formula of `steering.TargetPath`

    Target: p(x₁)^{β₀} Π p_i(x₁)^{β_i}/Z; the observation is not looked at.
    Exactness: as steps → 0 and particles → ∞; evidence log Z, of second order in the step.
    Cost: 2 calls of each model for each step and particle, each with one backward pass for the control.
    Bias: O(step²) in law and log Z; negative powers may make no law: mixtures are checked, networks are not.
    Args:
        experts: the models beside the prior.
        powers: β, the prior's first; none are all 1.
        ensemble: how it is simulated.
    Raises:
        InputError: powers that are not one for each, or models that make no law.
        NonFiniteError: weights that are not finite, particles that ran away; names the step.
    Source: Skreta et al. (2025), Feynman–Kac correctors in diffusion, propositions 3.3 and D.5.
    """

    experts: tuple[Expert, ...] = ()
    powers: tuple[float, ...] = ()
    ensemble: Ensemble = field(default_factory=Ensemble)

    def __post_init__(self) -> None:
        if self.powers and len(self.powers) != len(self.experts) + 1:
            raise InputError(
                f"a product needs a power for the prior and one for each expert, {len(self.experts) + 1} in all, "
                f"got {len(self.powers)}."
            )

    def __call__(
        self,
        prior: Denoiser,
        likelihood: Likelihood,
        times: Tensor | Sequence[float],
        n: int,
        stream: Stream,
        on_step: Progress | None = None,
    ) -> Particles:
        like = _like(likelihood)
        experts = (prior, *(expert.beside(prior, like) for expert in self.experts))
        path = TargetPath(experts, self.powers or (1.0,) * len(experts))
        return self.ensemble.run("product", path, ("position", "score"), like, times, n, stream, on_step)


@dataclass(frozen=True)
class Tilted:
    """The prior times the likelihood, raised along the noise levels; no derivative of the likelihood in the weights.

        γ_t = p_t e^{r_t},   log w += r_b(end of the transport) − r_a(start),   ½ V² ∇r in the noise alone

    Target: p(x₁ | y).
    Exactness: as steps → 0, particles → ∞ and last level → 0; evidence log p(y), of second order in the step.
    Cost: 2 denoiser calls for each step and particle, each with one backward pass for the control.
    Bias: O(step²) in law and log Z, growing with dimension; O(1/particles) in means.
    Args:
        rise: "noised": r_t = log N(y; A x/α, σ_y² I + u² A Aᵀ), for linear Gaussian likelihoods, whose start is exact
            up to the prior's; "tempered": r_t = s/(s + u²) log p(y | x/α), s the data variance, for any likelihood.
        ensemble: how it is simulated.
    Raises:
        InputError: a likelihood that `rise` does not suit.
        NonFiniteError: weights that are not finite; names the step.
    Source: Skreta et al. (2025), Feynman–Kac correctors in diffusion, proposition 3.4, with a path and a control of its
        own.
    """

    rise: Literal["noised", "tempered"] = "noised"
    ensemble: Ensemble = field(default_factory=Ensemble)

    def __call__(
        self,
        prior: Denoiser,
        likelihood: Likelihood,
        times: Tensor | Sequence[float],
        n: int,
        stream: Stream,
        on_step: Progress | None = None,
    ) -> Particles:
        path = TargetPath((prior,), (1.0,), risen(likelihood, prior, self.rise, "tilted"))
        basis: tuple[Basis, ...] = ("position", "score", "gradient")
        return self.ensemble.run("tilted", path, basis, _like(likelihood), times, n, stream, on_step)


def risen(likelihood: Likelihood, prior: Denoiser, rise: str, user: str) -> Potential:
    """The likelihood as a potential along the noise levels.

    Raises:
        InputError: it does not fit the events, or is not linear and Gaussian where `rise` needs that.
    """
    bound = likelihood.on(tuple(prior.shape))
    if rise == "tempered":
        return RaisedReward(bound.log_prob, prior.schedule)
    if not isinstance(bound, GaussianLikelihood):
        got = type(likelihood).__name__
        raise InputError(f"{user} with rise 'noised' needs a GaussianLikelihood, got {got}. Take rise 'tempered'.")
    return NoisedLikelihood(bound, prior.schedule)


@dataclass(frozen=True)
class AFDPS:
    """The published ensemble sampler: the gradient of the likelihood in the drift in full, Euler's steps.

        γ_t = p_t e^{r_t};   sde: drift v + ½ V² ∇log p + V² ∇r;   ode: v, and Langevin moves at each level

    It is `tilted` with the fixed control ½ V² ∇r (sde), whose weights need Δr and vary more, or with none (ode). Here
    for comparison: `tilted` has the same target, without that variance.

    Target: p(x₁ | y).
    Exactness: as steps → 0, particles → ∞ and last level → 0; evidence log p(y), of first order (sde).
    Cost: sde: 1 denoiser call for each step and particle, and two derivatives of r; ode: 2 calls.
    Bias: O(step), growing with dimension; explicit steps blow up where 2 h exceeds the curvature of r ("tempered").
    Args:
        variant: "sde" or "ode".
        rise: as for `tilted`; "tempered" is what was published.
        ensemble: how it is simulated; its order, weights, control and adjustment are those of the variant.
    Raises:
        InputError: a likelihood that does not fit the events.
        NonFiniteError: weights that are not finite; names the step.
    Source: Chen et al. (2025), Solving inverse problems via diffusion-based priors: an approximation-free ensemble
        sampling approach.
    """

    variant: Literal["sde", "ode"] = "sde"
    rise: Literal["noised", "tempered"] = "noised"
    ensemble: Ensemble = field(default_factory=Ensemble)

    def __call__(
        self,
        prior: Denoiser,
        likelihood: Likelihood,
        times: Tensor | Sequence[float],
        n: int,
        stream: Stream,
        on_step: Progress | None = None,
    ) -> Particles:
        path = TargetPath((prior,), (1.0,), risen(likelihood, prior, self.rise, "afdps"))
        options = {"weights": "flow", "adjusted": False}
        full = Control(("gradient",), fixed=(self.ensemble.noise**2,))
        ensemble = replace(
            self.ensemble,
            order=1 if self.variant == "sde" else 2,
            control=full if self.variant == "sde" else "none",
            **options,  # type: ignore[arg-type]
        )
        return ensemble.run("afdps", path, (), _like(likelihood), times, n, stream, on_step)
