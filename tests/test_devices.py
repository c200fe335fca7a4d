"""Cards that nobody gives out are claimed one by one: no two processes hold the same, and none outlives its process."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sciflow import devices
from sciflow.devices import VISIBLE, cards, claimed
from sciflow.errors import InputError, OutOfTime

HOLD = """
import os, sys
from pathlib import Path
from sciflow.devices import claimed
with claimed(int(sys.argv[1]), os.environ, locks=Path(sys.argv[2]), nodes=Path(sys.argv[3])) as mine:
    print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def nodes(tmp_path: Path) -> Path:
    """A machine with three cards, and what else lies beside them."""
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm", "tty"):
        (tmp_path / "dev" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "dev" / name).touch()
    return tmp_path / "dev"


def holder(n: int, folder: Path, nodes: Path) -> subprocess.Popen[str]:
    call = [sys.executable, "-c", HOLD, str(n), str(folder / "locks"), str(nodes)]
    return subprocess.Popen(call, stdin=-1, stdout=-1, text=True)


def test_which_cards_there_are(nodes: Path) -> None:
    assert cards({}, nodes) == ["0", "1", "2"]
    assert cards({VISIBLE: "2, GPU-8f6c"}, nodes) == ["2", "GPU-8f6c"]
    assert cards({VISIBLE: ""}, nodes) == []


def test_processes_side_by_side_never_share_a_card(tmp_path: Path, nodes: Path) -> None:
    started = [holder(1, tmp_path, nodes) for _ in range(3)]
    held = [process.stdout.readline().strip() for process in started]
    assert sorted(held) == ["0", "1", "2"]
    with pytest.raises(OutOfTime, match="1 of the GPUs 0, 1, 2 did not become free"):
        claim(1, tmp_path, nodes, deadline=time.monotonic())
    started[1].send_signal(signal.SIGKILL)
    started[1].wait()
    assert claim(1, tmp_path, nodes) == [held[1]], "a killed process holds nothing"
    for process in started:
        process.communicate()


def claim(n: int, folder: Path, nodes: Path, deadline: float | None = None, **environment: str) -> list[str]:
    with claimed(n, environment, deadline, folder / "locks", nodes) as mine:
        return mine


def test_it_waits_for_a_card_and_takes_all_or_none(
    tmp_path: Path, nodes: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two of three are needed and one is free: that one stays free for others until the second is."""
    caplog.set_level("INFO")
    process = holder(2, tmp_path, nodes)
    assert process.stdout.readline() == "0,1\n"
    freed = []

    def free(seconds: float) -> None:
        freed.append(claim(1, tmp_path, nodes))
        process.communicate()

    monkeypatch.setattr(devices.time, "sleep", free)
    environment: dict[str, str] = {}
    with claimed(2, environment, None, tmp_path / "locks", nodes) as mine:
        assert mine == ["0", "1"] and environment == {VISIBLE: "0,1"}
    assert environment == {} and freed == [["2"]]
    assert caplog.messages == ["waiting for 2 of the GPUs 0, 1, 2: other sciflow jobs use them"]


def test_what_a_scheduler_gave_is_taken(tmp_path: Path, nodes: Path) -> None:
    given = {VISIBLE: "1", "SLURM_JOB_ID": "7"}
    for _ in range(2):
        assert claim(1, tmp_path, nodes, **given) == ["1"]
    assert [path.name for path in (tmp_path / "locks").iterdir()] == ["job-7-1"], "of the job, not of the machine"
    assert claim(2, tmp_path, nodes, **given) == ["1"], "fewer than asked for: torch says so"
    assert claim(1, tmp_path, nodes, SLURM_JOB_ID="7") == ["0"], "an allocation without cards of its own"


def test_jobs_inside_one_allocation_never_share_a_card(tmp_path: Path, nodes: Path) -> None:
    """Snakemake inside `salloc --gpus=2`; another job's cards have the same numbers and are others."""
    for job in ("7", "8"):
        inside = {VISIBLE: "0,1", "SLURM_JOB_ID": job}
        one, other = (claimed(1, dict(inside), None, tmp_path / "locks", nodes) for _ in range(2))
        with one as first, other as second:
            assert (first, second) == (["0"], ["1"])
            with pytest.raises(OutOfTime, match="1 of the GPUs 0, 1 did not become free"):
                claim(1, tmp_path, nodes, deadline=time.monotonic(), **inside)
            with pytest.raises(OutOfTime, match="2 of the GPUs 0, 1 did not become free"):
                claim(2, tmp_path, nodes, deadline=time.monotonic(), **inside)


def test_no_card_is_no_claim_and_too_few_are_said(tmp_path: Path, nodes: Path) -> None:
    assert claim(0, tmp_path, nodes) == []
    assert claim(1, tmp_path, tmp_path / "nothing") == []  # torch says that there is no device
    with pytest.raises(InputError, match=r"4 GPUs are asked for, but this process sees 3: 0, 1, 2. Set `resources"):
        claim(4, tmp_path, nodes)
    with pytest.raises(InputError, match="2 GPUs are asked for, but this process sees 1: 2"):
        claim(2, tmp_path, nodes, **{VISIBLE: "2"})
