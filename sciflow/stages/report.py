"""report: what do we show? One self-contained HTML page; also the comparison of a sweep, and the index of all runs."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from sciflow.data.store import Header, atomic_path, open_dataset, provenance_path, read_header, read_provenance
from sciflow.diffusion.model import unpack
from sciflow.domains.protocol import Evidence, question
from sciflow.errors import InputError
from sciflow.figures.comparison import sampler_comparison
from sciflow.stages.artefact import Job
from sciflow.training.checkpoint import load as read_checkpoint

MOST_COLUMNS = 7
ARTEFACTS = ("data", "model", "samples", "metrics")


@dataclass(frozen=True)
class ReportSection:
    """What is shown.

    Args:
        figures: names of the domain's FIGURES; empty takes all.
    """

    figures: tuple[str, ...] = ()


def templates() -> jinja2.Environment:
    """The page templates; every value is escaped."""
    loader = jinja2.PackageLoader("sciflow.stages", "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["number"] = number
    environment.filters["score"] = score
    return environment


def number(value: Any) -> str:
    """A number to four digits; anything else as text."""
    try:
        return f"{float(value):.4g}"
    except (TypeError, ValueError):
        return str(value)


def score(row: Mapping[str, Any]) -> str:
    """value ± standard error, both to the digit that the error leaves standing."""
    value, stderr = float(row["value"]), float(row["stderr"])
    if not 0 < stderr < math.inf or not math.isfinite(value):
        return f"{value:.4g}"
    digits = max(0, 1 - int(f"{stderr:e}".partition("e")[2]))
    return f"{value:.{digits}f} ± {stderr:.{digits}f}"


def embedded(figure: Figure) -> str:
    """A figure as text that a page can hold."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def read_rows(table: Path) -> list[dict[str, Any]]:
    """metrics.csv with numbers as numbers.

    Raises:
        InputError: the table is missing or not one of ours.
    """
    try:
        with table.open(newline="", encoding="utf-8") as file:
            return [
                {**row, "value": float(row["value"]), "stderr": float(row["stderr"]), "n": int(row["n"])}
                for row in csv.DictReader(file)
            ]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{table} is no metrics table ({error}). Run `sciflow evaluate` again.") from error


def run(job: Job, section: ReportSection, values: Mapping[str, Any], text: str) -> None:
    """Draw the figures of a run and write its page.

    Args:
        job: what to read and write.
        section: what to show.
        values: the resolved run, for title and question.
        text: the resolved run as YAML.
    """
    model = read_checkpoint(job.inputs["model"], "model")
    check_lineage(job, model)
    evidence = Evidence(
        data=job.open_data(),
        samples=open_dataset(job.inputs["samples"], stage="sample"),
        arrays=open_dataset(job.inputs["metrics"].with_suffix(".nc"), stage="evaluate"),
        rows=read_rows(job.inputs["metrics"]),
        history=model.get("history", {}),
        prior=unpack(model),
    )
    domain = question(job.domain, "report")
    drawn = [domain.FIGURES[name](evidence) for name in section.figures or domain.FIGURES]
    drawings = [drawing for drawing in drawn if drawing is not None]
    page = (
        templates()
        .get_template("report.html")
        .render(
            title=values.get("title") or job.run,
            run=job.run,
            domain=job.domain,
            question=values.get("question", ""),
            verdicts=domain.verdicts(evidence),
            figures=[(embedded(drawing.figure), drawing.caption) for drawing in drawings],
            metrics=tables(evidence.rows),
            costs=costs(job, evidence),
            stages=provenance(job),
            provenance={**job.header().versions, "seed": job.seed},
            text=text,
        )
    )
    _write(job.out, page)
    job.sign(figures=len(drawings))


def check_lineage(job: Job, model: Mapping[str, Any]) -> None:
    """Refuse artefacts of different runs, and tables that are older than what they describe."""
    job.expect("model", Header.of(model["header"], job.inputs["model"]).inputs)
    job.expect("samples", read_header(job.inputs["samples"]).inputs)
    job.expect("metrics", read_header(job.inputs["metrics"].with_suffix(".nc")).inputs)


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


def costs(job: Job, evidence: Evidence) -> list[tuple[str, float, float]]:
    """(sampler, network calls per draw, seconds per observation)."""
    facts = _facts(job.inputs["samples"])
    seconds = facts.get("posterior_seconds", {})
    nfe = evidence.samples["nfe"].mean("observation")
    count = int(evidence.samples.sizes["observation"])
    names = [str(name) for name in evidence.samples["posterior"].to_numpy()]
    return [(name, float(nfe.sel(posterior=name)), float(seconds.get(name, float("nan"))) / count) for name in names]


