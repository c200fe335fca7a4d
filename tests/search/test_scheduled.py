"""A solver that chooses anew in each step: constant choices are the methods they name, others keep their order."""

from __future__ import annotations

import math

import pytest
import torch

from sciflow.diffusion.flow import probability_flow, reverse_sde
from sciflow.diffusion.mixture import MixtureDenoiser
from sciflow.diffusion.schedule import Linear, VariancePreserving
from sciflow.diffusion.times import LogSNR
from sciflow.random import Stream
from sciflow.solvers.dynamics import model_split
from sciflow.solvers.exponential import EABM, ExponentialEuler
from sciflow.solvers.scheduled import Choice, Scheduled, _moved
from sciflow.solvers.solve import solve

FRAMES = ("noise", "data", "velocity")


def at(mixture: MixtureDenoiser, schedule: object) -> MixtureDenoiser:
    return MixtureDenoiser(mixture.mixture, schedule)


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_a_constant_choice_is_eabm(order: int, frame: str, corrector: bool, mixture: MixtureDenoiser) -> None:
    denoiser = at(mixture, VariancePreserving())
    times = LogSNR(8, 20.0, 0.05)(denoiser.schedule)
    x = denoiser.initial(float(times[1]), 5, Stream(0), torch.float64)
    past = [(float(times[0]), denoiser.initial(float(times[0]), 5, Stream(0), torch.float64))]
    mine = Scheduled((Choice(order, frame, corrector),))
    with torch.no_grad():
        found, known = (
            solve(probability_flow(denoiser), x, times[1:], solver, past=past)
            for solver in (mine, EABM(order, frame, corrector))
        )
    assert torch.allclose(found, known, rtol=0, atol=1e-12)  # rounding of eight steps of states up to 20


def test_first_order_is_ddim_in_both_frames(mixture: MixtureDenoiser) -> None:
    times = LogSNR(8, 20.0, 0.05)(mixture.schedule)
    x = mixture.initial(float(times[0]), 5, Stream(0), torch.float64)
    alternating = Scheduled((*[Choice(1, "noise"), Choice(1, "data")] * 4,))
    found, known = (solve(probability_flow(mixture), x, times, s) for s in (alternating, ExponentialEuler()))
    assert torch.allclose(found, known, rtol=0, atol=1e-12)  # rounding


@pytest.mark.parametrize(
    "choices",
    [
        (Choice(2, "noise"), Choice(2, "data"), Choice(3, "velocity")),
        (Choice(2, "noise", True), Choice(3, "data"), Choice(2, "velocity", True), Choice(3, "noise")),
        (Choice(1), Choice(3)),
    ],
    ids=["second", "third", "first"],
)
def test_switching_keeps_the_least_order(choices: tuple[Choice, ...], mixture: MixtureDenoiser) -> None:
    flow, first = probability_flow(at(mixture, Linear())), 48
    fine = Linear().time(torch.linspace(-1.6, 1.5, 1024 + first + 1, dtype=torch.float64))
    path = [at(mixture, Linear()).initial(float(fine[0]), 16, Stream(1), torch.float64)]
    errors = []
    with torch.no_grad():
        solve(flow, path[0], fine, EABM(4, "data", True), on_step=lambda k, t, x: path.append(x.clone()))
        for stride in (16, 8):
            n_steps = 1024 // stride
            past = [(float(fine[first - j * stride]), path[first - j * stride]) for j in (3, 2, 1)]
            solver = Scheduled((choices * n_steps)[:n_steps])
            end = solve(flow, path[first], fine[first::stride], solver, past=past)
            errors.append(float((end - path[-1]).square().mean().sqrt()))
    # 0.25: at 64 and 128 steps the slope still bends by that; an order more or less costs a whole 1
    assert math.log2(errors[0] / errors[1]) == pytest.approx(Scheduled(choices).convergence, abs=0.25)


def test_one_call_a_step(mixture: MixtureDenoiser) -> None:
    calls: list[float] = []

    class Counting(MixtureDenoiser):
        def __call__(self, x: torch.Tensor, t: float) -> torch.Tensor:
            calls.append(float(t))
            return super().__call__(x, t)

    denoiser = Counting(mixture.mixture, mixture.schedule)
    times = LogSNR(6, 20.0, 0.05)(denoiser.schedule)
    solver = Scheduled((Choice(2, "data", True), Choice(1), Choice(3, "noise", True), Choice(2, "velocity", True)))
    solve(probability_flow(denoiser), torch.ones(1, 2, dtype=torch.float64), times, solver)
    assert calls == times[:-1].tolist()


def test_the_moved_value_is_that_of_the_parabola() -> None:
    denoiser_schedule = VariancePreserving()

    class Levels:
        def levels(self, t: float) -> tuple[float, float]:
            return float(denoiser_schedule.alpha(t)), float(denoiser_schedule.sigma(t))

    nodes = [0.6, 0.45, 0.4]
    log_snr = denoiser_schedule.log_snr(torch.tensor(nodes, dtype=torch.float64)).numpy()
    for ratio in (1.0, 0.4, 1.7):
        place = ratio * log_snr[0] + (1 - ratio) * log_snr[1]
        weights = _moved(Levels(), nodes, ratio)
        assert weights @ (1 - 2 * log_snr + 3 * log_snr**2) == pytest.approx(1 - 2 * place + 3 * place**2, rel=1e-12)
    assert _moved(Levels(), nodes, 1.0).tolist() == [1.0, 0.0, 0.0]


def test_refusals(mixture: MixtureDenoiser) -> None:
    flow = probability_flow(mixture)
    with pytest.raises(ValueError, match="1 to 2 choices for 2 steps, got 3"):
        Scheduled((Choice(),) * 3).plan(flow, [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="got 0"):
        Scheduled(()).plan(flow, [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="takes the probability flow"):
        Scheduled().plan(reverse_sde(mixture), [0.1, 0.2])
    assert model_split(Scheduled(), flow).levels(0.5)[0] == 1.0
