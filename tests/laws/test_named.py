"""What the named solvers are: identities between them, exactness on polynomials, means and variances on Gaussians."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from problems import SOLVER_VARIANTS, gaussian, mixture

from sciflow.diffusion.denoiser import FromView
from sciflow.diffusion.flow import probability_flow, reverse_sde, transition
from sciflow.diffusion.mixture import GaussianMixture, MixtureDenoiser
from sciflow.diffusion.schedule import EDM, Linear, Schedule, VariancePreserving
from sciflow.random import Stream
from sciflow.solvers import (
    DDIM,
    DDPM,
    DEIS,
    EABM,
    IPNDM,
    PLMS,
    PNDM,
    SOLVERS,
    DPMSolver1,
    DPMSolver2,
    DPMSolver3,
    DPMSolverPP2M,
    DPMSolverPP2S,
    DPMSolverPP3M,
    DPMSolverPP3MPublished,
    Equation,
    Euler,
    ExponentialEuler,
    ExponentialRungeKutta,
    IPNDMv,
    SDEDPMSolverPP1,
    SDEDPMSolverPP2M,
    SDEDPMSolverPP3M,
    Solver,
    UniPC,
    solve,
)

ROUNDING = 1e-12  # float64 with some ten operations per step on numbers of order one
MODULES = ("ddim", "dpm_solver", "sde_dpm_solver", "unipc", "deis", "pndm")
NAMED = [s for s in SOLVER_VARIANTS if type(s).__module__.rpartition(".")[2] in MODULES]
DETERMINISTIC = [s for s in NAMED if not getattr(s, "eta", 0.0)]
RAGGED = torch.tensor([-1.6, -1.3, -1.1, -0.7, -0.5, 0.0, 0.2, 0.7, 1.0, 1.2], dtype=torch.float64)  # λ of a grid


def run(
    solver: Solver, given: int = 3, levels: torch.Tensor = RAGGED, schedule: Schedule | None = None
) -> torch.Tensor:
    """The mixture's flow on a grid of λ, with this many earlier states (any will do); the end over α."""
    denoiser = MixtureDenoiser(mixture(), schedule or VariancePreserving())
    times = denoiser.schedule.time(levels).tolist()
    alphas = denoiser.schedule.alpha(torch.tensor(times, dtype=torch.float64))
    y = [math.exp(1.0) * Stream(k).normal(8, (2,), dtype=torch.float64) for k in range(given + 1)]
    past = [(times[k], float(alphas[k]) * y[k]) for k in range(given)]
    x = float(alphas[given]) * y[given]
    with torch.no_grad():
        end = solve(probability_flow(denoiser), x, times[given:], solver, past=past, stream=Stream(9))
    return end / float(alphas[-1])


SAME = [
    (DDIM(), ExponentialEuler("noise")),
    (DDIM(), ExponentialEuler("data")),
    (DPMSolver1(), DDIM()),
    (DDIM(1.0), DDPM()),
    (SDEDPMSolverPP1(1.0), DDPM()),
    (SDEDPMSolverPP1(0.0), DDIM()),
    (DPMSolver3(), ExponentialRungeKutta(3, "noise")),
    (DPMSolverPP2M("taylor"), EABM(2, "data")),
    (DPMSolverPP3M(), EABM(3, "data")),
    (SDEDPMSolverPP2M(0.0), DPMSolverPP2M("midpoint")),
    *((SDEDPMSolverPP1(eta), EABM(1, "data", eta=eta)) for eta in (0.5, 1.0)),
    *((SDEDPMSolverPP3M(eta), EABM(3, "data", eta=eta)) for eta in (0.5, 1.0)),
    (SDEDPMSolverPP3M(0.0), DPMSolverPP3M()),
    *((UniPC(p, variant), EABM(p, "data", corrector=True)) for p in (3, 4) for variant in ("bh1", "bh2")),
    *((DEIS(p, "log_snr"), EABM(p, "noise")) for p in (1, 2, 3, 4)),
    *((IPNDMv(p), DEIS(p, "ratio")) for p in (1, 2, 3, 4)),
    (PNDM("F"), PLMS()),
    (PNDM("S"), IPNDM(2)),
    (PLMS(), IPNDM(4)),
]


@pytest.mark.parametrize(("named", "same"), SAME, ids=str)
def test_names_of_one_method(named: Solver, same: Solver) -> None:
    assert torch.allclose(run(named), run(same), rtol=0, atol=ROUNDING)


