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
# # One solver, three domains
#
# A stiff partial differential equation, a molecule in a heat bath and a diffusion model that restores an image are one
# equation, $\mathrm{d}x = (L x + N(t, x))\,\mathrm{d}t + g(t)\,\mathrm{d}W$, with different right-hand sides. Here they
# go through one function, `solve(dynamics, x, times, solver)`, and each answer is held against a closed form. In the
# last part weighted particles go through another, `smc(model, n, stream)`: an equation, a molecule and an image again.
#
# In part 2 the right-hand side is written by hand; the domain `molecules` has potentials to start from.

# %%
import math

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits

from sciflow import diffusion, figures, inverse, particles, solvers
from sciflow.domains.molecules.potentials import POTENTIALS
from sciflow.domains.pde.boxes import Ring
from sciflow.domains.pde.equations import Burgers, semilinear
from sciflow.random import Stream

torch.set_grad_enabled(False)  # nothing is trained here; steps may then reuse their buffers
stream = Stream(seed=0)

# %% [markdown]
# ## 1. A stiff equation: Burgers
#
# $u_t + u\,u_x = \nu\,u_{xx}$ on a ring. In Fourier space the viscous term is diagonal, $L = -\nu k^2$, and stiff: the
# fastest mode decays within a time of $1/\nu k_{\max}^2 \approx 0.01$. An exponential solver takes $L$ exactly and
# interpolates only $N(u) = -\tfrac12 (u^2)_x$.
#
# The Cole–Hopf transform gives a solution to compare with, $u = -2\nu\,\varphi_x/\varphi$ with
# $\varphi = 1 + a\,e^{-\nu t} \cos x$.

# %%
viscosity, ring = 0.1, Ring(length=2 * math.pi, size=64)
place, equation = ring.places, semilinear(Burgers(viscosity), ring)


def exact(t, amplitude=0.5):
    """Cole–Hopf solution as Fourier modes, one row."""
    wave = amplitude * math.exp(-viscosity * t)
    u = 2 * viscosity * wave * place.sin() / (1 + wave * place.cos())
    return ring.modes(u)[None]


stop, counts = 4.0, [32, 64, 128]


def error(n_steps, solver):
    """Largest error in space at the end; multistep methods get their earlier states from the closed form."""
    grid, h = solvers.times(n_steps, 0.0, stop), stop / n_steps
    past = [(-j * h, exact(-j * h)) for j in range(getattr(solver, "order", 1) - 1, 0, -1)]
    end = solvers.solve(equation, exact(0.0), grid, solver, past=past)
    return float((ring.values(end) - ring.values(exact(stop))).abs().max())


multistep = {order: [error(n, solvers.EABM(order=order, frame="linear")) for n in counts] for order in (1, 2, 3, 4)}
explicit = {n: error(n, solvers.Heun()) for n in (*counts, 256, 512)}

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for t, shade in ((0.0, 0.25), (1.0, 0.5), (stop, 0.9)):
    left.plot(place, ring.values(exact(t))[0], color=plt.cm.viridis(1 - shade), label=f"t = {t:g}")
left.set(xlabel="x", ylabel="u", title="Burgers' equation")
left.legend()
for order, errors in multistep.items():
    right.loglog(counts, errors, "o-", label=f"EABM, order {order}")
stable = {n: e for n, e in explicit.items() if e < 1}
right.loglog(list(stable), list(stable.values()), "ks--", label="Heun, where it is stable")
right.set(xlabel="steps", ylabel="largest error", title="Error at t = 4")
right.set_xticks(list(explicit), labels=map(str, explicit))
right.minorticks_off()
right.legend(fontsize=8)
plt.show()

for order, errors in multistep.items():
    print(f"order {order}: error {errors[-1]:.1e}, measured order {math.log2(errors[-2] / errors[-1]):.2f}")
print(f"Heun: unstable at {sorted(explicit.keys() - stable)} steps, error {explicit[512]:.1e} at 512")

# %% [markdown]
# **Check.** Each order is measured to within 0.15 of what it is called, and the fourth reaches nine digits with steps
# at which an explicit method is unstable.

