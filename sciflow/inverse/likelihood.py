"""What an observation says: noise that makes it, and the likelihood that is assumed when it is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Protocol, Self, runtime_checkable

from pydantic import Field
from torch import Tensor

from sciflow.errors import InputError
from sciflow.inverse.operator import Identity, LinearOperator, Operator, check_linear
from sciflow.random import Stream
from sciflow.types import placed


@runtime_checkable
class NoiseModel(Protocol):
    """How a clean measurement becomes an observation."""

    def sample(self, clean: Tensor, stream: Stream) -> Tensor:
        """Noisy measurements, like `clean` (batch, m)."""
        ...


@runtime_checkable
class Likelihood(Protocol):
    """log p(y | x) of one observation y, as a function of x."""

    @property
    def observation(self) -> Tensor:
        """y, (m,); its dtype and device are those of everything sampled from it."""
        ...

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(y | x), normalised in y, (batch, *shape) → (batch,)."""
        ...

    def on(self, shape: tuple[int, ...]) -> Self:
        """The likelihood for events of `shape`; raises InputError where observation and operator do not fit."""
        ...

    def bind(self, parameters: Mapping[str, Tensor], shape: tuple[int, ...]) -> Self:
        """The same, with the operator parameters that are stored beside the observation."""
        ...


@runtime_checkable
class LikelihoodModel(Protocol):
    """A likelihood that still waits for its observation, as a run file describes it."""

    def __call__(self, *, observation: Tensor) -> Likelihood: ...


@dataclass(frozen=True)
class GaussianNoise:
    """Independent noise of one standard deviation.

        y = A x + sigma n,   n ~ N(0, I)

    Exactness: exact.
    Cost: one normal number per measurement.
    Bias: none.
    Args:
        sigma: standard deviation, ≥ 0 [measurement units].
    Source: definition.
    """

    sigma: Annotated[float, Field(ge=0)] = 0.1

    def __post_init__(self) -> None:
        if not (self.sigma >= 0 and math.isfinite(self.sigma)):
            raise InputError(f"gaussian noise needs a finite sigma ≥ 0, got {self.sigma}.")

    def sample(self, clean: Tensor, stream: Stream) -> Tensor:
        return clean + self.sigma * stream.normal(len(clean), clean.shape[1:], dtype=clean.dtype, device=clean.device)


class Observed:
    """What likelihoods of one recorded observation share: a finite vector that fits its operator."""

    observation: Tensor
    operator: Operator

    def check_observation(self) -> None:
        """Raise InputError unless the observation is a finite real vector."""
        y = self.observation
        if y.is_complex():
            raise InputError(
                f"an observation must be real, got {y.dtype}. Give real and imaginary parts as the operator orders "
                "them, e.g. torch.view_as_real(k).movedim(-1, 1) for (coil, part, y, x)."
            )
        if y.ndim != 1 or len(y) == 0 or not y.is_floating_point() or not bool(y.isfinite().all()):
            raise InputError(
                f"an observation must be a finite floating-point vector (m,), got shape {tuple(y.shape)} of {y.dtype}"
                f"{'' if y.ndim != 1 or bool(y.isfinite().all()) else ' with NaN or infinite entries'}. "
                "Give one observation at a time, flattened."
            )

    def on(self, shape: tuple[int, ...]) -> Self:
        return self._with(self.operator.on(shape), shape)

    def bind(self, parameters: Mapping[str, Tensor], shape: tuple[int, ...]) -> Self:
        return self._with(self.operator.bind(parameters, shape), shape)

    def _with(self, operator: Operator, shape: tuple[int, ...]) -> Self:
        if operator.n_measurements != len(self.observation):
            raise InputError(
                f"the observation has {len(self.observation)} measurements, but {type(operator).__name__} makes "
                f"{operator.n_measurements} of events of shape {tuple(shape)}. Use the operator that made the data."
            )
        return replace(self, operator=operator)  # type: ignore[type-var]


class _Gaussian(Observed):
    """Residual and density of Gaussian noise of one standard deviation."""

    sigma: float

    def __post_init__(self) -> None:
        if not (self.sigma > 0 and math.isfinite(self.sigma)):
            raise InputError(f"a gaussian likelihood needs a finite sigma > 0, got {self.sigma}.")
        self.check_observation()

    def residual(self, x: Tensor) -> Tensor:
        """y − A x, (batch, *shape) → (batch, m)."""
        return placed(self.observation, x.device, x.dtype) - self.operator(x)

    def log_prob(self, x: Tensor) -> Tensor:
        squared = (self.residual(x).double() / self.sigma).square().sum(1)
        return (-0.5 * squared - len(self.observation) * math.log(self.sigma * math.sqrt(2 * math.pi))).to(x.dtype)


@dataclass(frozen=True)
class GaussianLikelihood(_Gaussian):
    """Linear measurement with independent Gaussian noise.

        log p(y | x) = −‖y − A x‖²/2 sigma² − m/2 log(2π sigma²)

    Exactness: exact, normalising constant included.
    Cost: one operator call.
    Bias: none.
    Args:
        observation: y, (m,); its dtype and device are those of everything sampled from it.
        operator: A.
        sigma: assumed standard deviation of the noise, > 0 [measurement units].
    Raises:
        InputError: sigma ≤ 0, an observation that is not a finite real vector, or an operator that is not linear.
    Source: definition.
    """

    observation: Tensor
    operator: LinearOperator = field(default_factory=Identity)
    sigma: Annotated[float, Field(gt=0)] = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_linear(self.operator, "a gaussian likelihood")


@dataclass(frozen=True)
class NonlinearGaussianLikelihood(_Gaussian):
    """Measurement of any kind with independent Gaussian noise.

        log p(y | x) = −‖y − A(x)‖²/2 sigma² − m/2 log(2π sigma²)

    For posteriors that ask for its value or gradient alone; guidance and twists need a linear operator.

    Exactness: exact, normalising constant included.
    Cost: one operator call.
    Bias: none.
    Args:
        observation: y, (m,); its dtype and device are those of everything sampled from it.
        operator: A.
        sigma: assumed standard deviation of the noise, > 0 [measurement units].
    Raises:
        InputError: sigma ≤ 0, or an observation that is not a finite real vector.
    Source: definition.
    """

    observation: Tensor
    operator: Operator = field(default_factory=Identity)
    sigma: Annotated[float, Field(gt=0)] = 0.1
