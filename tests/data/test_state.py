"""State survives failures, never mixes keys, is held by one process, and remembers what cannot succeed."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sciflow.data.state import State, alone, state_key
from sciflow.errors import InputError, LaunchError, NonFiniteError, OutOfTime, Terminated
from sciflow.memory import RETRY_VARIABLE, megabytes
from sciflow.progress import terminable

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


def test_a_package_that_was_missing_is_asked_for_again(tmp_path):
    with pytest.raises(InputError), State(tmp_path, KEY):
        try:
            import no_such_package  # noqa: F401
        except ImportError:
            raise InputError("pip install no_such_package") from None
    with State(tmp_path, KEY) as state:
        assert state.load("failed.json") is None


@pytest.mark.parametrize("content", ["", '{"message": "wr', "[]", "{}"])
def test_a_damaged_record_of_a_failure_is_forgotten(tmp_path, content):
    with pytest.raises(InputError), State(tmp_path, KEY):
        raise InputError("wrong")
    (tmp_path / KEY / "failed.json").write_text(content)
    with State(tmp_path, KEY) as state:
        assert state.load("failed.json") is None
    assert "failed.json is damaged" in (tmp_path / "log").read_text()


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


# --- who was killed ---------------------------------------------------------------------------------------------------


def attempt(folder: Path, end: str) -> None:
    """A process that works there and comes to its end in this way."""
    code = (
        f"import os, sys\nfrom sciflow.data.state import State\nwith State(sys.argv[1], '{KEY}') as state:\n    {end}\n"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=False, stderr=subprocess.DEVNULL)


def test_only_those_that_were_killed_get_more_memory(tmp_path):
    def asked(attempt: int) -> int:
        return megabytes(1000, tmp_path, attempt)

    assert [asked(1), asked(2)] == [1000, 1000]
    for word in ("raise SystemExit(75)", "raise ValueError", "raise KeyboardInterrupt"):
        attempt(tmp_path, word)
    assert asked(4) == 1000
    attempt(tmp_path, "os.kill(os.getpid(), 9)")
    assert [asked(n) for n in (1, 2, 3)] == [1000, 2000, 2000]
    attempt(tmp_path, "os.kill(os.getpid(), 9)")
    assert [asked(n) for n in (1, 2, 3, 4)] == [1000, 2000, 4000, 4000]
    attempt(tmp_path, "raise SystemExit(75)")
    assert asked(4) == 4000, "what was enough stays"
    attempt(tmp_path, "state.clear()")
    assert asked(4) == 1000


def test_what_is_over_in_seconds_gets_more_memory_after_every_kill(tmp_path):
    def ended(by: str) -> list[int]:
        code = "import os, sys\nfrom pathlib import Path\nfrom sciflow.data.state import alone\n"
        code += f"with alone(Path(sys.argv[1])):\n    {by}\n"
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, stderr=subprocess.DEVNULL)
        return [megabytes(1000, tmp_path, n) for n in (1, 2, 3, 4)]

    assert ended("os.kill(os.getpid(), 9)") == [1000, 2000, 2000, 2000]
    assert ended("os.kill(os.getpid(), 9)") == [1000, 2000, 4000, 4000]
    assert ended("os.kill(os.getpid(), 9)") == [1000, 2000, 4000, 8000]
    assert ended("pass") == [1000, 1000, 1000, 1000]


def test_each_process_that_left_no_name_of_its_own_counts(tmp_path):
    """Lines that a job adds for those that were killed before they stood there, or refused memory."""
    for n, asked in enumerate((2000, 4000, 8000), 1):
        (tmp_path / "holder").write_text("\na process of this job" * n)
        assert megabytes(1000, tmp_path, 4) == asked
    with State(tmp_path, KEY):
        assert (tmp_path / "killed").read_text() == "3"
    assert (tmp_path / "log").read_text().count("a process of this job") == 3
    assert len((tmp_path / "log").read_text().splitlines()) == 1
    assert megabytes(1000, tmp_path, 4) == 8000


def test_what_passes_is_not_recorded(tmp_path):
    """A file that could not be read, because of the server and not of the file, may be read at the next attempt."""
    with pytest.raises(InputError), State(tmp_path, KEY):
        try:
            raise OSError(errno.ESTALE, "Stale file handle")
        except OSError as error:
            raise InputError("a.npz is damaged") from error
    with State(tmp_path, KEY) as state:
        assert state.path("failed.json") is None


def test_a_full_disk_is_no_kill(tmp_path, monkeypatch):
    """What cannot be written, log and record, does not keep the name from going."""

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError), State(tmp_path, KEY) as state:
        monkeypatch.setattr("sciflow.data.state._log", full)
        monkeypatch.setattr(State, "save", full)
        raise InputError("wrong")
    assert not (tmp_path / "holder").exists() and megabytes(1000, tmp_path, 2) == 1000
    assert state.path("failed.json") is None


def test_how_it_was_started_is_no_failure_for_good(tmp_path):
    with pytest.raises(LaunchError), State(tmp_path, KEY):
        raise LaunchError("more ranks than rows")
    with State(tmp_path, KEY):
        pass


def test_what_does_not_get_in_leaves_no_name(tmp_path):
    """A failure that is repeated, and a SIGTERM on the way in: nobody was killed."""
    with pytest.raises(InputError, match="wrong"), State(tmp_path, KEY):
        raise InputError("wrong")
    with pytest.raises(InputError, match="recorded failure"), State(tmp_path, KEY):
        pytest.fail("the body must not run")
    assert not (tmp_path / "holder").exists() and megabytes(1000, tmp_path, 2) == 1000
    (tmp_path / KEY / "failed.json").unlink()
    with terminable(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(State, "_remove_stale", lambda self: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Terminated), State(tmp_path, KEY):
            pytest.fail("the body must not run")
    assert not (tmp_path / "holder").exists() and megabytes(1000, tmp_path, 2) == 1000
    with State(tmp_path, KEY):
        pass


@pytest.mark.parametrize("kind", ["state", "alone"])
def test_sigterm_on_the_way_out_does_not_leave_the_name(tmp_path, kind):
    """Neither the first one, nor a second one after what it had raised."""
    holder, unlink = tmp_path / "holder", Path.unlink

    def unlinked(path, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        unlink(path, **options)

    for is_second in (False, True):
        with terminable(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "unlink", unlinked)
            with contextlib.suppress(Terminated), State(tmp_path, KEY) if kind == "state" else alone(tmp_path):
                if is_second:
                    os.kill(os.getpid(), signal.SIGTERM)
                assert holder.exists()
        assert not holder.exists()


def test_a_count_of_kills_that_a_full_disk_left_empty_starts_anew(tmp_path):
    (tmp_path / "killed").touch()
    assert megabytes(1000, tmp_path, 4) == 1000
    attempt(tmp_path, "os.kill(os.getpid(), 9)")
    assert megabytes(1000, tmp_path, 4) == 2000
    attempt(tmp_path, "raise SystemExit(75)")
    assert (tmp_path / "killed").read_text() == "1"


def test_a_stage_without_a_state_has_one_process(tmp_path):
    """As with a state: refused while the other lives, whichever of the two kinds it is, and never after its end."""
    with alone(tmp_path):
        for other in (alone(tmp_path), State(tmp_path, KEY)):
            with pytest.raises(InputError, match=rf"in use by process {os.getpid()} on .*Wait for it"), other:
                pytest.fail("two at once")
    with pytest.raises(OSError, match="disk"), alone(tmp_path):
        raise OSError(28, "disk full")
    assert not (tmp_path / "holder").exists()


def test_a_refused_duplicate_asks_for_no_more(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path), KEY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as orphan:
        assert orphan.stdout.readline() == "held\n"
        attempt(tmp_path, "pass")
        assert megabytes(1000, tmp_path, 2) == 1000
        orphan.kill()
