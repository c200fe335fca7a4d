"""How to optimise: every number a user may set, and the schedule of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field

WIDEST = 1024  # a side of a weight that SOAP turns: an eigenbasis costs its cube


@dataclass(frozen=True)
class Optimisation:
    """AdamW or SOAP with linear warm-up, cosine decay and an exponential moving average of the weights.

        rate(n) = learning_rate min(1, (n + 1) / warm_up) (1 + cos(pi max(0, n - warm_up) / (n_steps - warm_up))) / 2

    SOAP takes the steps of Adam in the eigenbases of the gradient's covariance over the rows and over the columns of
    each weight. Where few weights must be known precisely it gets further in as many steps; each costs products of the
    weight with its bases besides, and every tenth those bases.

    Exactness: bit-identical after any interruption on one device, unless `time_budget` ended it
    Cost: one forward and backward pass per row of the batch and step
    Bias: none

    Args:
        n_steps: optimiser steps.
        optimiser: what moves the weights.
        batch_size: rows per step, over all ranks and accumulated pieces together.
        learning_rate: highest rate.
        weight_decay: decoupled decay per unit of learning rate.
        warm_up: steps until the highest rate is reached; at most half of `n_steps` are used.
        gradient_clip: largest norm of the gradient; None for no limit.
        ema_decay: weight kept from the past by the moving average.
        accumulate: pieces a batch is cut into to save memory; changes the result by rounding only.
        precision: bfloat16 runs matrix products in half precision; weights stay in float32.
        validate_every: steps between validation losses.
        checkpoint_every: seconds between checkpoints; 0 saves after every step.
        time_budget: minutes of training after which the run counts as finished; None for no limit.
        patience: validations without a new lowest loss after which the run counts as finished; None for no limit.

    Source: Loshchilov and Hutter (2019), algorithm 2; cosine decay Loshchilov and Hutter (2017), equation 5; SOAP: Vyas
        et al. (2025), Improving and stabilizing Shampoo using Adam, algorithm 3, by the package pytorch-optimizer.
    """

    n_steps: Annotated[int, Field(gt=0)] = 2000
    optimiser: Literal["adamw", "soap"] = "adamw"
    batch_size: Annotated[int, Field(gt=0)] = 128
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    warm_up: Annotated[int, Field(ge=0)] = 100
    gradient_clip: Annotated[float, Field(gt=0)] | None = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    accumulate: Annotated[int, Field(gt=0)] = 1
    precision: Literal["float32", "bfloat16"] = "float32"
    validate_every: Annotated[int, Field(gt=0)] = 100
    checkpoint_every: Annotated[float, Field(ge=0)] = 60.0
    time_budget: Annotated[float, Field(gt=0)] | None = None
    patience: Annotated[int, Field(gt=0)] | None = None

    def rate(self, step: int) -> float:
        """The learning rate of one step, counted from 0."""
        warm_up = min(self.warm_up, self.n_steps // 2)
        rise = min(1.0, (step + 1) / max(warm_up, 1))
        fall = (1 + math.cos(math.pi * max(0, step - warm_up) / (self.n_steps - warm_up))) / 2
        return self.learning_rate * rise * fall

    def build(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser; its learning rate is set before each step."""
        if self.optimiser == "adamw":
            return torch.optim.AdamW(parameters, weight_decay=self.weight_decay)
        from pytorch_optimizer import SOAP  # a second of imports

        return SOAP(parameters, weight_decay=self.weight_decay, max_precondition_dim=WIDEST)
