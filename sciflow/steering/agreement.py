"""Several learned laws that must agree: paths on which all of them stay equally likely. No law is declared."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser, Tiled
from sciflow.diffusion.ito import log_change
from sciflow.particles.feynman_kac import State
from sciflow.random import Stream
from sciflow.steering.compose import aligned, finite_levels, ratio, scores, started


@dataclass(frozen=True)
class AndModel:
    """All of several experts: the move along which their log-densities change alike.

        in y = x/α, u = σ/α, h = u_a² − u_b²:  s_i = ∇ log q_i,  B = (s_2 − s_1, …, s_M − s_1),  P = I − B(BᵀB)⁺Bᵀ
        Δy = P(h s_1 + √h z) + B(BᵀB)⁺c,   c_i = ½h(‖s_i‖² − ‖s_1‖²) + ½h(τ_i − τ_1),   τ_i = tr((I − P)∇s_i)

    the step of the reverse SDE with the score Σ_i w_i s_i, Σ_i w_i = 1, whose weights solve d log q_i = d log q_1. Its
    noise lies across B, so Itô's second-order term along B is missing and the Laplacian of log q_i does not cancel
    there: τ_i is what is left. The published method leaves it out (`curvature = False`), and its densities drift apart
    however small the step.

    State: "x", and "log_q" of y, (n, experts), whose differences stay what they were. The last move goes to the data,
    without noise. Potentials are 0; the noise is singular, so no weight can turn its law into another.

    Target: none.
    Exactness: differences of log q_i stay constant as steps → ∞, O(N^{−1/2}) per path.
    Cost: one call of each of M experts per level, and with the curvature M(M − 1) backward passes.
    Bias: where the experts' scores are all but equal, the curvature is large against them and so is the move.
    Args:
        experts: denoisers of one schedule and shape; a single one has its reverse SDE.
        levels: increasing times with α > 0 and σ > 0.
        curvature: keep τ_i; False is the published method.
        tile: rows per expert call.
        like: dtype and device of the state.
    Raises:
        InputError: experts that do not belong together, or levels beyond α > 0 and σ > 0.
    Source: Skreta et al. (2025), The superposition of diffusion models using the Itô density estimator, algorithm 1
        (AND); τ_i is derived here.
    """

    experts: tuple[Denoiser, ...]
    levels: tuple[float, ...]
    curvature: bool = True
    tile: int = 1024
    like: Tensor = field(default_factory=lambda: torch.empty(0))

    def __post_init__(self) -> None:
        aligned(self.experts)
        finite_levels(self.experts[0].schedule, self.levels)

    @property
    def n_steps(self) -> int:
        """One move to each further level, and one to the data."""
        return len(self.levels)

    def initial(self, n: int, stream: Stream) -> tuple[State, Tensor]:
        return started(self.experts, aligned(self.experts), self.levels[0], n, stream, self.like)

    def step(self, k: int, state: State, stream: Stream) -> tuple[State, Tensor]:
        x, is_last, schedule = state["x"], k == self.n_steps - 1, self.experts[0].schedule
        alpha_a, u_a = ratio(schedule, self.levels[k])
        alpha_b, u_b = (1.0, 0.0) if is_last else ratio(schedule, self.levels[k + 1])
        h, y = u_a**2 - u_b**2, (x.double() / alpha_a).flatten(1)
        seen = [self._look(rows, k, self.curvature and not is_last) for rows in x.split(self.tile)]
        s, bend, basis, inverse = (torch.cat(parts) for parts in zip(*seen, strict=True))
        wanted, free = 0.5 * h * (s.square().sum(2) + bend), h * s[:, 0]
        if not is_last:
            noise = stream.child("noise").normal(len(x), x.shape[1:], dtype=x.dtype, device=x.device)
            free = free + math.sqrt(h) * noise.flatten(1).double()
        free = free - (basis @ (basis.mT @ free[..., None]))[..., 0]
        moved = free + (inverse @ (wanted[:, 1:] - wanted[:, :1])[..., None])[..., 0]
        log_q = state["log_q"] + log_change("left", moved[:, None], s, u_a, u_b) - 0.5 * h * bend
        after = (alpha_b * (y + moved)).to(x.dtype).reshape(x.shape)
        return {"x": after, "log_q": log_q}, torch.zeros_like(log_q[:, 0])

    def _look(self, x: Tensor, k: int, is_curved: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """s and τ of one tile, and what `_span` says of s; τ = Σ_q (α qᵀ ∂D_i/∂x q − 1)/u² for the columns q."""
        t = self.levels[k]
        alpha, u = ratio(self.experts[0].schedule, t)
        with torch.inference_mode(False), torch.set_grad_enabled(is_curved):
            state = x.detach().clone().requires_grad_(is_curved)
            data = [Tiled(expert, self.tile)(state, t) for expert in self.experts]
        s = scores(torch.stack(data, 1).detach(), x.double() / alpha, u)
        basis, inverse = _span(s, torch.finfo(x.dtype).eps)
        bend = s.new_zeros(s.shape[:2])
        for i, one in enumerate(data if is_curved else ()):
            for q in basis.to(x.dtype).unbind(2):
                v = q.reshape(x.shape)
                pulled = torch.autograd.grad(one, state, v, retain_graph=True, materialize_grads=True)[0]
                bend[:, i] += (alpha * (v * pulled).flatten(1).double().sum(1) - q.double().square().sum(1)) / u**2
        return s, bend, basis, inverse


def _span(s: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Orthonormal columns Q that span the differences B of the scores, and B(BᵀB)⁺ = Q Λ^{−1/2} Vᵀ; (n, d, M − 1).

    Differences below the rounding of the scores span nothing: their columns are 0.
    """
    differences = (s[:, 1:] - s[:, :1]).mT
    values, vectors = torch.linalg.eigh(differences.mT @ differences)
    is_known = values > epsilon**2 * s.square().sum((1, 2))[:, None]
    lengths = torch.where(is_known, values, 1.0).rsqrt() * is_known
    basis = differences @ vectors * lengths[:, None]
    return basis, (basis * lengths[:, None]) @ vectors.mT
