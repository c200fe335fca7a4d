"""sample: what do we sample? Writes samples.nc, in shards that are gathered; what is done is never done again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field

from sciflow.data.arrays import concatenate, evened, from_xarray
from sciflow.data.layouts.simulations import OBSERVED, OBSERVED_CONSTANT, grid_of
from sciflow.data.measured import read_measured
from sciflow.data.schema import SAMPLES, check
from sciflow.data.store import (
    Header,
    checked_sha256,
    open_dataset,
    provenance_path,
    read_provenance,
    write_dataset,
)
from sciflow.diffusion.denoiser import Denoiser, Tiled
from sciflow.diffusion.forecast import Forecasts
from sciflow.diffusion.model import load
from sciflow.diffusion.times import Karras, Times
from sciflow.domains.protocol import question
from sciflow.errors import InputError
from sciflow.inverse.likelihood import GaussianLikelihood, LikelihoodModel
from sciflow.inverse.posterior import Guided, Posterior
from sciflow.particles.ranks import Alone, Group, Ranks
from sciflow.progress import time_limit, track
from sciflow.search.reference import Found, Search
from sciflow.solvers.scheduled import Scheduled
from sciflow.stages.artefact import Job, device
from sciflow.stages.costs import of_ranks
from sciflow.stages.drawing import Task, recall
from sciflow.stages.draws import Draw, assembled
from sciflow.stages.shards import check_each_once, common_header, share, total
from sciflow.stages.shares import held, of_first, rounds
from sciflow.training.checkpoint import load as read_checkpoint
from sciflow.training.launch import ranks

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
        search: a rule that replaces the inner times by better ones for this prior, once, before sampling; some find
            what each step does, too, for the posteriors whose solver is `scheduled`.
        n_samples: draws returned for each observation.
        precision: floating-point type of the state.
        tile: rows of one network call; part of the identity of the random numbers.
    """

    likelihood: LikelihoodModel = GaussianLikelihood
    posteriors: dict[str, Posterior] = field(default_factory=_default_posteriors)
    times: Times = field(default_factory=Karras)
    search: Search | None = None
    n_samples: Annotated[int, Field(gt=0)] = 64
    precision: Literal["float32", "float64"] = "float32"
    tile: Annotated[int, Field(gt=0)] = 64


def run(job: Job, section: SampleSection) -> None:
    """Sample every posterior for the observations of this shard.

    Observation i is sampled alike whichever shard it falls into, and however many ranks share the work.

    Raises:
        InputError: observations that do not fit the assumed operator, or bad files.
        NonFiniteError: a draw is not finite.
        OutOfTime: the deadline is near; finished observations are kept, and the ensemble that was worked on.
    """
    with ranks(job.device):
        _sample(job, section, job.open_data(), _prior(job, section), Group.here())


def apply(job: Job, section: SampleSection, observation: Path) -> None:
    """Sample for measurements of the user's own, in a file; errors as `run`.

    Recorded measurements give the draws of `run`. Nothing is resumed, and no other stage takes the result for its own.
    What the file tells of itself, such as the size of a pixel, becomes attributes of the result.
    """
    data = job.open_data()
    scaling: Literal["full", "stored"] = "stored" if data["data"].attrs.get("scaling") == "stored" else "full"
    prior = _prior(job, section)
    asked = tuple(prior.scale.constants) if isinstance(prior, Forecasts) else ()
    measured = read_measured(observation, tuple(data["data"].shape[1:]), scaling, _given(prior), data, asked)
    job = replace(job, state=None, inputs={**job.inputs, "observation": observation})
    header = replace(job.header(), stage="apply")
    merged = data.drop_dims("observation", errors="ignore").merge(measured)
    _sample(job, section, merged, prior, Alone(), header, measured.attrs)


def _given(prior: Denoiser) -> list[float]:
    """Times of the fields that a forecaster is given, from 0; none for another prior."""
    if not isinstance(prior, Forecasts):
        return []
    return [prior.interval * k for k in range(max(model.n_given for model in prior.models.values()))]