# %%
slopes = {order: math.log2(errors[-2] / errors[-1]) for order, errors in multistep.items()}
assert all(abs(slope - order) < 0.15 for order, slope in slopes.items()), slopes
assert multistep[4][-1] < 1e-9 and not explicit[128] < 1, (multistep[4], explicit)

# %% [markdown]
# ## 2. A molecule: the torsion of butane
#
# The angle $\varphi$ of butane's middle bond feels the potential of Ryckaert and Bellemans (1978),
# $U = \sum_n C_n \cos^n(\varphi - \pi)$, and a heat bath. In the overdamped limit
#
# $$\mathrm{d}\varphi = -\frac{D}{kT}\,U'(\varphi)\,\mathrm{d}t + \sqrt{2D}\,\mathrm{d}W,$$
#
# whose long-time law is $e^{-U/kT}$. The bath is hot (600 K), so that a short run crosses the barriers many times. The
# same `solve`, another solver: Euler–Maruyama, which draws its noise from a stream with a name.

# %%
COEFFICIENTS = (9.28, 12.16, -13.12, -3.06, 26.24, -31.5)  # kJ/mol
thermal = 0.0083144626 * 600.0  # kT in kJ/mol
mobility = 1.0  # D in rad²/ps


def polynomial(coefficients, x):
    """Σ_n c_n xⁿ by Horner's rule."""
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value


def potential(angle):
    return polynomial(COEFFICIENTS, -torch.cos(angle))


def force(angle):
    """−dU/dφ."""
    return -torch.sin(angle) * polynomial([n * c for n, c in enumerate(COEFFICIENTS)][1:], -torch.cos(angle))


langevin = solvers.Equation(
    drift=lambda t, x: mobility / thermal * force(x),
    diffusion=lambda t, x: math.sqrt(2 * mobility),
    noise="scalar",
)
n_molecules, h, duration = 4096, 0.004, 14.0  # times in ps
start = torch.full((n_molecules, 1), math.pi, dtype=torch.float64)  # all of them stretched out ("trans")
grid = solvers.times(round(duration / h), 0.0, duration)
end = solvers.solve(langevin, start, grid, solvers.EulerMaruyama(), stream=stream.child("butane"))
angle = torch.remainder(end[:, 0], 2 * math.pi)

