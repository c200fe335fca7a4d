"""Log-weights and the four schemes that turn weighted particles into equally weighted ones.

Every scheme is a function `(log_weights, n, stream) -> ancestors` with E[copies of i] = n w_i. Weights need not be
normalised; cumulative sums are in float64 (float32 misplaces whole particles beyond 10⁶), and ancestors come sorted.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.random import Stream

Resampler = Callable[[Tensor, int, Stream], Tensor]


def log_mean_exp(values: Tensor) -> Tensor:
    """log of the mean of exp(values) over the first axis, in float64."""
    return values.double().logsumexp(0) - math.log(len(values))


def ess(log_weights: Tensor) -> Tensor:
    """Effective sample size (Σ w)²/Σ w², between 1 and n, in float64.

    Source: Kong, Liu and Wong (1994), Sequential imputations and Bayesian missing data problems.
    """
    values = log_weights.double()
    return (2 * values.logsumexp(0) - (2 * values).logsumexp(0)).exp()


def normalised(log_weights: Tensor) -> Tensor:
    """Weights that sum to one, in float64.

    Raises:
        InputError: not one weight per particle, NaN or +inf among them, or none above zero.
    """
    if log_weights.ndim != 1 or len(log_weights) == 0:
        raise InputError(f"log_weights must have shape (n,) with n > 0, got {tuple(log_weights.shape)}.")
    weights = log_weights.double().softmax(0)
    if not bool(weights.isfinite().all()):
        raise InputError(
            f"log_weights hold NaN or +inf, or are all −inf (largest: {float(log_weights.max())}). "
            "Mend the potential: a particle may weigh nothing, but not all of them."
        )
    return weights


def _uniform(n: int, stream: Stream, like: Tensor) -> Tensor:
    """n uniform numbers of one joint draw: no number belongs to a row."""
    return torch.rand(n, generator=stream.generator(device=like.device), dtype=torch.float64, device=like.device)


def _inverse(weights: Tensor, points: Tensor) -> Tensor:
    """The smallest i with w_0 + … + w_i > point, never a particle of weight zero."""
    cumulative = weights.cumsum(0)
    return torch.searchsorted(cumulative, points * cumulative[-1], right=True).clamp_max(_last(weights))


def _last(weights: Tensor) -> Tensor:
    """Index of the last particle with weight above zero: where rounding at the end must not step over."""
    return weights.shape[0] - 1 - (weights.flip(0) > 0).to(torch.uint8).argmax()


def multinomial(log_weights: Tensor, n: int, stream: Stream) -> Tensor:
    """n independent draws from the weights.

        ancestor_i = F⁻¹(u_i),   u_i independent uniform on [0, 1)

    Exactness: E[copies of i] = n w_i; Var = n w_i (1 − w_i), the largest of the four.
    Cost: O(n log n), one sort.
    Bias: none.
    Source: Gordon, Salmond and Smith (1993), Novel approach to nonlinear/non-Gaussian Bayesian state estimation.
    """
    return _inverse(normalised(log_weights), _uniform(n, stream, log_weights).sort().values)


def stratified(log_weights: Tensor, n: int, stream: Stream) -> Tensor:
    """One uniform draw in each of n equal strata.

        ancestor_i = F⁻¹((i + u_i)/n),   u_i independent uniform on [0, 1)

    Exactness: E[copies of i] = n w_i; |copies of i − n w_i| < 2; variance never above that of `multinomial`.
    Cost: O(n log n).
    Bias: none.
    Source: Kitagawa (1996), Monte Carlo filter and smoother for non-Gaussian nonlinear state space models, appendix.
    """
    weights = normalised(log_weights)
    offsets = torch.arange(n, dtype=torch.float64, device=weights.device)
    return _inverse(weights, (offsets + _uniform(n, stream, log_weights)) / n)


def systematic(log_weights: Tensor, n: int, stream: Stream) -> Tensor:
    """One uniform number for all strata: copies by counting, without a search.

        copies of i = ⌈n F_i − u⌉ − ⌈n F_{i−1} − u⌉,   u uniform on [0, 1)

    Exactness: E[copies of i] = n w_i; |copies of i − n w_i| < 1.
    Cost: O(n); 10⁶ particles in a few hundredths of a second.
    Bias: none; copies depend on the order of the particles, so no central limit theorem holds for every order.
    Source: Carpenter, Clifford and Fearnhead (1999), Improved particle filter for nonlinear problems.
    """
    weights = normalised(log_weights)
    cumulative = weights.cumsum(0) * (n / weights.sum())
    below = (cumulative - _uniform(1, stream, log_weights)).ceil_().clamp_(0, n)
    below[_last(weights) :] = n
    copies = below.diff(prepend=below.new_zeros(1)).long()
    return torch.repeat_interleave(copies, output_size=n)


def residual(log_weights: Tensor, n: int, stream: Stream) -> Tensor:
    """⌊n w_i⌋ copies for certain, the rest drawn independently from what is left.

        copies of i = ⌊n w_i⌋ + multinomial(R, (n w_i − ⌊n w_i⌋)/R),   R = n − Σ ⌊n w_i⌋

    Exactness: E[copies of i] = n w_i; never fewer than ⌊n w_i⌋; variance never above that of `multinomial`.
    Cost: O(n log n); the host reads R.
    Bias: none.
    Source: Liu and Chen (1998), Sequential Monte Carlo methods for dynamic systems.
    """
    expected = normalised(log_weights) * n
    certain = (expected + 1e-9).floor()  # equal weights are 1/n up to rounding: n · (1/n) must count as one
    rest = n - int(certain.sum())
    copies = certain.long()
    if rest:
        drawn = multinomial((expected - certain).clamp_min(0).log(), rest, stream)
        copies = copies + torch.bincount(drawn, minlength=len(copies))
    return torch.repeat_interleave(copies, output_size=n)


RESAMPLERS: dict[str, Resampler] = {
    "multinomial": multinomial,
    "stratified": stratified,
    "systematic": systematic,
    "residual": residual,
}
