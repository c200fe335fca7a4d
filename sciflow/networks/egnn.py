"""Networks that turn with their particles: messages along all pairs, from distances alone, which move positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from sciflow.errors import InputError
from sciflow.networks.embedding import NoiseEmbedding, zeroed

TINY = 1e-12  # added to squared distances, so that the distance 0 has a derivative; a millionth of a unit of length
LENGTH = 6.0  # the radial functions cover distances up to this many standard deviations of a coordinate
FARTHEST = 50.0  # exponents end there: e^-50 is lost beside 1, and subnormal numbers are slow
SIDES = (2, 3)  # axes in which a signed volume is known


@dataclass(frozen=True)
class EGNN:
    """Equivariant graph network on positions of particles, all of which see one another.

        m_ij = φ_e(h_i, h_j, |r_ij|, a_ij, e),   r_ij = x_i − x_j
        x_i <- x_i + 1/(n − 1) Σ_j r_ij/(1 + |r_ij|) φ_x(m_ij),   h_i <- h_i + φ_h(h_i, Σ_j m_ij/(n − 1), v_i)

    e is the embedding of the noise level, a_ij are Gaussian functions of the first |r_ij|; φ_e has one hidden layer,
    φ_x is linear. The answer is the sum of all moves, less its mean. v_i, the signed volume, is there on request: the
    determinant of as many sums Σ_j r_ij/(1 + |r_ij|) w(m_ij) as there are axes. It alone changes its sign in a mirror.

    Exactness: learned. F(Q x + c) = Q F(x) for rotations, for reflections too without signed volumes, and
        F(π x) = π F(x) for permutations of equal particles, to rounding
    Cost: about depth width (width + n_radial) multiply-adds for each of n² pairs
    Bias: cannot see where the centre is, nor move it: for laws with their centre at 0 (`train.centred`); starts as the
        zero function

    Args:
        width: of features and messages.
        depth: layers.
        n_radial: Gaussian functions of a distance.
        signed_volume: tell a molecule from its mirror image; in two or three axes.
        distinct: particles are of different kinds, each with a learned feature; else all are alike.
        dropout: share of message features dropped in training.

    Source: Satorras, Hoogeboom and Welling (2021), E(n) equivariant graph neural networks, equations 3 to 6; division
        by 1 + |r| as in Satorras et al. (2021), E(n) equivariant normalizing flows. Signed volumes are our own.
    """

    width: Annotated[int, Field(gt=0)] = 32
    depth: Annotated[int, Field(gt=0)] = 3
    n_radial: Annotated[int, Field(gt=1)] = 16
    signed_volume: bool = False
    distinct: bool = False
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def __post_init__(self) -> None:
        if self.signed_volume and self.depth < 2:
            raise InputError(
                "network: signed volumes reach the answer through a second layer, got depth 1. Set depth to 2 or more."
            )

    def build(self, shape: tuple[int, ...]) -> EGNNModule:
        """The module for events of this shape, with parameters drawn from torch's default generator.

        Raises:
            InputError: `shape` is not (particle, axis), or has no signed volume that is wanted.
        """
        return EGNNModule(self, shape)


class EGNNModule(nn.Module):
    """The weights of an `EGNN`: (x, noise_level) -> like x."""

    centres: Tensor

    def __init__(self, spec: EGNN, shape: tuple[int, ...]) -> None:
        super().__init__()
        if len(shape) != 2 or shape[0] < 2:
            raise InputError(
                f"an EGNN needs events of shape (particle, axis) with two particles or more, got {tuple(shape)}. "
                "Reshape the data, or use the mlp network."
            )
        if spec.signed_volume and shape[1] not in SIDES:
            raise InputError(f"signed volumes are known in {SIDES} axes, got {shape[1]}. Set signed_volume to false.")
        self.shape = tuple(shape)
        self.register_buffer("centres", torch.linspace(0.0, LENGTH, spec.n_radial), persistent=False)
        self.embedding = NoiseEmbedding(spec.width)
        self.first = nn.Linear(spec.width, spec.width)
        self.kinds = nn.Parameter(torch.randn(shape[0], spec.width)) if spec.distinct else None
        n_sides = shape[1] if spec.signed_volume else 0
        self.layers = nn.ModuleList(_Layer(spec, n_sides, k == spec.depth - 1) for k in range(spec.depth))

    def forward(self, x: Tensor, noise_level: Tensor | None = None) -> Tensor:
        """The answer at log noise levels (batch,); None counts as log level 0."""
        if x.shape[1:] != self.shape:
            raise InputError(
                f"this EGNN was built for events of shape {self.shape}, got {tuple(x.shape[1:])}. "
                "Use data of that shape, or train a network for this one."
            )
        embedding = self.embedding(noise_level, x)
        h = self.first(embedding)[:, None].expand(-1, self.shape[0], -1)
        h = h if self.kinds is None else h + self.kinds
        moved, radial = torch.zeros_like(x), None
        for layer in self.layers:
            at = x + moved
            r = at[:, :, None] - at[:, None]
            length = (r.square().sum(3, keepdim=True) + TINY).sqrt()
            if radial is None:
                radial = self._radial(length)
            move, h = layer(h, r / (1 + length), length, radial, embedding)
            moved = moved + move
        return moved - moved.mean(1, keepdim=True)

    def _radial(self, length: Tensor) -> Tensor:
        """a_ij = exp(−½ (|r_ij| − c_k)²/δ²) with centres c_k that are δ apart, (batch, i, j, n_radial)."""
        away = (length - self.centres) / (self.centres[1] - self.centres[0])
        return torch.exp(-(0.5 * away.square()).clamp_max(FARTHEST))


class _Layer(nn.Module):
    """One round of messages: how positions move, and the new features; the last layer has no use for features."""

    def __init__(self, spec: EGNN, n_sides: int, is_last: bool) -> None:
        super().__init__()
        width = spec.width
        self.of_receiver, self.of_sender = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.of_level = nn.Linear(width, width, bias=False)
        self.of_pair = nn.Linear(spec.n_radial + 1, width, bias=False)
        self.message = nn.Sequential(nn.SiLU(), nn.Dropout(spec.dropout), nn.Linear(width, width), nn.SiLU())
        self.gain = zeroed(nn.Linear(width, 1, bias=False))
        self.is_last, self.n_sides = is_last, 0 if is_last else n_sides
        if self.n_sides:
            self.sides = nn.Linear(width, n_sides, bias=False)
        if not is_last:
            n_in = 2 * width + bool(n_sides)
            self.features = nn.Sequential(nn.Linear(n_in, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, h: Tensor, r: Tensor, length: Tensor, radial: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Moves (batch, i, axis) and features, of r/(1 + |r|) (batch, i, j, axis) and |r| (batch, i, j, 1)."""
        receiver = self.of_receiver(h) + self.of_level(embedding)[:, None]
        pair = self.of_pair(torch.cat([radial, length], 3))
        m = self.message(pair + receiver[:, :, None] + self.of_sender(h)[:, None])
        others = len(h[0]) - 1  # a particle's message to itself does not move it, nor say what it does not know
        move = (self.gain(m) * r).sum(2) / others
        if self.is_last:
            return move, h
        known = [h, m.sum(2) / others]
        if self.n_sides:
            known.append(_volume(torch.einsum("bijk,bija->bika", self.sides(m), r)))
        return move, h + self.features(torch.cat(known, 2))


def _volume(sides: Tensor) -> Tensor:
    """Determinants of matrices of two or three rows, (…, k, k) → (…, 1), tamed as v/(1 + |v|)."""
    a, b, *c = sides.unbind(-2)
    if c:
        volume = (torch.linalg.cross(a, b) * c[0]).sum(-1, keepdim=True)
    else:
        volume = (a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0])[..., None]
    return volume / (1 + volume.abs())
