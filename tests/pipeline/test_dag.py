"""The job graph: clean, importable, and rerun exactly as far as an edit reaches."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pipeline.conftest import ROOT, TIME_LIMIT, Project, make_project

REPORT = {"report", "index", "all"}
EVALUATE = {"evaluate", *REPORT}
SAMPLE = {"sample_part", "sample", *EVALUATE}
TRAIN = {"train", *SAMPLE}
DATASET = {"dataset", *TRAIN}

RUN = "workflows/runs/toy.yaml"
TERMINATED = """#!{python} -IS
import os, signal, sys, time
def save(*_):
    time.sleep(0.2)  # longer than a `tee` that is ended lives
    os.write(1, b"saved\\n")  # the signal may come while `print` holds the stream
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
os.write(1, b"begun\\n")
time.sleep(60)
"""
EDITS = {
    "nothing": ([], set()),
    "what changes no result": (
        [
            (RUN, "{solver: {kind: heun}, n_samples: 2}", "{n_samples: 2, solver: {kind: heun}}"),
            (RUN, "seed: 0", "seed: 0   # zero"),
            (RUN, "{shards: 2}", "{shards: 3, mem_mb: 9000}, evaluate: {shards: 2}"),
            ("sciflow/solvers/heun.py", '"""Heun."""', '"""Heun, well."""  # yes'),
            ("sciflow/solvers/euler.py", "ORDER = 1", "ORDER = 3"),  # a solver that the run does not use
        ],
        set(),
    ),
    "report": ([(RUN, "report: {figures: []}", "report: {figures: [mean]}")], REPORT),
    "sample": ([(RUN, "n_samples: 2", "n_samples: 3")], SAMPLE),
    "train": ([(RUN, "train: {n_steps: 5}", "train: {n_steps: 6}")], TRAIN),
    "train and report": ([(RUN, "n_steps: 5", "n_steps: 6"), (RUN, "figures: []", "figures: [mean]")], TRAIN),
    "solver in use": ([("sciflow/solvers/heun.py", "ORDER = 2", "ORDER = 3")], SAMPLE),
    "network, imported by the domain": ([("sciflow/networks/mlp.py", "WIDTH = 8", "WIDTH = 9")], TRAIN),
    "stage evaluate": ([("sciflow/stages/evaluate.py", "= 1", "= 2")], EVALUATE),
    "simulation": ([("sciflow/domains/toy/simulate.py", "= 1", "= 2")], DATASET),
}


def test_lint_and_format_are_clean() -> None:
    lint = subprocess.run(
        [sys.executable, "-m", "snakemake", "--lint"], cwd=ROOT, text=True, capture_output=True, timeout=TIME_LIMIT
    )
    assert lint.returncode == 0, lint.stderr
    form = subprocess.run(
        [Path(sys.executable).with_name("snakefmt"), "--check", "Snakefile", "workflows"],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=TIME_LIMIT,
    )
    assert form.returncode == 0, form.stderr


def test_every_shipped_run_has_a_job_graph(tmp_path: Path) -> None:
    """The real runs, checked against the real schema, from another working directory."""
    call = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", tmp_path]
    done = subprocess.run(
        [*call, "--dry-run", "all_runs", "all"], cwd=ROOT, text=True, capture_output=True, timeout=TIME_LIMIT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for file in (ROOT / "workflows" / "runs").glob("*.yaml"):
        assert f"results/{file.stem}" in done.stdout


def test_a_run_is_built_stage_by_stage(finished: Project) -> None:
    results = finished.folder / "results"
    names = {file.name for file in (results / "toy").iterdir()}
    assert names == {"run.yaml", "data.nc", "model.pt", "samples.nc", "metrics.csv", "metrics.nc", "report.html"}
    assert (results / "index.html").is_file()
    assert (results / "toy" / "run.yaml").read_text().startswith("name: toy\n")
    called = [stage for stage, _ in finished.calls()]
    assert called == ["dataset", "train", "sample", "sample", "sample", "evaluate", "report", "index"]
    shards = {
        options["--shard"][0] for stage, options in finished.calls() if stage == "sample" and "--shard" in options
    }
    assert shards == {"1/2", "2/2"}
    for stage, options in finished.calls()[:-1]:
        assert options[""] == ["results/toy/run.yaml"], stage
        assert len(options["--source"][0]) == 16, stage


@pytest.mark.parametrize("what", EDITS)
def test_an_edit_reruns_what_depends_on_it(what: str, changed: Callable[[], Project]) -> None:
    edits, expected = EDITS[what]
    project = changed()
    for edit in edits:
        project.edit(*edit)
    result = project.snakemake("--dry-run")
    assert result.status == 0, result.text
    assert set(result.jobs) == expected, result.text


def test_only_the_report_is_rebuilt_and_the_run_file_renewed(changed: Callable[[], Project]) -> None:
    """Builds what the dry run promised: run.yaml, which every stage reads, changes, and no other stage runs."""
    project = changed()
    before = len(project.calls())
    project.edit(RUN, "report: {figures: []}", "report: {figures: [mean]}")
    project.edit(RUN, "{shards: 2}", "{shards: 2, mem_mb: 9000}")
    result = project.snakemake()
    assert result.status == 0, result.text
    assert [stage for stage, _ in project.calls()[before:]] == ["report", "index"]
    written = (project.folder / "results/toy/run.yaml").read_text()
    assert "figures: [mean]" in written and "mem_mb: 9000" in written
    assert project.snakemake("--dry-run").jobs == {}


LARGE = 2_000_000  # bytes: Snakemake by itself looks at the times of such files alone
CLOCKS = {
    "all an hour ahead": dict.fromkeys(("data.nc", "model.pt", "samples.nc", "metrics.csv", "metrics.nc"), 3600),
    "data ahead": {"data.nc": 3600},
    "what was made of them behind": {"model.pt": -3600, "samples.nc": -3600, "report.html": -3600},
    "tables a year ahead, model a year behind": {"metrics.csv": 3e7, "metrics.nc": 3e7, "model.pt": -3e7},
}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A run whose artefacts are large, built."""
    built = make_project(tmp_path_factory.mktemp("large") / "project")
    built.edit("bin/sciflow", 'file.write(f"{arguments}\\n")', f'file.write(f"{{arguments}}\\n" + "." * {LARGE})')
    result = built.snakemake()
    assert result.status == 0 and (built.folder / "results/toy/data.nc").stat().st_size > LARGE, result.text
    return built


