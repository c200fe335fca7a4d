"""The automatic choice: the member of the family that its rule names, for each row alone."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from problems import gaussian_flow, mixture, solution
from torch import Tensor

from sciflow.diffusion.flow import probability_flow
from sciflow.diffusion.mixture import GaussianMixture, MixtureDenoiser
from sciflow.diffusion.network import NetworkDenoiser
from sciflow.diffusion.schedule import EDM, Linear, Scaled, Schedule, VariancePreserving
from sciflow.networks import NETWORKS
from sciflow.random import Stream
from sciflow.solvers import EABM, Auto, solve
from sciflow.solvers.automatic import mean_width, widths
from sciflow.solvers.compiled import compiled
from sciflow.solvers.dynamics import Equation
from sciflow.solvers.exponential import multistep
from sciflow.solvers.narrow import (
    LEAST_GROUPS,
    N_KNOWN,
    N_TESTED,
    ROUGH_WIDTH,
    SMOOTH_WIDTH,
    WIDEST_SECOND,
    advanced,
    allotted,
    begun,
    differences,
    planned,
)
from sciflow.solvers.weights import prepared

ROUNDING = 1e-12  # float64 with some tens of operations and weights of order one


class Rippled:
    """A denoiser with a ripple in λ for rows of negative first coordinate, as a network might have."""

    schedule, shape = EDM(), (2,)

    def __init__(self) -> None:
        self.exact = MixtureDenoiser(mixture(), self.schedule)

    def __call__(self, x: Tensor, t: float) -> Tensor:
        ripple = 0.05 * math.sin(20 * float(self.schedule.log_snr(t)))
        return self.exact(x, t) + ripple * (x[:, :1] < 0)


def start(n: int) -> Tensor:
    return Rippled().exact.initial(0.0, n, Stream(0), torch.float64)


def grid(n_steps: int, stop: float = 1.0) -> list[float]:
    return torch.linspace(0, stop, n_steps + 1, dtype=torch.float64).tolist()


NARROW = grid(70)  # mean width 0.15


@pytest.mark.parametrize(("schedule", "first", "last"), [(Linear(), 0.0, 1.0), (EDM(), 0.0, 0.9), (Linear(), 0.3, 1.0)])
@pytest.mark.parametrize("n_steps", [1, 5, 40, 80])
def test_any_grid_is_solved(schedule: Schedule, first: float, last: float, n_steps: int) -> None:
    """α = 0 and σ = 0 at the ends are no obstacle; to σ = 0 without θ the last step is the denoiser itself."""
    denoiser, states = MixtureDenoiser(mixture(), schedule), []
    times = torch.linspace(first, last, n_steps + 1, dtype=torch.float64).tolist()
    flow, x = probability_flow(denoiser), denoiser.initial(first, 8, Stream(0), torch.float64)
    end = solve(flow, x, times, Auto(), on_step=lambda k, t, x: states.append(x.clone()))
    assert torch.isfinite(end).all()
    method = Auto().method(flow, times)
    white = float(schedule.alpha(first)) == 0
    narrow = method.nodes is None
    assert method.split.frame == ("velocity" if white else "noise") and not (white and narrow)
    if first and n_steps == 5:
        assert torch.allclose(end, denoiser(states[-2], times[-2]), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(("n_steps", "order"), [(11, 3), (21, 3), (23, 4), (40, 4)])
def test_wide_steps_are_those_of_one_method(n_steps: int, order: int) -> None:
    """σ from 80 to 0.002: widths of 10.6/n; of 11 to 22 of them the mean is between 0.48 and 1."""
    flow, x = probability_flow(Rippled()), start(6)
    assert torch.equal(solve(flow, x, grid(n_steps), Auto()), solve(flow, x, grid(n_steps), EABM(order, "noise")))


LATE = torch.linspace(0.4, 1.0, 51, dtype=torch.float64).tolist()  # σ from 6.6: no steps share a call


def test_rows_that_ripple_keep_fewer_nodes_than_smooth_ones() -> None:
    """On a grid without shared calls: rough rows are `eabm` of order 4 in their frame, smooth ones are not."""
    flow = probability_flow(Rippled())
    x = MixtureDenoiser(mixture(), EDM()).initial(LATE[0], 32, Stream(0), torch.float64)
    steps = Auto().plan(flow, LATE)
    assert [step.smooth is not None for step in steps] == [k >= N_KNOWN - 1 for k in range(len(steps))]
    state = begun(steps[0], x.clone(), ())
    for step in steps:
        state = advanced(step, state)
    assert state.is_smooth is not None
    told = state.is_smooth.flatten().bool()
    assert 0 < told.sum() < len(x) and not (told & (x[:, 0] < 0)).any()
    split = prepared(flow.split("noise").narrowed(ROUGH_WIDTH), LATE)
    widths_of_steps = widths(split, LATE)
    counts = [4 if width <= 0.3 else 3 for width in widths_of_steps]
    method, other = EABM(4, corrector=True), EABM(4, corrector=True).begin(split, LATE, x)
    for step in multistep(split, LATE, counts, counts):
        other = method.step(flow, step, other, None)  # type: ignore[arg-type]
    assert torch.allclose(state.x[~told], other.x[~told], rtol=0, atol=ROUNDING)
    assert not torch.allclose(state.x[told], other.x[told], rtol=0, atol=1e-9)


def test_smooth_rows_change_into_a_frame_of_their_own() -> None:
    """They go on as if all that is known had been recorded in it: a fresh start there from the same history."""
    flow, x = probability_flow(Rippled().exact), Rippled().exact.initial(LATE[0], 8, Stream(0), torch.float64)
    steps = Auto().plan(flow, LATE)
    known, state = [], begun(steps[0], x.clone(), ())
    for k, step in enumerate(steps[: N_KNOWN - 1]):
        known.append((LATE[k], state.states[0].clone()))
        state = advanced(step, state)
    evaluated, before = state.states[0].clone(), state.x.clone()
    state = advanced(steps[N_KNOWN - 1], state)
    assert state.is_smooth is not None
    told = state.is_smooth.flatten().bool()
    assert told.sum() >= 4
    split = prepared(flow.split("noise").narrowed(SMOOTH_WIDTH), LATE)
    step = multistep(split, LATE[: N_KNOWN + 1], [6])[0]
    values = [split.remainder(t, own) for t, own in [(LATE[N_KNOWN - 1], evaluated), *known[:-6:-1]]]
    moved = step.propagator * before + sum(w * g for w, g in zip(step.weights, values, strict=True))
    new = split.remainder(LATE[N_KNOWN], moved)
    fixed = steps[N_KNOWN - 1].smooth.corrector
    moved = moved + sum(w * g for w, g in zip(fixed, [new, *values], strict=False))
    # states of order 10, and values that come from another frame
    assert torch.allclose(state.x[told], moved[told], rtol=0, atol=1e3 * ROUNDING)


def test_calls_are_as_many_as_steps_and_lie_where_the_flow_decides() -> None:
    schedule, flow = EDM(), probability_flow(Rippled().exact)
    levels = schedule.sigma(torch.tensor(grid(64), dtype=torch.float64)).tolist()
    calls = allotted(levels)
    made = 1 + sum(calls.once) + sum(calls.twice)
    assert calls.is_grouped and 63 <= made <= 64 and calls.once[-1]
    second = [k for k, twice in enumerate(calls.twice) if twice]
    assert second == list(range(second[0], second[-1] + 1, 2)) and all(calls.once[k] for k in second)
    step_widths = [math.log(a / b) for a, b in itertools.pairwise(levels)]
    assert step_widths[second[-1]] <= WIDEST_SECOND < step_widths[second[-1] + 1]
    counts, state = [], begun((steps := Auto().plan(flow, grid(64)))[0], start(4), ())
    seen = counted(flow, counts)
    for step in planned(seen.split("noise"), grid(64), ()):
        before = len(counts)
        state = advanced(step, state)
        assert len(counts) - before == step.calls
    assert [step.smooth is not None for step in steps].index(True) == sum(
        size for size in (4, 4, 4, 3, 3, 2)[:LEAST_GROUPS]
    )


def counted(flow: Equation, counts: list[int]) -> Equation:
    """The same flow, which writes down its calls."""
    split = flow.split("noise")

    class Counting:
        schedule, shape = EDM(), (2,)

        def __call__(self, x: Tensor, t: float) -> Tensor:
            counts.append(1)
            return split.denoiser(x, t)

    return probability_flow(Counting())


@pytest.mark.parametrize(
    "ratios", [[5.0 - 0.1 * k for k in range(40)], [1000.0, 1.0, 0.1], [30.0 * 0.99**k for k in range(30)]]
)
def test_grids_without_a_long_beginning_share_no_calls(ratios: list[float]) -> None:
    calls = allotted(ratios)
    assert not calls.is_grouped and sum(calls.once) == len(ratios) - 2 and not any(calls.twice)


def test_states_between_shared_calls_are_those_of_one_polynomial() -> None:
    """On the way through a group the state is where one step to there would be: the prediction is one integral."""
    flow, x = probability_flow(Rippled().exact), start(8)
    steps = Auto().plan(flow, grid(64))
    state, states = begun(steps[0], x.clone(), ()), []
    for step in steps[:3]:
        state = advanced(step, state)
        states.append(state.x.clone())
    split = prepared(flow.split("noise").narrowed(ROUGH_WIDTH), grid(64))
    value = split.remainder(0.0, x)
    for k, found in enumerate(states, start=1):
        a, b = grid(64)[0], grid(64)[k]
        direct = split.propagator(a, b) * x + split.weights(a, b, [a])[0] * value
        assert torch.allclose(found, direct, rtol=0, atol=1e3 * ROUNDING)  # states of order 100


def test_rows_do_not_depend_on_the_batch() -> None:
    flow, x = probability_flow(Rippled()), start(8)
    whole = solve(flow, x, NARROW, Auto())
    for k in range(len(x)):
        # one row alone may be summed in another order: some last bits
        assert torch.allclose(solve(flow, x[k : k + 1], NARROW, Auto()), whole[k : k + 1], rtol=1e-11, atol=1e-11)


def test_buffers_are_reused_without_gradients_and_nothing_else_changes() -> None:
    flow, x = probability_flow(Rippled()), start(8)
    before, with_gradients = x.clone(), solve(flow, x, NARROW, Auto())
    with torch.no_grad():
        assert torch.allclose(solve(flow, x, NARROW, Auto()), with_gradients, rtol=0, atol=ROUNDING)
    assert torch.equal(x, before)


@pytest.mark.parametrize("solver", [EABM(4), EABM(4, "data"), EABM(3, "data", corrector=True)], ids=str)
def test_smooth_rows_gain_what_the_rule_is_for(solver: EABM) -> None:
    """At 64 steps from σ = 80 the error is 1.8 times below that of the best methods of one order of other libraries."""
    denoiser = Rippled().exact
    flow, x = probability_flow(denoiser), start(64)
    exact = solve(flow, x, grid(600), EABM(4, corrector=True))
    errors = [(solve(flow, x, grid(64), s) - exact).square().mean(1).sqrt().median() for s in (Auto(), solver)]
    assert errors[0] < errors[1] / 1.8


def test_second_calls_gain_what_the_rule_is_for() -> None:
    """Narrow kernels on points: without the second calls, 15 of 64, the error is twice as large; 1.4 is asked for."""
    points = torch.randn(64, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    covariance = (0.1**2 * torch.eye(16, dtype=torch.float64)).expand(64, 16, 16)
    law = GaussianMixture(torch.full((64,), 1 / 64, dtype=torch.float64), points, covariance)
    denoiser = MixtureDenoiser(law, EDM())
    flow, x = probability_flow(denoiser), denoiser.initial(0.0, 64, Stream(0), torch.float64)
    exact, errors = solve(flow, x, grid(400), EABM(4, corrector=True)), []
    for most in (2, 1):
        steps = [step._replace(calls=min(step.calls, most)) for step in Auto().plan(flow, grid(64))]
        state = begun(steps[0], x.clone(), ())
        for step in steps:
            state = advanced(step, state)
        errors.append((state.x - exact).square().mean(1).sqrt().median())
    assert errors[0] < errors[1] / 1.4


@pytest.mark.parametrize("schedule", [Linear(), Scaled(VariancePreserving(), 3.0)], ids=str)
@pytest.mark.parametrize("width", [0.1, 2.0])
def test_a_narrow_frame_is_exact_for_data_of_its_width(schedule: Schedule, width: float) -> None:
    std = width * getattr(schedule, "std", 1.0)
    law = GaussianMixture(
        torch.ones(1, dtype=torch.float64),
        torch.zeros(1, 2, dtype=torch.float64),
        std**2 * torch.eye(2, dtype=torch.float64)[None],
    )
    denoiser, times = MixtureDenoiser(law, schedule), [0.2, 0.5, 0.6, 0.9]
    x = denoiser.initial(0.2, 8, Stream(0), torch.float64)
    split = prepared(probability_flow(denoiser).split("noise").narrowed(width), times)
    method, state = EABM(3), EABM(3).begin(split, times, x)
    for step in multistep(split, times, [1, 2, 3]):
        state = method.step(None, step, state, None)  # type: ignore[arg-type]
    exact = gaussian_flow(law, schedule, x, *torch.tensor([0.2, 0.9], dtype=torch.float64))
    assert torch.allclose(state.x, exact, rtol=0, atol=ROUNDING * std)


def test_the_test_compares_divided_differences() -> None:
    """F = λ^k: the last of n nodes adds nothing below degree n − 1."""
    flow = probability_flow(MixtureDenoiser(mixture(), EDM()))
    split = prepared(flow.split("noise"), NARROW)
    nodes = NARROW[20 : 20 + N_TESTED]
    third, fifth = (torch.tensor(row, dtype=torch.float64) for row in differences(split, nodes))
    log_snr = torch.tensor([float(EDM().log_snr(t)) for t in nodes[::-1]], dtype=torch.float64)
    sigma = torch.tensor([float(EDM().sigma(t)) for t in nodes[::-1]], dtype=torch.float64)
    for degree in range(N_TESTED):
        values = (log_snr - log_snr[0]) ** degree * sigma  # G = σ F
        scale = float((third.abs() * values.abs()).sum()) + 1e-300
        assert (abs(float(third @ values)) > 1e-9 * scale) == (degree >= N_TESTED - 3)
        assert (abs(float(fifth @ values)) > 1e-9 * scale) == (degree >= N_TESTED - 1)


def test_widths_leave_infinite_steps_out_of_their_mean() -> None:
    split = probability_flow(MixtureDenoiser(mixture(), Linear())).split("noise")
    steps = widths(split, [0.0, 0.25, 0.5, 1.0])
    assert [math.isfinite(width) for width in steps] == [False, True, False]
    assert mean_width(steps) == pytest.approx(math.log(3))
    assert mean_width(widths(split, [0.0, 1.0])) == math.inf


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler, about itself
def test_one_graph_gives_what_the_loop_gives() -> None:
    torch.manual_seed(0)
    module = NETWORKS["mlp"](width=8, depth=1).build((4,)).eval().requires_grad_(False)
    flow = probability_flow(NetworkDenoiser(module, Scaled(EDM(), 1.0), (4,), 0.0))
    times, x = torch.linspace(0, 0.15, N_KNOWN + 2, dtype=torch.float64), 80 * torch.ones(8, 4).cumsum(0)
    with torch.no_grad():
        assert torch.equal(compiled(flow, times, Auto(), backend="aot_eager")(x), solve(flow, x, times, Auto()))


def test_exact_history_counts() -> None:
    denoiser, times, path = solution("mixture", VariancePreserving())
    past = [(float(times[k]), path[k]) for k in range(0, 40, 8)]
    steps = Auto().plan(probability_flow(denoiser), times[40::8].tolist(), [t for t, _ in past])
    assert len(past) == N_TESTED - 1
    assert [step.smooth is not None for step in steps[:6]] == [k >= N_TESTED - 1 for k in range(6)]
