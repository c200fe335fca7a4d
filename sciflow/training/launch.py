"""From the environment of torchrun or SLURM to a torch.distributed process group."""

from __future__ import annotations

import logging
import os
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist

from sciflow.errors import KILLED

logger = logging.getLogger(__name__)


def rank_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What torchrun says, else what srun says in torchrun's words, else nothing: a single process."""
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return dict(environment)
    # of the job, SLURM_NTASKS is also seen by a shell that `salloc` opens as a step of one task
    n_tasks = environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS", "1")
    if "SLURM_STEP_ID" not in environment or int(n_tasks) < 2:
        return {}  # in an allocation but not under srun: nobody else is there
    port = 10_000 + (31 * int(environment["SLURM_JOB_ID"]) + int(environment["SLURM_STEP_ID"])) % 20_000
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": n_tasks,
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "MASTER_ADDR": environment.get("MASTER_ADDR")
        or first_host(environment.get("SLURM_STEP_NODELIST") or environment["SLURM_JOB_NODELIST"]),
        "MASTER_PORT": str(port),
    }


def first_host(nodes: str) -> str:
    """The first of SLURM's compressed list of hosts: gpu[007-012,20],cpu1 -> gpu007."""
    first = re.sub(r"((?:\[[^]]*]|[^,[])*).*", r"\1", nodes)
    return re.sub(r"\[([^],-]*)[^]]*]", r"\1", first)


@contextmanager
def ranks(kind: str = "cpu") -> Iterator[torch.device]:
    """Join the other ranks, if there are any, and leave them at the end; gives this rank's device of that kind."""
    found = rank_environment(os.environ)
    is_cuda, local = kind == "cuda", int(found.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local % max(torch.cuda.device_count(), 1)) if is_cuda else torch.device(kind)
    if int(found.get("WORLD_SIZE", 1)) < 2:
        yield device
        return
    os.environ.update(found)
    if found["RANK"] == "0":
        logger.info("%s ranks work together", found["WORLD_SIZE"])
    if is_cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if is_cuda else "gloo", device_id=device if is_cuda else None)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def relaunch(n: int, command: Sequence[str]) -> int:
    """Run a script, or `-m module`, with its arguments as n ranks here.

    The exit status is 0, that of a rank that was killed, or that of the first that failed.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        run.main(["--standalone", "--nproc-per-node", str(n), *command])
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        # ranks that fail for the loss of one that was killed may be found first; half a minute later torchrun itself
        # kills those that do not end
        soon = {one.exitcode for one in error.failures.values() if one.timestamp < first.timestamp + 15}
        status = -signal.SIGKILL if {-signal.SIGKILL, KILLED} & soon else first.exitcode
        return status if status >= 0 else 128 - status  # killed by a signal: as a shell says it
    except SignalException as error:  # the ranks got the signal too; on SIGTERM they saved their state and stopped
        return 130 if error.sigval == signal.SIGINT else 75
    return 0
