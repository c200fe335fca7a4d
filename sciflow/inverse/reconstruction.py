"""Reconstructions that give one image and no uncertainty: what a posterior is held against."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.inverse.conjugate_gradient import conjugate_gradient
from sciflow.inverse.likelihood import GaussianLikelihood
from sciflow.inverse.tomography import FanBeam, ParallelBeam


def ramp(n: int, spacing: float) -> Tensor:
    """The ramp filter, cut off at the highest frequency of equidistant samples.

        h_0 = 1/4τ²,   h_j = −1/(π j τ)² for odd j, else 0,   τ the spacing

    Returns:
        h_{−(n−1)} … h_{n−1}, float64.

    Source: Kak and Slaney (1988), Principles of computerized tomographic imaging, eq. 61 of chapter 3.
    """
    j = torch.arange(-(n - 1), n, dtype=torch.float64)
    kernel = torch.where(j % 2 != 0, -1 / (math.pi * torch.where(j == 0, 1, j) * spacing) ** 2, 0.0)
    kernel[n - 1] = 1 / (4 * spacing**2)
    return kernel


def _convolved(views: Tensor, kernel: Tensor) -> Tensor:
    """Views (…, n) with a kernel of −(n − 1) … n − 1, (rows, n)."""
    n = views.shape[-1]
    return torch.nn.functional.conv1d(views.reshape(-1, 1, n), kernel.to(views)[None, None], padding=n - 1)[:, 0]


def filtered_back_projection(operator: ParallelBeam | FanBeam, y: Tensor) -> Tensor:
    """The classical inversion of tomography, with the ramp filter.

        parallel   x = (arc/n_views) Σ_k (h ∗ y_k)(s)
        fan        x = (arc/n_views) Σ_k (g ∗ w c_k y_k)(s)/U_k²

    with h the ramp (`ramp`), arc at most 180°, and, for rays at γ to the central one and the source R from the centre,
    flat detector (s = R tan γ):   w = cos γ,     g = h/2,                   U = (R − x · source/R)/R
    arc detector (s = γ):          w = R cos γ,   g_j = (s_j/sin s_j)² h_j/2,   U = distance from the source
    c_k(γ) = 1 all around; for part of a turn twice the weight of a short scan, smooth in (β, γ), which sums to one over
    the two sightings of a line.

    Exactness: as views and detectors → ∞; parallel, for an arc of 180° or 360°; fan, for 180° and the width of the fan,
        or more
    Cost: one adjoint; fan, one interpolation of each view at each pixel
    Bias: streaks of few views; noise of high frequencies is raised
    Args:
        operator: bound to its images.
        y: (batch, m).

    Returns:
        (batch, *shape).

    Raises:
        InputError: a fan whose sources go less far around, or that is narrower than the image, so that lines are not
            seen at all.

    Source: Kak and Slaney (1988), Principles of computerized tomographic imaging, sections 3.3 (parallel), 3.4.1 (arc)
        and 3.4.2 (flat); Parker (1982), Optimal short scan convolution reconstruction for fanbeam CT.
    """
    if isinstance(operator, FanBeam):
        return _fan(operator, y)
    n, tau = operator.range_shape[2], operator.spacing
    filtered = tau * _convolved(y.reshape(-1, n) / operator.pixel_size, ramp(n, tau))
    step = math.radians(min(operator.arc, 180.0)) / operator.n_views
    return step * tau / operator.pixel_size * operator.adjoint(filtered.reshape(len(y), -1))


def _fan(operator: FanBeam, y: Tensor) -> Tensor:
    if not sees_all(operator):
        width, angle = (2 * math.degrees(half) for half in (operator.half_angle, operator.least_half_angle))
        raise InputError(
            f"filtered back projection of this fan needs sources over {180 + width:.4g} degrees and a fan of "
            f"{angle:.4g} degrees at least, got arc = {operator.arc:g} and a fan of {width:.4g} with offset "
            f"{operator.offset:g}: it does not see all lines. Use total variation."
        )
    (channels, rows, columns), n = operator.shape, operator.range_shape[2]
    radius, half_angle, is_flat = operator.radius((rows, columns)), operator.half_angle, operator.detector == "flat"
    spacing = 2 * (radius * math.tan(half_angle) if is_flat else half_angle) / n
    middle = (n - 1) / 2 - operator.offset
    s = spacing * (torch.arange(n, dtype=torch.float64) - middle)
    lag = spacing * torch.arange(-(n - 1), n, dtype=torch.float64)
    kernel = 0.5 * ramp(n, spacing)
    if is_flat:
        weight = radius / torch.hypot(s, torch.tensor(radius, dtype=torch.float64))
    else:
        weight, kernel = radius * s.cos(), kernel / torch.sinc(lag / math.pi) ** 2
    if operator.arc < 360:
        turns, gamma = torch.as_tensor(operator.turns)[:, None], torch.atan(s / radius) if is_flat else s
        way = -1 if operator.clockwise else 1  # in a mirror it turns the other way
        weight = weight * short_scan(math.radians(operator.arc), way * turns, way * gamma)
    views = (y.reshape(-1, operator.n_views, n) / operator.pixel_size * weight.to(y)).reshape(-1, n)
    filtered = (spacing * _convolved(views, kernel)).reshape(len(y) * channels, operator.n_views, n)
    across = torch.arange(columns, dtype=torch.float64) - (columns - 1) / 2
    down = (torch.arange(rows, dtype=torch.float64) - (rows - 1) / 2)[:, None]
    total = y.new_zeros(len(filtered), rows * columns)
    for k, beta in enumerate((math.radians(operator.first_angle) + operator.turns).tolist()):
        ahead = radius - (across * math.cos(beta) + down * math.sin(beta))  # along the central ray, from the source
        aside = across * math.sin(beta) - down * math.cos(beta)  # towards larger γ
        place = radius * aside / ahead if is_flat else torch.atan2(aside, ahead)
        size = ahead / radius if is_flat else torch.hypot(ahead, aside)
        total += _between(filtered[:, k], (place / spacing + middle).flatten()) / size.flatten().to(y) ** 2
    return (math.radians(operator.arc) / operator.n_views * total).reshape(len(y), *operator.shape)


def sees_all(operator: FanBeam) -> bool:
    """Whether every line through the image is seen: over 180° and the width of the fan, at least that of the image.

    An offset may leave out one bin at the rim.
    """
    n, half = operator.range_shape[2], operator.half_angle
    seen = half * (1 - 2 * max(abs(operator.offset) - 1, 0) / n)
    return math.radians(operator.arc) >= math.pi + 2 * half - 1e-9 and seen >= operator.least_half_angle - 1e-9


def short_scan(arc: float, beta: Tensor, gamma: Tensor) -> Tensor:
    """How often the ray γ of the source at β counts, of sources from 0 to arc [radians]; 0 outside.

        2 sin²(π β/4(δ − γ)) rising to 2, and falling as 2 sin²(π (arc − β)/4(δ + γ)),   δ = (arc − π)/2 ≥ |γ|

    A line is ray γ of the source at β and ray −γ of that at β + π + 2γ; both together count twice.

    Source: Parker (1982), Optimal short scan convolution reconstruction for fanbeam CT, whose weights sum to one.
    """
    half, quarter = 0.5 * (arc - math.pi), 0.25 * math.pi
    up = (quarter * beta / (half - gamma).clamp_min(1e-12)).clamp(0, 2 * quarter)
    down = (quarter * (arc - beta) / (half + gamma).clamp_min(1e-12)).clamp(0, 2 * quarter)
    return 2 * torch.minimum(up.sin(), down.sin()) ** 2


def _between(values: Tensor, place: Tensor) -> Tensor:
    """Values (batch, n) at places in 0 … n − 1, linear between two, (batch, place); beyond the ends that of the end."""
    place = place.clamp(0, values.shape[1] - 1)
    left = place.long().clamp_max(max(values.shape[1] - 2, 0))
    right = (left + 1).clamp_max(values.shape[1] - 1)
    share = (place - left).to(values)
    return (1 - share) * values[:, left] + share * values[:, right]


def zero_filled(likelihood: GaussianLikelihood) -> Tensor:
    """The image whose unmeasured Fourier coefficients are zero, coils weighted by their sensitivities.

        x = Aᵀ y

    Exactness: where everything was measured without noise, and Σ_c |S_c|² = 1
    Cost: one adjoint
    Bias: what was not measured is zero: aliasing along the undersampled axis
    Args:
        likelihood: bound to its images.

    Returns:
        (*shape), float64.

    Source: Roemer et al. (1990), The NMR phased array, for the weights of the coils.
    """
    return likelihood.operator.adjoint(likelihood.observation.double()[None])[0]


def largest_eigenvalue(likelihood: GaussianLikelihood, n_iterations: int = 30) -> float:
    """Of AᵀA/σ², by power iteration with 5 % to spare."""
    operator = likelihood.operator
    x = torch.ones((1, *operator.shape), dtype=torch.float64)
    value = 1.0
    for _ in range(n_iterations):
        x = operator.adjoint(operator(x / x.norm()))
        value = float(x.norm())
    return 1.05 * value / likelihood.sigma**2


def total_variation(
    likelihood: GaussianLikelihood, weight: float, n_iterations: int = 100, n_inner: int = 10
) -> Tensor:
    """The image of least misfit plus total variation, by accelerated proximal gradients.

        x = argmin ‖y − A x‖²/2σ² + weight TV(x)

    Exactness: as both iterations → ∞; the inner problem by scikit-image
    Cost: n_iterations × (A, Aᵀ, n_inner inner steps)
    Bias: contrast is lost, and flat patches are preferred
    Args:
        likelihood: bound to its images.
        weight: of the total variation, > 0 [1/data units].
        n_iterations: steps.
        n_inner: steps of the inner problem, which starts anew each time; few are enough where ‖A‖²/σ² ≫ weight/range.

    Returns:
        (*shape), float64.

    Source: Rudin, Osher and Fatemi (1992); Beck and Teboulle (2009), FISTA; Chambolle (2004) for the inner problem.
    """
    try:
        from skimage.restoration import denoise_tv_chambolle
    except ImportError:
        raise InputError("total variation needs scikit-image: pip install 'sciflow[imaging]'.") from None
    operator, bound = likelihood.operator, largest_eigenvalue(likelihood)
    y = likelihood.observation.double()[None]
    x = ahead = torch.zeros((1, *operator.shape), dtype=torch.float64)
    momentum = 1.0
    for _ in range(n_iterations):
        force = operator.adjoint(y - operator(ahead)) / likelihood.sigma**2
        moved = (ahead + force / bound)[0].numpy()
        flat = [denoise_tv_chambolle(part, weight / bound, eps=0, max_num_iter=n_inner) for part in moved]
        before, x = x, torch.as_tensor(np.stack(flat))[None]
        after = 0.5 * (1 + math.sqrt(1 + 4 * momentum**2))
        ahead, momentum = x + (momentum - 1) / after * (x - before), after
    return x[0]


def least_squares(likelihood: GaussianLikelihood, ridge: float = 1e-3, n_iterations: int = 30) -> Tensor:
    """The image of least misfit with a small penalty on its size, by conjugate gradients; CG-SENSE for coils.

        (AᵀA + ridge ‖AᵀA‖ I) x = Aᵀ y

    Exactness: to a relative residual of 1e-6 or n_iterations, which regularise too
    Cost: n_iterations × (A, Aᵀ)
    Bias: what was not measured is zero
    Args:
        likelihood: bound to its images.
        ridge: of the largest eigenvalue, ≥ 0.
        n_iterations: most iterations.

    Returns:
        (*shape), float64.

    Source: Pruessmann et al. (2001), Advances in sensitivity encoding with arbitrary k-space trajectories.
    """
    operator = likelihood.operator
    size = ridge * largest_eigenvalue(likelihood) * likelihood.sigma**2

    def normal(v: Tensor) -> Tensor:
        return operator.adjoint(operator(v.reshape(-1, *operator.shape))).flatten(1) + size * v

    right = operator.adjoint(likelihood.observation.double()[None]).flatten(1)
    return conjugate_gradient(normal, right, 1e-6, n_iterations).x.reshape(operator.shape)
