"""A kicked field as the hidden chain of a filter: the equation that made the data, from the stationary state on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from sciflow.diffusion.known import CHAINS
from sciflow.domains.pde.equations import EQUATIONS
from sciflow.domains.pde.kicks import Kicks
from sciflow.errors import InputError, NonFiniteError
from sciflow.random import Stream
from sciflow.solvers.state_space import HiddenChain

NUMBERS = tuple(entry.name for entry in fields(Kicks) if entry.name not in ("equation", "varied"))


@dataclass(frozen=True)
class KickedChain(HiddenChain):
    """The fields of a kicked equation at successive times, as rows of their values at all grid points.

        x_0 after the spin-up from rest,   x_{k+1} = Φ_k(x_k) + q ξ_k,   Φ_k = (Ψ ∘ (· + f))^kicks

    f is a kick of the law, Ψ the solve of the equation until the next. Kicks come before the solve and lie in few
    dimensions, or are rare: without noise q of its own a move has no density.

    Fields are solved on the CPU in float64 whatever the states are: row i is the same field in any company.

    Exactness: that of the solver, order 4 in time, spectral in space; the law of the kicks is exact
    Cost: 8 transforms for each step and row
    Bias: as `Kicks`: a spin-up that is too short starts too calm
    Args:
        law: of one interval, the same for all trajectories, so without `varied`.
        noise: q ≥ 0, added to every grid point after each interval; the data set has none [field units].
        dtype: of the states.
        device: of the states.
    Raises:
        InputError: trajectories that differ in a number of the equation, or a negative q.
    Source: definition.
    """

    law: Kicks
    noise: float = 0.0
    dtype: torch.dtype = torch.float64
    device: torch.device | str = "cpu"
    kind: ClassVar[str] = "kicked"

    def __post_init__(self) -> None:
        if self.law.varied:
            raise InputError(
                f"a filter follows one equation, but dataset.varied draws {sorted(self.law.varied)} anew for each "
                "trajectory. Leave it out and give the equation its number, or train `{kind: windows}`."
            )
        if not self.noise >= 0:
            raise InputError(f"the model noise of a chain must be ≥ 0, got {self.noise}.")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.law.box.shape

    @property
    def n_steps(self) -> int:
        return self.law.n_times

    @property
    def is_random(self) -> bool:
        return self.law.gust_rate > 0 or self.law.stirring > 0

    def beside(self, like: Tensor) -> Self:
        return replace(self, dtype=like.dtype, device=like.device)

    def initial(self, n: int, stream: Stream) -> Tensor:
        with self._blamed():
            return self._rows(self.law.settled(n, stream.child("kicks"), {}))

    def forecast(self, k: int, x: Tensor, stream: Stream) -> Tensor:
        kicks, first = stream.child("kicks"), self.law.first_kick + k * self.law.kicks
        start = x.to("cpu", torch.float64).unflatten(1, self.shape)
        with self._blamed():
            made = self.law.follow(start, lambda j: self.law.kick(len(x), kicks, first + j), 1, self.law.step, {})
        return self._rows(made[:, -1])

    @contextlib.contextmanager
    def _blamed(self) -> Iterator[None]:
        """Say of fields that blow up which keys set the steps: many particles meet gusts that few trajectories miss."""
        try:
            yield
        except NonFiniteError as error:
            raise NonFiniteError(f"{error} Raise train.n_substeps, or lower dataset.step.") from error

    def _rows(self, found: Tensor) -> Tensor:
        return found.flatten(1).to(self.device, self.dtype)

    def assuming(self, n_substeps: int | None, model_noise: float | None) -> Self:
        """The chain with what `train: {kind: dynamics}` assumes; null leaves what made the data.

        Args:
            n_substeps: steps of the solver from one kept field to the next, a multiple of the kicks.
            model_noise: q.

        Raises:
            InputError: steps that do not end at the kicks, or a negative q.
        """
        law, noise = self.law, self.noise if model_noise is None else model_noise
        if n_substeps is not None:
            if n_substeps % law.kicks:
                raise InputError(
                    f"train.n_substeps is {n_substeps}, but steps must end at each of the {law.kicks} kicks of an "
                    f"interval. Take a multiple of {law.kicks}."
                )
            law = replace(law, step=law.interval / n_substeps)
        return replace(self, law=law, noise=noise)

    def stored(self) -> dict[str, Any]:
        """Plain numbers and names; dtype and device are those of whoever asks."""
        kind = next((name for name, cls in EQUATIONS.items() if cls is type(self.law.equation)), None)
        if kind is None:
            raise InputError(f"EQUATIONS has no {type(self.law.equation).__name__}. Add it, so that it can be stored.")
        numbers = {name: getattr(self.law, name) for name in NUMBERS}
        return {"equation": {"kind": kind, **asdict(self.law.equation)}, "noise": self.noise, **numbers}  # type: ignore[call-overload]

    @classmethod
    def restored(cls, stored: Mapping[str, Any]) -> Self:
        """The chain that `stored` described.

        Raises:
            InputError: an equation that is not known, or numbers of no law.
        """
        missing = [name for name in ("equation", "noise", *NUMBERS) if name not in stored]
        if missing:
            raise InputError(f"it says nothing of {missing}. Make the data again.")
        options = dict(stored["equation"])
        kind = options.pop("kind", None)
        if kind not in EQUATIONS:
            raise InputError(
                f"its equation {kind!r} is not known, only {sorted(EQUATIONS)}. Load the plugin that defines it."
            )
        law = Kicks(equation=EQUATIONS[kind](**options), **{name: stored[name] for name in NUMBERS})
        return cls(law, stored["noise"])


CHAINS[KickedChain.kind] = KickedChain
