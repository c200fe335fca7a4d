"""RMSE, PSNR and SSIM against numbers computed by hand and against scikit-image."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from skimage.metrics import structural_similarity

from sciflow.errors import InputError, NonFiniteError
from sciflow.metrics.field import psnr, rmse, ssim
from sciflow.metrics.score import ratio
from sciflow.random import Stream

EXACT = 1e-12  # round-off of a few float64 operations on numbers of size one


def test_rmse_and_psnr_by_hand():
    truth = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    samples = torch.tensor([[[0.1, 1.0], [0.3, 1.0]], [[0.6, 0.0], [1.0, 0.0]]])  # means (0.2, 1) and (0.8, 0)
    squared = 0.04 / 2  # the same for both observations
    assert rmse(truth, samples)["rmse"].value == pytest.approx(math.sqrt(squared), abs=1e-7)  # float32 input
    score = psnr(truth, samples)["psnr"]
    assert score.value == pytest.approx(10 * math.log10(1 / squared), abs=1e-5)  # float32 input, 10 / ln 10 × 1e-6
    assert (score.unit, score.n) == ("dB", 2)


def test_rmse_standard_error_by_hand():
    truth = torch.zeros(2, 1, dtype=torch.float64)
    samples = torch.tensor([[[1.0]], [[3.0]]], dtype=torch.float64)
    score = rmse(truth, samples, unit="K")["rmse"]
    mean, stderr = 5.0, 4.0  # squares 1 and 9: mean 5, standard error sqrt(32 / 2) = 4
    assert score.value == pytest.approx(math.sqrt(mean), abs=EXACT)
    assert score.stderr == pytest.approx(stderr / (2 * math.sqrt(mean)), abs=EXACT)
    assert score.unit == "K"


def test_the_mask_leaves_elements_out():
    truth = torch.tensor([[0.0, math.nan, 1.0]])
    samples = torch.tensor([[[0.5, math.inf, 1.0], [0.5, 0.0, 1.0]]])
    mask = torch.tensor([[True, False, True]])
    assert rmse(truth, samples, mask=mask)["rmse"].value == pytest.approx(math.sqrt(0.125), abs=EXACT)
    assert rmse(truth, samples, mask=mask[0])["rmse"].value == pytest.approx(math.sqrt(0.125), abs=EXACT)


def test_observations_without_a_counted_element_do_not_count():
    truth, samples = torch.zeros(3, 2), torch.ones(3, 4, 2)
    mask = torch.tensor([[True, True], [False, False], [True, False]])
    assert rmse(truth, samples, mask=mask)["rmse"].n == 2
    assert psnr(truth, samples, mask=mask, data_range=1.0)["psnr"].n == 2


def test_ssim_is_that_of_scikit_image():
    pictures = Stream(3).uniform(2, (1, 12, 9), dtype=torch.float64)
    estimates = pictures + 0.1 * Stream(4).normal(2, (1, 12, 9), dtype=torch.float64)
    expected = [
        structural_similarity(a[0].numpy(), b[0].numpy(), data_range=1.0)
        for a, b in zip(pictures, estimates, strict=True)
    ]
    score = ssim(pictures, estimates[:, None], data_range=1.0)["ssim"]
    assert score.value == pytest.approx(sum(expected) / 2, abs=EXACT)
    assert score.stderr == pytest.approx(abs(expected[0] - expected[1]) / 2, abs=EXACT)


def test_ssim_by_hand_on_one_window():
    """Two 3 × 3 pictures fill exactly one window, so the formula can be written out."""
    x = torch.arange(9.0, dtype=torch.float64).reshape(1, 1, 3, 3) / 8
    y = 0.5 * x + 0.1
    c1, c2 = 0.01**2, 0.03**2
    mean_x, mean_y, variance = x.mean(), y.mean(), x.var()
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * 0.5 * variance + c2) / (variance + 0.25 * variance + c2)
    assert ssim(x, y[:, None])["ssim"].value == pytest.approx(float(luminance * structure), abs=EXACT)


def test_ssim_of_a_perfect_picture_is_one_with_and_without_a_mask():
    picture = Stream(5).uniform(2, (1, 8, 8), dtype=torch.float64)
    mask = Stream(6).uniform(2, (1, 8, 8)) > 0.5
    for chosen in (None, mask):
        assert ssim(picture, picture[:, None], mask=chosen)["ssim"].value == pytest.approx(1.0, abs=EXACT)


def test_ratio_standard_error_by_hand():
    value, stderr, n = ratio(*torch.tensor([[1.0, 3.0, 0.0], [1.0, 1.0, 0.0]], dtype=torch.float64))
    assert (value, n) == (2.0, 2)
    assert stderr == pytest.approx(1.0, abs=EXACT)  # residuals ∓1: sqrt(2 / 1 · 2) / 2


def test_one_observation_has_no_standard_error():
    assert math.isnan(rmse(torch.zeros(1, 2), torch.ones(1, 3, 2))["rmse"].stderr)


@pytest.mark.parametrize(
    ("truth", "samples", "mask", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 3), None, r"truth has shape \(2, 3\) and samples \(2, 3\), needs"),
        (torch.zeros(2, 3), torch.zeros(2, 4, 2), None, "Give both the same observations"),
        (torch.zeros(2, 3), torch.zeros(3, 4, 3), None, "Give both the same observations"),
        (torch.zeros(2, 3), torch.zeros(2, 4, 3), torch.ones(2, 4), r"mask has shape \(2, 4\), needs \(2, 3\)"),
        (torch.zeros(2, 3), torch.zeros(2, 4, 3), torch.zeros(2, 3), "No element counts"),
        (torch.full((2, 3), math.nan), torch.zeros(2, 4, 3), None, "truth holds NaN"),
    ],
)
def test_bad_input_is_refused_with_one_message(truth, samples, mask, message):
    with pytest.raises(InputError, match=message):
        rmse(truth, samples, mask=mask)


def test_ssim_without_scikit_image_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    with pytest.raises(InputError, match=r"pip install 'sciflow\[imaging\]'"):
        ssim(torch.zeros(1, 8, 8), torch.zeros(1, 1, 8, 8), data_range=1.0)


def test_other_refusals():
    with pytest.raises(NonFiniteError, match="samples hold NaN"):
        rmse(torch.zeros(2, 3), torch.full((2, 4, 3), math.inf))
    with pytest.raises(InputError, match=r"positive data range, got 0. Pass data_range"):
        psnr(torch.zeros(2, 3), torch.ones(2, 4, 3))
    with pytest.raises(InputError, match=r"ssim needs pictures .* got events \(3,\)"):
        ssim(torch.zeros(2, 3), torch.ones(2, 4, 3), data_range=1.0)
