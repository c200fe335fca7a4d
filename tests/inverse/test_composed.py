"""Samplers of composed models and of a search, as a run file builds them: experts in files, calls, and refusals."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

from sciflow.diffusion.denoiser import Counted
from sciflow.diffusion.flow import transition
from sciflow.diffusion.mixture import GaussianDenoiser, MixtureDenoiser
from sciflow.diffusion.model import pack
from sciflow.diffusion.schedule import EDM, Cosine, Schedule
from sciflow.diffusion.times import Karras
from sciflow.errors import InputError, NonFiniteError
from sciflow.inverse import Expert, GaussianLikelihood, RolloverBudgetForcing, SuperDiffAnd, SuperDiffOr
from sciflow.random import Stream
from tests.tiny import ANALYTIC, Place, change

IDENTITY = torch.eye(2, dtype=torch.float64)
LIKELIHOOD = GaussianLikelihood(torch.tensor([0.8, 0.1], dtype=torch.float64), sigma=0.5)


def gaussian(mean: tuple[float, float], schedule: Schedule | None = None) -> MixtureDenoiser:
    return GaussianDenoiser(torch.tensor(mean, dtype=torch.float64), 0.5 * IDENTITY, schedule or EDM())


def stored(folder: Path, denoiser: MixtureDenoiser) -> Expert:
    torch.save(pack(denoiser), folder / "expert.pt")
    return Expert(str(folder / "expert.pt"))


PRIOR = gaussian((-2.0, 0.0))
TIMES = Karras(40, 40.0, 0.02)(EDM())


@pytest.mark.parametrize("schedule", [EDM(), Cosine()], ids=["same", "converted"])
def test_an_expert_from_a_file_is_mixed_in_and_counted(tmp_path: Path, schedule: Schedule) -> None:
    """Weights 3 : 1 over well separated models, 2000 draws: the share is known to √(3/16/2000) = 0.0097."""
    sampler = SuperDiffOr((stored(tmp_path, gaussian((2.0, 1.0), schedule)),), (3.0, 1.0))
    counted = Counted(PRIOR)
    x = sampler(counted, LIKELIHOOD, TIMES, 2000, Stream(0)).x
    assert counted.rows == 2 * 2000 * len(TIMES)
    share = (x @ torch.tensor([4.0, 1.0]).double() > 0.5).double().mean()  # beyond the plane between the two
    assert abs(share - 0.25) < 4 * 0.0097 + 0.002  # and 0.2 % on the wrong side: Φ(−4.12/2/√½)


def test_all_experts_meet_in_the_middle(tmp_path: Path) -> None:
    """Two Gaussians of one covariance: equal densities are the plane between them, where every draw ends."""
    sampler = SuperDiffAnd((stored(tmp_path, gaussian((2.0, 1.0))),))
    x = sampler(PRIOR, LIKELIHOOD, TIMES, 200, Stream(0)).x
    apart = (x - torch.tensor([0.0, 0.5]).double()) @ torch.tensor([4.0, 1.0]).double() / math.sqrt(17)
    # both start from equal densities up to those at u = 40: a gap of 4 y/40² for y of 40, over 4.1/½ per unit
    assert apart.abs().max() < 0.1 and x.std(0).max() > 0.3


def test_experts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 in all, got 3"):
        SuperDiffOr((Expert("a.pt"),), (1.0, 1.0, 1.0))
    with pytest.raises(InputError, match="there is no such model"):
        SuperDiffOr((Expert(str(tmp_path / "none.pt")),))(PRIOR, LIKELIHOOD, TIMES, 2, Stream(0))
    wide = GaussianDenoiser(torch.zeros(3), torch.eye(3), EDM())
    with pytest.raises(InputError, match=r"events \(3,\), the prior has \(2,\)"):
        SuperDiffAnd((stored(tmp_path, wide),))(PRIOR, LIKELIHOOD, TIMES, 2, Stream(0))


def test_a_run_file_names_a_second_model(place: Place) -> None:
    """The model of a first run is the expert of a second one; a file that is not there is missed before any work."""
    kinds = ("superdiff_or", "superdiff_and")
    posteriors = {kind: {"kind": kind, "experts": [{"path": "kept.pt"}]} for kind in kinds}
    second = change(ANALYTIC, {"dataset.n_problems": 1, "sample.posteriors": posteriors})
    assert "kept.pt" in place.sciflow("check", place.write(second)).text
    first = place.build(change(ANALYTIC, {"seed": 2, "dataset.n_problems": 1}), "first", until="train")
    (place.folder / "kept.pt").write_bytes((first / "model.pt").read_bytes())
    with xr.open_dataset(place.build(second, until="sample") / "samples.nc") as made:
        assert made["posterior"].values.tolist() == list(kinds) and bool(np.isfinite(made["samples"]).all())
        assert made["nfe"].sel(posterior="superdiff_or").item() == 2 * 6  # both models at six levels


# Rollover budget forcing -----------------------------------------------------------------------------------------


class Watched:
    """A denoiser that remembers at which times it was called, and for how many rows."""

    def __init__(self, denoiser: MixtureDenoiser) -> None:
        self.denoiser, self.calls = denoiser, list[tuple[float, int]]()
        self.schedule, self.shape, self.initial = denoiser.schedule, denoiser.shape, denoiser.initial

    def __call__(self, x: Tensor, t: float | Tensor) -> Tensor:
        self.calls.append((float(t), len(x)))
        return self.denoiser(x, t)


def test_the_budget_is_rolled_over_and_kept() -> None:
    counted, watched = Counted(PRIOR), Watched(PRIOR)
    sampler = RolloverBudgetForcing(budget=3)
    drawn = sampler(counted, LIKELIHOOD, TIMES, 30, Stream(0))
    left = int(drawn.events[0].split()[0]) if drawn.events else 0
    assert counted.rows + left == 30 * (1 + 3 * (len(TIMES) - 1))  # every call is either spent or left over
    sampler(watched, LIKELIHOOD, TIMES, 30, Stream(0))
    times = [t for t, _ in watched.calls[1:]]
    assert max(times.count(t) for t in times) > 3  # some step had more than its own


def test_a_budget_of_one_is_the_chain_of_the_prior() -> None:
    grid, stream = TIMES.tolist(), Stream(7)
    x = PRIOR.initial(grid[0], 20, stream.child("initial"), torch.float64)
    for k, (a, b) in enumerate(itertools.pairwise(grid)):
        mean, s = transition(PRIOR, x, PRIOR(x, a), a, b)
        x = mean + s * stream.child("step", k).normal(20, (2,), dtype=torch.float64)
    drawn = RolloverBudgetForcing(budget=1)(PRIOR, LIKELIHOOD, grid, 20, stream)
    assert torch.allclose(drawn.x, PRIOR(x, grid[-1]), rtol=0, atol=1e-12)


@pytest.mark.slow
def test_it_searches_and_has_no_target() -> None:
    """A larger budget finds larger likelihoods, and draws that are too narrow for the posterior, as 0.07 to 0.17.

    400 draws know a variance to 7 %; the exact one is ½ · ¼/(½ + ¼). Measured mean log-likelihoods: −17.9, −1.9, −1.1;
    from then on a draw cannot spend its budget, and 16 find what 4 do.
    """
    worth, spread = [], []
    for budget in (1, 2, 4, 16):
        x = RolloverBudgetForcing(budget)(PRIOR, LIKELIHOOD, TIMES, 400, Stream(1)).x
        worth.append(float(LIKELIHOOD.log_prob(x).mean()))
        spread.append(float(x.var(0).mean()))
    assert worth[0] + 10 < worth[1] < worth[2] - 0.5
    assert abs(worth[3] - worth[2]) < 0.1
    assert spread[2] < 0.6 * 0.5 * 0.25 / 0.75


class Endless(GaussianLikelihood):
    """A likelihood that is NaN far away."""

    def log_prob(self, x: Tensor) -> Tensor:
        return super().log_prob(x) + torch.where(x[:, 0] < -1.9, math.nan, 0.0)


def test_a_search_that_cannot_go_on_is_refused() -> None:
    with pytest.raises(InputError, match="budget ≥ 1"):
        RolloverBudgetForcing(budget=0)
    with pytest.raises(NonFiniteError, match="not finite in step 1 of 40"):
        RolloverBudgetForcing()(PRIOR, Endless(LIKELIHOOD.observation, sigma=0.5), TIMES, 40, Stream(0))
