"""State survives failures, never mixes keys, is held by one process, and remembers what cannot succeed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sciflow.data.state import RETRY_VARIABLE, State, state_key
from sciflow.errors import InputError, NonFiniteError, OutOfTime

KEY = state_key("train: {n_steps: 10}", "digest", {"data.nc": "00ff"})
OTHER = state_key("train: {n_steps: 20}", "digest", {"data.nc": "00ff"})

HOLD = """
import sys
from sciflow.data.state import State
with State(sys.argv[1], sys.argv[2]) as state:
    state.save("model.pt", b"half-trained")
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_key_depends_on_section_source_and_inputs_only():
    assert len({KEY, OTHER, state_key("s", "b", {}), state_key("sb", "", {}), state_key("s", "b", {"a": "1"})}) == 5
    assert state_key("s", "d", {"a": "1", "b": "2"}) == state_key("s", "d", {"b": "2", "a": "1"})


def test_what_was_saved_is_there_after_a_failure(tmp_path):
    with pytest.raises(OutOfTime), State(tmp_path, KEY) as state:
        assert state.load("model.pt") is None and state.path("model.pt") is None
        state.save("model.pt", b"step 1")
        state.save("model.pt", b"step 2")
        state.save("large.bin", lambda path: path.write_bytes(b"written by a function"))
        raise OutOfTime("7 minutes left")
    with State(tmp_path, KEY) as state:
        assert state.load("model.pt") == b"step 2"
        assert state.path("large.bin").read_bytes() == b"written by a function"


def test_success_clears_the_state_and_keeps_the_log(tmp_path):
    with State(tmp_path, KEY) as state:
        state.save("model.pt", b"done")
        state.log("loss 0.1")
        state.clear()
        assert state.load("model.pt") is None
    with State(tmp_path, KEY) as state:
        state.log("loss 0.2")
        lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["loss 0.1", "loss 0.2"]


def test_a_failed_save_keeps_the_last_good_checkpoint(tmp_path):
    def half(path: Path) -> None:
        path.write_bytes(b"ha")
        raise OSError(28, "No space left on device")

    with State(tmp_path, KEY) as state:
        state.save("model.pt", b"good")
        with pytest.raises(OSError, match="disk full"):
            state.save("model.pt", half)
        assert state.load("model.pt") == b"good"


def test_another_key_finds_nothing_and_the_stale_state_is_removed(tmp_path):
    (tmp_path / "notes of the user").mkdir()
    with State(tmp_path, KEY) as state:
        state.save("model.pt", b"old weights")
    with State(tmp_path, OTHER) as state:
        assert state.load("model.pt") is None
    assert not (tmp_path / KEY).exists()
    assert (tmp_path / "notes of the user").is_dir()  # only folders named by a key are ever deleted


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path), KEY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=rf"in use by process {first.pid} on .*Wait for it"), State(tmp_path, KEY):
            pass
        with pytest.raises(InputError, match="in use"), State(tmp_path, OTHER):
            pass
        first.kill()
    with State(tmp_path, KEY) as state:  # a killed process holds no lock, and its state is whole
        assert state.load("model.pt") == b"half-trained"


def test_the_same_process_cannot_enter_twice(tmp_path):
    with State(tmp_path, KEY), pytest.raises(InputError, match="in use"), State(tmp_path, KEY):
        pass
    with State(tmp_path, KEY) as state:
        assert state.load("failed.json") is None  # being refused is no failure of the work itself


@pytest.mark.parametrize("error", [InputError("NaN in data.nc"), NonFiniteError("loss is NaN at step 3")])
def test_a_permanent_failure_is_repeated_at_once_with_its_checkpoint_kept(tmp_path, monkeypatch, error):
    with pytest.raises(type(error)), State(tmp_path, KEY) as state:
        state.save("model.pt", b"last good")
        raise error
    with pytest.raises(InputError, match=rf"(?s){error}.*recorded failure.*{RETRY_VARIABLE}=1"), State(tmp_path, KEY):
        pytest.fail("the body must not run")
    monkeypatch.setenv(RETRY_VARIABLE, "1")
    with State(tmp_path, KEY) as state:
        assert state.load("model.pt") == b"last good"
    monkeypatch.delenv(RETRY_VARIABLE)
    with State(tmp_path, KEY) as state:
        assert state.load("failed.json") is None


def test_a_changed_run_forgets_the_failure(tmp_path):
    with pytest.raises(InputError), State(tmp_path, KEY):
        raise InputError("wrong")
    with State(tmp_path, OTHER) as state:
        assert state.load("failed.json") is None


@pytest.mark.parametrize(
    "error", [OutOfTime("soon"), RuntimeError("bug"), OSError(28, "disk full"), KeyboardInterrupt()]
)
def test_other_errors_are_logged_and_not_repeated(tmp_path, error):
    with pytest.raises(type(error)), State(tmp_path, KEY):
        raise error
    with State(tmp_path, KEY) as state:
        assert state.load("failed.json") is None
    assert type(error).__name__ in (tmp_path / "log").read_text()
