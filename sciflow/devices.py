"""Cards of this machine: two jobs that nobody else keeps apart never share one.

A scheduler that gives a job its own cards says so in CUDA_VISIBLE_DEVICES. Without one, and for several commands inside
one allocation of several cards, Snakemake counts GPU jobs but lets each see every card; then a command claims as many
as it needs by a lock on each, held until its process ends.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sciflow.errors import InputError, OutOfTime

logger = logging.getLogger(__name__)

LOCKS = Path("/tmp/sciflow-devices")  # one for all users of the machine, whatever TMPDIR says
NODES = Path("/dev")
SCHEDULERS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID", "FLUX_JOB_ID")
VISIBLE = "CUDA_VISIBLE_DEVICES"
EVERY = 1.0  # seconds between two looks at cards that are all in use


def cards(environment: Mapping[str, str], nodes: Path = NODES) -> list[str]:
    """What this process may use, in CUDA's words: what CUDA_VISIBLE_DEVICES says, else every card of the machine."""
    if VISIBLE in environment:
        return [name.strip() for name in environment[VISIBLE].split(",") if name.strip()]
    return [str(k) for k in range(sum(1 for _ in nodes.glob("nvidia[0-9]*")))]


def allocation(environment: Mapping[str, str]) -> str:
    """The job whose cards a scheduler has chosen; empty where none has. A card may have another number in each job."""
    names = [environment[name] for name in SCHEDULERS if name in environment]
    return f"job-{names[0]}-" if VISIBLE in environment and names else ""


@contextmanager
def claimed(
    n: int,
    environment: MutableMapping[str, str],
    deadline: float | None = None,
    locks: Path = LOCKS,
    nodes: Path = NODES,
) -> Iterator[list[str]]:
    """Hold `n` free cards, and show CUDA no others; call it before CUDA starts. Waits for cards that are in use.

    Args:
        n: how many; none are locked where a scheduler has chosen fewer, of which torch will tell, or where the machine
            shows no card at all.
        environment: of the process; CUDA_VISIBLE_DEVICES is set in it, and set back afterwards.
        deadline: reading of `time.monotonic()` at which to give up.
        locks: folder of the lock files, the same for all who share the machine.
        nodes: folder of the devices.

    Raises:
        InputError: fewer cards than asked for.
        OutOfTime: others held them until the deadline.
    """
    mine, job = cards(environment, nodes), allocation(environment)
    if n == 0 or not mine or (job and len(mine) < n):
        yield mine[:n]
        return
    if len(mine) < n:
        raise InputError(
            f"{n} GPUs are asked for, but this process sees {len(mine)}: {', '.join(mine)}. Set "
            f"`resources.<stage>.gpu` to what is there, or change {VISIBLE}."
        )
    before = environment.get(VISIBLE)
    with ExitStack() as held:
        taken = _wait(n, mine, job, held, deadline, locks)
        environment[VISIBLE] = ",".join(taken)
        try:
            yield taken
        finally:
            environment.pop(VISIBLE) if before is None else environment.update({VISIBLE: before})


def _wait(n: int, mine: Sequence[str], job: str, held: ExitStack, deadline: float | None, locks: Path) -> list[str]:
    """All n or none: two jobs that each held a part of what both need would wait for ever."""
    is_said = False
    while True:
        with ExitStack() as tried:
            taken: list[str] = []
            for name in mine:
                if len(taken) < n and _lock(job + name, tried, locks):
                    taken.append(name)
            if len(taken) == n:
                held.enter_context(tried.pop_all())
                return taken
        if deadline is not None and time.monotonic() >= deadline:
            raise OutOfTime(
                f"{n} of the GPUs {', '.join(mine)} did not become free before the time limit. Run the same command "
                "again, or fewer GPU jobs at once (snakemake --resources local_gpu=…)."
            )
        if not is_said:
            logger.info("waiting for %d of the GPUs %s: other sciflow jobs use them", n, ", ".join(mine))
            is_said = True
        time.sleep(EVERY)


def _lock(name: str, held: ExitStack, locks: Path) -> bool:
    """Whether the card was free; then it is locked until `held` closes, or this process ends in whatever way."""
    if not locks.is_dir():
        locks.mkdir(parents=True, exist_ok=True)
        with suppress(PermissionError):  # another user made it just now
            locks.chmod(0o1777)
    path = locks / re.sub(r"[^A-Za-z0-9-]", "_", name)
    if not path.exists():
        with suppress(PermissionError):  # likewise
            path.touch(0o444)
    handle = os.open(path, os.O_RDONLY)  # a lock needs no more, and the file may be another user's
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return False
    held.callback(os.close, handle)
    return True
