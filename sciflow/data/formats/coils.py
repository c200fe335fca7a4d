"""Sensitivities of receiver coils, from the middle of their own k-space."""

from __future__ import annotations

from typing import Any

import numpy as np

CALIBRATION = 16  # rows and columns in the middle that are taken
LEAST = 8  # columns in the middle below which nothing is told of the coils


def along(transform: Any, values: np.ndarray, axis: int) -> np.ndarray:
    """A centred unitary transform, `np.fft.fft` or `np.fft.ifft`, along one axis: zero at index n // 2."""
    shifted = np.fft.ifftshift(values, axes=axis)
    return np.fft.fftshift(transform(shifted, axis=axis, norm="ortho"), axes=axis)


def images_of(space: np.ndarray) -> np.ndarray:
    """Image of each coil, from the whole of k-space (…, y, x)."""
    return along(np.fft.ifft, along(np.fft.ifft, space, space.ndim - 2), space.ndim - 1)


def calibrated_maps(space: np.ndarray, is_measured: np.ndarray) -> np.ndarray | None:
    """Coil maps from the middle of k-space, where all columns were measured.

        S_c = w_c/√(Σ_c |w_c|²),   w_c = F⁻¹ (window · y_c)

    The phase of the object, as far as it is smooth, counts as that of the coils.

    Args:
        space: (slice, coil, y, x), complex.
        is_measured: columns that were, bool, (x,).

    Returns:
        S, (slice, coil, y, x), Σ_c |S_c|² = 1; None where fewer than 8 columns around the middle were measured.

    Source: McKenzie et al. (2002), Self-calibrating parallel imaging with automatic coil sensitivity extraction.
    """
    y, x = space.shape[2:]
    missing = np.flatnonzero(~is_measured) - x // 2
    reach = min([CALIBRATION // 2, x // 2, *(abs(missing) - 1)])  # columns to either side of the middle
    if 2 * reach + 1 < LEAST:
        return None
    windows = [_hann(n, n // 2, width) for n, width in ((y, min(CALIBRATION // 2, y // 2)), (x, reach))]
    seen = images_of(space * windows[0][:, None] * windows[1])
    size = np.sqrt((np.abs(seen) ** 2).sum(1, keepdims=True))
    return seen / np.maximum(size, np.finfo(size.dtype).tiny)


def _hann(n: int, middle: int, reach: int) -> np.ndarray:
    """A window of n numbers, 1 in the middle and 0 farther than `reach` from it."""
    distance = np.abs(np.arange(n) - middle)
    return np.where(distance <= reach, np.cos(0.5 * np.pi * distance / (reach + 1)) ** 2, 0.0)
