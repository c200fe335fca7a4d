"""Energy spectra of fields on periodic grids, over all quadrants, and how far an ensemble's is from the truth's."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.metrics.score import Score
from sciflow.random import Stream

FLOOR = 1e-8  # of the truth's energy: what rounding of float32 fields may add to a shell


def energy_spectrum(fields: Tensor, n_axes: int = 1) -> Tensor:
    """Energy in each shell of wavenumbers of fields on a periodic grid with sides of equal length.

        E(k) = Σ_{k − ½ ≤ |κ| < k + ½} |û_κ|²/N²,   Σ_k E(k) = <u²>

    κ runs over all modes, those of negative wavenumbers included, N is the number of grid points.

    Args:
        fields: (…, *grid).
        n_axes: axes of the grid, the last ones.

    Returns:
        E, (…, shell), for k = 0, 1, …, in float64.
    """
    grid = tuple(fields.shape[-n_axes:])
    axes = tuple(range(-n_axes, 0))
    power = torch.fft.fftn(fields.double(), dim=axes).abs().square() / math.prod(grid) ** 2
    waves = torch.meshgrid(*(torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) for n in grid), indexing="ij")
    shell = (sum(wave.square() for wave in waves).sqrt() + 0.5).floor().long().flatten()  # type: ignore[union-attr]
    energy = torch.zeros(*fields.shape[:-n_axes], int(shell.max()) + 1, dtype=torch.float64)
    return energy.index_add_(-1, shell, power.flatten(-n_axes))


def spectrum_error(
    truth: Tensor,
    samples: Tensor,
    *,
    n_axes: int = 1,
    mask: Tensor | None = None,
    stream: Stream | None = None,
    unit: str = "1",
) -> dict[str, Score]:
    """How far the mean energy spectrum of the members is from that of the truths, in natural logarithms.

        √( mean over shells of log²(E_members/E_truth) ),   E averaged over observations, members and times

    Shells that hold less than 1e-8 of the truth's energy are left out: below, float32 rounds.

    Exactness: a fixed function of its input
    Cost: one transform per member
    Bias: upward by noise, as every root of squares; standard error by a jackknife over observations

    Args:
        truth: (observation, …, *grid).
        samples: (observation, member, …, *grid).
        n_axes: axes of the grid.
        mask, stream, unit: not used; part of the common signature.

    Returns:
        `spectrum_error`, dimensionless: 0.1 is an energy that is off by about a tenth.

    Raises:
        InputError: a grid with more axes than the events have, or truths that are zero.

    Source: definition.
    """
    if truth.ndim < n_axes + 1:
        raise InputError(
            f"spectra over {n_axes} axes need events with as many, got truth of shape {tuple(truth.shape)}."
        )
    n = len(truth)
    own = [energy_spectrum(torch.as_tensor(values), n_axes).reshape(n, -1) for values in (truth, samples)]
    shells = energy_spectrum(torch.as_tensor(truth), n_axes).shape[-1]
    exact, drawn = (values.reshape(n, -1, shells).mean(1) for values in own)
    total = exact.mean(0)
    kept = total > FLOOR * total.sum()
    if not kept.any():
        raise InputError("the truth is zero everywhere: it has no spectrum. Choose other observations.")

    def error(a: Tensor, b: Tensor) -> Tensor:
        return (b[..., kept].clamp_min(1e-300) / a[..., kept]).log().square().mean(-1).sqrt()

    value = float(error(total, drawn.mean(0)))
    stderr = math.nan
    if n > 1:
        left_out = error((n * total - exact) / (n - 1), (n * drawn.mean(0) - drawn) / (n - 1))
        stderr = math.sqrt((n - 1) / n) * float((left_out - left_out.mean()).norm())
    return {"spectrum_error": Score(value, stderr, n, "1", f"{int(kept.sum())} shells; of log E")}
