"""The methods of torchdiffeq have the orders that they are declared to have, and refuse options of each other."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from sciflow.solvers import Dopri5, Equation, TorchDiffEq, solve
from sciflow.solvers.adaptive import ABSOLUTE, FIXED_ORDERS, MAX_ORDER, ORDERS, RELATIVE, Method, integrated

START = torch.tensor([[0.3], [1.0], [1.5]], dtype=torch.float64)
STOP = 1.5


class Bernoulli:
    """x' = x² cos(2t) − x/2, whose solution is 1/x = e^{t/2} (1/x₀ − ∫ e^{−s/2} cos 2s ds); it counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, t: float, x: Tensor) -> Tensor:
        self.calls += 1
        return x.square() * math.cos(2 * t) - x / 2

    @staticmethod
    def exact(t: float) -> Tensor:
        integral = (math.exp(-t / 2) * (2 * math.sin(2 * t) - math.cos(2 * t) / 2) + 0.5) / 4.25
        return 1 / (math.exp(t / 2) * (1 / START - integral))


def error(solver: object, n_steps: int = 1) -> tuple[float, int]:
    """Largest error at the end, and the number of drift calls."""
    drift = Bernoulli()
    end = solve(Equation(drift), START, torch.linspace(0, STOP, n_steps + 1, dtype=torch.float64), solver)
    return float((end - drift.exact(STOP)).abs().max()), drift.calls


def test_all_methods_are_here() -> None:
    assert {*ORDERS, *FIXED_ORDERS} == {*get_args(Method)} and not ORDERS.keys() & FIXED_ORDERS.keys()


def slope(errors: list[float]) -> float:
    return math.log2(errors[0] / errors[1])


@pytest.mark.parametrize("method", FIXED_ORDERS)
def test_fixed_methods_have_their_order_in_the_internal_steps(method: str) -> None:
    """At 128 and 256 steps, where errors are 1e-5 to 1e-10."""
    # the iteration of the implicit method to far below its error of order 5
    tolerances = {"relative_tolerance": 1e-12, "absolute_tolerance": 1e-12} if method == "implicit_adams" else {}
    solvers = [TorchDiffEq(method, n_substeps=n, **tolerances) for n in (128, 256)]
    # 0.3: one equation, whose next term is some percent at these steps; a wrong weight costs a whole 1
    assert slope([error(solver)[0] for solver in solvers]) == pytest.approx(solvers[0].convergence, abs=0.3)


@pytest.mark.parametrize("method", [m for m in FIXED_ORDERS if not m.endswith("adams")])
def test_substeps_are_steps(method: str) -> None:
    # the same steps, but for the rounding of their ends
    assert error(TorchDiffEq(method, n_substeps=8), 2)[0] == pytest.approx(error(TorchDiffEq(method), 16)[0], rel=1e-9)


@pytest.mark.parametrize(("method", "n_steps"), [(m, {"dopri8": 5, "dopri5": 32}.get(m, 128)) for m in ORDERS])
def test_adaptive_methods_have_their_order_at_steps_that_are_held(method: str, n_steps: int) -> None:
    """Without a tolerance to speak of and with a first step that may not grow, they are fixed methods.

    The row that starts at 0.3, far from the pole of the solution, is the first to show the slope.
    """
    ends, span = [], torch.tensor([0.0, STOP], dtype=torch.float64)
    for n in (n_steps, 2 * n_steps):
        times, drift = torch.linspace(0, STOP, n + 1, dtype=torch.float64), Bernoulli()
        options = {"first_step": STOP / n, "ifactor": 1.0, "step_t": times[1:]}
        ends.append(integrated(Equation(drift), span, START, method, rtol=1e9, atol=1e9, options=options))
    errors = [float((end - Bernoulli.exact(STOP))[0].abs()) for end in ends]
    # 0.3 as above; errors of order 8 are 1e-11 and 4e-14 at 5 and 10 steps, a hundred times rounding
    assert slope(errors) == pytest.approx(TorchDiffEq(method).convergence, abs=0.3)


@pytest.mark.parametrize("method", ORDERS)
def test_the_error_follows_the_tolerance(method: str) -> None:
    both = [
        error(TorchDiffEq(method, relative_tolerance=tolerance, absolute_tolerance=tolerance))[0]
        for tolerance in (1e-3, 1e-5)
    ]
    # local errors add up over some dozens of steps: measured 0.001 (dopri8) to 55 (fehlberg2) times the tolerance
    assert both[1] < 1e-3
    assert both[1] < 0.1 * both[0]


def test_dopri5_is_the_method_of_that_name() -> None:
    assert error(TorchDiffEq("dopri5")) == error(Dopri5())
    assert (Dopri5().relative_tolerance, Dopri5().absolute_tolerance) == (RELATIVE, ABSOLUTE)
    assert TorchDiffEq("dopri5").convergence == Dopri5().convergence


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"method": "rk4", "relative_tolerance": 1e-3}, "fixed steps, got relative_tolerance"),
        ({"method": "explicit_adams", "absolute_tolerance": 1e-3, "n_substeps": 8}, "got absolute_tolerance"),
        ({"method": "bosh3", "n_substeps": 2}, "chooses its own steps, got n_substeps = 2"),
        ({"method": "implicit_adams"}, f"Set n_substeps to {MAX_ORDER} or more"),
    ],
)
def test_options_of_other_methods_are_refused(options: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        TorchDiffEq(**options)


def test_an_iteration_that_does_not_converge_is_an_error() -> None:
    stiff = Equation(lambda t, x: -50 * (x - math.cos(t)))
    with pytest.raises(ValueError, match=r"did not converge .* Raise n_substeps"):
        solve(stiff, START, [0.0, 1.0], TorchDiffEq("implicit_adams", n_substeps=10))
    end = solve(stiff, START, [0.0, 1.0], TorchDiffEq("implicit_adams", n_substeps=400))
    lagging = (50**2 * math.cos(1.0) + 50 * math.sin(1.0)) / (50**2 + 1)
    # measured 1e-9; the iteration stops at 1e-6 of the state
    assert float((end - lagging).abs().max()) < 1e-6
