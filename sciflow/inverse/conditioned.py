"""A ball of belief given an observation, where it is no Gaussian: draws by moves of a Markov chain."""

from __future__ import annotations

import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.inverse.likelihood import NonlinearGaussianLikelihood
from sciflow.particles.kernels import Kernel
from sciflow.random import Stream

GAIN = (
    2.0  # of the logarithm of a row's step in the acceptance: a step a hundred times too long is mended in five moves
)


def conditioned_moves(
    likelihood: NonlinearGaussianLikelihood,
    centre: Tensor,
    width: float,
    start: Tensor,
    kernel: Kernel,
    n_moves: int,
    stream: Stream,
) -> Tensor:
    """Draws of N(centre, width I) p(y | x), row by row, near enough after many moves.

    Each row has a step of its own, at most √width times that of the kernel, which the first half of the moves fits to
    the acceptance that the kernel is best at; the second half keeps it, and leaves the law as it is. Rows never see
    one another.

    Exactness: as n_moves → ∞; a chain keeps to the mode that it finds where modes lie far apart within the ball.
    Cost: the kernel's gradients of log p(y | x), n_moves times; no denoiser call.
    Args:
        likelihood: bound; its operator is differentiated.
        centre: (n, *shape).
        width: variance of the ball, > 0; infinite is refused.
        start: where the rows begin, (n, *shape).
        kernel: with a test of its moves.
        n_moves: moves of each row.
        stream: of these rows.
    """
    shape, middle, x = centre.shape[1:], centre.flatten(1), start.flatten(1)
    size = torch.full_like(x[:, :1], width**0.5)
    for i in range(n_moves):

        def log_density(u: Tensor, size: Tensor = size) -> Tensor:
            at = middle + size * u
            ball = (at - middle).double().square().sum(1) / (2 * width)
            return likelihood.log_prob(at.unflatten(1, shape)).double() - ball

        moved, acceptance = kernel.move(log_density, (x - middle) / size, stream.child("move", i), kernel.step)
        x = middle + size * moved
        if i < n_moves // 2 and kernel.target_acceptance is not None:
            error = (acceptance - kernel.target_acceptance).to(size)
            size = (size * (GAIN * error).exp()[:, None]).clamp_max(width**0.5)
    return x.unflatten(1, shape)


def check_moves(name: str, kernel: Kernel, n_moves: int) -> None:
    """Raise InputError for a kernel without a test, whose step nothing could fit, or no moves."""
    if kernel.target_acceptance is None:
        raise InputError(
            f"{name} needs a kernel with a test of its moves, got {type(kernel).__name__}: nothing would tell a step "
            "that is too long. Use mala or hmc."
        )
    if n_moves < 2:
        raise InputError(f"{name} needs n_moves ≥ 2, half of which fit the step, got {n_moves}.")