@pytest.mark.parametrize("what", CLOCKS)
def test_clocks_that_differ_rerun_nothing(what: str, large: Project, tmp_path: Path) -> None:
    """Artefacts of other times, with the same content; another content is seen, and named as the reason."""
    project = large.copy(tmp_path / "project")
    for name, seconds in CLOCKS[what].items():
        file = project.folder / "results/toy" / name
        moment = file.stat().st_mtime + seconds
        os.utime(file, (moment, moment))
    assert project.snakemake("--dry-run").jobs == {}
    data = project.folder / "results/toy/data.nc"
    data.write_text("other" + data.read_text())
    if what == "data ahead":
        result = project.snakemake("--dry-run")
        assert set(result.jobs) == TRAIN and "Updated input files: results/toy/data.nc" in result.text, result.text


def test_a_stage_that_fails_after_a_change_is_not_forgotten(changed: Callable[[], Project]) -> None:
    """Snakemake deletes the artefact of a failed job; what was made of it before the change is not up to date."""
    project = changed()
    command = (project.folder / "bin/sciflow").read_text()
    project.edit(RUN, "n_steps: 5", "n_steps: 6")
    project.write("bin/sciflow", "#!/bin/sh\nexit 2\n")
    assert project.snakemake("--retries", "0").status == 1
    assert not (project.folder / "results/toy/model.pt").exists()
    project.write("bin/sciflow", command)
    result = project.snakemake("--dry-run")
    assert set(result.jobs) == TRAIN, result.text


