"""report: what do we show? One self-contained HTML page; also the index of all runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from sciflow.data.store import Header, checked_sha256, open_dataset, provenance_path, read_header, read_provenance
from sciflow.data.table import read_rows
from sciflow.diffusion.model import unpack
from sciflow.domains.protocol import Evidence, question
from sciflow.errors import InputError
from sciflow.stages.artefact import Job
from sciflow.stages.notebook import executed
from sciflow.stages.page import embedded, templates, write
from sciflow.training.checkpoint import load as read_checkpoint

MOST_COLUMNS = 7
ARTEFACTS = ("data", "model", "samples", "metrics")
SPENT = ("seconds", "cpu_seconds", "gpu_seconds", "peak_memory_mb", "peak_gpu_memory_mb")


@dataclass(frozen=True)
class ReportSection:
    """What is shown.

    Args:
        figures: names of the domain's FIGURES; empty takes all.
        notebook: a notebook of your own (.py in percent format, or .ipynb), executed with `run`, the folder of the
            results, as its parameter, and shown in the report; needs the extra `notebook`. Empty takes none.
    """

    figures: tuple[str, ...] = ()
    notebook: str = ""


def run(job: Job, section: ReportSection, values: Mapping[str, Any], text: str) -> None:
    """Draw the figures of a run and write its page.

    Args:
        job: what to read and write.
        section: what to show.
        values: the resolved run, for title and question.
        text: the resolved run as YAML.
    """
    found = evidence(job)
    domain = question(job.domain, "report")
    notebook = executed(Path(section.notebook), job.out.parent) if section.notebook else None
    drawn = [domain.FIGURES[name](found) for name in section.figures or domain.FIGURES]
    drawings = [drawing for drawing in drawn if drawing is not None]
    page = (
        templates()
        .get_template("report.html")
        .render(
            title=values.get("title") or job.run,
            run=job.run,
            domain=job.domain,
            question=values.get("question", ""),
            verdicts=domain.verdicts(found),
            figures=[(embedded(drawing.figure), drawing.caption) for drawing in drawings],
            notebook=notebook,
            metrics=tables(found.rows),
            costs=costs(job, found),
            stages=provenance(job),
            spent=spent(job),
            provenance={**job.header().versions, "seed": job.seed},
            text=text,
        )
    )
    with job.alone():
        write(job.out, page)
        job.sign(figures=len(drawings))


def evidence(job: Job) -> Evidence:
    """All that the figures of a run may draw from.

    Args:
        job: `inputs` names data, model, samples and metrics.

    Raises:
        InputError: an artefact cannot be read, or they are not of one run.
    """
    model = read_checkpoint(job.inputs["model"], "model")
    check_lineage(job, model)
    arrays = open_dataset(job.inputs["metrics"].with_suffix(".nc"), stage="evaluate")
    if "shard" in arrays.attrs:
        raise InputError(
            f"{job.inputs['metrics']} is shard {arrays.attrs['shard']} of the metrics. Join all shards first: "
            "sciflow evaluate RUN.yaml --gather …"
        )
    return Evidence(
        data=job.open_data(),
        samples=open_dataset(job.inputs["samples"], stage="sample"),
        arrays=arrays,
        rows=read_rows(job.inputs["metrics"]),
        history=model.get("history", {}),
        prior=unpack(model),
    )


def check_lineage(job: Job, model: Mapping[str, Any]) -> None:
    """Refuse artefacts of different runs, and tables that are older than what they describe."""
    job.expect("model", Header.of(model["header"], job.inputs["model"]).inputs)
    job.expect("samples", read_header(job.inputs["samples"]).inputs)
    arrays = job.inputs["metrics"].with_suffix(".nc")
    job.expect("metrics", read_header(arrays).inputs)
    checked_sha256(arrays, job.inputs["metrics"], "arrays_sha256")


def tables(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows as a table: samplers by metrics, turned where that would be too wide for a page."""
    columns = list(dict.fromkeys(row["metric"] for row in rows))
    names = list(dict.fromkeys(row["posterior"] for row in rows))
    cells = {(row["posterior"], row["metric"]): row for row in rows}
    units = {row["metric"]: "" if row["unit"] == "1" else row["unit"] for row in rows}
    if len(columns) > MOST_COLUMNS and len(names) < len(columns):
        lines = [(_words(m, units[m]), [cells.get((name, m)) for name in names]) for m in columns]
        return {"corner": "metric", "heads": [(name, "") for name in names], "lines": lines}
    heads = [(_words(metric), units[metric]) for metric in columns]
    lines = [(name, [cells.get((name, metric)) for metric in columns]) for name in names]
    return {"corner": "sampler", "heads": heads, "lines": lines}


