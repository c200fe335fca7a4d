"""An ensemble that is cut short goes on from its last step: to the same bits, with the same count of calls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
from sciflow.random import Stream
from sciflow.stages.drawing import Kept

STEPS = 6
POSTERIORS: dict[str, Posterior] = {
    "twisted": TwistedSMC(64),
    "tilted": Tilted(ensemble=Ensemble(n_particles=64)),
    "tempered": Tempered(64, n_temperatures=STEPS),
}


def prior() -> MixtureDenoiser:
    means = torch.tensor([[2.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    covariances = 0.3 * torch.eye(2, dtype=torch.float64).expand(2, -1, -1)
    return MixtureDenoiser(GaussianMixture(torch.tensor([0.3, 0.7]).double(), means, covariances), EDM())


def drawn(name: str, counted: Counted, on_step: Callable[..., None]) -> Particles:
    seen = GaussianLikelihood(torch.ones(1).double(), Dense.of(torch.tensor([[1.0, 0.5]]).double()), 0.4)
    times = LogSNR(STEPS, ratio_max=10.0, ratio_min=0.1)(EDM())
    return POSTERIORS[name](counted, seen, times, 8, Stream(3), on_step)


def until(n_calls: int) -> tuple[Callable[..., None], Callable[[], bool]]:
    """Stop at the n-th step that is told of."""
    told: list[int] = []

    def is_over() -> bool:
        return len(told) >= n_calls - 1

    def stop(*step: int) -> None:
        if is_over():
            raise OutOfTime("it is time")
        told.append(len(step))

    return stop, is_over


@pytest.mark.parametrize("name", POSTERIORS)
def test_an_ensemble_that_is_cut_short_goes_on_to_the_same_bits(name: str, tmp_path: Path) -> None:
    whole, key = Counted(prior()), state_key("section", "source", {})
    expected = drawn(name, whole, Kept(None, "e", whole, *until(1000)))
    for cut in (1, 4):
        first, second = Counted(prior()), Counted(prior())
        with State(tmp_path / f"{cut}", key) as state, pytest.raises(OutOfTime):
            drawn(name, first, Kept(state, "e", first, *until(cut), solves=Solves(7)))
        with State(tmp_path / f"{cut}", key) as state:
            assert state.path("e") is not None
            asked = Counted(second)  # counts the calls of this process alone
            keeper = Kept(state, "e", second, *until(1000))
            found = drawn(name, asked, keeper)
            keeper.forget()
            assert keeper.solves.rows == 7  # nothing is solved here; what was before the cut is kept
            assert state.path("e") is None
        for part in ("x", "log_weights", "eve", "ess_trace", "evidence_trace"):
            assert torch.equal(getattr(found, part), getattr(expected, part)), part
        assert found.log_evidence == expected.log_evidence
        assert {n: v.nan_to_num(9.0).tolist() for n, v in found.diagnostics.items()} == {
            n: v.nan_to_num(9.0).tolist() for n, v in expected.diagnostics.items()
        }
        assert second.rows == whole.rows == first.rows + asked.rows if name != "tempered" else whole.rows == 0


def test_an_ensemble_is_kept_once_in_a_while_and_a_damaged_one_starts_anew(tmp_path: Path) -> None:
    counted, never = Counted(prior()), until(1000)
    with State(tmp_path, state_key("section", "source", {})) as state:
        drawn("twisted", counted, Kept(state, "late", counted, *never))
        assert state.path("late") is None, "a draw of a second is not worth a file"
        drawn("twisted", counted, Kept(state, "often", counted, *never, every=0.0))
        kept = state.path("often")
        assert kept is not None
        kept.write_bytes(kept.read_bytes()[:-200])
        again, whole = Counted(prior()), Counted(prior())
        found = drawn("twisted", again, Kept(state, "often", again, *never))
        assert torch.equal(found.x, drawn("twisted", whole, lambda *step: None).x) and again.rows == whole.rows
        assert state.path("often") is None
    assert isinstance(Kept(None, "e", counted, *never), Keeper) and not isinstance(print, Keeper)
