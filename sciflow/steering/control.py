"""Control drifts: an extra velocity that costs h = ∇·c + c·∇log γ and is chosen so that the weights hardly change.

E[h] = 0 under the target for any c (Stein's identity), so any c gives a right sampler; the one that makes R + h most
nearly constant keeps the ensemble alive. Everything here is in y = x/α and in the clock λ = log(α/σ).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from sciflow.errors import InputError
from sciflow.steering.sight import View

Basis = Literal["position", "affine", "score", "gradient"]
BASES: tuple[Basis, ...] = ("position", "affine", "score", "gradient")
LEAST = 8  # particles for each function that is fitted
RIDGE = 1e-3  # of the least squares, for features of unit variance


class Fitted(NamedTuple):
    """Coefficients θ_j, float64, and the centre that positions are measured from: one pair for all particles."""

    theta: Tensor
    centre: Tensor


@dataclass(frozen=True)
class Control:
    """c = Σ_j θ_j c_j with θ by weighted least squares on the particles, anew at each step.

        θ = argmin Var_W[R + Σ_j θ_j h_j] + 10⁻³ Σ_j θ_j² Var_W[h_j],   h_j = ∇·c_j + c_j·∇log γ

        basis      c_j per unit of λ              ∇·c_j
        position   y − ȳ                          d
        affine     the d² + d parts of A y + b    tr A
        score      u² ∇log p_i, each expert       tr ∂D_i/∂y − d, by random probes
        gradient   u² ∇r                          u² Δr, by the potential's `laplacian`, or by random probes

    Exactness: right for any θ as steps shrink; "affine" keeps the weights of Gaussian targets equal.
    Cost: score: `probes` backward passes with each denoiser call; gradient: as many through the potential; position and
        affine: no call.
    Bias: θ is fitted to the particles that it moves, so the evidence is consistent, not unbiased; the noise of probes
        enters the log-weights with O(√step) in total.
    Args:
        basis: which drifts.
        probes: Rademacher probes of a trace; 0 takes exact traces, from `covariance(x, t)` of the experts.
        fixed: θ itself in place of the fit, one number for each function; not for "affine".
    Raises:
        InputError: no basis, one twice or an unknown one; fixed numbers that are not one for each function.
    Source: Ren et al. (2025), DriftLite.
    """

    basis: tuple[Basis, ...] = ("position", "score")
    probes: Annotated[int, Field(ge=0)] = 1
    fixed: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.basis if name not in BASES]
        if unknown or not self.basis or len(set(self.basis)) != len(self.basis):
            raise InputError(f"a control needs different bases out of {list(BASES)}, got {list(self.basis)}.")
        if {"position", "affine"} <= set(self.basis):
            raise InputError("the basis 'affine' contains 'position'. Name one of the two.")
        if self.probes < 0 or (self.fixed is not None and "affine" in self.basis):
            raise InputError(f"a control needs probes ≥ 0, got {self.probes}, and fits 'affine': leave `fixed` out.")

    def features(self, view: View, centre: Tensor, force: Tensor) -> Tensor:
        """∇·c_j + c_j·F per unit of λ, (n, functions), float64, for a force given as u F, (n, d)."""
        n, d = view.y.shape
        moved = (view.y - centre).double()
        force = force.double()
        columns: list[Tensor] = []
        for name in self.basis:
            if name == "position":
                columns.append(d + (moved * force).sum(1, keepdim=True) / view.ratio)
            elif name == "affine":
                eye = torch.eye(d, dtype=torch.float64, device=force.device)
                columns += [(moved[:, :, None] * force[:, None] / view.ratio + eye).reshape(n, d * d), force]
            elif name == "score":
                assert view.traces is not None
                columns.append(view.traces.double() - d - torch.einsum("nid,nd->ni", view.noises.double(), force))
            else:
                assert view.laplacian is not None
                columns.append(view.laplacian.double()[:, None] + (view.pull.double() * force).sum(1, keepdim=True))
        return torch.cat(columns, 1)

    def drift(self, view: View, fitted: Fitted) -> Tensor:
        """c per unit of λ, (n, d)."""
        d, moved, total = view.y.shape[1], view.y - fitted.centre, torch.zeros_like(view.y)
        for name, coefficients in self.parts(fitted, view.noises.shape[1]).items():
            theta = coefficients.to(view.y)
            if name == "position":
                total = total + theta * moved
            elif name == "affine":
                total = total + moved @ theta[: d * d].reshape(d, d) + view.ratio * theta[d * d :]
            elif name == "score":
                total = total - view.ratio * torch.einsum("i,nid->nd", theta, view.noises)
            else:
                total = total + view.ratio * theta * view.pull
        return total

    def score_part(self, fitted: Fitted, n_experts: int) -> Tensor:
        """The sum of the coefficients of the scores, 0 without them."""
        return self.parts(fitted, n_experts).get("score", fitted.theta.new_zeros(())).sum()

    def parts(self, fitted: Fitted, n_experts: int) -> dict[Basis, Tensor]:
        """The coefficients of each basis, float64."""
        d = fitted.centre.numel()
        size = {"position": 1, "affine": d * d + d, "score": n_experts, "gradient": 1}
        split = fitted.theta.split([size[name] for name in self.basis])
        return dict(zip(self.basis, split, strict=True))

    def fit(self, features: Tensor, rate: Tensor, weights: Tensor, centre: Tensor) -> Fitted:
        """θ for one step; overwrites features and rate.

        Args:
            features: of the particles under ∇log γ, about their centre, (n, functions), float64.
            rate: R per unit of λ, the potential's part included, (n,), float64.
            weights: of the particles, (n,), float64, sum 1.
            centre: where positions are measured from, (d,).
        """
        if self.fixed is not None:
            if len(self.fixed) != features.shape[1]:
                raise InputError(f"this control has {features.shape[1]} functions, got {len(self.fixed)} fixed values.")
            return Fitted(torch.tensor(self.fixed, dtype=torch.float64, device=features.device), centre)
        if LEAST * features.shape[1] > len(rate):
            raise InputError(
                f"a control of {features.shape[1]} functions is fitted to at least {LEAST} particles for each, "
                f"got {len(rate)} in all. Use more particles, a smaller basis or none."
            )
        root = weights.sqrt()
        columns = features.sub_(weights @ features).mul_(root[:, None])
        target = rate.sub_(weights @ rate).mul_(root)
        size = columns.norm(dim=0)
        size = torch.where(size > 0, size, 1.0)
        return Fitted(-_least_squares(columns.div_(size), target) / size, centre)


def _least_squares(columns: Tensor, target: Tensor) -> Tensor:
    """Ridge regression on columns of unit length: what is nearly collinear stays small despite noisy probes."""
    eye = torch.eye(columns.shape[1], dtype=columns.dtype, device=columns.device)
    return torch.linalg.solve(columns.T @ columns + RIDGE * eye, columns.T @ target)
