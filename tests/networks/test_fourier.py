"""Fourier neural operators: weights of frequencies are exact on any grid, and only periodic fields are asked for."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.networks.fourier import FNO, SpectralConv
from sciflow.random import Stream

MODES = 5
SIZES = (9, 10, 15, 16, 17, 32)  # all carry |k| < 5
ROUNDING = 1e-12  # of sums of some hundred terms of order one, as the project asks


def field(sizes: tuple[int, ...], highest: int, n: int = 2, seed: int = 0) -> Tensor:
    """A trigonometric polynomial of frequencies up to `highest`, whose values do not depend on the grid."""
    places = torch.meshgrid(*[torch.arange(size).double() / size for size in sizes], indexing="ij")
    stream, total = Stream(seed), torch.zeros(n, 2, *sizes, dtype=torch.float64)
    for i, k in enumerate(itertools.product(range(-highest, highest + 1), repeat=len(sizes))):
        a, b = stream.child("wave", i).normal(2, (n, 2), dtype=torch.float64)
        angle = 2 * math.pi * sum(one * x for one, x in zip(k, places, strict=True))
        total += a[..., *[None] * len(sizes)] * angle.cos() + b[..., *[None] * len(sizes)] * angle.sin()
    return total


def convolution(axes: int, weight: str = "identity", modes: int = MODES) -> SpectralConv:
    torch.manual_seed(0)
    conv = SpectralConv(2, 2, modes, axes).double()
    if weight == "identity":
        with torch.no_grad():
            conv.weight.zero_()
            for channel in range(2):
                conv.weight[..., channel, channel, 0] = 1
    return conv


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("before", SIZES)
def test_identity_weights_give_the_same_field_on_any_grid(axes: int, before: int) -> None:
    """Half, equal, double and odd sizes, up and down, and grids that are not square."""
    conv = convolution(axes)
    for after in SIZES:
        sizes = (after, after + 1)[-axes:]
        found = conv(field((before,) * axes, MODES - 1), sizes)
        assert (found - field(sizes, MODES - 1)).abs().max() < ROUNDING, (before, after)


@pytest.mark.parametrize("axes", [1, 2])
def test_any_weights_give_the_same_field_on_any_grid(axes: int) -> None:
    conv = convolution(axes, "drawn")
    fine = conv(field((32,) * axes, MODES - 1)).detach()
    coarse = conv(field((16,) * axes, MODES - 1)).detach()
    assert fine.std() > 0.1
    assert (coarse - fine[(..., *[slice(None, None, 2)] * axes)]).abs().max() < ROUNDING


@pytest.mark.parametrize("axes", [1, 2])
def test_frequencies_that_a_grid_does_not_carry_are_left_out(axes: int) -> None:
    """On 8 points k = 4 has no phase: it goes, in and out; and what 8 points carry comes back from a finer grid."""
    conv = convolution(axes)
    alternating = torch.ones(1, 2, *[8] * axes, dtype=torch.float64)
    alternating[..., 1::2] = -1
    assert conv(alternating).abs().max() < ROUNDING
    assert (conv(alternating, (16,) * axes)).abs().max() < ROUNDING
    coarse = conv(field((32,) * axes, MODES - 1), (8,) * axes)
    again = conv(conv(coarse, (32,) * axes), (8,) * axes)
    assert (again - coarse).abs().max() < ROUNDING


@pytest.mark.parametrize("axes", [1, 2])
def test_it_is_the_convolution_that_a_fast_transform_makes(axes: int) -> None:
    """Beside torch.fft: R_k ĥ_k for |k| < modes on the half of the spectrum that a real field needs."""
    conv, h = convolution(axes, "drawn"), field((16,) * axes, 7)
    spectrum = torch.fft.rfftn(h, dim=list(range(2, 2 + axes)))
    weight, kept = torch.view_as_complex(conv.weight.detach()), torch.zeros_like(spectrum)
    for index in itertools.product(*([range(2 * MODES - 1)] * (axes - 1)), range(MODES)):
        place = tuple((i - MODES + 1) % 16 for i in index[:-1]) + index[-1:]
        kept[(..., *place)] = torch.einsum("bi,io->bo", spectrum[(..., *place)], weight[index])
    expected = torch.fft.irfftn(kept, s=(16,) * axes, dim=list(range(2, 2 + axes)))
    assert (conv(h) - expected).abs().max() < ROUNDING


@pytest.mark.parametrize("shape", [(2, 32), (2, 16, 20)])
def test_a_network_commutes_with_shifts(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    module = FNO(width=8, modes=4).build(shape).double()
    torch.nn.init.normal_(module.last.weight)
    x, level = Stream(1).normal(3, shape).double(), torch.tensor([-1.0, 0.0, 2.0])
    moved = module(x.roll(3, -1), level)
    assert (moved - module(x, level).roll(3, -1)).abs().max() < ROUNDING < 1e-3 < moved.std()


def test_a_network_runs_on_other_grids_and_nearly_agrees_there() -> None:
    """The layers agree exactly; the activation makes frequencies that 64 points carry and 32 fold back."""
    torch.manual_seed(0)
    module = FNO(width=16, modes=6).build((2, 32)).double()
    torch.nn.init.normal_(module.last.weight)
    errors = []
    for size in (32, 64, 128):
        with torch.no_grad():
            coarse, fine = module(field((size,), 2)), module(field((256,), 2))[..., :: 256 // size]
        errors.append(float((coarse - fine).std() / fine.std()))
    assert errors[0] < 1e-3 and errors[1] < 1e-3 * errors[0]  # smooth fields: spectrally less with each doubling


def test_bfloat16_is_made_wide_where_numbers_are_complex() -> None:
    module = FNO(width=8, modes=4).build((1, 16))
    torch.nn.init.normal_(module.last.weight)
    x = Stream(1).normal(4, (1, 16))
    with torch.autocast("cpu", torch.bfloat16):
        half = module(x)
    half.square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())
    assert (half - module(x)).std() < 0.05 * half.std()  # 8 bits of mantissa: 0.4 % a product, some ten in a row


@pytest.mark.parametrize("shape", [(4,), (1, 2, 8, 8), (1, 0)])
def test_shapes_without_a_grid_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="Reshape the data"):
        FNO().build(shape)


def test_other_channels_are_refused() -> None:
    with pytest.raises(InputError, match=r"an FNO with 1 channel\(s\) needs events of shape \(channel, x\)"):
        FNO().build((1, 16))(torch.zeros(2, 3, 16))
