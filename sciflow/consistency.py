"""What is wrong with a run although each of its fields is right: names, files, grids and solvers that do not fit."""

from __future__ import annotations

import typing
from collections.abc import Iterator

import torch

from sciflow.diffusion.flow import reverse_sde
from sciflow.diffusion.loss import TargetScore
from sciflow.diffusion.mixture import EmpiricalDenoiser
from sciflow.diffusion.schedule import Schedule
from sciflow.domains.protocol import question
from sciflow.errors import InputError
from sciflow.inverse.assimilation import Following
from sciflow.inverse.shared import Shared, check_ranks
from sciflow.runs import did_you_mean
from sciflow.search.reference import refined
from sciflow.solvers.scheduled import Scheduled
from sciflow.solvers.times import checked
from sciflow.stages import notebook
from sciflow.stages.given import KnownEquation
from sciflow.stages.rows import bounded, check_scored

if typing.TYPE_CHECKING:
    from sciflow.config import RunFile


def inconsistencies(run: RunFile) -> Iterator[str]:
    """What no single field shows, a line each; no file is read."""
    for stage, names, table in (("evaluate", "metrics", "METRICS"), ("report", "figures", "FIGURES")):
        known = getattr(question(run.domain, stage), table)
        for name in getattr(getattr(run, stage), names):
            if name not in known:
                hint = did_you_mean(name, known)
                yield f"{stage}.{names} must be among {sorted(known)} for domain {run.domain!r}, got {name!r}.{hint}"
    for stage in ("dataset", "train"):
        if getattr(getattr(run, stage), "path", None) == "":
            yield f"{stage}.path is empty. Name the file; a relative path starts at the working directory."
    least = question(run.domain, "evaluate").LEAST_MEMBERS
    if run.sample.n_samples < least:
        got = run.sample.n_samples
        yield f"sample.n_samples must be at least {least} for the metrics of domain {run.domain!r}, got {got}."
    if not run.sample.posteriors:
        yield "sample.posteriors is empty. Name at least one sampler; `sciflow list posteriors` prints the kinds."
    law = getattr(run.train, "of", run.train)  # of windows, where the prior is made of them
    if hasattr(law, "schedule"):
        yield from unplannable(run, law.schedule)
    yield from _unscored(run, law)
    yield from _unforecast(run)
    yield from _unfollowed(run)
    yield from _unshared(run)
    if run.report.notebook:
        yield from notebook.problems(run.report.notebook)
    n_steps = run.sample.times.n_steps
    for name, posterior in run.sample.posteriors.items():
        if not name.strip() or not name.isprintable():
            yield f"sample.posteriors: {name!r} is no name. Use printable characters, at least one of them no space."
        solver = getattr(posterior, "solver", None)
        order = getattr(solver, "order", 1)
        if order > n_steps and getattr(solver, "multistep", True):
            yield (
                f"sample.posteriors.{name}.solver.order is {order}, more than the {n_steps} steps of sample.times: "
                "there is no history for it. Lower the order or raise sample.times.n_steps."
            )


def unplannable(run: RunFile, schedule: Schedule) -> Iterator[str]:
    """A time grid, and solvers, that the schedule has no steps for; that of a model in a file is read first."""
    try:
        grid = checked(run.sample.times(schedule))
    except ValueError as error:
        yield f"sample.times: {error}"
        return
    yield from _unsearchable(run, schedule, grid)
    anything = EmpiricalDenoiser(torch.zeros(1, 1), schedule)  # of any data: only its levels are asked
    for name, posterior in run.sample.posteriors.items():
        solver = getattr(posterior, "solver", None)
        try:
            _ = solver is None or solver.plan(reverse_sde(anything, getattr(posterior, "noise_level", 0.0)), grid)
        except ValueError as error:
            yield f"sample.posteriors.{name}.solver: {error}"


def _unscored(run: RunFile, law: object) -> Iterator[str]:
    """Data whose score nobody knows, for a loss that must be told it."""
    losses = {f"train.forecasters.{name}": each for name, each in getattr(run.train, "forecasters", {}).items()}
    for place, user in ({"train": law} | losses).items():
        if not isinstance(getattr(user, "loss", None), TargetScore):
            continue
        if user is not run.train:
            yield f"{place}: target_score learns whole events, no steps or windows of them. Use `denoising`."
            continue
        shape = getattr(getattr(run.dataset, "potential", None), "shape", ())
        has_particles = hasattr(run.dataset, "molecule") or len(shape) == 2
        try:
            check_scored(run.domain, has_particles, getattr(law, "centred", False))
        except InputError as error:
            yield str(error)


def _unforecast(run: RunFile) -> Iterator[str]:
    """Rollouts of forecasters that nobody trains; those of a model in a file are not known here."""
    for name, posterior in run.sample.posteriors.items():
        asked, known = getattr(posterior, "forecaster", None), getattr(run.train, "forecasters", {})
        if not (asked is None or hasattr(run.train, "denoiser") or asked in known or (not asked and len(known) == 1)):
            hint = did_you_mean(asked, known) if known else " Use `train: {kind: forecast}`."
            yield f"sample.posteriors.{name}.forecaster must be one of {sorted(known)}, got {asked!r}.{hint}"


