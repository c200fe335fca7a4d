"""What a solver costs besides the network: sciflow, diffusers, azula and k-diffusion in one interleaved run.

    python benchmarks/overhead.py [--quick] [--json FILE] [--record] [--no-peers] [--peers PYTHON] [--seconds S]

(a) Overhead per network call with a trivial denoiser on one 64 x 64 image: a whole run of 20 steps, planning included,
    less the 20 calls alone, divided by 20. Target: at most a third of the best peer of the same order.
(b) 10 000 x 64 particles of a Gaussian mixture of 40 components: a whole run over its 20 score calls alone. Target: at
    most 1.2. Twice: as Python starts, and with the malloc settings of the Makefile, for all libraries alike.

Each library runs in a process of its own environment; the processes take turns within a round, at one thread. Values
are medians over rounds of paired ratios or differences of CPU time (wall time where said), with a bootstrap standard
error. There is no verdict on a machine that does other work, or where the standard error exceeds 5 % of the value.
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
from rows import Row, judged, markdown, text, write

HERE = Path(__file__).resolve().parent
PEERS = HERE.parent / ".venv-peers/bin/python"
MALLOC = {  # what the Makefile exports
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "2147483647",
    "MALLOC_TOP_PAD_": "67108864",
}
SETTINGS = {"default malloc": {}, "Makefile's malloc": MALLOC}
N_STEPS = 20
THIRD, MOST = 1 / 3, 1.2
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


def of_rounds(rounds: Rounds, value: Callable[[dict], float]) -> Callable[[Sequence[int]], float]:
    values = [value(found) for found in rounds]
    return lambda chosen: statistics.median(values[i] for i in chosen)


def best(rounds: Rounds, ours: str, peers: Sequence[str], clock: int) -> Callable[[Sequence[int]], float]:
    """Ours over the best peer: the largest of the median ratios."""
    ratios = [[overhead(r, ours, clock) / overhead(r, peer, clock) for r in rounds] for peer in peers]
    return lambda chosen: max(statistics.median(of_peer[i] for i in chosen) for of_peer in ratios)


def overhead_rows(case: str, rounds: Rounds, quiet: bool) -> list[Row]:
    """(a) for one precision: ours over the best peer, then every library in microseconds."""
    n, found = len(rounds), []
    for ours, peers in CLASSES.items():
        present = [peer for peer in peers if peer in rounds[0]]
        for clock, word in ((CPU, "CPU"), (WALL, "wall")) if present else ():
            claim = f"(a) {case}, {NAMES[ours]}: overhead over that of the best peer, {word} time"
            found.append(judged(claim, best(rounds, ours, present, clock), n, THIRD, quiet))
    for name in rounds[0]:
        if not name.endswith("calls"):
            claim = f"(a) {case}, {described(name)}: overhead per call [µs]"
            value = of_rounds(rounds, lambda r, name=name: 1e6 * overhead(r, name, CPU))
            found.append(judged(claim, value, n, None, quiet))
    return found


def whole_rows(setting: str, rounds: Rounds, quiet: bool) -> list[Row]:
    """(b) for one malloc setting: whole run over score calls alone."""
    found = []
    for name in rounds[0]:
        if not name.endswith("calls"):
            claim = f"(b) {setting}, {described(name)}: whole run over score calls"
            target = MOST if name == "sciflow 2M" else None
            value = of_rounds(rounds, lambda r, name=name: r[name][CPU] / r[f"{side(name)}: calls"][CPU])
            found.append(judged(claim, value, len(rounds), target, quiet))
    return found


def described(name: str) -> str:
    return f"sciflow, {NAMES[name]}" if name in NAMES else MEANINGS.get(name, name)


def run(peers: str | None, seconds: float) -> tuple[list[Row], dict[str, object]]:
    """All rows, and the facts that go with them."""
    sides = [(sys.executable, "ours")] + ([(peers, "peers")] if peers else [])
    workers = [Worker(python, name, setting) for setting in SETTINGS for python, name in sides]
    try:
        versions: dict[str, str] = {}
        for worker in workers:
            versions |= worker.answer()["versions"]
        watch, before = machine.Watch(), time.process_time() + sum(worker.cpu for worker in workers)
        rounds = measured(workers, seconds)
        own = time.process_time() + sum(worker.cpu for worker in workers) - before
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.wait()
    words, quiet = watch.disturbance(own)
    rows: list[Row] = []
    for (case, setting), found in rounds.items():
        rows += whole_rows(setting, found, quiet) if case == "particles" else overhead_rows(case, found, quiet)
    facts = {"machine": machine.in_words(), "versions": versions, "during the run": words, "quiet": quiet}
    return rows, facts | {"rounds": len(found)}


def record(rows: list[Row], facts: dict[str, object]) -> None:
    """Keep the result under its date, and show it in README.md between the two markers."""
    write(HERE / "results" / f"overhead-{facts['date']}.json", rows, **facts)
    readme, (begin, end) = HERE / "README.md", ("<!-- overhead -->\n", "<!-- /overhead -->")
    before, _, rest = readme.read_text().partition(begin)
    libraries = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())  # type: ignore[attr-defined]
    said = f"{facts['date']}, `{facts['command']}`, {facts['rounds']} rounds. {facts['machine']}; {libraries}."
    table = f"{said} During the run: {facts['during the run']}.\n\n{markdown(rows)}\n"
    readme.write_text(before + begin + table + end + rest.partition(end)[2])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less than a minute in all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/ and benchmarks/README.md")
    parser.add_argument("--no-peers", action="store_true", help="sciflow alone")
    parser.add_argument("--peers", default=str(PEERS), metavar="PYTHON", help="Python of the peers' environment")
    parser.add_argument("--seconds", type=float, help="time for the rounds (default: 240, or 25 with --quick)")
    options = parser.parse_args()
    if not options.no_peers and not Path(options.peers).exists():
        print(f"There is no {options.peers}. Run `make peers`, or pass --no-peers.", file=sys.stderr)
        return 2
    seconds = options.seconds if options.seconds is not None else 25 if options.quick else 240
    rows, facts = run(None if options.no_peers else options.peers, seconds)
    command = " ".join(["python benchmarks/overhead.py", *sys.argv[1:]])
    facts = {"benchmark": "overhead", "date": datetime.date.today().isoformat(), "command": command} | facts
    print(f"{facts['machine']}; {facts['rounds']} rounds\nDuring the run: {facts['during the run']}.", end=" ")
    print("\n" if facts["quiet"] else "No verdict: the machine was not quiet.\n")
    print(text(rows))
    if options.json:
        write(options.json, rows, **facts)
    if options.record:
        record(rows, facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
