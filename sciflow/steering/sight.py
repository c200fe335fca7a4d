"""What is known of particles at one noise level: noise predictions, traces of Jacobians, and the potential."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.errors import InputError
from sciflow.particles.feynman_kac import State
from sciflow.random import Stream
from sciflow.steering.target import Potential, TargetPath, pull
from sciflow.types import Time


@dataclass(frozen=True)
class Level:
    """One noise level.

    Args:
        t: time.
        alpha: α.
        ratio: u = σ/α.
    """

    t: float
    alpha: float
    ratio: float

    @classmethod
    def of(cls, path: TargetPath, t: float) -> Level:
        """Raises InputError where α = 0: y = x/α is not defined there."""
        alpha, sigma = float(path.schedule.alpha(t)), float(path.schedule.sigma(t))
        if alpha <= 0 or sigma <= 0:
            raise InputError(
                f"marginal weights need α > 0 and σ > 0, got α = {alpha:g}, σ = {sigma:g} at t = {t:g}. "
                "Choose a grid with finite noise levels."
            )
        return cls(t, alpha, sigma / alpha)

    @property
    def log_snr(self) -> float:
        """λ = −log u."""
        return -math.log(self.ratio)


class View(NamedTuple):
    """Particles at one level in y = x/α, events flattened; forces come multiplied by u and stay bounded.

    Attributes:
        y: states, (n, d).
        ratio: u.
        noises: E_i, (n, experts, d).
        mixed: Σ β_i E_i = −u σ, (n, d).
        pull: u ∇_y r, (n, d).
        traces: tr ∂D_i/∂y, (n, experts), where asked for.
        laplacian: u² Δ_y r, (n,), where asked for.
    """

    y: Tensor
    ratio: float
    noises: Tensor
    mixed: Tensor
    pull: Tensor
    traces: Tensor | None
    laplacian: Tensor | None

    @property
    def force(self) -> Tensor:
        """u ∇_y log γ, (n, d)."""
        return self.pull - self.mixed


def view(state: State, at: Level, betas: Tensor) -> View:
    """The view of a state that `look` made."""
    y, noises = state["x"].flatten(1), state["noises"]
    mixed = torch.einsum("i,nid->nd", betas.to(y), noises)
    steered = state["pull"] if "pull" in state else torch.zeros_like(y)
    return View(y, at.ratio, noises, mixed, steered, state.get("traces"), state.get("laplacian"))


@dataclass(frozen=True)
class Sight:
    """How particles are looked at: one call of each expert and of the potential, a fixed number of rows at a time.

    Args:
        path: experts and potential.
        traces: also the traces of the experts' Jacobians.
        laplacian: also the Laplacian of the potential.
        probes: Rademacher probes of a trace; 0 asks the expert for its `covariance(x, t)`.
        tile: rows of one call.
    """

    path: TargetPath
    traces: bool = False
    laplacian: bool = False
    probes: int = 1
    tile: int = 1024

    def look(self, y: Tensor, at: Level, stream: Stream) -> State:
        """The state of particles at y = x/α, (n, *shape)."""
        return {"x": y, **self._tiled(lambda rows, probes: self._experts(rows, at, probes), y, stream, self.traces),
                **self.tilt(y, at, stream)}  # fmt: skip

    def tilt(self, y: Tensor, at: Level, stream: Stream) -> State:
        """The potential's part: "r", "pull", "laplacian"; nothing without a potential."""
        potential = self.path.potential
        if potential is None:
            return {}
        return self._tiled(
            lambda rows, probes: self._potential(potential, at.alpha * rows, at, probes),
            y,
            stream.child("potential"),
            self.laplacian,
        )

    def value(self, y: Tensor, at: Level) -> Tensor:
        """r alone, (n,), float64."""
        potential = self.path.potential
        if potential is None:
            return torch.zeros(len(y), dtype=torch.float64, device=y.device)
        return torch.cat([_valued(potential, at.alpha * rows, at.t) for rows in y.split(self.tile)])

    def _tiled(
        self, function: Callable[[Tensor, Tensor | None], State], y: Tensor, stream: Stream, is_probing: bool
    ) -> State:
        probes: list[Tensor | None] = [None] * -(-len(y) // self.tile)
        if is_probing and self.probes:
            shape = (self.probes, *y.shape[1:])
            normals = stream.normal(len(y), shape, dtype=y.dtype, device=y.device)
            probes = list(torch.where(normals > 0, 1.0, -1.0).to(y.dtype).split(self.tile))
        parts = [function(rows, signs) for rows, signs in zip(y.split(self.tile), probes, strict=True)]
        return parts[0] if len(parts) == 1 else {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _experts(self, y: Tensor, at: Level, probes: Tensor | None) -> State:
        x, found = at.alpha * y, dict[str, Tensor]()
        if self.traces:
            seen = [_traced(expert, x, at, probes) for expert in self.path.experts]
            found["traces"] = torch.stack([trace for _, trace in seen], 1)
            datas = [data for data, _ in seen]
        else:
            datas = [expert(x, at.t) for expert in self.path.experts]
        found["noises"] = torch.stack([((y - data) / at.ratio).flatten(1) for data in datas], 1)
        if self.path.is_moving:
            found["log_densities"] = self.path.log_densities(x, at.t) + y[0].numel() * math.log(at.alpha)
        return found

    def _potential(self, potential: Potential, x: Tensor, at: Level, probes: Tensor | None) -> State:
        found = {"r": _valued(potential, x, at.t)}
        if self.laplacian:
            gradient, laplacian = _curved(potential, x, at.t, probes)
            found["laplacian"] = (at.alpha * at.ratio) ** 2 * laplacian
        else:
            gradient = pull(potential, x, at.t)
        return {**found, "pull": at.alpha * at.ratio * gradient.flatten(1)}


def _valued(potential: Potential, x: Tensor, t: float) -> Tensor:
    value = potential(x, t).detach()
    if value.shape != (len(x),):
        raise InputError(f"a potential must give one number for each particle, ({len(x)},), got {tuple(value.shape)}.")
    return value.double()


def _trace(function: Callable[[Tensor], Tensor], x: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
    """f(x) and the mean over probes of vᵀ (∂f/∂x) v."""
    with torch.inference_mode(False), torch.enable_grad():
        state = x.detach().clone().requires_grad_()
        value = function(state)
    total = x.new_zeros(len(x))
    with torch.inference_mode(False):
        for v in probes.clone().unbind(1):
            (back,) = torch.autograd.grad(value, state, v, retain_graph=True, materialize_grads=True)
            total = total + (v * back).flatten(1).sum(1)
    return value.detach(), total / probes.shape[1]


def _traced(expert: Denoiser, x: Tensor, at: Level, probes: Tensor | None) -> tuple[Tensor, Tensor]:
    """D and tr ∂D/∂y = α tr ∂D/∂x, by probes or from Cov[x₁ | x] = (σ²/α) ∂D/∂x."""
    if probes is None:
        covariance: Callable[[Tensor, Time], Tensor] | None = getattr(expert, "covariance", None)
        if covariance is None:
            raise InputError(f"{type(expert).__name__} has no covariance(x, t) for exact traces. Take probes ≥ 1.")
        return expert(x, at.t), covariance(x, at.t).diagonal(dim1=1, dim2=2).sum(1) / at.ratio**2
    data, trace = _trace(lambda state: expert(state, at.t), x, probes)
    return data, at.alpha * trace


def _curved(potential: Potential, x: Tensor, t: float, probes: Tensor | None) -> tuple[Tensor, Tensor]:
    """∇r and Δr, by the potential's own `laplacian(x, t)` or by probes."""
    own: Callable[[Tensor, float], Tensor] | None = getattr(potential, "laplacian", None)
    if own is not None:
        return pull(potential, x, t), own(x, t)
    if probes is None:
        raise InputError(f"{type(potential).__name__} has no laplacian(x, t) for exact values. Take probes ≥ 1.")

    def gradient(state: Tensor) -> Tensor:
        given: Callable[[Tensor, float], Tensor] | None = getattr(potential, "gradient", None)
        if given is not None:
            return given(state, t)
        return torch.autograd.grad(potential(state, t).sum(), state, create_graph=True)[0]

    return _trace(gradient, x, probes)
