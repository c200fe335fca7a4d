"""Marginal weights: a Feynman–Kac model whose weighted particles have the law γ_t/Z_t at every level of a target path.

In y = x/α the linear drift is gone. With u = σ/α, λ = −log u and noise predictions E_i the identity of `TargetPath` is

    dy/du = Σ β_i E_i − c/u,   d log w/dλ = ‖Σ β_i E_i‖² − Σ β_i ‖E_i‖² + Σ β̇_i log q_i + ∇·c + c·σ,   log w += Δr

with Δr taken between the two ends of the path. This transport by itself carries weighted particles of γ_a to weighted
particles of γ_b. Noise is a second move, at the level that was reached, which leaves γ_b alone and needs no weight: no
error comes from taking turns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.particles.feynman_kac import Diagnostics, State
from sciflow.random import Stream
from sciflow.solvers.times import checked
from sciflow.steering.blocks import put, rows_of, taken
from sciflow.steering.control import Control, Fitted
from sciflow.steering.copies import refuse_copies, slots, were_resampled
from sciflow.steering.normalisable import check_normalisable, escaped, reach
from sciflow.steering.sight import Level, Sight, View, view
from sciflow.steering.start import start
from sciflow.steering.target import TargetPath, imbalance

BLOCK = 2**18  # numbers of a state that are moved together: a MB or two, many enough that calls of torch do not count


@dataclass(frozen=True)
class MarginalModel:
    """The Feynman–Kac model of a target path; its states "x" are y = x/α, estimates of the data.

        order 2   transport by an exponential Heun step in λ, exact where the data are points; weights by the trapezoid;
                  then one Langevin move at the new level with variance V², accepted by Metropolis' rule with
                  ∫ ∇log q along the jump by the trapezoid
        order 1   y += DDIM step of the transport + ½ V² h ∇log γ + V √h z,  h = u_a² − u_b²,  weights by the left end
        kernel    the moves of order 1; log w += Σ β_i log B_i(y'|y)/F_i(y|y') + Δr + log L(y|y') − log m(y'|y),
        ratio     the backward kernels B_i and forward kernels F_i of each expert, L the reversal of the move m

    Exactness: marginal: exact as steps → 0 and n → ∞, for any noise V ≥ 0; the evidence is that of γ in data units.
    Cost: per step and expert, order 2: 2 denoiser calls, 1 with noise = 0; order 1 and kernel ratio: 1 call. Traces of
        a control add their backward passes to each call.
    Bias: O(step²) for order 2 and O(step) for order 1 and kernel ratio, in the law and in log Z, growing with d.
    Args:
        path: what to follow.
        times: increasing, with α > 0 and σ > 0.
        noise: V/g: how much the particles move within a level [dimensionless]; 0 never
            separates resampled copies, and is refused once there are any.
        order: 1 or 2.
        weights: "flow", or "kernel_ratio", which takes no control and needs noise > 0.
        control: an extra drift that evens out the weights; none unless asked for here, while the posteriors of a run
            file (`sciflow.inverse.marginal`) take the one that was measured best for their target.
        adjusted: whether Langevin moves are accepted or refused; without, their bias is O(step).
        tile: rows of one denoiser call.
        like: a tensor of the dtype and on the device of the particles.
    Raises:
        InputError: levels without signal or without noise, options that exclude each other, or noise = 0 after a
            resampling.
    Source: Skreta et al. (2025), Feynman–Kac correctors; Chen et al. (2025), AFDPS, for the flow with Langevin moves;
        He et al. (2025), RNE, for kernel ratios; Ren et al. (2025), DriftLite, for the control.
    """

    path: TargetPath
    times: tuple[float, ...]
    noise: float = 1.0
    order: Literal[1, 2] = 2
    weights: Literal["flow", "kernel_ratio"] = "flow"
    control: Control | None = None
    adjusted: bool = True
    tile: int = 1024
    like: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64), compare=False)

    def __post_init__(self) -> None:
        if not (self.noise >= 0 and math.isfinite(self.noise)) or self.order not in (1, 2) or self.tile < 1:
            got = f"noise = {self.noise}, order = {self.order}, tile = {self.tile}"
            raise InputError(f"marginal weights need a finite noise ≥ 0, order 1 or 2 and tile ≥ 1, got {got}.")
        if self.weights == "kernel_ratio" and (self.noise == 0 or self.control is not None):
            raise InputError("kernel-ratio weights need noise > 0 and take no control. Use weights 'flow'.")
        basis = self.control.basis if self.control else ()
        if "gradient" in basis and self.path.potential is None:
            raise InputError("the control basis 'gradient' needs a potential. Leave it out.")
        _ = self.levels

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        return tuple(Level.of(self.path, t) for t in self.times)

    @cached_property
    def sight(self) -> Sight:
        control = self.control
        if control is None:
            return Sight(self.path, tile=self.tile)
        return Sight(self.path, "score" in control.basis, "gradient" in control.basis, control.probes, self.tile)

    @property
    def n_steps(self) -> int:
        return len(self.times) - 1

    def initial(self, n: int, stream: Stream) -> tuple[State, Tensor]:
        log_weight = torch.empty(n, dtype=torch.float64, device=self.like.device)
        state: State = {}
        for rows in self._blocks(n):
            own = stream.rows_from(rows.start)
            y, log_weight[rows] = start(self.path, self.levels[0], rows.stop - rows.start, own, self.like)
            put(state, rows, n, self.sight.look(y, self.levels[0], own.child("look")))
        kept = {"log_weight": log_weight.clone(), "slot": slots(state["x"], stream), "reach": reach(state["x"])}
        return {**state, **kept}, log_weight

    def step(self, k: int, state: State, stream: Stream) -> tuple[State, Tensor, Diagnostics]:
        a, b = self.levels[k], self.levels[k + 1]
        if self.noise == 0:
            refuse_copies(state, stream)
        carried = _since_resampling(state, stream)
        fitted = self._fit(state, carried, a, b)
        log_weight = torch.empty_like(carried)
        accepted = torch.ones_like(carried)
        for rows in self._blocks(len(carried)):
            own = stream.rows_from(rows.start)
            moved, log_weight[rows], accepted[rows] = self._moved(taken(state, rows), a, b, fitted, own)
            put(state, rows, len(carried), moved)
        said = self._told(fitted) | ({"acceptance": accepted} if self._is_rejuvenating and self.adjusted else {})
        return {**state, "log_weight": carried + log_weight, "slot": slots(state["x"], stream)}, log_weight, said

    def _moved(
        self, state: State, a: Level, b: Level, fitted: Fitted | None, stream: Stream
    ) -> tuple[State, Tensor, Tensor]:
        """Some particles after their move, its log-weights, and whether a second one was accepted."""
        if self.order == 1 or self.weights == "kernel_ratio":
            moved, log_weight = self._euler(state, a, b, fitted, stream)
        else:
            moved, log_weight = self._transport(state, a, b, fitted, stream)
        log_weight = torch.where(escaped(moved["x"], state["reach"]), math.nan, log_weight)
        if not self._is_rejuvenating:
            return moved, log_weight, torch.ones_like(log_weight)
        moved, accepted = self._rejuvenate(moved, a, b, stream)
        return moved, torch.where(accepted.isnan(), math.nan, log_weight), accepted

    @property
    def _is_rejuvenating(self) -> bool:
        return self.order == 2 and self.weights == "flow" and self.noise > 0

    def _blocks(self, n: int) -> list[slice]:
        """Rows that are moved together, in whole calls: what a move needs besides the state is theirs alone."""
        return rows_of(n, self.tile * max(1, BLOCK // (self.tile * math.prod(self.path.shape))))

    def _told(self, fitted: Fitted | None) -> Diagnostics:
        """The coefficients of the control."""
        if fitted is None or self.control is None:
            return {}
        parts = self.control.parts(fitted, len(self.path.experts))
        return {f"control_{name}": theta[None] for name, theta in parts.items()}

    def _view(self, state: State, at: Level) -> View:
        return view(state, at, self.path.betas(at.t))

    def _fit(self, state: State, log_weights: Tensor, a: Level, b: Level) -> Fitted | None:
        if self.control is None:
            return None
        weights = log_weights.softmax(0)
        centre = weights.to(state["x"]) @ state["x"].flatten(1)
        seen: State = {}
        for rows in self._blocks(len(weights)):
            features, rate = self._uneven(self.control, taken(state, rows), centre, a, b)
            put(seen, rows, len(weights), {"features": features, "rate": rate})
        return self.control.fit(seen["features"], seen["rate"], weights, centre)

    def _uneven(self, control: Control, state: State, centre: Tensor, a: Level, b: Level) -> tuple[Tensor, Tensor]:
        """What each function of a control would do to the log-weights of some particles, and what they do without."""
        seen, betas, h = self._view(state, a), self.path.betas(a.t), b.log_snr - a.log_snr
        rate = imbalance(seen.noises, betas)
        if self.path.potential is not None:
            ahead = seen.y + (b.ratio - a.ratio) * seen.mixed
            rate = rate + (self.sight.value(ahead.reshape(state["x"].shape), b) - state["r"]) / h
        if self.path.is_moving:
            rate = rate + state["log_densities"] @ (self.path.betas(b.t) - betas).to(rate.device) / h
        return control.features(seen, centre, seen.force), rate

    def _slope(self, state: State, at: Level, fitted: Fitted | None) -> tuple[Tensor, Tensor]:
        """dy/du, (n, d), and the rate of the log-weights per unit of λ without r and β̇, (n,)."""
        seen = self._view(state, at)
        rate = imbalance(seen.noises, self.path.betas(at.t))
        if fitted is None or self.control is None:
            return seen.mixed, rate
        rate = rate + self.control.features(seen, fitted.centre, -seen.mixed) @ fitted.theta
        return seen.mixed - self.control.drift(seen, fitted) / at.ratio, rate

    def _transport(
        self, state: State, a: Level, b: Level, fitted: Fitted | None, stream: Stream
    ) -> tuple[State, Tensor]:
        y, h, shape = state["x"].flatten(1), b.log_snr - a.log_snr, state["x"].shape
        linear, decay, whole, share = (weight.to(y) for weight in self._frame(a, b, fitted))
        slope, rate_before = self._slope(state, a, fitted)
        before = linear * y - a.ratio * slope
        seen = self.sight.look((decay * y + whole * before).reshape(shape), b, stream.child("predicted"))
        slope, rate_after = self._slope(seen, b, fitted)
        after = linear * seen["x"].flatten(1) - (b.ratio if self._is_stiff(b) else a.ratio) * slope
        y = (decay * y + (whole - share) * before + share * after).reshape(shape)
        log_weight = 0.5 * h * (rate_before + rate_after)
        if self.path.is_moving:
            turned = self.path.betas(b.t) - self.path.betas(a.t)
            densities = 0.5 * (state["log_densities"] + seen["log_densities"])
            log_weight = log_weight + densities @ turned.to(y.device)
        tilt = self.sight.tilt(y, b, stream.child("arrived"))
        if tilt:
            log_weight = log_weight + tilt["r"] - state["r"]
        return {**seen, **tilt, "x": y}, log_weight

    def _is_stiff(self, at: Level) -> bool:
        """Whether Σ β > 1: the flow contracts faster than the noise falls; its linear part is solved exactly."""
        return float(self.path.betas(at.t).sum()) > 1 + 1e-9

    def _frame(self, a: Level, b: Level, fitted: Fitted | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """B of dy/dλ = −B y + G with G linear in λ, and the weights of a step; for Σ β ≤ 1 slopes dy/du linear in λ.

        Both are exact where the data are points; the second errs less where it is stable.
        """
        h, zero = b.log_snr - a.log_snr, torch.zeros((), dtype=torch.float64)
        if not self._is_stiff(b):  # in units of u_a: ∫ e^{−s} ds and ∫ e^{−s} s/h ds
            return zero, zero + 1, zero - math.expm1(-h), zero - (math.expm1(-h) + h * math.exp(-h)) / h
        total = 0.5 * (self.path.betas(a.t).sum() + self.path.betas(b.t).sum())
        if fitted is not None and self.control is not None:
            total = total.to(fitted.theta.device) + self.control.score_part(fitted, len(self.path.experts))
        return total, *_exponential(total, h)

    def _rejuvenate(self, state: State, a: Level, b: Level, stream: Stream) -> tuple[State, Tensor]:
        """One Langevin move at level b, and which particles made it: 1 or 0, and NaN where what it met is no number.

        Noise predictions at the start of the jump are those of the predictor.
        """
        shape, total = state["x"].shape, float(self.path.betas(b.t).sum())
        kappa = 0.5 * self.noise**2 * total * (1 - (b.ratio / a.ratio) ** 2)
        push = -b.ratio * math.expm1(-kappa) / total  # displacement for each u ∇log γ: bounded by that to the mean
        width = math.sqrt(2 * push * b.ratio)
        here = self._view(state, b)
        noise = _normal(state["x"], stream.child("noise")).flatten(1)
        there = here.y + push * here.force + width * noise
        seen = self.sight.look(there.reshape(shape), b, stream.child("proposed"))
        met = self._view(seen, b)
        made = torch.where(_broken(state, met, seen), math.nan, 1.0).double()
        if not self.adjusted:
            return seen, made
        back = (here.y - there - push * met.force) / width
        along = ((here.mixed + met.mixed) * (there - here.y)).double().sum(1) / (2 * b.ratio)
        log_ratio = 0.5 * (noise.double() ** 2 - back.double() ** 2).sum(1) - along
        if self.path.potential is not None:
            log_ratio = log_ratio + seen["r"] - state["r"]
        dice = stream.child("accept").uniform(len(there), dtype=torch.float64, device=there.device)
        accepted = dice.log() < log_ratio
        chosen = {
            name: torch.where(accepted.reshape(-1, *[1] * (value.ndim - 1)), value, state[name])
            for name, value in seen.items()
        }
        return chosen, made * accepted

    def _euler(self, state: State, a: Level, b: Level, fitted: Fitted | None, stream: Stream) -> tuple[State, Tensor]:
        """The move of order 1 with its weights."""
        shape, h, half = state["x"].shape, b.log_snr - a.log_snr, 0.5 * (a.ratio**2 - b.ratio**2)
        slope, rate = self._slope(state, a, fitted)
        here = self._view(state, a)
        flowed = here.y + (b.ratio - a.ratio) * slope
        noise = _normal(state["x"], stream.child("noise")).flatten(1)
        there = flowed + self.noise**2 * half / a.ratio * here.force + self.noise * math.sqrt(2 * half) * noise
        seen = self.sight.look(there.reshape(shape), b, stream.child("moved"))
        if self.weights == "kernel_ratio":
            return seen, self._kernel_ratio(state, seen, a, b, noise)
        log_weight = h * rate
        if self.path.is_moving:
            turned = self.path.betas(b.t) - self.path.betas(a.t)
            log_weight = log_weight + state["log_densities"] @ turned.to(rate.device)
        if self.path.potential is not None:
            log_weight = log_weight + self.sight.value(flowed.reshape(shape), b) - state["r"]
        return seen, log_weight

    def _kernel_ratio(self, state: State, seen: State, a: Level, b: Level, noise: Tensor) -> Tensor:
        """Σ β_i log B_i/F_i + Δr + log L − log m; all kernels have the variance V² h, whose constants cancel."""
        here, met, half, extra = (
            self._view(state, a),
            self._view(seen, b),
            0.5 * (a.ratio**2 - b.ratio**2),
            self.noise**2,
        )
        jump = (met.y - here.y)[:, None]
        backward = jump + (1 + extra) * half / a.ratio * here.noises
        forward = jump + (1 - extra) * half / b.ratio * met.noises
        reverse = met.y - here.y + half / b.ratio * (met.mixed + extra * met.force)
        spread = 2 * (2 * half * extra)
        each = ((forward.double() ** 2).sum(2) - (backward.double() ** 2).sum(2)) / spread
        log_weight = each @ self.path.betas(b.t).to(each.device)
        log_weight = log_weight + 0.5 * (noise.double() ** 2).sum(1) - (reverse.double() ** 2).sum(1) / spread
        if self.path.is_moving:
            turned = self.path.betas(b.t) - self.path.betas(a.t)
            log_weight = log_weight + state["log_densities"] @ turned.to(each.device)
        return log_weight if self.path.potential is None else log_weight + seen["r"] - state["r"]


def _exponential(rate: Tensor, h: float) -> tuple[Tensor, Tensor, Tensor]:
    """e^{−Bh}, and ∫ e^{−B(h−s)} ds and ∫ e^{−B(h−s)} s/h ds over a step h."""
    z = -rate * h
    small = z.abs() < 1e-3
    safe = torch.where(small, 1.0, z)
    first = torch.where(small, 1 + z / 2 + z**2 / 6, torch.expm1(safe) / safe)
    second = torch.where(small, 0.5 + z / 6 + z**2 / 24, (torch.expm1(safe) - safe) / safe**2)
    return z.exp(), h * first, h * second


def _broken(state: State, met: View, seen: State) -> Tensor:
    """Particles, of those that weigh anything, that meet NaN or +inf; −inf is a weight, and its gradient no number."""
    broken = ~met.mixed.isfinite().all(1)
    if "r" not in seen:
        return broken
    lost, value = seen["r"] == -math.inf, seen["r"]
    return (broken | ~(lost | value.isfinite()) | ~(lost | met.pull.isfinite().all(1))) & (state["r"] > -math.inf)


def _normal(x: Tensor, stream: Stream) -> Tensor:
    return stream.normal(len(x), x.shape[1:], dtype=x.dtype, device=x.device)


def _since_resampling(state: State, stream: Stream) -> Tensor:
    """Log-weights gathered since the driver last resampled, which shows in particles that changed their slot."""
    return torch.where(were_resampled(state, stream), 0.0, state["log_weight"])


def marginal(path: TargetPath, times: Tensor | Sequence[float], **options: object) -> MarginalModel:
    """The model of a target path over a grid of times; a last time with σ = 0 is left out.

    Args:
        path: what to follow.
        times: increasing grid.
        options: those of `MarginalModel`.
    Raises:
        InputError: a grid that starts at α = 0, or mixtures whose product has no normalising constant.
    """
    grid = checked(times)
    if float(path.schedule.sigma(grid[-1])) == 0:
        grid = grid[:-1]
    model = MarginalModel(path, tuple(grid), **options)  # type: ignore[arg-type]
    check_normalisable(path, model.levels)
    return model