def _words(metric: str, unit: str = "") -> str:
    return metric.replace("_", " ") + (f" [{unit}]" if unit else "")


def costs(job: Job, evidence: Evidence) -> list[tuple[str, float, float, float]]:
    """(sampler, network calls per draw, equations that its operators solved per draw, seconds per observation)."""
    facts = _facts(job.inputs["samples"])
    seconds = facts.get("posterior_seconds", {})
    nfe, solves = (evidence.samples[name].mean("observation") for name in ("nfe", "solves"))
    count = int(evidence.samples.sizes["observation"])
    names = [str(name) for name in evidence.samples["posterior"].to_numpy()]
    lasted = [float(seconds.get(name, float("nan"))) / count for name in names]
    return [*zip(names, nfe.to_numpy().tolist(), solves.to_numpy().tolist(), lasted, strict=True)]


def _facts(artefact: Path) -> Mapping[str, Any]:
    return read_provenance(artefact) if provenance_path(artefact).is_file() else {}


def provenance(job: Job) -> list[dict[str, Any]]:
    """One line for each artefact: when it was finished, and the fingerprints that it can be checked by."""
    lines = []
    for name in ARTEFACTS:
        path = job.inputs[name]
        facts = _facts(path)
        lines.append(
            {
                "artefact": path.name,
                "time": facts.get("written", ""),
                "source": facts.get("source_digest", ""),
                "sha256": job.hashes[name][:16],
            }
        )
    return lines


def spent(job: Job) -> list[dict[str, Any]]:
    """One line for each stage before this one, and their sum: what it took, blank where it was not measured.

    Seconds are those of all attempts that led to the artefact; CPU and GPU seconds those of all ranks and shards.
    """
    lines: list[dict[str, Any]] = []
    for name, stage in zip(ARTEFACTS, ("dataset", "train", "sample", "evaluate"), strict=True):
        facts = _facts(job.inputs[name])
        rows = sum(facts.get("posterior_rows", {}).values()) or facts.get("network_rows")
        lines.append({"stage": stage, **{key: facts.get(key) for key in SPENT}, "rows": rows})
    whole: dict[str, Any] = {"stage": "together"}
    for key in (*SPENT, "rows"):
        known = [line[key] for line in lines if line[key] is not None]
        whole[key] = (max if "memory" in key else sum)(known) if known else None
    return [*lines, whole]


def index(results: Path, out: Path) -> None:
    """The page that links every report and comparison below a results folder."""
    entries = []
    for page in sorted(results.glob("*/report.html")) + sorted(results.glob("*/comparison.html")):
        table = page.parent / "metrics.csv"
        rows = read_rows(table) if table.is_file() and page.name == "report.html" else []
        headline = [row for row in rows if row["metric"] in ("coverage_90", "crps", "sliced_w2")]
        entries.append({"href": f"{page.parent.name}/{page.name}", "name": page.parent.name, "kind": page.stem,
                        "title": _title(page), "rows": headline})  # fmt: skip
    write(out, templates().get_template("index.html").render(entries=entries))


def _title(page: Path) -> str:
    """The title that a page of ours begins with."""
    head = page.read_text(encoding="utf-8")[:2000]
    return jinja2.filters.do_striptags(head.partition("<title>")[2].partition("</title>")[0])
