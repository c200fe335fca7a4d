"""With which exit status and which words a command ends."""

from __future__ import annotations

import errno

import numpy as np
import pytest
import torch

from sciflow.errors import (
    InputError,
    LaunchError,
    NonFiniteError,
    OutOfTime,
    behind,
    is_out_of_memory,
    is_passing,
    told,
)

ENDS = {
    "input": (InputError("a.yaml: wrong"), 2, "error: a.yaml: wrong"),
    "launch": (LaunchError("ranks"), 2, "error: ranks"),
    "time": (OutOfTime("step 3"), 75, "out of time: step 3"),
    "not finite": (NonFiniteError("loss"), 1, "error: loss"),
    "memory": (MemoryError("12 GB"), 137, "out of memory: 12 GB"),
    "memory of a system call": (OSError(errno.ENOMEM, "Cannot allocate memory"), 137, "out of memory: "),
    "memory of a card": (torch.OutOfMemoryError("CUDA out of memory"), 1, "error: the card has no memory left"),
    "disk": (OSError(errno.ENOSPC, "disk full", "a.nc"), 1, "error: a.nc: disk full. Nothing finished is lost."),
    "bug": (ZeroDivisionError("division by zero"), 1, "ZeroDivisionError: division by zero"),
}


@pytest.mark.parametrize("name", ENDS)
def test_every_error_has_its_status_and_says_what_to_do(name: str) -> None:
    error, status, words = ENDS[name]
    found, said = told(error)
    assert found == status and said.startswith(words)
    assert ("This is a bug in sciflow" in said) == (name == "bug")


@pytest.mark.parametrize("allocate", [lambda: torch.empty(2**60), lambda: np.empty(2**55)])
def test_what_torch_and_numpy_say_for_want_of_memory_is_known(allocate) -> None:
    with pytest.raises((MemoryError, RuntimeError)) as refused:
        allocate()
    assert is_out_of_memory(refused.value) and told(refused.value)[0] == 137


def test_an_error_of_torch_alone_is_no_want_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def refusal(reason: BaseException) -> InputError:
    """As a reader words what it met."""
    try:
        try:
            raise reason
        except (OSError, RuntimeError, MemoryError) as error:
            raise InputError(f"a.h5 is damaged ({error}). Write it again.") from error
    except InputError as refused:
        return refused


H5PY = "Can't synchronously read data (file read failed: time = now, errno = 5, error message = 'Input/output error')"
PASSING = {
    "disk": OSError(errno.EIO, "Input/output error"), "server": OSError(errno.ESTALE, "Stale file handle"),
    "h5py": OSError(H5PY), "memory": MemoryError(), "torch": RuntimeError("[enforce fail] can't allocate memory"),
    "card": torch.OutOfMemoryError("CUDA out of memory"),
}  # fmt: skip


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_known_behind_what_is_said_of_it(name: str) -> None:
    refused = refusal(PASSING[name])
    assert any(is_passing(error) for error in behind(refused))
    assert (told(refused)[0] == 137) == (name in ("memory", "torch"))


def test_a_damaged_file_does_not_pass() -> None:
    for reason in (OSError("Unable to open file (truncated file)"), OSError(errno.ENOENT, "none"), RuntimeError("bad")):
        assert not any(is_passing(error) for error in behind(refusal(reason)))