def test_ddim_is_euler_in_the_noise_ratio() -> None:
    """dy/du = (y − D)/u with y = x/α, by the plain Euler method."""
    denoiser = MixtureDenoiser(mixture(), VariancePreserving())
    times = denoiser.schedule.time(RAGGED)
    alpha, sigma = denoiser.schedule.alpha(times), denoiser.schedule.sigma(times)
    ratio, y = sigma / alpha, math.e * Stream(1).normal(8, (2,), dtype=torch.float64)

    def fall(clock: float, y: torch.Tensor) -> torch.Tensor:
        k = int((ratio + clock).abs().argmin())
        return -(y - denoiser(alpha[k] * y, float(times[k]))) / ratio[k]

    end = solve(Equation(fall), y, -ratio, Euler())
    same = solve(probability_flow(denoiser), alpha[0] * y, times, DDIM()) / alpha[-1]
    assert torch.allclose(end, same, rtol=0, atol=ROUNDING)


DIFFERENT = [
    (DPMSolverPP2M("midpoint"), DPMSolverPP2M("taylor")),
    (DPMSolverPP3M(), DPMSolverPP3MPublished()),
    (DPMSolver2(), ExponentialRungeKutta(2, "noise")),
    (DPMSolverPP2S(), ExponentialRungeKutta(2, "data")),
    (UniPC(2, "bh1"), UniPC(2, "bh2")),
    (UniPC(1, "bh1"), UniPC(1, "bh2")),
    (IPNDM(3), IPNDMv(3)),
    *itertools.combinations([DEIS(3, "time"), DEIS(3, "ratio"), DEIS(3, "log_snr")], 2),
    (DDIM(0.5), SDEDPMSolverPP1(0.5)),
    (SDEDPMSolverPP2M(), SDEDPMSolverPP1()),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT, ids=str)
def test_names_of_two_methods(one: Solver, other: Solver) -> None:
    """They differ by what their papers differ by, which on steps of about 0.3 in λ is far above rounding."""
    assert float((run(one) - run(other)).abs().max()) > 1e-5


@pytest.mark.parametrize(
    ("one", "other"),
    [(UniPC(3, "bh1"), EABM(3, "data", True)), (PNDM("S"), IPNDM(2)), (PLMS(), IPNDM(4)), (PNDM("F"), PLMS())],
    ids=str,
)
def test_methods_that_differ_in_their_first_steps_alone(one: Solver, other: Solver) -> None:
    assert float((run(one, given=0) - run(other, given=0)).abs().max()) > 1e-5


