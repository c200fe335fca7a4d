"""Commands, sweeps and resumptions, timed from outside as a user meets them."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sciflow.runs import resolve
from tests.pipeline.conftest import Project, make_project
from tests.tiny import ANALYTIC, IMAGING, Place, change

ROOT = Path(__file__).resolve().parents[1]
N_RUNS, N_FEW = 200, 40
WORK = 0.1  # CPU seconds of a stand-in job: a real one imports torch for two
ROUNDS = {True: 5, False: 11}
N_COMMANDS = {True: 5, False: 31}  # rounds: the small difference of two starts must be known to 5 %
N_SWEEPS = {True: 1, False: 3}
CHECK, DRY_RUN, NO_WORK = 4.0, 10.0, 0.5  # seconds, seconds, CPU seconds: the targets
A_JOB = 0.1  # CPU seconds, a twentieth of what a real job needs before it works
TWO_CORES = 1 / 1.4  # of the time of one: what Snakemake does for each job stays on one core
N_TOGETHER = 20  # children of a sweep
TOGETHER = 0.25  # of the time of a process each: most of it is a start
BUSY = """import time
while time.process_time() < {work}:
    pass
"""


@dataclass(frozen=True)
class Found:
    """What the rounds gave: one number each."""

    claim: str
    rounds: list[float]
    target: float | None = None


@dataclass(frozen=True)
class Spent:
    """What one command took, the processes that it started included."""

    wall: float
    cpu: float


def timed(call: list[str], folder: Path, status: int = 0, package: Path = ROOT, commands: str = "") -> Spent:
    """Run a command that must end with this status.

    Args:
        call: the command.
        folder: where it works.
        status: with which it must end.
        package: the folder that holds the package `sciflow` that it is to use.
        commands: a folder that stands first on the path.
    """
    path = os.pathsep.join(filter(None, [commands, os.environ["PATH"]]))
    variables = {**os.environ, "PATH": path, "PYTHONPATH": str(package)}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is not compiled at every start
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(call, cwd=folder, env=variables, check=False, stdout=-1, stderr=-2, text=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != status:
        raise RuntimeError(f"{' '.join(call)} ended with status {done.returncode}, needs {status}: {done.stdout}")
    return Spent(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def sciflow(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "sciflow.cli", *arguments]


def _built(folder: Path, values: Mapping[str, Any], until: str) -> Place:
    place = Place(folder)
    place.build(values, "run", until)
    return place


def commands(folder: Path, quick: bool) -> list[Found]:
    """A stage whose work is nothing (a closed form in four dimensions) beside the import that it cannot do without."""
    place = _built(folder, ANALYTIC, "dataset")
    calls = {
        "bare": [sys.executable, "-c", "import torch"],
        "stage": sciflow("train", "run.yaml", "--source", "known"),  # as the rules call it, which have worked it out
        "check": sciflow("check", "run.yaml"),
    }
    rounds = [{name: timed(call, place.folder) for name, call in calls.items()} for _ in range(N_COMMANDS[quick])]
    return [
        Found("`python -c 'import torch'` [CPU s]", [each["bare"].cpu for each in rounds]),
        Found("a stage with nothing to do [CPU s]", [each["stage"].cpu for each in rounds]),
        Found(
            "a stage with nothing to do, less the bare import [CPU s]",
            [each["stage"].cpu - each["bare"].cpu for each in rounds],
            NO_WORK,
        ),
        Found("`sciflow check` [s]", [each["check"].wall for each in rounds], CHECK),
    ]


def _project(folder: Path, n_runs: int, work: float) -> Project:
    """The repository's rules, with a command that only passes time, and a sweep over so many samplings."""
    project = make_project(folder)
    run = "workflows/runs/toy.yaml"
    project.edit(run, "{shards: 2}", "{shards: 1}")
    project.edit(run, "seed: 0", f"seed: 0\nsweep: {{sample.solver.order: [{', '.join(map(str, range(n_runs)))}]}}")
    project.edit("bin/sciflow", "import json, os, sys\n", f"import json, os, sys\n{BUSY.format(work=work)}")
    return project


def _snakemake(project: Project, *options: str) -> Spent:
    call = [sys.executable, "-m", "snakemake", "--quiet", "all", *options]
    return timed(call, project.folder, package=project.folder, commands=str(project.folder / "bin"))


