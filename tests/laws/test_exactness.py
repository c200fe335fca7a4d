"""Exactness of multistep weights and the identities between solvers that carry different names."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from problems import gaussian, mixture

from sciflow.diffusion.denoiser import FromView
from sciflow.diffusion.flow import FRAMES, FrameSplit, probability_flow, reverse_sde, transition
from sciflow.diffusion.mixture import MixtureDenoiser
from sciflow.diffusion.schedule import EDM, Cosine, Linear, Scaled, VariancePreserving, is_value
from sciflow.random import Stream
from sciflow.solvers import (
    EABM,
    ETDRK4,
    Equation,
    Euler,
    EulerMaruyama,
    ExponentialEuler,
    ExponentialRungeKutta,
    Heun,
    RungeKutta4,
    Solver,
    linear,
    solve,
)
from sciflow.solvers.dynamics import LinearSplit, TrivialSplit
from sciflow.solvers.phi import phis

ROUNDING = 1e-12  # float64 with some ten operations and weights of order one


def model() -> MixtureDenoiser:
    return MixtureDenoiser(mixture(), VariancePreserving())


RATES = {  # dq/dλ of each frame, with u = e^{−λ}
    "noise": lambda log_snr: -np.exp(-log_snr),
    "data": np.exp,
    "velocity": lambda log_snr: -0.5 / np.cosh(log_snr),
}
CLOCKS = {
    "log_snr": lambda log_snr: log_snr,
    "ratio": lambda log_snr: np.exp(-log_snr),
    "angle": lambda log_snr: np.arctan(np.exp(-log_snr)),
    "time": lambda log_snr: model().schedule.time(torch.as_tensor(log_snr)).numpy(),
}


@pytest.mark.parametrize("variable", CLOCKS)
@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("n_nodes", [1, 2, 3, 4, 5])
def test_weights_integrate_polynomials_of_their_node_variable(frame: str, variable: str, n_nodes: int) -> None:
    """With F = c^k, k < p, a step adds s_b ∫ c^k dq, which is computed here over λ by another quadrature."""
    split, clock = FrameSplit(model(), frame, variable), CLOCKS[variable]
    log_snr_a, log_snr_b, spacing = -0.3, 0.1, 0.25
    nodes = log_snr_a - spacing * np.arange(n_nodes)
    a, b, *_ = times = [float(split.denoiser.schedule.time(v)) for v in (log_snr_a, log_snr_b, *nodes)]
    weights = [
        w / split._normalisation(*split.levels(t))
        for w, t in zip(split.weights(a, b, times[2:]), times[2:], strict=True)
    ]
    points, quadrature = np.polynomial.legendre.leggauss(100)
    log_snr = 0.5 * (log_snr_a + log_snr_b) + 0.5 * (log_snr_b - log_snr_a) * points
    measure = 0.5 * (log_snr_b - log_snr_a) * quadrature * RATES[frame](log_snr) * split._scale(*split.levels(b))
    for power in range(n_nodes):
        expected = measure @ (clock(log_snr) - clock(log_snr_a)) ** power
        values = (clock(nodes) - clock(log_snr_a)) ** power
        assert weights @ values == pytest.approx(expected, rel=0, abs=ROUNDING)


@pytest.mark.parametrize("n_nodes", [1, 2, 3, 4])
def test_classical_adams_weights(n_nodes: int) -> None:
    """On an equidistant grid without linear part the weights are the textbook ones."""
    textbook = {1: [1], 2: [3 / 2, -1 / 2], 3: [23 / 12, -16 / 12, 5 / 12], 4: [55 / 24, -59 / 24, 37 / 24, -9 / 24]}
    weights = TrivialSplit(lambda t, x: x).weights(0.0, 1.0, [-float(j) for j in range(n_nodes)])
    assert weights == pytest.approx(textbook[n_nodes], abs=ROUNDING)


@pytest.mark.parametrize("rate", [0.0, 1e-9, -1e-3, -1.0, -50.0, -1e5])
def test_linear_split_weights_are_phi_functions(rate: float) -> None:
    """∫ e^{(h−s)L} ds = h φ₁(hL), at rates where a recursion for φ would lose its digits."""
    h = 0.1
    split = LinearSplit(rate, lambda t, x: x)
    z = h * rate
    phi_1 = math.expm1(z) / z if z else 1.0
    weight = split.weights(1.0, 1.0 + h, [1.0])[0]
    assert weight == pytest.approx(h * phi_1, rel=1e-12)  # (1.0 + h) − 1.0 is h to 1e-15
    assert split.propagator(1.0, 1.0 + h) == pytest.approx(math.exp(z), rel=1e-14)


@pytest.mark.parametrize("z", [-1e4, -30.0, -4.0001, -3.9999, -1e-3, 0.0, 0.5, 80j, 4.0001j, -2 + 3j, -1e-6j])
def test_phi_functions_keep_their_digits(z: complex) -> None:
    """Against the integrals that define them, in the limit |z| → 0 and at both sides of where the series ends."""
    points, weights = np.polynomial.legendre.leggauss(60)
    panels = np.concatenate([[0.0], 2.0 ** np.arange(-20, 1)])  # towards s = 1, where e^{(1−s)z} decays
    found = phis(torch.tensor([z], dtype=torch.complex128), 7)
    for k, value in enumerate(found, start=1):
        exact = 0.0
        for low, high in itertools.pairwise(panels):
            left = 0.5 * (low + high) + 0.5 * (high - low) * points  # 1 − s
            exact += 0.5 * (high - low) * weights @ (np.exp(left * z) * (1 - left) ** (k - 1)) / math.factorial(k - 1)
        assert complex(value) == pytest.approx(exact, rel=2e-12)  # φ₇ at |z| = 4 has lost three digits of 16


def test_steps_of_equal_length_share_their_coefficients() -> None:
    """A uniform grid in floating point has lengths that differ by rounding: still one set of tensors."""
    rate = -(torch.arange(8.0, dtype=torch.float64) ** 2)
    split = LinearSplit(rate, lambda t, x: x)
    times = torch.linspace(0, 3, 301, dtype=torch.float64).tolist()
    made = {id(split.weights(a, b, [a])[0]) for a, b in itertools.pairwise(times)}
    assert len(made) == 1
    assert torch.allclose(split.propagator(times[7], times[8]), (0.01 * rate).exp(), rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    "solver", [ETDRK4("linear"), EABM(3, "linear"), ExponentialRungeKutta(4, "linear"), RungeKutta4()], ids=repr
)
def test_a_factor_of_the_nonlinear_part_may_be_left_to_the_weights(solver: Solver) -> None:
    """c N and its factor c, complex beside a real linear part, are one equation."""
    rate = -(torch.arange(8.0, dtype=torch.float64) ** 2)
    factor = 1j * torch.linspace(-1, 1, 8, dtype=torch.float64)
    x = Stream(0).normal(3, (8, 2), dtype=torch.float64)
    start, grid = torch.view_as_complex(x), [0.0, 0.01, 0.02, 0.03, 0.05]
    whole, left = linear(rate, lambda t, x: factor * x.square()), linear(rate, lambda t, x: x.square(), factor)
    assert torch.equal(whole.drift(0.0, start), left.drift(0.0, start))
    ends = [solve(one, start, grid, solver) for one in (whole, left)]
    assert torch.allclose(*ends, rtol=0, atol=ROUNDING)


def test_ddim_is_exponential_euler_is_the_exact_ornstein_uhlenbeck_mean() -> None:
    law, schedule = mixture(), VariancePreserving()
    denoiser = MixtureDenoiser(law, schedule)
    x = denoiser.initial(0.3, 32, Stream(0), torch.float64)
    a, b = 0.3, 0.45
    ddim, spread = transition(denoiser, x, denoiser(x, a), a, b, eta=0.0)
    assert spread == 0.0
    flow = probability_flow(denoiser)
    for solver in (ExponentialEuler("noise"), ExponentialEuler("data"), EABM(1, "noise"), EABM(1, "data")):
        assert torch.allclose(solve(flow, x, [a, b], solver), ddim, rtol=0, atol=ROUNDING)
    rate, mean = -1.7, torch.tensor([0.4, -2.0], dtype=torch.float64)
    process = linear(rate, lambda t, x: -rate * mean.expand_as(x))
    exact = mean + math.exp(rate * 0.8) * (x - mean)
    assert torch.allclose(solve(process, x, [0.0, 0.8], ExponentialEuler("linear")), exact, rtol=0, atol=ROUNDING)


def test_a_constant_remainder_is_solved_exactly_in_its_frame() -> None:
    """D constant is exact in the data frame, noise constant in the noise frame, from any a to any b in one step."""
    schedule, value = Cosine(), torch.tensor([[1.0, -0.5]], dtype=torch.float64)
    x, a, b = torch.tensor([[0.3, 0.8]], dtype=torch.float64), 0.2, 0.9
    alpha, sigma = (lambda t: float(schedule.alpha(t))), (lambda t: float(schedule.sigma(t)))
    data = FromView(lambda x, t: value.expand_as(x), "data", schedule, (2,))
    exact = alpha(b) * value + sigma(b) / sigma(a) * (x - alpha(a) * value)
    assert torch.allclose(solve(probability_flow(data), x, [a, b], ExponentialEuler("data")), exact, atol=ROUNDING)
    noise = FromView(lambda x, t: value.expand_as(x), "noise", schedule, (2,))
    exact = alpha(b) / alpha(a) * (x - sigma(a) * value) + sigma(b) * value
    assert torch.allclose(solve(probability_flow(noise), x, [a, b], ExponentialEuler("noise")), exact, atol=ROUNDING)


def test_the_data_frame_reaches_sigma_zero_and_the_velocity_frame_starts_at_alpha_zero() -> None:
    denoiser = MixtureDenoiser(mixture(), Linear())
    x = Stream(0).normal(8, (2,), dtype=torch.float64)
    end = solve(probability_flow(denoiser), x, [0.0, 0.25, 0.5, 0.75, 1.0], EABM(2, "velocity"))
    assert torch.isfinite(end).all()
    middle = denoiser.initial(0.5, 8, Stream(0), torch.float64)
    last = solve(probability_flow(denoiser), middle, [0.5, 1.0], ExponentialEuler("data"))
    assert torch.allclose(last, denoiser(middle, 0.5), atol=ROUNDING)
    for solver in (ExponentialEuler("noise"), EABM(3, "noise")):
        with pytest.raises(ValueError, match="Start the grid later"):
            solve(probability_flow(denoiser), x, [0.0, 0.5], solver)
    with pytest.raises(ValueError, match=r"infinite on the step from t = 0\.75 to 1"):
        solve(probability_flow(denoiser), middle, [0.5, 0.75, 1.0], EABM(2, "data"))


@pytest.mark.parametrize("nodes", CLOCKS)
@pytest.mark.parametrize("method", [EABM, ExponentialRungeKutta])
def test_the_node_variable_is_a_choice_of_the_solver_too(method: type, nodes: str) -> None:
    denoiser, grid = model(), [0.3, 0.4, 0.6, 0.7]
    x = denoiser.initial(0.3, 8, Stream(0), torch.float64)
    end = solve(probability_flow(denoiser), x, grid, method(3, "noise", nodes=nodes))
    assert torch.equal(end, solve(probability_flow(denoiser, nodes), x, grid, method(3, "noise")))
    assert (nodes == "log_snr") == torch.equal(end, solve(probability_flow(denoiser), x, grid, method(3, "noise")))
    with pytest.raises(ValueError, match="Leave nodes out"):
        method(3, "time", nodes=nodes).plan(Equation(lambda t, x: -x), [0.0, 1.0])


@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize("frame", ["noise", "data"])
def test_a_last_step_of_order_one_reaches_sigma_zero(frame: str, corrector: bool) -> None:
    """There DDIM is the denoised state before it: x₁ = D(x, t)."""
    denoiser, grid = MixtureDenoiser(mixture(), Linear()), [0.4, 0.6, 0.8, 0.9, 1.0]
    flow, x = probability_flow(denoiser), denoiser.initial(0.4, 8, Stream(0), torch.float64)
    for final, nodes in (("first", [1, 2, 3, 1]), ("lower", [1, 2, 2, 1])):
        states: list[torch.Tensor] = []
        solver = EABM(3, frame, corrector, final=final)
        end = solve(flow, x, grid, solver, on_step=lambda k, t, x, states=states: states.append(x.clone()))
        # the corrector's last step knows D at the prediction, not at the corrected state: some 0.05 apart here
        assert torch.allclose(end, denoiser(states[-2], 0.9), rtol=0, atol=0.2 if corrector else ROUNDING)
        assert [len(step.weights) for step in solver.plan(flow, grid)] == nodes
    with pytest.raises(ValueError, match="final: first"):
        solve(flow, x, grid, EABM(3, frame, corrector))


def test_eabm_on_the_trivial_split_is_adams_bashforth() -> None:
    """Order 1 in the frame "time" is Euler to the last bit of the update."""
    flow = probability_flow(model())
    x = model().initial(0.3, 8, Stream(0), torch.float64)
    grid = [0.3, 0.35, 0.42, 0.5]
    assert torch.allclose(solve(flow, x, grid, EABM(1, "time")), solve(flow, x, grid, Euler()), atol=ROUNDING)


@pytest.mark.parametrize(
    "solver", [EABM(3, "noise", corrector=True), EABM(1, "data"), EABM(2, "data"), EABM(4, "data")]
)
def test_solutions_do_not_depend_on_how_the_schedule_labels_noise_levels(solver: EABM) -> None:
    """VP, VE and linear share (y, u) = (x/α, σ/α): the same levels give the same y, for any multistep order.

    In the data frame the steps of VE are nested means and those of the others are not.
    """
    log_snr = torch.linspace(-2, 2, 13, dtype=torch.float64)
    ends = []
    for schedule in (VariancePreserving(), EDM(), Linear()):
        denoiser, grid = MixtureDenoiser(mixture(), schedule), schedule.time(log_snr)
        y = Stream(0).normal(8, (2,), dtype=torch.float64) * math.exp(2)
        x = float(schedule.alpha(grid[0])) * y
        end = solve(probability_flow(denoiser), x, grid, solver)
        ends.append(end / float(schedule.alpha(grid[-1])))
    for end in ends[1:]:
        assert torch.allclose(end, ends[0], rtol=0, atol=ROUNDING)


def test_steps_that_reuse_buffers_give_the_same_bits_and_leave_the_input_alone() -> None:
    flow, x = probability_flow(model()), model().initial(0.3, 8, Stream(0), torch.float64)
    before, grid = x.clone(), torch.linspace(0.3, 0.9, 8)
    sde, exploding = reverse_sde(model()), probability_flow(MixtureDenoiser(mixture(), EDM()))
    ways = (EABM(3), flow), (EABM(2, "data", True), flow), (EABM(2, "data"), exploding), (Heun(), flow)
    for solver, dynamics in (*ways, (EulerMaruyama(), sde)):
        kept = solve(dynamics, x, grid, solver, stream=Stream(1))
        with torch.no_grad():
            reused = solve(dynamics, x, grid, solver, stream=Stream(1))
        # one fused multiply-add more or less: a few units in the last place
        assert torch.allclose(kept, reused, rtol=0, atol=1e-13)
        assert torch.equal(x, before)


def test_a_network_of_another_precision_leaves_the_state_in_its_own() -> None:
    def half_precision(x: torch.Tensor, t: float) -> torch.Tensor:
        return (0.5 * x).bfloat16()

    for frame, solver in ((frame, EABM(2, frame)) for frame in FRAMES):
        flow = probability_flow(FromView(half_precision, "data", EDM(), (2,)))
        with torch.no_grad():
            end = solve(flow, torch.ones(1, 2), [0.5, 0.6, 0.7], solver)
        assert end.dtype == torch.float32 and torch.isfinite(end).all(), frame


def test_rows_of_a_stochastic_solution_do_not_depend_on_the_batch() -> None:
    x = torch.zeros(6, 2, dtype=torch.float64)
    noise = Equation(lambda t, x: -x, lambda t, x: 1.0, "scalar")
    rows = [solve(noise, x[:n], [0.0, 0.5, 1.0], EulerMaruyama(), stream=Stream(0, tile=4))[:3] for n in (3, 6)]
    assert torch.equal(*rows)


def test_gradients_flow_through_a_solve() -> None:
    denoiser = MixtureDenoiser(gaussian(), VariancePreserving())
    x = denoiser.initial(0.4, 2, Stream(0), torch.float64).requires_grad_()

    def run(x: torch.Tensor) -> torch.Tensor:
        return solve(probability_flow(denoiser), x, [0.4, 0.5, 0.6], EABM(2))

    assert torch.autograd.gradcheck(run, x)


@pytest.mark.parametrize("make", [lambda: [1.0, 0.5], lambda: [0.5], lambda: [0.5, 0.5]])
def test_grids_that_do_not_increase_are_refused(make) -> None:
    with pytest.raises(ValueError, match="increasing"):
        solve(Equation(lambda t, x: x), torch.zeros(1, 1), make(), Euler())


def test_wrong_combinations_are_refused_with_the_way_out() -> None:
    sde, x = reverse_sde(model()), torch.zeros(1, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="Use EulerMaruyama"):
        solve(sde, x, [0.3, 0.4], EABM(2))
    with pytest.raises(ValueError, match="Pass stream"):
        solve(sde, x, [0.3, 0.4], EulerMaruyama())
    with pytest.raises(ValueError, match="no frame 'noise'"):
        solve(Equation(lambda t, x: x), x, [0.3, 0.4], EABM(2))


PLANNED = [
    EABM(3, "noise"),
    EABM(2, "data", corrector=True),
    EABM(3, "velocity", start="single_step"),
    EABM(2, eta=1.0),
]


@pytest.mark.parametrize("solver", PLANNED, ids=str)
def test_a_plan_that_is_remembered_is_used_with_the_model_at_hand(solver: EABM) -> None:
    times = [0.3, 0.4, 0.55, 0.7, 0.8]
    laws = [MixtureDenoiser(law(), VariancePreserving()) for law in (mixture, gaussian)]
    for denoiser in laws:  # the second finds the plan of the first
        flow, x = probability_flow(denoiser), torch.ones(1, *denoiser.shape, dtype=torch.float64)
        split = flow.split(solver.frame)
        split = (split.noisy(solver.eta) if solver.eta else split).tabulate(times)
        found, afresh = solver.plan(flow, times), solver.planned(split, times, ())
        for step, other in zip(found, afresh, strict=True):
            assert getattr(step, "step", step).split.denoiser is denoiser
            assert step == other  # weights to the last bit, and the same model, by which splits are compared
        assert solve(flow, x, times, solver, stream=Stream(0)).isfinite().all()


class Tunable:
    """A schedule that somebody may change between two solves."""

    def __init__(self) -> None:
        self.scale = 1.0

    def __getattr__(self, name: str):
        return lambda t: (self.scale if name.startswith("sigma") else 1.0) * getattr(EDM(), name)(t)


def test_the_plan_of_a_schedule_that_can_change_is_made_anew() -> None:
    schedule = Tunable()
    flow = probability_flow(FromView(lambda x, t: 0.5 * x, "data", schedule, (2,)))
    before = EABM(2, "noise").plan(flow, [0.3, 0.4, 0.5])
    schedule.scale = 2.0
    after = EABM(2, "noise").plan(flow, [0.3, 0.4, 0.5])
    sigma = float(EDM().sigma(0.4))
    assert [plan[0].split.levels(0.4)[1] for plan in (before, after)] == pytest.approx([sigma, 2 * sigma], rel=1e-12)
    assert is_value(Scaled(EDM(), 2.0)) and not is_value(schedule)
