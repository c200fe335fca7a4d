"""sample: what do we sample? Writes samples.nc, in shards that are gathered; what is done is never done again."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field

from sciflow.data.arrays import concatenate, to_xarray
from sciflow.data.measured import read_measured
from sciflow.data.schema import SAMPLES, check
from sciflow.data.state import State
from sciflow.data.store import open_dataset, read_header, read_provenance, write_dataset
from sciflow.diffusion.denoiser import Counted, Denoiser
from sciflow.diffusion.model import load
from sciflow.diffusion.times import Karras, Times
from sciflow.domains.protocol import question
from sciflow.errors import InputError, OutOfTime
from sciflow.inverse.likelihood import GaussianLikelihood, LikelihoodModel
from sciflow.inverse.posterior import Guided, Posterior
from sciflow.progress import time_limit, track
from sciflow.stages.artefact import Job, device

if TYPE_CHECKING:
    import xarray as xr

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


def _default_posteriors() -> dict[str, Posterior]:
    return {"moment matching": Guided()}


@dataclass(frozen=True)
class SampleSection:
    """How posteriors are sampled.

    Args:
        likelihood: what is assumed of the observation; the truth stands in `dataset.observation`.
        posteriors: name → sampler; every one is run on every observation.
        times: grid of noise levels.
        n_samples: draws returned for each observation.
        precision: floating-point type of the state.
        tile: rows of one network call; part of the identity of the random numbers.
    """

    likelihood: LikelihoodModel = GaussianLikelihood
    posteriors: dict[str, Posterior] = field(default_factory=_default_posteriors)
    times: Times = field(default_factory=Karras)
    n_samples: Annotated[int, Field(gt=0)] = 64
    precision: Literal["float32", "float64"] = "float32"
    tile: Annotated[int, Field(gt=0)] = 64


@dataclass(frozen=True)
class _Draw:
    """The samples of one posterior for one observation, and their numbers."""

    samples: torch.Tensor
    log_evidence: float
    log_evidence_stderr: float
    ess: float
    rows: int
    seconds: float

    def pack(self) -> bytes:
        buffer = io.BytesIO()
        torch.save(self.__dict__, buffer)
        return buffer.getvalue()

    @classmethod
    def unpack(cls, content: bytes) -> _Draw:
        return cls(**torch.load(io.BytesIO(content), weights_only=True))


def run(job: Job, section: SampleSection) -> None:
    """Sample every posterior for the observations of this shard.

    Observation i is sampled alike whichever shard it falls into.

    Raises:
        InputError: observations that do not fit the assumed operator, or bad files.
        NonFiniteError: a draw is not finite.
        OutOfTime: the deadline is near; finished observations are kept.
    """
    _sample(job, section, open_dataset(job.inputs["data"], stage="dataset"))


def apply(job: Job, section: SampleSection, observation: Path) -> None:
    """Sample for measurements of the user's own, in a file; errors as `run`."""
    data = open_dataset(job.inputs["data"], stage="dataset")
    shape = tuple(data["data"].shape[1:])
    _sample(job, section, data.drop_dims("observation", errors="ignore").merge(read_measured(observation, shape)))


def _sample(job: Job, section: SampleSection, data: xr.Dataset) -> None:
    prior = load(job.inputs["model"], device(job.device))
    mine = _share(int(data.sizes.get("observation", 0)), job.part)
    likelihoods = _likelihoods(job, section, data, prior, mine)
    work = [(name, i) for name in section.posteriors for i in mine]
    draws: dict[tuple[str, int], _Draw] = {}
    with job.open_state() or contextlib.nullcontext() as state, time_limit(job.deadline) as is_over:
        for number, (name, i) in enumerate(track(work, "sample", status=lambda: "")):
            draws[name, i] = _recall(state, number) or _draw(
                job, section, name, i, prior, likelihoods(i), is_over, state, number
            )
        dims = _event_dims(data, prior)
        write_dataset(job.out, _assemble(section, mine, draws, dims, data), job.header())
        job.sign(**_cost(section, draws))
        if state:
            state.clear()


