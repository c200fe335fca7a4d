"""evaluate: what is good? Writes metrics.csv, and metrics.nc, the arrays behind the figures; at once or in shards."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.data.schema import SAMPLES, check
from sciflow.data.store import (
    Header,
    atomic_path,
    checked_sha256,
    open_dataset,
    provenance_path,
    read_header,
    read_provenance,
    sha256,
    write_dataset,
)
from sciflow.domains.protocol import Row, better, question
from sciflow.errors import InputError
from sciflow.inverse.likelihood import LikelihoodModel
from sciflow.stages.artefact import Job
from sciflow.stages.shards import check_each_once, common_header, share, total

if TYPE_CHECKING:
    import xarray as xr

COLUMNS = ("run", "posterior", "metric", "value", "stderr", "n", "unit", "note", "better")


@dataclass(frozen=True)
class EvaluateSection:
    """What is measured.

    Args:
        metrics: names of the domain's METRICS; empty takes all.
    """

    metrics: tuple[str, ...] = ()

    def names(self, domain: str) -> tuple[str, ...]:
        """The metrics that are asked for."""
        return self.metrics or tuple(question(domain, "evaluate").METRICS)


def run(job: Job, section: EvaluateSection, likelihood: LikelihoodModel) -> None:
    """Score the samples of a run by the metrics of this shard; the last shard makes the arrays, too.

    Args:
        job: what to read and write.
        section: what to measure.
        likelihood: what the samples assumed, still without observation.

    Raises:
        InputError: samples of another data set, or that break the schema.
    """
    data = job.open_data()
    samples = open_dataset(job.inputs["samples"], stage="sample")
    check(samples, SAMPLES, str(job.inputs["samples"]))
    if "shard" in samples.attrs:
        raise InputError(
            f"{job.inputs['samples']} is shard {samples.attrs['shard']} of the samples. Join all shards first: "
            "sciflow sample RUN.yaml --gather …"
        )
    job.expect("samples", read_header(job.inputs["samples"]).inputs)
    names = section.names(job.domain)
    mine = share(len(names) + 1, job.part)  # the piece after the last metric is all that belongs to none
    own, shown = [names[k] for k in mine if k < len(names)], names if len(names) in mine else ()
    with job.remembered():
        found = question(job.domain, "evaluate").evaluate(own, data, samples, likelihood, job.stream, shown)
        index, count = job.part
        arrays = found.arrays if count == 1 else found.arrays.assign_attrs(shard=f"{index}/{count}")
        ranked = better(job.domain)
        _write(job, job.header(), [_line(job.run, row, ranked.get(row.metric, "")) for row in found.rows], arrays)


def gather(job: Job, parts: Sequence[Path]) -> None:
    """Join the tables of the shards of one run, and take the arrays from the last.

    Args:
        job: what to write.
        parts: tables, each beside its arrays.

    Raises:
        InputError: shards of different runs or settings, missing, repeated or damaged ones.
    """
    with job.alone():
        header = common_header(job.run, [arrays_path(part) for part in parts], "evaluate")
        for part in parts:
            checked_sha256(part)
            checked_sha256(arrays_path(part), part, "arrays_sha256")
        arrays = [open_dataset(arrays_path(part), stage="evaluate") for part in parts]
        shards = [str(one.attrs.pop("shard", "1/1")) for one in arrays]
        check_each_once(shards)
        order = sorted(range(len(parts)), key=lambda k: int(shards[k].partition("/")[0]))
        facts = total([read_provenance(part) for part in parts])
        _write(job, header, [line for k in order for line in _lines(parts[k])], arrays[order[-1]], **facts)
        for part in parts:
            provenance_path(part).unlink(missing_ok=True)  # its facts are in the sum now


def _write(job: Job, header: Header, lines: Sequence[Iterable[Any]], arrays: xr.Dataset, **facts: Any) -> None:
    """The arrays, then the table, which is signed for both."""
    write_dataset(arrays_path(job.out), arrays, header)
    with atomic_path(job.out) as path, path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *lines])
    job.sign(rows=len(lines), arrays_sha256=sha256(arrays_path(job.out)), **facts)


def _line(run: str, row: Row, direction: str) -> tuple:
    score = row.score
    numbers = repr(score.value), repr(score.stderr), score.n
    return run, row.posterior, row.metric, *numbers, score.unit, score.note, direction


def _lines(table: Path) -> list[list[str]]:
    """The rows of a table as they were written, to the last digit."""
    with table.open(newline="", encoding="utf-8") as file:
        return [*csv.reader(file)][1:]


def arrays_path(table: Path) -> Path:
    """metrics.nc beside metrics.csv."""
    return table.with_suffix(".nc")
