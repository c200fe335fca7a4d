"""The draws of `sample`: the numbers of one posterior for one observation, and the arrays of a shard."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from sciflow.data.arrays import to_xarray
from sciflow.particles.particles import Particles

if TYPE_CHECKING:
    import xarray as xr

TRACES = ("ess_trace", "parents_trace", "log_evidence_trace")
NUMBERS = ("log_evidence", "log_evidence_stderr", "log_evidence_stderr_islands", "ess")
UNITS = {name: "nat" for name in NUMBERS if name != "ess"}


@dataclass(frozen=True)
class Draw:
    """The samples of one posterior for one observation, and their numbers."""

    samples: torch.Tensor
    log_evidence: float
    log_evidence_stderr: float
    log_evidence_stderr_islands: float
    ess: float
    rows: int
    seconds: float
    traces: torch.Tensor

    @classmethod
    def of(cls, particles: Particles, samples: torch.Tensor, rows: int, seconds: float) -> Draw:
        """Of an ensemble and the equal draws that were taken from it."""
        return cls(
            samples.cpu(), float(particles.log_evidence), float(particles.log_evidence_stderr),
            float(particles.log_evidence_stderr_islands), particles.ess(), rows, seconds, _traces(particles),
        )  # fmt: skip

    def pack(self) -> bytes:
        buffer = io.BytesIO()
        torch.save({"sciflow": "draw", **self.__dict__}, buffer)
        return buffer.getvalue()

    @classmethod
    def unpack(cls, content: bytes) -> Draw:
        """What another rank packed."""
        found = torch.load(io.BytesIO(content), weights_only=True)
        return cls(**{name: value for name, value in found.items() if name != "sciflow"})


def _traces(particles: Particles) -> torch.Tensor:
    """ESS, distinct parents and evidence after each step, (3, step): NaN where the sampler does not say."""
    rows = (particles.ess_trace, particles.parents_trace, particles.evidence_trace)
    found = torch.full((len(rows), max(map(len, rows))), torch.nan, dtype=torch.float64)
    for place, row in zip(found, rows, strict=True):
        place[: len(row)] = row
    return found


def assembled(
    names: Sequence[str],
    mine: Sequence[int],
    draws: Mapping[tuple[str, int], Draw],
    dims: tuple[str, ...],
    data: xr.Dataset,
    like: torch.Tensor,
) -> xr.Dataset:
    """Named arrays of the draws of these posteriors for these observations, of which there may be none.

    Args:
        names: of the posteriors.
        mine: the observations.
        draws: (posterior, observation) → draw.
        dims: of an event.
        data: what says how long they are, and their unit.
        like: no draw, in the shape (0, member) and the dtype of draws.
    """

    def table(value: str) -> np.ndarray:
        rows = [[getattr(draws[name, i], value) for i in mine] for name in names]
        return np.array(rows, dtype=float).reshape(len(names), len(mine))

    size = (len(names), len(mine), like.shape[1], *(data.sizes[dim] for dim in dims))
    drawn = [draws[name, i].samples for name in names for i in mine]
    samples = torch.stack(drawn).reshape(size) if drawn else like.new_empty(size)
    longest = max((draw.traces.shape[1] for draw in draws.values()), default=0)
    traces = {} if not longest else dict(zip(TRACES, _padded(draws, names, mine, longest), strict=True))
    return to_xarray(
        {
            "samples": samples,
            "log_weights": np.zeros(samples.shape[:3]),
            "nfe": table("rows") / like.shape[1],
            **{name: table(name) for name in NUMBERS},
            **traces,
        },
        {
            "samples": ("posterior", "observation", "member", *dims),
            "log_weights": ("posterior", "observation", "member"),
            **{name: ("posterior", "observation") for name in (*NUMBERS, "nfe")},
            **{name: ("posterior", "observation", "smc_step") for name in traces},
        },
        {"posterior": np.array(names), "observation": np.array(mine, dtype=np.int64)},
        {"samples": data["data"].attrs.get("units", "1"), **UNITS},
    )


def _padded(draws: Mapping[tuple[str, int], Draw], names: Sequence[str], mine: Sequence[int], n: int) -> torch.Tensor:
    """The traces of all draws, (3, posterior, observation, n), NaN beyond the end of each."""
    found = torch.full((len(TRACES), len(names), len(mine), n), torch.nan, dtype=torch.float64)
    for row, name in enumerate(names):
        for column, i in enumerate(mine):
            traces = draws[name, i].traces
            found[:, row, column, : traces.shape[1]] = traces
    return found
