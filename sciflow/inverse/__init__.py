"""Inverse problems: operators, likelihoods, guidance and posterior samplers behind one seam."""

from __future__ import annotations

from collections import ChainMap

from sciflow.inverse.assimilation import EnsembleKalmanFilter, ParticleFilter
from sciflow.inverse.by_gradient import DAS, TDS, WeightedDPS
from sciflow.inverse.by_measurement import FPS, MCGDiff
from sciflow.inverse.by_value import DOIT, SVDD, FKSteering, GreedySVDD
from sciflow.inverse.chains import DenoisedChains
from sciflow.inverse.conjugate import Conjugate
from sciflow.inverse.convolution import MotionBlur
from sciflow.inverse.counts import LogPoissonLikelihood, LogPoissonNoise, PoissonLikelihood, PoissonNoise
from sciflow.inverse.darcy import Darcy
from sciflow.inverse.dense import Dense
from sciflow.inverse.expert import Expert
from sciflow.inverse.guidance import DPS, Guidance, MomentMatching, PiGDM
from sciflow.inverse.inpainting import BoxInpainting, Inpainting
from sciflow.inverse.likelihood import (
    GaussianLikelihood,
    GaussianNoise,
    Likelihood,
    NoiseModel,
    NonlinearGaussianLikelihood,
)
from sciflow.inverse.marginal import AFDPS, Annealed, Ensemble, Geometric, Product, Tilted
from sciflow.inverse.mri import CartesianMRI
from sciflow.inverse.noised import NoisedLikelihood
from sciflow.inverse.operator import Composition, Identity, LinearOperator, Operator, check_adjoint
from sciflow.inverse.phase import PhaseRetrieval
from sciflow.inverse.posterior import Guided, Posterior, TwistedSMC
from sciflow.inverse.restoration import Restoration
from sciflow.inverse.rollout import Rollout
from sciflow.inverse.rollover import RolloverBudgetForcing
from sciflow.inverse.sensors import Sensors
from sciflow.inverse.separable import Bicubic, Downsampling, GaussianBlur
from sciflow.inverse.simulated import Simulated
from sciflow.inverse.spectral import DDNM, DDRM
from sciflow.inverse.splitting import DAPS, DiffPIR, PnPDM
from sciflow.inverse.superdiff import SuperDiffAnd, SuperDiffOr
from sciflow.inverse.tempered import Tempered
from sciflow.inverse.tomography import FanBeam, ParallelBeam
from sciflow.inverse.unguided import Unguided
from sciflow.inverse.variational import REDDiff

OPERATORS: dict[str, type] = {
    "identity": Identity,
    "inpainting": Inpainting,
    "box_inpainting": BoxInpainting,
    "gaussian_blur": GaussianBlur,
    "motion_blur": MotionBlur,
    "downsampling": Downsampling,
    "bicubic": Bicubic,
    "parallel_beam": ParallelBeam,
    "fan_beam": FanBeam,
    "cartesian_mri": CartesianMRI,
    "dense": Dense,
    "sensors": Sensors,
    "composition": Composition,
}
NONLINEAR_OPERATORS: dict[str, type] = {"darcy": Darcy, "phase_retrieval": PhaseRetrieval}
MEASUREMENTS = ChainMap(NONLINEAR_OPERATORS, OPERATORS)
"""All operators: what may make an observation, and what a likelihood that is not linear may assume."""
NOISES: dict[str, type] = {"gaussian": GaussianNoise, "poisson": PoissonNoise, "log_poisson": LogPoissonNoise}
LIKELIHOODS: dict[str, type] = {
    "gaussian": GaussianLikelihood,
    "nonlinear_gaussian": NonlinearGaussianLikelihood,
    "poisson": PoissonLikelihood,
    "log_poisson": LogPoissonLikelihood,
}
GUIDANCE: dict[str, type] = {"dps": DPS, "pigdm": PiGDM, "moment_matching": MomentMatching}
POSTERIORS: dict[str, type] = {
    "guided": Guided,
    "twisted_smc": TwistedSMC,
    "tds": TDS,
    "das": DAS,
    "weighted_dps": WeightedDPS,
    "fk_steering": FKSteering,
    "doit": DOIT,
    "svdd": SVDD,
    "greedy_svdd": GreedySVDD,
    "mcgdiff": MCGDiff,
    "fps": FPS,
    "unguided": Unguided,
    "tempered": Tempered,
    "annealed": Annealed,
    "geometric": Geometric,
    "product": Product,
    "tilted": Tilted,
    "afdps": AFDPS,
    "superdiff_or": SuperDiffOr,
    "superdiff_and": SuperDiffAnd,
    "rollover_budget_forcing": RolloverBudgetForcing,
    "denoising_mcmc": DenoisedChains,
    "simulated": Simulated,
    "restoration": Restoration,
    "ddrm": DDRM,
    "ddnm": DDNM,
    "diffpir": DiffPIR,
    "daps": DAPS,
    "pnp_dm": PnPDM,
    "red_diff": REDDiff,
    "conjugate": Conjugate,
    "particle_filter": ParticleFilter,
    "ensemble_kalman": EnsembleKalmanFilter,
    "rollout": Rollout,
}

__all__ = [
    "AFDPS",
    "DAPS",
    "DAS",
    "DDNM",
    "DDRM",
    "DOIT",
    "DPS",
    "FPS",
    "GUIDANCE",
    "LIKELIHOODS",
    "MEASUREMENTS",
    "NOISES",
    "NONLINEAR_OPERATORS",
    "OPERATORS",
    "POSTERIORS",
    "SVDD",
    "TDS",
    "Annealed",
    "Bicubic",
    "BoxInpainting",
    "CartesianMRI",
    "Composition",
    "Conjugate",
    "Darcy",
    "DenoisedChains",
    "Dense",
    "DiffPIR",
    "Downsampling",
    "Ensemble",
    "EnsembleKalmanFilter",
    "Expert",
    "FKSteering",
    "FanBeam",
    "GaussianBlur",
    "GaussianLikelihood",
    "GaussianNoise",
    "Geometric",
    "GreedySVDD",
    "Guidance",
    "Guided",
    "Identity",
    "Inpainting",
    "Likelihood",
    "LinearOperator",
    "LogPoissonLikelihood",
    "LogPoissonNoise",
    "MCGDiff",
    "MomentMatching",
    "MotionBlur",
    "NoiseModel",
    "NoisedLikelihood",
    "NonlinearGaussianLikelihood",
    "Operator",
    "ParallelBeam",
    "ParticleFilter",
    "PhaseRetrieval",
    "PiGDM",
    "PnPDM",
    "PoissonLikelihood",
    "PoissonNoise",
    "Posterior",
    "Product",
    "REDDiff",
    "Restoration",
    "Rollout",
    "RolloverBudgetForcing",
    "Sensors",
    "Simulated",
    "SuperDiffAnd",
    "SuperDiffOr",
    "Tempered",
    "Tilted",
    "TwistedSMC",
    "Unguided",
    "WeightedDPS",
    "check_adjoint",
]
