"""Progress is shown without changing the loop, and a loop learns in time that it must stop."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time

import pytest

from sciflow import progress
from sciflow.errors import OutOfTime, Terminated
from sciflow.progress import deaf, ending, terminable, time_limit, told_to, track, within


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when told."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def lines(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_track_yields_everything_in_order():
    assert list(track(range(5), "count")) == [0, 1, 2, 3, 4]
    assert list(track(iter("abc"), "letters")) == ["a", "b", "c"]


def test_lines_tell_time_left_from_the_pace_since_the_start(clock, caplog):
    caplog.set_level(logging.INFO)
    for _ in track(range(20, 100), "train", done=20, status=lambda: "loss 1"):
        clock[0] += 3
    assert lines(caplog)[0] == "train: 30/100, 0:03:30 left  loss 1"  # 10 steps of 3 s; 70 more take 210 s
    assert lines(caplog)[-1] == "train: 100/100 in 0:04:00  loss 1"
    assert len(lines(caplog)) == 8  # one per tenth of the work, and the last


def test_a_short_loop_logs_one_line_and_a_slow_one_a_line_a_minute(clock, caplog):
    caplog.set_level(logging.INFO)
    list(track(range(50), "quick"))
    assert lines(caplog) == ["quick: 50/50 in 0:00:00"]
    caplog.clear()
    for _ in track(range(1000), "slow"):
        clock[0] += 2
    assert 30 <= len(lines(caplog)) <= 35  # 2000 s at 60 to 62 s each, and the last


def test_without_a_length_the_count_is_shown(clock, caplog):
    caplog.set_level(logging.INFO)
    for _ in track(iter(range(70)), "stream"):
        clock[0] += 1
    assert lines(caplog) == ["stream: 60", "stream: 70 in 0:01:10"]


def test_an_item_that_takes_long_is_told_of_meanwhile(clock):
    told = []
    with told_to(told.append):
        for _ in track(range(2), "sample"):
            for step in range(1, 11):
                clock[0] += 2
                within(step, 10)
    # every five seconds are over after three steps of 2 s
    parts = [(0, 0.3), (0, 0.6), (0, 0.9), (1, 0.2), (1, 0.5), (1, 0.8), (2, 0.0)]
    assert [(moment.done, moment.part) for moment in told] == parts
    assert told[1].facts() == {"what": "sample", "done": 0, "total": 2, "per_second": 0.05, "left": 28.0, "part": 0.6}
    within(1, 2)
    assert len(told) == 7, "no loop is running any more"


def test_a_terminal_gets_a_bar(monkeypatch, capsys, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    assert list(track(range(3), "draw", done=1, status=lambda: "ess 12")) == [0, 1, 2]
    shown = capsys.readouterr().err
    assert "draw" in shown and "4/4" in shown and "ess 12" in shown
    assert lines(caplog) == []


def test_time_limit_knows_its_deadline(clock):
    with time_limit(5.0) as is_over, time_limit(None) as is_never_over:
        assert not is_over()
        clock[0] = 5.0
        assert is_over() and not is_never_over()


def test_time_limit_hears_sigterm_and_gives_the_old_handler_back():
    before = signal.getsignal(signal.SIGTERM)
    with time_limit(None) as is_over:
        assert not is_over()
        os.kill(os.getpid(), signal.SIGTERM)
        assert is_over()
    assert signal.getsignal(signal.SIGTERM) is before


def test_time_limit_works_in_other_threads():
    seen = []

    def work():
        with time_limit(time.monotonic() - 1) as is_over:
            seen.append(is_over())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_ends_a_command_once_and_not_what_is_put_in_order_then():
    before, tidied = signal.getsignal(signal.SIGTERM), []
    with pytest.raises(Terminated, match="run the same command again") as ended, terminable():
        try:
            terminate()
            pytest.fail("it went on")
        finally:
            terminate()
            tidied.append(True)
    assert tidied and ended.value.code == 75 and not isinstance(ended.value, Exception)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_loop_hears_sigterm_first_and_passes_on_what_it_did_not_act_upon():
    done = []
    with pytest.raises(Terminated), terminable():
        with time_limit(None) as is_over:
            terminate()
            assert is_over()
            done.append("the loop")
        pytest.fail("it went on")
    assert done == ["the loop"]
    with pytest.raises(OutOfTime), terminable():
        try:
            with time_limit(None):
                terminate()
                raise OutOfTime("the state is saved")
        finally:
            terminate()  # a second one, as from a launcher
            done.append("put in order")
    assert done == ["the loop", "put in order"]


def test_deaf_moments_hear_nothing():
    with terminable():
        listener = signal.getsignal(signal.SIGTERM)
        with deaf():
            terminate()
            heard_by = signal.getsignal(signal.SIGTERM)
        assert heard_by is not listener and signal.getsignal(signal.SIGTERM) is listener
        with pytest.raises(Terminated):  # the first that is heard: the other left no trace
            terminate()


def test_work_without_steps_ends_at_its_deadline():
    with pytest.raises(Terminated, match="raise it"), terminable(), ending(time.monotonic() + 0.05, "raise it"):
        time.sleep(60)
    with pytest.raises(Terminated, match="raise it"), terminable(), ending(time.monotonic() - 1, "raise it"):
        pytest.fail("there is no time left")
    with terminable():
        for deadline in (None, time.monotonic() + 0.01, time.monotonic() + 60):
            with contextlib.suppress(Terminated), ending(deadline, ""):
                pass
        time.sleep(0.02)  # nothing rings after the block
    with ending(time.monotonic() - 1, ""):  # nobody listens: nobody is ended
        pass
