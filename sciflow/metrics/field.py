"""Scores of the posterior mean against the truth: RMSE, its relative forms, PSNR, SSIM."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.metrics.score import Ensemble, Score, average, checked
from sciflow.random import Stream

UNIFORM_WINDOW = 7
"""Side of the SSIM window in pixels: the default of scikit-image."""


def rmse(
    truth: Tensor, samples: Tensor, *, mask: Tensor | None = None, stream: Stream | None = None, unit: str = "1"
) -> dict[str, Score]:
    """Root mean square error of the posterior mean.

        sqrt( mean over elements of (x̄ − x)² )

    Exactness: a fixed function of its input; the expected error of m members exceeds that of the true mean by var / m
    Cost: O(members × elements)
    Bias: upward for few members, see above; the standard error is first order (delta method)

    Args:
        truth: (observation, *event), in `unit`.
        samples: (observation, member, *event), in `unit`.
        mask: (observation, *event), true where an element counts.
        stream: not used; part of the common signature.
        unit: unit of the data.

    Returns:
        `rmse`, in `unit`.

    Source: definition.
    """
    data = checked(truth, samples, mask)
    squared = data.mean((data.samples.mean(1) - data.truth) ** 2)
    root = math.sqrt(squared.value)
    return {"rmse": Score(root, squared.stderr / (2 * root) if root else 0.0, squared.n, unit, "posterior mean")}


def nrmse(
    truth: Tensor, samples: Tensor, *, mask: Tensor | None = None, stream: Stream | None = None, unit: str = "1"
) -> dict[str, Score]:
    """Error of the posterior mean over the size of the truth, averaged over observations.

        mean over observations of ‖x̄ − y‖/‖y‖

    Exactness: a fixed function of its input
    Cost: O(members × elements)
    Bias: as `rmse`; small truths count most

    Args:
        truth: (observation, *event), in `unit`.
        samples: (observation, member, *event), in `unit`.
        mask: (observation, *event), true where an element counts.
        stream, unit: not used; part of the common signature.

    Returns:
        `nrmse`, dimensionless.

    Raises:
        InputError: a truth is zero wherever it counts.

    Source: Takamoto et al. (2022), PDEBench, appendix B.
    """
    return {"nrmse": _relative(checked(truth, samples, mask), centred=False)}


def vrmse(
    truth: Tensor, samples: Tensor, *, mask: Tensor | None = None, stream: Stream | None = None, unit: str = "1"
) -> dict[str, Score]:
    """Error of the posterior mean over the spread of the truth in space, averaged over observations.

        mean over observations of √(<(x̄ − y)²>/<(y − <y>)²>);   the mean of the truth itself scores 1

    Exactness: a fixed function of its input
    Cost: O(members × elements)
    Bias: as `rmse`; smooth truths count most

    Args:
        truth: (observation, *event), in `unit`.
        samples: (observation, member, *event), in `unit`.
        mask: (observation, *event), true where an element counts.
        stream, unit: not used; part of the common signature.

    Returns:
        `vrmse`, dimensionless.

    Raises:
        InputError: a truth is constant wherever it counts.

    Source: Ohana et al. (2024), The Well, section 4.
    """
    return {"vrmse": _relative(checked(truth, samples, mask), centred=True)}


def _relative(data: Ensemble, centred: bool) -> Score:
    """Root of the squared error over that of the truth, or of the truth less its mean, averaged over observations."""
    counted = data.mask.any(1)
    error = data.sum((data.samples.mean(1) - data.truth) ** 2)[counted]
    n = data.mask.sum(1, keepdim=True).clamp_min(1)
    centre = data.sum(data.truth)[:, None] / n if centred else torch.zeros(())
    size = data.sum((data.truth - centre) ** 2)[counted]
    if not bool((size > 0).all()):
        name, what = ("vrmse", "constant") if centred else ("nrmse", "zero")
        raise InputError(f"a truth is {what} wherever it counts: {name} divides by its size. Use rmse.")
    return average((error / size).sqrt(), "1", "posterior mean")


def psnr(
    truth: Tensor,
    samples: Tensor,
    *,
    mask: Tensor | None = None,
    stream: Stream | None = None,
    unit: str = "1",
    data_range: float | None = None,
) -> dict[str, Score]:
    """Peak signal-to-noise ratio of the posterior mean, averaged over observations.

        10 log₁₀( range² / mean over elements of (x̄ − x)² )   [dB]

    Exactness: a fixed function of its input
    Cost: O(members × elements)
    Bias: says nothing about the spread: a posterior that is too narrow scores as well as a right one

    Args:
        truth: (observation, *event), in `unit`.
        samples: (observation, member, *event), in `unit`.
        mask: (observation, *event), true where an element counts.
        stream: not used; part of the common signature.
        unit: unit of the data.
        data_range: largest minus smallest possible value, in `unit`; None takes the span of the truth that counts.

    Returns:
        `psnr` in dB.

    Raises:
        InputError: the truth is constant and no range is given.

    Source: definition; the peak is the range of the data.
    """
    data = checked(truth, samples, mask)
    peak = _range(data, data_range)
    counted = data.mask.any(1)
    squared = data.sum((data.samples.mean(1) - data.truth) ** 2)[counted] / data.mask[counted].sum(1)
    note = f"posterior mean; data range {peak:g}{'' if unit == '1' else ' ' + unit}"
    return {"psnr": average(10 * torch.log10(peak**2 / squared), "dB", note)}


def ssim(
    truth: Tensor,
    samples: Tensor,
    *,
    mask: Tensor | None = None,
    stream: Stream | None = None,
    unit: str = "1",
    data_range: float | None = None,
) -> dict[str, Score]:
    """Structural similarity of the posterior mean: 1 is a perfect picture.

        (2 μ_x μ_y + c₁)(2 σ_xy + c₂) / ((μ_x² + μ_y² + c₁)(σ_x² + σ_y² + c₂)),  moments in a 7 × 7 window

    Without a mask the windows that cross the border are left out; with one the map is averaged over the elements that
    count, borders reflected. A smaller picture takes the largest odd window that fits.

    Exactness: the scikit-image implementation
    Cost: O(elements × window)
    Bias: says nothing about the spread

    Args:
        truth: (observation, channel, y, x) or (observation, y, x), in `unit`.
        samples: (observation, member, ...), in `unit`.
        mask: shape of the truth, true where an element counts.
        stream: not used; part of the common signature.
        unit: unit of the data.
        data_range: as in `psnr`.

    Returns:
        `ssim`, dimensionless.

    Raises:
        InputError: the events are no pictures of at least 3 × 3 pixels, or scikit-image is missing.

    Source: Wang, Bovik, Sheikh and Simoncelli (2004), equation 13.
    """
    data = checked(truth, samples, mask)
    event = tuple(truth.shape[1:])
    if len(event) not in (2, 3) or min(event[-2:]) < 3:
        raise InputError(f"ssim needs pictures (channel, y, x) of 3 × 3 pixels or more, got events {event}. Drop ssim.")
    scores, maps = _similarity(data, event, _range(data, data_range))
    score = average(scores, "1", "posterior mean") if mask is None else data.mean(maps, "1", "posterior mean")
    return {"ssim": score}


def _similarity(data: Ensemble, event: tuple[int, ...], peak: float) -> tuple[Tensor, Tensor]:
    """Mean similarity of each picture, (observation,), and its map with reflected borders, (observation, element)."""
    try:
        from skimage.metrics import structural_similarity
    except ImportError:
        raise InputError("ssim needs scikit-image, which is not installed. pip install 'sciflow[imaging]'.") from None
    side = min(event[-2:])
    options = {"data_range": peak, "channel_axis": 0 if len(event) == 3 else None, "full": True}
    results = [
        structural_similarity(
            picture.reshape(event).numpy(),
            estimate.reshape(event).numpy(),
            win_size=min(UNIFORM_WINDOW, side - (side + 1) % 2),
            **options,
        )
        for picture, estimate in zip(data.truth, data.samples.mean(1), strict=True)
    ]
    scores = torch.tensor([value for value, _ in results], dtype=torch.float64)
    return scores, torch.stack([torch.as_tensor(picture).reshape(-1) for _, picture in results])


def _range(data: Ensemble, data_range: float | None) -> float:
    """The declared range, or the span of the truth that counts."""
    if data_range is None:
        counted = data.truth[data.mask]
        data_range = float(counted.max() - counted.min())
    if not data_range > 0:
        raise InputError(f"psnr and ssim need a positive data range, got {data_range:g}. Pass data_range=….")
    return data_range
