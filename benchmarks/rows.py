"""What every benchmark ends in: rows of claim, value, standard error, target and verdict."""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import random
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
N_RESAMPLES = 400
LARGEST_ERROR = 0.05  # of the value: with a larger standard error there is no verdict


@dataclass(frozen=True)
class Row:
    """One number. `holds`: value ≤ target; None without a target, on a loaded machine or with too large an error."""

    claim: str
    value: float
    stderr: float
    target: float | None = None
    holds: bool | None = None


Statistic = Callable[[Sequence[int]], float]  # of the rounds with these numbers


def estimate(statistic: Statistic, sittings: Sequence[int], seed: int = 0) -> tuple[float, float]:
    """The statistic of all rounds, and its standard error by bootstrap over sittings and rounds within them.

    Args:
        statistic: of a choice of rounds.
        sittings: rounds of each sitting. Where its arrays come to lie makes each process a little faster or slower
            for good, so rounds of one sitting are not independent.
    """
    draw, ends = random.Random(seed), list(itertools.accumulate(sittings))
    members = [range(end - size, end) for end, size in zip(ends, sittings, strict=True)]

    def resample() -> list[int]:
        chosen = draw.choices(members, k=len(members))
        return [index for rounds in chosen for index in draw.choices(rounds, k=len(rounds))]

    return statistic(range(ends[-1])), statistics.stdev(statistic(resample()) for _ in range(N_RESAMPLES))


def in_parallel(work: Callable[..., Any], arguments: Iterable[Sequence[object]]) -> list[Any]:
    """work(*a) for each, in as many processes of one thread as there are cores; for numbers that no clock decides.

    Args:
        work: a function of a module; its arguments and answers travel between processes.
    """
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), _alone) as pool:
        return list(pool.map(work, *zip(*arguments, strict=True)))


def _alone() -> None:
    import torch

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)


def judged(claim: str, statistic: Statistic, sittings: Sequence[int], target: float | None, quiet: bool) -> Row:
    """The row of a statistic over rounds, with a verdict where one can be given."""
    value, stderr = estimate(statistic, sittings)
    can_tell = target is not None and quiet and stderr <= LARGEST_ERROR * abs(value)
    return Row(claim, value, stderr, target, value <= target if can_tell and target is not None else None)


def verdict(row: Row) -> str:
    if row.target is None:
        return ""
    return {None: "no verdict", True: "holds", False: "DOES NOT HOLD"}[row.holds]


def text(rows: Sequence[Row]) -> str:
    """The rows as lines for a terminal."""
    width = max(len(row.claim) for row in rows)
    lines = [f"{'claim':{width}}  {'value':>9} {'± s.e.':>8} {'target':>8}  verdict"]
    for row in rows:
        target = "" if row.target is None else f"{row.target:.3g}"
        lines.append(f"{row.claim:{width}}  {row.value:9.3g} {row.stderr:8.2g} {target:>8}  {verdict(row)}".rstrip())
    return "\n".join(lines)


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| claim | value | s.e. | target | verdict |", "|---|---:|---:|---:|---|"]
    for row in rows:
        target = "" if row.target is None else f"{row.target:.3g}"
        lines.append(f"| {row.claim} | {row.value:.3g} | {row.stderr:.2g} | {target} | {verdict(row)} |")
    return "\n".join(lines)


def write(file: Path, rows: Sequence[Row], **facts: object) -> None:
    """One JSON object: what was measured, where and when, and its rows."""
    file.parent.mkdir(parents=True, exist_ok=True)
    found = {**facts, "rows": [asdict(row) for row in rows]}
    lines = (f" {json.dumps(key)}: {_by_line(value)}" for key, value in found.items())
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _by_line(value: object) -> str:
    """JSON with a line for each entry of a list: a table of numbers is read and compared row by row."""
    if not isinstance(value, list) or not value:
        return json.dumps(value, ensure_ascii=False)
    return "[\n  " + ",\n  ".join(json.dumps(entry, ensure_ascii=False) for entry in value) + "\n ]"


def record(name: str, shown: str, rows: Sequence[Row], **facts: object) -> None:
    """Keep a result under its date in results/, and show it in README.md between the two markers of its benchmark."""
    write(HERE / "results" / f"{name}-{facts['date']}.json", rows, **facts)
    readme, begin, end = HERE / "README.md", f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, _, rest = readme.read_text().partition(begin)
    readme.write_text(f"{before}{begin}{shown}\n{end}{rest.partition(end)[2]}")


def libraries(facts: Mapping[str, object]) -> str:
    """The versions in words."""
    versions = facts["versions"]
    assert isinstance(versions, dict)
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def asked(description: str | None, quick: str, models: Iterable[str] = ()) -> argparse.Namespace:
    """The options of a benchmark that no clock decides, read from the command line, with the time at which it began.

    Args:
        description: what the benchmark says of itself.
        quick: what `--quick` does.
        models: those of which one can be asked for alone.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--record", action="store_true", help="write what the documentation shows of it")
    if models:
        said = "measure this model alone; a record keeps the other rows of the record before"
        parser.add_argument("--model", choices=list(models), help=said)
    parser.set_defaults(begun=time.monotonic())
    return parser.parse_args()


def conclude(
    name: str, rows: Sequence[Row], libraries_used: Mapping[str, str], where: str, options: argparse.Namespace
) -> None:
    """Print the rows of a benchmark that no clock decides, with what it cost; write and record them as `report`."""
    cost: dict[str, object] = {"seconds": round(time.monotonic() - options.begun, 1)}
    cost |= {"cpu_seconds": round(time.process_time(), 1)}
    _end(name, rows, libraries_used, where, options, f"{cost['cpu_seconds']} CPU s", "", cost)


def report(
    name: str,
    rows: Sequence[Row],
    spent: str | int,
    libraries_used: Mapping[str, str],
    where: str,
    disturbance: tuple[str, bool],
    options: argparse.Namespace,
) -> None:
    """Print the rows of a benchmark that timed something, and write and record them where its options say so.

    Args:
        name: of the benchmark and of its file.
        rows: what was found.
        spent: rounds that were timed, or in words what it took.
        libraries_used: library -> version.
        where: the machine in words.
        disturbance: of `machine.Watch`.
        options: of the command line, with `json` and `record`.
    """
    words, quiet = disturbance
    facts: dict[str, object] = {"rounds": spent} if isinstance(spent, int) else {}
    facts |= {"during the run": words, "quiet": quiet}
    spent = f"{spent} rounds" if isinstance(spent, int) else spent
    _end(name, rows, libraries_used, where, options, spent, f"During the run: {words}.", facts)


def _end(
    name: str,
    rows: Sequence[Row],
    libraries_used: Mapping[str, str],
    where: str,
    options: argparse.Namespace,
    spent: str,
    circumstances: str,
    more: Mapping[str, object],
) -> None:
    """The end of every benchmark: rows on the terminal, in a file, in the record."""
    facts: dict[str, object] = {"benchmark": name, "date": datetime.date.today().isoformat(), "machine": where}
    facts |= {
        "command": shlex.join(["python", f"benchmarks/{name}.py", *sys.argv[1:]]),
        "versions": dict(libraries_used),
    }
    facts |= more
    if options.json:
        write(options.json, rows, **facts)
    if options.record:
        said = f"{facts['date']}, `{facts['command']}`, {spent}. {where}; {libraries(facts)}. {circumstances}"
        record(name, f"{said.rstrip()}\n\n{markdown(rows)}", rows, **facts)
    print("\n".join(filter(None, [where, circumstances, "", text(rows)])))
