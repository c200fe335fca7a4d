"""The average against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from sciflow.training.ema import averaged


def run(decay: float, weights: list[float]) -> float:
    module = torch.nn.Linear(1, 1, bias=False).double()
    average = averaged(module, decay)
    for weight in weights:
        torch.nn.init.constant_(module.weight, weight)
        average.update_parameters(module)
    return average.module.weight.item()


def test_warm_up_then_decay():
    assert run(0.999, [1.0]) == 1.0
    second = 2 / 11 * 1.0 + 9 / 11 * 2.0  # d_2 = 2 / (9 + 2)
    assert run(0.999, [1.0, 2.0]) == pytest.approx(second, rel=1e-14)  # a few float64 roundings of 1.1e-16
    third = 0.2 * second + 0.8 * 4.0  # d_3 = min(0.2, 3 / 12)
    assert run(0.2, [1.0, 2.0, 4.0]) == pytest.approx(third, rel=1e-14)


def test_without_decay_it_is_the_last_weight():
    assert run(0.0, [1.0, 2.0, 7.0]) == 7.0


def test_average_is_a_copy_without_gradient_in_evaluation_mode_and_buffers_follow():
    module = torch.nn.BatchNorm1d(2)
    average = averaged(module, 0.9)
    module(torch.randn(4, 2, generator=torch.Generator().manual_seed(0)))
    average.update_parameters(module)
    assert not average.module.training and module.training
    assert not any(p.requires_grad for p in average.parameters()) and all(p.requires_grad for p in module.parameters())
    assert torch.equal(average.module.running_mean, module.running_mean)
    assert average.module.running_mean.data_ptr() != module.running_mean.data_ptr()
