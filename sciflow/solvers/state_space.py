"""Hidden Markov chains for filters: what these ask of one, and that of a dynamics seen at given times with noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.random import Stream
from sciflow.solvers.dynamics import Dynamics
from sciflow.solvers.explicit import RungeKutta4
from sciflow.solvers.solve import Solver, solve
from sciflow.solvers.times import checked, times


class HiddenChain(ABC):
    """What a filter asks of the chain that it follows. States are rows (n, d), d the product of `shape`.

        x_0 ~ `initial`,   x_{k+1} = Φ_k(x_k) + q ξ_k,   ξ_k ~ N(0, I)

    Φ_k may draw random numbers of its own. The density of x_{k+1} given x_k is then not known, which the guided
    proposal needs; given Φ_k(x_k) it is N(Φ_k(x_k), q²) all the same, if q > 0, which is what smoothing needs.
    """

    noise: float
    """q ≥ 0, standard deviation of the model noise of one move [state units]."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of one state, as data hold it."""

    @property
    @abstractmethod
    def n_steps(self) -> int:
        """K, the number of moves."""

    @property
    @abstractmethod
    def is_random(self) -> bool:
        """Whether Φ_k draws random numbers."""

    @abstractmethod
    def initial(self, n: int, stream: Stream) -> Tensor:
        """n draws of x_0, (n, d)."""

    @abstractmethod
    def forecast(self, k: int, x: Tensor, stream: Stream) -> Tensor:
        """Φ_k(x), rows (n, d)."""

    @abstractmethod
    def beside(self, like: Tensor) -> Self:
        """The same chain, with states in the dtype and on the device of this tensor."""

    @abstractmethod
    def assuming(self, n_substeps: int | None, model_noise: float | None) -> Self:
        """The chain with other steps of the solver between two times, and another q; null leaves what there is.

        Raises:
            InputError: steps or noise that it cannot have.
        """

    def noisy(self, x: Tensor, stream: Stream) -> Tensor:
        """x + q ξ."""
        if self.noise == 0:
            return x
        normal = stream.child("model noise").normal(len(x), x.shape[1:], dtype=x.dtype, device=x.device)
        return torch.add(x, normal, alpha=self.noise)

    def simulate(self, n: int, stream: Stream) -> Tensor:
        """n independent paths, (n, K + 1, d)."""
        path = [self.initial(n, stream.child("initial"))]
        for k in range(self.n_steps):
            own = stream.child("step", k)
            path.append(self.noisy(self.forecast(k, path[-1], own), own))
        return torch.stack(path, 1)


@dataclass(frozen=True)
class StateSpace(HiddenChain):
    """A Markov chain whose moves are solves of a dynamics.

        x_0 = Φ_{spin-up}(z),   z ~ N(mean, std²)
        x_{k+1} = Φ_k(x_k) + q ξ_k,   Φ_k: solve from t_k to t_{k+1},   ξ_k ~ N(0, I)

    Args:
        dynamics: the equation, on rows (n, d); one with noise of its own needs a solver of SDEs, and may take q = 0.
        grid: t_0 < … < t_K.
        mean: of z, (d,); its dtype and device are those of the states.
        std: of z, > 0 [state units].
        noise: q ≥ 0, standard deviation of the model noise of one move [state units].
        solver: numerical method.
        n_substeps: equal steps of one solve.
        spin_up: time that draws of z are solved for before t_0, without noise; it brings them to the attractor.
    Raises:
        InputError: times that do not increase, or numbers out of range.
    """

    dynamics: Dynamics
    grid: tuple[float, ...]
    mean: Tensor
    std: float = 1.0
    noise: float = 0.0
    solver: Solver = field(default_factory=RungeKutta4)
    n_substeps: int = 1
    spin_up: float = 0.0

    def __post_init__(self) -> None:
        try:
            checked(self.grid)
        except ValueError as error:
            raise InputError(f"a state space: {error}") from error
        if not self.std > 0 or not self.noise >= 0 or self.n_substeps < 1 or not self.spin_up >= 0:
            got = f"{self.std}, {self.noise}, {self.n_substeps} and {self.spin_up}"
            raise InputError(f"a state space needs std > 0, noise ≥ 0, n_substeps ≥ 1 and spin_up ≥ 0, got {got}.")

    @property
    def dimension(self) -> int:
        """d."""
        return len(self.mean)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.dimension,)

    @property
    def n_steps(self) -> int:
        return len(self.grid) - 1

    @property
    def is_random(self) -> bool:
        return self.dynamics.noise != "none"

    def beside(self, like: Tensor) -> Self:
        return replace(self, mean=self.mean.to(like.device, like.dtype))

    def assuming(self, n_substeps: int | None, model_noise: float | None) -> Self:
        steps = self.n_substeps if n_substeps is None else n_substeps
        return replace(self, n_substeps=steps, noise=self.noise if model_noise is None else model_noise)

    def initial(self, n: int, stream: Stream) -> Tensor:
        z = stream.child("z").normal(n, self.mean.shape, dtype=self.mean.dtype, device=self.mean.device)
        x = self.mean + self.std * z
        if self.spin_up == 0:
            return x
        step = (self.grid[1] - self.grid[0]) / self.n_substeps
        past = times(max(1, round(self.spin_up / step)), self.grid[0] - self.spin_up, self.grid[0])
        return solve(self.dynamics, x, past, self.solver, stream=stream.child("spin-up"))

    def forecast(self, k: int, x: Tensor, stream: Stream) -> Tensor:
        inner = times(self.n_substeps, self.grid[k], self.grid[k + 1])
        return solve(self.dynamics, x, inner, self.solver, stream=stream.child("solver"))
