"""Numerical methods for dx = (L x + N(t, x)) dt + g(t) dW, whatever the equation stands for."""

from __future__ import annotations

from sciflow.solvers.adaptive import Dopri5
from sciflow.solvers.brownian import TorchSDE
from sciflow.solvers.dynamics import Dynamics, Equation, LinearSplit, Split, TrivialSplit, linear
from sciflow.solvers.explicit import Euler, Heun, RungeKutta4
from sciflow.solvers.exponential import EABM, ExponentialEuler
from sciflow.solvers.solve import Solver, solve
from sciflow.solvers.stochastic import EulerMaruyama
from sciflow.solvers.times import times

SOLVERS: dict[str, type] = {
    "euler": Euler,
    "heun": Heun,
    "runge_kutta_4": RungeKutta4,
    "exponential_euler": ExponentialEuler,
    "eabm": EABM,
    "euler_maruyama": EulerMaruyama,
    "dopri5": Dopri5,
    "torchsde": TorchSDE,
}

__all__ = [
    "EABM",
    "SOLVERS",
    "Dopri5",
    "Dynamics",
    "Equation",
    "Euler",
    "EulerMaruyama",
    "ExponentialEuler",
    "Heun",
    "LinearSplit",
    "RungeKutta4",
    "Solver",
    "Split",
    "TorchSDE",
    "TrivialSplit",
    "linear",
    "solve",
    "times",
]
