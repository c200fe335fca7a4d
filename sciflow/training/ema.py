"""Averaged weights: what is sampled from, and validated, is the average and not the last step."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.swa_utils import PARAM_LIST, AveragedModel, get_ema_multi_avg_fn


def averaged(module: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of the parameters of `module`, with warm-up.

        m_1 = w_1,   m_n = d_n m_{n-1} + (1 - d_n) w_n,   d_n = min(decay, n / (9 + n))

    Early on the average spans about the last tenth of the steps, later the last 1 / (1 - decay). Buffers are copied.
    Call `update_parameters(module)` after each optimiser step; the averaged module is `.module`.

    Exactness: exact
    Cost: one read and write of all parameters per step
    Bias: lags behind the weights by about 1 / (1 - decay) steps

    Args:
        module: the network in training; it is copied.
        decay: weight kept from the past, in [0, 1).

    Source: Polyak and Juditsky (1992); warm-up as in TensorFlow's ExponentialMovingAverage (num_updates).
    """

    def average(mean: PARAM_LIST, current: PARAM_LIST, n_before: Tensor | int) -> None:
        n = int(n_before) + 1
        get_ema_multi_avg_fn(min(decay, n / (9 + n)))(mean, current, n_before)

    return AveragedModel(module, multi_avg_fn=average).eval().requires_grad_(False)
