"""Equivariant networks: rotations, reflections, translations and permutations, to rounding in float64."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from sciflow.errors import InputError
from sciflow.networks.egnn import EGNN, EGNNModule
from sciflow.random import Stream

SHAPES = [(13, 3), (4, 2)]
VARIANTS = [{}, {"signed_volume": True}, {"distinct": True}, {"signed_volume": True, "distinct": True}]
ROUNDING = 1e-10  # as the project asks, in float64: sums of some hundred terms of order one err by 1e-14


def module(shape: tuple[int, ...], **options) -> EGNNModule:
    """A network as after some training: none of its layers is zero."""
    torch.manual_seed(0)
    built = EGNN(width=16, **options).build(shape).double().eval()
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return built


def clusters(shape: tuple[int, ...], n: int = 6) -> tuple[Tensor, Tensor]:
    stream = Stream(3)
    return stream.child("x").normal(n, shape, dtype=torch.float64), stream.child("level").normal(n).double()


def turned(k: int, determinant: int) -> Tensor:
    """A random orthogonal matrix, (k, k)."""
    q, _ = torch.linalg.qr(Stream(4).normal(1, (k, k), dtype=torch.float64)[0])
    q[:, 0] *= determinant * torch.linalg.det(q).sign()
    return q


def gap(first: Tensor, second: Tensor) -> float:
    return float((first - second).detach().abs().max())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", VARIANTS)
def test_answers_turn_with_positions_and_do_not_see_the_centre(shape, options):
    f, (x, level) = module(shape, **options), clusters(shape)
    q, shift = turned(shape[1], 1), torch.arange(1.0, shape[1] + 1, dtype=torch.float64)
    answer = f(x, level)
    assert float(answer.detach().abs().mean()) > 0.01  # far above rounding
    assert gap(f(x @ q.T + shift, level), answer @ q.T) < ROUNDING
    assert gap(answer.mean(1), torch.zeros(())) < ROUNDING


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("signed_volume", [False, True])
def test_mirror_images_are_told_apart_by_signed_volumes_alone(shape, signed_volume):
    f, (x, level) = module(shape, signed_volume=signed_volume), clusters(shape)
    mirror = turned(shape[1], -1)
    error = gap(f(x @ mirror.T, level), f(x, level) @ mirror.T)
    assert error > 1e-3 if signed_volume else error < ROUNDING


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", VARIANTS)
def test_answers_are_permuted_with_equal_particles(shape, options):
    f, (x, level) = module(shape, **options), clusters(shape)
    order = torch.randperm(shape[0], generator=Stream(5).generator())
    error = gap(f(x[:, order], level), f(x, level)[:, order])
    assert error > 1e-3 if options.get("distinct") else error < ROUNDING


def test_particles_in_one_place_have_an_answer_and_a_derivative():
    """As at the start of an annealing, which asks for the answer at the origin."""
    f = module((13, 3), signed_volume=True)
    x = torch.zeros(2, 13, 3, dtype=torch.float64, requires_grad=True)
    answer = f(x)
    (gradient,) = torch.autograd.grad(answer.square().sum() + answer.sum(), x)
    assert gap(answer, torch.zeros(())) == 0 and bool(gradient.isfinite().all())


def test_radial_functions_keep_their_bits_and_none_is_subnormal():
    """With 64 functions, products of subnormal numbers took most of a step of training."""
    f = EGNN(n_radial=64).build((13, 3))
    length = torch.linspace(0.0, 8.0, 801)[None, None, :, None]
    known = torch.exp(-0.5 * ((length - f.centres) / (f.centres[1] - f.centres[0])).square())
    radial = f._radial(length)
    assert 0 < float(known[known > 0].min()) < torch.finfo(torch.float32).tiny  # as the formula says, they would be
    assert torch.equal(1 + radial, 1 + known) and float(radial.min()) > 1e-22


@pytest.mark.parametrize("shape", [(4,), (1, 3), (1, 8, 8)])
def test_events_that_are_not_particles_are_refused(shape):
    with pytest.raises(InputError, match=r"\(particle, axis\).*Reshape"):
        EGNN().build(shape)


def test_other_numbers_of_particles_and_volumes_that_are_not_known_are_refused():
    with pytest.raises(InputError, match=r"built for events of shape \(4, 2\)"):
        module((4, 2))(torch.zeros(1, 5, 2, dtype=torch.float64))
    with pytest.raises(InputError, match=r"got 4\. Set signed_volume to false"):
        EGNN(signed_volume=True).build((5, 4))
    with pytest.raises((InputError, ValidationError), match="second layer, got depth 1"):
        TypeAdapter(EGNN).validate_python({"depth": 1, "signed_volume": True})
