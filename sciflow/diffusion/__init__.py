"""Score, flow and interpolant models: schedules, denoisers in four views, and the dynamics they define."""

from __future__ import annotations

from sciflow.diffusion.chart import Charted, GeometricBrownian, Logarithm, MeanReverting, Recentred
from sciflow.diffusion.denoiser import Converted, Counted, Denoiser, FromView, Tiled, noise, score, velocity
from sciflow.diffusion.density import (
    LogLikelihood,
    bits_per_dimension,
    change_of_variables,
    dequantise,
    log_likelihood,
)
from sciflow.diffusion.discrete import MaskedModel, TableDenoiser, TokenDenoiser, decoded, markov_table
from sciflow.diffusion.divergence import ExactDivergence, Hutchinson, HutchPlusPlus
from sciflow.diffusion.flow import probability_flow, reverse_sde
from sciflow.diffusion.fokker_planck import FokkerPlanck
from sciflow.diffusion.forecast import FORECASTERS, ConditionalDiffusion, Forecasts, PDERefiner, Regression
from sciflow.diffusion.framed import FrameFlow, framed_adjoint
from sciflow.diffusion.interpolant import interpolant
from sciflow.diffusion.ito import ItoDensity, PathDensity
from sciflow.diffusion.loss import Denoising, TargetScore, Velocity
from sciflow.diffusion.mixture import EmpiricalDenoiser, GaussianDenoiser, GaussianMixture, MixtureDenoiser
from sciflow.diffusion.model import load
from sciflow.diffusion.nested import KarrasPower
from sciflow.diffusion.network import NetworkDenoiser
from sciflow.diffusion.own import OwnDenoiser
from sciflow.diffusion.patched import PatchedDenoiser
from sciflow.diffusion.paths import Follmer, KineticOptimal, SubVariancePreserving, data_separation
from sciflow.diffusion.poisson_flow import PoissonFlow, PoissonFlowDenoiser, PoissonFlowPrior
from sciflow.diffusion.schedule import (
    EDM,
    Cosine,
    Linear,
    Scaled,
    Schedule,
    Trigonometric,
    VarianceExploding,
    VariancePreserving,
)
from sciflow.diffusion.subspace import SubspaceDenoiser, SubspaceMixture
from sciflow.diffusion.times import Karras, LogSNR, Uniform
from sciflow.diffusion.two_sided import MixtureTwoSided, RegressedTwoSided, TwoSided, transport, transport_sde
from sciflow.diffusion.windowed import WindowedDenoiser

SCHEDULES: dict[str, type] = {
    "variance_preserving": VariancePreserving,
    "sub_variance_preserving": SubVariancePreserving,
    "cosine": Cosine,
    "variance_exploding": VarianceExploding,
    "edm": EDM,
    "linear": Linear,
    "trigonometric": Trigonometric,
    "kinetic_optimal": KineticOptimal,
    "follmer": Follmer,
}
TIMES: dict[str, type] = {"karras": Karras, "log_snr": LogSNR, "uniform": Uniform, "karras_power": KarrasPower}
LOSSES: dict[str, type] = {
    "denoising": Denoising,
    "target_score": TargetScore,
    "velocity": Velocity,
    "poisson_flow": PoissonFlow,
    "fokker_planck": FokkerPlanck,
}
DENOISERS: dict[str, type] = {
    "mixture": MixtureDenoiser,
    "empirical": EmpiricalDenoiser,
    "poisson_flow": PoissonFlowDenoiser,
    "subspace_mixture": SubspaceDenoiser,
    "network": NetworkDenoiser,
    "windowed": WindowedDenoiser,
    "patched": PatchedDenoiser,
    "own": OwnDenoiser,
}

__all__ = [
    "DENOISERS",
    "EDM",
    "FORECASTERS",
    "LOSSES",
    "SCHEDULES",
    "TIMES",
    "Charted",
    "ConditionalDiffusion",
    "Converted",
    "Cosine",
    "Counted",
    "Denoiser",
    "EmpiricalDenoiser",
    "ExactDivergence",
    "FokkerPlanck",
    "Follmer",
    "Forecasts",
    "FrameFlow",
    "FromView",
    "GaussianDenoiser",
    "GaussianMixture",
    "GeometricBrownian",
    "HutchPlusPlus",
    "Hutchinson",
    "ItoDensity",
    "KineticOptimal",
    "Linear",
    "LogLikelihood",
    "Logarithm",
    "MaskedModel",
    "MeanReverting",
    "MixtureDenoiser",
    "MixtureTwoSided",
    "NetworkDenoiser",
    "OwnDenoiser",
    "PDERefiner",
    "PatchedDenoiser",
    "PathDensity",
    "PoissonFlow",
    "PoissonFlowDenoiser",
    "PoissonFlowPrior",
    "Recentred",
    "RegressedTwoSided",
    "Regression",
    "Scaled",
    "Schedule",
    "SubVariancePreserving",
    "SubspaceDenoiser",
    "SubspaceMixture",
    "TableDenoiser",
    "TargetScore",
    "Tiled",
    "TokenDenoiser",
    "Trigonometric",
    "TwoSided",
    "VarianceExploding",
    "VariancePreserving",
    "WindowedDenoiser",
    "bits_per_dimension",
    "change_of_variables",
    "data_separation",
    "decoded",
    "dequantise",
    "framed_adjoint",
    "interpolant",
    "load",
    "log_likelihood",
    "markov_table",
    "noise",
    "probability_flow",
    "reverse_sde",
    "score",
    "transport",
    "transport_sde",
    "velocity",
]
