"""An ensemble that is cut short goes on from its last step: to the same bits, with the same count of calls."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sciflow.data.state import State, state_key
from sciflow.diffusion.denoiser import Counted
from sciflow.diffusion.mixture import GaussianMixture, MixtureDenoiser
from sciflow.diffusion.schedule import EDM
from sciflow.diffusion.times import LogSNR
from sciflow.errors import OutOfTime
from sciflow.inverse import Dense, GaussianLikelihood, TwistedSMC
from sciflow.inverse.marginal import Ensemble, Tilted
from sciflow.inverse.posterior import Posterior
from sciflow.inverse.shared import Keeper
from sciflow.inverse.solves import Solves
from sciflow.inverse.tempered import Tempered
from sciflow.particles.particles import Particles
from sciflow.particles.ranks import Ranks
from sciflow.random import Stream
from sciflow.stages.kept import Kept

STEPS = 6
POSTERIORS: dict[str, Posterior] = {
    "twisted": TwistedSMC(64, tile=8),
    "islands": TwistedSMC(64, tile=8, islands=8),
    "tilted": Tilted(ensemble=Ensemble(n_particles=64)),
    "tempered": Tempered(64, n_temperatures=STEPS, tile=8),
}


def prior() -> MixtureDenoiser:
    means = torch.tensor([[2.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    covariances = 0.3 * torch.eye(2, dtype=torch.float64).expand(2, -1, -1)
    return MixtureDenoiser(GaussianMixture(torch.tensor([0.3, 0.7]).double(), means, covariances), EDM())


def drawn(name: str, counted: Counted, on_step: Callable[..., None], ranks: Ranks | None = None) -> Particles:
    seen = GaussianLikelihood(torch.ones(1).double(), Dense.of(torch.tensor([[1.0, 0.5]]).double()), 0.4)
    times = LogSNR(STEPS, ratio_max=10.0, ratio_min=0.1)(EDM())
    posterior = POSTERIORS[name] if ranks is None else replace(POSTERIORS[name], ranks=ranks)  # type: ignore[type-var]
    return posterior(counted, seen, times, 8, Stream(3, tile=8), on_step)


def until(n_calls: int) -> Callable[[], bool]:
    """Time is over when it is asked for the n-th time."""
    asked = itertools.count(1)
    return lambda: next(asked) >= n_calls


def kept(state: State | None, counted: Counted, n_calls: int = 1000, **options: Any) -> Kept:
    return Kept(state, "e", counted, "it is time", until(n_calls), **options)


def assert_same(found: Particles, expected: Particles) -> None:
    for part in ("x", "log_weights", "eve", "ess_trace", "evidence_trace"):
        assert torch.equal(getattr(found, part), getattr(expected, part)), part
    assert found.log_evidence == expected.log_evidence
    assert {n: v.nan_to_num(9.0).tolist() for n, v in found.diagnostics.items()} == {
        n: v.nan_to_num(9.0).tolist() for n, v in expected.diagnostics.items()
    }


@pytest.mark.parametrize("name", POSTERIORS)
def test_an_ensemble_that_is_cut_short_goes_on_to_the_same_bits(name: str, tmp_path: Path) -> None:
    whole, key = Counted(prior()), state_key("section", "source", {})
    expected = drawn(name, whole, kept(None, whole))
    for cut in (1, 4):
        first, second = Counted(prior()), Counted(prior())
        with State(tmp_path / f"{cut}", key) as state, pytest.raises(OutOfTime, match="it is time"):
            drawn(name, first, kept(state, first, cut, solves=Solves(7)))
        with State(tmp_path / f"{cut}", key) as state:
            assert state.names("e") == [f"e.{cut - 1}.0of1"]
            asked = Counted(second)  # counts the calls of this process alone
            keeper = kept(state, second)
            found = drawn(name, asked, keeper)
            keeper.forget()
            assert keeper.solves.rows == 7  # nothing is solved here; what was before the cut is kept
            assert state.names("e") == []
        assert_same(found, expected)
        assert second.rows == whole.rows == first.rows + asked.rows if name != "tempered" else whole.rows == 0


def test_an_ensemble_is_kept_once_in_a_while_and_a_damaged_one_starts_anew(tmp_path: Path) -> None:
    counted = Counted(prior())
    with State(tmp_path, state_key("section", "source", {})) as state:
        drawn("twisted", counted, kept(state, counted))
        assert state.names("e") == [], "a draw of a second is not worth a file"
        drawn("twisted", counted, kept(state, counted, every=0.0))
        assert state.names("e") == ["e.7.0of1"], "the last one alone"
        last = state.path("e.7.0of1")
        assert last is not None
        last.write_bytes(last.read_bytes()[:-200])
        again, whole = Counted(prior()), Counted(prior())
        found = drawn("twisted", again, kept(state, again))
        assert torch.equal(found.x, drawn("twisted", whole, lambda *step: None).x) and again.rows == whole.rows
        assert state.names("e") == []
    assert isinstance(kept(None, counted), Keeper) and not isinstance(print, Keeper)


@dataclass(frozen=True)
class Beside:
    """A rank that is a thread among others of this process: what they say lies on one table."""

    rank: int
    size: int
    table: list[Any]
    met: threading.Barrier

    def _said(self, mine: Any) -> list[Any]:
        self.table[self.rank] = mine
        self.met.wait(60)
        found = list(self.table)
        self.met.wait(60)
        return found

    def gathered(self, rows: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        said = self._said(rows.clone())
        assert [len(part) for part in said] == list(lengths)
        return torch.cat(said)

    def exchanged(self, parts: Sequence[torch.Tensor], lengths: Sequence[int]) -> list[torch.Tensor]:
        return [said[self.rank] for said in self._said([part.clone() for part in parts])]

    def agree(self, facts: object) -> None:
        assert len(set(map(repr, self._said(facts)))) == 1


def ranked(name: str, size: int, state: State, n_calls: int = 1000, late: int = 0) -> list[tuple[Particles, int]]:
    """The draw of each rank, and its network rows; for one of them time is over at the n-th step."""
    table, met = [None] * size, threading.Barrier(size)

    def one(rank: int) -> tuple[Particles, int]:
        counted, ranks = Counted(prior()), Beside(rank, size, table, met)
        keeper = kept(state, counted, n_calls if rank == late else 1000, ranks=ranks)
        return drawn(name, counted, keeper, ranks), counted.rows

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size)))


@pytest.mark.parametrize("name", ["twisted", "islands", "tempered"])
@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 1), (1, 4), (4, 2)])
def test_an_ensemble_of_several_ranks_goes_on_with_any_number(
    name: str, before: int, after: int, tmp_path: Path
) -> None:
    """Cut short twice: at a step of its own, and at the first one after it went on."""
    whole, key = Counted(prior()), state_key("section", "source", {})
    expected = drawn(name, whole, kept(None, whole))
    with State(tmp_path, key) as state:
        for size, n_calls in ((before, 3), (after, 2)):
            with pytest.raises(OutOfTime, match="it is time"):
                ranked(name, size, state, n_calls, late=size - 1)
        assert state.names("e") == [f"e.3.{rank}of{after}" for rank in range(after)]
        found = ranked(name, after, state)
    for particles, _ in found:
        assert_same(particles, expected)
    assert sum(rows for _, rows in found) == whole.rows


def test_of_parts_that_are_not_all_there_an_earlier_step_goes_on(tmp_path: Path) -> None:
    """As a kill leaves it: some ranks have written, and nobody has deleted; and one that the disk damaged."""
    whole, key = Counted(prior()), state_key("section", "source", {})
    expected = drawn("twisted", whole, kept(None, whole))
    with State(tmp_path, key) as state:
        for n_calls in (2, 2):
            with pytest.raises(OutOfTime):
                ranked("twisted", 2, state, n_calls)
            copies = {name: (state.load(name) or b"") for name in state.names("e")}
            (tmp_path / key / "copies").mkdir(exist_ok=True)
            for name, content in copies.items():
                state.save(f"copies/{name}", content)
        first, second = (f"copies/e.{step}.{{}}of2" for step in (1, 2))
        for rank in range(2):
            state.save(f"e.1.{rank}of2", state.load(first.format(rank)) or b"")
        state.remove("e.2.1of2")
        assert state.names("e") == ["e.1.0of2", "e.1.1of2", "e.2.0of2"]
        with pytest.raises(OutOfTime):
            ranked("twisted", 2, state, 1)
        assert state.names("e") == ["e.1.0of2", "e.1.1of2"], "it went on from step 1, and kept no other"
        state.save("e.2.0of2", state.load(second.format(0)) or b"")
        state.save("e.2.1of2", b"damaged")
        found = ranked("twisted", 2, state)
        assert state.names("e") == []
    assert_same(found[1][0], expected)
    assert sum(rows for _, rows in found) == whole.rows
