"""Posterior samplers that split prior and likelihood: one step of a denoiser, one step of the data, and noise."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from sciflow.errors import InputError
from sciflow.inverse.conditioned import check_moves, conditioned_moves
from sciflow.inverse.descent import Descent, Problem, kept_noise
from sciflow.inverse.likelihood import GaussianLikelihood, Likelihood, NonlinearGaussianLikelihood
from sciflow.inverse.moments import conditioned_draw
from sciflow.particles.kernels import MALA, Kernel
from sciflow.solvers.exponential import EABM
from sciflow.solvers.solve import Solver

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


class _Conditioned(Descent):
    """A descent whose belief is given y exactly, or, where the operator is not linear, by moves of a Markov chain."""

    kernel: Kernel
    n_moves: int

    def bound(self, likelihood: Likelihood, shape: tuple[int, ...]) -> GaussianLikelihood:
        if isinstance(likelihood, NonlinearGaussianLikelihood):
            return likelihood.on(shape)  # type: ignore[return-value]  # `given` alone looks at it
        return super().bound(likelihood, shape)

    def given(self, problem: Problem, centre: Tensor, width: float, drawn: Tensor, k: int, name: str) -> Tensor:
        """A draw of N(centre, width I) given y, from a draw of it without."""
        likelihood: Any = problem.likelihood
        if isinstance(likelihood, GaussianLikelihood):
            return conditioned_draw(likelihood, drawn, width, problem.measurement_noise(k, name))
        stream = problem.stream.child(name, k)
        return conditioned_moves(likelihood, centre, width, drawn, self.kernel, self.n_moves, stream)


def _refuse_variance(name: str, variance: float | None) -> None:
    if variance is not None and not variance > 0:
        raise InputError(f"{name} needs variance > 0, or none, got {variance}.")


@dataclass(frozen=True)
class DiffPIR(Descent):
    """Plug-and-play restoration: the denoised state moved towards the data, and noised again.

        x̂ = argmin ‖y − A x‖²/2σ_y² + strength ‖x − D‖²/2r²,   z' = x̂ + √(1 − ζ) s' (z − x̂)/s + √ζ s' n

    with z = x_t/α, s = σ/α, r² = v s²/(v + s²) and ζ = 1 − s'²/s², the noise of the time reversal. The published
    rule is `variance: .inf` (r = s) with ζ of 0.1 to 1 and a strength to be tuned.

    Target: none
    Exactness: for isotropic Gaussian data of variance v and strength 1, as steps → ∞.
    Cost: one denoiser call per level, without backward pass, and one operator solve.
    Bias: the spread r is wrong in every direction where the data's variance is not v. A given `zeta` makes unmeasured
        variances tend to (1 + √(1 − ζ))/2 of what is right. Last steps end too narrow by O(step).
    Args:
        strength: weight of the denoised state against the data [1].
        zeta: ζ, share of the noise that is fresh; null is that of the time reversal.
        variance: v [data units²]; null takes the square of the schedule's `std`, which the model was normalised with.
    Raises:
        InputError: n < 1, a likelihood that is not linear and Gaussian, or a grid that starts at α = 0.
        NonFiniteError: a draw is NaN or infinite.
    Source: Zhu et al. (2023), Denoising diffusion models for plug-and-play image restoration, algorithm 1.
    """

    strength: Positive = 1.0
    zeta: Annotated[float, Field(ge=0, le=1)] | None = None
    variance: Positive | None = None

    def __post_init__(self) -> None:
        _refuse_variance("DiffPIR", self.variance)
        if not self.strength > 0 or not (self.zeta is None or 0 <= self.zeta <= 1):
            got = f"strength = {self.strength}, zeta = {self.zeta}"
            raise InputError(f"DiffPIR needs strength > 0 and zeta in [0, 1], or none, got {got}.")

    def step(self, problem: Problem, z: Tensor, k: int) -> Tensor:
        before, after = problem.ratios[k : k + 2]
        width = problem.spread(k, self.variance) / self.strength
        data = conditioned_draw(problem.likelihood, problem.data(z, k), width)
        kept, added = kept_noise(self.zeta, before, after)
        return data + kept * after / before * (z - data) + added * problem.noise(k)


@dataclass(frozen=True)
class DAPS(_Conditioned):
    """Decoupled annealing: what the state says of the data, a draw of the data given that and y, and noise.

        x̂ = D, or the end of the prior's flow from z_k;   x₁ ~ N(x̂, r² I) p(y | x₁);   z_{k+1} = x₁ + s_{k+1} n

    with z = x_t/α, s = σ/α, r² = v s²/(v + s²). The draw is exact for linear operators, and by n_moves of a kernel for
    others (`nonlinear_gaussian`), from a draw of N(x̂, r² I). As published: `variance: .inf` (r = s), five steps of the
    flow, and for all operators Langevin dynamics.

    Target: p(x₁ | y), as far as p(x₁ | x_t) is N(D, r² I)
    Exactness: for isotropic Gaussian data of variance v and n_flow_steps = 0, at any number of levels; as n_moves → ∞
        where the operator is not linear.
    Cost: n_flow_steps + 1 denoiser calls per level, without backward pass, and one operator solve or the gradients of
        n_moves.
    Bias: for other priors p(x₁ | x_t) is taken as isotropic. With steps of the flow unmeasured variances are too
        large, twice what is right as levels and steps → ∞: the end of the flow spreads by itself as much as the data.
    Args:
        n_flow_steps: steps of the flow from each level to the last one, equidistant in λ; 0 takes D.
        variance: v [data units²]; null takes the square of the schedule's `std`, which the model was normalised with.
        solver: of the flow.
        kernel: that moves x₁ for an operator that is not linear; its step is fitted row by row.
        n_moves: of it at each level.
    Raises:
        InputError: n < 1, a likelihood that is not Gaussian, or a grid that starts at α = 0.
        NonFiniteError: a draw is NaN or infinite.
    Source: Zhang et al. (2025), Improving diffusion inverse problem solving with decoupled noise annealing,
        algorithm 1.
    """

    n_flow_steps: Annotated[int, Field(ge=0)] = 0
    variance: Positive | None = None
    solver: Solver = field(default_factory=lambda: EABM(order=1))
    kernel: Kernel = field(default_factory=MALA)
    n_moves: Annotated[int, Field(ge=2)] = 40

    def __post_init__(self) -> None:
        _refuse_variance("DAPS", self.variance)
        check_moves("DAPS", self.kernel, self.n_moves)
        if self.n_flow_steps < 0:
            raise InputError(f"DAPS needs n_flow_steps ≥ 0, got {self.n_flow_steps}.")

    def step(self, problem: Problem, z: Tensor, k: int) -> Tensor:
        width, after = problem.spread(k, self.variance), problem.ratios[k + 1]
        centre = problem.carried(z, k, self.n_flow_steps, self.solver, "flow")
        believed = centre + math.sqrt(width) * problem.noise(k, "belief")
        x = self.given(problem, centre, width, believed, k, "measurement")
        return x + after * problem.noise(k)


@dataclass(frozen=True)
class PnPDM(_Conditioned):
    """Split Gibbs sampling: the prior keeps x, the likelihood keeps z, and they hold each other at a distance ρ.

        p(x, z) ∝ p(x) p(y | z) N(z; x, ρ²):   x ~ p(x) N(z; x, ρ²) by the reverse SDE from s = ρ,
                                              z ~ p(y | z) N(z; x, ρ²) exactly;   ρ goes down the levels

    The draw is the last x. At fixed ρ the law of x is p(x) ∫ p(y | z) N(z; x, ρ² I) dz, for a linear operator
    p(x) N(y; A x, σ_y² I + ρ² A Aᵀ). For others (`nonlinear_gaussian`) z comes by n_moves of a kernel.

    Target: p(x₁ | y) with the noise of y raised to σ_y² I + ρ² A Aᵀ
    Exactness: as steps of the SDE and sweeps → ∞, at the ρ of the last level; and n_moves → ∞ where the operator is not
        linear.
    Cost: (n_inner + 1) × n_sweeps denoiser calls per level, without backward pass, and one operator solve or the
        gradients of n_moves.
    Bias: too wide where ρ is not far below σ_y/s_i; one sweep moves by ρ at most, so that few sweeps per level leave
        some of what higher levels said.
    Args:
        n_sweeps: sweeps at each level.
        n_inner: steps of the SDE from each level to the last one, equidistant in λ.
        solver: of the SDE, with noise of its own.
        kernel: that moves z for an operator that is not linear; its step is fitted row by row.
        n_moves: of it in each sweep.
    Raises:
        InputError: n < 1, a likelihood that is not Gaussian, or a grid that starts at α = 0.
        NonFiniteError: a draw is NaN or infinite.
    Source: Wu et al. (2024), Principled probabilistic imaging using diffusion models as plug-and-play priors,
        algorithm 1; Vono, Dobigeon and Chainais (2019), Split-and-augmented Gibbs sampler.
    """

    n_sweeps: Count = 1
    n_inner: Count = 10
    solver: Solver = field(default_factory=lambda: EABM(2, "data", eta=1.0))
    kernel: Kernel = field(default_factory=MALA)
    n_moves: Annotated[int, Field(ge=2)] = 40

    def __post_init__(self) -> None:
        check_moves("PnPDM", self.kernel, self.n_moves)
        if self.n_sweeps < 1 or self.n_inner < 1:
            got = f"n_sweeps = {self.n_sweeps}, n_inner = {self.n_inner}"
            raise InputError(f"PnPDM needs n_sweeps ≥ 1 and n_inner ≥ 1, got {got}.")

    def step(self, problem: Problem, z: Tensor, k: int) -> Tensor:
        for sweep in range(self.n_sweeps):
            x = problem.carried(z, k, self.n_inner, self.solver, f"prior {sweep}")
            last = sweep == self.n_sweeps - 1
            rho = problem.ratios[k + 1] if last else problem.ratios[k]
            if rho == 0:
                return x
            spread = x + rho * problem.noise(k, f"step {sweep}")
            z = self.given(problem, x, rho**2, spread, k, f"measurement {sweep}")
        return z
