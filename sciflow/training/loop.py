"""The training loop: the state after step n is a function of (seed, data, options, n), however often it was killed."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sciflow.errors import InputError, LaunchError, NonFiniteError, OutOfTime
from sciflow.progress import time_limit, track
from sciflow.random import Stream
from sciflow.training.batches import batch_rows
from sciflow.training.ema import averaged
from sciflow.training.optimisation import Optimisation
from sciflow.training.ranks import Ranks

OWN_BUFFERS: dict[str, Any] = {  # each rank's, as they are; from torch 2.13 on under another name
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers": False
}
Loss = Callable[[nn.Module, Tensor, Stream, int, int], Tensor]
"""(module, batch, stream, step, first) -> loss of each row, shape (batch,).

The batch is the rows first, first + 1, … of the whole batch of that step. Random numbers come from `stream`, for these
rows at this step, and from nowhere else: then pieces of a batch and ranks draw what the whole batch would draw.
"""


class Rows(Protocol):
    """Rows to learn from: a tensor, or what makes a batch of them when it is asked for one."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: Tensor, /) -> Tensor: ...


class Checkpointer(Protocol):
    """Keeps the last state: `Checkpoint` in a file, or something of your own."""

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the saved state."""

    def settle(self) -> None:
        """Return once the saved state outlives this process and its node."""

    def load(self) -> dict[str, Any] | None:
        """The saved state, or None."""


@dataclass
class History:
    """What was measured.

    Args:
        loss: training loss of every step.
        validation: steps done -> validation loss of the averaged weights.
    """

    loss: list[float] = field(default_factory=list)
    validation: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Fitted:
    """The result of training.

    Args:
        module: the network with averaged weights, in evaluation mode.
        history: its losses.
        stopped: which limit ended the training: "n_steps", "time_budget" or "patience".
        seconds: wall time spent, interruptions left out.
    """

    module: nn.Module
    history: History
    stopped: str
    seconds: float


def fit(
    module: nn.Module,
    loss: Loss,
    train: Rows,
    validation: Rows | None,
    options: Optimisation,
    stream: Stream,
    *,
    checkpoint: Checkpointer | None = None,
    deadline: float | None = None,
    progress: Callable[..., Generator[int]] | None = track,
) -> Fitted:
    """Train `module` in place; continue from the checkpoint if there is one.

    Every random number is keyed by (seed, purpose, step): shuffling, the noise of the loss and dropout. So a resumed
    run on the CPU has the bits of an uninterrupted one, and ranks see the rows and the noise of a single process
    (dropout masks apart: they are drawn per piece of the batch).

    Args:
        module: the network, on the device to train on.
        loss: loss of each row.
        train: rows to learn from: a tensor, or anything with a length that a tensor of row numbers can index.
        validation: rows for the validation loss, always with the same noise; None for none.
        options: how to optimise.
        stream: source of all random numbers.
        checkpoint: where the state is kept.
        deadline: reading of `time.monotonic()` at which to save and stop.
        progress: how to show the loop; None for silence.

    Raises:
        InputError: empty data, a batch smaller than the number of ranks, a checkpoint that does not fit, or ranks
            that were started differently.
        NonFiniteError: a loss, gradient or weight is not finite; the last checkpoint is kept.
        OutOfTime: the deadline has passed or SIGTERM came; the state is saved.
    """
    with time_limit(deadline) as is_over:
        run = _Run(module, loss, train, validation, options, stream, checkpoint)
        show = progress if progress is not None and run.ranks.rank == 0 else _silently
        remaining = range(len(run.history.loss), options.n_steps if not run.stopped else 0)
        steps = show(remaining, "train", done=remaining.start, status=run.status, numbers=run.numbers)
        try:
            with closing(steps):
                for step in steps:
                    run.advance(step, is_over)
                    if run.stopped:
                        break
        finally:
            if checkpoint is not None:
                checkpoint.settle()
    return Fitted(run.average.module, run.history, run.stopped, run.seconds())


def _silently(steps: range, *_: object, **__: object) -> Generator[int]:
    yield from steps


class _Objective(nn.Module):
    """The loss as a module: distributed data parallelism wraps it, and the network keeps its own methods."""

    def __init__(self, module: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.module, self.loss = module, loss

    def forward(self, batch: Tensor, stream: Stream, step: int, first: int) -> Tensor:
        losses = self.loss(self.module, batch, stream, step, first)
        if losses.shape != batch.shape[:1]:
            raise ValueError(f"a loss must return one number per row, {len(batch)}, got shape {tuple(losses.shape)}.")
        return losses.float().sum()


class _Run:
    """All state of a training run, and the moves that change it."""

    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        train: Rows,
        validation: Rows | None,
        options: Optimisation,
        stream: Stream,
        checkpoint: Checkpointer | None,
    ) -> None:
        self.module, self.loss, self.train, self.validation = module.train(), loss, train, validation
        self.options, self.stream, self.checkpoint = options, stream, checkpoint
        self.parameters = list(module.parameters())
        self.device = self.parameters[0].device
        self.ranks = Ranks.here(self.device)
        if len(train) == 0 or options.batch_size < self.ranks.size:
            raise LaunchError(
                f"training needs at least one row of data and one row of the batch per rank, got {len(train)} rows, "
                f"batch_size {options.batch_size} and {self.ranks.size} rank(s). Mend the data set or the batch size."
            )
        self.optimiser = options.build(self.parameters)
        self.average = averaged(module, options.ema_decay)
        self.history, self.stopped, self.before = History(), "", 0.0
        self.identity = {**asdict(options), "n_rows": len(train), **asdict(stream)}
        self.restore()
        self.ranks.agree({**self.identity, "steps done": len(self.history.loss)})
        self.objective = _Objective(module, loss)
        self.parallel = None
        if self.ranks.size > 1:  # gradients lie where they are exchanged: two copies of all weights less a step
            self.parallel = DistributedDataParallel(self.objective, gradient_as_bucket_view=True, **OWN_BUFFERS)
        self.started = self.saved = time.monotonic()

    def advance(self, step: int, is_over: Callable[[], bool]) -> None:
        """One step, and what is due after it: validation, the end of training, a checkpoint, giving up for now."""
        n_done, options = step + 1, self.options
        is_interrupted, is_spent = self.optimise(step, is_over)
        is_last = n_done == options.n_steps
        if is_last or is_spent or n_done % options.validate_every == 0:
            self.validate(n_done)
        self.stopped = "n_steps" if is_last else "time_budget" if is_spent else "patience" if self.is_stale() else ""
        if self.stopped or is_interrupted or time.monotonic() - self.saved >= options.checkpoint_every:
            self.save()
        if is_interrupted and not self.stopped:
            if self.checkpoint is not None:
                self.checkpoint.settle()
            self.ranks.total(0.0)  # a launcher ends the rest soon after the first that goes: all is saved before
            raise OutOfTime(
                f"training stopped after step {n_done} of {options.n_steps} before its time limit; the state is saved. "
                "Run the same command again to continue."
            )

    def optimise(self, step: int, is_over: Callable[[], bool]) -> tuple[bool, bool]:
        """One optimiser step; whether any rank is out of time, and whether any has spent the time budget."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.options.rate(step)
        self.optimiser.zero_grad()
        value = self.backward(step)
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.options.gradient_clip or math.inf))
        is_spent = self.options.time_budget is not None and self.seconds() >= 60 * self.options.time_budget
        value, n_over, n_spent = self.ranks.total(value, is_over(), is_spent)
        if not math.isfinite(value) or not math.isfinite(norm):
            raise NonFiniteError(
                f"training step {step + 1} of {self.options.n_steps}: the loss is {value}, the norm of its gradient "
                f"{norm}. The last good checkpoint is kept; check the data, or lower learning_rate or gradient_clip."
            )
        self.optimiser.step()
        self.average.update_parameters(self.module)
        self.history.loss.append(value)
        return n_over > 0, n_spent > 0

    def backward(self, step: int) -> float:
        """Gradient of the mean loss over the global batch; this rank's part of that mean."""
        n, value = self.options.batch_size, torch.zeros((), device=self.device)
        rows = batch_rows(len(self.train), n, step, self.stream.child("shuffle"))
        pieces = self.ranks.share(n, self.options.accumulate)
        for start, stop in pieces:
            is_last = stop == pieces[-1][1]
            exchange = nullcontext() if is_last or self.parallel is None else self.parallel.no_sync()
            batch = self.train[rows[start:stop]].to(self.device)
            with exchange:
                with self.dropout(step, start), self.autocast():
                    noise = self.stream.child("noise")
                    part = (self.parallel or self.objective)(batch, noise, step, start) / n
                (part * self.ranks.size).backward()  # the ranks' gradients are averaged, this makes it a sum
            value += part.detach()
        return float(value)

    @torch.no_grad()
    def validate(self, n_done: int) -> None:
        """Record the validation loss of the averaged weights."""
        if self.validation is None or len(self.validation) == 0:
            return
        total, n = 0.0, len(self.validation)
        for start, stop in self.ranks.share(n, math.ceil(n / self.ranks.size / self.options.batch_size)):
            batch = self.validation[torch.arange(start, stop)].to(self.device)
            with self.autocast():
                losses = self.loss(self.average.module, batch, self.stream.child("validation"), 0, start)
            total += float(losses.float().sum())
        (total,) = self.ranks.total(total)
        if not math.isfinite(total):
            raise NonFiniteError(
                f"validation after training step {n_done} of {self.options.n_steps}: the loss is {total / n}. "
                "The last good checkpoint is kept; check the data, or lower learning_rate."
            )
        self.history.validation[n_done] = total / n

    def is_stale(self) -> bool:
        """Whether the lowest validation loss is more than `patience` validations old."""
        losses = list(self.history.validation.values())
        patience = self.options.patience
        return patience is not None and len(losses) > patience and min(losses[-patience:]) >= min(losses[:-patience])

    @contextmanager
    def dropout(self, step: int, first: int) -> Iterator[None]:
        """Seed torch's default generator by (step, first row of the piece), and restore it afterwards."""
        is_cuda = self.device.type == "cuda"
        with torch.random.fork_rng([self.device] if is_cuda else []):
            torch.manual_seed(self.stream.child("dropout").key(tile=first, step=step))
            yield

    def autocast(self) -> torch.autocast:
        """Half precision for matrix products, if asked for."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.precision == "bfloat16")

    def seconds(self) -> float:
        """Wall time spent so far, interruptions left out."""
        return self.before + time.monotonic() - self.started

    def numbers(self) -> dict[str, float]:
        """For the journal."""
        recent = self.history.loss[-50:]
        return {"loss": sum(recent) / len(recent)} if recent else {}

    def status(self) -> str:
        """A few words for the progress display."""
        return "".join(f"{name} {value:.4g}" for name, value in self.numbers().items())

    def save(self) -> None:
        """Keep the state, on the first rank."""
        self.saved = time.monotonic()
        if self.checkpoint is None or self.ranks.rank != 0:
            return
        if not math.isfinite(float(nn.utils.get_total_norm(self.parameters))):
            raise NonFiniteError(
                f"training step {len(self.history.loss)} of {self.options.n_steps} left weights whose norm is not "
                "finite. The last good checkpoint is kept; lower learning_rate."
            )
        self.checkpoint.save(
            {
                "identity": self.identity,
                "model": self.module.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "ema": self.average.state_dict(),
                "history": asdict(self.history),
                "stopped": self.stopped,
                "seconds": self.seconds(),
            }
        )

    def restore(self) -> None:
        """Take up the saved state, if there is one."""
        state = None if self.checkpoint is None else self.checkpoint.load()
        if state is None:
            return
        try:
            differing = {key for key, value in self.identity.items() if state["identity"].get(key) != value}
            self.module.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.average.load_state_dict(state["ema"])
            self.history = History(**state["history"])
            self.stopped, self.before = state["stopped"], state["seconds"]
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise InputError(
                f"{self.checkpoint}: belongs to another network ({str(error).partition(chr(10))[0]}). "
                "Delete it to start afresh, or go back to the network it was made with."
            ) from error
        if differing:
            raise InputError(
                f"{self.checkpoint}: was made with a different {', '.join(sorted(differing))}. "
                "Delete it to start afresh, or go back to what it was made with."
            )
