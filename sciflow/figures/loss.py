"""How training went: loss on the training and on the validation set against step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from sciflow.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def loss_curve(
    steps: ArrayLike,
    loss: ArrayLike,
    validation_steps: ArrayLike = (),
    validation_loss: ArrayLike = (),
    *,
    unit: str = "1",
    title: str = "Training: loss against step",
    ax: Axes | None = None,
) -> Axes:
    """Training loss of each step (faint), its running mean, and the validation loss.

    Exactness: draws the numbers it is given, and a running mean over 1/50 of the steps
    Cost: one curve
    Bias: none

    Args:
        steps: optimiser steps, (step,).
        loss: training loss, (step,), in `unit`.
        validation_steps: steps at which the validation set was scored, (point,).
        validation_loss: loss on the validation set, (point,), in `unit`.
        unit: unit of the loss.
        title: heading.
        ax: where to draw; None makes a Figure.
    """
    ax = style.axes(ax)
    steps, loss = np.asarray(steps, dtype=float), np.asarray(loss, dtype=float)
    points, scores = np.asarray(validation_steps, dtype=float), np.asarray(validation_loss, dtype=float)
    window = max(1, len(loss) // 50)
    if window > 1:
        ax.plot(steps, loss, color=style.colour(0), linewidth=0.5, alpha=0.25)
        sums = np.convolve(loss, np.ones(window), "valid") / window
        ax.plot(steps[window - 1 :], sums, color=style.colour(0), linewidth=1.6, label="training (running mean)")
    else:
        ax.plot(steps, loss, color=style.colour(0), linewidth=1.6, label="training")
    if len(points):
        ax.plot(points, scores, color=style.colour(1), linewidth=1.4, marker="o", markersize=3.5, label="validation")
    if (loss > 0).all() and (scores > 0).all():
        ax.set_yscale("log")
    note = "validation above training and rising: overfitting"
    style.dress(ax, title, note if len(points) else "", "optimiser step", style.label("loss", unit))
    style.legend(ax, loc="upper right")
    return ax
