"""Twists of a whole path: the potentials of FK-steering, and tempered twists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.particles.feynman_kac import State
from sciflow.particles.resampling import ess

PathPotential = Literal["difference", "max", "sum", "reward"]
N_HALVINGS = 20  # the power is known to 10⁻⁶


@dataclass(frozen=True)
class Accumulated:
    """The potentials of FK-steering, with r_j = strength · log h(x_j) at every `interval`-th level:

        difference   G_k = exp(r_k − r_{k−1})              log h_k = r_k
        max          G_k = exp(max_{j≤k} r_j)              log h_k = Σ_{i≤k} max_{j≤i} r_j
        sum          G_k = exp(Σ_{j≤k} r_j)                log h_k = Σ_{i≤k} Σ_{j≤i} r_j
        reward       G_k = exp(r_k)                        log h_k = Σ_{i≤k} r_i

    The last weight divides by them all, so that the end is weighted by the target alone.

    Args:
        potential: which.
        interval: levels from one potential to the next, ≥ 1; in between G = 1.
        strength: factor of log h before the end, ≥ 0 [1].
    Source: Singhal et al. (2025), A general framework for inference-time scaling and steering of diffusion models,
        section 3; "reward" is the potential of their code that no text names.
    """

    potential: PathPotential = "difference"
    interval: int = 1
    strength: float = 1.0
    needs: ClassVar[tuple[str, ...]] = ("log_twist", "running")

    def __post_init__(self) -> None:
        if self.potential not in ("difference", "max", "sum", "reward"):
            raise InputError(f"potential must be 'difference', 'max', 'sum' or 'reward', got {self.potential!r}.")
        if self.interval < 1 or not self.strength >= 0:
            got = f"interval = {self.interval}, strength = {self.strength}"
            raise InputError(f"potentials need interval ≥ 1 and strength ≥ 0, got {got}.")

    def __call__(self, k: int, before: State | None, ahead: State, log_ratio: Tensor) -> State:
        value = _times(self.strength, ahead["log_twist"])
        if before is None:
            return {**ahead, "log_twist": value, "running": value}
        if k % self.interval:
            return {**ahead, "log_twist": before["log_twist"], "running": before["running"]}
        if self.potential == "difference":
            return {**ahead, "log_twist": value, "running": value}
        past = before["running"]
        running = {"max": torch.maximum(past, value), "sum": past + value, "reward": value}[self.potential]
        return {**ahead, "log_twist": before["log_twist"] + running, "running": running}


@dataclass(frozen=True)
class Tempered:
    """h^{λ_k} with powers given beforehand; the gradient of the twist follows.

    Args:
        powers: λ_k of each level, in [0, 1].
    Source: Kim et al. (2025), DAS: test-time alignment of diffusion models without reward over-optimization, eq. 11.
    """

    powers: Sequence[float]
    needs: ClassVar[tuple[str, ...]] = ()

    def __call__(self, k: int, before: State | None, ahead: State, log_ratio: Tensor) -> State:
        return _powered(ahead, self.powers[k])


@dataclass(frozen=True)
class Adaptive:
    """h^{λ_k} with powers that grow no faster than the weights allow.

        λ_k = the largest λ ≤ most_k with ESS(w_{k−1} · p/m · h_k^λ/h_{k−1}^{λ_{k−1}}) ≥ kept · ESS(w_{k−1}),

    by bisection; λ_{k−1} where none that is larger will do.

    Exactness: consistent; E[Ẑ] is biased by O(1/n), since the powers depend on the particles.
    Cost: some twenty sums over the weights per level, which the host waits for.
    Args:
        most: largest power of each level, in [0, 1], not decreasing.
        kept: share of the effective size that one level may leave, in (0, 1).
    Source: Kim et al. (2025), DAS, section 4.2; Zhou, Johansen and Aston (2016), Toward automatic model comparison, for
        the conditional effective size.
    """

    most: Sequence[float]
    kept: float = 0.9
    needs: ClassVar[tuple[str, ...]] = ("log_twist", "power", "slot", "carried")

    def __call__(self, k: int, before: State | None, ahead: State, log_ratio: Tensor) -> State:
        raw, base, least = ahead["log_twist"], log_ratio.double(), 0.0
        slot = torch.arange(len(base), device=raw.device)
        carried = torch.zeros_like(base)
        if before is not None:
            least = float(before["power"][0])
            if torch.equal(before["slot"], slot):  # not resampled since: the weights so far still count
                carried = before["carried"]
            base = base + carried - before["log_twist"]
        power = self._largest(base, raw, least, self.most[k], self.kept * float(ess(carried)))
        found = _powered(ahead, power)
        powers = torch.full_like(base, power)
        return {**found, "carried": base + found["log_twist"], "slot": slot, "power": powers}

    def _largest(self, base: Tensor, raw: Tensor, low: float, high: float, aim: float) -> float:

        def is_enough(power: float) -> bool:
            return float(ess(base + _times(power, raw))) >= aim

        if is_enough(high):
            return high
        for _ in range(N_HALVINGS):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if is_enough(middle) else (low, middle)
        return low


def _times(power: float, log_twist: Tensor) -> Tensor:
    """log h^λ, where h⁰ is 1 even for h = 0."""
    return power * log_twist if power else torch.zeros_like(log_twist)


def _powered(state: State, power: float) -> State:
    found = {**state, "log_twist": _times(power, state["log_twist"])}
    return {**found, "force": power * state["force"]} if "force" in state else found
