"""How accurate are solvers at equal network calls: sciflow, diffusers, azula, k-diffusion and torchdiffeq in one run.

    python benchmarks/solvers.py [--quick] [--json FILE] [--record] [--no-peers] [--peers PYTHON] [--other]
                                 [--network results/digits-inpainting/model.pt]

Problems: mixtures of 8 Gaussians with covariances of their own, an empirical law of 1797 digits, a Gaussian; exact
denoisers in float64, so that every error is the solver's own. All on one grid, σ from 80 to 0.002 with ρ = 7.
An error is the median over starts of the root mean square distance to the exact end from the same start; besides it
stand the share of starts that end in another mode, and the sliced W2 distance between the ends and the exact ends.
With `--network` a U-Net trained by `make run` is one more problem, in its float32, its end by 600 steps of RK4; and
draws of 10 calls of `auto` are compared with those of 100 calls of DDIM.

Claims: `auto` within twice the best row of any peer at every number of calls on every problem, and at 64 calls 1.8
times below it. Standard errors by bootstrap over the starts, which all solvers share. Errors do not depend on what else
the machine does; seconds (CPU time) do, and are for orientation. `--other` takes the problems on which the rule of
`auto` was chosen: other seeds, dimensions and widths, and tables of measurements that are not images.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import machine
import solvers_network
import torch
from rows import Row, libraries, markdown, record, text, write
from solvers_cases import BUDGETS, OTHER, REPORTED, exact, law, modes, sliced_w2, start
from torch import Tensor

HERE = Path(__file__).resolve().parent
PEERS = HERE.parent / ".venv-peers/bin/python"
N_STARTS, N_RESAMPLES = 256, 200
MORE = {"digits d=64": 2048}  # few calls lead half of its starts to another digit, and the median lies at the edge
WITHIN, BELOW = 2.0, 1 / 1.8
AUTO, DDIM = "sciflow auto", "diffusers DDIM"
Key = tuple[str, str, int]  # problem, solver, calls at most
Measured = dict[Key, dict[str, float]]


def problems(
    table: Mapping[str, int], n: int, network: Path | None = None
) -> tuple[dict[str, tuple[dict, Tensor]], dict[str, Tensor]]:
    """The numbers and starts of each problem, and its exact ends."""
    given, ends, first = {}, {}, 1 if table is REPORTED else 101
    for seed, (name, dimension) in enumerate(table.items(), start=first):
        numbers = law(name, dimension, seed)
        given[name] = (numbers, start(numbers, MORE.get(name, n) if n == N_STARTS else n, seed + 50))
    if network:
        numbers = solvers_network.numbers(network, n // 2)
        given[solvers_network.NAME] = (numbers, start(numbers, n // 2, first + 70))
    for name, problem in given.items():
        ends[name] = exact(*problem)
    return given, ends


def runs(given: dict, budgets: tuple[int, ...], peers: str | None) -> tuple[dict[Key, tuple], dict[str, str]]:
    """(end, calls, seconds) of every solver, and the versions: each side in a process of its own, both at once."""
    found: dict[Key, tuple] = {}
    versions: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "problems.pt")
        torch.save({"problems": given, "budgets": budgets}, file)
        started = {}
        for python, side in [(sys.executable, "ours")] + ([(peers, "peers")] if peers else []):
            command = [python, HERE / "solvers_worker.py", side, file, Path(folder, f"{side}.pt")]
            started[side] = subprocess.Popen(command)
        for side, process in started.items():
            if process.wait():
                raise RuntimeError(f"the process that runs {side} ended early; its message stands above.")
            one = torch.load(Path(folder, f"{side}.pt"))
            found |= one["ends"]
            versions |= one["versions"]
    return found, versions


def medians(errors: Tensor, chosen: Tensor) -> Tensor:
    """Medians of per-start errors (starts,), over all starts and over each resampled choice (resamples, starts)."""
    return torch.cat([errors.median()[None], errors[chosen].median(1).values])


def measured(given: dict, ends: dict[str, Tensor], found: dict[Key, tuple]) -> tuple[Measured, dict[Key, Tensor]]:
    """Facts per run, and its median error over all starts and over resampled ones."""
    facts, spread = {}, {}
    for (problem, name, calls), (end, used, seconds) in found.items():
        numbers, exactly = given[problem][0], ends[problem]
        chosen = torch.randint(len(end), (N_RESAMPLES, len(end)), generator=torch.Generator().manual_seed(1))
        spread[problem, name, calls] = medians((end - exactly).square().mean(1).sqrt().nan_to_num(1e9), chosen)
        value = spread[problem, name, calls]
        facts[problem, name, calls] = {
            "error": float(value[0]),
            "stderr": float(value[1:].std()),
            "flips": float((modes(numbers, end) != modes(numbers, exactly)).double().mean()),
            "sliced_w2": sliced_w2(end, exactly),
            "calls": used,
            "seconds": seconds,
        }
    return facts, spread


def best_peer(facts: Measured, problem: str, calls: int) -> str | None:
    """The peers' row with the smallest error."""
    rows = {name: f["error"] for (p, name, c), f in facts.items() if (p, c) == (problem, calls)}
    peers = {name: error for name, error in rows.items() if not name.startswith("sciflow")}
    return min(peers, key=peers.__getitem__) if peers else None


