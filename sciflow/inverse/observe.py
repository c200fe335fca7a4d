"""From clean events to recorded observations, and from recorded observations back to likelihoods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sciflow.inverse.inpainting import Inpainting
from sciflow.inverse.likelihood import GaussianNoise, Likelihood, LikelihoodModel, NoiseModel
from sciflow.inverse.operator import Operator, check_users
from sciflow.random import Stream

PREFIX = "operator_"


@dataclass(frozen=True)
class Observation:
    """How nature makes an observation: the true operator and the true noise.

    `sample.likelihood` holds what is *assumed*, so that a wrong assumption can be tested.

    Args:
        operator: A; parameters that it draws (which pixels are missing) differ between observations and are recorded.
        noise: what is added to A x.
    """

    operator: Operator = field(default_factory=Inpainting)
    noise: NoiseModel = field(default_factory=GaussianNoise)

    def range_shape(self, shape: tuple[int, ...], stream: Stream) -> tuple[int, ...]:
        """Shape of the first measurement of events of `shape`, as an array."""
        return tuple(self.operator.draw(tuple(shape), stream.child(0, "operator")).range_shape)

    def record(
        self, truth: Tensor, stream: Stream, clean: Callable[[int, Operator], Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Observe each event of `truth` (observation, *event).

        Args:
            truth: the events.
            stream: of what is drawn.
            clean: number of an observation and its operator → what it measures before noise, (measurement,), where
                something else than the operator made it.

        Returns:
            `measured` (observation, measurement), and `operator_<name>` (observation, …) for what was drawn.
        """
        records: list[dict[str, Tensor]] = []
        for i, event in enumerate(truth):
            operator = self.operator.draw(tuple(event.shape), stream.child(i, "operator"))
            if i == 0:
                check_users(operator)
            measured = operator(event[None]) if clean is None else clean(i, operator).to(event)[None]
            y = self.noise.sample(measured, stream.child(i, "noise"))
            drawn = {PREFIX + name: value for name, value in operator.parameters().items()}
            records.append({"measured": y[0], **drawn})
        return {name: torch.stack([record[name] for record in records]) for name in records[0]}


def recorded(
    model: LikelihoodModel, observation: Tensor, parameters: Mapping[str, Tensor], shape: tuple[int, ...]
) -> Likelihood:
    """The likelihood of one recorded observation.

    Args:
        model: the assumed likelihood, still without observation.
        observation: y, (measurement,).
        parameters: `operator_<name>` → value for this observation.
        shape: event shape.

    Raises:
        InputError: the assumed operator does not fit the recorded observation.
    """
    drawn = {name.removeprefix(PREFIX): value for name, value in parameters.items()}
    bound = model(observation=observation).bind(drawn, shape)
    operator = getattr(bound, "operator", None)
    if operator is not None:
        check_users(operator)
    return bound
