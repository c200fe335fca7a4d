# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Fields in time: data that can be trusted, a network that knows no grid, a state from few sensors
#
# A learned forecast is as good as the simulations it learned from, and a posterior of a field as good as its sampler.
# Both can be checked where the answer is known:
#
# 1. Simulations whose error is measured: two solitons of Korteweg and de Vries.
# 2. A Fourier neural operator on grids that it was not made for.
# 3. Where is the wave? Filters beside Kalman's.
#
# The run `stochastic-flow.yaml` goes on from here to an ensemble forecast with a trained network.

# %%
import itertools
import math

import matplotlib.pyplot as plt
import torch

from sciflow import solvers
from sciflow.domains.pde.boxes import Ring
from sciflow.domains.pde.equations import KortewegDeVries, semilinear
from sciflow.domains.pde.evolve import certified, fields
from sciflow.networks.fourier import SpectralConv
from sciflow.particles.ensemble_kalman import EnsembleKalman
from sciflow.particles.filtering import BootstrapFilter, GuidedFilter, LinearMeasurements, filtered
from sciflow.particles.kalman import LinearChain
from sciflow.random import Stream
from sciflow.solvers.state_space import StateSpace

torch.set_grad_enabled(False)  # nothing is trained here
stream = Stream(seed=0)

# %% [markdown]
# ## 1. Solitons, and the error of a simulation
#
# $u_t + 6 u u_x + u_{xxx} = 0$ has waves $u = \tfrac{c}{2}\,\mathrm{sech}^2\!\big(\tfrac{\sqrt c}{2}(x - ct)\big)$ that
# keep their shape. Their dispersion is stiff and imaginary, so an exponential method of order four must keep its
# coefficients complex. `certified` halves the step and says by how much the fields moved: that number is stored with
# every data set of this package.


# %%
def soliton(ring, t, speed, start=0.0):
    """The wave on the ring, wherever it is by then."""
    x = (ring.places - start - speed * t + ring.length / 2) % ring.length - ring.length / 2
    return 0.5 * speed / torch.cosh(0.5 * math.sqrt(speed) * x) ** 2


ring, speed, steps, errors = Ring(length=20.0, size=256), 5.0, [0.004, 0.002, 0.001], []
equation = semilinear(KortewegDeVries(), ring)
for step in steps:
    end = fields(equation, ring, soliton(ring, 0.0, speed)[None], [0.0, 1.0], step)[0, -1]
    errors.append(float((end - soliton(ring, 1.0, speed)).abs().max()))
orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]

moments = [0.1 * k for k in range(61)]
wide = Ring(length=40.0, size=256)
pair = soliton(wide, 0.0, 6.0, start=8.0) + soliton(wide, 0.0, 1.5, start=16.0)
told = certified(semilinear(KortewegDeVries(), wide), wide, pair[None], moments, 0.004)

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
left.loglog(steps, errors, "o-", label="one soliton, against its closed form")
left.loglog(steps, [errors[-1] * (h / steps[-1]) ** 4 for h in steps], "k:", label="fourth order")
left.set(xlabel="time step", ylabel="largest error at t = 1", title="ETDRK4")
left.set_xticks(steps, labels=map(str, steps))
left.minorticks_off()
left.legend()
extent = (0, wide.length, 0, moments[-1])
picture = right.imshow(told.fields[0], origin="lower", aspect="auto", extent=extent, cmap="magma")
right.set(xlabel="x", ylabel="t", title="The fast one overtakes, and both go on")
figure.colorbar(picture, ax=right, label="u")
plt.show()
for step, error in zip(steps, errors, strict=True):
    print(f"step {step}: error {error:.1e}")
print(f"measured orders {', '.join(f'{order:.2f}' for order in orders)}, exact 4")
print(f"two solitons: halving the step moves the last field by {told.error:.1e} of its size")

# %% [markdown]
# **Check.** The order is four, and mass $\int u$ and momentum $\int u^2$ of the pair are kept.

# %%
assert all(order > 3.9 for order in orders), orders
mass, momentum = told.fields[0].sum(1), told.fields[0].square().sum(1)
assert float((mass / mass[0] - 1).abs().max()) < 1e-12, mass  # the equation conserves it to rounding
assert float((momentum / momentum[0] - 1).abs().max()) < 10 * told.error + 1e-10, momentum

# %% [markdown]
# ## 2. Weights that belong to frequencies
#
# The layer of a Fourier neural operator multiplies Fourier coefficients. If these are means and not sums, and if the
# Nyquist frequency, which has no phase, is left out, then the same weights give the same field on any grid that carries
# its frequencies. Many codes get one of the two wrong. With weights 1 the layer must be trigonometric interpolation.

# %%
modes = 9
layer = SpectralConv(1, 1, modes, n_axes=1).double()
layer.weight.data.zero_()
layer.weight.data[..., 0] = 1


