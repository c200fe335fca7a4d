"""Sequential Monte Carlo: Feynman–Kac models, resampling and weighted ensembles. Knows no diffusion model."""

from __future__ import annotations

from sciflow.particles.feynman_kac import FeynmanKac, State, smc
from sciflow.particles.particles import Particles
from sciflow.particles.resampling import RESAMPLERS, ess, log_mean_exp, multinomial, residual, stratified, systematic

__all__ = [
    "RESAMPLERS",
    "FeynmanKac",
    "Particles",
    "State",
    "ess",
    "log_mean_exp",
    "multinomial",
    "residual",
    "smc",
    "stratified",
    "systematic",
]
