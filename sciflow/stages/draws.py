"""The draws of `sample`: the numbers of one posterior for one observation, and the arrays of a shard."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from sciflow.data.arrays import to_xarray
from sciflow.data.ensemble import trace_dims
from sciflow.particles.particles import Particles

if TYPE_CHECKING:
    import xarray as xr

NUMBERS = ("log_evidence", "log_evidence_stderr", "log_evidence_stderr_islands", "ess")
UNITS = {name: "nat" for name in NUMBERS if name != "ess"}


@dataclass(frozen=True)
class Draw:
    """The samples of one posterior for one observation, their numbers, and name → (step, part) of how the run went."""

    samples: torch.Tensor
    log_evidence: float
    log_evidence_stderr: float
    log_evidence_stderr_islands: float
    ess: float
    rows: int
    solves: int
    seconds: float
    traces: dict[str, torch.Tensor]

    @classmethod
    def of(cls, particles: Particles, samples: torch.Tensor, rows: int, solves: int, seconds: float) -> Draw:
        """Of an ensemble and the equal draws that were taken from it."""
        return cls(
            samples.cpu(), float(particles.log_evidence), float(particles.log_evidence_stderr),
            float(particles.log_evidence_stderr_islands), particles.ess(), rows, solves, seconds, _traces(particles),
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


def _traces(particles: Particles) -> dict[str, torch.Tensor]:
    """ESS, distinct parents and evidence after each step, NaN where the sampler does not say; and its diagnostics."""
    weighed = {"ess": particles.ess_trace, "parents": particles.parents_trace, "log_evidence": particles.evidence_trace}
    longest = max(map(len, weighed.values()))
    found = {name: _filled(value[:, None].double(), longest, 1) for name, value in weighed.items() if longest}
    return {**found, **particles.diagnostics}


def _filled(values: torch.Tensor, n_steps: int, n_parts: int) -> torch.Tensor:
    """(step, part) with NaN beyond the end."""
    return torch.nn.functional.pad(values, (0, n_parts - values.shape[1], 0, n_steps - len(values)), value=torch.nan)


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
    traces = _together(draws, names, mine)
    return to_xarray(
        {
            "samples": samples,
            "log_weights": np.zeros(samples.shape[:3]),
            "nfe": table("rows") / like.shape[1],
            "solves": table("solves") / like.shape[1],
            **{name: table(name) for name in NUMBERS},
            **{name: value if value.shape[3] > 1 else value[..., 0] for name, value in traces.items()},
        },
        {
            "samples": ("posterior", "observation", "member", *dims),
            "log_weights": ("posterior", "observation", "member"),
            **{name: ("posterior", "observation") for name in (*NUMBERS, "nfe", "solves")},
            **{name: ("posterior", "observation", *trace_dims(name, v.shape[3])) for name, v in traces.items()},
        },
        {"posterior": np.array(names), "observation": np.array(mine, dtype=np.int64)},
        {"samples": data["data"].attrs.get("units", "1"), **UNITS},
    )


def _together(
    draws: Mapping[tuple[str, int], Draw], names: Sequence[str], mine: Sequence[int]
) -> dict[str, torch.Tensor]:
    """Name of a variable → (posterior, observation, step, part) of all draws, NaN where a sampler does not say it."""
    traces = [trace for draw in draws.values() for trace in draw.traces.items()]
    longest, found = max((len(value) for _, value in traces), default=0), {}
    for said in sorted({said for said, _ in traces}):
        parts = max(value.shape[1] for other, value in traces if other == said)
        nothing = torch.empty(0, 1, dtype=torch.float64)
        rows = [_filled(draws[name, i].traces.get(said, nothing), longest, parts) for name in names for i in mine]
        found[f"{said}_trace"] = torch.stack(rows).reshape(len(names), len(mine), longest, parts)
    return found
