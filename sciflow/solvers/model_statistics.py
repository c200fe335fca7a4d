"""Empirical statistics of a model along its own flow: how linear it is in each coordinate, and what is left.

In y = x/α and λ = log(α/σ) the flow is dy/dλ = −l y + N with N = D − (1 − l) y, for any l(λ). DPM-Solver-v3 takes
l = E[σ ∂ε/∂x] per coordinate, and numbers s, b that make g' small in g = e^{−∫s} N − ∫e^{−∫s} b:

    s = Cov(N, N')/Var N,   b = E N' − s E N

Moments are taken along the flow, so (Var N)' = 2 Cov(N, N') and both integrals are known: e^{∫s} is the standard
deviation of N, and g is N standardised. Nothing has to be differentiated or integrated in λ to fit them.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciflow.archives import declared
from sciflow.random import Stream
from sciflow.solvers.dynamics import Dynamics, ModelSplit, model_split
from sciflow.solvers.exponential import EABM
from sciflow.solvers.rosenbrock import derivative
from sciflow.solvers.solve import solve

FLOOR = 1e-6  # of the root mean square of N: below it N does not vary, and its standard deviation is rounding
ARRAYS = ("log_snr", "slopes", "means", "spreads")
LARGEST = 8_000_000_000  # bytes of one array of a file, refused before it is read


class TrivialStatistics:
    """l = 1, mean 0, standard deviation 1: N = D, and DPM-Solver-v3 is DPM-Solver++."""

    shape: tuple[int, ...] = ()

    def slope(self, log_snr: float | np.ndarray) -> np.ndarray:
        return np.ones_like(log_snr)

    def integral(self, log_snr: float | np.ndarray) -> np.ndarray:
        return np.asarray(log_snr, dtype=float)

    def mean(self, log_snr: float | np.ndarray) -> np.ndarray:
        return np.zeros_like(log_snr)

    def spread(self, log_snr: float | np.ndarray) -> np.ndarray:
        return np.ones_like(log_snr)


@dataclass(frozen=True)
class ModelStatistics:
    """l, mean and standard deviation of N at levels λ, and the cubic splines through them.

    Twice differentiable, so methods up to order four keep their order whatever the levels.

    Args:
        log_snr: λ, increasing, shape (levels,).
        slopes: l, shape (levels, *event), or (levels,) where all coordinates share one.
        means: of N, the same shape.
        spreads: standard deviation of N, the same shape.
    """

    log_snr: np.ndarray
    slopes: np.ndarray
    means: np.ndarray
    spreads: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.slopes.shape[1:]

    @cached_property
    def _splines(self) -> tuple[Any, ...]:
        from scipy.interpolate import CubicSpline

        slope, mean = CubicSpline(self.log_snr, self.slopes), CubicSpline(self.log_snr, self.means)
        return slope, slope.antiderivative(), mean, CubicSpline(self.log_snr, np.log(self.spreads))

    def slope(self, log_snr: float | np.ndarray) -> np.ndarray:
        """l(λ), shape (*λ, *event)."""
        return self._splines[0](log_snr)

    def integral(self, log_snr: float | np.ndarray) -> np.ndarray:
        """∫ l dλ from the first level."""
        return self._splines[1](log_snr)

    def mean(self, log_snr: float | np.ndarray) -> np.ndarray:
        """E N."""
        return self._splines[2](log_snr)

    def spread(self, log_snr: float | np.ndarray) -> np.ndarray:
        """e^{∫s}, the standard deviation of N up to a factor."""
        return np.exp(self._splines[3](log_snr))

    def save(self, path: str | Path) -> None:
        """Write the statistics as .npz, which `dpm_solver_v3` takes as `statistics`."""
        np.savez(path, **{name: getattr(self, name) for name in ARRAYS})

    @classmethod
    def load(cls, path: str | Path) -> ModelStatistics:
        """What `save` wrote.

        Raises:
            ValueError: no such file, not one of `save`, or one that declares more than `LARGEST`.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                for name in ARRAYS:
                    shape, dtype = declared(archive, name)
                    if (n_bytes := math.prod(shape) * dtype.itemsize) > LARGEST:
                        raise ValueError(f"its {name} take {n_bytes / 1e9:.3g} GB, the limit is {LARGEST / 1e9:g} GB")
            with np.load(path, allow_pickle=False) as arrays:
                return cls(*(arrays[name] for name in ARRAYS))
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(
                f"no model statistics in {path}: {error}. Write them with fit_statistics(...).save(path)."
            ) from error