def test_an_edited_plugin_reruns_and_an_edited_input_file_reruns(project: Project) -> None:
    project.write("plugin.py", "A = 1\n")
    project.write("scan.nc", "scan")
    project.edit(RUN, "title:", "plugins: [plugin.py]\ntitle:")
    project.edit(RUN, "{n_samples: 4}", "{kind: file, path: scan.nc}")
    assert project.snakemake().status == 0
    assert project.snakemake("--dry-run").jobs == {}
    project.write("plugin.py", "A = 2\n")
    assert set(project.snakemake("--dry-run").jobs) == DATASET
    project.write("plugin.py", "A = 1  # as before\n")
    project.write("scan.nc", "another scan")
    assert set(project.snakemake("--dry-run").jobs) == DATASET


def test_an_edited_notebook_reruns_the_report_alone(project: Project) -> None:
    project.write("mine.py", "# %%\n1\n")
    project.edit(RUN, "{figures: []}", "{figures: [], notebook: mine.py}")
    assert project.snakemake().status == 0
    assert project.snakemake("--dry-run").jobs == {}
    project.write("mine.py", "# %%\n2\n")
    assert set(project.snakemake("--dry-run").jobs) == REPORT


def test_frozen_runs_trust_what_is_there(changed: Callable[[], Project]) -> None:
    project = changed()
    digest = dict((stage, options) for stage, options in project.calls())["train"]["--source"][0]
    project.write("results/toy/model.pt.provenance.json", f'{{"source_digest": "{digest}"}}')
    project.edit(RUN, "seed: 0", "seed: 0\nfreeze: true")
    project.edit("sciflow/networks/mlp.py", "WIDTH = 8", "WIDTH = 9")
    assert project.snakemake("--dry-run").jobs == {}


def test_a_stage_that_stops_for_time_is_tried_again(project: Project) -> None:
    result = project.snakemake("results/toy/model.pt", FAKE_FAILS_ONCE="train")
    assert result.status == 0, result.text
    assert [stage for stage, _ in project.calls()] == ["dataset", "train", "train"]
    assert result.text.count("mem_mb=4000,") == 2, "memory is not what it lacked"
    (project.folder / "failed-once").unlink()
    for shard in (1, 2):
        project.write(f"results/toy/.state/sample.part{shard}of2/holder", "process 1 on a node that killed it")
    result = project.snakemake("results/toy/samples.nc", FAKE_FAILS_ONCE="sample")
    assert result.status == 0, result.text
    assert result.text.count("mem_mb=8000,") == 1, "one of the two failed, and was found killed"


def test_the_metrics_of_a_run_are_scattered_and_gathered(changed: Callable[[], Project]) -> None:
    """A shard that fails is tried again alone; what is built is built for one job, and nothing is to be done."""
    project = changed()
    project.edit(RUN, "{shards: 2}", "{shards: 2}, evaluate: {shards: 3}")
    project.edit(RUN, "metrics: [score]", "metrics: [score, other]")
    before, called = len(project.calls()), []
    result = project.snakemake("--cores", "1", FAKE_FAILS_ONCE="evaluate")
    assert result.status == 0, result.text
    assert result.jobs == {"evaluate_part": 3, "evaluate": 1, "report": 1, "index": 1, "all": 1}
    for stage, options in project.calls()[before:]:
        called += options.get("--shard") or [stage]
    assert sorted(called[:4]) in [sorted(["1/3", "2/3", "3/3", twice]) for twice in ("1/3", "2/3", "3/3")]
    assert called[4:] == ["evaluate", "report", "index"]
    joined = project.calls()[before + 4][1]
    assert joined["--gather"] == [f"results/toy/metrics.part{k}of3.csv" for k in (1, 2, 3)]
    assert joined["--out"] == ["results/toy/metrics.csv"] and "--data" not in joined
    assert not list((project.folder / "results/toy").glob("*part*"))
    assert project.snakemake("--dry-run").jobs == {}
    project.edit(RUN, "evaluate: {shards: 3}", "evaluate: {shards: 1}")
    assert project.snakemake("--dry-run").jobs == {}


