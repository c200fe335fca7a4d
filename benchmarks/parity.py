"""Do solvers of the same name do the same? sciflow beside diffusers, k-diffusion and azula, in float64.

    python benchmarks/parity.py [--json FILE] [--record] [--no-peers] [--peers PYTHON]

(a) The same run, a mixture of three components from σ = 80 to 0.002 in 20 steps, through a peer and through ours: the
    largest difference between their ends. Target: 1e-12, rounding; 1e-5 where the peer rounds the state to float32.
(b) Where published code is not what it is called: its measured order, beside that of ours.

The peers run in a process of their own environment. Nothing is timed, so any machine will do.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import machine
import torch
from parity_cases import (
    DIMENSION,
    N_STEPS,
    ORDERS,
    SHORT,
    SIGMA_MIN,
    geometric,
    karras,
    mixture,
    noise,
    parabola,
    start,
)  # fmt: skip
from rows import Row, libraries, markdown, record, text, write
from torch import Tensor

import sciflow.solvers as s
from sciflow.diffusion.denoiser import FromView
from sciflow.diffusion.flow import probability_flow
from sciflow.diffusion.schedule import EDM

HERE = Path(__file__).resolve().parent
PEERS = HERE.parent / ".venv-peers/bin/python"
EXACT, SINGLE = 1e-12, 1e-5  # a float32 state is rounded by 6e-8 in each of 20 steps, and the flow stretches that
LAST_ORDER = 0.15  # by which a measured order may miss
Ends = dict[str, Tensor]
Function = Callable[[Tensor, float], Tensor]

KARRAS = {  # what a peer calls it → ours, and how far they may differ
    "k-diffusion euler": (s.DDIM(), EXACT),
    "k-diffusion euler_ancestral": (s.DDPM(), EXACT),
    "k-diffusion euler_ancestral, eta = 0.6": (s.DDIM(0.6), EXACT),
    "k-diffusion lms, order 3": (s.DEIS(3, "ratio"), EXACT),
    "k-diffusion lms, order 4": (s.IPNDMv(4), EXACT),
    "k-diffusion dpmpp_2s, eta = 0": (s.DPMSolverPP2S(), EXACT),
    "k-diffusion dpmpp_2m": (s.DPMSolverPP2M(), EXACT),
    "k-diffusion dpmpp_2m_sde": (s.SDEDPMSolverPP2M(), EXACT),
    "k-diffusion dpmpp_2m_sde, eta = 0.5": (s.SDEDPMSolverPP2M(math.sqrt(0.5)), EXACT),  # its eta is our η²
    "k-diffusion dpmpp_3m, eta = 0": (s.DPMSolverPP3MPublished(), EXACT),
    "diffusers DPM 2M, midpoint": (s.DPMSolverPP2M(), SINGLE),
    "diffusers DPM 2M, heun": (s.DPMSolverPP2M("taylor"), SINGLE),
    "diffusers DPM 3M": (s.DPMSolverPP3MPublished(), SINGLE),
    **{f"diffusers UniPC {p}, {kind}": (s.UniPC(p, kind), EXACT) for p in (1, 2, 3) for kind in ("bh1", "bh2")},
    "diffusers DEIS 2": (s.DEIS(2, "log_snr"), EXACT),
    "diffusers DEIS 3": (s.DEIS(3, "log_snr"), EXACT),
}
GEOMETRIC = {
    "azula DDIM": (s.DDIM(), EXACT),
    "azula xEAB, order 2": (s.DPMSolverPP2M("taylor"), EXACT),
    "azula xEAB, order 3": (s.DPMSolverPP3M(), EXACT),
    "azula zEAB, order 2": (s.DEIS(2, "log_snr"), EXACT),
    "azula zEAB, order 3": (s.DEIS(3, "log_snr"), EXACT),
}
WRONG = {  # a peer's method of order 3 → ours
    "k-diffusion 3M": s.DPMSolverPP3M(),
    "azula REAB": s.EABM(3, "velocity"),
}


def run(solver: s.Solver, levels: list[float], function: Function = mixture, noisy: bool = True) -> Tensor:
    """Ours, with the noise that the peers are given, or with zeros in its place."""
    schedule = EDM()
    denoiser = FromView(lambda x, t: function(x, float(schedule.sigma(t))), "data", schedule, (DIMENSION,))
    times = schedule.time(-torch.tensor(levels, dtype=torch.float64).log()).tolist()
    flow, draws = probability_flow(denoiser), noise(len(levels) - 1) * noisy
    x = start() if function is mixture else torch.zeros(1, DIMENSION, dtype=torch.float64)
    with torch.no_grad():
        state = solver.init(flow, times, x)
        for k, step in enumerate(solver.plan(flow, times)):
            state = solver.step(flow, step, state, lambda k=k: draws[k, : len(x)])  # type: ignore[arg-type]
    return solver.value(state)


def difference_rows(peers: Ends) -> list[Row]:
    rows = []
    for pairs, levels in ((KARRAS, karras()), (GEOMETRIC, geometric(SIGMA_MIN, N_STEPS))):
        for name, (solver, target) in pairs.items():
            ours = run(solver, levels)
            difference = float((ours - peers[name]).abs().max()) if name in peers else float(ours.abs().max())
            claim = f"(a) {name} = {described(solver)}" if name in peers else f"(a) {described(solver)}: largest value"
            holds = difference <= target if name in peers else None
            rows.append(Row(claim, difference, 0.0, target if name in peers else None, holds))
    return rows


def slope(ends: list[Tensor], exact: Tensor) -> float:
    coarse, fine = (float((end - exact).square().mean().sqrt()) for end in ends)
    return math.log2(coarse / fine)


def order_rows(peers: Ends) -> list[Row]:
    exact = run(s.EABM(4, "noise", corrector=True), geometric(SHORT, 16 * ORDERS[-1]))
    rows = []
    for name, solver in WRONG.items():
        own = slope([run(solver, geometric(SHORT, n)) for n in ORDERS], exact)
        rows.append(judged_order(described(solver), own))
        if f"{name}, {ORDERS[0]} steps" in peers:
            rows.append(Row(f"(b) {name}, order 3: measured order", slope(ends_of(peers, name), exact), 0.0))
    return rows + stochastic_rows(peers)


def stochastic_rows(peers: Ends) -> list[Row]:
    """D = λ² along SDE-DPM-Solver++(3M) from σ = 2 to 0.5 without its noise, against the integral in closed form.

    The first two steps lack history, and leave an error of order 2.
    """
    a, b = -math.log(2.0), -math.log(SHORT)
    primitive = {lam: lam**2 - lam + 0.5 for lam in (a, b)}  # of 2 e^{2λ} λ², over e^{2λ}
    exact = torch.tensor(primitive[b] - math.exp(2 * (a - b)) * primitive[a], dtype=torch.float64)
    solver, name = s.SDEDPMSolverPP3M(), "diffusers SDE 3M"
    own = [run(solver, geometric(SHORT, n, 2.0), parabola, noisy=False) for n in ORDERS]
    rows = [judged_order(f"{described(solver)}, D = λ²", slope(own, exact), at_least=2)]
    if f"{name}, {ORDERS[0]} steps" in peers:
        rows.append(Row(f"(b) {name}, D = λ²: measured order", slope(ends_of(peers, name), exact), 0.0))
    return rows


def judged_order(name: str, measured: float, at_least: int = 3) -> Row:
    missing = at_least - measured
    return Row(f"(b) {name}: {at_least} less the measured order", missing, 0.0, LAST_ORDER, missing <= LAST_ORDER)


def ends_of(peers: Ends, name: str) -> list[Tensor]:
    return [peers[f"{name}, {n} steps"] for n in ORDERS]


def described(solver: s.Solver) -> str:
    """The kind in a run file, and the options in which it differs from its defaults."""
    kind = next(kind for kind, cls in s.SOLVERS.items() if cls is type(solver))
    plain = type(solver)()
    own = {name: value for name, value in vars(solver).items() if not name.startswith("_")}
    options = [f"{name}: {value:.3g}" if isinstance(value, float) else f"{name}: {value}"
               for name, value in own.items() if value != getattr(plain, name)]  # fmt: skip
    return f"{kind} ({', '.join(options)})" if options else kind


def asked(python: str) -> tuple[Ends, dict[str, str]]:
    """What the peers say."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([python, str(HERE / "parity_peers.py")], env=environment, stdout=subprocess.PIPE, check=True)
    found = json.loads(done.stdout)
    return {name: torch.tensor(end, dtype=torch.float64) for name, end in found["ends"].items()}, found["versions"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--record", action="store_true", help="add a dated result and renew the table in README.md")
    parser.add_argument("--no-peers", action="store_true", help="ours alone: its orders, and nothing to compare with")
    parser.add_argument("--peers", default=str(PEERS), help="python of the environment of the peers")
    options = parser.parse_args()
    if not options.no_peers and not Path(options.peers).exists():
        parser.error(f"there is no {options.peers}. Run `make peers`, or pass --no-peers.")
    peers, versions = ({}, {}) if options.no_peers else asked(options.peers)
    rows = difference_rows(peers) + order_rows(peers)
    own = {name: version(name) for name in ("sciflow", "torch")}
    command = " ".join(["python", "benchmarks/parity.py", *sys.argv[1:]])
    facts: dict[str, object] = {"date": str(datetime.date.today()), "command": command, "machine": machine.in_words()}
    facts["versions"] = own | versions
    print(text(rows))
    if options.json:
        write(options.json, rows, **facts)
    if options.record:
        said = f"{facts['date']}, `python benchmarks/parity.py --record`. {libraries(facts)}."
        record("parity", f"{said}\n\n{markdown(rows)}", rows, **facts)


if __name__ == "__main__":
    main()
