"""The driver: what it carries, reports and refuses, and the ensemble it returns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from sciflow.errors import InputError, NonFiniteError
from sciflow.particles import GreedyModel, NestedModel, Particles, smc
from sciflow.particles.feynman_kac import Step
from sciflow.random import Stream


@dataclass
class Walk:
    """A random walk whose potential is any function of (step, x); counts its calls."""

    potential: Callable[[int, Tensor], Tensor]
    n_steps: int = 4
    calls: list[int] = field(default_factory=list)

    def initial(self, n: int, stream: Stream) -> tuple[dict[str, Tensor], Tensor]:
        x = stream.normal(n, (2,))
        return {"x": x, "first": x.clone(), "name": torch.arange(n)}, self.potential(0, x)

    def step(self, k: int, state: dict[str, Tensor], stream: Stream) -> tuple[dict[str, Tensor], Tensor]:
        self.calls.append(k)
        x = state["x"] + stream.normal(len(state["x"]), (2,))
        return {**state, "x": x}, self.potential(k + 1, x)


def quadratic(k: int, x: Tensor) -> Tensor:
    return -((x - 1) ** 2).sum(1)


@dataclass
class Remembering(Walk):
    """Keeps the last state, to look at what was resampled along."""

    last: dict[str, Tensor] = field(default_factory=dict)

    def step(self, k: int, state: dict[str, Tensor], stream: Stream) -> tuple[dict[str, Tensor], Tensor]:
        state, potential = super().step(k, state, stream)
        self.last = state
        return state, potential


def test_everything_in_the_state_is_resampled_along() -> None:
    model = Remembering(quadratic)
    run = smc(model, 100, Stream(0), ess_threshold=1.0)
    assert torch.equal(model.last["name"], run.eve)  # named at the start, so the name is the founder
    start = Stream(0).child("initial").normal(100, (2,))
    assert torch.equal(model.last["first"], start[run.eve])
    assert run.n_families == len(set(run.eve.tolist())) < 100


def test_reports() -> None:
    seen: list[tuple[int, float]] = []
    run = smc(Walk(quadratic), 50, Stream(0), on_step=lambda k, size: seen.append((k, size)))
    assert [k for k, _ in seen] == [0, 1, 2, 3, 4]
    assert [size for _, size in seen] == run.ess_trace.tolist()
    assert run.parents_trace.shape == (5,) and run.log_weights.dtype == torch.float64
    assert float(run.log_weights.exp().sum()) == pytest.approx(1)
    assert 0 < run.log_evidence_stderr < 2


def test_stopping_from_on_step() -> None:
    def stop(k: int, size: float) -> None:
        if k == 2:
            raise KeyboardInterrupt

    model = Walk(quadratic)
    with pytest.raises(KeyboardInterrupt):
        smc(model, 10, Stream(0), on_step=stop)
    assert model.calls == [0, 1]


def test_same_stream_same_particles() -> None:
    a, b, c = (smc(Walk(quadratic), 64, Stream(seed)) for seed in (1, 1, 2))
    assert torch.equal(a.x, b.x) and a.log_evidence == b.log_evidence
    assert not torch.equal(a.x, c.x)


def test_constant_potentials_give_the_evidence_without_error() -> None:
    run = smc(Walk(lambda k, x: torch.full((len(x),), 3.0)), 30, Stream(0), "multinomial", ess_threshold=1.0)
    assert run.log_evidence == pytest.approx(15.0)  # five factors e³
    assert run.log_evidence_stderr == pytest.approx(0, abs=1e-12)  # although only few families are left
    assert run.n_resampled == 4 and run.n_families < 30


def test_own_resampler() -> None:
    def keep(log_weights: Tensor, n: int, stream: Stream) -> Tensor:
        return log_weights.argmax().expand(n)

    run = smc(Walk(quadratic), 20, Stream(0), keep, ess_threshold=1.0)
    assert run.n_families == 1 and run.parents_trace[:-1].tolist() == [1, 1, 1, 1]


def test_particles_of_weight_zero_are_counted() -> None:
    run = smc(Walk(lambda k, x: torch.where(x[:, 0] > 0, -math.inf, 0.0)), 64, Stream(0))
    assert len(run.events) >= 1 and "weight zero" in run.events[0] and "start" in run.events[0]
    assert math.isfinite(run.log_evidence)
    assert (run.log_weights[run.x[:, 0] > 0] == -math.inf).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_potential_names_its_step(bad: float) -> None:
    def potential(k: int, x: Tensor) -> Tensor:
        values = quadratic(k, x)
        if k == 3:
            values[5] = bad
        return values

    with pytest.raises(NonFiniteError, match=r"step 3 of 4: 1 of 20 .* NaN or \+inf"):
        smc(Walk(potential), 20, Stream(0))


def test_no_survivor_names_its_step() -> None:
    with pytest.raises(NonFiniteError, match="step 2 of 4: all 20 particles have weight zero"):
        smc(Walk(lambda k, x: torch.full((len(x),), -math.inf if k == 2 else 0.0)), 20, Stream(0))


def test_wrong_shapes() -> None:
    with pytest.raises(InputError, match=r"at the start: the log-potential has shape \(20, 1\)"):
        smc(Walk(lambda k, x: quadratic(k, x)[:, None]), 20, Stream(0))

    @dataclass
    class Dropping(Walk):
        def step(self, k: int, state: dict[str, Tensor], stream: Stream) -> tuple[dict[str, Tensor], Tensor]:
            state, potential = super().step(k, state, stream)
            return {**state, "x": state["x"][:-1]}, potential

    with pytest.raises(InputError, match=r"step 1 of 4: 'x' has shape \(19, 2\)"):
        smc(Dropping(quadratic), 20, Stream(0))

    @dataclass
    class Nameless(Walk):
        def initial(self, n: int, stream: Stream) -> tuple[dict[str, Tensor], Tensor]:
            state, potential = super().initial(n, stream)
            return {"y": state["x"]}, potential

    with pytest.raises(InputError, match="needs an entry 'x'"):
        smc(Nameless(quadratic), 20, Stream(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n ≥ 1"),
        ({"ess_threshold": 0.0}, "0 < ess_threshold ≤ 1"),
        ({"ess_threshold": 1.1}, "0 < ess_threshold ≤ 1"),
        ({"ess_threshold": math.nan}, "0 < ess_threshold ≤ 1"),
        ({"resampling": "systemic"}, "resampling must be one of"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        smc(Walk(quadratic), **{"n": 10, "stream": Stream(0), **options})


# Particles -------------------------------------------------------------------------------------------------------


def weighted() -> Particles:
    x = torch.tensor([[1.0, 10.0], [2.0, -5.0], [4.0, 0.0]])
    return Particles(x, torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64).log())


def test_moments() -> None:
    particles = weighted()
    mean = torch.tensor([2.1, 4.0])
    assert torch.allclose(particles.mean(), mean)
    second = torch.tensor([0.5 + 0.8 + 4.8, 50 + 5.0])
    assert torch.allclose(particles.var(), second - mean**2)
    assert particles.ess() == pytest.approx(1 / 0.38)
    assert particles.mean().dtype == torch.float32
    assert math.isnan(particles.log_evidence)


@pytest.mark.parametrize(
    ("q", "first", "second"), [(0.0, 1.0, -5.0), (0.5, 1.0, 0.0), (0.51, 2.0, 10.0), (1.0, 4.0, 10.0)]
)
def test_quantile_is_the_inverse_of_the_distribution_function(q: float, first: float, second: float) -> None:
    assert weighted().quantile(q).tolist() == [first, second]


def test_quantile_of_equal_weights() -> None:
    x = torch.randperm(101, generator=torch.Generator().manual_seed(0)).double()
    assert Particles.equal(x[:, None]).quantile(0.25).tolist() == [25.0]
    with pytest.raises(InputError, match="0 ≤ q ≤ 1"):
        weighted().quantile(1.5)


def test_resample() -> None:
    """Thinning is unbiased in counts, shuffled, and leaves equal weights alone."""
    particles = weighted()
    drawn = particles.resample(1000, Stream(0))
    assert (drawn.x[:, 0] == 1).sum() == 500 and (drawn.x[:, 0] == 2).sum() == 200  # systematic: n w exactly
    assert drawn.ess() == pytest.approx(1000)
    # in random order: 300 of the first 600, with a hypergeometric standard deviation of √(600 · ¼ · 0.4) = 7.7
    assert abs((drawn.x[:600, 0] == 1).sum() - 300) < 4 * 7.7
    equal = Particles.equal(torch.arange(4.0)[:, None])
    assert equal.resample(4, Stream(0)) is equal
    with pytest.raises(InputError, match="n ≥ 1"):
        equal.resample(0, Stream(0))


def test_moments_of_whole_numbers_are_not_whole() -> None:
    weights = torch.tensor([0.25, 0.75]).double().log()
    run = Particles(torch.tensor([[0, 3], [1, 5]]), weights)
    assert torch.allclose(run.mean(), torch.tensor([0.75, 4.5]).double())
    assert torch.allclose(run.var(), torch.tensor([0.1875, 0.75]).double())


def test_a_model_may_say_what_it_did() -> None:
    """Means over the particles and numbers of all, step by step; nothing where it said nothing."""

    @dataclass
    class Telling(Walk):
        def step(self, k: int, state: dict[str, Tensor], stream: Stream) -> Step:
            state, potential = super().step(k, state, stream)
            said = {"right": state["x"][:, 0] > 1, "pair": torch.tensor([[k, -k]])}
            self.right.append(float((state["x"][:, 0] > 1).double().mean()))
            return state, potential, {} if k == 2 else said

        right: list[float] = field(default_factory=list)

    model = Telling(quadratic)
    run = smc(model, 100, Stream(0))
    right = [math.nan, *model.right[:2], math.nan, model.right[3]]
    assert run.diagnostics["right"][:, 0].tolist() == pytest.approx(right, nan_ok=True)
    assert run.diagnostics["pair"][[1, 2, 4]].tolist() == [[0, 0], [1, -1], [3, -3]]
    assert run.diagnostics["pair"][[0, 3]].isnan().all()
    for nested in (NestedModel(model, 3), GreedyModel(model, 3)):  # children, too, are told of
        model.right.clear()
        assert float(smc(nested, 100, Stream(0)).diagnostics["right"][1, 0]) == pytest.approx(model.right[0])


@pytest.mark.parametrize("value", [torch.zeros(20, 2), torch.zeros(2, 1), torch.zeros(3), torch.zeros(())])
def test_a_diagnostic_of_another_shape_is_refused(value: Tensor) -> None:
    @dataclass
    class Telling(Walk):
        def step(self, k: int, state: dict[str, Tensor], stream: Stream) -> Step:
            return *super().step(k, state, stream), {"rate": value}

    with pytest.raises(InputError, match="step 1 of 4: the diagnostic 'rate' has shape"):
        smc(Telling(quadratic), 20, Stream(0))
