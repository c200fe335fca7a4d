"""The two problems of the overhead benchmark, written once so that every library solves the same ones.

No library is imported here: a denoiser takes (x, alpha, sigma) with plain numbers, and each library's adapter only
passes its own idea of time on.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

N_STEPS = 20
SIGMA_MAX, SIGMA_MIN, RHO = 80.0, 0.02, 7.0
IMAGE = (1, 1, 64, 64)
N_PARTICLES, DIMENSION, N_COMPONENTS = 10_000, 64, 40
CASES = ("float32", "float64", "particles")


def noise_levels() -> Tensor:
    """N_STEPS + 1 decreasing levels, equidistant in σ^{1/ρ} (Karras et al. 2022, eq. 5), float64."""
    ends = torch.tensor([SIGMA_MAX, SIGMA_MIN], dtype=torch.float64) ** (1 / RHO)
    return torch.linspace(float(ends[0]), float(ends[1]), N_STEPS + 1, dtype=torch.float64) ** RHO


def start(case: str) -> Tensor:
    """x at the first level: white noise, one image in either precision, or float32 particles."""
    generator = torch.Generator().manual_seed(0)
    shape = (N_PARTICLES, DIMENSION) if case == "particles" else IMAGE
    white = torch.randn(shape, dtype=torch.float64, generator=generator)
    return (SIGMA_MAX * white).to(torch.float64 if case == "float64" else torch.float32)


def halve(x: Tensor, alpha: float, sigma: float) -> Tensor:
    """D = x/2: the cheapest denoiser, so that what is left is the solver."""
    return 0.5 * x


class Mixture:
    """The exact denoiser of Σ_k w_k N(m_k, s_k² I), in two matrix products and few passes.

    D = Σ_k r_k (σ² m_k + α s_k² x)/v_k,   v_k = σ² + α² s_k²,   r = softmax(log w_k + log N(x; α m_k, v_k I))
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(1)
        numbers = [torch.rand(N_COMPONENTS, generator=generator, dtype=torch.float64) for _ in range(2)]
        means = 3 * torch.randn(N_COMPONENTS, DIMENSION, generator=generator, dtype=torch.float64)
        self.log_weights, self.variances = (0.5 + numbers[0]).log().to(dtype), (0.5 + numbers[1]).square().to(dtype)
        self.means, self.squares = means.to(dtype), means.square().sum(1).to(dtype)

    def __call__(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        total = sigma**2 + alpha**2 * self.variances
        offsets = self.log_weights - 0.5 * (DIMENSION * total.log() + alpha**2 * self.squares / total)
        logits = torch.addmm(offsets, x, (alpha / total * self.means.T))
        logits.addr_(torch.linalg.vector_norm(x, dim=1).square_(), 1 / total, alpha=-0.5)
        responsibilities = logits.softmax(1)
        data = responsibilities @ (sigma**2 / total)[:, None].mul(self.means)
        return data.addcmul_(x, (responsibilities @ (alpha * self.variances / total))[:, None])


Function = Callable[[Tensor, float, float], Tensor]


def denoiser(case: str) -> Function:
    """A function of (x, alpha, sigma)."""
    return Mixture() if case == "particles" else halve


def calls(case: str) -> Callable[[], Tensor]:
    """The denoiser alone, called as often as in a run, on one state."""
    function, x, levels = denoiser(case), start(case), noise_levels().tolist()

    def run() -> Tensor:
        for sigma in levels[:-1]:
            data = function(x, 1.0, sigma)
        return data

    return run


def check(name: str, x: Tensor, case: str) -> None:
    """A run that went wrong would be timed for nothing: particles must end near a mean, as far as s_k says.

    Raises:
        RuntimeError: not finite, or not a sample of the mixture.
    """
    if not torch.isfinite(x).all():
        raise RuntimeError(f"{name}: the result is not finite.")
    if case == "particles":
        mixture = Mixture(torch.float64)
        squares, nearest = torch.cdist(x.double(), mixture.means).square().min(1)
        ratio = float((squares / DIMENSION / mixture.variances[nearest]).mean())
        if abs(ratio - 1) > 0.25:  # 20 steps from σ = 80 leave an error of about 10 % in the spread of a mode
            raise RuntimeError(f"{name}: {ratio:.3f} of the variance of a component, expected about 1.")
