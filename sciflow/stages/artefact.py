"""What every stage is given: which run, which files, how long; and how it signs what it writes."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import logging
import os
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sciflow import journal
from sciflow.data.state import State, alone, state_key
from sciflow.data.store import (
    Header,
    atomic_path,
    checked_sha256,
    open_dataset,
    provenance_path,
    remove_temporaries,
    sha256,
    write_provenance,
)
from sciflow.errors import InputError, NonFiniteError, OutOfTime
from sciflow.progress import ending
from sciflow.random import Stream
from sciflow.stages.costs import of_attempts
from sciflow.training.launch import rank_environment

if TYPE_CHECKING:
    import xarray as xr

logger = logging.getLogger(__name__)
PACKAGES = ("sciflow", "torch", "numpy", "xarray")


@dataclass(frozen=True)
class Job:
    """One stage of one run.

    Args:
        run: name of the run.
        stage: one of the five.
        domain: which plug-in answers the stage's question.
        seed: seed of the run.
        section: what the stage depends on in the run file, as text.
        source: digest of the source that the stage uses.
        out: the artefact to write.
        inputs: input artefact → file.
        state: directory of undeclared, resumable state; None keeps none.
        deadline: reading of `time.monotonic()` at which to save and stop; None for no limit.
        device: "cpu" or "cuda".
        part: this shard and the number of shards.
        scratch: folder of this node for checkpoints on their way to `state`; None for none.
    """

    run: str
    stage: str
    domain: str
    seed: int
    section: str
    source: str
    out: Path
    inputs: Mapping[str, Path] = field(default_factory=dict)
    state: Path | None = None
    deadline: float | None = None
    device: str = "cpu"
    part: tuple[int, int] = (1, 1)
    scratch: Path | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def stream(self) -> Stream:
        """The random numbers of this stage."""
        return Stream(self.seed).child(self.stage)

    @functools.cached_property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of each input.

        Raises:
            InputError: an input is not what its stage wrote.
        """
        return {name: checked_sha256(path) for name, path in self.inputs.items()}

    def header(self) -> Header:
        """What the artefact says about its making; nothing in it changes from one execution to the next."""
        return Header(
            run=self.run,
            stage=self.stage,
            section=self.section,
            source_digest=self.source,
            seed=self.seed,
            versions={name: version(name) for name in PACKAGES},
            inputs=self.hashes,
        )

    def folder(self) -> Path:
        """Where the state and the journal of this stage (and shard) lie."""
        if self.state is None:
            raise ValueError(f"run {self.run}, {self.stage}: this job keeps no state.")
        index, count = self.part
        return self.state / (self.stage if count == 1 else f"{self.stage}.part{index}of{count}")

    @property
    def key(self) -> str:
        """Another one for any change of what the result depends on; raises as `hashes`."""
        return state_key(self.section, self.source, self.hashes)

    def open_state(self) -> State | None:
        """The state of this stage (and shard), keyed by everything that its result depends on."""
        return None if self.state is None else State(self.folder(), self.key)

    @contextlib.contextmanager
    def remembered(self) -> Iterator[None]:
        """For a stage without checkpoints that may be long: what fails for good says so at once when tried again.

        Raises:
            InputError: another process works at this stage of this run, or it has failed for good before.
            Terminated: SIGTERM came, or the time is over.
        """
        state = self.open_state()
        with contextlib.nullcontext() if state is None else state:
            with self.ending():
                yield
            if state is not None:
                state.clear()

    def finish(self, state: State | None) -> None:
        """The artefact is signed: forget what it was made from, and keep a second name of it for `put_back`."""
        if state is not None:
            state.clear()
            for file in (provenance_path(self.out), self.out):
                state.keep(file)

    def put_back(self, state: State | None) -> bool:
        """Whether the artefact was finished before and is there again.

        A job that its scheduler cancels between the last line of a stage and its own end counts as failed, and so does
        a duplicate that was refused while an orphan finished the work: Snakemake then deletes what is whole. One of
        several ranks cannot end alone, and works.
        """
        if state is None or self.out.exists() or rank_environment(os.environ):
            return False
        kept = state.path(self.out.name)
        if kept is None or not provenance_path(kept).is_file():
            return False
        try:
            checked_sha256(kept)
        except InputError as error:  # damaged under both names
            logger.warning("%s is made again: %s", self.out, error)
            return False
        for source, file in ((provenance_path(kept), provenance_path(self.out)), (kept, self.out)):
            with atomic_path(file) as temporary:
                os.link(source, temporary)
                os.utime(temporary)  # newer than the inputs, also where they were touched
        logger.info("%s is put back: it was finished, and nothing that it depends on has changed", self.out)
        return True

    def ending(self) -> contextlib.AbstractContextManager[None]:
        """For work that keeps nothing: it ends when the time is over.

        Raises:
            Terminated: it is; says what to do.
        """
        return ending(
            self.deadline,
            f"run {self.run}, {self.stage}: the time limit is near, and nothing is kept of what was not finished. The "
            f"same command begins anew; if that cannot end in time, raise resources.{self.stage}.runtime.",
        )

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """For a stage that is over in seconds: an orphan and its duplicate never both write.

        Raises:
            InputError: another process works at this stage of this run.
        """
        return contextlib.nullcontext() if self.state is None else alone(self.folder())

    def open_data(self) -> xr.Dataset:
        """data.nc.

        Raises:
            InputError: it cannot be read, or belongs to another stage or domain.
        """
        path = self.inputs["data"]
        data = open_dataset(path, stage="dataset")
        domain = json.loads(str(data.attrs["section"]) or "{}").get("domain", self.domain)
        if domain != self.domain:
            raise InputError(f"{path} is of domain {domain!r}, this run of {self.domain!r}. Give the data of this run.")
        return data

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Say in which run and stage a loop stopped."""
        try:
            yield
        except (NonFiniteError, OutOfTime) as error:
            raise type(error)(f"run {self.run}, {self.stage}: {error}") from error

    def expect(self, artefact: str, recorded: Mapping[str, str]) -> None:
        """Compare the inputs that an artefact says it was made from with the ones at hand.

        Args:
            artefact: name of an input of this job.
            recorded: input → SHA-256, from its header.

        Raises:
            InputError: it was made from others, by another run or before they were made anew.
        """
        for name, found in recorded.items():
            if name in self.hashes and self.hashes[name] != found:
                raise InputError(
                    f"{self.inputs[artefact]} was not made from {self.inputs[name]}, but from another {name} file. "
                    "Give the files of one run, or run the stages between them again."
                )

    def sign(self, **facts: object) -> None:
        """Write the volatile facts beside the artefact: cost, seconds, peak memory, device.

        The cost is that of all attempts at this work, as far as the journal tells of those that were cut short.
        """
        spent = journal.spent()
        took = {
            "run": self.run,
            "stage": self.stage,
            "sha256": sha256(self.out),
            "source_digest": self.source,
            "seconds": round(time.monotonic() - self.started, 3),
            "cpu_seconds": spent["cpu_seconds"],
            "peak_memory_mb": spent["memory_mb"],
            "device": torch.cuda.get_device_name() if self.device == "cuda" else platform.processor() or "cpu",
            "threads": torch.get_num_threads(),
            **self._device_facts(int(str(facts.get("ranks", 1)))),
            **facts,
        }
        if self.state is None:
            return write_provenance(self.out, took)
        remove_temporaries(self.out)
        write_provenance(self.out, {**took, **of_attempts(took, self.folder() / journal.FILE)})

    def _device_facts(self, n: int) -> dict[str, float]:
        """Seconds for which n devices were held, and the peak memory [MB] of this one; nothing without a device."""
        if self.device != "cuda":
            return {}
        peak = torch.cuda.max_memory_allocated() / 2**20
        return {
            "gpu_seconds": round(n * (time.monotonic() - self.started), 3),
            "peak_gpu_memory_mb": round(peak, 1),
        }


def version(package: str) -> str:
    """The installed version of a package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def device(name: str) -> torch.device:
    """The device that a run asks for, told to give the same bits every time and float32 where float32 is asked for.

    CUDA libraries choose among algorithms whose sums depend on which thread comes first, and round the factors of
    convolutions to 10 bits (TF32), unless they are told not to.

    Raises:
        InputError: CUDA is asked for and not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "device is 'cuda', but torch sees no CUDA device here. Set `resources.<stage>.gpu: 0`, run on a machine "
            "with a GPU, or install a CUDA build of torch."
        )
    if name == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts
        torch.backends.cudnn.allow_tf32 = False
        torch.use_deterministic_algorithms(True, warn_only=True)  # where there is no other, a warning names it
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return torch.device(name)
