"""The same run and the same command on a real SLURM, which does to jobs what clusters do.

Needs what `tests/slurm/cluster` needs, and an environment with the executor plugin: `make slurm`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sciflow.runs import STAGES
from sciflow.training.checkpoint import load
from tests.tiny import IMAGING, Place, change, copy_repository

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(2400)]

FAULTS = Path(__file__).parents[1] / "stages" / "faults.py"
CLUSTER = Path(__file__).with_name("cluster")
TIME_LIMIT = 400  # seconds to wait for one event: a job takes 12 CPU s, and a shared core may be ten times slower
N_STEPS = 6
MEGABYTES = 700
RUN = {
    **change(
        IMAGING,
        {
            "train.loss": {"kind": "held"},
            "train.optimisation.n_steps": N_STEPS,
            "train.optimisation.checkpoint_every": 0,
        },
    ),
    "plugins": ["held.py"],
    "sweep": {"sample.times.n_steps": [2, 3]},
    "resources": {
        stage: {"mem_mb": MEGABYTES, "runtime": 10, **({"shards": 1} if stage == "sample" else {})} for stage in STAGES
    }
    | {stage: {"mem_mb": MEGABYTES, "runtime": 5, "together": 2} for stage in ("evaluate", "report")},
}
LONG = 100  # steps of a second: more than there are in a minute
LIMITED = {
    **change(
        IMAGING,
        {
            "train.loss": {"kind": "paced"},
            "train.optimisation.n_steps": LONG,
            "train.optimisation.validate_every": LONG,
            "train.optimisation.checkpoint_every": 0,
        },
    ),
    "plugins": ["held.py"],
    "resources": {"dataset": {"runtime": 10}, "train": {"mem_mb": MEGABYTES, "runtime": 1}},
}
CARDED = {
    **IMAGING,
    "plugins": ["held.py"],
    "resources": {"dataset": {"runtime": 10}, "train": {"gpu": 1, "mem_mb": MEGABYTES, "runtime": 10}},
}
CHILDREN = [f"swept~sample.times.n_steps={n}" for n in (2, 3)]
# what a test cannot wait for: the plugin looks first after 40 s, and a network file system may need 60; `exec`, since
# without cgroups SLURM would end the shell alone
CONTROLLER = """#!/bin/bash
exec {python} -m snakemake {targets} --profile profiles/slurm --slurm-init-seconds-before-status-checks 2 \\
  --latency-wait 5 --slurm-no-account --config 'runs=[{run}]'
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A SLURM of two nodes, shut down at the end."""
    if shutil.which("slurmctld") is None or os.getuid() != 0:
        pytest.skip("needs root and slurmctld, slurmd and their clients")
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip("needs the executor plugin: make slurm")
    folder = str(tmp_path_factory.mktemp("cluster"))
    started = subprocess.run([CLUSTER, "start", folder], capture_output=True, text=True, check=False)
    if started.returncode != 0 and "is not ours" in started.stderr:
        pytest.skip(started.stderr)
    assert started.returncode == 0, started.stderr
    yield
    subprocess.run([CLUSTER, "stop", folder], check=True)


@dataclass(frozen=True)
class Submitted:
    """A copy of the repository whose runs go to the cluster."""

    folder: Path
    variables: dict[str, str]

    def call(self, *command: object) -> str:
        """What a command says; it must end well."""
        done = subprocess.run(
            list(map(str, command)), cwd=self.folder, env=self.variables, text=True, stdout=-1, stderr=-2, check=False,
            timeout=TIME_LIMIT,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    def sbatch(self, script: str, *options: str) -> tuple[str, Path]:
        """Submit a script; its job and where it writes."""
        number = len(list(self.folder.glob("job*.sh")))
        file, out = (self.folder / f"job{number}.{suffix}" for suffix in ("sh", "txt"))
        file.write_text(script)
        out.touch()
        return self.call("sbatch", "--parsable", "--mem=500", "--output", out, *options, file).strip(), out

    def wait(self, what: str, happened: Callable[[], bool], job: str, out: Path, limit: float = TIME_LIMIT) -> None:
        """Until it has happened, while the controller lives."""
        end = time.monotonic() + limit
        while not happened():
            lives = bool(queue("--noheader", "--jobs", job))
            assert happened() or (lives and time.monotonic() < end), f"{what}:\n{queue()}\n{out.read_text()}"
            time.sleep(0.2)

    def finish(self, job: str, out: Path, well: bool = True) -> None:
        """Until the controller has ended, well or not: up to eight jobs, one after another."""
        self.wait("the end", lambda: not queue("--noheader", "--jobs", job), job, out, 3 * TIME_LIMIT)
        assert (" ExitCode=0:0" in self.call("scontrol", "show", "job", job)) == well, out.read_text()

    def steps(self, name: str = "trace") -> Counter[int]:
        """How many steps each process took, in the order of their starts."""
        trace = self.folder / name
        return Counter(map(int, trace.read_text().split())) if trace.is_file() else Counter()

    def results(self, name: str) -> bytes:
        return (self.folder / "results" / name).read_bytes()


@pytest.fixture
def submitted(tmp_path: Path) -> Submitted:
    """The runs of this module, not yet built."""
    variables = copy_repository(tmp_path / "copy")
    shutil.copy(Path(__file__).with_name("held.py"), tmp_path / "copy")
    Place(tmp_path / "copy").write(RUN, "swept")
    Place(tmp_path / "copy" / "workflows" / "runs").write(LIMITED, "limited")
    return Submitted(tmp_path / "copy", variables)


def queue(*options: str) -> str:
    """The jobs that wait or run, as SLURM lists them."""
    return subprocess.run(["squeue", *options], stdout=-1, stderr=-2, text=True, check=False).stdout


# alone and in the cluster: no dropout, whose masks are drawn for each piece of a batch
SPREAD = {
    **change(
        IMAGING, {"train.network.dropout": 0.0, "train.optimisation.n_steps": 8, "train.loss": {"kind": "faulty"}}
    ),
    "plugins": ["faults.py"],
    "resources": {
        "dataset": {"runtime": 10},
        "train": {"nodes": 2, "mem_mb": MEGABYTES, "runtime": 10},
        "sample": {"nodes": 2, "mem_mb": MEGABYTES, "runtime": 10, "shards": 1},
    },
}
STRAIGHT = "import sys; from sciflow.cli import _run; sys.exit(max(_run([s, 'swept.yaml'])[0] for s in sys.argv[1:]))"


def cancel_and_limit(submitted: Submitted, controller: str, out: Path) -> None:
    """Cancel a training that runs, and let the next attempt meet its time limit; the third may be fast.

    Both save their state and say so.
    """
    submitted.wait("a training", lambda: sum(submitted.steps("paced").values()) >= 3, controller, out)
    jobs = [line.split() for line in queue("--noheader", "--format", "%i %k").splitlines()]
    (job,) = [number for number, comment in jobs if comment == "rule_train_wildcards_limited"]
    submitted.call("scancel", job)
    log = submitted.folder / "results/limited/.state/train/log"
    submitted.wait("its end", lambda: log.is_file() and "OutOfTime" in log.read_text(), controller, out)
    submitted.wait("the limit", lambda: log.read_text().count("OutOfTime") == 2, controller, out)
    (submitted.folder / "slow").unlink()


def test_a_sweep_survives_the_loss_of_a_job_and_of_its_controller(cluster: None, submitted: Submitted) -> None:
    """A killed job is tried again from its state; a cancelled controller leaves an orphan, its duplicate is refused.

    Beside it, one after another: a job that is cancelled, and one that meets its time limit.
    """
    script = CONTROLLER.format(python=sys.executable, run="swept.yaml", targets="")
    hold = submitted.folder / "hold"
    hold.touch()
    (submitted.folder / "slow").touch()
    controller, out = submitted.sbatch(script)
    submitted.wait("the first training", lambda: sum(submitted.steps().values()) == 3, controller, out)
    (first,) = submitted.steps()
    os.kill(first, signal.SIGKILL)
    submitted.wait("the second training", lambda: sum(submitted.steps().values()) == 6, controller, out)
    first, orphan = submitted.steps()
    subprocess.run(["scancel", controller], check=True)
    submitted.wait("the end of the controller", lambda: not queue("--noheader", "--jobs", controller), controller, out)
    os.kill(orphan, 0)  # it works on
    assert f"mem_mb={2 * MEGABYTES}," in out.read_text(), "the first was killed, as for want of memory"
    submitted.call(sys.executable, "-m", "snakemake", "--unlock", "--config", "runs=[swept.yaml]")
    targets = "all results/limited/model.pt"
    script = CONTROLLER.format(python=sys.executable, run="swept.yaml", targets=targets)
    controller, out = submitted.sbatch(script)
    refusal = f".state/train is in use by process {orphan} on "
    submitted.wait("the refusal of the duplicate", lambda: refusal in out.read_text(), controller, out)
    hold.unlink()
    cancel_and_limit(submitted, controller, out)
    submitted.finish(controller, out)
    log = (submitted.folder / "results/limited/.state/train/log").read_text()
    assert "was killed" not in log, "both had time to save, and neither asks for more memory"
    assert out.read_text().count("Trying to restart job") - 2 <= 3, (
        "the Snakemake inside the job must not try again by itself"
    )

    first_steps, orphan_steps, *others = submitted.steps().values()
    assert first_steps == 3 and orphan_steps - len(others) >= N_STEPS - 2 - 1, submitted.steps()
    names = ["model.pt", "comparison.html"]
    assert all((submitted.folder / "results/swept" / name).is_file() for name in names)
    assert all((submitted.folder / "results" / child / "report.html").is_file() for child in CHILDREN)
    assert "evaluate_together_1" in out.read_text() and "report_together_1" in out.read_text(), out.read_text()
    there = {name: submitted.results(f"swept/{name}") for name in ("data.nc", "model.pt")}
    shutil.rmtree(submitted.folder / "results/swept")
    submitted.call(sys.executable, "-c", STRAIGHT, "dataset", "train")
    assert {name: submitted.results(f"swept/{name}") for name in there} == there
    interrupted = submitted.results("limited/model.pt")
    shutil.rmtree(submitted.folder / "results/limited")
    straight = STRAIGHT.replace("swept", "workflows/runs/limited")
    submitted.call(sys.executable, "-c", straight, "dataset", "train")
    assert submitted.results("limited/model.pt") == interrupted
    cancelled, limited, last, at_once = submitted.steps("paced").values()
    assert cancelled + limited + last == at_once, "each went on where the one before had stopped"
    assert limited < 90, "a minute, and half of one in which SLURM may not look"


def test_two_nodes_train_and_sample_as_one_process(cluster: None, submitted: Submitted) -> None:
    """`srun` starts a rank on each node; the ranks find one another by what SLURM says.

    The second is killed once, as for want of memory: the training asks for twice as much, and goes on.
    """
    Place(submitted.folder).write(SPREAD, "spread")
    shutil.copy(FAULTS, submitted.folder)
    (submitted.folder / "plan").write_text("loss@1 3 die")
    script = CONTROLLER.format(python=sys.executable, run="spread.yaml", targets="results/spread/samples.nc")
    controller, out = submitted.sbatch(script)
    submitted.finish(controller, out)
    assert f"mem_mb={2 * MEGABYTES}," in out.read_text(), "whichever rank it was"
    log = (submitted.folder / "results/spread/.state/train/log").read_text()
    assert log.count("was killed, or had no memory left") == 1, log
    for name in ("train", "sample"):
        log = (submitted.folder / f"logs/spread/{name}.log").read_text()
        assert "2 ranks" in log, log
    spread = load(submitted.folder / "results/spread/model.pt", "model")["history"]
    samples = submitted.results("spread/samples.nc")
    straight = STRAIGHT.replace("swept", "spread")
    submitted.call(sys.executable, "-c", straight, "sample")
    assert submitted.results("spread/samples.nc") == samples
    submitted.call(sys.executable, "-c", straight, "train")
    alone = load(submitted.folder / "results/spread/model.pt", "model")["history"]
    # the ranks' sums are added in another order, 1e-7 relative, which eight steps of Adam may raise a hundredfold
    assert spread["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert spread["validation"] == pytest.approx(alone["validation"], rel=1e-5)


def test_a_job_gets_the_card_that_it_asks_for(cluster: None, submitted: Submitted) -> None:
    """SLURM shows it to the job alone. The cards are no real ones: torch sees none, and the run says so and ends."""
    Place(submitted.folder).write(CARDED, "carded")
    script = CONTROLLER.format(python=sys.executable, run="carded.yaml", targets="results/carded/model.pt")
    controller, out = submitted.sbatch(script)
    submitted.finish(controller, out, well=False)
    assert "torch sees no CUDA device here" in out.read_text()
    seen = dict(line.split(" ") for line in (submitted.folder / "cards").read_text().splitlines())
    one = re.compile(r"TresPerJob=gres[:/]gpu:1\b")  # as versions of SLURM write it
    asked = {job for job in seen if job and one.search(submitted.call("scontrol", "show", "job", job))}
    assert len(asked) == 1 + 3, "the first attempt and its retries"
    assert {job for job, cards in seen.items() if cards} == asked
    assert all(seen[job].isdigit() for job in asked), f"one card each: {seen}"
