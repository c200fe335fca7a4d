"""evaluate: what is good? Writes metrics.csv, and metrics.nc with the arrays behind the figures."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from sciflow.data.schema import SAMPLES, check
from sciflow.data.store import atomic_path, open_dataset, read_header, sha256, write_dataset
from sciflow.domains.protocol import Row, question
from sciflow.errors import InputError
from sciflow.inverse.likelihood import LikelihoodModel
from sciflow.stages.artefact import Job

COLUMNS = ("run", "posterior", "metric", "value", "stderr", "n", "unit", "note")


@dataclass(frozen=True)
class EvaluateSection:
    """What is measured.

    Args:
        metrics: names of the domain's METRICS; empty takes all.
    """

    metrics: tuple[str, ...] = ()


def run(job: Job, section: EvaluateSection, likelihood: LikelihoodModel) -> None:
    """Score the samples of a run.

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
    domain = question(job.domain, "evaluate")
    names = section.metrics or tuple(domain.METRICS)
    with job.remembered():
        findings = domain.evaluate(names, data, samples, likelihood, job.stream)
        write_dataset(arrays_path(job.out), findings.arrays, job.header())
        with atomic_path(job.out) as path, path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(_line(job.run, row) for row in findings.rows)
        job.sign(rows=len(findings.rows), arrays_sha256=sha256(arrays_path(job.out)))


def _line(run: str, row: Row) -> tuple:
    score = row.score
    return run, row.posterior, row.metric, repr(score.value), repr(score.stderr), score.n, score.unit, score.note


def arrays_path(table: Path) -> Path:
    """metrics.nc beside metrics.csv."""
    return table.with_suffix(".nc")
