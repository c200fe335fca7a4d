"""How likely a state is: exactly along the probability flow, and for free along a path of the reverse SDE."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.divergence import Divergence, ExactDivergence
from sciflow.diffusion.fokker_planck import DensityNetwork
from sciflow.diffusion.framed import FrameFlow
from sciflow.errors import InputError
from sciflow.random import Stream
from sciflow.solvers.dynamics import Dynamics, Equation
from sciflow.solvers.explicit import RungeKutta4
from sciflow.solvers.solve import Solver, solve
from sciflow.solvers.times import checked


class LogLikelihood(NamedTuple):
    """Log-likelihoods with their two errors.

    Attributes:
        value: log p(x) of each row [nats, with x in its own units], float64.
        stderr: standard error over probes; 0 for the exact divergence, NaN for a single probe.
        discretisation: error of the solver, estimated by doubling its steps; NaN for a grid of one step.
        start: the state at times[0] that the flow carries to x.
    """

    value: Tensor
    stderr: Tensor
    discretisation: Tensor
    start: Tensor


class _Field(NamedTuple):
    """dz/ds = shift z + weight G with G a function of z whose Jacobian is the one to take the trace of."""

    value: Tensor
    shift: float
    weight: float


def _augmented(
    field: Callable[[float, Tensor], _Field], d: int, divergence: Divergence, probes: Tensor, graph: bool
) -> Equation:
    """The equation of (z, ∫ div ds), one column per estimate."""

    def drift(s: float, state: Tensor) -> Tensor:
        with torch.enable_grad():
            z = state[:, :d]
            z = z if graph and z.requires_grad else z.detach().requires_grad_()
            value, shift, weight = field(s, z)
            if not value.requires_grad:
                raise ValueError("the model's answer has no gradient with respect to x, so no divergence either.")

            def pullback(v: Tensor) -> Tensor:
                return torch.autograd.grad(
                    value, z, v.to(value), retain_graph=True, create_graph=graph, materialize_grads=True
                )[0]

            traces = divergence(pullback, probes)
            slope = torch.cat([shift * z + weight * value, shift * d + weight * traces], 1)
        return slope if graph else slope.detach()

    return Equation(drift=drift)


def _integrated(
    field: Callable[[float, Tensor], _Field],
    z: Tensor,
    grid: Sequence[float],
    solver: Solver,
    divergence: Divergence,
    probes: Tensor,
    graph: bool,
) -> tuple[Tensor, Tensor]:
    """The end state, and the integrals of the divergence, one column per estimate."""
    n, d = z.shape
    state = torch.cat([z, z.new_zeros(n, divergence.columns(d))], 1)
    with torch.set_grad_enabled(graph):
        end = solve(_augmented(field, d, divergence, probes, graph), state, grid, solver)
    return end[:, :d], end[:, d:]


def _likelihood(
    field: Callable[[float, Tensor], _Field],
    z: Tensor,
    grid: Sequence[float],
    log_start: Callable[[Tensor], Tensor],
    solver: Solver | None,
    divergence: Divergence | None,
    stream: Stream | None,
    graph: bool,
) -> LogLikelihood:
    """log p(z) from a solve on the grid, and its errors; `start` is in the chart of z."""
    solver, divergence = solver or RungeKutta4(), divergence or ExactDivergence()
    n, d = z.shape
    probes = divergence.probes(n, d, stream).to(z)
    end, integrals = _integrated(field, z, grid, solver, divergence, probes, graph)
    value, columns = log_start(end) + integrals.mean(1), integrals.shape[1]
    unknown = torch.full_like(value, math.nan, requires_grad=False)
    stderr, discretisation = unknown, unknown
    if isinstance(divergence, ExactDivergence):
        stderr = torch.zeros_like(unknown)
    elif columns > 1:
        stderr = integrals.detach().std(1) / math.sqrt(columns)
    if len(grid) > 2:
        every_other = [*grid[:-1:2], grid[-1]]
        rough, of_rough = _integrated(field, z.detach(), every_other, solver, divergence, probes, False)
        with torch.no_grad():
            difference = value - log_start(rough) - of_rough.mean(1)
        discretisation = difference.abs() / (2**solver.convergence - 1)
    return LogLikelihood(value, stderr, discretisation, end)


def log_base(
    denoiser: Denoiser, t: float, base: Callable[[Tensor], Tensor] | None = None
) -> Callable[[Tensor], Tensor]:
    """The log-density at the base: the given one, the denoiser's own, or that of white noise σ x₀."""
    if base is not None:
        return base
    own: Callable[[Tensor, float], Tensor] | None = getattr(denoiser, "log_prob", None)
    if own is not None:
        return lambda x: own(x, t)
    sigma = float(denoiser.schedule.sigma(t))

    def white(x: Tensor) -> Tensor:
        return -0.5 * (x.flatten(1) / sigma).square().sum(1) - 0.5 * x[0].numel() * math.log(2 * math.pi * sigma**2)

    return white