@pytest.mark.parametrize("solver", [s for s in DETERMINISTIC if getattr(s, "variable", "") != "time"], ids=str)
def test_the_schedule_is_only_a_label(solver: Solver) -> None:
    """VP, VE and linear agree in x/α; what is written in t (tAB-DEIS, the middle of a PNDM start) cannot."""
    given = 3 if solver == PNDM("F") else 0
    ends = [run(solver, given, schedule=schedule) for schedule in (VariancePreserving(), EDM(), Linear())]
    for end in ends[1:]:
        assert torch.allclose(end, ends[0], rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("solver", [IPNDM(3), IPNDM(4), PLMS(), PNDM()], ids=str)
def test_constant_weights_are_right_on_a_grid_equidistant_in_the_ratio(solver: Solver) -> None:
    levels = -torch.linspace(4.0, 1.0, 10, dtype=torch.float64).log()
    assert torch.allclose(run(solver, levels=levels), run(DEIS(solver.order, "ratio"), levels=levels), atol=1e-11)


def powers(degree: int) -> FromView:
    """A denoiser whose answer is λ^k, whatever it sees."""
    schedule = VariancePreserving()
    return FromView(lambda x, t: float(schedule.log_snr(t)) ** degree * torch.ones_like(x), "data", schedule, (1,))


def polynomial_error(solver: Solver, degree: int, eta: float, levels: torch.Tensor) -> float:
    """|mean after one step with three earlier nodes − exact|, in units of α_b; the noise is left out."""
    denoiser = powers(degree)
    schedule, x = denoiser.schedule, torch.full((1, 1), 0.3, dtype=torch.float64)
    times = schedule.time(levels).tolist()
    flow, past = probability_flow(denoiser), [(t, x) for t in times[:-2]]
    steps = solver.plan(flow, times[-2:], [t for t, _ in past])
    state = solver.init(flow, times[-2:], x.clone(), past)
    with torch.no_grad():
        end = solver.value(solver.step(flow, steps[0], state, lambda: torch.zeros_like(x)))  # type: ignore[arg-type]
    (a, b), rate = levels[-2:].tolist(), 1 + eta**2
    nodes, weights = np.polynomial.legendre.leggauss(40)
    tau = 0.5 * (a + b) + 0.5 * (b - a) * nodes
    integral = float(0.5 * (b - a) * weights @ (rate * np.exp(-rate * (b - tau)) * tau**degree))
    alpha, sigma = (float(f(times[-1])) for f in (schedule.alpha, schedule.sigma))
    kept = sigma / float(schedule.sigma(times[-2])) * math.exp(-(eta**2) * (b - a))
    return (float(end) - kept * 0.3 - alpha * integral) / alpha


@pytest.mark.parametrize(
    "solver",
    [DDIM(), DDIM(1.0), DPMSolverPP2M("taylor"), DPMSolverPP3M(), UniPC(3), UniPC(4)]
    + [make(eta) for make in (SDEDPMSolverPP1, SDEDPMSolverPP3M) for eta in (0.0, 0.7, 1.0)],
    ids=str,
)
def test_polynomials_are_integrated_exactly(solver: Solver) -> None:
    """T1: D = λ^k for k < p, on uneven steps; wrong signs and factors in the higher terms do not survive it."""
    for degree in range(solver.order):
        error = polynomial_error(solver, degree, getattr(solver, "eta", 0.0), RAGGED[:5])
        assert abs(error) < ROUNDING, degree


@pytest.mark.parametrize("k", [1, 2])
def test_the_published_third_order_misses_half_of_the_second_derivative(k: int) -> None:
    """D = λ² has D₂ = h², and half of what it adds is h² (1 − 2φ₂/h)/2; D = λ is exact."""
    levels = RAGGED[: k + 3]
    h = float(levels[-1] - levels[-2])
    phi_2 = math.expm1(-h) / h + 1
    published, correct = DPMSolverPP3MPublished(), DPMSolverPP3M()
    assert abs(polynomial_error(published, 1, 0.0, levels)) < ROUNDING
    missing = -(h**2) * 0.5 * (1 - 2 * phi_2 / h)
    assert polynomial_error(published, 2, 0.0, levels) == pytest.approx(missing, abs=ROUNDING)
    assert abs(polynomial_error(correct, 2, 0.0, levels)) < ROUNDING


@pytest.mark.parametrize("solver", [DDPM(), SDEDPMSolverPP1(), SDEDPMSolverPP2M(), SDEDPMSolverPP3M()], ids=str)
def test_the_mean_on_a_gaussian_is_exact_on_any_grid(solver: Solver) -> None:
    """E[x₁|x_t] is a martingale of the reverse SDE, so differences between its values vanish in the mean.

    On a Gaussian every step is affine: without its noise it carries the mean.
    """
    denoiser = MixtureDenoiser(gaussian(), VariancePreserving())
    times = denoiser.schedule.time(RAGGED).tolist()
    flow = probability_flow(denoiser)
    x = torch.cat([torch.zeros(1, 3), torch.eye(3)]).double()
    exact, _ = transition(denoiser, x, denoiser(x, times[0]), times[0], times[-1])
    state = solver.init(flow, times, x.clone())
    for step in solver.plan(flow, times):
        state = solver.step(flow, step, state, lambda: torch.zeros_like(x))  # type: ignore[arg-type]
    assert torch.allclose(solver.value(state), exact, rtol=0, atol=ROUNDING)


def variance(solver: Solver, n_steps: int) -> float:
    """Of the end on N(0, 1/4), over the exact one, from how the end answers to x and to every draw."""
    spread = 0.5
    law = GaussianMixture(torch.ones(1).double(), torch.zeros(1, 1).double(), torch.full((1, 1, 1), spread**2).double())
    denoiser = MixtureDenoiser(law, VariancePreserving())
    levels = torch.linspace(-1.5, 1.5, n_steps + 1, dtype=torch.float64)
    times = denoiser.schedule.time(levels).tolist()
    flow, n = probability_flow(denoiser), n_steps + 1
    state = solver.init(flow, times, torch.eye(n, 1, dtype=torch.float64))  # row 0 answers to x, row k + 1 to draw k
    for k, step in enumerate(solver.plan(flow, times)):
        impulse = torch.zeros(n, 1, dtype=torch.float64)
        impulse[k + 1] = 1.0
        state = solver.step(flow, step, state, lambda impulse=impulse: impulse)  # type: ignore[arg-type]
    response = solver.value(state)[:, 0].square()
    ends = [
        float(denoiser.schedule.alpha(t)) ** 2 * spread**2 + float(denoiser.schedule.sigma(t)) ** 2
        for t in (times[0], times[-1])
    ]
    return float(response[0] * ends[0] + response[1:].sum()) / ends[1]


@pytest.mark.parametrize(
    ("solver", "order"), [(DDPM(), 1), (DDIM(0.5), 1), (SDEDPMSolverPP2M(), 2), (SDEDPMSolverPP3M(), 2)], ids=str
)
def test_the_variance_on_a_gaussian_converges(solver: Solver, order: int) -> None:
    coarse, fine = (abs(variance(solver, n) - 1) for n in (200, 400))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)  # at 200 steps the slope of 3M still is 2.13