def compared(claim: str, ours: Tensor, theirs: Tensor, target: float) -> Row:
    """The row of a ratio of medians over the same starts; a verdict where it is two standard errors from the target."""
    ratios = ours / theirs
    value, stderr = float(ratios[0]), float(ratios[1:].std())
    clear = abs(value - target) > 2 * stderr
    return Row(claim, value, stderr, target, value <= target if clear else None)


def claims(facts: Measured, spread: dict[Key, Tensor]) -> list[Row]:
    """`auto` over the best row of all peers, for each problem and number of calls."""
    found = []
    for problem, calls in dict.fromkeys((p, c) for p, _, c in facts):
        peer = best_peer(facts, problem, calls)
        if peer is None or (problem, AUTO, calls) not in spread:
            continue
        both = spread[problem, AUTO, calls], spread[problem, peer, calls]
        claim = f"{problem}, {calls} calls: error over that of the best peer, {peer}"
        found.append(compared(claim, *both, WITHIN))
        if calls == max(BUDGETS):
            found.append(compared(f"{problem}, {calls} calls: 1.8 times below the best peer", *both, BELOW))
    return found


def matrix(facts: Measured) -> str:
    """Errors as Markdown: a line per problem and solver (`auto`, the best of each library), a column per budget."""
    budgets = sorted({calls for *_, calls in facts})
    lines = [f"| problem | solver | {' | '.join(map(str, budgets))} |", "|---|---|" + "---:|" * len(budgets)]
    for problem in dict.fromkeys(p for p, *_ in facts):
        sides: dict[str, dict[int, float]] = {}
        for (p, name, calls), f in facts.items():
            label = name if name in (AUTO, DDIM) else f"best of {name.partition(' ')[0]}"
            if p == problem and label != "best of sciflow":
                line = sides.setdefault(label, {})
                line[calls] = min(line.get(calls, f["error"]), f["error"])
        for label, line in sides.items():
            cells = [f"{line[c]:.2g}" if c in line else "" for c in budgets]
            lines.append(f"| {problem} | {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def listed(table: Measured) -> dict[str, list]:
    """All runs as lines of numbers of four digits, and the names of their columns."""
    columns = ["problem", "solver", "budget", *next(iter(table.values()))]
    return {"columns": columns, "table": [[*key, *(float(f"{v:.4g}") for v in f.values())] for key, f in table.items()]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few starts and budgets: less than a minute in all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows and all errors there")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/, README.md and docs/images/")
    parser.add_argument("--no-peers", action="store_true", help="sciflow alone")
    parser.add_argument("--peers", default=str(PEERS), metavar="PYTHON", help="Python of the peers' environment")
    parser.add_argument("--network", type=Path, metavar="MODEL", help="a trained U-Net, results/…/model.pt")
    parser.add_argument("--other", action="store_true", help="the problems on which the rule of auto was chosen")
    options = parser.parse_args()
    if not options.no_peers and not Path(options.peers).exists():
        print(f"There is no {options.peers}. Run `make peers`, or pass --no-peers.", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    n, budgets = (16, (6, 32)) if options.quick else (N_STARTS, BUDGETS)
    given, ends = problems(OTHER if options.other else REPORTED, n, options.network)
    found, versions = runs(given, budgets, None if options.no_peers else options.peers)
    table, spread = measured(given, ends, found)
    rows = claims(table, spread) + (solvers_network.claims(options.network) if options.network else [])
    command = " ".join(["python benchmarks/solvers.py", *sys.argv[1:]])
    facts = {"benchmark": "solvers", "date": datetime.date.today().isoformat(), "command": command}
    facts |= {"machine": machine.in_words(), "versions": versions, "starts": n}
    if options.json:
        write(options.json, rows, **facts, **listed(table))
    if options.record:
        said = f"{facts['date']}, `{command}`, {n} starts. {libraries(facts)}."
        shown = f"{said}\n\n{markdown(rows)}\n\nMedian errors by calls:\n\n{matrix(table)}"
        record("solvers", shown, rows, **facts, **listed(table))
        from solvers_figure import draw

        draw(table, HERE.parent / "docs/images")
    print(matrix(table))
    if rows:
        print(text(rows))
    print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
