"""The command line: one command per stage, and what helps before and after a run.

Exit status: 0 done · 1 failed · 2 the input is wrong · 75 out of time or SIGTERM: run the same command again ·
130 Ctrl-C · 137 no memory left. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from sciflow.errors import InputError, Terminated, told
from sciflow.progress import terminable
from sciflow.runs import STAGES, read
from sciflow.starting import RESULTS, held, importing, one_after_another, part_of, prepare, record, start_ranks

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Generative physics and inverse problems: dataset → train → sample → evaluate → report.",
)
RunArgument = Annotated[Path, typer.Argument(help="Run file, or the run.yaml of a result.", metavar="RUN.yaml")]
Out = Annotated[Path | None, typer.Option(help="Artefact to write [results/RUN/…].")]
Data = Annotated[Path | None, typer.Option(help="data.nc to read.")]
Model = Annotated[Path | None, typer.Option(help="model.pt to read.")]
Samples = Annotated[Path | None, typer.Option(help="samples.nc to read.")]
Metrics = Annotated[Path | None, typer.Option(help="metrics.csv to read.")]
State = Annotated[Path | None, typer.Option(help="Folder of resumable state [.state beside the artefact].")]
Limit = Annotated[float | None, typer.Option(help="Save and stop with exit status 75 after so many minutes.")]
Source = Annotated[str, typer.Option(help="Digest of the source, if it is already known.", hidden=True)]
Parts = Annotated[list[Path] | None, typer.Argument(help="Shards to join, with --gather.")]
Gather = Annotated[bool, typer.Option("--gather", help="Join shards instead of working.")]
Smoke = Annotated[bool, typer.Option(help="The smoke size of the run file: seconds.")]


def _version(shown: bool) -> None:
    if shown:
        from sciflow import __version__

        typer.echo(f"sciflow {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Options of the command itself."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)


@app.command()
def dataset(run: RunArgument, out: Out = None, state: State = None, time_limit: Limit = None, source: Source = "",
            smoke: Smoke = False) -> None:  # fmt: skip
    """Make the data: data.nc."""
    with importing():
        from sciflow.stages import dataset as stage

    _, parsed, job = prepare(run, "dataset", {}, out, state, time_limit, source, smoke)
    with record(job):
        stage.run(job, parsed.dataset)


@app.command()
def train(run: RunArgument, data: Data = None, out: Out = None, state: State = None, time_limit: Limit = None,
          source: Source = "", smoke: Smoke = False) -> None:  # fmt: skip
    """Train the prior: model.pt."""
    from sciflow.data import scratch

    with importing():
        from sciflow.stages import train as stage

    described, parsed, job = prepare(run, "train", {"data": data}, out, state, time_limit, source, smoke)
    job = replace(job, scratch=scratch.folder(os.environ))
    start_ranks(described, "train")
    with record(job):
        stage.run(job, parsed.train)


@app.command()
def sample(
    run: RunArgument,
    parts: Parts = None, data: Data = None, model: Model = None, out: Out = None, state: State = None,
    time_limit: Limit = None, source: Source = "", smoke: Smoke = False,
    shard: Annotated[str, typer.Option(help="Which part of the observations: 1/4 is the first of four.")] = "1/1",
    gather: Gather = False,
) -> None:  # fmt: skip
    """Sample the posteriors: samples.nc."""
    with importing():
        from sciflow.stages import sample as stage

    part = part_of("sample", shard, gather, parts)
    inputs = {} if gather else {"data": data, "model": model}
    described, parsed, job = prepare(run, "sample", inputs, out, state, time_limit, source, smoke, is_light=gather)
    job = replace(job, part=part)
    if not gather:
        start_ranks(described, "sample")
    with record(job):
        if gather and parts:
            stage.gather(job, parts)
        else:
            stage.run(job, parsed.sample)


@app.command()
def evaluate(
    run: RunArgument, parts: Parts = None, data: Data = None, samples: Samples = None, out: Out = None,
    state: State = None, time_limit: Limit = None, source: Source = "", smoke: Smoke = False,
    shard: Annotated[str, typer.Option(help="Which part of the metrics: 1/4 is the first of four.")] = "1/1",
    gather: Gather = False,
) -> None:  # fmt: skip
    """Score the samples: metrics.csv and metrics.nc."""
    with importing():
        from sciflow.stages import evaluate as stage

    part = part_of("evaluate", shard, gather, parts)
    inputs = {} if gather else {"data": data, "samples": samples}
    _, parsed, job = prepare(run, "evaluate", inputs, out, state, time_limit, source, smoke, is_light=gather)
    job = replace(job, part=part)
    with record(job):
        if gather and parts:
            stage.gather(job, parts)
        else:
            stage.run(job, parsed.evaluate, parsed.sample.likelihood)


@app.command()
def report(run: RunArgument, data: Data = None, model: Model = None, samples: Samples = None, metrics: Metrics = None,
           out: Out = None, source: Source = "", smoke: Smoke = False) -> None:  # fmt: skip
    """Write the page: report.html."""
    with importing():
        from sciflow.stages import report as stage

    inputs = {"data": data, "model": model, "samples": samples, "metrics": metrics}
    described, parsed, job = prepare(run, "report", inputs, out, None, None, source, smoke)
    with record(job):
        stage.run(job, parsed.report, described.values, described.text())


@app.command()
def together(
    stage: Annotated[str, typer.Argument(help="dataset, train, sample, evaluate or report.")],
    runs: Annotated[
        list[Path], typer.Argument(help="run.yaml of each, in its folder of results.", metavar="RUN.yaml…")
    ],
    time_limit: Limit = None, source: Source = "",
) -> None:  # fmt: skip
    """Do a stage of several runs in one process: where a start takes longer than the work."""
    functions: tuple[Callable[..., None], ...] = (dataset, train, sample, evaluate, report)
    commands = dict(zip(STAGES, functions, strict=True))
    if stage not in commands:
        raise InputError(f"the stage must be one of {[*STAGES]}, got {stage!r}.")
    one_after_another(stage, commands[stage], runs, time_limit, source.split())


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of the runs of one sweep.")],
    out: Annotated[Path, typer.Option(help="Page to write.")],
) -> None:
    """Write the comparison page of a sweep."""
    from sciflow.stages.comparison import compare as write

    described = {run.name: read(run / "run.yaml") for run in runs}
    write(runs, out, {name: {s: run.owner(s) for s in ("train", "sample")} for name, run in described.items()})


@app.command()
def index(
    results: Annotated[Path, typer.Argument(help="Folder of results.")] = RESULTS,
    out: Annotated[Path | None, typer.Option(help="Page to write [RESULTS/index.html].")] = None,
) -> None:
    """Write the page that links all reports."""
    from sciflow.stages.report import index as write

    write(results, out or results / "index.html")


@app.command()
def status(
    results: Annotated[Path, typer.Argument(help="Folder of results, or of one run.")] = RESULTS,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every few seconds, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show how far every run is: stages, progress, time left, last warning."""
    from sciflow import status as table

    if not results.is_dir():
        raise InputError(f"{results} is no folder. Give the folder of results, or run something first.")
    if as_json:
        typer.echo(json.dumps([line.facts() for line in table.lines(results)], indent=1, ensure_ascii=False))
    else:
        table.show(results, watch)


