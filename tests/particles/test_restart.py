"""Checkpoints, islands, rejuvenation and memory of the driver; ranks are in test_ranks."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from sciflow.errors import InputError, NonFiniteError
from sciflow.particles import Particles, SMCState, smc
from sciflow.particles.exchange import BLOCKS, gather_rows, owned
from sciflow.random import Stream


@dataclass
class Walk:
    """A random walk towards an off-centre target; its potential is bad at one step, if so wished."""

    n_steps: int = 4
    bad_at: int = -1

    def log_potential(self, k: int, x: Tensor) -> Tensor:
        values = -((x - 1) ** 2).sum(1) + 0.3 * x[:, 0]
        return torch.where(x[:, 0] > 0, math.nan, values) if k == self.bad_at else values

    def initial(self, n: int, stream: Stream) -> tuple[dict[str, Tensor], Tensor]:
        x = stream.normal(n, (2,))
        return {"x": x, "name": torch.arange(n)}, self.log_potential(0, x)

    def step(self, k: int, state: dict[str, Tensor], stream: Stream) -> tuple[dict[str, Tensor], Tensor]:
        x = state["x"] + stream.normal(len(state["x"]), (2,))
        return {**state, "x": x}, self.log_potential(k + 1, x)


def saved(files: dict[int, bytes]):
    """A callback that keeps every state as a file."""

    def keep(state: SMCState) -> None:
        buffer = io.BytesIO()
        torch.save(state.as_dict(), buffer)
        files[state.k] = buffer.getvalue()

    return keep


def read(content: bytes) -> SMCState:
    return SMCState.from_dict(torch.load(io.BytesIO(content), weights_only=True))


def same(a: Particles, b: Particles) -> bool:
    tensors = ("x", "log_weights", "eve", "ess_trace", "parents_trace", "evidence_trace", "island_log_evidence")
    numbers = ("log_evidence", "log_evidence_stderr", "log_evidence_interval", "n_resampled", "events")
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in tensors) and all(
        getattr(a, name) == getattr(b, name) for name in numbers
    )


@pytest.mark.parametrize("islands", [1, 4])
def test_a_restart_at_any_step_gives_the_same_bytes(islands: int) -> None:
    files: dict[int, bytes] = {}
    whole = smc(Walk(), 80, Stream(3), islands=islands, on_checkpoint=saved(files))
    assert sorted(files) == [0, 1, 2, 3, 4] and whole.n_resampled > 0
    for content in files.values():
        assert same(smc(Walk(), 80, Stream(3), islands=islands, resume=read(content)), whole)


def test_a_state_may_be_used_twice() -> None:
    files: dict[int, bytes] = {}
    whole = smc(Walk(), 80, Stream(3), on_checkpoint=saved(files))
    state = read(files[1])
    assert all(same(smc(Walk(), 80, Stream(3), resume=state), whole) for _ in range(2))


def test_a_failing_step_leaves_the_last_checkpoint() -> None:
    files: dict[int, bytes] = {}
    with pytest.raises(NonFiniteError, match=r"step 3 of 4: \d+ of 60 log-potentials are NaN"):
        smc(Walk(bad_at=3), 60, Stream(0), on_checkpoint=saved(files))
    assert max(files) == 2
    assert same(smc(Walk(), 60, Stream(0), resume=read(files[2])), smc(Walk(), 60, Stream(0)))


def test_a_state_of_another_run_is_refused() -> None:
    files: dict[int, bytes] = {}
    smc(Walk(), 60, Stream(0), on_checkpoint=saved(files))
    state = read(files[2])
    with pytest.raises(InputError, match=r"another run \(seed: 0 there, 1 here; n: 60 there, 50 here\)"):
        smc(Walk(), 50, Stream(1), resume=state)
    with pytest.raises(InputError, match="resampling: 'systematic' there, 'ssp' here"):
        smc(Walk(), 60, Stream(0), "ssp", resume=state)
    with pytest.raises(InputError, match="this is no state of smc"):
        SMCState.from_dict({"x": torch.zeros(3)})
    with pytest.raises(InputError, match="1 states of 30 particles do not make one of 60"):
        half = {name: value[:30] for name, value in state.particles.items()}
        SMCState.joined([replace(state, particles=half)])
    with pytest.raises(InputError, match=r"holds particles 30 … 59, this rank needs 0 … 59"):
        smc(Walk(), 60, Stream(0), resume=replace(state, particles=half, first=30))


def test_islands_are_independent_runs() -> None:
    """Each island is what its rows are: resampled on its own, pooled by its evidence."""
    run = smc(Walk(), 4 * 50, Stream(0), islands=4)
    assert torch.equal(run.eve // 50, torch.arange(200) // 50)  # nobody descends from another island
    shares = run.weights.view(4, 50).sum(1)
    assert torch.allclose(shares, run.island_log_evidence.softmax(0))
    assert run.log_evidence == pytest.approx(float(run.island_log_evidence.exp().mean().log()))
    assert run.evidence_trace[-1] == pytest.approx(run.log_evidence)
    assert run.ess_trace[-1] == pytest.approx(run.ess())
    assert run.log_evidence_interval[0] < run.log_evidence < run.log_evidence_interval[1]


def test_an_island_without_survivors_is_named() -> None:
    @dataclass
    class Deadly(Walk):
        def log_potential(self, k: int, x: Tensor) -> Tensor:
            lost = torch.arange(len(x)) // 10 == 2
            return torch.where(lost & (k == 2), -math.inf, super().log_potential(k, x))

    with pytest.raises(NonFiniteError, match="step 2 of 4: all 10 particles of island 3 have weight zero"):
        smc(Deadly(), 40, Stream(0), islands=4)


@pytest.mark.parametrize(("n", "islands"), [(10, 3), (10, 0), (0, 1)])
def test_islands_of_equal_size(n: int, islands: int) -> None:
    with pytest.raises(InputError, match="n ≥ 1 particles in islands of equal size"):
        smc(Walk(), n, Stream(0), islands=islands)


def test_rejuvenation_follows_each_resampling() -> None:
    seen: list[tuple[int, int]] = []

    def shake(k: int, state: dict[str, Tensor], stream: Stream) -> dict[str, Tensor]:
        seen.append((k, len(state["x"].unique(dim=0))))
        return {**state, "x": state["x"] + 1e-3 * stream.normal(len(state["x"]), (2,))}

    run = smc(Walk(), 80, Stream(3), rejuvenate=shake)
    resampled = (run.parents_trace < 80).nonzero()[:, 0].tolist()
    assert [k for k, _ in seen] == resampled and len(seen) == run.n_resampled > 0
    assert [n for _, n in seen] == run.parents_trace[resampled].tolist()


@pytest.mark.parametrize(
    ("ancestors", "message"),
    [
        (lambda n: torch.zeros(n), "int64"),
        (lambda n: torch.zeros(n - 1, dtype=torch.int64), r"shape \(20,\)"),
        (lambda n: torch.full((n,), n), "ancestors 20 … 20 of 20 particles"),
    ],
)
def test_a_bad_resampler_is_refused(ancestors, message: str) -> None:
    with pytest.raises(InputError, match=message):
        smc(Walk(), 20, Stream(0), lambda log_weights, n, stream: ancestors(n), ess_threshold=1.0)


def test_ancestors_in_any_order_are_put_in_order() -> None:
    def backwards(log_weights: Tensor, n: int, stream: Stream) -> Tensor:
        return torch.arange(n - 1, -1, -1)

    run = smc(Walk(), 20, Stream(0), backwards, ess_threshold=1.0)
    assert torch.equal(run.eve, torch.arange(20)) and run.n_resampled == 4


# Memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 10, 3 * BLOCKS["cpu"] + 7])
def test_gathering_in_place(n: int) -> None:
    """Sorted ancestors of every kind: few families, all from the right, all from the left."""
    generator = torch.Generator().manual_seed(0)
    some = torch.randint(0, n, (n,), generator=generator).sort().values
    for ancestors in (some, torch.arange(n), torch.full((n,), n - 1), torch.zeros(n, dtype=torch.int64)):
        values = torch.randn(n, 3, generator=generator)
        expected = values[ancestors]
        gather_rows(values, ancestors)
        assert torch.equal(values, expected)


def test_entries_that_share_memory_are_copied_before_they_are_overwritten() -> None:
    x = torch.randn(6, 2)
    state = {"x": x, "first": x[:, 0], "mean": torch.zeros(1).expand(6), "own": torch.ones(6)}
    safe = owned(state)
    assert safe["own"] is state["own"]
    assert len({value.untyped_storage().data_ptr() for value in safe.values()}) == 4
    assert all(torch.equal(safe[name], state[name]) for name in state)


def test_gradients_pass_through_resampled_particles() -> None:
    """x = noise + θ at the start, moved by noise alone: every particle at the end, copied or not, has ∂x/∂θ = 1."""
    theta = torch.zeros(2, requires_grad=True)

    class Shifted(Walk):
        def initial(self, n: int, stream: Stream) -> tuple[dict[str, Tensor], Tensor]:
            x = stream.normal(n, (2,)) + theta
            return {"x": x}, self.log_potential(0, x)

    run = smc(Shifted(), 50, Stream(0), ess_threshold=1.0)
    assert run.n_resampled == 4 and run.n_families < 50
    run.x.sum().backward()
    assert theta.grad.tolist() == [50.0, 50.0]
