"""The automatic choice: the member of the family that its rule names, for each row alone."""

from __future__ import annotations

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
from sciflow.solvers.automatic import N_KNOWN, N_TESTED, differences, mean_width, widths
from sciflow.solvers.compiled import compiled
from sciflow.solvers.exponential import multistep
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
    assert method.split.frame == ("velocity" if white or method.smooth else "noise") and not (white and method.smooth)
    if first and n_steps == 5:
        assert torch.allclose(end, denoiser(states[-2], times[-2]), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(("n_steps", "order"), [(11, 3), (21, 3), (23, 4), (40, 4)])
def test_wide_steps_are_those_of_one_method(n_steps: int, order: int) -> None:
    """σ from 80 to 0.002: widths of 10.6/n; of 11 to 22 of them the mean is between 0.48 and 1."""
    flow, x = probability_flow(Rippled()), start(6)
    assert torch.equal(solve(flow, x, grid(n_steps), Auto()), solve(flow, x, grid(n_steps), EABM(order, "noise")))


def test_rows_that_ripple_keep_fewer_nodes_than_smooth_ones() -> None:
    flow, x = probability_flow(Rippled()), start(32)
    _, split, rough, smooth, _ = Auto().method(flow, NARROW)
    assert smooth is not None and max(smooth[0]) == 6 and max(rough[0]) == 4
    states = []
    solver, steps = Auto(), Auto().plan(flow, NARROW)
    assert [step.smooth is not None for step in steps] == [k >= N_KNOWN - 1 for k in range(len(steps))]
    state = solver.init(flow, NARROW, x)
    for step in steps:
        state = solver.step(flow, step, state, None)  # type: ignore[arg-type]
        states.append(solver.value(state))
    assert state.is_smooth is not None
    told = state.is_smooth.flatten().bool()
    assert torch.equal(told, x[:, 0] >= 0) and 0 < told.sum() < len(x)
    split = prepared(split, NARROW)
    plain = multistep(split, NARROW, *rough)
    method, other = EABM(4, corrector=True), EABM(4, corrector=True).begin(split, NARROW, x)
    for step in plain:
        other = method.step(flow, step, other, None)  # type: ignore[arg-type]
    assert torch.allclose(states[-1][~told], other.x[~told], rtol=0, atol=ROUNDING)
    assert not torch.allclose(states[-1][told], other.x[told], rtol=0, atol=1e-9)


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


def test_smooth_rows_gain_what_the_rule_is_for() -> None:
    """At 64 steps from σ = 80 the error is less than half of that of order 3 with corrector."""
    denoiser = Rippled().exact
    flow, x = probability_flow(denoiser), start(64)
    exact = solve(flow, x, grid(600), Auto())
    errors = [
        (solve(flow, x, grid(64), s) - exact).square().mean(1).sqrt().median()
        for s in (Auto(), EABM(3, corrector=True))
    ]
    assert errors[0] < errors[1] / 2


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
