"""Checkpoints that go over the scratch of a node: training does not wait, and what is in the results is whole."""

from __future__ import annotations

import errno
import logging
import shutil
import threading
from pathlib import Path

import pytest

from sciflow.data import scratch
from sciflow.errors import InputError, OutOfTime
from sciflow.training import checkpoint as keeping
from sciflow.training.checkpoint import Checkpoint
from tests.tiny import Place

PATIENCE = 60  # seconds: what is waited for takes milliseconds, and comes never if training waits


@pytest.fixture
def carried(tmp_path: Path) -> Checkpoint:
    """A checkpoint on one file system, its scratch on another."""
    for name in ("results", "scratch"):
        (tmp_path / name).mkdir()
    return Checkpoint(tmp_path / "results/training.pt", tmp_path / "scratch")


def steps(checkpoint: Checkpoint) -> int:
    """What is saved where it belongs, for whoever comes after a kill."""
    state = Checkpoint(checkpoint.path).load()
    return len(state["history"]["loss"]) if state else 0


def test_training_goes_on_while_a_checkpoint_is_carried(problem, carried, monkeypatch):
    """The first is held in the middle until the second step is under way, and is no file of the results until then."""
    second_step, copy, seen = threading.Event(), shutil.copyfile, []

    def slow(source: Path, destination: Path) -> None:
        copy(source, destination)
        if not seen:
            seen.append(steps(carried))
            assert second_step.wait(PATIENCE), "training waited for its checkpoint"

    def loss(module, batch, stream, step, first):
        if step == 1:
            second_step.set()
        return problem.loss(module, batch, stream, step, first)

    monkeypatch.setattr(scratch.shutil, "copyfile", slow)
    fitted = problem.fit(carried, loss=loss)
    assert seen == [0]
    assert steps(carried) == problem.options.n_steps == len(fitted.history.loss)
    assert not list(carried.scratch.iterdir()) and [carried.path] == list(carried.path.parent.iterdir())


def test_out_of_time_means_that_the_state_has_arrived(problem, carried, monkeypatch):
    copy, begun = shutil.copyfile, threading.Event()

    def slow(source: Path, destination: Path) -> None:
        begun.set()
        threading.Event().wait(0.2)  # longer than any step: who does not wait leaves before the end of it
        copy(source, destination)

    monkeypatch.setattr(scratch.shutil, "copyfile", slow)
    with pytest.raises(OutOfTime, match="after step 1 of 30"):
        problem.fit(carried, deadline=0.0)
    assert begun.is_set() and steps(carried) == 1


def test_a_lost_node_costs_what_was_on_its_way(problem, carried, tmp_path):
    """Its scratch is empty or gone; the results hold the last whole state, and the end is that of an unbroken run."""

    class Lost(BaseException):
        pass

    def loss(module, batch, stream, step, first):
        if step == 8:
            raise Lost
        return problem.loss(module, batch, stream, step, first)

    with pytest.raises(Lost):
        problem.fit(carried, loss=loss)
    shutil.rmtree(carried.scratch)
    assert steps(carried) == 8
    elsewhere = tmp_path / "scratch of another node"
    elsewhere.mkdir()
    resumed, straight = problem.fit(Checkpoint(carried.path, elsewhere)), problem.fit()
    assert resumed.history == straight.history


def test_a_full_scratch_is_passed_by(problem, carried, monkeypatch, caplog):
    write = keeping._write

    def full(path: Path, *arguments) -> None:
        write(path, *arguments)
        if path.parent == carried.scratch:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(keeping, "_write", full)
    with caplog.at_level(logging.WARNING):
        problem.fit(carried)
    assert f"{carried.scratch} takes no checkpoint (No space left on device)" in caplog.text
    assert steps(carried) == problem.options.n_steps
    assert not list(carried.scratch.iterdir())


def test_results_that_take_no_checkpoint_stop_the_training(problem, carried, monkeypatch):
    """As they do without scratch: what cannot be kept is not worked for in vain."""

    def full(source: Path, destination: Path) -> None:
        destination.write_bytes(source.read_bytes()[:100])
        raise OSError(errno.ENOSPC, "No space left on device", str(destination))

    monkeypatch.setattr(scratch.shutil, "copyfile", full)
    with pytest.raises(OSError, match=r"disk full; the previous file, if any, is whole.*training\.pt"):
        problem.fit(carried)
    assert not list(carried.scratch.iterdir()) and not list(carried.path.parent.iterdir())


def test_the_folder_is_that_of_the_job(tmp_path):
    assert scratch.folder({}) is None and scratch.folder({scratch.VARIABLE: ""}) is None
    assert scratch.folder({scratch.VARIABLE: "$TMPDIR", "TMPDIR": str(tmp_path)}) == tmp_path
    assert scratch.folder({scratch.VARIABLE: "${A}/..", "A": str(tmp_path)}).resolve() == tmp_path.parent
    for wrong in ({}, {"TMPDIR": str(tmp_path / "nowhere")}, {"TMPDIR": __file__}):
        with pytest.raises(InputError, match=r"SCIFLOW_SCRATCH is '\$TMPDIR', but .* is no folder on this node"):
            scratch.folder({scratch.VARIABLE: "$TMPDIR", **wrong})


def test_the_command_uses_it_and_refuses_a_wrong_one(copied: Place, tmp_path: Path, monkeypatch) -> None:
    """Not remembered as a failure of the run: another node, or another variable, mends it."""
    model = copied.results("imaging") / "model.pt"
    before = model.read_bytes()
    monkeypatch.setenv(scratch.VARIABLE, str(tmp_path / "nowhere"))
    outcome = copied.sciflow("train", "imaging.yaml")
    assert outcome.status == 2 and "nowhere is no folder on this node" in outcome.text
    moved: list[Path] = []
    copy = shutil.copyfile

    def noted(source: Path, destination: Path) -> None:
        moved.append(source)
        copy(source, destination)

    monkeypatch.setattr(scratch.shutil, "copyfile", noted)
    monkeypatch.setenv(scratch.VARIABLE, "$NODE")
    monkeypatch.setenv("NODE", str(tmp_path))
    model.unlink()
    copied.forget("imaging")
    assert copied.sciflow("train", "imaging.yaml").status == 0
    assert model.read_bytes() == before
    assert [source.parent for source in moved] == [tmp_path], "one checkpoint: the last"
    assert not list(tmp_path.glob(".tmp*"))
