"""Rates of target paths by automatic differentiation, and weights of the flow by change of variables."""

from __future__ import annotations

import pytest
import torch
from target_paths import Curved, divergence, log_gamma, mixture, paths, potential_in_time, skewed
from torch import Tensor

from sciflow.diffusion.mixture import MixtureDenoiser
from sciflow.diffusion.schedule import EDM, Cosine, Linear, VariancePreserving
from sciflow.diffusion.times import LogSNR
from sciflow.random import Stream
from sciflow.steering.control import Control
from sciflow.steering.marginal import marginal
from sciflow.steering.target import TargetPath, annealed, pull

SCHEDULES = {"vp": VariancePreserving(), "cosine": Cosine(), "edm": EDM(sigma_max=20.0), "linear": Linear()}


def master(path: TargetPath, x: Tensor, t: float, noise_level: float) -> Tensor:
    """∂_t log γ + ∇·b + b·S − ½V²(∇·S + ‖S‖²), every derivative by autograd."""
    clock = torch.tensor(t, dtype=torch.float64, requires_grad=True)
    each = [torch.autograd.grad(log_gamma(path, row[None], clock)[0], clock, retain_graph=True)[0] for row in x]
    state = x.clone().requires_grad_()
    force = torch.autograd.grad(
        log_gamma(path, state, torch.tensor(t, dtype=torch.float64)).sum(), state, create_graph=True
    )[0]
    schedule = path.schedule
    grow = float(schedule.alpha_rate(t) / schedule.alpha(t))
    half = float(schedule.sigma(t)) ** 2 * (grow - float(schedule.sigma_rate(t) / schedule.sigma(t)))
    steered = torch.zeros_like(state)
    if path.potential is not None:
        tilt = potential_in_time(path, state, torch.tensor(t, dtype=torch.float64)).sum()
        steered = torch.autograd.grad(tilt, state, create_graph=True)[0]
    drift = grow * state + half * (force - steered) + noise_level**2 * half * force
    assert torch.allclose(path.drift(x, t, noise_level), drift.detach(), atol=1e-9)  # Tweedie against autograd
    langevin = noise_level**2 * half * (divergence(force, state) + (force**2).sum(1))
    return (torch.stack(each) + divergence(drift, state) + (drift * force).sum(1) - langevin).detach()


def tilt_rate(path: TargetPath, x: Tensor, t: float) -> Tensor:
    """∂_t r + ẋ_Σ·∇r."""
    if path.potential is None:
        return torch.zeros(len(x), dtype=torch.float64)
    clock = torch.tensor(t, dtype=torch.float64, requires_grad=True)
    each = [torch.autograd.grad(potential_in_time(path, row[None], clock)[0], clock, retain_graph=True)[0] for row in x]
    return torch.stack(each) + (path.drift(x, t) * pull(path.potential, x, t)).sum(1)


@pytest.mark.parametrize("name", paths(EDM(), 2))
@pytest.mark.parametrize("kind", SCHEDULES)
def test_the_rate_of_every_path_is_the_master_identity(kind: str, name: str) -> None:
    """Any dimension, any noise; float64 autograd of sums of order 10²: 1e-8."""
    for d, noise_level, t in ((2, 0.0, 0.4), (3, 1.0, 0.7), (5, 1.7, 0.55)):
        path = paths(SCHEDULES[kind], d)[name]
        x = 1.5 * Stream(4).normal(6, (d,), dtype=torch.float64)
        found = path.rate(x, t) + tilt_rate(path, x, t)
        wanted = master(path, x, t, noise_level)
        assert torch.allclose(found, wanted, rtol=1e-8, atol=1e-8)


