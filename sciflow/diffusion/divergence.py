"""The trace of a Jacobian from products with its transpose: what a density along a flow asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from sciflow.random import Stream

Pullback = Callable[[Tensor], Tensor]  # v ↦ Jᵀ v for each row, shape (n, d)
Law = Literal["rademacher", "gaussian"]


class Divergence(Protocol):
    """An estimate of tr J from products with Jᵀ."""

    def probes(self, n: int, d: int, stream: Stream | None) -> Tensor:
        """The random vectors of one call, (vectors, n, d): fixed for the whole solve, or it would solve no ODE."""
        ...

    def columns(self, d: int) -> int:
        """How many estimates each row gets."""
        ...

    def __call__(self, pullback: Pullback, probes: Tensor) -> Tensor:
        """Estimates of tr J, shape (n, columns)."""
        ...


@dataclass(frozen=True)
class ExactDivergence:
    """The trace of the Jacobian, one coordinate at a time.

        tr J = Σ_i e_iᵀ J e_i

    Exactness: exact.
    Cost: 1 call and d vector–Jacobian products.
    Bias: none.
    Source: Chen et al. (2018), Neural ordinary differential equations, theorem 1.
    """

    def probes(self, n: int, d: int, stream: Stream | None) -> Tensor:
        return torch.eye(d, dtype=torch.float64)[:, None].expand(d, n, d)

    def columns(self, d: int) -> int:
        return 1

    def __call__(self, pullback: Pullback, probes: Tensor) -> Tensor:
        return sum((v * pullback(v)).sum(-1, keepdim=True) for v in probes)


def _drawn(law: Law, k: int, n: int, d: int, stream: Stream | None, solver: str) -> Tensor:
    """Random vectors with identity covariance, (k, n, d); row j gets the same for any n."""
    if stream is None:
        raise ValueError(f"{solver} draws random probes. Pass stream=Stream(seed), or use ExactDivergence().")
    z = stream.normal(n, (k, d), dtype=torch.float64).transpose(0, 1)
    return z if law == "gaussian" else torch.where(z > 0, 1.0, -1.0).to(z.dtype)


@dataclass(frozen=True)
class Hutchinson:
    """Random probes instead of coordinates.

        tr J ≈ vᵀ J v,   E[v vᵀ] = I

    Exactness: unbiased for each probe, and so for the log-likelihood's integral; exact at diagonal J (Rademacher).
    Cost: 1 call and `n_probes` vector–Jacobian products.
    Bias: none in log p; variance 2 Σ_{i≠j} J_ij² (Rademacher) or 2 ‖J‖² (Gaussian) for symmetric J, over n_probes.
    Args:
        n_probes: probes per row; at least 2 for a standard error.
        law: of a probe.
    Source: Hutchinson (1989); Grathwohl et al. (2019), FFJORD, for the fixed probe.
    """

    n_probes: Annotated[int, Field(gt=0)] = 8
    law: Law = "rademacher"

    def probes(self, n: int, d: int, stream: Stream | None) -> Tensor:
        return _drawn(self.law, self.n_probes, n, d, stream, "Hutchinson")

    def columns(self, d: int) -> int:
        return self.n_probes

    def __call__(self, pullback: Pullback, probes: Tensor) -> Tensor:
        return torch.stack([(v * pullback(v)).sum(-1) for v in probes], -1)


@dataclass(frozen=True)
class HutchPlusPlus:
    """The trace on the range of a sketch exactly, Hutchinson on what is left.

        Q = orth(Jᵀ S),   tr J ≈ tr QᵀJQ + mean_g gᵀ P J P g,   P = I − QQᵀ

    For a denoiser J is ∂D/∂x, whose rank is the dimension of the data where that is low.

    Exactness: unbiased; exact when rank J ≤ n_probes.
    Cost: 1 call and 3 `n_probes` vector–Jacobian products, and a QR of (d, n_probes) per row.
    Bias: none.
    Args:
        n_probes: vectors of the sketch, and probes besides.
        law: of both.
    Source: Meyer et al. (2021), Hutch++, algorithm 1.
    """

    n_probes: Annotated[int, Field(gt=0)] = 4
    law: Law = "rademacher"

    def probes(self, n: int, d: int, stream: Stream | None) -> Tensor:
        return _drawn(self.law, 2 * self.n_probes, n, d, stream, "HutchPlusPlus")

    def columns(self, d: int) -> int:
        return self.n_probes

    def __call__(self, pullback: Pullback, probes: Tensor) -> Tensor:
        sketch, rest = probes.split(self.n_probes)
        basis = torch.linalg.qr(torch.stack([pullback(v) for v in sketch], -1))[0]  # (n, d, k)
        inside = sum((q * pullback(q)).sum(-1, keepdim=True) for q in basis.unbind(-1))
        outside = [v - (basis @ (basis.mT @ v[..., None]))[..., 0] for v in rest]
        return inside + torch.stack([(v * pullback(v)).sum(-1) for v in outside], -1)
