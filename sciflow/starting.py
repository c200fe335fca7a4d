"""How a command starts: its imports, its run, the files and cards that it uses, its part of the work, its ranks."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sciflow.errors import KILLED, InputError, OutOfTime, told
from sciflow.runs import ARTEFACTS, INPUTS, MAKERS, Run, read

if TYPE_CHECKING:
    from sciflow.config import RunFile
    from sciflow.stages.artefact import Job

logger = logging.getLogger(__name__)
RESULTS = Path("results")
MARGIN = 0.05  # share of the time limit that is kept for saving
held = contextlib.ExitStack()
"""What the command holds until it ends: its cards."""
cards: set[int] = set()
"""How many of them, if any."""

AHEAD = 60  # seconds: a job that ends before its inputs began is tried again meanwhile


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Import without the garbage collector, and keep what is there at the end out of its sight.

    It looks at every object of torch, pydantic and the rest again and again, half a second in all, to find that none is
    garbage. Set aside is what the first of these blocks leaves: a later one may find the work of others.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        if not gc.get_freeze_count():
            gc.freeze()
    finally:
        if was_enabled:
            gc.enable()


def check_clock(files: Iterable[Path]) -> None:
    """Refuse what was written in the future, before any work: what is made of it would be older.

    Raises:
        InputError: a file is more than a minute ahead of the clock of this machine.
    """
    now = time.time()
    for path in files:
        ahead = path.stat().st_mtime - now
        if ahead > AHEAD:
            raise InputError(
                f"{path} was changed {ahead / 60:.0f} min ahead of the clock of this machine. What is made of it would "
                f"be older, and Snakemake would delete it. Set the clocks of the machines, then `touch {path}`."
            )


def prepare(file: Path, stage: str, given: dict[str, Path | None], out: Path | None, state: Path | None,
             limit: float | None, source: str, smoke: bool = False, is_light: bool = False,
             ) -> tuple[Run, RunFile, Job]:  # fmt: skip
    """The run, its objects and the job of one stage; everything wrong with them is said here.

    Args:
        file: the run file, or the run.yaml of a result.
        stage: one of the five.
        given: input → its file; null takes the one under `results`, as do `out` and `state`.
        out: the artefact to write.
        state: folder of resumable state.
        limit: minutes.
        source: digest of the source that the stage uses; empty works it out.
        smoke: take the smoke size.
        is_light: the job joins shards, and needs no device.

    Raises:
        InputError: wrong run file, missing input, or no such device.
        OutOfTime: the devices were in use until the deadline.
    """
    import torch

    from sciflow import config
    from sciflow.source import digest, kinds
    from sciflow.stages.artefact import Job, device
    from sciflow.training.launch import rank_environment

    run = read(file, smoke)
    _named(run.name)
    parsed = config.parse(run.content, file)
    inputs = {name: path or _artefact(run, MAKERS[name]) for name, path in given.items()}
    for name, path in inputs.items():
        if not path.is_file():
            raise InputError(f"{path} is not there. Run `sciflow {MAKERS[name]} {file}` first, or pass --{name}.")
    for name in run.files(stage):
        if not Path(name).exists():
            raise InputError(f"{file}: {stage} names the file {name!r}, which is not there. Check the path.")
        inputs[f"file {name}"] = Path(name)
    check_clock(inputs.values())
    out = out or _artefact(run, stage)
    deadline = None if limit is None else time.monotonic() + 60 * limit * (1 - MARGIN)
    n_devices = 0 if is_light else int(run.resource(stage, "gpu"))
    if not rank_environment(os.environ):  # one of several ranks uses what the first process of all has claimed
        _claim(n_devices, deadline)
    kind = "cuda" if n_devices else "cpu"
    device(kind)
    torch.set_num_threads(int(run.resource(stage, "threads", 1) or 1))
    job = Job(
        run=run.owner(stage),
        stage=stage,
        domain=parsed.domain,
        seed=parsed.seed,
        section=run.identity(stage),
        source=source or digest(stage, run.section(stage), kinds(config.schema()), parsed.plugins),
        out=out,
        inputs=inputs,
        state=state or out.parent / ".state",
        deadline=deadline,
        device=kind,
    )
    return run, parsed, job


def _named(name: str) -> None:
    """Say of what the log tells: runs that work side by side share a terminal."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(logging.Formatter(f"{name} · %(message)s"))


