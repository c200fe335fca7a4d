"""A value, its derivatives and its Laplacian carried through a perceptron together: second derivatives in one pass.

Numbers travel as channels, (channel, batch, width): the value f, its rate ∂_l f, its slopes ∂_i f along each
coordinate, and, where there are slopes, last its Laplacian Δf. A linear layer acts on each channel alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Derivatives(NamedTuple):
    """Of a log-density φ(z, l) at each row.

    Attributes:
        slope: ∇φ, like z.
        laplacian: Δφ, (batch,).
        rate: ∂φ/∂l, (batch,).
    """

    slope: Tensor
    laplacian: Tensor
    rate: Tensor


def silu_slope(u: Tensor, s: Tensor) -> Tensor:
    """The derivative of u s(u), s the logistic function at u."""
    return s * (1 + u * (1 - s))


def silu_layer(x: Tensor, weight: Tensor, bias: Tensor, moved: Tensor | None = None) -> Tensor:
    """Channels of silu(u), u = W x + b + m, from those of x and of m.

        f = s(u),   ∂_l f = s'(u) ∂_l u,   ∂_i f = s'(u) ∂_i u,   Δf = s'(u) Δu + s''(u) Σ_i (∂_i u)²

    A gradient can be taken once.

    Args:
        x: (2, batch, features) without slopes, or (2 + d + 1, batch, features).
        weight: W, (width, features).
        bias: b, (width,).
        moved: value and rate of m, which has no slopes, (2, batch, width); None for none.
    Source: Li et al. (2024), A computational framework for neural network-based variational Monte Carlo with Forward
        Laplacian, eq. 5.
    """
    found: Tensor = _SiLULayer.apply(x, weight, bias, moved)
    return found


class _SiLULayer(torch.autograd.Function):
    """Its gradient in closed form: autograd through some ten products of each layer would cost three times as much."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, moved: Tensor | None) -> Tensor:
        u = x @ weight.T
        if moved is not None:
            u[:2] += moved
        u[0] += bias
        s = u[0].sigmoid()
        steep, first = silu_slope(u[0], s), s * (1 - s)
        found = steep * u
        torch.mul(u[0], s, out=found[0])
        if len(u) > 2:
            bend = first * (2 + u[0] * (1 - 2 * s))
            found[-1].addcmul_(bend, u[2:-1].square().sum(0))
        ctx.save_for_backward(x, weight, u, s, steep, first)
        ctx.is_moved = moved is not None
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, u, s, steep, first = ctx.saved_tensors  # first, second, third derivatives of s
        second = first * (1 - 2 * s)
        bend = torch.addcmul(2 * first, u[0], second)
        found = steep * g
        found[0].addcmul_(bend, (g[1:] * u[1:]).sum(0))
        if len(u) > 2:
            third = second * (1 - 2 * s) - 2 * first * first
            found[0].addcmul_(torch.addcmul(3 * second, u[0], third) * g[-1], u[2:-1].square().sum(0))
            found[2:-1].addcmul_(2 * bend * g[-1], u[2:-1])
        to_x = found @ weight if ctx.needs_input_grad[0] else None
        to_weight = found.flatten(0, 1).T @ x.flatten(0, 1)
        return to_x, to_weight, found[0].sum(0), found[:2] if ctx.is_moved else None
