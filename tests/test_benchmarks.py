"""Benchmarks answer in rows, and what they time keeps its promises: one network call per step, bounded memory."""

from __future__ import annotations

import ast
import gc
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.rows import LARGEST_ERROR, Row, judged, markdown, text
from sciflow.diffusion.flow import probability_flow
from sciflow.diffusion.schedule import EDM
from sciflow.solvers.exponential import EABM
from sciflow.solvers.solve import solve

ROOT = Path(__file__).resolve().parents[1]
N_STEPS = 20
SHAPE = (7, 13)  # no other tensor of this process has it


class Watched:
    """A denoiser that notes what it is called with, and how many states are alive while it is."""

    schedule, shape = EDM(), SHAPE[1:]

    def __init__(self) -> None:
        self.buffers: list[int] = []
        self.alive: list[int] = []

    def __call__(self, x: Tensor, t: float) -> Tensor:
        self.buffers.append(x.data_ptr())
        self.alive.append(sum(type(thing) is Tensor and thing.shape == SHAPE for thing in gc.get_objects()))
        return 0.5 * x


@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize(("order", "frame"), [(2, "data"), (3, "noise"), (3, "velocity")])
def test_a_run_calls_the_network_once_per_step_in_one_buffer(order: int, frame: str, corrector: bool) -> None:
    denoiser, x = Watched(), torch.ones(SHAPE)
    with torch.no_grad():
        solve(probability_flow(denoiser), x, torch.linspace(0.1, 0.9, N_STEPS + 1), EABM(order, frame, corrector))
    assert len(denoiser.buffers) == N_STEPS
    assert len(set(denoiser.buffers)) == 1, "the state moved to another buffer"
    # the caller's x, the state, and the values of F that the next polynomial still needs besides the one being made
    assert max(denoiser.alive) <= 2 + order - (not corrector)


