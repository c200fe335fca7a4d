"""One of four processes: runs one ensemble on 1, 2 and 4 ranks, and says in digests what came out.

python -m tests.particles.worker RANK FOLDER        RANK 0 writes FOLDER/found.json
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from sciflow.errors import InputError
from sciflow.particles import Alone, Group, Particles, SMCState, smc
from sciflow.particles.feynman_kac import Step
from sciflow.random import Stream

N, TILE, SIZE = 16 * 11 + 5, 16, 4  # 12 tiles, the last one short, so that no number of ranks gets equal shares
WEIGHTS = Stream(7).normal(2 * 33, (33,)).split(33)
Numbers = dict[str, str]


@dataclass(frozen=True)
class Network:
    """A chain driven by a small perceptron, which is called with tiles of one shape, some tiles to a launch."""

    tiles: int = 1000
    n_steps: int = 5

    def drift(self, x: Tensor) -> Tensor:
        first, second = WEIGHTS
        rows = torch.cat([x, x[-1:].expand(TILE - len(x), -1)])
        return torch.tanh(rows @ first) @ second * 0.2

    def log_potential(self, x: Tensor, k: int) -> Tensor:
        return -0.4 * (x[:, 0] - 0.7 * k).square() + 0.3 * x[:, 1]

    def initial(self, n: int, stream: Stream) -> tuple[dict[str, Tensor], Tensor]:
        x = stream.normal(n, (33,))
        return {"x": x, "name": torch.arange(n) + stream.first}, self.log_potential(x, 0)

    def step(self, k: int, state: dict[str, Tensor], stream: Stream) -> Step:
        x, launch = state["x"], self.tiles * TILE
        for start in range(0, len(x), launch):
            rows = x[start : start + launch]
            noise = stream.normal(len(rows), (33,), first=start)
            for tile, part in zip(rows.split(TILE), noise.split(TILE), strict=True):
                tile += self.drift(tile)[: len(tile)] + 0.5 * part
        said = {} if k == 3 else {"size": x.square().sum(1), "step": torch.tensor([[k, 2.0 * k]])}
        return state, self.log_potential(x, k + 1), said


def digest(run: Particles) -> str:
    """Of every number of a run."""
    numbers = [run.x, run.log_weights, run.eve, run.ess_trace, run.parents_trace, run.evidence_trace]
    numbers += [run.island_log_evidence, *run.diagnostics.values()]
    content = b"".join(number.numpy().tobytes() for number in numbers)
    said = repr((run.log_evidence, run.log_evidence_stderr, run.log_evidence_interval, run.n_resampled, run.events))
    return hashlib.sha256(content + said.encode()).hexdigest()


def runs(ranks: Group | Alone, size: int, folder: Path) -> Numbers:
    """Every case on these ranks; their states after step 2 are saved."""
    found, options = {}, {"ess_threshold": 0.8, "ranks": ranks}
    for scheme, tiles in itertools.product(("systematic", "multinomial", "ssp"), (1, 7, 1000)):
        run = smc(Network(tiles), N, Stream(0, tile=TILE), scheme, **options)
        assert 0 < run.n_resampled < 5
        found[f"{scheme}, {tiles} tiles, {size} ranks"] = digest(run.gathered(ranks))
    saved: dict[int, dict] = {}
    smc(Network(), N, Stream(0, tile=TILE), on_checkpoint=lambda s: saved.update({s.k: _kept(s)}), **options)
    for k, content in saved.items():
        run = smc(Network(), N, Stream(0, tile=TILE), resume=SMCState.from_dict(content), **options)
        found[f"systematic, from step {k}, {size} ranks"] = digest(run.gathered(ranks))
    torch.save(saved[2], folder / f"{size}-{ranks.rank}.pt")
    islands = smc(Network(), 4 * 37, Stream(0, tile=TILE), islands=4, **options)
    found[f"islands, {size} ranks"] = digest(islands.gathered(ranks))
    return found


def _kept(state: SMCState) -> dict:
    return SMCState.from_dict(state.as_dict()).as_dict()


def joined(ranks: Group | Alone, size: int, folder: Path) -> Numbers:
    """Continue on these ranks what 1, 2 and 4 ranks have saved."""
    found = {}
    for n_saved in (1, 2, SIZE):
        parts = [torch.load(folder / f"{n_saved}-{rank}.pt", weights_only=True) for rank in range(n_saved)]
        state = SMCState.joined([SMCState.from_dict(part) for part in reversed(parts)])
        run = smc(Network(), N, Stream(0, tile=TILE), ess_threshold=0.8, ranks=ranks, resume=state)
        found[f"systematic, from {n_saved} to {size} ranks"] = digest(run.gathered(ranks))
    return found


def refusals(ranks: Group) -> Numbers:
    """What ranks that disagree are told."""
    said = {}
    for name, seed, n in (("seed", ranks.rank, N), ("n", 0, N + ranks.rank)):
        try:
            smc(Network(), n, Stream(seed, tile=TILE), ranks=ranks)
        except InputError as error:
            said[name] = str(error)
    return said


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=SIZE)
    pair = dist.new_group([0, 1])
    found: Numbers = {}
    everyone = Group.here()
    assert isinstance(everyone, Group)
    mine = [(everyone, SIZE), *([(Group(rank, 2, group=pair), 2)] if rank < 2 else []), *([(Alone(), 1)] * (rank == 0))]
    for case in (runs, joined):
        for ranks, size in mine:
            found |= case(ranks, size, folder)
        dist.barrier()
    said = refusals(everyone)
    if rank == 0:
        (folder / "found.json").write_text(json.dumps({"digests": found, "refusals": said}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
