"""Training: a loop that can be killed at any moment and gives the same bits."""

from __future__ import annotations

from sciflow.training.checkpoint import Checkpoint
from sciflow.training.loop import Fitted, History, fit
from sciflow.training.optimisation import Optimisation

__all__ = ["Checkpoint", "Fitted", "History", "Optimisation", "fit"]
