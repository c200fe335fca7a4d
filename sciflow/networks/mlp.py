"""A residual perceptron for data without a grid: points, parameters, low-dimensional test problems."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Protocol

from pydantic import Field
from torch import Tensor, nn

from sciflow.errors import InputError
from sciflow.networks.embedding import Modulation, NoiseEmbedding, zeroed


class Network(Protocol):
    """An entry of NETWORKS: the sizes of a network, which becomes a module when the shape of its data is known."""

    def build(self, shape: tuple[int, ...]) -> nn.Module:
        """A module (x, noise_level) -> like x, for x (batch, *shape) and log(sigma/alpha) (batch,) or None."""
        ...


@dataclass(frozen=True)
class MLP:
    """Residual multilayer perceptron on the flattened event, conditioned on the noise level.

        h <- h + W2 silu(FiLM(LayerNorm(W1 h), e)),   e the embedding of log(sigma/alpha)

    Exactness: learned; its error is what the validation loss and the closed-form test problems show
    Cost: depth x 2 width^2 multiply-adds per row
    Bias: none built in; starts as the zero function

    Args:
        width: hidden units.
        depth: residual blocks.
        dropout: share of hidden units dropped in training.

    Source: residual form He et al. (2016), equation 1; FiLM Perez et al. (2018), equation 2.
    """

    width: Annotated[int, Field(gt=0)] = 256
    depth: Annotated[int, Field(gt=0)] = 3
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def build(self, shape: tuple[int, ...]) -> MLPModule:
        """The module for events of this shape, with parameters drawn from torch's default generator."""
        return MLPModule(self, shape)


class MLPModule(nn.Module):
    """The weights of an `MLP`: (x, noise_level) -> like x."""

    def __init__(self, spec: MLP, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, size = tuple(shape), math.prod(shape)
        self.embedding = NoiseEmbedding(spec.width)
        self.first = nn.Linear(size, spec.width)
        self.blocks = nn.ModuleList(_Block(spec.width, spec.dropout) for _ in range(spec.depth))
        self.last = zeroed(nn.Linear(spec.width, size))

    def forward(self, x: Tensor, noise_level: Tensor | None = None) -> Tensor:
        """Map `x` (batch, *shape) at log noise levels (batch,) to the same shape."""
        if x.shape[1:] != self.shape:
            raise InputError(
                f"this MLP was built for events of shape {self.shape}, got {tuple(x.shape[1:])}. "
                "Use data of that shape, or train a network for this one."
            )
        embedding = self.embedding(noise_level, x)
        h = self.first(x.flatten(1))
        for block in self.blocks:
            h = block(h, embedding)
        return self.last(h).reshape(x.shape)


class _Block(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = Modulation(width, width)
        self.activation = nn.Sequential(nn.SiLU(), nn.Dropout(dropout))
        self.linear2 = nn.Linear(width, width)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        return h + self.linear2(self.activation(self.modulation(self.norm(self.linear1(h)), embedding)))