@app.command()
def check(
    runs: Annotated[list[Path], typer.Argument(help="Run files.")],
    data: Annotated[bool, typer.Option("--data", help="Also read the data files.")] = False,
    device: Annotated[bool, typer.Option("--device", help="Also look for the devices.")] = False,
) -> None:
    """Say everything that is wrong with run files, before any work."""
    with importing():
        from sciflow import preflight

    problems = [problem for run in runs for problem in preflight.problems(run, data, device)]
    if problems:
        raise InputError("\n".join(problems))
    typer.echo(f"{len(runs)} run file{'s are' if len(runs) > 1 else ' is'} in order.")


@app.command()
def schema(out: Annotated[Path | None, typer.Option(help="File to write [standard output].")] = None) -> None:
    """Print the JSON schema of run files, for editors."""
    from sciflow import config

    text = json.dumps(config.schema(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")


@app.command(name="list")
def list_(
    kind: Annotated[str, typer.Argument(help="solvers, schedules, posteriors, operators, metrics, …")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Print a public table: name, exactness or order, cost, known bias."""
    from sciflow import listing

    if as_json:
        typer.echo(json.dumps(listing.rows(kind), indent=1, ensure_ascii=False))
    else:
        listing.show(kind)


@app.command()
def new(
    run: Annotated[Path, typer.Argument(help="Run file to write, e.g. my-images.yaml.")],
    domain: Annotated[str, typer.Option(help="imaging, molecules or pde.")] = "imaging",
) -> None:
    """Write a commented run file to start from."""
    from importlib.resources import files

    known = {file.name.removesuffix(".yaml"): file for file in (files("sciflow.stages") / "templates/new").iterdir()}
    if domain not in known:
        raise InputError(f"--domain must be one of {sorted(known)}, got {domain!r}.")
    if run.exists():
        raise InputError(f"{run} exists already. Choose another name, or delete it.")
    run.write_text(known[domain].read_text(encoding="utf-8"), encoding="utf-8")
    typer.echo(f"Wrote {run}. Edit it, check it with `sciflow check {run}`, run it with\n"
               f"  snakemake --cores all --config 'runs=[{run}]'")  # fmt: skip


@app.command()
def apply(
    run: RunArgument,
    observation: Annotated[Path, typer.Argument(help="netCDF or NPZ file with `measured` (and `operator_…`), or "
                                                     "`image` with NaN where nothing was measured; a PNG, "
                                                     "TIFF, DICOM or OME-Zarr; HDF5 as fastMRI (`kspace`) and "
                                                     "LoDoPaB-CT (`data`) have it; or, for a forecaster, "
                                                     "simulations in a known layout.")],
    out: Out = None, data: Data = None, model: Model = None, source: Source = "",
) -> None:  # fmt: skip
    """Use a trained prior on a measurement of your own; no ground truth is needed."""
    with importing():
        from sciflow.stages import sample as stage

    inputs = {"data": data, "model": model}
    _, parsed, job = prepare(run, "sample", inputs, out or Path(f"{observation.stem}-samples.nc"), None, None, source)
    stage.apply(job, parsed.sample, observation)
    typer.echo(f"Wrote {job.out}")


@app.command()
def export(
    results: Annotated[Path, typer.Argument(help="Folder of a finished run of molecules.", metavar="results/RUN")],
    to: Annotated[Path, typer.Option(help="Folder to write.")],
    suffix: Annotated[str, typer.Option("--format", help="xtc, dcd, trr, nc, pdb or h5.")] = "xtc",
    posterior: Annotated[list[str] | None, typer.Option(help="Sampler to write, more than once for several "
                                                             "[all].")] = None,
    frames: Annotated[bool, typer.Option("--frames", help="Write the frames of data.nc in place of draws, a file for "
                                         "each chain.")] = False,
) -> None:  # fmt: skip
    """Write draws of a run of molecules, or frames of its data, as trajectories, with the topology as PDB."""
    from sciflow.domains.molecules import export as written
    from sciflow.tree import finished

    if frames and posterior:
        raise InputError("--frames writes no draws, and --posterior chooses among draws. Leave one of them out.")
    data, *rest = finished(results, "molecules", ("data",) if frames else ("data", "samples"))
    end = f".{suffix.lstrip('.')}"
    files = written.export_frames(data, to, end) if frames else written.export(data, rest[0], to, end, posterior or ())
    for file in files:
        typer.echo(f"Wrote {file.path}: {file.n_frames} {file.what}")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with the status that says what happened."""
    status, message = _run(arguments)
    if message:
        print(message, file=sys.stderr)
    sys.exit(status)


def _run(arguments: list[str] | None) -> tuple[int, str]:
    try:
        with terminable(), held:
            app(arguments)
        return 0, ""
    except Terminated as stop:
        return 75, f"stopped: {stop}"
    except SystemExit as stop:  # the command line itself: help, a wrong option, a command that has said it all
        return (stop.code if isinstance(stop.code, int) else 1 if stop.code else 0), ""
    except KeyboardInterrupt:
        return 130, "stopped"
    except Exception as error:
        return told(error)


if __name__ == "__main__":
    main()

__all__ = ["STAGES", "app", "main"]
