"""How likely a draw of the reverse SDE is, from the path that led to it: no divergence, no further call."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.density import log_base
from sciflow.diffusion.schedule import Schedule
from sciflow.random import Stream
from sciflow.types import Time

Form = Literal["left", "ratio"]


class PathDensity(NamedTuple):
    """An estimate of log p_t(x_t) along a path.

    Attributes:
        value: shape (n,) [nats, with x in its own units], float64.
        stderr: standard deviation of `value` about log p, given the path's end: the noise of the estimate.
    """

    value: Tensor
    stderr: Tensor


def log_change(form: Form, moved: Tensor, score: Tensor, u_a: float, u_b: float) -> Tensor:
    """What a step from u_a to u_b adds to log q(y), by the forms of `ItoDensity`; both tensors end in the event axis.

    Args:
        form: "left" or "ratio".
        moved: Δy.
        score: s_a at the start, which broadcasts against Δy: several densities see one path.
        u_a: noise ratio at the start.
        u_b: noise ratio at the end, > 0 for "ratio".
    """
    h = u_a**2 - u_b**2
    if form == "left":
        return (moved * score).sum(-1) - 0.5 * h * score.square().sum(-1)
    surprise = (moved - h * score).square() / (h * (u_b / u_a) ** 2) - moved.square() / h
    return -0.5 * surprise.sum(-1) - moved.shape[-1] * math.log(u_b / u_a)


class ItoDensity:
    """Records log p_t(x_t) along a path of the reverse SDE with the reference noise (noise_level = η = 1).

    In y = x/α, u = σ/α the score s = ∇ log q(y) = −(y − D)/u² gives, from a to b,

        left:   log q_b(y_b) − log q_a(y_a) ≈ ⟨Δy, s_a⟩ − ½ h ‖s_a‖²,   h = u_a² − u_b²
        ratio:  log p_rev(y_b | y_a) − log p_fwd(y_a | y_b)
                p_fwd = N(y_b, h I),   p_rev = N(y_a + h s_a, h u_b²/u_a² I)

    and log p = log q − d log α. The Laplacian of Itô's formula cancels against that of the Fokker–Planck equation.
    With the variance h instead of h u_b²/u_a² the second form is the first. Each step errs by about
    ½(ΔyᵀHΔy − h tr H), of variance ½ h² ‖H‖² ≈ ½ h ‖s_b − s_a‖², H = ∇s: their sum is the stated error.

    It stands in for the denoiser, to see the calls that the solver makes anyway, and is called after each step:

        recorder = ItoDensity(denoiser, x, times[0])
        solve(reverse_sde(recorder), x, times, EulerMaruyama(), stream=stream, on_step=recorder.record)
        recorder.result()

    Exactness: unbiased in neither form; at u_b = 0 the second one is infinite.
    Cost: one more denoiser call at the end, for the error; one per step if the solver makes none at its start. Each
        call is compared with the state, which waits for the device.
    Bias: O(1/N), smaller for the ratio; standard deviation O(N^{−1/2}) for N steps; wrong for other noise levels.
    Args:
        denoiser: the model.
        x: state at `t`, shape (n, *shape).
        t: where the path starts.
        form: "left" or "ratio".
        base: log-density at t; None is the denoiser's own `log_prob(x, t)`, or N(0, σ²) without that.
    Raises:
        ValueError: an unknown form; a base with α = 0, where y is infinite.
    Source: Skreta et al. (2025), The superposition of diffusion models using the Itô density estimator.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        x: Tensor,
        t: float,
        form: Form = "left",
        base: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if form not in ("left", "ratio"):
            raise ValueError(f"form must be 'left' or 'ratio', got {form!r}.")
        self.denoiser, self.form = denoiser, form
        if self._levels(float(t))[0] <= 0:
            raise ValueError(f"y = x/α needs α > 0, got α = 0 at t = {float(t):g}. Start the path later.")
        self._x, self._t = x.clone(), float(t)
        self._data: Tensor | None = None
        self._log_q = log_base(denoiser, float(t), base)(x).double() + self._dimension * math.log(self._levels(t)[0])
        self._variance = torch.zeros_like(self._log_q)
        self._last: tuple[Tensor, float] | None = None  # score and h of the step before

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    @property
    def shape(self) -> tuple[int, ...]:
        return self.denoiser.shape

    @property
    def _dimension(self) -> int:
        return self._x[0].numel()

    def initial(self, t: float, n: int, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.denoiser.initial(t, n, stream, dtype)

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        data = self.denoiser(x, t)
        if not isinstance(t, Tensor) and t == self._t and torch.equal(x, self._x):
            self._data = data.detach().clone()
        return data

    def __getattr__(self, name: str) -> Any:
        """What else the denoiser offers."""
        if name == "denoiser":
            raise AttributeError(name)
        return getattr(self.denoiser, name)

    def _levels(self, t: float) -> tuple[float, float]:
        return float(self.schedule.alpha(t)), float(self.schedule.sigma(t))

    def _score(self) -> Tensor:
        """s at the last state, shape (n, d)."""
        data = self._data if self._data is not None else self.denoiser(self._x, self._t)
        alpha, sigma = self._levels(self._t)
        return (alpha * (alpha * data.double() - self._x.double()) / sigma**2).flatten(1)

    def _settled(self, score: Tensor) -> Tensor:
        """The variance so far, with that of the step that led to this score."""
        if self._last is None:
            return self._variance
        before, h = self._last
        return self._variance + 0.5 * h * (score - before).square().sum(1)

    @torch.no_grad()
    def record(self, step: int, time: float, x: Tensor) -> None:
        """`on_step` of `solve`."""
        score, (alpha_a, sigma_a), (alpha_b, sigma_b) = self._score(), self._levels(self._t), self._levels(time)
        u_a, u_b = sigma_a / alpha_a, sigma_b / alpha_b
        h = u_a**2 - u_b**2
        moved = (x.double() / alpha_b - self._x.double() / alpha_a).flatten(1)
        change = log_change(self.form, moved, score, u_a, u_b)
        self._log_q, self._variance = self._log_q + change, self._settled(score)
        self._last, self._x, self._t, self._data = (score, h), x.clone(), float(time), None

    @torch.no_grad()
    def result(self) -> PathDensity:
        """The estimate at the end of the path so far; at σ = 0 its error lacks the last step."""
        alpha, sigma = self._levels(self._t)
        variance = self._settled(self._score()) if sigma > 0 else self._variance
        return PathDensity(self._log_q - self._dimension * math.log(alpha), variance.sqrt())