def _share(n_observations: int, part: tuple[int, int]) -> range:
    """The observations of one shard: contiguous, so that gathering keeps their order."""
    index, count = part
    if n_observations == 0:
        raise InputError("data.nc holds no observation to sample for. Give `dataset.observation`.")
    return range((index - 1) * n_observations // count, index * n_observations // count)


def _event_dims(data: xr.Dataset, prior: Denoiser) -> tuple[str, ...]:
    dims = tuple(str(dim) for dim in (data["data"] if "data" in data.variables else data["truth"]).dims[1:])
    if len(dims) != len(prior.shape):
        raise InputError(f"the model samples events of shape {tuple(prior.shape)}, but data.nc has events {dims}.")
    return dims


def _likelihoods(
    job: Job, section: SampleSection, data: xr.Dataset, prior: Denoiser, mine: Sequence[int]
) -> Callable[[int], Any]:
    """Observation → likelihood; each is made once before any sampling, so that a misfit is known at once."""
    target, dtype = question(job.domain, "sample"), PRECISIONS[section.precision]
    place, shape = device(job.device), tuple(prior.shape)
    made = {i: target.likelihood(section.likelihood, data, i, shape, dtype, place) for i in mine}
    return made.__getitem__


def _recall(state: State | None, number: int) -> _Draw | None:
    content = state.load(f"{number}.pt") if state else None
    return _Draw.unpack(content) if content else None


def _draw(
    job: Job, section: SampleSection, name: str, i: int, prior: Denoiser, likelihood: Any,
    is_over: Callable[[], bool], state: State | None, number: int,
) -> _Draw:  # fmt: skip
    """Sample one posterior for one observation, and keep the result."""

    def stop(*_: object) -> None:
        if is_over():
            raise OutOfTime(
                f"sampling stopped at observation {i} of {name!r} before its time limit; finished ones are saved. "
                "Run the same command again to continue."
            )

    stop()
    counted, start = Counted(prior), time.monotonic()
    stream = job.stream.child(name, i)
    stream = type(stream)(stream.seed, stream.purpose, section.tile)
    particles = section.posteriors[name](
        counted, likelihood, section.times(prior.schedule), section.n_samples, stream, on_step=stop
    )
    drawn = particles.resample(section.n_samples, stream.child("resample")).x
    draw = _Draw(
        drawn.cpu(), float(particles.log_evidence), float(particles.log_evidence_stderr), particles.ess(),
        counted.rows, time.monotonic() - start,
    )  # fmt: skip
    if state:
        state.save(f"{number}.pt", draw.pack())
    return draw


def _assemble(
    section: SampleSection,
    mine: Sequence[int],
    draws: Mapping[tuple[str, int], _Draw],
    dims: tuple[str, ...],
    data: xr.Dataset,
) -> xr.Dataset:
    """Named arrays of one shard."""
    names = list(section.posteriors)

    def table(value: str) -> np.ndarray:
        return np.array([[getattr(draws[name, i], value) for i in mine] for name in names], dtype=float)

    samples = torch.stack([torch.stack([draws[name, i].samples for i in mine]) for name in names])
    numbers = ("log_evidence", "log_evidence_stderr", "ess")
    return to_xarray(
        {
            "samples": samples,
            "log_weights": np.zeros(samples.shape[:3]),
            "nfe": table("rows") / section.n_samples,
            **{name: table(name) for name in numbers},
        },
        {
            "samples": ("posterior", "observation", "member", *dims),
            "log_weights": ("posterior", "observation", "member"),
            **{name: ("posterior", "observation") for name in (*numbers, "nfe")},
        },
        {"posterior": np.array(names), "observation": np.array(mine, dtype=np.int64)},
        {"samples": data["data"].attrs.get("units", "1"), "log_evidence": "nat", "log_evidence_stderr": "nat"},
    )


def _cost(section: SampleSection, draws: Mapping[tuple[str, int], _Draw]) -> dict[str, Any]:
    """Seconds and network rows of each posterior."""
    seconds: dict[str, float] = {}
    rows: dict[str, int] = {}
    for (name, _), draw in draws.items():
        seconds[name] = round(seconds.get(name, 0.0) + draw.seconds, 3)
        rows[name] = rows.get(name, 0) + draw.rows
    return {"posterior_seconds": seconds, "posterior_rows": rows, "n_samples": section.n_samples}


def gather(job: Job, parts: Sequence[Path]) -> None:
    """Join the shards of one run along `observation`.

    Raises:
        InputError: shards of different runs or settings, missing or overlapping observations.
    """
    headers = [read_header(path) for path in parts]
    for header, path in zip(headers, parts, strict=True):
        if header != headers[0] or header.run != job.run:
            raise InputError(
                f"{path} belongs to another run, section or input than {parts[0]}. Delete both and sample again."
            )
    joined = concatenate([open_dataset(path, stage="sample") for path in parts], "observation")
    order = joined["observation"].to_numpy()
    if not np.array_equal(order, np.arange(len(order))):
        raise InputError(f"the shards hold observations {order.tolist()}, not each from 0 on once. Sample them again.")
    check(joined, SAMPLES, str(job.out))
    write_dataset(job.out, joined, headers[0])
    job.sign(**_sum([read_provenance(path) for path in parts]))


def _sum(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Costs of the shards, added up."""

    def total(key: str) -> Iterator[tuple[str, float]]:
        names = [name for fact in facts for name in fact.get(key, {})]
        for name in dict.fromkeys(names):
            yield name, round(sum(fact[key].get(name, 0) for fact in facts), 3)

    keys = ("posterior_seconds", "posterior_rows")
    peak = max(float(fact.get("peak_memory_mb", 0)) for fact in facts)
    seconds = sum(float(fact.get("cpu_seconds", 0)) for fact in facts)
    return {"shards": len(facts), "peak_memory_mb": peak, "cpu_seconds": round(seconds, 3),
            **{key: dict(total(key)) for key in keys}}  # fmt: skip
