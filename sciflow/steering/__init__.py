"""Steering: Feynman–Kac models made of denoisers, for targets that tilt, anneal or compose what a model has learned."""

from __future__ import annotations

from sciflow.steering.agreement import AndModel
from sciflow.steering.compose import MixtureOf, OrModel, but_not
from sciflow.steering.control import Control
from sciflow.steering.flows import Between, OneSided, Ramped, TransportModel, of_velocity
from sciflow.steering.marginal import MarginalModel, marginal
from sciflow.steering.reward import Tilt
from sciflow.steering.target import RaisedReward, TargetPath, annealed, geometric, product, tilted
from sciflow.steering.twisted import TwistedModel

__all__ = [
    "AndModel",
    "Between",
    "Control",
    "MarginalModel",
    "MixtureOf",
    "OneSided",
    "OrModel",
    "RaisedReward",
    "Ramped",
    "TargetPath",
    "Tilt",
    "TransportModel",
    "TwistedModel",
    "annealed",
    "but_not",
    "geometric",
    "marginal",
    "of_velocity",
    "product",
    "tilted",
]