@pytest.mark.slow
def test_the_overhead_benchmark_answers_in_rows(tmp_path: Path) -> None:
    file = tmp_path / "overhead.json"
    options = ["--quick", "--no-peers", "--seconds", "0.5", "--json"]
    command = [sys.executable, "benchmarks/overhead.py", *options, str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert {"machine", "versions", "date", "command", "rows", "during the run"} <= set(found)
    rows = [Row(**row) for row in found["rows"]]  # exactly these keys
    assert text(rows) in done.stdout
    claims = {row.claim: row for row in rows}
    assert len(claims) == len(rows)
    assert all(row.value > 0 and row.stderr >= 0 for row in rows)
    targets = [row.target for row in rows if row.claim.startswith("(b)") and "sciflow, order 2" in row.claim]
    assert targets == [1.2, 1.1] * 2  # over score calls and over a loop by hand, for each malloc setting
    assert all(row.holds is None for row in rows if row.target is None)
    assert found["quiet"] or all(row.holds is None for row in rows)


def test_every_part_of_the_particle_benchmark_has_rows_and_a_place_to_record_them() -> None:
    readme = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    names = ast.parse((ROOT / "benchmarks/particles.py").read_text(encoding="utf-8")).body
    parts = next(node.value for node in names if isinstance(node, ast.Assign) and node.targets[0].id == "PARTS")
    for part in ast.literal_eval(parts):
        module = ast.parse((ROOT / f"benchmarks/particles_{part}.py").read_text(encoding="utf-8"))
        functions = {node.name: node for node in module.body if isinstance(node, ast.FunctionDef)}
        assert [argument.arg for argument in functions["rows"].args.args] == ["quick"], part
        assert f"<!-- particles_{part} -->\n" in readme and f"<!-- /particles_{part} -->" in readme, part


def test_a_verdict_needs_a_target_a_quiet_machine_and_a_small_error() -> None:
    def mean(values: list[float]):
        return lambda chosen: sum(values[i] for i in chosen) / len(chosen)

    steady, shaky = [1.0, 1.01, 0.99, 1.0], [0.2, 3.0, 0.1, 0.7]
    assert judged("", mean(steady), [2, 2], 1.2, quiet=True).holds is True
    assert judged("", mean(steady), [2, 2], 0.8, quiet=True).holds is False
    assert judged("", mean(steady), [2, 2], 1.2, quiet=False).holds is None
    assert judged("", mean(steady), [2, 2], None, quiet=True).holds is None
    unsure = judged("", mean(shaky), [2, 2], 1.2, quiet=True)
    assert unsure.stderr > LARGEST_ERROR * unsure.value and unsure.holds is None
    assert "| no verdict |" in markdown([unsure])


@pytest.mark.slow
def test_the_workflow_benchmark_answers_in_rows(tmp_path: Path) -> None:
    """Its cheapest part: the share of train time that a checkpoint a minute takes."""
    file, readme = tmp_path / "workflow.json", (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    command = [sys.executable, "benchmarks/workflow.py", "checkpoint", "--quick", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    seconds, share = (Row(**row) for row in found["rows"])
    assert seconds.claim.startswith("a checkpoint of ") and seconds.value > 0 and seconds.target is None
    assert share.target == 0.02 and share.value == pytest.approx(seconds.value / (60 + seconds.value))
    assert found["quiet"] or share.holds is None
    assert "<!-- workflow -->\n" in readme and "<!-- /workflow -->" in readme


SMALL = {
    "workflow_jobs": {
        "ROUNDS": {True: 2}, "N_COMMANDS": {True: 2}, "N_SWEEPS": {True: 2}, "N_FEW": 2, "N_RUNS": 3, "N_TOGETHER": 2,
    },
    "workflow_files": {"ROUNDS": {True: 2}, "WRITTEN": 1, "LARGE": 1},
}  # fmt: skip
TARGETS = {  # part -> how its claims with a target begin
    "commands": ["a stage with nothing to do, less the bare import", "`sciflow check`"],
    "sweep": ["nothing to be done in a sweep of 3 runs", "sweep of 2 runs, 2 cores over 1", "Snakemake, shell"],
    "together": ["together over alone"],
    "checkpoint": ["checkpoints every 60 s"],
    "resume": [],
    "store": ["store, write to memory", "store, read"],
    "ranks": ["training step on two ranks over one"],
}


LONG = ("commands", "sweep", "resume", "ranks")  # parts that take a quarter of a minute or more
PARTS = [pytest.param(part, marks=pytest.mark.soak if part in LONG else pytest.mark.slow) for part in TARGETS]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", PARTS)
def test_every_part_of_the_workflow_benchmark_works(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In sizes of seconds: what is found is not judged, only that all of it is found."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    workflow = importlib.import_module("workflow")
    assert list(workflow.PARTS) == list(TARGETS)
    for module, sizes in SMALL.items():
        for name, size in sizes.items():
            monkeypatch.setattr(importlib.import_module(module), name, size)
    found = workflow.PARTS[part](tmp_path, True)
    assert all(len(one.rounds) >= 2 and min(one.rounds) > -0.1 for one in found), "a difference may be noise around 0"
    decided = [one.claim for one in found if one.target is not None]
    assert len(decided) == len(TARGETS[part])
    for claim, beginning in zip(decided, TARGETS[part], strict=True):
        assert claim.startswith(beginning)
    rows = [workflow.row(one, quiet=False) for one in found]
    assert len({row.claim for row in rows}) == len(rows) and all(row.stderr >= 0 and row.holds is None for row in rows)


def test_the_work_of_children_is_no_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second of a child's work, of which a watch that knows only this process would say that others did it."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    watch = importlib.import_module("machine").Watch()
    before = time.process_time()
    busy = "import time\nwhile time.process_time() < 1: pass"
    subprocess.run([sys.executable, "-IS", "-c", busy], check=True, timeout=100)
    own, alone = (float(watch.disturbance(spent)[0].split()[0]) for spent in (None, time.process_time() - before))
    wall = time.monotonic() - watch.start
    assert alone - own == pytest.approx(1 / wall, abs=0.1 / wall + 0.02)  # told to 0.01; the second call sees more time


@pytest.mark.parametrize("benchmark", ["overhead", "imaging"])
def test_without_the_peers_environment_the_benchmark_says_what_to_do(benchmark: str) -> None:
    command = [sys.executable, f"benchmarks/{benchmark}.py", "--peers", "no/such/python"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "make peers" in done.stderr and "--no-peers" in done.stderr


@pytest.mark.soak
def test_the_memory_of_a_gradient_grows_as_promised(tmp_path: Path) -> None:
    file = tmp_path / "memory.json"
    command = [sys.executable, "benchmarks/gradient_memory.py", "--quick", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    rows = {row["claim"]: Row(**row) for row in json.loads(file.read_text())["rows"]}
    growth = {claim.partition(":")[0]: row.value for claim, row in rows.items() if "32 steps over" in claim}
    risen = [rows[f"autograd, {n} steps: peak memory, MiB"].value for n in (8, 32)]
    kept = 1024 * (256 + 512) * 4 / 2**20  # of a step autograd must keep the state and the hidden layer, in float32
    assert risen[1] - risen[0] > (32 - 8) * kept  # whatever lies in memory besides, the steps add to it
    assert growth["adjoint"] < 1.25 and growth["reversible (BDIA)"] < 1.25
    assert growth["checkpointed, √N"] < 2.5  # of √4 = 2
    peaks = [rows[f"{name}, 32 steps: peak memory, MiB"].value for name in ("autograd", "checkpointed, √N", "adjoint")]
    assert peaks == sorted(peaks, reverse=True)


@pytest.mark.slow
def test_the_benchmark_of_force_fields_has_rows_of_periodic_boxes_without_targets(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks/molecules_force_field.py"), "--quick", "--json", "rows.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    rows = [Row(**row) for row in json.loads((tmp_path / "rows.json").read_text())["rows"]]
    boxed = {row.claim: row for row in rows if "water" in row.claim}
    assert len(boxed) == 4 * 2 + 2 + 3  # errors by four methods, of PME as it is by default, and three costs
    assert all(row.value > 0 and row.target is None and row.holds is None for row in boxed.values())
    # as the documentation says, but for another processor's rounding
    errors = {
        claim.partition("atoms, ")[2]: row.value for claim, row in boxed.items() if "error of the energy" in claim
    }
    assert errors["reaction field: largest error of the energy [kJ/mol]"] < 1e-9
    assert 0.01 < errors["PME at 5e-4: largest error of the energy [kJ/mol]"] < 0.2


@pytest.mark.slow
def test_muller_brown_is_judged_by_perfect_draws_and_what_was_scored_is_kept(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks/molecules_muller_brown.py"), "--quick", "--json", "rows.json"]
    first, again = (
        subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280) for _ in range(2)
    )
    assert first.returncode == 0, first.stderr
    assert "seed 0" in first.stdout and "seed 0" not in again.stdout  # the second run trains nothing
    assert text([Row(**row) for row in json.loads((tmp_path / "rows.json").read_text())["rows"]]) in first.stdout
    rows = {
        row["claim"].partition(" (")[0]: Row(**row) for row in json.loads((tmp_path / "rows.json").read_text())["rows"]
    }
    own = rows["10000 perfect draws: js"]
    spread = own.stderr * 8**0.5  # the standard deviation of one of its eight sets
    assert abs(rows["10000 frames of a simulation with the exact force: js"].value - own.value) < 4 * spread
    untrained = rows["10000 frames, with Fokker–Planck residual, simulation: js"]
    assert untrained.value > own.value + 20 * spread
    assert untrained.holds is None  # no verdict on what was not trained
