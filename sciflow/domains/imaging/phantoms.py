"""Objects made of ellipses, whose line integrals and Fourier transform are known: truth that no operator made."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sciflow.inverse.tomography import Rays

SHEPP_LOGAN = (
    (1.0, 0.69, 0.92, 0.0, 0.0, 0.0),
    (-0.8, 0.6624, 0.874, 0.0, 0.0184, 0.0),
    (-0.2, 0.11, 0.31, 0.22, 0.0, 18.0),
    (-0.2, 0.16, 0.41, -0.22, 0.0, -18.0),
    (0.1, 0.21, 0.25, 0.0, -0.35, 0.0),
    (0.1, 0.046, 0.046, 0.0, -0.1, 0.0),
    (0.1, 0.046, 0.046, 0.0, 0.1, 0.0),
    (0.1, 0.046, 0.023, -0.08, 0.605, 0.0),
    (0.1, 0.023, 0.023, 0.0, 0.605, 0.0),
    (0.1, 0.023, 0.046, 0.06, 0.605, 0.0),
)
"""The modified head phantom: value, semi-axes along x, y, centre x, y [half sides], turn from x to y [degrees]."""


@dataclass(frozen=True)
class Ellipses:
    """A sum of ellipses of constant value on a square image, x along its columns and y down its rows.

    Exactness: line integrals and Fourier transform in closed form; the image by means over points of each pixel
    Cost: none
    Bias: that of the points, for the image alone
    Args:
        rows: value, semi-axis along x, semi-axis along y, centre x, centre y [half sides], turn from x to y [degrees].
    Source: Shepp and Logan (1974), The Fourier reconstruction of a head section; contrasts of Toft (1996), table B.3.
    """

    rows: tuple[tuple[float, ...], ...] = SHEPP_LOGAN

    def image(self, side: int, points: int = 8) -> np.ndarray:
        """Means over points² points of each pixel, (side, side)."""
        place = (2 * np.arange(side * points) + 1) / (side * points) - 1
        total = np.zeros((side * points, side * points))
        for value, a, b, x, y, turn in self.rows:
            u, v = _turned(place[None, :] - x, place[:, None] - y, turn)
            total += value * ((u / a) ** 2 + (v / b) ** 2 < 1)
        return total.reshape(side, points, side, points).mean((1, 3))

    def line_integrals(self, rays: Rays, side: int) -> np.ndarray:
        """Integrals along rays [value × pixels], (view, detector)."""
        half, total = side / 2, np.zeros(rays.points.shape[:2])
        for value, a, b, x, y, turn in self.rows:
            centred = rays.points / half - np.array([x, y])
            p = np.stack(_turned(centred[..., 0], centred[..., 1], turn), -1) / (a, b)
            d = np.stack(_turned(rays.directions[..., 0], rays.directions[..., 1], turn), -1) / (a, b)
            length, dot = (d**2).sum(-1), (p * d).sum(-1)
            inside = dot**2 - length * ((p**2).sum(-1) - 1)
            total += value * 2 * half * np.sqrt(np.maximum(inside, 0)) / length
        return total

    def spectrum(self, side: int) -> np.ndarray:
        """Its Fourier transform where `sciflow.inverse.mri.spectrum` has that of its image, complex, (side, side)."""
        from scipy.special import j1

        k = (np.arange(side) - side // 2) / 2  # cycles per half side
        origin = (2 * (side // 2) + 1 - side) / side  # of the discrete transform, the middle of pixel side // 2
        total = np.zeros((side, side), dtype=complex)
        for value, a, b, x, y, turn in self.rows:
            u, v = _turned(k[None, :], k[:, None], turn)
            radius = 2 * math.pi * np.hypot(a * u, b * v)
            ratio = np.where(radius > 0, j1(radius) / np.where(radius > 0, radius, 1), 0.5)
            phase = np.exp(-2j * math.pi * (k[None, :] * (x - origin) + k[:, None] * (y - origin)))
            total += value * 2 * math.pi * a * b * ratio * phase
        return total * side / 4  # half sides to pixels, (side/2)², over the side of the unitary transform


def _turned(x: np.ndarray, y: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along the axes of an ellipse."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return c * x + s * y, c * y - s * x
