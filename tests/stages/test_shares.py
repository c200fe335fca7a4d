"""Ranks of `sample`: the same bytes as one process, whatever they share, and no ranks that have nothing to share."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from sciflow.data.store import read_provenance
from sciflow.errors import InputError, NonFiniteError, OutOfTime
from sciflow.inverse import POSTERIORS
from sciflow.inverse.shared import Shared
from sciflow.particles import Alone
from sciflow.stages.shares import done, messages, numbers, of_first, rounds
from tests.tiny import ANALYTIC, IMAGING, ROOT, Place, change

SHARED = [kind for kind, cls in POSTERIORS.items() if isinstance(cls(), Shared)]
ENSEMBLE = {"n_particles": 40, "tile": 8}  # five calls: two ranks get two and three, four get one, one, one and two


@dataclass(frozen=True)
class Echo:
    """A second rank that says what it is told to, beside this one."""

    other: torch.Tensor
    rank: int = 0
    size: int = 2

    def gathered(self, rows: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        assert len(rows) == lengths[0] and len(self.other) == lengths[1]
        return torch.cat([rows, self.other.to(rows.dtype)])


def many() -> dict[str, Any]:
    """Every posterior with an ensemble that ranks hold together, one in islands, and some draws that they cut."""
    together = {kind: {"kind": kind, **ENSEMBLE} for kind in SHARED}
    together["islands"] = {"kind": "twisted_smc", "n_particles": 64, "tile": 16, "islands": 4}
    posteriors = {
        "moment matching": {"kind": "guided"},
        **together,
        "adaptive": {"kind": "das", **ENSEMBLE, "adaptive": True},
    }
    return change(ANALYTIC, {"sample.posteriors": posteriors, "sample.tile": 8, "dataset.n_problems": 1})


def test_rounds_keep_the_order_and_put_ensembles_alone() -> None:
    work = ["a1", "a2", "a3", "B1", "B2", "c1", "c2", "c3"]
    found = list(rounds(work, str.isupper, 2))
    assert found == [["a1", "a2"], ["a3"], ["B1"], ["B2"], ["c1", "c2"], ["c3"]]
    assert list(rounds(work, str.isupper, 1)) == [[item] for item in work]


def test_one_process_is_its_own_answer() -> None:
    alone = Alone()
    assert messages(alone, b"abc") == [b"abc"] == done(alone, lambda: b"abc")
    assert numbers(alone, 2.5) == [2.5] and of_first(alone, [True, False]) == [True, False]


def test_the_first_rank_says_what_is_done() -> None:
    assert of_first(Echo(torch.tensor([False, False])), [True, False]) == [True, False]


@pytest.mark.parametrize("kind", [InputError, NonFiniteError, OutOfTime])
def test_an_error_of_one_rank_is_raised_on_every_rank(kind: type[Exception]) -> None:
    class Twin(Echo):
        """Two ranks that do the same."""

        def gathered(self, rows: torch.Tensor, lengths: list[int]) -> torch.Tensor:
            return torch.cat([rows, rows])

    def mine() -> bytes:
        raise kind("the reason")

    with pytest.raises(kind, match="the reason"):
        done(Twin(torch.empty(0)), mine)
    assert done(Twin(torch.empty(0)), lambda: b"draw") == [b"draw"] * 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ranks_write_the_bytes_of_one_process(place: Place) -> None:
    """The command starts itself once for each rank; posteriors with and without an ensemble that they share."""
    results = place.build(many(), "ranks", until="sample")
    alone = (results / "samples.nc").read_bytes()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for n_ranks in (2, 4):
        file = place.write({**many(), "resources": {"sample": {"ranks": n_ranks}}}, "ranks")
        out = place.folder / f"{n_ranks}/samples.nc"
        call = [sys.executable, "-m", "sciflow.cli", "sample", file, "--out", str(out)]
        ended = subprocess.run(
            call, cwd=place.folder, env=environment, capture_output=True, text=True, timeout=280, check=False
        )
        assert ended.returncode == 0, ended.stderr
        assert f"{n_ranks} ranks work together" in ended.stderr
        assert out.read_bytes() == alone
        told = read_provenance(out)
        assert told["ranks"] == n_ranks and told["peak_memory_mb"] > 100 and told["cpu_seconds"] > n_ranks


@pytest.mark.parametrize(
    ("changes", "resources", "message"),
    [
        ({}, {"sample": {"ranks": 2}}, "sample.posteriors.SMC N=32: 32 particles cannot be shared by 2 ranks: they are "
         "cut after 1024 of them"),
        ({"sample.posteriors": {"MM": {"kind": "guided"}}}, {"sample": {"ranks": 2, "shards": 4}},
         "resources.sample asks for 2 ranks in each of 4 shards, but no posterior has an ensemble"),
        ({}, {"evaluate": {"ranks": 2}}, "resources.evaluate asks for ranks or nodes, but evaluate runs in one"),
        ({}, {"train": {"shards": 3}},
         "resources.train asks for 3 shards, but only `sample` and `evaluate` are cut into shards"),
    ],
)  # fmt: skip
def test_ranks_without_work_are_refused(
    changes: dict[str, Any], resources: dict[str, Any], message: str, place: Place
) -> None:
    file = place.write({**change(ANALYTIC, changes), "resources": resources})
    outcome = place.sciflow("check", file)
    assert outcome.status == 2 and message in outcome.text, outcome.text


@pytest.mark.parametrize("asked", [{"ranks": 2}, {"ranks": 3, "shards": 2}])
def test_ranks_that_have_work_are_in_order(asked: dict[str, int], place: Place) -> None:
    outcome = place.sciflow("check", place.write({**many(), "resources": {"sample": asked}}))
    assert outcome.status == 0, outcome.text


def test_more_ranks_than_rows_are_refused(place: Place) -> None:
    outcome = place.sciflow("check", place.write({**IMAGING, "resources": {"train": {"ranks": 17}}}))
    assert outcome.status == 2 and "asks for 17 ranks, but train.optimisation.batch_size is 16: each" in outcome.text


def test_islands_of_different_sizes_are_refused(place: Place) -> None:
    changed = change(ANALYTIC, {"sample.posteriors": {"SMC": {"kind": "twisted_smc", "n_particles": 33, "islands": 4}}})
    outcome = place.sciflow("check", place.write(changed))
    assert outcome.status == 2 and "n_particles is 33, no multiple of 4 islands" in outcome.text