def wave(size):
    """A field of frequencies up to 8 on a grid of `size` points."""
    x = torch.arange(size, dtype=torch.float64) / size
    waves = [math.cos(k) * torch.cos(2 * math.pi * k * x + k) for k in range(modes)]
    return torch.stack(waves).sum(0)[None, None]


sizes = [20, 37, 64, 81, 128]
gaps = {(a, b): float((layer(wave(a), size=(b,)) - wave(b)).abs().max()) for a in sizes for b in sizes}

figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
fine = torch.arange(1000) / 1000
axes.plot(fine, wave(1000)[0, 0], "k", linewidth=1, label="the field")
coarse = torch.arange(20) / 20
axes.plot(coarse, wave(20)[0, 0], "o", label="given at 20 points")
axes.plot(torch.arange(81) / 81, layer(wave(20), size=(81,))[0, 0], ".", label="from the layer at 81")
axes.set(xlabel="x", ylabel="u")
axes.legend()
plt.show()
print(f"from and to {sizes} points: largest difference {max(gaps.values()):.1e}, exact 0")

# %% [markdown]
# **Check.** Every pair of grids agrees to rounding, odd sizes among them.

# %%
assert max(gaps.values()) < 1e-12, gaps

# %% [markdown]
# ## 3. Where is the wave?
#
# Twelve amplitudes turn, decay and are stirred by noise. Two of them are measured at each of thirty times. The equation
# is linear, so Kalman's filter has the exact law at each time, and the three approximate filters, which take any
# dynamics and any solver, can be held against it: by their means, and by the evidence $\log p(y_{0:K})$.

# %%
n_modes, noise, sigma, n_times = 12, 0.3, 0.4, 30
rates = torch.zeros(n_modes, n_modes, dtype=torch.float64)
for k in range(0, n_modes, 2):
    rates[k : k + 2, k : k + 2] = torch.tensor([[-0.1, -0.5 - 0.2 * k], [0.5 + 0.2 * k, -0.1]])
    rates[k, (k + 2) % n_modes] = 0.3  # each turn drives its neighbour
dynamics = solvers.Equation(lambda t, x: x @ rates.T)
start, grid = torch.zeros(n_modes, dtype=torch.float64), tuple(0.2 * k for k in range(n_times))
space = StateSpace(dynamics, grid, start, noise=noise)
truth = space.simulate(1, stream.child("truth"))[0]
sensors = torch.eye(n_modes, dtype=torch.float64)[[0, 6]]
y = truth @ sensors.T + sigma * stream.child("noise").normal(n_times, (2,), dtype=torch.float64)
measured = LinearMeasurements.of(y, sensors, sigma)

unit = torch.eye(n_modes, dtype=torch.float64)
transition = space.forecast(0, unit, stream).T  # of the same solver, so that all filter the same chain
exact = LinearChain(transition, noise**2 * unit, start, unit, measured).filtered()

filters = {"bootstrap": BootstrapFilter(space, measured), "guided": GuidedFilter(space, measured)}
answers = {name: filtered(model, 4000, stream.child(name)) for name, model in filters.items()}
means = {name: answer.marginals().mean(0) for name, answer in answers.items()}
ensemble = EnsembleKalman(space, measured).run(400, stream.child("ensemble"))
means["ensemble Kalman"] = ensemble.states.mean(0)

shown, spread = 1, exact.covariance.diagonal(dim1=1, dim2=2).sqrt()
t = torch.tensor(space.grid)
figure, axes = plt.subplots(figsize=(8, 3.4), layout="constrained")
low, high = (exact.mean[:, shown] + 2 * sign * spread[:, shown] for sign in (-1, 1))
axes.fill_between(t, low, high, color="0.85", label="exact, ± 2 sd")
axes.plot(t, truth[:, shown], "k", label="truth")
for name, mean in means.items():
    axes.plot(t, mean[:, shown], "--", label=name)
axes.set(xlabel="t", ylabel="an amplitude that nobody measures")
axes.legend(fontsize=8, ncols=2)
plt.show()
for name, mean in means.items():
    off = float(((mean - exact.mean) / spread).square().mean().sqrt())
    print(f"{name:16} mean off by {off:.3f} posterior standard deviations, exact 0")
for name, answer in answers.items():
    value, stderr = answer.particles.log_evidence, answer.particles.log_evidence_stderr
    print(f"{name:16} log-evidence {value:.2f} ± {stderr:.2f}, exact {exact.log_evidence:.2f}")

# %% [markdown]
# **Check.** The evidence of both particle filters is right within four of their own standard errors, and the guided
# filter, which looks at the measurement before it moves, has the smaller one.

# %%
for name, answer in answers.items():
    found = answer.particles
    assert abs(found.log_evidence - exact.log_evidence) < 4 * found.log_evidence_stderr, name
assert answers["guided"].particles.log_evidence_stderr < answers["bootstrap"].particles.log_evidence_stderr
