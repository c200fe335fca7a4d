"""A denoiser of pieces applied to whole images: what it is exact for, and what its derivative implies elsewhere."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sciflow.diffusion import Cosine, GaussianDenoiser, GaussianMixture, PatchedDenoiser, Scaled, Tiled
from sciflow.diffusion.model import pack, unpack
from sciflow.diffusion.subspace import SubspaceDenoiser, SubspaceMixture
from sciflow.errors import InputError
from sciflow.inverse import CartesianMRI, GaussianLikelihood, MomentMatching
from sciflow.random import Stream

SIDE, SCHEDULE = 4, Scaled(Cosine(), 0.8)
ROOT = Stream(0).normal(16, (16,), dtype=torch.float64)
SMOOTH = ROOT @ ROOT.T / 16 + 0.1 * torch.eye(16, dtype=torch.float64)


def of_pieces(law: GaussianMixture, stride: int = 2, shape: tuple[int, ...] = (1, 8, 12)) -> PatchedDenoiser:
    piece = SubspaceDenoiser(SubspaceMixture.whole(law), SCHEDULE, (1, SIDE, SIDE))
    return PatchedDenoiser(piece, SCHEDULE, shape, stride, 0.3)


def gaussian(covariance: Tensor, mean: float = 0.3) -> GaussianMixture:
    means = torch.full((1, 16), mean, dtype=torch.float64)
    return GaussianMixture(torch.ones(1, dtype=torch.float64), means, covariance[None])


def jacobian(denoiser: PatchedDenoiser, x: Tensor, t: float) -> Tensor:
    n = math.prod(denoiser.shape)
    return torch.autograd.functional.jacobian(lambda v: denoiser(v, t), x).reshape(n, n)


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("t", [0.05, 0.5, 0.95])
def test_it_is_exact_for_independent_pixels(stride: int, t: float) -> None:
    denoiser = of_pieces(gaussian(0.6 * torch.eye(16, dtype=torch.float64)), stride)
    x = denoiser.initial(t, 3, Stream(1), torch.float64)
    means, covariance = torch.full((96,), 0.3, dtype=torch.float64), 0.6 * torch.eye(96, dtype=torch.float64)
    truth = GaussianDenoiser(means, covariance, SCHEDULE)(x.flatten(1), t)
    assert torch.allclose(denoiser(x, t).flatten(1), truth, atol=1e-12)  # rounding of 16 answers below 3


def test_each_pixel_is_the_mean_of_what_its_pieces_say() -> None:
    """Piece by piece, with indices that go around the edges."""
    law = GaussianMixture(
        torch.tensor([0.4, 0.6], dtype=torch.float64),
        Stream(2).normal(2, (16,), dtype=torch.float64),
        torch.stack([SMOOTH, 0.3 * SMOOTH]),
    )
    denoiser, t = of_pieces(law), 0.6
    x = Stream(3).normal(2, (1, 8, 12), dtype=torch.float64)
    total, told = torch.zeros_like(x), torch.zeros_like(x)
    for top in range(0, 8, 2):
        for left in range(0, 12, 2):
            y, z = (top + torch.arange(4)) % 8, (left + torch.arange(4)) % 12
            total[:, :, y[:, None], z] += denoiser.piece(x[:, :, y[:, None], z], t)
            told[:, :, y[:, None], z] += 1
    assert torch.equal(told, torch.full_like(told, 4.0))
    assert torch.allclose(denoiser(x, t), total / told, atol=1e-13)  # rounding of four answers
    times = torch.tensor([0.2, 0.8], dtype=torch.float64)
    rows = torch.cat([denoiser(x[k : k + 1], float(times[k])) for k in range(2)])
    assert torch.allclose(denoiser(x, times), rows, atol=1e-13)
    assert torch.equal(Tiled(denoiser, 4)(x, t)[:1], Tiled(denoiser, 4)(x[:1], t))


def test_the_covariance_that_it_implies_is_tapered_symmetric_and_of_no_negative_variance() -> None:
    """(σ²/α) ∂D/∂x = (s/p)² Σ R_iᵀ C R_i: at stride 1 of a stationary C, C(d) (1 − |d_y|/p)(1 − |d_x|/p)."""
    place = torch.arange(4.0, dtype=torch.float64)
    line = 0.7 ** (place[:, None] - place).abs()
    piece, t = torch.kron(line, line), 0.7
    denoiser = of_pieces(gaussian(piece), 1, (1, 12, 12))
    alpha, sigma = float(SCHEDULE.alpha(t)), float(SCHEDULE.sigma(t))
    found = sigma**2 / alpha * jacobian(denoiser, Stream(4).normal(1, (1, 12, 12), dtype=torch.float64), t)
    assert torch.allclose(found, found.T, atol=1e-12)  # rounding
    assert float(torch.linalg.eigvalsh(found).min()) > -1e-12
    inner = piece - alpha**2 * piece @ torch.linalg.solve(
        alpha**2 * piece + sigma**2 * torch.eye(16, dtype=torch.float64), piece
    )  # of a piece, given itself
    total = torch.zeros(144, 144, dtype=torch.float64)
    for top in range(12):
        for left in range(12):
            y, z = (top + torch.arange(4)) % 12, (left + torch.arange(4)) % 12
            which = (12 * y[:, None] + z).flatten()
            total[which[:, None], which] += inner / 16
    assert torch.allclose(found, total, atol=1e-12)
    early = float(SCHEDULE.time(torch.tensor(-4.0)))  # σ = e⁴ α: what is seen says next to nothing
    scale = float(SCHEDULE.sigma(early)) ** 2 / float(SCHEDULE.alpha(early))
    found = scale * jacobian(denoiser, torch.zeros(1, 1, 12, 12, dtype=torch.float64), early)
    for down, right in ((0, 0), (1, 0), (2, 3), (4, 0)):
        taper = max(0.0, 1 - down / 4) * max(0.0, 1 - right / 4) * 0.7 ** (down + right)
        assert float(found[0, 12 * down + right]) == pytest.approx(taper, abs=7e-3)  # α² ‖C‖/σ², ‖C‖ < 20, e⁻⁸


def test_guidance_follows_it_to_the_posterior_of_independent_pixels() -> None:
    """Moment matching with conjugate gradients, of k-space with four coils, against the exact mean."""
    shape, variance, t = (1, 8, 8), 0.6, 0.5
    prior = of_pieces(gaussian(variance * torch.eye(16, dtype=torch.float64)), 2, shape)
    operator = CartesianMRI(2.0, n_coils=4).draw(shape, Stream(5))
    x, y = (Stream(6).child(name).normal(1, size, dtype=torch.float64) for name, size in
            (("x", shape), ("y", (operator.n_measurements,))))  # fmt: skip
    guided = MomentMatching(prior=prior, likelihood=GaussianLikelihood(y[0], operator, 0.2), tolerance=1e-10,
                            max_iterations=200)  # fmt: skip
    alpha, sigma = float(SCHEDULE.alpha(t)), float(SCHEDULE.sigma(t))
    matrix = operator(torch.eye(64, dtype=torch.float64).reshape(64, *shape)).T
    precision = torch.eye(64, dtype=torch.float64) * (1 / variance + alpha**2 / sigma**2) + matrix.T @ matrix / 0.04
    right = 0.3 / variance + alpha * x.flatten() / sigma**2 + matrix.T @ y[0] / 0.04
    assert torch.allclose(guided(x, t).flatten(), torch.linalg.solve(precision, right), atol=1e-8)  # the solve, × 100


def test_it_comes_back_from_a_file() -> None:
    denoiser = of_pieces(gaussian(SMOOTH))
    x = denoiser.initial(0.4, 2, Stream(7), torch.float64)
    assert torch.equal(unpack(pack(denoiser))(x, 0.4), denoiser(x, 0.4))


@pytest.mark.parametrize(("stride", "shape"), [(3, (1, 12, 12)), (2, (1, 9, 12)), (2, (1, 2, 12))])
def test_what_does_not_cover_an_image_evenly_is_refused(stride: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="do not cover an image of"):
        of_pieces(gaussian(SMOOTH), stride, shape)
