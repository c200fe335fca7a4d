"""A network that is the gradient of a scalar: its answer is a force, and it knows the density."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from sciflow.errors import InputError
from sciflow.networks.embedding import NoiseEmbedding, zeroed


@dataclass(frozen=True)
class EnergyMLP:
    """A perceptron for the log-density of noisy data, whose gradient is the denoiser's network.

        log q(z, l) = −‖z‖²/2 − d/2 log 2π + c h(z, l),   F = (ρ/√(1 + ρ²)) ∇h,   c = 1/√(1 + ρ²),   ρ = e^l

    z is the noisy data in units of its standard deviation, l = log ρ its log noise level. The vector field that belongs
    to F is −∇U of an energy: a simulation with it has an equilibrium, and log q is known.

    Exactness: learned; h = 0, the start, is the exact density of N(0, 1) data
    Cost: that of a forward and a backward pass of depth x width^2 multiply-adds; twice a plain network of the same size
    Bias: none built in

    Args:
        width: hidden units.
        depth: hidden layers.
        dropout: share of hidden units dropped in training.

    Source: Salimans and Ho (2021), Should EBMs model the energy or the score?; for the preconditioning Karras et al.
        (2022), table 1, with the potential of its network.
    """

    width: Annotated[int, Field(gt=0)] = 96
    depth: Annotated[int, Field(gt=0)] = 3
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def build(self, shape: tuple[int, ...]) -> EnergyModule:
        """The module for events of this shape, with parameters drawn from torch's default generator."""
        return EnergyModule(self, shape)


class EnergyModule(nn.Module):
    """The weights of an `EnergyMLP`: (x, noise_level) -> like x, and `log_density`."""

    def __init__(self, spec: EnergyMLP, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, size = tuple(shape), math.prod(shape)
        self.embedding = NoiseEmbedding(spec.width)
        self.first = nn.Linear(size, spec.width)
        self.layers = nn.ModuleList(nn.Linear(spec.width, spec.width) for _ in range(spec.depth - 1))
        self.shifts = nn.ModuleList(nn.Linear(spec.width, spec.width) for _ in range(spec.depth))
        self.last = zeroed(nn.Linear(spec.width, 1, bias=False))
        self.activation = nn.Sequential(nn.SiLU(), nn.Dropout(spec.dropout))

    def correction(self, z: Tensor, noise_level: Tensor) -> Tensor:
        """h of each row, (batch,)."""
        embedding = self.embedding(noise_level, z)
        hidden = self.activation(self.first(z.flatten(1)) + self.shifts[0](embedding))
        for layer, shift in zip(self.layers, list(self.shifts)[1:], strict=True):
            hidden = hidden + self.activation(layer(hidden) + shift(embedding))
        return self.last(hidden)[:, 0]

    def log_density(self, z: Tensor, noise_level: Tensor) -> Tensor:
        """log q of each row, in z, (batch,)."""
        flat = z.flatten(1)
        normal = -0.5 * flat.square().sum(1) - 0.5 * flat.shape[1] * math.log(2 * math.pi)
        return normal + (1 + (2 * noise_level).exp()).rsqrt() * self.correction(z, noise_level)

    def forward(self, x: Tensor, noise_level: Tensor | None = None) -> Tensor:
        """The answer F at log noise levels (batch,); None counts as log level 0."""
        if x.shape[1:] != self.shape:
            raise InputError(
                f"this EnergyMLP was built for events of shape {self.shape}, got {tuple(x.shape[1:])}. "
                "Use data of that shape, or train a network for this one."
            )
        level = x.new_zeros(len(x)) if noise_level is None else noise_level.to(x).expand(len(x))
        level = level.clamp(-30, 30)  # infinite at the ends of a schedule
        with torch.inference_mode(False), torch.enable_grad():
            gradient = torch.func.grad(lambda z: self.correction(z, level).sum())(x)
        keeps = torch.is_grad_enabled()
        gain = torch.sigmoid(2 * level).sqrt().reshape(-1, *[1] * (x.ndim - 1))
        return gain * (gradient if keeps else gradient.detach())
