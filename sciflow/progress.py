"""Long loops: how far, how much longer, and when to stop."""

from __future__ import annotations

import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from sciflow.errors import Terminated

T = TypeVar("T")

logger = logging.getLogger(__name__)

LINE_EVERY = 10.0  # seconds between log lines, if a tenth of the work was done meanwhile; six times that if not
TELL_EVERY = 5.0  # seconds between what listeners are told
_listeners: list[Callable[[Moment], None]] = []
_within: list[Callable[[float], None]] = []  # of each loop that is running, the innermost last


@dataclass(frozen=True)
class Moment:
    """How far a loop is.

    Args:
        what: is being done.
        done: items so far, those of an earlier, interrupted loop included.
        total: of all; None if it is not known.
        per_second: items, since this loop began.
        numbers: what the loop says of itself, e.g. loss.
        part: of the item that is worked on, how much is done.
    """

    what: str
    done: int
    total: int | None
    per_second: float
    numbers: Mapping[str, float]
    part: float = 0.0

    def facts(self) -> dict[str, object]:
        """As one flat mapping, with the seconds that are left."""
        rate = self.per_second
        left = round((self.total - self.done - self.part) / rate, 1) if self.total is not None and rate > 0 else None
        facts = {"what": self.what, "done": self.done, "total": self.total, "per_second": float(f"{rate:.4g}")}
        numbers = {name: float(f"{value:.6g}") for name, value in self.numbers.items() if math.isfinite(value)}
        return {**facts, "left": left, **({"part": round(self.part, 3)} if self.part else {}), **numbers}


@contextmanager
def told_to(listener: Callable[[Moment], None]) -> Iterator[None]:
    """Tell `listener` how far every loop inside the block is: its first item, then every few seconds, and its last.

    An item that takes longer than that is told of meanwhile, if it says how far it is (`within`).
    """
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def track(
    items: Iterable[T],
    description: str,
    *,
    done: int = 0,
    status: Callable[[], str] = lambda: "",
    numbers: Callable[[], Mapping[str, float]] = dict,
) -> Generator[T]:
    """Yield `items`, showing progress and time left: a bar on a terminal, log lines now and then otherwise.

    Args:
        items: what to loop over; without a length there is no time left to tell. `range(n)` for a plain count.
        description: what is being done, e.g. "train".
        done: how many items an earlier, interrupted loop did.
        status: a few words about the state, asked whenever something is shown, e.g. the loss.
        numbers: the same as numbers, asked whenever a listener is told (`told_to`).
    """
    total = done + len(items) if isinstance(items, Sized) else None
    show = _bar if sys.stderr.isatty() else _lines
    yield from show(_told(items, description, done, total, numbers), description, done, total, status)


def _told(
    items: Iterable[T], what: str, done: int, total: int | None, numbers: Callable[[], Mapping[str, float]]
) -> Generator[T]:
    """The items, while listeners are told."""
    start, told, count = time.monotonic(), -math.inf, done

    def tell(part: float = 0.0) -> None:
        nonlocal told
        now = time.monotonic()
        since = max(told, start) if part else told
        if _listeners and (now - since >= TELL_EVERY or count == total):
            moment = Moment(what, count, total, (count - done + part) / max(now - start, 1e-9), numbers(), part)
            for listener in _listeners:
                listener(moment)
            told = now

    _within.append(tell)
    try:
        for item in items:
            yield item
            count += 1
            tell()
    finally:
        _within.remove(tell)


def within(done: int, total: int) -> None:
    """Say how far the item is that the innermost loop (`track`) works on.

    Args:
        done: of its steps.
        total: steps of this item.
    """
    if _within and 0 < done < total:
        _within[-1](done / total)


def _bar(items: Iterable[T], description: str, done: int, total: int | None, status: Callable[[], str]) -> Generator[T]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[status]}"), console=Console(stderr=True)) as progress:
        task = progress.add_task(description, total=total, completed=done, status="")
        for item in items:
            yield item
            progress.update(task, advance=1, status=status())


def _lines(
    items: Iterable[T], description: str, done: int, total: int | None, status: Callable[[], str]
) -> Generator[T]:
    start = shown = time.monotonic()
    first = shown_at = count = done
    try:
        for count, item in enumerate(items, start=done + 1):
            yield item
            now = time.monotonic()
            is_tenth = total is not None and count - shown_at >= total / 10
            if now - shown >= (LINE_EVERY if is_tenth else 6 * LINE_EVERY) and count != total:
                left = "" if total is None else f", {_clock((total - count) * (now - start) / (count - first))} left"
                logger.info("%s", f"{description}: {_count(count, total)}{left}  {status()}".rstrip())
                shown, shown_at = now, count
    finally:  # also when the caller leaves the loop at its last item, or by an error
        took = _clock(time.monotonic() - start)
        logger.info("%s", f"{description}: {_count(count, total)} in {took}  {status()}".rstrip())


def _count(count: int, total: int | None) -> str:
    return str(count) if total is None else f"{count}/{total}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


class Termination:
    """What SIGTERM does in a command where no loop listens: it raises `Terminated`, once.

    A second one, as of a launcher that passes on what its ranks have heard, finds the command on its way out.
    """

    def __init__(self) -> None:
        self.is_heard, self.said = False, "SIGTERM came. What was saved is kept: run the same command again."

    def __call__(self, *_: object) -> None:
        if not self.is_heard:
            self.is_heard = True
            raise Terminated(self.said)


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM end the block by `Terminated`, in the main thread; nothing in others.

    Raises:
        Terminated: SIGTERM came, and no loop inside heard it (`time_limit`).
    """
    with _on_sigterm(Termination()):
        yield


@contextmanager
def deaf() -> Iterator[None]:
    """Do not hear SIGTERM inside the block, in the main thread: for what is over at once, and the work with it."""
    with _on_sigterm(lambda *_: None):
        yield


@contextmanager
def ending(deadline: float | None, said: str) -> Iterator[None]:
    """End work that has no step to stop after at its deadline, inside of `terminable`.

    Args:
        deadline: a reading of `time.monotonic()`; None for no limit.
        said: what to do then.

    Raises:
        Terminated: it is time; says `said`.
    """
    listener, main = signal.getsignal(signal.SIGTERM), threading.main_thread().ident
    if deadline is None or main is None or not isinstance(listener, Termination):
        yield
        return
    if (left := deadline - time.monotonic()) <= 0:
        listener.said = said
        listener()

    def stop() -> None:
        listener.said = said
        signal.pthread_kill(main, signal.SIGTERM)  # a system call that waits is interrupted, too

    timer = threading.Timer(left, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()  # no signal once the block is left


@contextmanager
def time_limit(deadline: float | None) -> Iterator[Callable[[], bool]]:
    """Give a function that says whether to save and stop: the deadline has passed, or SIGTERM has come.

    The signal is caught only in the main thread, and only inside the `with` block, which it never breaks into. A block
    that ends well all the same passes it on to whoever listened before.

    Args:
        deadline: a reading of `time.monotonic()`; None for no limit.
    """
    terminated, before = threading.Event(), signal.getsignal(signal.SIGTERM)
    try:
        with _on_sigterm(lambda *_: terminated.set()):
            yield lambda: terminated.is_set() or (deadline is not None and time.monotonic() >= deadline)
    except BaseException:
        if terminated.is_set() and isinstance(before, Termination):
            before.is_heard = True
        raise
    if terminated.is_set() and callable(before):
        before(signal.SIGTERM, None)


@contextmanager
def _on_sigterm(listener: Callable[..., None]) -> Iterator[None]:
    """Call it when SIGTERM comes, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, listener)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if previous is None else previous)