def _artefact(run: Run, stage: str, results: Path = RESULTS) -> Path:
    return results / run.owner(stage) / ARTEFACTS[stage]


def _claim(n: int, deadline: float | None) -> None:
    """Hold n devices until the command ends. It holds them already where a run before this one asked for as many."""
    from sciflow.devices import claimed

    if n not in cards:
        held.enter_context(claimed(n, os.environ, deadline))
        cards.add(n)
        held.callback(cards.clear)


@contextlib.contextmanager
def record(job: Job) -> Iterator[None]:
    """Keep a journal of the stage; of several ranks the first does."""
    from sciflow import journal
    from sciflow.training.launch import rank_environment

    if job.state is None or int(rank_environment(os.environ).get("RANK", 0)) > 0:
        yield
        return
    index, count = job.part
    facts = {"run": job.run, "stage": job.stage, "shard": "" if count == 1 else f"{index}/{count}"}
    with journal.recorded(job.folder() / journal.FILE, **facts) as book:
        book.write("work", key=job.key, ranks=int(rank_environment(os.environ).get("WORLD_SIZE", 1)))
        yield


def start_ranks(run: Run, stage: str) -> None:
    """Start the ranks of this node and end with their exit status, unless this process is one of them or all there is.

    Args:
        run: whose.
        stage: which.

    Raises:
        SystemExit: the ranks have done the work.
    """
    from sciflow.training.launch import rank_environment, relaunch

    n_ranks = int(run.resource(stage, "ranks") or run.resource(stage, "gpu"))
    if n_ranks > 1 and not rank_environment(os.environ):
        raise SystemExit(relaunch(n_ranks, ["-m", "sciflow.cli", *sys.argv[1:]]))


def part_of(stage: str, shard: str, gather: bool, parts: list[Path] | None) -> tuple[int, int]:
    """Which of how many shards; the whole, where they are joined.

    Raises:
        InputError: no such shard, shards to join without --gather, or some that were written in the future.
    """
    check_clock(part for part in parts or () if part.is_file())
    if gather != bool(parts):
        raise InputError(f"--gather and the shards to join go together: sciflow {stage} RUN.yaml --gather A B")
    index, _, count = shard.partition("/")
    if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
        raise InputError(f"--shard must be i/n with 1 ≤ i ≤ n, got {shard!r}.")
    return (1, 1) if gather else (int(index), int(count))


def one_after_another(
    stage: str, work: Callable[..., None], runs: Sequence[Path], limit: float | None, sources: Sequence[str] = ()
) -> None:
    """Do a stage of several results in this process: what one of them lacks does not stop the others.

    Args:
        stage: one of the five.
        work: the command of the stage.
        runs: run.yaml of each, in its folder of results.
        limit: minutes for all.
        sources: digest of the source that the stage of each uses; none works them out.

    Raises:
        InputError: another number of digests than of runs.
        SystemExit: some failed, with the exit status of the first.
        OutOfTime: the time is over; what is finished, or saved, is so.
    """
    if sources and len(sources) != len(runs):
        raise InputError(f"{len(runs)} runs and {len(sources)} digests of their source: give one for each, or none.")
    begun, failed = time.monotonic(), {}
    for file, source in zip(runs, sources or [""] * len(runs), strict=True):
        _named(file.parent.name)
        taken = (time.monotonic() - begun) / 60 / (1 - MARGIN)  # so that all have one deadline, and its margin
        left = {} if limit is None or stage == "report" else {"time_limit": limit - taken}
        try:
            run, folder = read(file), file.parent.parent
            inputs = {name: _artefact(run, MAKERS[name], folder) for name in INPUTS[stage]}
            work(file, out=_artefact(run, stage, folder), source=source, **inputs, **left)
        except OutOfTime:
            raise
        except Exception as error:
            status, message = told(error)
            if status == KILLED:  # the next would be refused memory, too
                raise
            failed[file.parent.name] = status
            logger.error("%s", message)
    if failed:
        _named(stage)
        logger.error("%d of %d runs failed: %s", len(failed), len(runs), ", ".join(failed))
        raise SystemExit(next(iter(failed.values())))