def _unfollowed(run: RunFile) -> Iterator[str]:
    """Equations that the data do not have, and filters that cannot follow them.

    The guided proposal and smoothing need a density, which not every chain has; that of a model in a file is not known.
    """
    filters = {name: one for name, one in run.sample.posteriors.items() if isinstance(one, Following)}
    if not isinstance(run.train, KnownEquation):
        law = getattr(run.train, "of", run.train)
        if filters and (hasattr(law, "schedule") or hasattr(law, "forecasters")):
            yield (
                f"sample.posteriors: {', '.join(map(repr, filters))} follow an equation in time, which only `train: "
                "{kind: dynamics}` gives. Train that, or take posteriors that ask a denoiser, as `guided` does."
            )
        return
    try:
        chain = run.train.chain(run.dataset)
    except InputError as error:
        yield f"train: {error}"
        return
    if chain is None and _is_shipped(run.dataset):
        yield (
            f"train.kind is 'dynamics', but the data set {type(run.dataset).__name__} was made by no equation that a "
            "filter could follow. Use `lorenz63`, `lorenz96` or `kicked`, or another kind of training."
        )
        return
    for name, posterior in run.sample.posteriors.items():
        if name not in filters and _is_shipped(posterior):
            yield (
                f"sample.posteriors.{name} asks a denoiser, and `train: {{kind: dynamics}}` has none. Use "
                "`particle_filter` or `ensemble_kalman`, or train a network or windows."
            )
    if chain is None:  # a data set of a plugin, whose chain is not known before the data are made
        return
    for name, posterior in filters.items():
        try:
            posterior.check_chain(chain)
        except InputError as error:
            yield f"sample.posteriors.{name}: {error}"


def _is_shipped(entry: object) -> bool:
    """Whether an entry is of this package, so that all is known of it that it can do; one of a plugin may do more."""
    return type(entry).__module__.startswith("sciflow.")


def untold(run: RunFile) -> Iterator[str]:
    """What forecasters ask to be told of and the data do not have; the header of a file is read."""
    for kind, what in (("parameters", "parameters"), ("constants", "constant fields")):
        asked, known = getattr(run.train, kind, ()), getattr(run.dataset, f"known_{kind}", None)
        names = known() if asked and known is not None else asked
        for name in asked:
            if name not in names:
                hint = did_you_mean(name, names)
                yield f"train.{kind} asks for {name!r}, but the data have {sorted(names) or f'no {what}'}.{hint}"
    if getattr(run.train, "boundary", False) and (says := getattr(run.dataset, "known_boundary", None)) is not None:
        boundary = says()
        bounded(boundary, [*boundary])


def _unshared(run: RunFile) -> Iterator[str]:
    """Ranks that would have nothing to share."""
    for stage in ("dataset", "evaluate", "report"):
        asked = run.resources.get(stage)
        if asked and (asked.ranks > 1 or asked.nodes > 1):
            yield (
                f"resources.{stage} asks for ranks or nodes, but {stage} runs in one process. Leave them out; `train` "
                "and `sample` share their work."
            )
    for place, taken in run.resources.items():
        if place not in ("sample", "evaluate") and taken.shards > 1:
            yield (
                f"resources.{place} asks for {taken.shards} shards, but only `sample` and `evaluate` are cut into "
                "shards. Leave them out; a sweep, e.g. over `seed`, makes a job of every stage for each child."
            )
    n_rows = getattr(getattr(run.train, "optimisation", None), "batch_size", None)
    if (learns := run.resources.get("train")) and n_rows is not None and n_rows < learns.n_ranks:
        yield (
            f"resources.train asks for {learns.n_ranks} ranks, but train.optimisation.batch_size is {n_rows}: each "
            "needs a row. Take fewer ranks or a larger batch."
        )
    n_metrics = len(run.evaluate.names(run.domain))
    if (wanted := run.resources.get("evaluate")) and wanted.shards > n_metrics + 1:
        yield (
            f"resources.evaluate asks for {wanted.shards} shards of {n_metrics} metrics and the arrays behind the "
            f"figures. Take {n_metrics + 1} at most."
        )
    asked = run.resources.get("sample")
    if asked is None or asked.n_ranks == 1:
        return
    shared = {name: one for name, one in run.sample.posteriors.items() if isinstance(one, Shared) and one.is_shared}
    for name, posterior in shared.items():
        try:
            check_ranks(posterior, run.sample.tile, asked.n_ranks)
        except InputError as error:
            yield f"resources.sample asks for {asked.n_ranks} ranks, but sample.posteriors.{name}: {error}"
    if not shared and asked.shards > 1:
        yield (
            f"resources.sample asks for {asked.n_ranks} ranks in each of {asked.shards} shards, but no posterior has "
            "an ensemble that ranks could hold together, so that both would cut the observations alone. Take "
            f"{asked.shards * asked.n_ranks} shards of one process: they need not wait for one another."
        )


def _unsearchable(run: RunFile, schedule: Schedule, grid: typing.Sequence[float]) -> Iterator[str]:
    """A search that this grid cannot have, or whose findings nobody takes."""
    search = run.sample.search
    if search is None:
        return
    solvers = [getattr(posterior, "solver", None) for posterior in run.sample.posteriors.values()]
    if getattr(search, "finds_choices", False) and not any(isinstance(solver, Scheduled) for solver in solvers):
        yield (
            "sample.search finds what each step of a `scheduled` solver does, and no posterior has that solver. "
            "Give one `solver: {kind: scheduled}`, or search for a grid alone."
        )
    try:
        refined(schedule, grid, 2)
    except ValueError as error:
        yield f"sample.search: {error}"
    candidates = getattr(search, "n_candidates", len(grid))
    if candidates < len(grid) - 1:
        yield (
            f"sample.search.n_candidates is {candidates}, fewer than the {len(grid) - 1} steps of sample.times. "
            "Raise it well above."
        )