def known_log_density(denoiser: Denoiser, t: float) -> Callable[[Tensor], Tensor]:
    """log p_t of states x_t, (n, ...) -> (n,), where it is known: the denoiser's own, or that of its network.

        log p_t(x) = log q((x/α − m)/√(s² + u²), log(u/s)) − d log(α √(s² + u²)),   u = σ/α

    Args:
        denoiser: one with `log_prob(x, t)`, or with a network that has a density: `energy_mlp`.
        t: time.
    Raises:
        InputError: neither is there.
    """
    own: Callable[[Tensor, float], Tensor] | None = getattr(denoiser, "log_prob", None)
    if own is not None:
        return lambda x: own(x, t)
    known: Any = denoiser
    network = getattr(known, "module", known)
    if not isinstance(network, DensityNetwork):
        raise InputError(
            f"{type(network).__name__} knows no density, which this asks for. Take a prior in closed form, or "
            "`network: {kind: energy_mlp}` without `centred`."
        )
    spread = float(denoiser.schedule.alpha(t)) * known.std
    sigma, centre = float(denoiser.schedule.sigma(t)), float(denoiser.schedule.alpha(t)) * known.mean
    width = math.hypot(spread, sigma)

    def log_density(x: Tensor) -> Tensor:
        level = x.new_full((len(x),), math.log(sigma / spread))
        return network.log_density((x - centre) / width, level) - x[0].numel() * math.log(width)

    return log_density


def log_likelihood(
    denoiser: Denoiser,
    x: Tensor,
    times: Tensor | Sequence[float],
    solver: Solver | None = None,
    *,
    divergence: Divergence | None = None,
    base: Callable[[Tensor], Tensor] | None = None,
    stream: Stream | None = None,
    differentiable: bool = False,
) -> LogLikelihood:
    """log p(x) of the model's law at times[-1], along the probability flow from there to times[0].

        log p(x) = log p_base(x_start) + d log(r_start/r_end) + ∫_{θ_end}^{θ_start} tr(∂F/∂z) dθ

    in the chart z = x/r and the angle θ = arctan(σ/α), where F stays smooth at both ends. It is the law of x_t with
    the noise σ of that time, not that of the clean data: σ = 0 has no score.

    Order: that of the solver, in θ.
    Cost: 1.5 solves (the second on every other time, for the error), each call with the products of `divergence`.
    Bias: O(h^p), estimated in the result; and that of `base`.
    Args:
        denoiser: the model.
        x: states at times[-1], shape (n, *shape) [data units].
        times: increasing grid, base to data, as for sampling; it is walked backwards.
        solver: of the ODE; None is RungeKutta4(). EABM(frame="time") needs one call per step.
        divergence: None is ExactDivergence(), for small dimensions.
        base: log-density at times[0]; None is the denoiser's own `log_prob(x, t)`, or N(0, σ²) without that. Give one
            where the noise is not Gaussian (PFGM++).
        stream: probes; row k gets the same for any n.
        differentiable: keep the graph, so that `value.sum().backward()` reaches x and the model.
    Returns:
        Values and errors in nats.
    Raises:
        ValueError: σ = 0 at times[-1]; random probes without a stream; a model without gradients.
    Source: Song et al. (2021), eq. 39; Chen et al. (2018), theorem 1.
    """
    grid = checked(times)
    flow = FrameFlow(denoiser, tuple(grid))
    d, shape = x[0].numel(), x.shape

    def field(q: float, z: Tensor) -> _Field:
        t, scale, shift, weight = flow.parts(q)
        data = denoiser((scale * z).to(x.dtype).reshape(shape), t)
        return _Field(data.flatten(1).double(), shift, weight)

    scale = flow.scale(grid[0])
    start = log_base(denoiser, grid[0], base)

    def log_start(z: Tensor) -> Tensor:
        return start((scale * z).reshape(shape)).double() + d * math.log(scale / flow.scale(grid[-1]))

    z = x.flatten(1).double() / flow.scale(grid[-1])
    clocks = [flow.clock(t) for t in reversed(grid)]
    found = _likelihood(field, z, clocks, log_start, solver, divergence, stream, differentiable)
    return found._replace(start=(scale * found.start).reshape(shape).to(x.dtype))