def _facts(artefact: Path) -> Mapping[str, Any]:
    return read_provenance(artefact) if provenance_path(artefact).is_file() else {}


def provenance(job: Job) -> list[dict[str, Any]]:
    """One line for each stage: what it took, and the fingerprints that it can be checked by."""
    lines = []
    for name in ARTEFACTS:
        path = job.inputs[name]
        facts = _facts(path)
        header = read_header(path).attributes() if path.suffix == ".nc" else {}
        lines.append(
            {
                "artefact": path.name,
                "seconds": facts.get("seconds", ""),
                "cpu_seconds": facts.get("cpu_seconds", ""),
                "memory": facts.get("peak_memory_mb", ""),
                "time": facts.get("time", ""),
                "source": header.get("source_digest", ""),
                "sha256": job.hashes[name][:16],
            }
        )
    return lines


def _write(path: Path, page: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def compare(runs: Sequence[Path], out: Path) -> None:
    """The comparison page of a sweep: every metric against the swept values.

    Args:
        runs: folders of the children, each with run.yaml and metrics.csv.
        out: the page to write.
    """
    from sciflow.yamlfile import load

    children = []
    for folder in runs:
        swept = load(folder / "run.yaml").get("swept", {})
        children.append((folder.name, swept, read_rows(folder / "metrics.csv")))
    keys = list(dict.fromkeys(key for _, swept, _ in children for key in swept))
    lines = [
        ([_brief(swept.get(key, "")) for key in keys], name, row["posterior"], row)
        for name, swept, rows in children
        for row in rows
    ]
    metrics = list(dict.fromkeys(row["metric"] for *_, row in lines))
    grouped = [(metric, [line for line in lines if line[3]["metric"] == metric]) for metric in metrics]
    figures = [(embedded(figure), caption) for figure, caption in _swept_figures(children, keys, metrics)]
    page = (
        templates()
        .get_template("comparison.html")
        .render(
            title=f"Sweep of {out.parent.name}",
            keys=keys,
            grouped=grouped,
            figures=figures,
            children=[c[0] for c in children],
        )
    )
    _write(out, page)


def _brief(value: Any) -> str:
    return str(value.get("kind", json.dumps(value))) if isinstance(value, Mapping) else str(value)


def _swept_figures(children: Sequence[tuple], keys: Sequence[str], metrics: Sequence[str]) -> Iterable[tuple]:
    """One figure for each metric against the swept key, if there is one key and it is a number."""
    if len(keys) != 1 or not all(isinstance(swept[keys[0]], int | float) for _, swept, _ in children):
        return
    for metric in metrics:
        curves: dict[str, list[tuple[float, float, float]]] = {}
        for _, swept, rows in children:
            for row in rows:
                if row["metric"] == metric:
                    curves.setdefault(row["posterior"], []).append((swept[keys[0]], row["value"], row["stderr"]))
        columns: dict[str, Any] = {name: tuple(zip(*sorted(points), strict=True)) for name, points in curves.items()}
        positive = all(value > 0 for points in curves.values() for _, value, _ in points)
        name = metric.replace("_", " ")
        ax = sampler_comparison(
            columns, quantity=name, cost=keys[0], is_log=positive, title=f"{name} against {keys[0]}"
        )
        yield ax.figure, f"{name} for each value of {keys[0]}."


def index(results: Path, out: Path) -> None:
    """The page that links every report and comparison below a results folder."""
    entries = []
    for page in sorted(results.glob("*/report.html")) + sorted(results.glob("*/comparison.html")):
        table = page.parent / "metrics.csv"
        rows = read_rows(table) if table.is_file() and page.name == "report.html" else []
        headline = [row for row in rows if row["metric"] in ("coverage_90", "crps", "sliced_w2")]
        entries.append({"href": f"{page.parent.name}/{page.name}", "name": page.parent.name, "kind": page.stem,
                        "title": _title(page), "rows": headline})  # fmt: skip
    _write(out, templates().get_template("index.html").render(entries=entries))


def _title(page: Path) -> str:
    """The title that a page of ours begins with."""
    head = page.read_text(encoding="utf-8")[:2000]
    return jinja2.filters.do_striptags(head.partition("<title>")[2].partition("</title>")[0])
