"""What the stages of a run may use: the `resources:` of a run file."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from pydantic import Field


@dataclasses.dataclass(frozen=True)
class Resources:
    """What one stage may use.

    Args:
        threads: CPU threads of the process.
        gpu: devices, on each node.
        mem_mb: memory [MB], on each node.
        runtime: time limit [minutes].
        shards: parts that `sample` (observations) or `evaluate` (metrics) is cut into.
        ranks: processes of `train` or `sample` on each node; 0 takes one for each device, and one where there is none.
        nodes: nodes of a SLURM cluster that `train` or `sample` is spread over.
        together: runs of a sweep of which one process does the stage, one after another, `runtime` minutes for each;
            their `sample` and `evaluate` are not cut into shards.
    """

    threads: Annotated[int, Field(gt=0)] = 1
    gpu: Annotated[int, Field(ge=0)] = 0
    mem_mb: Annotated[int, Field(gt=0)] = 2000
    runtime: Annotated[int, Field(gt=0)] = 60
    shards: Annotated[int, Field(gt=0)] = 1
    ranks: Annotated[int, Field(ge=0)] = 0
    nodes: Annotated[int, Field(gt=0)] = 1
    together: Annotated[int, Field(gt=0)] = 1

    def __post_init__(self) -> None:
        if self.gpu and self.ranks not in (0, self.gpu):
            raise ValueError(
                f"ranks is {self.ranks}, with gpu {self.gpu} it must be 0 or {self.gpu}: a device for each."
            )
        if self.together > 1 and self.n_ranks > 1:
            raise ValueError(
                f"together is {self.together} with {self.n_ranks} ranks: one process does several runs, or several "
                "do one. Leave one of them out."
            )

    @property
    def n_ranks(self) -> int:
        """Processes on all nodes."""
        return (self.ranks or self.gpu or 1) * self.nodes
