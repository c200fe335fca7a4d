"""Ranks: the same loss curve on two and four processes as on one, and no start with ranks that disagree."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from sciflow.training.checkpoint import load
from sciflow.training.launch import first_host, rank_environment, relaunch

TIME_LIMIT = 250  # seconds for a launch: four ranks take 25 CPU s to start, and a shared core may be ten times slower
TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
SLURM = {
    "SLURM_JOB_ID": "4242", "SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1",
    "SLURM_JOB_NODELIST": "gpu[007-012,20],cpu1",
}  # fmt: skip


def test_torchrun_wins_over_slurm():
    assert rank_environment({**SLURM, **TORCHRUN})["RANK"] == "1"


def test_slurm_is_translated():
    found = rank_environment(SLURM)
    assert {key: found[key] for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")} == {
        "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu007",
    }  # fmt: skip
    assert 10_000 <= int(found["MASTER_PORT"]) < 30_000
    assert rank_environment({**SLURM, "SLURM_STEP_ID": "1"})["MASTER_PORT"] != found["MASTER_PORT"]
    assert rank_environment({**SLURM, "SLURM_STEP_NODELIST": "gpu[009-010]"})["MASTER_ADDR"] == "gpu009"
    assert rank_environment({**SLURM, "MASTER_ADDR": "10.0.0.7"})["MASTER_ADDR"] == "10.0.0.7"


@pytest.mark.parametrize("change", [{"SLURM_NTASKS": "1"}, {"SLURM_STEP_ID": None}, {"SLURM_NTASKS": None}])
def test_a_single_process_stays_alone(change):
    environment = {key: value for key, value in {**SLURM, **change}.items() if value is not None}
    assert rank_environment(environment) == {} == rank_environment({})


def test_a_shell_that_salloc_opens_as_a_step_is_one_task():
    """It keeps the number of tasks of its job; the step has one."""
    assert rank_environment({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}) == {}
    assert rank_environment({**SLURM, "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "4"})["WORLD_SIZE"] == "4"


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("node1", "node1"), ("a,b[1-2]", "a"), ("gpu[007-012,20],cpu1", "gpu007"), ("n[3,5]-ib", "n3-ib"),
     ("rack[1-2]node[3-4]", "rack1node3")],
)  # fmt: skip
def test_first_host(nodes, host):
    assert first_host(nodes) == host


@pytest.mark.slow
@pytest.mark.timeout(3 * TIME_LIMIT)
@pytest.mark.parametrize("n_ranks", [2, 4])
def test_ranks_stopped_by_sigterm_and_continued_follow_one(n_ranks, tmp_path, spawn):
    arguments = ("--n_steps", "10", "--accumulate", "2")  # 37 rows: 18 + 19 on two ranks, 9 + 9 + 9 + 10 on four
    one = spawn(tmp_path / "one", *arguments)
    many = spawn(tmp_path / "many", *arguments, "--pause", "0.1", n_ranks=n_ranks)
    while (line := many.stdout.readline()) != "step\n":
        assert line, many.stderr.read()
    many.send_signal(signal.SIGTERM)
    _, errors = many.communicate(timeout=TIME_LIMIT)
    assert many.returncode == 75, errors
    stopped = load(tmp_path / "many" / "training.pt", "training checkpoint")
    assert stopped["stopped"] == "" and 1 <= len(stopped["history"]["loss"]) < 10
    for process in (one, spawn(tmp_path / "many", *arguments, n_ranks=n_ranks)):
        _, errors = process.communicate(timeout=TIME_LIMIT)
        assert process.returncode == 0, errors
    one, many = (load(tmp_path / name / "model.pt", "model") for name in ("one", "many"))
    assert one["validation"].keys() == many["validation"].keys() == {10}
    # the ranks' partial sums are added in another order, 1e-7 relative; ten steps of Adam, which divides by the root
    # of the second moment, raise that for the few weights whose gradient nearly vanishes: they hardly move the loss
    assert many["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert many["validation"][10] == pytest.approx(one["validation"][10], rel=1e-5)
    for key, value in one["weights"].items():
        torch.testing.assert_close(many["weights"][key], value, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("end", "status"), [("sys.exit(75)", 75), ("os.kill(os.getpid(), 9)", 137), ("pass", 0)])
def test_the_launcher_keeps_the_exit_status_of_its_ranks(tmp_path, end, status):
    script = tmp_path / "rank.py"
    script.write_text(f"import os, sys\n{end}\n")
    assert relaunch(2, [str(script)]) == status


@pytest.mark.parametrize("other", [1, 75, -15])
def test_a_killed_rank_is_told_whichever_failed_first(other, monkeypatch):
    """The others fail for its loss, and may be found first."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    def fail(arguments):
        ends = (other, -9)
        failures = {rank: ProcessFailure(rank, 100 + rank, code, "/nothing") for rank, code in enumerate(ends)}
        raise ChildFailedError("ranks", failures)

    monkeypatch.setattr(run, "main", fail)
    assert relaunch(2, ["-m", "json"]) == 137


@pytest.mark.parametrize("own", [1, 2, 75])
def test_a_rank_that_the_launcher_had_to_kill_is_no_kill(own, monkeypatch):
    """It hung when another failed, and got SIGKILL half a minute later."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    def fail(arguments):
        failures = {rank: ProcessFailure(rank, 100 + rank, code, "/none") for rank, code in enumerate((own, -9))}
        failures[1].timestamp += 31
        raise ChildFailedError("ranks", failures)

    monkeypatch.setattr(run, "main", fail)
    assert relaunch(2, ["-m", "json"]) == own


@pytest.mark.slow
def test_ranks_with_different_seeds_are_refused(tmp_path, spawn):
    environment = {**SLURM, "SLURM_JOB_ID": str(os.getpid()), "SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "localhost"}
    started = [spawn(tmp_path / "x", "--seed-by-rank", **{**environment, "SLURM_PROCID": n}) for n in ("0", "1")]
    for rank, process in enumerate(started):
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 2, errors
        assert "the 2 ranks of this training run were given different seeds" in errors and f"rank {rank} has" in errors
        assert "step" not in out
    assert list((tmp_path / "x").iterdir()) == []


@pytest.mark.parametrize(("heard", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_how_a_launcher_ends_that_was_told_to(heard, status, monkeypatch):
    """By Ctrl-C nothing was saved: whoever goes on after a 75 must not start it again."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException

    def told(arguments):
        raise SignalException("told", heard)

    monkeypatch.setattr(run, "main", told)
    assert relaunch(2, ["-m", "json"]) == status
