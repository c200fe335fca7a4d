"""How the ranks of one command share the work of `sample`: an ensemble together, all other draws one each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch

from sciflow.data.state import State
from sciflow.errors import InputError, LaunchError, NonFiniteError, OutOfTime
from sciflow.particles.ranks import Ranks

T = TypeVar("T")
FAILURES: tuple[type[Exception], ...] = (InputError, LaunchError, NonFiniteError, OutOfTime)
KINDS = {kind.__name__: kind for kind in FAILURES}


def rounds(work: Iterable[T], is_shared: Callable[[T], bool], n_ranks: int) -> Iterator[list[T]]:
    """Successive pieces of the work: one that all ranks do together, or up to one for each of them."""
    waiting: list[T] = []
    for item in work:
        if waiting and (is_shared(item) or len(waiting) == n_ranks):
            yield waiting
            waiting = []
        if is_shared(item):
            yield [item]
        else:
            waiting.append(item)
    if waiting:
        yield waiting


def numbers(ranks: Ranks, value: float) -> list[float]:
    """The number of every rank, on every rank."""
    return ranks.gathered(torch.tensor([value], dtype=torch.float64), [1] * ranks.size).tolist()


def of_first(ranks: Ranks, values: Sequence[bool]) -> list[bool]:
    """What the first rank says, on every rank; all give as many values."""
    said = ranks.gathered(torch.tensor(values, dtype=torch.bool), [len(values)] * ranks.size)
    return said[: len(values)].tolist()


def messages(ranks: Ranks, content: bytes) -> list[bytes]:
    """The bytes of every rank, on every rank."""
    lengths = [int(length) for length in numbers(ranks, len(content))]
    if not any(lengths):
        return [b""] * ranks.size
    mine = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
    parts = ranks.gathered(mine, lengths).split(lengths)
    return [part.numpy().tobytes() for part in parts]


def done(ranks: Ranks, mine: Callable[[], bytes]) -> list[bytes]:
    """What `mine` gives on each rank, on every rank.

    Raises:
        InputError, NonFiniteError, OutOfTime: on every rank, where one of them raised it: nobody waits in vain.
    """
    content, wrong = b"", b""
    try:
        content = mine()
    except tuple(KINDS.values()) as error:
        if ranks.size == 1:
            raise
        wrong = f"{type(error).__name__} {error}".encode()
    for said in filter(None, messages(ranks, wrong)):
        kind, _, text = said.decode().partition(" ")
        raise KINDS[kind](text)
    return messages(ranks, content)


@contextlib.contextmanager
def held(ranks: Ranks, state: State | None) -> Iterator[State | None]:
    """The state on the first rank, which alone locks and writes it.

    Raises:
        InputError: on every rank, where the first is refused.
    """
    with contextlib.ExitStack() as stack:

        def enter() -> bytes:
            if ranks.rank == 0 and state is not None:
                stack.enter_context(state)
            return b""

        done(ranks, enter)
        yield state if ranks.rank == 0 else None
