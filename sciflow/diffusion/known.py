"""A prior over paths that is known by its equation: filters use it, denoisers of it are not known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from sciflow.diffusion.schedule import Cosine, Schedule
from sciflow.errors import InputError
from sciflow.random import Stream
from sciflow.solvers.state_space import HiddenChain
from sciflow.types import Time


class StoredChain(Protocol):
    """A hidden chain that a domain adds to CHAINS, so that model.pt can hold it."""

    kind: ClassVar[str]

    def stored(self) -> dict[str, Any]:
        """Plain numbers, names, lists and dictionaries of these."""
        ...

    @classmethod
    def restored(cls, stored: Mapping[str, Any]) -> HiddenChain:
        """The chain that `stored` described. Raises InputError where it describes none."""
        ...


CHAINS: dict[str, type[StoredChain]] = {}
"""Kind → a chain that is no `StateSpace`; domains and plugins add theirs when they are imported."""


@dataclass(frozen=True)
class KnownDynamics:
    """The paths of a hidden chain as a prior: events are (time, *state).

    It can be drawn, with noise of any level, and offers its `space` to samplers that follow an equation in physical
    time. It has no denoiser: E[x₁ | x_t] of the paths of a chaotic equation has no closed form.

    Args:
        space: the hidden chain.
        schedule: noise levels; filters use none.
    """

    space: HiddenChain
    schedule: Schedule = field(default_factory=Cosine)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.space.n_steps + 1, *self.space.shape)

    def initial(self, t: float, n: int, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
        """Exact draws of α x₁ + σ x₀."""
        alpha, sigma = float(self.schedule.alpha(t)), float(self.schedule.sigma(t))
        paths = self.space.simulate(n, stream.child("data")).to(dtype).reshape(n, *self.shape)
        return alpha * paths + sigma * stream.child("base").normal(n, self.shape, dtype=dtype)

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        """Refuses.

        Raises:
            InputError: always.
        """
        raise InputError(
            "this prior is an equation, of whose paths no denoiser is known. Use `particle_filter` or "
            "`ensemble_kalman`, which follow the equation, or train a network on its paths."
        )