def test_a_termination_leaves_the_last_word_and_the_exit_status(project: Project) -> None:
    """As a scheduler does it: SIGTERM to the shell, to the stage and to `tee`."""
    shown = project.snakemake("--dry-run", "-p", "results/toy/data.nc").text
    (command,) = [line.partition("Shell command: ")[2] for line in shown.splitlines() if "sciflow dataset" in line]
    project.write("bin/sciflow", TERMINATED.format(python=sys.executable))
    (project.folder / "logs/toy").mkdir(parents=True)
    (project.folder / "results/toy").mkdir(parents=True)
    variables = {**os.environ, "PATH": f"{project.folder / 'bin'}:{os.environ['PATH']}"}
    call = ["bash", "-c", f"set -euo pipefail; {command}"]  # as Snakemake calls it
    with subprocess.Popen(
        call, cwd=project.folder, env=variables, stdout=-1, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        os.killpg(process.pid, signal.SIGTERM)
        said, _ = process.communicate(timeout=TIME_LIMIT)
    assert (process.returncode, said) == (75, "saved\n")
    assert (project.folder / "logs/toy/dataset.log").read_text() == "begun\nsaved\n"


def test_every_job_keeps_its_last_word(project: Project) -> None:
    shown = project.snakemake("--dry-run", "-p").text
    commands = [line for line in shown.splitlines() if "sciflow " in line and "--out" in line]
    assert len(commands) == 8, shown
    for command in commands:
        assert "trap : TERM; " in command and command.partition(" || (status")[0].rstrip().endswith(".log)"), command
        assert " 2>&1 | (trap '' TERM; exec tee logs/" in command, command


def test_importable_as_a_module(project: Project, tmp_path: Path) -> None:
    """Another workflow uses our rules with its own runs, data, results folder and overrides."""
    other = tmp_path / "other"
    other.mkdir()
    run = (project.folder / RUN).read_text()
    (other / "mine.yaml").write_text(run.replace("{n_samples: 4}", "{kind: file, path: made.nc}"))
    (other / "config.yaml").write_text("unrelated: 1\nsciflow: {runs: [mine.yaml], overrides: {every: {seed: 7}}}\n")
    (other / "Snakefile").write_text(
        'configfile: "config.yaml"\n'
        f'module sciflow:\n    snakefile: "{project.folder}/Snakefile"\n    config: config["sciflow"]\n'
        '    pathvars:\n        results="out/sciflow",\n        logs="out/logs",\n'
        "use rule * from sciflow as sciflow_*\n"
        'rule make:\n    output: "made.nc"\n    shell: "echo made > {output}"\n'
        'rule all:\n    default_target: True\n    input: "out/sciflow/mine/report.html"\n'
    )
    result = project.snakemake("--directory", str(other), "--snakefile", str(other / "Snakefile"))
    assert result.status == 0, result.text
    assert (other / "out/sciflow/mine/report.html").is_file()
    assert "seed: 7" in (other / "out/sciflow/mine/run.yaml").read_text()
    assert (other / "out/logs/mine/train.log").is_file()
    assert not (other / "results").exists()


@pytest.mark.slow
def test_snakemake_writes_its_own_report(finished: Project) -> None:
    result = finished.snakemake("--report", "own.html")
    assert result.status == 0, result.text
    page = (finished.folder / "own.html").read_text()
    assert "report.html" in page and "five stages" in page


@pytest.mark.slow
def test_parsing_adds_half_a_cpu_second_at_most(tmp_path: Path) -> None:
    """To the start of Snakemake, which every job on a cluster pays twice."""
    (tmp_path / "Snakefile").write_text('rule a:\n    output: "a"\n    shell: "touch {output}"\n')
    spent = {folder: cpu_seconds(folder) for folder in (tmp_path, ROOT)}
    assert spent[ROOT] - spent[tmp_path] < 0.5


def cpu_seconds(folder: Path) -> float:
    """Of listing the rules: the least of three, since other work on the core can only add."""
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        call = [sys.executable, "-m", "snakemake", "--list-rules"]
        subprocess.run(call, cwd=folder, check=True, capture_output=True, timeout=TIME_LIMIT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(spent)
