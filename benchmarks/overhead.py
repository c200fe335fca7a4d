"""What a solver costs besides the network: sciflow, diffusers, azula and k-diffusion in one interleaved run.

    python benchmarks/overhead.py [--quick] [--json FILE] [--record] [--no-peers] [--peers PYTHON]

(a) Overhead per network call with a trivial denoiser on one 64 x 64 image: a whole run of 20 steps, planning included,
    less the 20 calls alone, divided by 20. Target: at most a third of the best peer of the same order.
(b) 10 000 x 64 particles of a Gaussian mixture of 40 components: a whole run over its 20 score calls alone. Target: at
    most 1.2, and at most 1.1 times a loop written by hand. Twice: as Python starts, and with the malloc settings of
    the Makefile, for all libraries alike.

Each library runs in a process of its own environment; the processes take turns within a round, at one thread, and
start anew for each sitting. Values are medians over rounds of paired ratios or differences of CPU time (wall time
where said), with a bootstrap standard error over sittings and rounds. There is no verdict on a machine that does other
work, or where the standard error exceeds 5 % of the value.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import machine
from rows import Row, Statistic, judged, libraries, markdown, record, text, write

HERE = Path(__file__).resolve().parent
PEERS = HERE.parent / ".venv-peers/bin/python"
MALLOC = {  # what the Makefile exports
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "2147483647",
    "MALLOC_TOP_PAD_": "67108864",
}
SETTINGS = {"default malloc": {}, "Makefile's malloc": MALLOC}
N_STEPS = 20
THIRD, MOST, MOST_BY_HAND = 1 / 3, 1.2, 1.1
CLASSES = {  # our solver → the peers' solvers of the same order
    "sciflow 2M": ("k-diffusion 2M", "azula 2M", "diffusers 2M"),
    "sciflow AB3": ("k-diffusion AB3 (lms)", "k-diffusion 3M", "azula AB3", "diffusers 3M", "diffusers AB3 (DEIS)"),
}
NAMES = {
    "sciflow 2M": "order 2, data frame",
    "sciflow AB3": "order 3, noise frame",
    "sciflow ABM3": "order 3, noise frame, corrected",
}
MEANINGS = {"by hand 2M": "by hand, order 2, coefficients given"}
Rounds = list[dict[str, tuple[float, float]]]  # per round: variant → CPU and wall seconds of one run
CPU, WALL = 0, 1
SITTINGS = {True: (2, 10.0), False: (6, 40.0)}  # quick or not → how often all processes start anew, seconds each time


class Worker:
    """A process that measures when asked."""

    def __init__(self, python: str, side: str, setting: str) -> None:
        own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        environment = own | SETTINGS[setting] | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        command = [python, str(HERE / "overhead_worker.py"), side]
        self.process = subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.side, self.setting, self.cpu = side, setting, 0.0

    def answer(self) -> dict:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process that measures {self.side} ended early; its message stands above.")
        found = json.loads(line)
        self.cpu = found["cpu"]
        return found

    def measure(self, case: str, index: int) -> dict[str, tuple[float, float]]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"case": case, "round": index}) + "\n")
        self.process.stdin.flush()
        return {f"{self.side}: {k}" if k == "calls" else k: v for k, v in self.answer()["seconds"].items()}


def measured(workers: Sequence[Worker], seconds: float) -> dict[tuple[str, str], Rounds]:
    """(case, malloc setting) → rounds, until the time is over, at least three. Small cases need one setting only."""
    first = workers[0].setting
    plan = [("float32", first), ("float64", first)] + [("particles", setting) for setting in SETTINGS]
    rounds: dict[tuple[str, str], Rounds] = {key: [] for key in plan}
    stop, index = time.monotonic() + seconds, 0
    while index < 3 or time.monotonic() < stop:
        for case, setting in plan:
            found: dict[str, tuple[float, float]] = {}
            for worker in workers:
                if worker.setting == setting:
                    found |= worker.measure(case, index)
            rounds[case, setting].append(found)
        index += 1
    return rounds


def side(name: str) -> str:
    return "ours" if name.startswith(("sciflow", "by hand")) else "peers"


def overhead(found: dict[str, tuple[float, float]], name: str, clock: int) -> float:
    """Seconds per network call besides the call, in one round; at least a nanosecond, so that ratios exist."""
    return max((found[name][clock] - found[f"{side(name)}: calls"][clock]) / N_STEPS, 1e-9)


def of_rounds(rounds: Rounds, value: Callable[[dict], float]) -> Statistic:
    values = [value(found) for found in rounds]
    return lambda chosen: statistics.median(values[i] for i in chosen)


def best(rounds: Rounds, ours: str, peers: Sequence[str], clock: int) -> Statistic:
    """Ours over the best peer: the largest of the median ratios."""
    ratios = [[overhead(r, ours, clock) / overhead(r, peer, clock) for r in rounds] for peer in peers]
    return lambda chosen: max(statistics.median(of_peer[i] for i in chosen) for of_peer in ratios)


def overhead_rows(case: str, rounds: Rounds, sittings: Sequence[int], quiet: bool) -> list[Row]:
    """(a) for one precision: ours over the best peer, then every library in microseconds."""
    found = []
    for ours, peers in CLASSES.items():
        present = [peer for peer in peers if peer in rounds[0]]
        for clock, word in ((CPU, "CPU"), (WALL, "wall")) if present else ():
            claim = f"(a) {case}, {NAMES[ours]}: overhead over that of the best peer, {word} time"
            found.append(judged(claim, best(rounds, ours, present, clock), sittings, THIRD, quiet))
    for name in rounds[0]:
        if not name.endswith("calls"):
            claim = f"(a) {case}, {described(name)}: overhead per call [µs]"
            value = of_rounds(rounds, lambda r, name=name: 1e6 * overhead(r, name, CPU))
            found.append(judged(claim, value, sittings, None, quiet))
    return found


def whole_rows(setting: str, rounds: Rounds, sittings: Sequence[int], quiet: bool) -> list[Row]:
    """(b) for one malloc setting: whole run over score calls alone, and ours over what a loop by hand takes."""
    found = []
    for name in rounds[0]:
        if not name.endswith("calls"):
            claim = f"(b) {setting}, {described(name)}: whole run over score calls"
            target = MOST if name == "sciflow 2M" else None
            value = of_rounds(rounds, lambda r, name=name: r[name][CPU] / r[f"{side(name)}: calls"][CPU])
            found.append(judged(claim, value, sittings, target, quiet))
    claim = f"(b) {setting}, sciflow, {NAMES['sciflow 2M']}: whole run over that by hand"
    value = of_rounds(rounds, lambda r: r["sciflow 2M"][CPU] / r["by hand 2M"][CPU])
    return [*found, judged(claim, value, sittings, MOST_BY_HAND, quiet)]


def described(name: str) -> str:
    return f"sciflow, {NAMES[name]}" if name in NAMES else MEANINGS.get(name, name)


def sitting(peers: str | None, seconds: float) -> tuple[dict[tuple[str, str], Rounds], dict[str, str], float]:
    """Rounds, versions and CPU seconds used, with all processes started for it."""
    sides = [(sys.executable, "ours")] + ([(peers, "peers")] if peers else [])
    workers = [Worker(python, name, setting) for setting in SETTINGS for python, name in sides]
    try:
        versions: dict[str, str] = {}
        for worker in workers:
            versions |= worker.answer()["versions"]
        return measured(workers, seconds), versions, sum(worker.cpu for worker in workers)
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.wait()


def run(peers: str | None, n_sittings: int, seconds: float) -> tuple[list[Row], dict[str, object]]:
    """All rows, and the facts that go with them."""
    watch, own = machine.Watch(), -time.process_time()
    rounds: dict[tuple[str, str], Rounds] = {}
    sittings = []
    for _ in range(n_sittings):
        found, versions, used = sitting(peers, seconds)
        for key, of_case in found.items():
            rounds.setdefault(key, []).extend(of_case)
        sittings.append(len(of_case))
        own += used
    words, quiet = watch.disturbance(own + time.process_time())
    rows: list[Row] = []
    for (case, setting), of_case in rounds.items():
        if case == "particles":
            rows += whole_rows(setting, of_case, sittings, quiet)
        else:
            rows += overhead_rows(case, of_case, sittings, quiet)
    facts = {"machine": machine.in_words(), "versions": versions, "during the run": words, "quiet": quiet}
    return rows, facts | {"rounds": sum(sittings), "sittings": n_sittings}


def by_library(rows: Sequence[Row]) -> str:
    """The rows without a target as one Markdown table: a line per library, a column per setting."""
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        setting, _, rest = row.claim.partition(", ")
        if row.target is None:
            cells.setdefault(rest.partition(":")[0], {})[setting] = f"{row.value:.3g} ± {row.stderr:.1g}"
    settings = list(dict.fromkeys(setting for line in cells.values() for setting in line))
    lines = [f"| | {' | '.join(settings)} |", "|---" * (len(settings) + 1) + "|"]
    return "\n".join(
        lines + [f"| {name} | {' | '.join(line.get(s, '') for s in settings)} |" for name, line in cells.items()]
    )


def shown(rows: list[Row], facts: dict[str, object]) -> str:
    """What README.md says of it."""
    size = f"{facts['rounds']} rounds in {facts['sittings']} sittings"
    said = f"{facts['date']}, `{facts['command']}`, {size}. {facts['machine']}; {libraries(facts)}."
    judged_rows = markdown([row for row in rows if row.target is not None])
    units = "(a) in µs of overhead per call, (b) as whole run over score calls:"
    return f"{said} During the run: {facts['during the run']}.\n\n{judged_rows}\n\n{units}\n\n{by_library(rows)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less than a minute in all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/ and benchmarks/README.md")
    parser.add_argument("--no-peers", action="store_true", help="sciflow alone")
    parser.add_argument("--peers", default=str(PEERS), metavar="PYTHON", help="Python of the peers' environment")
    parser.add_argument("--sittings", type=int, help="how often all processes start anew (default: 6, quick 2)")
    parser.add_argument("--seconds", type=float, help="time for the rounds of a sitting (default: 40, quick 10)")
    options = parser.parse_args()
    if not options.no_peers and not Path(options.peers).exists():
        print(f"There is no {options.peers}. Run `make peers`, or pass --no-peers.", file=sys.stderr)
        return 2
    n_sittings, seconds = SITTINGS[options.quick]
    peers = None if options.no_peers else options.peers
    rows, facts = run(peers, options.sittings or n_sittings, options.seconds or seconds)
    command = " ".join(["python benchmarks/overhead.py", *sys.argv[1:]])
    facts = {"benchmark": "overhead", "date": datetime.date.today().isoformat(), "command": command} | facts
    if options.json:
        write(options.json, rows, **facts)
    if options.record:
        record("overhead", shown(rows, facts), rows, **facts)
    print(
        f"{facts['machine']}; {facts['rounds']} rounds in {facts['sittings']} sittings",
        f"During the run: {facts['during the run']}.",
        sep="\n",
        end=" ",
    )
    print("\n" if facts["quiet"] else "No verdict: the machine was not quiet.\n")
    print(text(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
