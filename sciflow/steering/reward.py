"""What a prior is tilted by: p(x₁) exp(r(x₁)/α), for any r."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, Self

import torch
from torch import Tensor

from sciflow.errors import InputError


class Reward(Protocol):
    """A function of the data. It need not be differentiable unless a proposal takes its gradient; −inf forbids."""

    def __call__(self, x1: Tensor) -> Tensor:
        """r(x₁), (batch, *shape) → (batch,)."""
        ...


@dataclass(frozen=True)
class Tilt:
    """A reward in the place of a likelihood, for the posterior samplers that only ask for its value.

        log p(y | x₁) := r(x₁)/alpha

    Exactness: exact; the evidence is E_p[exp(r/alpha)].
    Cost: one reward.
    Bias: none.
    Args:
        reward: r.
        alpha: temperature, > 0: small values follow the reward, large ones the prior [reward units].
        observation: nothing was observed; its dtype and device are those of everything sampled.
    Raises:
        InputError: alpha ≤ 0.
    Source: definition.
    """

    reward: Reward
    alpha: float = 1.0
    observation: Tensor = field(default_factory=lambda: torch.zeros(1))

    def __post_init__(self) -> None:
        if not (self.alpha > 0 and math.isfinite(self.alpha)):
            raise InputError(f"a tilt needs a finite alpha > 0, got {self.alpha}.")

    def log_prob(self, x: Tensor) -> Tensor:
        return self.reward(x) / self.alpha

    def on(self, shape: tuple[int, ...]) -> Self:
        return self

    def bind(self, parameters: Mapping[str, Tensor], shape: tuple[int, ...]) -> Self:
        return self
