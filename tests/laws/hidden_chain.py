"""Hidden Markov chains whose evidence is known: Gaussian by Kalman, finite and skewed by summation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sciflow.random import Stream


@dataclass(frozen=True)
class Filter:
    """A hidden Markov chain x_k = a x_{k−1} + √(1 − a²) w observed as y_k = x_k + s v, its evidence by Kalman."""

    n_steps: int = 8
    a: float = 0.9
    s: float = 0.5

    def y(self, k: int) -> float:
        return 1.5 * math.sin(1.3 * k) + 0.5

    def log_potential(self, x: Tensor, k: int) -> Tensor:
        return -0.5 * ((self.y(k) - x[:, 0]) / self.s) ** 2 - math.log(self.s * math.sqrt(2 * math.pi))

    def initial(self, n: int, stream: Stream) -> tuple[dict[str, Tensor], Tensor]:
        x = stream.normal(n, (1,), dtype=torch.float64)
        return {"x": x}, self.log_potential(x, 0)

    def step(self, k: int, state: dict[str, Tensor], stream: Stream) -> tuple[dict[str, Tensor], Tensor]:
        noise = stream.normal(len(state["x"]), (1,), dtype=torch.float64)
        x = self.a * state["x"] + math.sqrt(1 - self.a**2) * noise
        return {"x": x}, self.log_potential(x, k + 1)

    def kalman(self) -> tuple[float, float, float]:
        """log evidence, and mean and variance of the last state given all observations."""
        mean, variance, log_evidence = 0.0, 1.0, 0.0
        for k in range(self.n_steps + 1):
            if k:
                mean, variance = self.a * mean, self.a**2 * variance + 1 - self.a**2
            spread = variance + self.s**2
            log_evidence += -0.5 * ((self.y(k) - mean) ** 2 / spread + math.log(2 * math.pi * spread))
            mean, variance = mean + variance / spread * (self.y(k) - mean), variance * self.s**2 / spread
        return log_evidence, mean, variance


@dataclass(frozen=True)
class Skewed:
    """A chain on five states with drift, weighed by potentials that favour its rare end: nothing here is symmetric."""

    n_steps: int = 10
    sharpness: float = 1.0

    @property
    def start(self) -> Tensor:
        return torch.tensor([0.6, 0.25, 0.1, 0.04, 0.01], dtype=torch.float64)

    @property
    def moves(self) -> Tensor:
        """Row i: where state i goes; mostly down, seldom up by one or two."""
        rows = [[0.9, 0.08, 0.02, 0, 0], [0.5, 0.35, 0.1, 0.05, 0], [0, 0.6, 0.25, 0.1, 0.05], [0, 0, 0.7, 0.2, 0.1]]
        return torch.tensor([*rows, [0, 0, 0, 0.8, 0.2]], dtype=torch.float64)

    def log_potential(self, x: Tensor, k: int) -> Tensor:
        return self.sharpness * (0.6 * x - 0.1 * x**2 * (k % 3 == 0) - 0.5 * (x == 1))

    def _drawn(self, rows: Tensor, stream: Stream) -> Tensor:
        uniform = stream.uniform(len(rows), (1,), dtype=torch.float64)
        return (uniform > rows.cumsum(1)[:, :-1]).sum(1).double()

    def initial(self, n: int, stream: Stream) -> tuple[dict[str, Tensor], Tensor]:
        x = self._drawn(self.start.expand(n, -1), stream)
        return {"x": x}, self.log_potential(x, 0)

    def step(self, k: int, state: dict[str, Tensor], stream: Stream) -> tuple[dict[str, Tensor], Tensor]:
        x = self._drawn(self.moves[state["x"].long()], stream)
        return {"x": x}, self.log_potential(x, k + 1)

    def log_evidence(self) -> float:
        values = torch.arange(5, dtype=torch.float64)
        mass = self.start * self.log_potential(values, 0).exp()
        for k in range(self.n_steps):
            mass = mass @ self.moves * self.log_potential(values, k + 1).exp()
        return math.log(float(mass.sum()))