def _levels(split: ModelSplit, a: float, b: float, width: float) -> list[float]:
    """Times from a to b whose λ are at most `width` apart, by halving intervals of time."""

    def log_snr(t: float) -> float:
        alpha, sigma = split.levels(t)
        return float(np.log(alpha / sigma))

    done, waiting = [(a, log_snr(a))], [(b, log_snr(b))]
    while waiting:
        (low, start), (high, stop) = done[-1], waiting[-1]
        if stop - start <= width:
            done.append(waiting.pop())
        else:
            middle = 0.5 * (low + high)
            waiting.append((middle, log_snr(middle)))
    return [t for t, _ in done]


@torch.no_grad()
def fit_statistics(
    dynamics: Dynamics,
    x: Tensor,
    times: Sequence[float],
    stream: Stream,
    width: float = 0.1,
    per_coordinate: bool = True,
) -> ModelStatistics:
    """Statistics of the model of a probability flow, from states that are carried along it.

        l = E[v ∘ (σ ∂ε/∂x) v],   v with independent signs: the mean diagonal

    The same states and signs serve all levels, so what is noisy in the statistics is smooth in λ.

    Exactness: any statistics give a method of the same order; these make its error small where N is nearly linear.
    Cost: 2 denoiser calls and one forward-mode derivative per state and level, λ-range/width levels.
    Bias: none in l for the states given; s by the moments of the states.
    Args:
        dynamics: probability flow.
        x: states at times[0], shape (n, *event): draws from the law there.
        times: the first and the last; others in between are not used.
        stream: of the signs.
        width: largest distance of two levels in λ.
        per_coordinate: statistics for each coordinate, or shared by all.
    Raises:
        ValueError: dynamics without noise levels, or a model that asks for a gradient of its own.
    Source: Zheng et al. (2023), DPM-Solver-v3, section 3.1; that e^{∫s} is a standard deviation is derived above.
    """
    carrier = EABM(3, "noise")
    split = model_split(carrier, dynamics, "noise")  # its remainder is σ ε
    grid = _levels(split, times[0], times[-1], width)
    signs = stream.child("signs").uniform(len(x), x.shape[1:], dtype=x.dtype, device=x.device).sub_(0.5).sign_()
    axes = 0 if per_coordinate else tuple(range(x.ndim))
    rows: list[list[np.ndarray]] = []

    def record(t: float, state: Tensor) -> None:
        alpha, sigma = split.levels(t)
        noise, moved = derivative(lambda x: split.remainder(t, x), state, signs)
        slope = (signs * moved).double().mean(axes)
        rest = (slope * state.double() - noise.double()) / alpha
        moments = rest.mean(axes), rest.var(axes, correction=0), rest.square().mean(axes)
        rows.append([np.array(np.log(alpha / sigma)), *(value.cpu().numpy() for value in (slope, *moments))])

    record(grid[0], x)
    solve(dynamics, x, grid, carrier, on_step=lambda k, t, state: record(t, state))
    log_snr, slopes, means, variances, squares = (np.stack(column) for column in zip(*rows, strict=True))
    floor = FLOOR**2 * squares.mean(0) + np.finfo(float).tiny
    return ModelStatistics(log_snr, slopes, means, np.sqrt(variances + floor))
