"""Charts: processes that are plain diffusions after a change of variable y = φ(x), so that every solver serves them.

A chart names the coordinates in which data are noised and denoised. Mean reversion (IR-SDE) is diffusion of x − μ;
multiplicative noise (geometric Brownian motion) is diffusion of log |x|. Models, solvers and likelihoods live in the
chart, and results are mapped back:

    x = φ⁻¹(solve(probability_flow(D_y), y, times, solver)),   log p(x) = log p_y(φ(x)) + log |det ∂φ/∂x|
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.flow import probability_flow
from sciflow.diffusion.schedule import Positive, Schedule
from sciflow.random import Stream
from sciflow.solvers.solve import Solver, solve
from sciflow.types import Time, broadcast


class Chart(Protocol):
    """An invertible change of variable y = φ(x) of events, row by row."""

    def forward(self, x: Tensor) -> Tensor: ...
    def inverse(self, y: Tensor) -> Tensor: ...
    def log_det(self, x: Tensor) -> Tensor:
        """log |det ∂φ/∂x|, shape (batch,)."""
        ...


@dataclass(frozen=True)
class MeanReverting:
    """Diffusion towards a given state μ, e.g. a degraded image: the mean-reverting process IR-SDE.

        y = x − μ,   x_t = μ + α (x₁ − μ) + σ x₀,   dx = θ (μ − x) ds + √(2θ) σ_∞ dW

    With `Scaled(VariancePreserving(), σ_∞)`, α = exp(−∫θ) and σ² = σ_∞² (1 − α²); the base is N(μ, σ_∞²). A network
    that was trained on x_t and answers the noise is `FromView(lambda y, t: network(y + μ, t), "noise", schedule,
    shape)`; a denoiser of plain diffusion is made one by `Recentred`. The ODE and SDE solvers of MRS are
    DPM-Solver++ and SDE-DPM-Solver++ in this chart.

    Args:
        mean: μ, a number, an event, or one event per row.
    Source: Luo et al. (2023), Image restoration with mean-reverting stochastic differential
        equations.
    """

    mean: Tensor | float

    def forward(self, x: Tensor) -> Tensor:
        return x - self.mean

    def inverse(self, y: Tensor) -> Tensor:
        return y + self.mean

    def log_det(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x))


@dataclass(frozen=True)
class Logarithm:
    """Multiplicative noise: events that keep their sign, such as the weights of excitatory and inhibitory neurons.

        y = log(sign · x),   x = sign · e^y

    Args:
        sign: ±1, one number or one for each coordinate.
    Raises:
        ValueError: an event with a zero or with another sign.
    Source: Lamperti's transform of geometric Brownian motion.
    """

    sign: Tensor | float = 1.0

    def forward(self, x: Tensor) -> Tensor:
        magnitude = x * self.sign
        if not bool((magnitude > 0).all()):
            n_wrong = int((magnitude > 0).logical_not().sum())
            raise ValueError(
                f"the logarithmic chart needs events of its own sign, got {n_wrong} numbers that are "
                "zero or of the other sign. Give their sign, Logarithm(sign=x.sign()), or add an offset to zeros."
            )
        return magnitude.log()

    def inverse(self, y: Tensor) -> Tensor:
        return y.exp() * self.sign

    def log_det(self, x: Tensor) -> Tensor:
        return -x.abs().log().flatten(1).sum(1)


@dataclass(frozen=True)
class Charted:
    """A model in a chart, whose draws and densities are those of the events themselves.

    Args:
        denoiser: E[y₁ | y_t] for y₁ = φ(x₁), e.g. trained on `chart.forward(data)`.
        chart: φ.
    """

    denoiser: Denoiser
    chart: Chart

    def generate(
        self, times: Tensor, n: int, solver: Solver, stream: Stream, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """n events by any solver of the probability flow, shape (n, *shape)."""
        y = self.denoiser.initial(float(times[0]), n, stream.child("initial"), dtype)
        return self.chart.inverse(
            solve(probability_flow(self.denoiser), y, times, solver, stream=stream.child("solve"))
        )

    def log_prob(self, x: Tensor, log_prob: Callable[[Tensor], Tensor]) -> Tensor:
        """log p(x), shape (batch,), from the log-density y → log p_y(y) in the chart."""
        return log_prob(self.chart.forward(x)) + self.chart.log_det(x)


@dataclass(frozen=True)
class Recentred:
    """A denoiser of plain diffusion as that of y₁ = x₁ − μ: mean reversion without retraining.

        D_y(y, t) = D(y + α μ, t) − μ,   since y_t = x_t − α μ

    Exactness: exact.
    Cost: that of the denoiser.
    Bias: none is added.
    Args:
        denoiser: E[x₁ | x_t].
        mean: μ, a number, an event, or one event per row.
    Source: definition.
    """

    denoiser: Denoiser
    mean: Tensor | float

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    @property
    def shape(self) -> tuple[int, ...]:
        return self.denoiser.shape

    def __call__(self, y: Tensor, t: Time) -> Tensor:
        return self.denoiser(y + broadcast(self.schedule.alpha(t), y) * self.mean, t) - self.mean

    def initial(self, t: float, n: int, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.denoiser.initial(t, n, stream, dtype) - float(self.schedule.alpha(t)) * self.mean


@dataclass(frozen=True)
class GeometricBrownian:
    """Geometric Brownian motion as the noising process, and the two published ways back.

        dX = μ X dτ + ς X dW,   X_τ = X_0 exp((μ − ς²/2) τ + ς √τ z),   τ from the data (0) to the noise

    In y = log |X| − (μ − ς²/2) τ it is plain diffusion with u = ς √τ, so any denoiser in the `Logarithm` chart gives
    its multiplicative score S = X ∘ ∇log p_τ(X) = (D − y)/u² − 1, the −1 from the Jacobian of the chart.

    Exactness: the kernel is exact; see `ambient_step` and `lamperti_step` for the ways back.
    Cost: 1 denoiser call per score.
    Bias: none.
    Args:
        drift: μ [1/time].
        volatility: ς [1/√time].
    Source: "Dale meets Langevin: a multiplicative denoising diffusion model" (2025), arXiv 2510.02730; the formulas are
        derived here.
    """

    drift: float = 0.0
    volatility: Positive = 1.0

    def noised(self, x: Tensor, tau: float, z: Tensor) -> Tensor:
        """A draw of X_τ given X_0 = x, from a standard normal z. Signs stay."""
        growth = (self.drift - 0.5 * self.volatility**2) * tau
        return x * torch.exp(growth + self.volatility * math.sqrt(tau) * z)

    def score(self, denoiser: Denoiser, x: Tensor, tau: float) -> Tensor:
        """S = X ∘ ∇log p_τ(X) from a denoiser of log |X_0|, under any schedule."""
        ratio, schedule = self.volatility * math.sqrt(tau), denoiser.schedule
        t = float(schedule.time(-math.log(ratio)))
        y = x.abs().log() - (self.drift - 0.5 * self.volatility**2) * tau
        return (denoiser(float(schedule.alpha(t)) * y, t) - y) / ratio**2 - 1

    def loss(self, score: Callable[[Tensor, float], Tensor], x: Tensor, tau: float, z: Tensor) -> Tensor:
        """Multiplicative denoising score matching, ‖ς √τ (S + 1) + z‖² per element, one number per row.

        Its minimiser is S; with S = (D − y)/u² − 1 it is ‖D − log |x|‖²/u², the denoising loss in the chart.
        """
        ratio = self.volatility * math.sqrt(tau)
        return (ratio * (score(self.noised(x, tau, z), tau) + 1) + z).square().flatten(1).mean(1)

    def ambient_step(self, x: Tensor, score: Tensor, delta: float, z: Tensor) -> Tensor:
        """Euler–Maruyama of the reverse SDE in X: x ∘ (1 + δ (2ς² − μ + ς² S) + ς √δ z). A long step may flip a sign.

        It is within O(√δ) of `lamperti_step` on the same noise: their logarithms differ by ς²δ (z² − 1)/2 a step.
        """
        rate = 2 * self.volatility**2 - self.drift + self.volatility**2 * score
        return x * (1 + delta * rate + self.volatility * math.sqrt(delta) * z)

    def lamperti_step(self, x: Tensor, score: Tensor, delta: float, z: Tensor) -> Tensor:
        """Euler–Maruyama of the reverse SDE in log |X|: x ∘ exp(δ (3ς²/2 − μ + ς² S) + ς √δ z). Signs stay."""
        rate = 1.5 * self.volatility**2 - self.drift + self.volatility**2 * score
        return x * torch.exp(delta * rate + self.volatility * math.sqrt(delta) * z)
