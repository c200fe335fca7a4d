"""Log-weights and the six schemes that turn weighted particles into equally weighted ones.

Every scheme is a function `(log_weights, n, stream) -> ancestors` with E[copies of i] = n w_i. Weights need not be
normalised; cumulative sums are in float64 (float32 misplaces whole particles beyond 10⁶), and ancestors come sorted.
Their conditional forms, which keep one particle for certain, are in `sciflow.particles.conditional`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.particles.slots import cumulative
from sciflow.random import Stream

Resampler = Callable[[Tensor, int, Stream], Tensor]
Scheme = Literal["multinomial", "stratified", "systematic", "residual", "ssp", "killing"]
"""The names of `RESAMPLERS`, for options of run files."""


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
    """Weights that sum to one, in float64, new memory; ancestors have no gradient.

    Raises:
        InputError: not one weight per particle, NaN or +inf among them, or none above zero.
    """
    if log_weights.ndim != 1 or len(log_weights) == 0:
        raise InputError(f"log_weights must have shape (n,) with n > 0, got {tuple(log_weights.shape)}.")
    weights = log_weights.detach().double().softmax(0)
    if not bool(weights.sum().isfinite()):  # one bad number makes all weights NaN
        raise InputError(
            f"log_weights hold NaN or +inf, or are all −inf (largest: {float(log_weights.max())}). "
            "Mend the potential: a particle may weigh nothing, but not all of them."
        )
    return weights


def uniform(n: int, stream: Stream, like: Tensor) -> Tensor:
    """n uniform numbers of one joint draw: no number belongs to a row."""
    return torch.rand(n, generator=stream.generator(device=like.device), dtype=torch.float64, device=like.device)


def inverse(weights: Tensor, points: Tensor) -> Tensor:
    """The smallest i with w_0 + … + w_i > point, never a particle of weight zero."""
    sums = cumulative(weights)
    return torch.searchsorted(sums, points * sums[-1], right=True).clamp_max(_last(sums))


def _last(sums: Tensor) -> Tensor:
    """Index of the last particle that adds to the cumulative sum: where rounding at the end must not step over."""
    return torch.searchsorted(sums, sums[-1:])[0]


def repeated(copies: Tensor, n: int) -> Tensor:
    """The sorted ancestors of n slots: i as often as copies[i] says."""
    return _ancestors(copies.cumsum(0), n)


def _ancestors(ends: Tensor, n: int) -> Tensor:
    """Slot j descends from the first i whose slots end after j. Counts beat a search by ten."""
    return ends.bincount(minlength=n)[:n].cumsum_(0)  # rounding may let a slot end at n + 1


def combed(weights: Tensor, n: int, offset: Tensor) -> Tensor:
    """Ancestors of the n points (j + offset)/n: copies of i = ⌈n F_i − offset⌉ − ⌈n F_{i−1} − offset⌉.

    Overwrites the weights: at 10⁶ particles every array counts.
    """
    last = _last(cumulative(weights, out=weights))
    torch.addcmul(-offset, weights, n / weights[-1], out=weights).ceil_()
    weights[last:] = n
    ends = weights.long()
    del weights
    return _ancestors(ends, n)


def multinomial(log_weights: Tensor, n: int, stream: Stream) -> Tensor:
    """n independent draws from the weights.

        ancestor_i = F⁻¹(u_i),   u_i independent uniform on [0, 1)

    Exactness: E[copies of i] = n w_i; Var = n w_i (1 − w_i), the largest of all here.
    Cost: O(n log n), one sort.
    Bias: none.
    Source: Gordon, Salmond and Smith (1993), Novel approach to nonlinear/non-Gaussian Bayesian state estimation.
    """
    return inverse(normalised(log_weights), uniform(n, stream, log_weights).sort().values)


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
    return inverse(weights, (offsets + uniform(n, stream, log_weights)) / n)


def systematic(log_weights: Tensor, n: int, stream: Stream) -> Tensor:
    """One uniform number for all strata: copies by counting, without a search.

        copies of i = ⌈n F_i − u⌉ − ⌈n F_{i−1} − u⌉,   u uniform on [0, 1)

    Exactness: E[copies of i] = n w_i; |copies of i − n w_i| < 1.
    Cost: O(n); 10⁶ particles in about a hundredth of a second.
    Bias: none; copies depend on the order of the particles, so no central limit theorem holds for every order.
    Source: Carpenter, Clifford and Fearnhead (1999), Improved particle filter for nonlinear problems.
    """
    return combed(normalised(log_weights), n, uniform(1, stream, log_weights))


def split(weights: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """⌊n w_i⌋ and what is left of n w_i, both float64; n · (1/n) counts as one although 1/n is rounded."""
    expected = weights * n
    certain = (expected + 1e-9).floor()
    return certain, (expected - certain).clamp_min(0)


def residual(log_weights: Tensor, n: int, stream: Stream) -> Tensor:
    """⌊n w_i⌋ copies for certain, the rest drawn independently from what is left.

        copies of i = ⌊n w_i⌋ + multinomial(R, (n w_i − ⌊n w_i⌋)/R),   R = n − Σ ⌊n w_i⌋

    Exactness: E[copies of i] = n w_i; never fewer than ⌊n w_i⌋; variance never above that of `multinomial`.
    Cost: O(n log n); the host reads R.
    Bias: none.
    Source: Liu and Chen (1998), Sequential Monte Carlo methods for dynamic systems.
    """
    certain, left = split(normalised(log_weights), n)
    rest = n - int(certain.sum())
    copies = certain.long()
    if rest:
        copies += torch.bincount(multinomial(left.log(), rest, stream), minlength=len(copies))
    return repeated(copies, n)


@dataclass(frozen=True)
class Tournament:
    """What `ssp` plays for: particle after particle meets the carrier of all fractions before it.

    With fraction f carried and fraction p arriving: if f + p < 1, one of the two carries f + p on and the other leaves
    with nothing; else one of them wins a copy and the other carries f + p − 1 on. What is carried is therefore the
    fractional part of a cumulative sum, only who carries it is random, and all matches are played at once.

    Args:
        carried: f before each match.
        arriving: p.
        wins: the matches after which somebody has won a copy.
        passes: probability that the arriving particle carries on.
    """

    carried: Tensor
    arriving: Tensor
    wins: Tensor
    passes: Tensor

    @classmethod
    def of(cls, fractions: Tensor, n_copies: int) -> Tournament:
        """The matches for fractions that sum to a whole number of copies."""
        total = cumulative(fractions, n_copies).clamp_max(n_copies)
        total[_last(total) :] = n_copies
        whole = total.floor()
        before = torch.cat([total.new_zeros(1), total[:-1]])
        carried, arriving = before - before.floor(), total - before
        wins = whole > before.floor()
        passes = torch.where(wins, (1 - arriving) / (2 - carried - arriving), arriving / (carried + arriving))
        return cls(carried, arriving, wins, passes.nan_to_num(0.0))  # 0/0: nothing carried, nothing arrives

    def winners(self, passed: Tensor) -> Tensor:
        """1 for each particle that wins a copy, given in which matches the arriving particle carries on."""
        index = torch.arange(len(passed), device=passed.device)
        carrier = torch.where(passed, index, 0).cummax(0).values  # after each match; particle 0 carries first
        before = torch.cat([carrier.new_zeros(1), carrier[:-1]])
        return torch.zeros_like(index).scatter_add_(0, torch.where(passed, before, index), self.wins.long())


def ssp(log_weights: Tensor, n: int, stream: Stream) -> Tensor:
    """⌊n w_i⌋ or ⌈n w_i⌉ copies, by the Srinivasan sampling process: fractions meet in pairs until each is 0 or 1.

        (f, p) → (f + p, 0) or (0, f + p) if f + p < 1, else (1, f + p − 1) or (f + p − 1, 1), each mean kept

    Exactness: E[copies of i] = n w_i; |copies of i − n w_i| < 1; copies are negatively associated, so unlike
        `systematic` it is consistent for any order of the particles.
    Cost: O(n); the host reads one number.
    Bias: none.
    Source: Gerber, Chopin and Whiteley (2019), Negative association, ordering and convergence of resampling methods.
    """
    certain, left = split(normalised(log_weights), n)
    rest = n - int(certain.sum())
    copies = certain.long()
    if rest:
        matches = Tournament.of(left, rest)
        copies += matches.winners(uniform(len(left), stream, left) < matches.passes)
    return repeated(copies, n)


def candidates(n_weights: int, n: int, stream: Stream, device: torch.device, one: int | None = None) -> Tensor:
    """Which particles may survive in n slots: all, or as many as there are slots, at random, with `one` if named."""
    if n >= n_weights:
        return torch.ones(n_weights, dtype=torch.bool, device=device)
    chosen = torch.randperm(n_weights, generator=stream.child("candidates").generator(device=device), device=device)
    if one is not None:
        chosen = torch.cat([chosen.new_full((1,), one), chosen[chosen != one]])
    return torch.zeros(n_weights, dtype=torch.bool, device=device).index_fill_(0, chosen[:n], True)


def killing(log_weights: Tensor, n: int, stream: Stream) -> Tensor:
    """Each particle survives with a probability in proportion to its weight; the killed are replaced by draws.

        i survives with probability w_i/max w;   each empty slot: an independent draw from the weights

    With n other than the number of particles, at most n of them, chosen at random, may survive.

    Exactness: E[copies of i] = n w_i; the only scheme that changes nothing when weights are nearly equal.
    Cost: O(n log n); the host reads how many were killed.
    Bias: none.
    Source: Del Moral (2004), Feynman–Kac formulae, for ε = 1/max w.
    """
    weights = normalised(log_weights)
    alive = candidates(len(weights), n, stream, weights.device)
    alive &= uniform(len(weights), stream.child("survival"), weights) < weights / weights.max()
    copies = alive.long()
    rest = n - int(copies.sum())
    if rest:
        copies += torch.bincount(multinomial(log_weights, rest, stream), minlength=len(copies))
    return repeated(copies, n)


RESAMPLERS: dict[str, Resampler] = {
    "multinomial": multinomial,
    "stratified": stratified,
    "systematic": systematic,
    "residual": residual,
    "ssp": ssp,
    "killing": killing,
}
