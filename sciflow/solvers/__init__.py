"""Numerical methods for dx = (L x + N(t, x)) dt + g(t) dW, whatever the equation stands for."""

from __future__ import annotations

from sciflow.solvers.adaptive import Dopri5, TorchDiffEq
from sciflow.solvers.adjoint import solve_adjoint, solve_checkpointed, solve_reversible
from sciflow.solvers.automatic import Auto
from sciflow.solvers.brownian import TorchSDE
from sciflow.solvers.chaotic import CHAOTIC, Lorenz63, Lorenz96
from sciflow.solvers.churn import EDMSampler
from sciflow.solvers.ddim import DDIM, DDPM
from sciflow.solvers.deis import DEIS, IPNDMv
from sciflow.solvers.dpm_adaptive import DPMSolver12, DPMSolver23
from sciflow.solvers.dpm_solver import (
    DPMSolver1,
    DPMSolver2,
    DPMSolver3,
    DPMSolverPP2M,
    DPMSolverPP2S,
    DPMSolverPP3M,
    DPMSolverPP3MPublished,
)
from sciflow.solvers.dpm_solver_v3 import DPMSolverV3
from sciflow.solvers.dynamics import Dynamics, Equation, LinearSplit, Split, TrivialSplit, linear
from sciflow.solvers.embedded import AdaptiveRungeKutta
from sciflow.solvers.etdrk4 import ETDRK4
from sciflow.solvers.explicit import Euler, Heun, Midpoint, RFSolver, RungeKutta4
from sciflow.solvers.exponential import EABM, ExponentialEuler
from sciflow.solvers.invertible import BDIA, Pair, integrate, invert
from sciflow.solvers.kinetic import BAOAB, KINETIC_SOLVERS, OBABO, Kinetic
from sciflow.solvers.langevin import PredictorCorrector, langevin
from sciflow.solvers.model_statistics import ModelStatistics, fit_statistics
from sciflow.solvers.momentum import GHVB, HeavyBall
from sciflow.solvers.overdamped import LANGEVIN_SOLVERS, MALA, Overdamped
from sciflow.solvers.per_row import solve_counted
from sciflow.solvers.pndm import IPNDM, PLMS, PNDM
from sciflow.solvers.rosenbrock import ExponentialRosenbrock
from sciflow.solvers.scheduled import Choice, Scheduled
from sciflow.solvers.sde_dpm_solver import SDEDPMSolverPP1, SDEDPMSolverPP2M, SDEDPMSolverPP3M
from sciflow.solvers.single_step import ExponentialRungeKutta
from sciflow.solvers.skipping import Skipping
from sciflow.solvers.solve import Solver, solve
from sciflow.solvers.state_space import HiddenChain, StateSpace
from sciflow.solvers.stochastic import EulerMaruyama
from sciflow.solvers.times import times
from sciflow.solvers.unipc import UniPC
from sciflow.solvers.variance_optimised import VarianceOptimised

SOLVERS: dict[str, type] = {
    "auto": Auto,
    "euler": Euler,
    "heun": Heun,
    "midpoint": Midpoint,
    "rf_solver": RFSolver,
    "runge_kutta_4": RungeKutta4,
    "exponential_euler": ExponentialEuler,
    "eabm": EABM,
    "exponential_runge_kutta": ExponentialRungeKutta,
    "etdrk4": ETDRK4,
    "ddim": DDIM,
    "ddpm": DDPM,
    "dpm_solver_1": DPMSolver1,
    "dpm_solver_2": DPMSolver2,
    "dpm_solver_3": DPMSolver3,
    "dpm_solver_pp_2s": DPMSolverPP2S,
    "dpm_solver_pp_2m": DPMSolverPP2M,
    "dpm_solver_pp_3m": DPMSolverPP3M,
    "dpm_solver_pp_3m_published": DPMSolverPP3MPublished,
    "sde_dpm_solver_pp_1": SDEDPMSolverPP1,
    "sde_dpm_solver_pp_2m": SDEDPMSolverPP2M,
    "sde_dpm_solver_pp_3m": SDEDPMSolverPP3M,
    "unipc": UniPC,
    "deis": DEIS,
    "pndm": PNDM,
    "plms": PLMS,
    "ipndm": IPNDM,
    "ipndm_v": IPNDMv,
    "euler_maruyama": EulerMaruyama,
    "adaptive_runge_kutta": AdaptiveRungeKutta,
    "dpm_solver_12": DPMSolver12,
    "dpm_solver_23": DPMSolver23,
    "bdia": BDIA,
    "edm": EDMSampler,
    "predictor_corrector": PredictorCorrector,
    "dopri5": Dopri5,
    "torchdiffeq": TorchDiffEq,
    "torchsde": TorchSDE,
    "heavy_ball": HeavyBall,
    "ghvb": GHVB,
    "rosenbrock": ExponentialRosenbrock,
    "dpm_solver_v3": DPMSolverV3,
    "variance_optimised": VarianceOptimised,
    "scheduled": Scheduled,
    "skipping": Skipping,
}

__all__ = [
    "BAOAB",
    "BDIA",
    "CHAOTIC",
    "DDIM",
    "DDPM",
    "DEIS",
    "EABM",
    "ETDRK4",
    "GHVB",
    "IPNDM",
    "KINETIC_SOLVERS",
    "LANGEVIN_SOLVERS",
    "MALA",
    "OBABO",
    "PLMS",
    "PNDM",
    "SOLVERS",
    "AdaptiveRungeKutta",
    "Auto",
    "Choice",
    "DPMSolver1",
    "DPMSolver2",
    "DPMSolver3",
    "DPMSolver12",
    "DPMSolver23",
    "DPMSolverPP2M",
    "DPMSolverPP2S",
    "DPMSolverPP3M",
    "DPMSolverPP3MPublished",
    "DPMSolverV3",
    "Dopri5",
    "Dynamics",
    "EDMSampler",
    "Equation",
    "Euler",
    "EulerMaruyama",
    "ExponentialEuler",
    "ExponentialRosenbrock",
    "ExponentialRungeKutta",
    "HeavyBall",
    "Heun",
    "HiddenChain",
    "IPNDMv",
    "Kinetic",
    "LinearSplit",
    "Lorenz63",
    "Lorenz96",
    "Midpoint",
    "ModelStatistics",
    "Overdamped",
    "Pair",
    "PredictorCorrector",
    "RFSolver",
    "RungeKutta4",
    "SDEDPMSolverPP1",
    "SDEDPMSolverPP2M",
    "SDEDPMSolverPP3M",
    "Scheduled",
    "Skipping",
    "Solver",
    "Split",
    "StateSpace",
    "TorchDiffEq",
    "TorchSDE",
    "TrivialSplit",
    "UniPC",
    "VarianceOptimised",
    "fit_statistics",
    "integrate",
    "invert",
    "langevin",
    "linear",
    "solve",
    "solve_adjoint",
    "solve_checkpointed",
    "solve_counted",
    "solve_reversible",
    "times",
]