def test_the_rates_of_the_papers_are_cases_of_the_path() -> None:
    """The corrector of each named case as it is published, in the noising clock: dx = f ds + g dW, f = −(α̇/α) x."""
    schedule, d, t = VariancePreserving(), 3, 0.6
    known = paths(schedule, d)
    x = Stream(7).normal(8, (d,), dtype=torch.float64)
    div_f = -d * float(schedule.alpha_rate(t) / schedule.alpha(t))
    half = float(schedule.sigma(t)) ** 2 * (
        float(schedule.alpha_rate(t) / schedule.alpha(t)) - float(schedule.sigma_rate(t) / schedule.sigma(t))
    )
    s1, s2 = (annealed(expert, 1.0).score(x, t) for expert in known["geometric"].experts)
    published = {
        "annealed": 1.5 * (div_f + half * 2.5 * (s1**2).sum(1)),
        "geometric": half * 1.7 * 0.7 * ((s1 - s2) ** 2).sum(1),
        "product": 1.6 * div_f + half * 1.3 * 0.3 * ((s1 + s2) ** 2).sum(1) + 2 * half * 1.3 * (s1 * s2).sum(1),
        "reward": torch.zeros(8, dtype=torch.float64),
    }
    for name, wanted in published.items():
        assert torch.allclose(known[name].rate(x, t), wanted, rtol=1e-10, atol=1e-10), name


CONTROLS = {
    "none": None,
    "position": Control(("position",), fixed=(0.3,)),
    "score": Control(("score",), probes=0, fixed=(-0.4, 0.2)),
    "both": Control(("position", "score", "gradient"), probes=0, fixed=(0.2, -0.3, 0.1, 0.25)),
}


@pytest.mark.parametrize("name", CONTROLS)
@pytest.mark.parametrize("moving", [False, True], ids=["constant", "moving"])
def test_the_weights_of_the_flow_are_those_of_a_change_of_variables(name: str, moving: bool) -> None:
    """Without noise: log w = log γ_b(T y) − log γ_a(y) + log |det ∂T/∂y|, to second order, no Monte Carlo error."""
    schedule, control = EDM(), CONTROLS[name]
    one, two = (MixtureDenoiser(mixture(seed), schedule) for seed in (1, 2))
    powers = (lambda t: 1.4 - 0.2 * t, lambda t: 0.3 + 0.3 * t) if moving else (1.4, 0.4)
    path = TargetPath((one, two), powers, Curved(skewed, schedule))
    rows, shifts = 2.0 * Stream(3).normal(6, (2,), dtype=torch.float64), torch.eye(2, dtype=torch.float64) * 1e-4
    cloud = Stream(9).normal(20, (2,), dtype=torch.float64)  # carries all the weight: the centre does not see the rows
    start = torch.cat([rows, *(rows + sign * shift for shift in shifts for sign in (1, -1)), cloud])

    def error(n_steps: int) -> float:
        model = marginal(path, LogSNR(n_steps, ratio_max=2.0, ratio_min=0.1)(schedule), noise=0.0, control=control)
        state = model.sight.look(start.clone(), model.levels[0], Stream(0))
        hidden = torch.where(torch.arange(len(start)) < 30, -1e4, 0.0).double()
        slot, far = torch.arange(len(start)), torch.full((len(start),), 1e6, dtype=torch.float64)
        state |= {"log_weight": hidden, "slot": slot, "reach": far}
        total = torch.zeros(len(start), dtype=torch.float64)
        for k in range(model.n_steps):
            state, change, *_ = model.step(k, state, Stream(1))
            total = total + change
        end = state["x"][:30].reshape(5, 6, 2)
        jacobian = torch.stack([(end[1] - end[2]) / 2e-4, (end[3] - end[4]) / 2e-4], 2)
        clocks = [torch.tensor(at.t, dtype=torch.float64) for at in (model.levels[0], model.levels[-1])]
        exact = log_gamma(path, end[0], clocks[1]) - log_gamma(path, rows, clocks[0])
        return float((total[:6] - exact - torch.linalg.slogdet(jacobian)[1]).abs().max())

    errors = [error(n) for n in (32, 64)]
    assert errors[0] / errors[1] > 2**1.6  # second order; the ratio of maxima over a few rows wanders by a tenth
    assert errors[1] < 0.06  # (0.047 in λ)² = 0.0022, times an error constant of ten
