"""Inverse problems: operators, likelihoods, guidance and posterior samplers behind one seam."""

from __future__ import annotations

from sciflow.inverse.dense import Dense
from sciflow.inverse.guidance import DPS, Guidance, MomentMatching, PiGDM
from sciflow.inverse.inpainting import Inpainting
from sciflow.inverse.likelihood import GaussianLikelihood, GaussianNoise, Likelihood, NoiseModel
from sciflow.inverse.operator import Composition, Identity, LinearOperator, check_adjoint
from sciflow.inverse.posterior import Guided, Posterior, TwistedSMC
from sciflow.inverse.separable import Downsampling, GaussianBlur

OPERATORS: dict[str, type] = {
    "identity": Identity,
    "inpainting": Inpainting,
    "gaussian_blur": GaussianBlur,
    "downsampling": Downsampling,
    "dense": Dense,
    "composition": Composition,
}
NOISES: dict[str, type] = {"gaussian": GaussianNoise}
LIKELIHOODS: dict[str, type] = {"gaussian": GaussianLikelihood}
GUIDANCE: dict[str, type] = {"dps": DPS, "pigdm": PiGDM, "moment_matching": MomentMatching}
POSTERIORS: dict[str, type] = {"guided": Guided, "twisted_smc": TwistedSMC}

__all__ = [
    "DPS",
    "GUIDANCE",
    "LIKELIHOODS",
    "NOISES",
    "OPERATORS",
    "POSTERIORS",
    "Composition",
    "Dense",
    "Downsampling",
    "GaussianBlur",
    "GaussianLikelihood",
    "GaussianNoise",
    "Guidance",
    "Guided",
    "Identity",
    "Inpainting",
    "Likelihood",
    "LinearOperator",
    "MomentMatching",
    "NoiseModel",
    "PiGDM",
    "Posterior",
    "TwistedSMC",
    "check_adjoint",
]
