"""A copy of the workflow with a tiny stand-in package and command, so that what Snakemake does is tested fast.

The stand-in `sciflow` command notes how it was called and writes its inputs' names into its output.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TIME_LIMIT = 120  # seconds for one Snakemake call; one takes 1.2 CPU s, and a shared core may be ten times slower

COMMAND = """#!{python} -IS
import json, os, sys
arguments, options, name = sys.argv[1:], {{}}, ""
for word in arguments[1:]:
    if word.startswith("--"):
        name = word
        options[name] = []
    else:
        options.setdefault(name, []).append(word)
with open("calls.jsonl", "a") as calls:
    calls.write(json.dumps([arguments[0], options]) + "\\n")
called = arguments[0] + " --gather" * ("--gather" in options)
if called == os.environ.get("FAKE_FAILS_ONCE") and not os.path.exists("failed-once"):
    open("failed-once", "w").close()
    print(os.environ.get("FAKE_SAYS", ""))
    sys.exit(int(os.environ.get("FAKE_STATUS", "75")))
for part in options.get("--gather", []):
    open(part)
    if arguments[0] == "evaluate":
        open(part.replace(".csv", ".nc"))
if arguments[0] == "together":
    stage, *runs = options[""]
    name = {{"sample": "samples.nc", "evaluate": "metrics.csv", "report": "report.html"}}[stage]
    outs = [run.replace("run.yaml", name) for run in runs if open(run)]
else:
    stage, outs = arguments[0], options["--out"]
for out in outs:
    with open(out, "w") as file:
        file.write(f"{{arguments}}\\n")
    if stage == "evaluate":
        open(out.replace(".csv", ".nc"), "w").write("arrays")
"""

STAGES = ("dataset", "train", "sample", "evaluate", "report")
MODULES = {
    "solvers/heun.py": '"""Heun."""\n\nORDER = 2\n',
    "solvers/euler.py": '"""Euler."""\n\nORDER = 1\n',
    "networks/mlp.py": '"""A network."""\n\nWIDTH = 8\n',
    "metrics/score.py": '"""A metric."""\n\nSCALE = 1\n',
    "domains/toy/simulate.py": "SIZE = 1\n",
    "domains/toy/network.py": "from sciflow.networks.mlp import WIDTH\n\nSHAPE = (WIDTH,)\n",
    "domains/toy/target.py": "TARGET = 1\n",
    "domains/toy/metrics.py": "from sciflow.metrics.score import SCALE\n\nMETRICS = SCALE\n",
    "domains/toy/figures.py": "FIGURES = 1\n",
    **{
        f"stages/{stage}.py": f"{stage.upper()} = 1\n" for stage in ("dataset", "train", "sample", "evaluate", "report")
    },
}

SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["domain"],
    "properties": {
        "domain": {"enum": ["toy"]},
        **{
            key: True
            for key in ("title", "question", "plugins", "resources", "freeze", "dataset", "evaluate", "report")
        },
        "seed": {"type": "integer"},
        "train": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"n_steps": {"type": "integer", "minimum": 1}, "width": {"type": "integer"}},
        },
        "sample": {
            "type": "object",
            "properties": {"solver": {"oneOf": [{"$ref": "#/$defs/Heun"}, {"$ref": "#/$defs/Euler"}]}},
        },
    },
    "$defs": {
        name: {
            "type": "object",
            "required": ["kind"],
            "additionalProperties": False,
            "properties": {"kind": {"const": name.lower()}, "order": {"type": "integer"}},
            "x-module": f"sciflow.solvers.{name.lower()}",
        }
        for name in ("Heun", "Euler")
    },
}

RUN = """domain: toy
title: A toy
seed: 0
dataset: {n_samples: 4}
train: {n_steps: 5}
sample: {solver: {kind: heun}, n_samples: 2}
evaluate: {metrics: [score]}
report: {figures: []}
resources: {sample: {shards: 2}}
smoke: {train.n_steps: 1}
"""


@dataclass(frozen=True)
class Result:
    """What one Snakemake call said."""

    status: int
    text: str

    @property
    def jobs(self) -> dict[str, int]:
        """Rule -> number of jobs, from the last table of job statistics; empty if nothing is to be done."""
        if "Nothing to be done" in self.text:
            return {}
        table = self.text.rpartition("Job stats:")[2]
        return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, flags=re.M) if rule != "total"}


@dataclass(frozen=True)
class Project:
    """A folder to run Snakemake in."""

    folder: Path

    def write(self, path: str, content: str) -> Path:
        """Write a file, newer than everything Snakemake has recorded."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        return file

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace text that must be there."""
        content = (self.folder / path).read_text()
        assert old in content, f"{path} does not hold {old!r}"
        self.write(path, content.replace(old, new))

    def snakemake(self, *arguments: str, **environment: str) -> Result:
        """Call Snakemake in the folder with the stand-in command first on the path."""
        variables = {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder),
            **environment,
        }
        call = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
        done = subprocess.run(
            call, cwd=self.folder, env=variables, text=True, timeout=TIME_LIMIT, stdout=-1, stderr=-2, check=False
        )
        return Result(done.returncode, done.stdout)

    def calls(self) -> list[tuple[str, dict[str, list[str]]]]:
        """How the stand-in command was called, in order."""
        file = self.folder / "calls.jsonl"
        return [tuple(json.loads(line)) for line in file.read_text().splitlines()] if file.is_file() else []

    def copy(self, folder: Path) -> Project:
        """The same project elsewhere, with time stamps and Snakemake's records."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return Project(folder)


def make_project(folder: Path) -> Project:
    """The repository's workflow beside a stand-in package, command and run."""
    for name in ("workflows", "profiles"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.yaml.*", "schema.json"))
    for name in ("Snakefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    project = Project(folder)
    for file in (folder / "workflows" / "runs").glob("*.yaml"):
        file.unlink()
    for name in ("__init__", "errors", "yamlfile", "runs", "source", "checking", "catalogue", "memory"):
        project.write(f"sciflow/{name}.py", (ROOT / "sciflow" / f"{name}.py").read_text())
    for path, content in MODULES.items():
        project.write(f"sciflow/{path}", content)
    project.write("workflows/config/schema.json", json.dumps(SCHEMA))
    project.write("workflows/runs/toy.yaml", RUN)
    defaults = ", ".join(yaml.safe_load((ROOT / "workflows" / "config" / "default.yaml").read_text())["runs"])
    project.edit("workflows/config/default.yaml", f"[{defaults}]", "[toy]")
    project.write("bin/sciflow", COMMAND.format(python=sys.executable)).chmod(0o755)
    return project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A fresh project; nothing is built."""
    return make_project(tmp_path / "project")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose run `toy` is built; copy it before a change."""
    built = make_project(tmp_path_factory.mktemp("finished") / "project")
    result = built.snakemake()
    assert result.status == 0, result.text
    time.sleep(0.1)  # what is edited from now on is newer than what was built
    return built


@pytest.fixture
def changed(finished: Project, tmp_path: Path) -> Callable[[], Project]:
    """A function that gives a copy of the finished project to change."""
    return lambda: finished.copy(tmp_path / "project")