fine = 2 * math.pi * (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
density = torch.exp(-potential(fine) / thermal)
density = density / (density.sum() * 2 * math.pi / 4000)

figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
axis.hist(np.degrees(angle.numpy()), bins=60, range=(0, 360), density=True, alpha=0.5, label=f"{n_molecules} molecules")
axis.plot(np.degrees(fine.numpy()), density * math.pi / 180, "k", label="exp(−U/kT), exact")
axis.set(xlabel="torsion angle [degrees]", ylabel="density [1/degree]", title="Butane at 600 K")
axis.set_xticks(range(0, 361, 60))
axis.legend()
plt.show()


def stretched(values):
    """Whether the molecule is trans: within 60 degrees of 180."""
    return ((values - math.pi).abs() < math.pi / 3).double()


expected = float((density * stretched(fine)).sum() * 2 * math.pi / 4000)
found = float(stretched(angle).mean())
stderr = math.sqrt(expected * (1 - expected) / n_molecules)
print(f"share of trans: {found:.4f} ± {stderr:.4f}, exact {expected:.4f}")

# %% [markdown]
# **Check.** The share of stretched molecules agrees with quadrature within four standard errors. (All of them started
# there: the memory of it fades with a rate of about 0.5 / ps, so that e⁻⁷ of it is left. The bias of Euler–Maruyama at
# this step is below one standard error too.)

# %%
assert abs(found - expected) < 4 * stderr, (found, expected, stderr)

# %% [markdown]
# ## 3. An image: which digit was it?
#
# Now the drift comes from a diffusion model. The prior is a Gaussian fitted to real 8 × 8 digits, or one Gaussian for
# each of the ten digits; its denoiser $E[x_1 \mid x_t]$ is known in closed form. Half of the pixels of a digit that was
# not used for the fit are missing, the rest is noisy. `MomentMatching` turns the prior's denoiser into that of the
# posterior, `probability_flow` turns this into a dynamics, and `solve` does what it did before.
#
# Moment matching is exact for a Gaussian prior; for the mixture it is not, and `sciflow list guidance` says so. Both
# posteriors have a closed form, so that both can be seen.

# %%
digits = load_digits()
images, labels = torch.tensor(digits.data / 16), torch.tensor(digits.target)
truth, images, labels = images[-3], images[:-100], labels[:-100]
blur = 0.05**2 * torch.eye(64, dtype=torch.float64)  # some pixels never vary: keep the covariance invertible


def fitted(groups):
    """A mixture with one Gaussian for each group of images."""
    weights = torch.tensor([len(group) for group in groups], dtype=torch.float64)
    means = torch.stack([group.mean(0) for group in groups])
    return diffusion.GaussianMixture(weights / weights.sum(), means, torch.stack([g.T.cov() + blur for g in groups]))


laws = {"one Gaussian": fitted([images]), "one for each digit": fitted([images[labels == k] for k in range(10)])}
mask = inverse.Inpainting(missing=0.5).draw((64,), stream.child("mask"))
noise = 0.1 * stream.child("noise").normal(1, (mask.n_measurements,), dtype=torch.float64)
measured = mask(truth[None])[0] + noise[0]
likelihood = inverse.GaussianLikelihood(measured, mask, sigma=0.1)
matrix = mask(torch.eye(64, dtype=torch.float64)).T

draws, answers = {}, {}
for name, law in laws.items():
    prior = diffusion.MixtureDenoiser(law, diffusion.Cosine())
    guided = inverse.MomentMatching(prior, likelihood)  # a denoiser again
    times = diffusion.Karras(n_steps=30)(prior.schedule)
    x = guided.initial(float(times[0]), 256, stream.child(name), torch.float64)
    draws[name] = solvers.solve(diffusion.probability_flow(guided), x, times, solvers.EABM(order=3))
    answers[name], log_evidence = law.posterior(matrix, measured, 0.1)

# %% [markdown]
# Twisted sequential Monte Carlo does not follow a flow: it moves weighted particles, and its weights make up for what
# the guidance gets wrong. It also estimates the evidence, $\log p(y)$.

# %%
twisted = inverse.TwistedSMC(n_particles=128)(prior, likelihood, times, n=128, stream=stream.child("smc"))

# %%
half = mask.parameters()["mask"] > 0
pictures = [("truth", truth), ("measured", mask.adjoint(measured[None])[0].where(half, math.nan))]
for name in laws:
    pictures += [(f"{name}:\nexact mean", answers[name].mean()), ("mean of\nthe draws", draws[name].mean(0))]
    pictures += [("a draw", draws[name][0]), ("another", draws[name][1])]
pictures.append(("mean by\ntwisted SMC", twisted.mean()))
figure, axes = plt.subplots(1, len(pictures), figsize=(14, 2.1), layout="constrained")
for axis, (title, picture) in zip(axes, pictures, strict=True):
    axis.imshow(picture.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
    axis.set_title(title, fontsize=8)
    axis.set(xticks=[], yticks=[])
plt.show()

worst = {}
for name in laws:
    stderr = answers[name].covariance().diagonal().sqrt() / math.sqrt(256)
    worst[name] = float(((draws[name].mean(0) - answers[name].mean()) / stderr).square().mean().sqrt())
    print(f"{name}: the mean of the draws is off by {worst[name]:.1f} standard errors (root mean square, 64 pixels)")

posterior = answers["one for each digit"]
shares = {
    "exact": posterior.weights,
    "moment matching": posterior.components(draws["one for each digit"]).softmax(-1).mean(0),
    "twisted SMC": twisted.weights @ posterior.components(twisted.x).softmax(-1),
}
for name, share in shares.items():
    print(f"which digit, {name:15}:", "  ".join(f"{k}: {100 * p:.1f} %" for k, p in enumerate(share) if p > 0.001))
stderr = twisted.log_evidence_stderr
print(f"log-evidence: {twisted.log_evidence:.2f} ± {stderr:.2f}, exact {float(log_evidence):.2f}")

# %% [markdown]
# **Check.** With the Gaussian prior the draws are exact: their mean is off by about one standard error, as it must be.
# With ten Gaussians moment matching is biased: it gives other digits too large a share. Twisted SMC mends it.

# %%
# On average the root mean square is 1; 2 would need four times the variance in each of 64 correlated pixels.
assert worst["one Gaussian"] < 2, worst
wrong = {name: 0.5 * float((share - shares["exact"]).abs().sum()) for name, share in shares.items()}
assert wrong["twisted SMC"] < 0.5 * wrong["moment matching"], wrong
assert abs(twisted.log_evidence - float(log_evidence)) < 4 * stderr, (twisted.log_evidence, stderr)

# %% [markdown]
# ## 4. One `smc`, three targets
#
# What `solve` is for dynamics, `smc` is for weights. A Feynman–Kac model says how particles start, how they move and
# what each move weighs; `smc` alone owns weights, resampling and the evidence $\hat Z$. Three models:
#
# - **An equation:** $u_t + u_x = \nu\,u_{xx}$, stirred by noise; where is the field, by three sensors? The particles
#   look at the next reading before they move. All is linear, so that Kalman's filter has the exact $\log p(y)$.
# - **A molecule:** the three wells of Müller and Brown. Particles are cooled from a wide Gaussian by Hamiltonian moves;
#   $Z = \int e^{-U/kT}\,\mathrm{d}x$ is known by quadrature. A pilot run on other random numbers chooses temperatures
#   and steps.
# - **An image:** the digit of part 3, by the prior's own chain from noise to data, twisted towards what was measured.

# %%
small, sensors = Ring(length=2 * math.pi, size=16), torch.eye(16, dtype=torch.float64)[[0, 5, 10]]
rate = -1j * small.odd_wavenumbers - viscosity * small.wavenumbers**2
flow = solvers.Equation(lambda t, u: small.values(rate * small.modes(u)))
space = solvers.StateSpace(flow, tuple(solvers.times(20, 0.0, 3.0).tolist()), small.places.sin(), std=0.2, noise=0.1)
path = space.simulate(1, stream.child("field"))[0]
readings = path @ sensors.T + 0.2 * stream.child("readings").normal(len(path), (3,), dtype=torch.float64)
seen = particles.LinearMeasurements.of(readings, sensors, 0.2)
unit = torch.eye(16, dtype=torch.float64)
chain = particles.LinearChain(space.forecast(0, unit, stream).T, 0.1**2 * unit, small.places.sin(), 0.2**2 * unit, seen)

molecule = POTENTIALS["muller_brown"]()
middle, width = (torch.full((2,), value, dtype=torch.float64) for value in molecule.cover)
bridge = particles.Bridge(particles.NormalBase(middle, width), lambda x: -molecule.energy(x) / molecule.temperature)
tuned = particles.pilot(bridge, 500, stream.child("pilot"), particles.HMC())

models = {
    "an equation": (particles.GuidedFilter(space, seen), 8000, chain.filtered().log_evidence),
    "a molecule": (particles.Tempering(bridge, tuned.stages, particles.HMC()), 2000, molecule.log_partition()),
    "an image": (inverse.TwistedSMC().model(prior, likelihood, times), 64, float(log_evidence)),
}
found = {name: particles.smc(model, n, stream.child(name)) for name, (model, n, _) in models.items()}

figure, axes = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")
for axis, (name, drawn) in zip(axes, found.items(), strict=True):
    errors = (drawn.log_evidence_stderr, math.nan)
    traces = drawn.ess_trace, drawn.parents_trace, drawn.evidence_trace
    figures.ensemble_traces(*traces, errors=errors, title=name.capitalize(), ax=axis)
plt.show()
for name, drawn in found.items():
    print(f"{name:12} log Z {drawn.log_evidence:.2f} ± {drawn.log_evidence_stderr:.2f}, exact {models[name][2]:.2f}")

# %% [markdown]
# **Check.** Each log-evidence is right within four of its own standard errors, and none of these is large.

# %%
for name, drawn in found.items():
    assert abs(drawn.log_evidence - models[name][2]) < 4 * drawn.log_evidence_stderr < 4, (name, drawn.log_evidence)
