"""Aliases and the two conventions that every floor shares: broadcasting per row, and labelled docstrings."""

from __future__ import annotations

import inspect
import re

import torch
from torch import Tensor

Time = float | Tensor
"""A time in [0, 1] (0 = base, 1 = data): one number, or a tensor with one number per row."""

LABELS = ("Target", "Exactness", "Order", "Cost", "Bias", "Source")


def broadcast(value: Time, x: Tensor) -> Time:
    """Shape a per-row coefficient so that it multiplies `x`.

    Args:
        value: a number, or a tensor of shape (), (batch,).
        x: shape (batch, ...).

    Returns:
        A number, or a tensor of shape (batch, 1, ..., 1) in the dtype and on the device of `x`.
    """
    if not isinstance(value, Tensor):
        return value
    value = value.to(device=x.device, dtype=x.dtype)
    return value if value.ndim == 0 else value.reshape(-1, *[1] * (x.ndim - 1))


def float64(value: Time) -> Tensor:
    """`value` as a float64 tensor: coefficients are planned in double precision whatever the dtype of the state."""
    return torch.as_tensor(value, dtype=torch.float64)


def facts(entry: object) -> dict[str, str]:
    """What the docstring of a public class or function says about itself.

    Returns:
        `summary` (the first line) and each of the labelled lines `Target:`, `Exactness:`, `Order:`, `Cost:`, `Bias:`,
        `Source:` that stand at the start of a docstring line; continuation lines are joined.
    """
    text = inspect.getdoc(entry) or ""
    found = {"summary": text.partition("\n")[0].strip()}
    for label in LABELS:
        match = re.search(rf"^{label}:\s*(.+(?:\n[ \t]+\S.*)*)", text, flags=re.MULTILINE)
        if match:
            found[label.lower()] = " ".join(match.group(1).split())
    return found