@pytest.mark.parametrize("kind", [kind for kind, cls in SOLVERS.items() if cls in map(type, NAMED)])
def test_a_grid_may_end_without_noise(kind: str) -> None:
    """At σ = 0 the last step is of order 1: it returns the denoiser's answer, where the weights exist at all."""
    denoiser = MixtureDenoiser(mixture(), Linear())
    x, solver = denoiser.initial(0.2, 4, Stream(0), torch.float64), SOLVERS[kind]()
    if isinstance(solver, (DEIS, IPNDMv)) and solver.variable == "log_snr":
        pytest.skip("λ is infinite there: eabm has a `final` for it")
    end = solve(probability_flow(denoiser), x, [0.2, 0.4, 0.6, 0.8, 1.0], solver, stream=Stream(1))
    assert torch.isfinite(end).all()


@pytest.mark.parametrize("solver", [DDIM(), DPMSolverPP2M(), SDEDPMSolverPP3M(), DPMSolverPP2S()], ids=str)
def test_a_grid_may_start_at_pure_noise_in_the_data_frame(solver: Solver) -> None:
    denoiser = MixtureDenoiser(mixture(), Linear())
    x = Stream(0).normal(4, (2,), dtype=torch.float64)
    end = solve(probability_flow(denoiser), x, [0.0, 0.3, 0.6, 0.9], solver, stream=Stream(1))
    assert torch.isfinite(end).all()


@pytest.mark.parametrize("solver", [DPMSolver1(), DEIS(), IPNDM(), PNDM()], ids=str)
def test_the_noise_frame_refuses_to_start_at_pure_noise(solver: Solver) -> None:
    denoiser = MixtureDenoiser(mixture(), Linear())
    with pytest.raises(ValueError, match=r"Start the grid later|is infinite"):
        solver.plan(probability_flow(denoiser), [0.0, 0.3, 0.6])


@pytest.mark.parametrize("kind", [kind for kind, cls in SOLVERS.items() if cls in map(type, NAMED)])
def test_what_is_no_probability_flow_of_a_model_is_refused(kind: str) -> None:
    solver = SOLVERS[kind]()
    with pytest.raises(ValueError, match="Use probability_flow"):
        solver.plan(reverse_sde(MixtureDenoiser(mixture(), Linear())), [0.3, 0.4])
    with pytest.raises(ValueError, match=r"no frame|noise levels"):
        solver.plan(Equation(lambda t, x: -x), [0.3, 0.4])


@pytest.mark.parametrize("solver", [DDIM(0.5), SDEDPMSolverPP3M(), UniPC(2), PNDM()], ids=str)
def test_rows_do_not_depend_on_the_batch(solver: Solver) -> None:
    denoiser = MixtureDenoiser(mixture(), VariancePreserving())
    x = denoiser.initial(0.3, 6, Stream(0), torch.float64)
    grid = [0.3, 0.4, 0.55, 0.6, 0.7]
    rows = [solve(probability_flow(denoiser), x[:n], grid, solver, stream=Stream(1, tile=4))[:3] for n in (3, 6)]
    assert torch.equal(*rows)
