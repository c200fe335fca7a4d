"""Score, flow and interpolant models: schedules, denoisers in four views, and the dynamics they define."""

from __future__ import annotations

from sciflow.diffusion.denoiser import Counted, Denoiser, FromView, Tiled, noise, score, velocity
from sciflow.diffusion.flow import probability_flow, reverse_sde
from sciflow.diffusion.interpolant import interpolant
from sciflow.diffusion.loss import Denoising, Velocity
from sciflow.diffusion.mixture import EmpiricalDenoiser, GaussianDenoiser, GaussianMixture, MixtureDenoiser
from sciflow.diffusion.model import load
from sciflow.diffusion.network import NetworkDenoiser
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
from sciflow.diffusion.times import Karras, LogSNR, Uniform

SCHEDULES: dict[str, type] = {
    "variance_preserving": VariancePreserving,
    "cosine": Cosine,
    "variance_exploding": VarianceExploding,
    "edm": EDM,
    "linear": Linear,
    "trigonometric": Trigonometric,
}
TIMES: dict[str, type] = {"karras": Karras, "log_snr": LogSNR, "uniform": Uniform}
LOSSES: dict[str, type] = {"denoising": Denoising, "velocity": Velocity}
DENOISERS: dict[str, type] = {
    "mixture": MixtureDenoiser,
    "empirical": EmpiricalDenoiser,
    "network": NetworkDenoiser,
}

__all__ = [
    "DENOISERS",
    "EDM",
    "LOSSES",
    "SCHEDULES",
    "TIMES",
    "Cosine",
    "Counted",
    "Denoiser",
    "EmpiricalDenoiser",
    "FromView",
    "GaussianDenoiser",
    "GaussianMixture",
    "Linear",
    "MixtureDenoiser",
    "NetworkDenoiser",
    "Scaled",
    "Schedule",
    "Tiled",
    "Trigonometric",
    "VarianceExploding",
    "VariancePreserving",
    "interpolant",
    "load",
    "noise",
    "probability_flow",
    "reverse_sde",
    "score",
    "velocity",
]