def _sample(
    job: Job, section: SampleSection, data: xr.Dataset, prior: Denoiser, together: Ranks, header: Header | None = None,
    told: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    n_observations = int(data.sizes.get("observation", 0))
    if n_observations == 0:
        raise InputError("data.nc holds no observation to sample for. Give `dataset.observation`.")
    mine = share(n_observations, job.part)
    likelihoods, priors = _likelihoods(job, section, data, prior, mine), _priors(data, prior, mine)
    work = [(name, i) for name in section.posteriors for i in mine]
    dims = _event_dims(data, prior)
    found = _found(job, section, prior)
    section = replace(section, posteriors={n: _with(p, found.solver) for n, p in section.posteriors.items()})
    opened = job.open_state()
    with held(together, opened) as state, job.named():
        if job.put_back(state):
            return
        draws = {item: draw for item in work if (draw := recall(state, *item))}
        with time_limit(job.deadline) as is_over:
            task = Task(job, section, priors, found.times, likelihoods, is_over, together, opened)
            _draw(task, work, draws)
        facts = _cost(section, draws) | of_ranks()
        if together.rank == 0:
            made = assembled(list(section.posteriors), mine, draws, dims, data, _like(section))
            _write(job, section, found, made.assign_attrs(told or {}), header, facts)
        job.finish(state)


def _draw(task: Task, work: Sequence[tuple[str, int]], draws: dict[tuple[str, int], Draw]) -> None:
    """Add what is not among the draws of the first rank to those of all."""
    together = task.ranks
    is_done = of_first(together, [item in draws for item in work])
    left = [item for item, done_before in zip(work, is_done, strict=True) if not done_before]
    pieces = list(rounds(left, task.is_shared, together.size))
    before = len(work) - len(left) if together.size == 1 else 0  # rounds are not counted like draws
    shown = track(pieces, "sample", done=before, numbers=lambda: {"ess": [*draws.values()][-1].ess} if draws else {})
    for piece in shown if together.rank == 0 else pieces:
        draws |= dict(zip(piece, task.draws(piece), strict=True))


def _like(section: SampleSection) -> torch.Tensor:
    """No draw, in the shape and dtype of draws."""
    return torch.empty((0, section.n_samples), dtype=PRECISIONS[section.precision])


def _write(
    job: Job, section: SampleSection, found: Found, arrays: xr.Dataset, header: Header | None, facts: dict[str, Any]
) -> None:
    """Write the arrays of this shard, with what was searched."""
    if job.part != (1, 1):
        arrays = arrays.assign_attrs(shard=f"{job.part[0]}/{job.part[1]}")
    if section.search:
        arrays = arrays.assign_attrs(searched_times=found.times.numpy())
    if found.solver:
        arrays = arrays.assign_attrs(searched_choices=json.dumps([asdict(step) for step in found.solver.choices]))
    write_dataset(job.out, arrays, header or job.header())
    job.sign(**facts)


def _prior(job: Job, section: SampleSection) -> Denoiser:
    """The trained prior, in the precision and on the device of the run.

    Raises:
        InputError: no model, or one that was trained on other data.
    """
    path = job.inputs["model"]
    job.expect("model", Header.of(read_checkpoint(path, "model")["header"], path).inputs)
    return load(path, device(job.device), PRECISIONS[section.precision])


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


def _priors(data: xr.Dataset, prior: Denoiser, mine: Sequence[int]) -> Callable[[int], Denoiser]:
    """Observation → prior: that of the run, told of the parameters and constant fields of this observation.

    Raises:
        InputError: one is missing; names those that are there.
    """
    if not isinstance(prior, Forecasts):
        return lambda i: prior

    def known(prefix: str) -> dict[str, xr.DataArray]:
        return {str(n).removeprefix(prefix): v for n, v in data.data_vars.items() if str(n).startswith(prefix)}

    numbers, maps = known(OBSERVED), known(OBSERVED_CONSTANT)
    order = ("observation", *grid_of(data)) if maps else ()
    fields = {name: from_xarray(values, order) for name, values in maps.items()} if prior.scale.constants else {}
    made = {}
    for i in mine:
        own = {name: values[i] for name, values in fields.items()}
        made[i] = prior.given({name: float(values[i]) for name, values in numbers.items()}, own)
    return made.__getitem__


def _found(job: Job, section: SampleSection, prior: Denoiser) -> Found:
    """The grid of the run, searched on the unguided prior if so wished; the same for every shard and posterior.

    Raises:
        InputError: a grid that cannot be searched.
    """
    times = section.times(prior.schedule)
    if section.search is None:
        return Found(times)
    like = torch.empty(0, dtype=PRECISIONS[section.precision], device=device(job.device))
    stream = replace(job.stream.child("search"), tile=section.tile)
    try:
        with job.ending():
            found = section.search(Tiled(prior, section.tile), times, stream, like)
    except ValueError as error:
        raise InputError(f"sample.search: {error}") from error
    return found if isinstance(found, Found) else Found(found)


def _with(posterior: Posterior, solver: Scheduled | None) -> Posterior:
    """The posterior with the choices that were found, if its solver waits for some."""
    waits = solver is not None and isinstance(getattr(posterior, "solver", None), Scheduled)
    return replace(posterior, solver=solver) if waits else posterior  # type: ignore[type-var]


def _cost(section: SampleSection, draws: Mapping[tuple[str, int], Draw]) -> dict[str, Any]:
    """Seconds, network rows and solves of each posterior."""
    seconds: dict[str, float] = {}
    rows: dict[str, int] = {}
    solves: dict[str, int] = {}
    for (name, _), draw in draws.items():
        seconds[name] = round(seconds.get(name, 0.0) + draw.seconds, 3)
        rows[name] = rows.get(name, 0) + draw.rows
        solves[name] = solves.get(name, 0) + draw.solves
    said = {"posterior_seconds": seconds, "posterior_rows": rows, "n_samples": section.n_samples}
    return said | ({"posterior_solves": solves} if any(solves.values()) else {})


def gather(job: Job, parts: Sequence[Path]) -> None:
    """Join the shards of one run along `observation`.

    Raises:
        InputError: shards of different runs or settings, missing or overlapping observations.
    """
    with job.alone():
        header = common_header(job.run, parts, "sample")
        for path in parts:
            checked_sha256(path)
        opened = [open_dataset(path, stage="sample") for path in parts]
        check_each_once([str(part.attrs.pop("shard", "1/1")) for part in opened])
        joined = concatenate(evened(opened, "smc_step"), "observation")
        check(joined, SAMPLES, str(job.out))
        write_dataset(job.out, joined, header)
        job.sign(**total([read_provenance(path) for path in parts]))
        for path in parts:
            provenance_path(path).unlink(missing_ok=True)  # its facts are in the sum now
