"""Conjugate gradients: exact on a covariance, bounded on what is none."""

from __future__ import annotations

import torch

from sciflow.inverse.conjugate_gradient import conjugate_gradient


def test_a_positive_definite_system_is_solved() -> None:
    factor = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = factor @ factor.T + torch.eye(6, dtype=torch.float64)
    b = torch.randn(3, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    solution = conjugate_gradient(lambda v: v @ matrix, b, tolerance=1e-12, least=1.0)
    # the recurrence's residual is 1e-12 of b; the condition number of about 20 leaves the rest
    assert torch.allclose(solution.x, torch.linalg.solve(matrix, b.T).T, rtol=0, atol=1e-10)


def test_an_indefinite_matrix_cannot_make_the_answer_explode() -> None:
    """M = B + ridge I with B not a covariance: steps stay within 1/ridge of the residual that they act on."""
    ridge, spectrum = 0.25, torch.tensor([1.0, 0.5, -0.2499999, -3.0], dtype=torch.float64)
    b = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0]], dtype=torch.float64)
    solution = conjugate_gradient(lambda v: (spectrum + ridge) * v, b, max_iterations=10, least=ridge)
    assert (solution.x.norm(dim=1) <= b.norm(dim=1) / ridge).all()
    nearly_singular = torch.tensor([[0.0, 0.0, 1.0, 0.0]], dtype=torch.float64)
    free = conjugate_gradient(lambda v: (spectrum + ridge) * v, nearly_singular, max_iterations=10)
    assert float(free.x.norm(dim=1).max()) > 1e6  # without the bound, a curvature of 1e-7 is followed
    kept = conjugate_gradient(lambda v: (spectrum + ridge) * v, nearly_singular, max_iterations=10, least=ridge)
    assert torch.equal(kept.x, torch.zeros_like(kept.x))
