"""Sequential Monte Carlo: Feynman–Kac models, resampling and weighted ensembles. Knows no diffusion model."""

from __future__ import annotations

from sciflow.particles.adaptation import Adaptation, Pilot, pilot
from sciflow.particles.conditional import CONDITIONAL
from sciflow.particles.ensemble_kalman import EnsembleKalman
from sciflow.particles.evidence import Evidence
from sciflow.particles.feynman_kac import FeynmanKac, Rejuvenation, State, smc
from sciflow.particles.filtering import BootstrapFilter, GuidedFilter, LinearMeasurements, filtered
from sciflow.particles.kalman import LinearChain
from sciflow.particles.kernels import HMC, KERNELS, MALA, ULA, Kernel
from sciflow.particles.nested import GreedyModel, NestedModel
from sciflow.particles.particles import Particles
from sciflow.particles.ranks import Alone, Group, Ranks
from sciflow.particles.resampling import (
    RESAMPLERS,
    ess,
    killing,
    log_mean_exp,
    multinomial,
    residual,
    ssp,
    stratified,
    systematic,
)
from sciflow.particles.smc_state import SMCState
from sciflow.particles.tempering import Bridge, NormalBase, Stage, Tempering, Tilt, ladder
from sciflow.particles.transport import fit_drift

__all__ = [
    "CONDITIONAL",
    "HMC",
    "KERNELS",
    "MALA",
    "RESAMPLERS",
    "ULA",
    "Adaptation",
    "Alone",
    "BootstrapFilter",
    "Bridge",
    "EnsembleKalman",
    "Evidence",
    "FeynmanKac",
    "GreedyModel",
    "Group",
    "GuidedFilter",
    "Kernel",
    "LinearChain",
    "LinearMeasurements",
    "NestedModel",
    "NormalBase",
    "Particles",
    "Pilot",
    "Ranks",
    "Rejuvenation",
    "SMCState",
    "Stage",
    "State",
    "Tempering",
    "Tilt",
    "ess",
    "filtered",
    "fit_drift",
    "killing",
    "ladder",
    "log_mean_exp",
    "multinomial",
    "pilot",
    "residual",
    "smc",
    "ssp",
    "stratified",
    "systematic",
]
