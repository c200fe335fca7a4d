"""Resampling that keeps one particle for certain: the law of the ancestors given that a random slot descends from it.

    P(copies | kept) = P(copies) · copies of kept/(n w_kept)

This is what a conditional particle filter needs to leave the law of its trajectory invariant (particle Gibbs). Every
form is a function `(log_weights, n, stream, kept) -> ancestors`, sorted, with `kept` among them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.particles.resampling import (
    Tournament,
    candidates,
    combed,
    inverse,
    normalised,
    repeated,
    residual,
    split,
    uniform,
)
from sciflow.particles.slots import cumulative
from sciflow.random import Stream

ConditionalResampler = Callable[[Tensor, int, Stream, int], Tensor]


def _checked(log_weights: Tensor, kept: int) -> Tensor:
    """Normalised weights, the kept one above zero.

    Raises:
        InputError: bad weights, or a kept particle that does not exist or weighs nothing.
    """
    weights = normalised(log_weights)
    if not 0 <= kept < len(weights) or float(log_weights[kept]) == -torch.inf:
        raise InputError(
            f"the kept particle must be one of {len(weights)} with a weight above zero, got number {kept}."
        )
    return weights


def _with(ancestors: Tensor, kept: int) -> Tensor:
    """Sorted ancestors with `kept` among them: rounding may have lost it where its weight is below 1e-16."""
    place = torch.searchsorted(ancestors, ancestors.new_full((1,), kept)).clamp_max(len(ancestors) - 1)
    return ancestors.index_fill_(0, place, kept)


def _point(weights: Tensor, stream: Stream, kept: int) -> Tensor:
    """A uniform point of the kept particle's interval [F_{k−1}, F_k)."""
    end = cumulative(weights)[kept]
    return end - weights[kept] * (1 - uniform(1, stream.child("kept"), weights))


def _joined(drawn: Tensor, kept: int) -> Tensor:
    return torch.cat([drawn, drawn.new_full((1,), kept)]).sort().values


def conditional_multinomial(log_weights: Tensor, n: int, stream: Stream, kept: int) -> Tensor:
    """The kept particle, and n − 1 independent draws.

    Source: Andrieu, Doucet and Holenstein (2010), Particle Markov chain Monte Carlo methods.
    """
    weights = _checked(log_weights, kept)
    return _joined(inverse(weights, uniform(n - 1, stream, weights)), kept)


def conditional_stratified(log_weights: Tensor, n: int, stream: Stream, kept: int) -> Tensor:
    """A uniform point of the kept particle's interval takes the place of the draw in its stratum."""
    weights = _checked(log_weights, kept)
    point = n * _point(weights, stream, kept)
    offsets = torch.arange(n, dtype=torch.float64, device=weights.device) + uniform(n, stream, weights)
    stratum = point.long().clamp(0, n - 1)
    return _with(inverse(weights, offsets.index_copy(0, stratum, point) / n), kept)


def conditional_systematic(log_weights: Tensor, n: int, stream: Stream, kept: int) -> Tensor:
    """The offset is that of a uniform point of the kept particle's interval.

    Source: Chopin and Singh (2015), On particle Gibbs sampling.
    """
    weights = _checked(log_weights, kept)
    return _with(combed(weights, n, (n * _point(weights, stream, kept)) % 1.0), kept)


def _is_certain(certain: Tensor, left: Tensor, stream: Stream, kept: int) -> bool:
    """Whether the random slot of the kept particle is one of its ⌊n w⌋ certain copies."""
    share = certain[kept] / (certain[kept] + left[kept])
    return bool(uniform(1, stream.child("certain"), left) < share)


def conditional_residual(log_weights: Tensor, n: int, stream: Stream, kept: int) -> Tensor:
    """The kept copy is one of the ⌊n w⌋ certain ones, or one of the R draws, in proportion."""
    certain, left = split(_checked(log_weights, kept), n)
    rest = n - int(certain.sum())
    if rest == 0 or _is_certain(certain, left, stream, kept):
        return _with(residual(log_weights, n, stream), kept)
    drawn = conditional_multinomial(left.log(), rest, stream, kept)
    return repeated(certain.long() + torch.bincount(drawn, minlength=len(left)), n)


def conditional_ssp(log_weights: Tensor, n: int, stream: Stream, kept: int) -> Tensor:
    """The tournament of `ssp` given that the kept particle wins: its fraction is the probability of that.

    A match of the kept particle goes each way with its probability, times the fraction that is left to it over the one
    it had: Doob's transform.
    """
    certain, left = split(_checked(log_weights, kept), n)
    copies = certain.long()
    rest = n - int(certain.sum())
    if rest:
        matches = Tournament.of(left, rest)
        passed = uniform(len(left), stream, left)
        is_free = _is_certain(certain, left, stream, kept)
        copies += matches.winners(passed < matches.passes if is_free else _winning(matches, passed, kept))
    return _with(repeated(copies, n), kept)


def _winning(matches: Tournament, drawn: Tensor, kept: int) -> Tensor:
    """Who carries on, drawn so that the kept particle wins."""
    f, p = matches.carried, matches.arriving
    over = f + p - 1
    passed = drawn < matches.passes
    # as the arriving one it carries on, or wins at once; as the carrier it hands on only when it has won
    arrives = torch.where(matches.wins, matches.passes * over / p, torch.ones_like(p))
    hands_on = torch.where(matches.wins, matches.passes / f, torch.zeros_like(f))
    place = torch.arange(len(drawn), device=drawn.device)
    keeps = place > kept
    later = drawn < hands_on
    won = (keeps & later).long().argmax()  # the first match in which it wins as carrier; 0 if there is none
    start = drawn[kept] < arrives[kept]
    is_carrier = keeps & start & ((place <= won) | ~(keeps & later).any())
    return torch.where(place == kept, start, torch.where(is_carrier, later, passed))


def conditional_killing(log_weights: Tensor, n: int, stream: Stream, kept: int) -> Tensor:
    """The kept particle survives in its own slot, or takes a slot that is empty or was emptied, in proportion."""
    weights = _checked(log_weights, kept)
    survival, n_weights = weights / weights.max(), len(weights)
    if bool(uniform(1, stream.child("stays"), weights) * max(n, n_weights) * weights.max() < 1):
        slot, stays = kept, True
    else:
        emptied = torch.cat([1 - survival, survival.new_full((1,), max(n - n_weights, 0))])
        slot, stays = int(inverse(emptied, uniform(1, stream.child("slot"), weights))), False
    alive = candidates(n_weights, n, stream, weights.device, slot)
    alive &= uniform(n_weights, stream.child("survival"), weights) < survival
    if slot < n_weights:
        alive[slot] = stays
    copies = alive.long()
    rest = n - int(copies.sum()) - (not stays)
    copies[kept] += not stays
    copies += torch.bincount(inverse(weights, uniform(rest, stream.child("drawn"), weights)), minlength=n_weights)
    return repeated(copies, n)


CONDITIONAL: dict[str, ConditionalResampler] = {
    "multinomial": conditional_multinomial,
    "stratified": conditional_stratified,
    "systematic": conditional_systematic,
    "residual": conditional_residual,
    "ssp": conditional_ssp,
    "killing": conditional_killing,
}
"""The conditional form of each of `RESAMPLERS`."""
