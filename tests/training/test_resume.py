"""A run that was interrupted has the bits of one that was not."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import replace

import pytest
import torch

from sciflow.errors import InputError, OutOfTime
from sciflow.training.checkpoint import Checkpoint, save


class Killed(BaseException):
    """Stands for a process that ends in the middle of a step."""


class EverySeventh(Checkpoint):
    """Keeps only the states after 7, 14, 21 and 28 steps and the last, so that a resumed run repeats some steps."""

    def save(self, state):
        if len(state["history"]["loss"]) % 7 == 0 or state["stopped"]:
            super().save(state)


def killed_at(problem, step):
    def loss(module, batch, stream, now, first):
        if now == step and stream.purpose[-1] == "noise":
            raise Killed
        return problem.loss(module, batch, stream, now, first)

    return loss


def assert_same(first, second):
    weights, others = first.module.state_dict(), second.module.state_dict()
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[key], others[key]) for key in weights)
    assert first.history == second.history


def assert_equal(first, second):
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert list(first) == list(second)
        for key in first:
            assert_equal(first[key], second[key])
    elif isinstance(first, list):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_equal(one, other)
    else:
        assert first == second


@pytest.mark.parametrize("kills", [(3,), (16,), (29,), (8, 8, 22)], ids=str)
@pytest.mark.parametrize(
    ("dropout", "options"),
    [
        (0.0, {}),
        (0.3, {}),
        (0.3, {"accumulate": 3}),
        (0.3, {"precision": "bfloat16", "ema_decay": 0.5}),
        (0.0, {"optimiser": "soap"}),
    ],
    ids=["plain", "dropout", "accumulation", "bfloat16", "soap"],
)
def test_killed_and_resumed_equals_straight(problem, tmp_path, kills, dropout, options):
    problem = replace(problem.change(**options), dropout=dropout)
    straight_state, checkpoint = Checkpoint(tmp_path / "straight.pt"), EverySeventh(tmp_path / "resumed.pt")
    straight = problem.fit(straight_state)
    for step in kills:
        with pytest.raises(Killed):
            problem.fit(checkpoint, loss=killed_at(problem, step))
    assert_same(straight, problem.fit(checkpoint))
    first, second = straight_state.load(), checkpoint.load()
    assert first.pop("seconds") > 0 and second.pop("seconds") > 0
    assert_equal(first, second)  # weights, averages, the optimiser's moments, history


def test_weights_written_after_a_resume_have_the_same_bytes(problem, tmp_path):
    straight = problem.fit()
    checkpoint = EverySeventh(tmp_path / "resumed.pt")
    with pytest.raises(Killed):
        problem.fit(checkpoint, loss=killed_at(problem, 16))
    resumed = problem.fit(checkpoint)
    save(tmp_path / "a.pt", {"weights": straight.module.state_dict(), "loss": straight.history.loss}, "model")
    save(tmp_path / "b.pt", {"weights": resumed.module.state_dict(), "loss": resumed.history.loss}, "model")
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_the_optimiser_state_is_needed(problem, checkpoint):
    """A counter-check of the tests above: without the optimiser's moments the bits differ."""
    straight = problem.fit()
    with pytest.raises(Killed):
        problem.fit(checkpoint, loss=killed_at(problem, 16))
    state = checkpoint.load()
    assert len(state["history"]["loss"]) == 16
    for moments in state["optimiser"]["state"].values():
        moments["exp_avg"].zero_()
    checkpoint.save(state)
    resumed = problem.fit(checkpoint)
    assert not all(map(torch.equal, straight.module.parameters(), resumed.module.parameters()))


def test_deadline_saves_and_continues(problem, checkpoint):
    for n_done in (1, 2):  # every call makes headway, however late it starts
        with pytest.raises(OutOfTime, match=f"after step {n_done} of 30"):
            problem.fit(checkpoint, deadline=time.monotonic() - 1)
        assert len(checkpoint.load()["history"]["loss"]) == n_done
    assert_same(problem.fit(checkpoint, deadline=time.monotonic() + 3600), problem.fit())


def test_sigterm_saves_and_continues(problem, checkpoint):
    def loss(module, batch, stream, step, first):
        if step == 12 and stream.purpose[-1] == "noise":
            os.kill(os.getpid(), signal.SIGTERM)
        return problem.loss(module, batch, stream, step, first)

    problem = problem.change(checkpoint_every=3600)
    with pytest.raises(OutOfTime, match="after step 13 of 30"):
        problem.fit(checkpoint, loss=loss)
    assert len(checkpoint.load()["history"]["loss"]) == 13
    assert_same(problem.fit(checkpoint), problem.fit())


def test_a_finished_run_is_not_trained_again(problem, checkpoint):
    first = problem.fit(checkpoint)
    assert_same(first, problem.fit(checkpoint, loss=killed_at(problem, 0)))


@pytest.mark.parametrize(
    ("change", "named"),
    [({"seed": 6}, "seed"), ({"n_rows": 99}, "n_rows"), ({"options": {"learning_rate": 0.5}}, "learning_rate")],
)
def test_a_checkpoint_of_another_run_is_refused(problem, checkpoint, change, named):
    problem.fit(checkpoint)
    other = problem.change(**change["options"]) if "options" in change else replace(problem, **change)
    with pytest.raises(InputError, match=rf"training\.pt: was made with a different {named}\."):
        other.fit(checkpoint)


def test_a_checkpoint_of_another_network_is_refused(problem, checkpoint):
    problem.fit(checkpoint)
    with pytest.raises(InputError, match=r"training\.pt: belongs to another network"):
        problem.fit(checkpoint, module=torch.nn.Linear(2, 2))


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("n_kills", "is_carried"),
    [
        pytest.param(1, False, marks=pytest.mark.slow),
        pytest.param(2, True, marks=pytest.mark.slow),
        pytest.param(20, False, marks=pytest.mark.soak),
        pytest.param(15, True, marks=pytest.mark.soak),
    ],
)
def test_sigkill_at_any_moment(tmp_path, spawn, record_property, n_kills, is_carried):
    """Whether checkpoints are written where they belong or carried there from a scratch folder."""
    n_steps, moments = 60 * n_kills, random.Random(n_kills)
    arguments = ["--dropout", "0.2", "--accumulate", "2", "--n_steps", str(n_steps)]
    folders = [tmp_path / name for name in ("straight", "killed")]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    straight = spawn(folders[0], *arguments)
    arguments += ["--scratch", str(scratch)] if is_carried else []
    for kill in range(1, n_kills + 1):
        process = spawn(folders[1], *arguments)
        for _ in range(9):
            assert process.stdout.readline() == "step\n"
        time.sleep(moments.uniform(0, 0.01))  # a step takes about 5 ms, half of it the writing of a checkpoint
        process.kill()
        assert process.wait() == -signal.SIGKILL, f"kill {kill} came too late"
    last = spawn(folders[1], *arguments)
    steps, _ = last.communicate(timeout=120)
    straight_steps, _ = straight.communicate(timeout=120)
    assert straight.returncode == last.returncode == 0
    assert straight_steps.count("step") == 2 * n_steps > steps.count("step") > 0  # two pieces a step; it did continue
    assert (folders[0] / "model.pt").read_bytes() == (folders[1] / "model.pt").read_bytes()
    assert not list(scratch.iterdir()), "what was killed on its way is gone too"
    record_property("kills", n_kills)