def sweep(folder: Path, quick: bool) -> list[Found]:
    """Three jobs a run, and one training for all; on one core, on two, and when nothing is to be done."""
    n = N_FEW if quick else N_RUNS
    rounds: list[dict[int, Spent]] = []
    for k in range(N_SWEEPS[quick]):
        projects = {cores: _project(folder / f"{k}-{cores}", n, WORK) for cores in (1, 2)}
        rounds.append({cores: _snakemake(project, "--cores", str(cores)) for cores, project in projects.items()})
    whole = projects[2]
    n_jobs, start = len(whole.calls()), _snakemake(whole, "--dry-run", "--cores", "2").cpu
    if quick:
        whole = _project(folder / "whole", N_RUNS, 0.0)
        _snakemake(whole, "--cores", "2")
    n_made = len(whole.calls())
    dry = [_snakemake(whole, "--dry-run", "--cores", "2") for _ in range(3 if quick else 5)]
    if len(whole.calls()) != n_made or n_jobs != 3 * n + 4:  # data, training, comparison and index are made once
        raise RuntimeError(f"the sweep of {n} runs made {n_jobs} jobs, and a dry run {len(whole.calls()) - n_made}.")
    return [
        Found(f"nothing to be done in a sweep of {N_RUNS} runs, `snakemake -n` [s]", [d.wall for d in dry], DRY_RUN),
        Found(f"sweep of {n} runs, {n_jobs} stand-in jobs of {WORK} s, 1 core [s]", [one[1].wall for one in rounds]),
        Found(f"sweep of {n} runs, {n_jobs} stand-in jobs of {WORK} s, 2 cores [s]", [one[2].wall for one in rounds]),
        Found(f"sweep of {n} runs, 2 cores over 1", [one[2].wall / one[1].wall for one in rounds], TWO_CORES),
        Found(
            "Snakemake, shell and start of the stand-in, a job [CPU s]",
            [(one[2].cpu - start) / n_jobs - WORK for one in rounds], A_JOB,
        ),
    ]  # fmt: skip


def together(folder: Path, quick: bool) -> list[Found]:
    """Sampling for children of a sweep that takes less time than its start: one in a process, and all in one."""
    n = N_TOGETHER
    place = _built(folder, ANALYTIC, "train")
    swept = place.write(change(ANALYTIC, {"sweep": {"sample.n_samples": list(range(4, 4 + n))}}))
    children = [run for run in resolve(place.folder / swept).values() if run.assignments]
    for run in children:
        place.results(run.name).mkdir()
        (place.results(run.name) / "run.yaml").write_text(run.text())
    files = [f"results/{run.name}/run.yaml" for run in children]

    def spent(files: list[str]) -> float:
        for run in children:
            shutil.rmtree(place.results(run.name) / ".state", ignore_errors=True)  # where finished work is kept
            (place.results(run.name) / "samples.nc").unlink(missing_ok=True)
        return timed(sciflow("together", "sample", *files), place.folder).cpu / len(files)

    rounds = [(spent(files[:1]), spent(files)) for _ in range(ROUNDS[quick])]
    return [
        Found("a child with little to do, sampled by a process of its own [CPU s]", [alone for alone, _ in rounds]),
        Found(f"one of {n} that a process samples together [CPU s]", [each for _, each in rounds]),
        Found("together over alone", [each / alone for alone, each in rounds], TOGETHER),
    ]


def resume(folder: Path, quick: bool) -> list[Found]:
    """A training that is out of time after its first step, and the same command once and again: a step each."""
    place = _built(folder, change(IMAGING, {"train.optimisation.n_steps": 100_000}), "dataset")
    call = sciflow("train", "run.yaml", "--time-limit", "0")
    afresh, again = [], []
    for _ in range(ROUNDS[quick] // 2 + 1):
        for state in place.results("run").glob(".state/train/*/checkpoint.pt"):
            state.unlink()
        afresh.append(timed(call, place.folder, status=75).wall)
        again.append(timed(call, place.folder, status=75).wall)
    return [
        Found("training, from the command to its first step saved [s]", afresh),
        Found("training resumed, from the command to its next step saved [s]", again),
        Found("resumed over afresh", [b / a for a, b in zip(afresh, again, strict=True)]),
    ]
