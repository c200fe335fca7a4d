"""Every network in the table: shapes, gradients, conditioning, and rows that do not see one another."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from sciflow.errors import InputError
from sciflow.networks import EGNN, MLP, NETWORKS, UNet
from sciflow.networks.embedding import NoiseEmbedding
from sciflow.random import Stream
from sciflow.types import facts

SHAPES = {"egnn": (5, 3)}  # of events; the others take images
IMAGE = (1, 8, 8)
NAMES = sorted(NETWORKS)


def shape_of(name: str) -> tuple[int, ...]:
    return SHAPES.get(name, IMAGE)


def build(name: str, shape: tuple[int, ...] | None = None, **options) -> torch.nn.Module:
    """A network whose zero layers were filled, as after some training."""
    torch.manual_seed(0)
    module = NETWORKS[name](**options).build(shape or shape_of(name))
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return module


def rows(n: int = 16, shape: tuple[int, ...] = IMAGE) -> tuple[torch.Tensor, torch.Tensor]:
    stream = Stream(seed=1)
    return stream.child("x").normal(n, shape), stream.child("level").normal(n)


@pytest.mark.parametrize("name", NAMES)
def test_output_is_like_input_and_starts_at_zero(name):
    x, level = rows(shape=shape_of(name))
    out = NETWORKS[name]().build(shape_of(name))(x, level)
    assert out.shape == x.shape and out.dtype == x.dtype
    assert torch.count_nonzero(out) == 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", [{}, {"dropout": 0.2}], ids=["plain", "dropout"])
def test_gradient_reaches_every_parameter(name, options):
    module = build(name, **options)
    module(*rows(shape=shape_of(name))).square().sum().backward()
    without = [key for key, p in module.named_parameters() if p.grad is None or not torch.any(p.grad != 0)]
    assert without == []


@pytest.mark.parametrize("name", NAMES)
def test_noise_level_matters_is_optional_and_may_be_infinite(name):
    module, (x, level) = build(name).eval(), rows(shape=shape_of(name))
    assert not torch.allclose(module(x, level), module(x, level + 1))
    assert torch.equal(module(x), module(x, torch.zeros(len(x))))
    assert torch.isfinite(module(x, torch.full((len(x),), torch.inf))).all()
    assert torch.isfinite(module(x, torch.full((len(x),), -torch.inf))).all()


def test_embedding_separates_near_and_far_noise_levels():
    torch.manual_seed(0)
    embedding, levels = NoiseEmbedding(64), torch.linspace(-10, 10, 401)
    angle = levels[:, None] * embedding.frequencies
    distance = torch.cdist(torch.cat([angle.cos(), angle.sin()], 1), torch.cat([angle.cos(), angle.sin()], 1))
    distance.fill_diagonal_(torch.inf)
    # neighbours 0.05 apart move the fastest of the 32 pairs by 0.05 * 2 pi = 0.3: half of that tells any two apart
    assert distance.min() > 0.15


@pytest.mark.parametrize("name", NAMES)
def test_dropout_acts_in_training_only(name):
    module, (x, level) = build(name, dropout=0.5), rows(shape=shape_of(name))
    assert not torch.equal(module(x, level), module(x, level))
    module.eval()
    assert torch.equal(module(x, level), module(x, level))


@pytest.mark.parametrize("name", NAMES)
def test_a_row_has_the_same_bits_whatever_stands_in_the_other_rows(name):
    module, (x, level) = build(name).eval(), rows(64, shape_of(name))
    other, other_level = x.flip(0) * 3, level.flip(0)
    other[17], other_level[17] = x[17], level[17]
    with torch.no_grad():
        assert torch.equal(module(x, level)[17], module(other, other_level)[17])


@pytest.mark.parametrize("name", NAMES)
def test_two_builds_from_one_seed_are_equal(name):
    torch.manual_seed(3)
    first = NETWORKS[name]().build(shape_of(name)).state_dict()
    torch.manual_seed(3)
    second = NETWORKS[name]().build(shape_of(name)).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", NAMES)
def test_double_precision_and_documentation(name):
    x, level = rows(shape=shape_of(name))
    assert build(name).double()(x.double(), level).dtype == torch.float64
    assert {"summary", "exactness", "cost", "bias", "source"} <= facts(NETWORKS[name]).keys()


@pytest.mark.parametrize("shape", [(2,), (3, 5)])
def test_mlp_takes_events_of_any_shape(shape):
    x, level = rows(shape=shape)
    assert build("mlp", shape)(x, level).shape == x.shape
    with pytest.raises(InputError, match="built for events of shape"):
        build("mlp", shape)(torch.zeros(4, 7), level[:4])


@pytest.mark.parametrize(
    "options", [{"channels": (8,)}, {"channels": (8, 16, 12)}, {"n_blocks": 3}, {"attention": True}]
)
def test_unet_takes_any_size_that_can_be_halved(options):
    x, level = rows(4, (2, 12, 20))
    module = build("unet", (2, 12, 20), **options)
    out = module(x, level)
    assert out.shape == x.shape
    assert module(x[..., :8, :16], level).shape == (4, 2, 8, 16)
    out.sum().backward()
    assert all(torch.any(p.grad != 0) for p in module.parameters())


def test_unet_attention_lets_far_pixels_matter():
    x, level = rows(1, (1, 32, 32))
    far = x.clone()
    far[0, 0, -1, -1] += 1
    reach = {}
    for attention in (False, True):
        module = build("unet", (1, 32, 32), channels=(32,), attention=attention).eval()
        for layer in module.modules():  # normalisation also carries far: take its statistics out
            if isinstance(layer, torch.nn.GroupNorm):
                layer.forward = lambda h: h
        reach[attention] = not torch.equal(module(x, level)[..., 0, 0], module(far, level)[..., 0, 0])
    assert reach == {False: False, True: True}


@pytest.mark.parametrize("shape", [(2, 32), (2, 16, 32)])
def test_unet_commutes_with_shifts_of_a_periodic_field(shape):
    """By multiples of 2^(levels − 1), the grid of the coarsest level; with zeros at the border it does not."""
    x, level = rows(3, shape)
    shift = [4, -8][: len(shape) - 1]
    axes = [-1, -2][: len(shape) - 1]
    errors = {}
    for padding in ("circular", "zeros"):
        module = build("unet", shape, channels=(8, 8, 8), attention=True, padding=padding).double().eval()
        moved = module(x.double().roll(shift, axes), level)
        errors[padding] = float((moved - module(x.double(), level).roll(shift, axes)).detach().abs().max())
    assert errors["circular"] < 1e-12 < 1e-3 < errors["zeros"]  # rounding of sums of some hundred terms of order one


@pytest.mark.parametrize("shape", [(1, 6, 8), (1, 8, 10), (2, 10), (1, 2, 8, 8), (4,), (1, 0, 8)])
def test_unet_refuses_shapes_it_cannot_work_on(shape):
    with pytest.raises(InputError, match=r"\. (Crop|Reshape)"):
        UNet(channels=(8, 16, 16)).build(shape)


def test_unet_refuses_batches_it_was_not_built_for():
    module = UNet(channels=(8, 16)).build((1, 8, 8))
    with pytest.raises(InputError, match="1 channel"):
        module(torch.zeros(2, 3, 8, 8))
    with pytest.raises(InputError, match="multiples of 2"):
        module(torch.zeros(2, 1, 7, 8))


@pytest.mark.parametrize(
    ("spec", "options"),
    [(UNet, {"channels": []}), (UNet, {"channels": [0]}), (UNet, {"n_blocks": 0}), (UNet, {"dropout": 1.0}),
     (MLP, {"width": 0}), (MLP, {"depth": 0}), (MLP, {"dropout": -0.1}),
     (EGNN, {"width": 0}), (EGNN, {"n_radial": 1})],
)  # fmt: skip
def test_ranges_are_checked(spec, options):
    with pytest.raises(ValidationError):
        TypeAdapter(spec).validate_python(options)


def test_default_unet_has_the_size_it_promises():
    n_parameters = sum(p.numel() for p in UNet().build(IMAGE).parameters())
    assert 300_000 <= n_parameters <= 900_000
