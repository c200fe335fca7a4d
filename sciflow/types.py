"""Aliases and the two conventions that every floor shares: broadcasting per row, and labelled docstrings."""

from __future__ import annotations

import inspect
import re

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

Time = float | Tensor
"""A time in [0, 1] (0 = base, 1 = data): one number, or a tensor with one number per row."""

LABELS = ("Target", "Exactness", "Order", "Cost", "Bias", "Source")


def broadcast(value: Time, x: Tensor) -> Time:
    """Shape a per-row coefficient so that it multiplies `x`.

    Args:
        value: a number, or a tensor of shape (), (batch,).
        x: shape (batch, ...).

    Returns:
        A number, a tensor of shape () in the dtype of `x`, which stays where it is (a number from the host goes along
        with the operation, a copy to a GPU would wait for it), or one of shape (batch, 1, ..., 1) where `x` is.
    """
    if not isinstance(value, Tensor):
        return value
    if value.ndim == 0:
        return value.to(x.dtype)
    return value.to(device=x.device, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def per_row(value: Tensor, x: Tensor) -> Tensor:
    """One number for each row of `x`, shape (batch,), in its dtype and on its device, from one number or as many."""
    if value.ndim == 0 and value.device != x.device:
        return x.new_zeros(len(x)) + value.to(x.dtype)  # see `broadcast`
    return value.to(device=x.device, dtype=x.dtype).expand(len(x))


_COPIES = WeakTensorKeyDictionary()


def placed(value: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A constant on another device or in another dtype, copied once for as long as it lives; nobody may change it."""
    dtype = dtype or value.dtype
    if (value.device, value.dtype) == (device, dtype) or value.requires_grad or torch.compiler.is_compiling():
        return value.to(device, dtype)
    copies = _COPIES.setdefault(value, {})
    if (device, dtype) not in copies:
        copies[device, dtype] = value.to(device, dtype)
    return copies[device, dtype]


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