def change_of_variables(
    dynamics: Dynamics,
    x: Tensor,
    times: Tensor | Sequence[float],
    base: Callable[[Tensor], Tensor],
    solver: Solver | None = None,
    *,
    divergence: Divergence | None = None,
    stream: Stream | None = None,
    differentiable: bool = False,
) -> LogLikelihood:
    """log p(x) at times[-1] for any ODE ẋ = f(t, x) that starts from a known law: interpolants, physics.

        log p(x) = log p_base(x_start) − ∫ tr(∂f/∂x) dt

    The equation is solved in s = −t, so that time increases: dx/ds = −f(−s, x).

    Order: that of the solver, in t. For a denoiser `log_likelihood` is smoother at the ends.
    Cost: 1.5 solves, each call with the products of `divergence`.
    Bias: O(h^p), estimated in the result.
    Args:
        dynamics: an ODE.
        x: states at times[-1], shape (n, ...).
        times: increasing grid, walked backwards.
        base: log-density at times[0].
        solver: None is RungeKutta4().
        divergence: None is ExactDivergence().
        stream: probes.
        differentiable: keep the graph.
    Returns:
        Values and errors in nats.
    Raises:
        ValueError: dynamics with noise; random probes without a stream; a drift without gradients.
    Source: Chen et al. (2018), Neural ordinary differential equations, theorem 1.
    """
    if dynamics.noise != "none":
        raise ValueError(f"a flow has no noise, got {dynamics.noise} noise. Use the probability flow of the model.")
    grid = checked(times)
    shape = x.shape

    def field(s: float, z: Tensor) -> _Field:
        return _Field(dynamics.drift(-s, z.to(x.dtype).reshape(shape)).flatten(1).double(), 0.0, -1.0)

    def log_start(z: Tensor) -> Tensor:
        return base(z.reshape(shape)).double()

    backwards = [-t for t in reversed(grid)]
    z = x.flatten(1).double()
    found = _likelihood(field, z, backwards, log_start, solver, divergence, stream, differentiable)
    return found._replace(start=found.start.reshape(shape).to(x.dtype))


def dequantise(x: Tensor, bin_width: float, stream: Stream) -> Tensor:
    """Values at the centres of bins, spread uniformly over them: x + Δ (u − ½), u ~ U[0, 1).

    Args:
        x: shape (n, ...) [data units].
        bin_width: Δ, the distance of two neighbouring values [data units]; 1/255 for 8-bit images on [0, 1].
        stream: row k gets the same u for any n.
    Source: Uria et al. (2013), RNADE; Theis et al. (2016), A note on the evaluation of generative models, section 3.1.
    """
    u = stream.uniform(len(x), x.shape[1:], dtype=torch.float64).to(x.device)
    return (x.double() + bin_width * (u - 0.5)).to(x.dtype)


def bits_per_dimension(log_likelihood: Tensor, dimensions: int, bin_width: float) -> Tensor:
    """What the discrete values cost [bits per dimension], from the density of their dequantised values.

        bits/dim = −(log p(x)/d + log Δ)/log 2

    Its mean over dequantisation is an upper bound on that of the discrete law (Jensen); it does not depend on the
    units of x, because log p and log Δ change by opposite amounts.

    Args:
        log_likelihood: log p(x) of dequantised values [nats].
        dimensions: d.
        bin_width: Δ [the units of x].
    Source: Theis et al. (2016), A note on the evaluation of generative models, section 3.1.
    """
    return -(log_likelihood / dimensions + math.log(bin_width)) / math.log(2)
