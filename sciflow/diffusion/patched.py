"""A denoiser of small pieces as one of whole images, of any size: all are denoised, and what they say is averaged."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import fold, pad, unfold

from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.schedule import Scaled
from sciflow.errors import InputError
from sciflow.random import Stream
from sciflow.types import Time


@dataclass(frozen=True)
class PatchedDenoiser:
    """D(x, t) of an image from a denoiser D_p of its pieces, squares of side p that overlap and go around its edges.

        D = (s/p)² Σ_i R_iᵀ D_p(R_i x),   R_i the pieces at every s-th pixel along both axes
        (D α − x)/σ² = ∇ log q_t,   q_t(x) ∝ Π_i p_t(R_i x)^(s²/p²),   p_t the noised law of a piece

    Each pixel is told as often by its pieces, so that the sum is the score of a product of laws of pieces, and its
    derivative a symmetric positive semi-definite covariance.

    Exactness: exact for images of independent pixels of one law. Else q_t is not the noised q_1: pieces know nothing of
        what lies beside them.
    Cost: (y x/s²) calls of D_p of one row each.
    Bias: of two pixels d apart the implied covariance keeps about (1 − |d_y|/p)(1 − |d_x|/p), and none from p on:
        what the measurement leaves open at larger distances is left to chance. Smaller strides, fewer seams.
    Args:
        piece: denoiser of (channel, p, p).
        schedule: noise levels, those of `piece`, scaled by the standard deviation of the data.
        shape: (channel, y, x).
        stride: s; divides p, y and x.
        mean: of the data [data units], for the start.
    Raises:
        InputError: a stride that does not divide, or an image smaller than a piece.
    Source: Zoran and Weiss (2011), From learning models of natural image patches to whole image restoration, whose
        expected log-likelihood of pieces is the exponent here at s = 1.
    """

    piece: Denoiser
    schedule: Scaled
    shape: tuple[int, ...]
    stride: int
    mean: float

    def __post_init__(self) -> None:
        side, (y, x) = self.piece.shape[-1], self.shape[-2:]
        if any(n % self.stride for n in (side, y, x)) or min(y, x) < side:
            raise InputError(
                f"pieces of side {side} at every pixel of {self.stride} do not cover an image of {y} × {x} evenly. "
                "Take a stride that divides all three, and an image no smaller than a piece."
            )

    def initial(self, t: float, n: int, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draws from N(α m, α² std² + σ²), the law of x_t up to the data's higher moments."""
        alpha, sigma = float(self.schedule.alpha(t)), float(self.schedule.sigma(t))
        spread = math.hypot(alpha * self.schedule.std, sigma)
        return alpha * self.mean + spread * stream.normal(n, self.shape, dtype=dtype)

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        side, stride = self.piece.shape[-1], self.stride
        more = side - stride  # pixels beyond the edge that the last pieces reach
        whole = pad(x, (0, more, 0, more), mode="circular")
        pieces = unfold(whole, side, stride=stride).transpose(1, 2)  # (batch, piece, pixel)
        n = pieces.shape[1]
        times = t.repeat_interleave(n) if isinstance(t, Tensor) and t.ndim else t
        data = self.piece(pieces.reshape(-1, *self.piece.shape), times).reshape(pieces.shape)
        total = fold(data.transpose(1, 2), whole.shape[-2:], side, stride=stride)
        return _around(total, more, *x.shape[-2:]) * (stride / side) ** 2


def _around(total: Tensor, more: int, rows: int, columns: int) -> Tensor:
    """What lies beyond the last row and column, added where it comes from."""
    if not more:
        return total
    total = torch.cat([total[..., :more, :] + total[..., rows:, :], total[..., more:rows, :]], -2)
    return torch.cat([total[..., :more] + total[..., columns:], total[..., more:columns]], -1)
