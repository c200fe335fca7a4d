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
# # From a potential to a free energy with an error bar
#
# A molecule in a heat bath visits its conformations $x$ with probability $e^{-U(x)/kT}/Z$. What a chemist wants from it
# is a free energy: how much more often is the molecule here than there, and how well is that known? The potential of
# Müller and Brown has three wells on a bent path, and only two coordinates, so that everything below can be held
# against quadrature.
#
# 1. Langevin dynamics: what does the time step do to the result?
# 2. A free energy difference from trajectories: an error bar that knows of correlations.
# 3. The same from tempered particles, with the partition function, and a certificate for a reference.

# %%
import math

import matplotlib.pyplot as plt
import torch

from sciflow import solvers
from sciflow.domains.molecules.potential import force
from sciflow.domains.molecules.potentials import POTENTIALS
from sciflow.domains.molecules.quadrature import probabilities
from sciflow.domains.molecules.reference import Tempered
from sciflow.metrics.boltzmann import free_energy_difference
from sciflow.random import Stream

torch.set_grad_enabled(False)  # forces take their gradient themselves
stream = Stream(seed=0)
molecule = POTENTIALS["muller_brown"]()
kT = molecule.temperature

# %% [markdown]
# ## 1. A trajectory, and what its time step costs
#
# $\mathrm{d}x = v\,\mathrm{d}t$, $\mathrm{d}v = (F(x)/m - \gamma v)\,\mathrm{d}t + \sqrt{2\gamma kT/m}\,\mathrm{d}W$,
# by splitting methods whose parts are solved exactly. BAOAB and OBABO cost the same, but not in accuracy: in a harmonic
# well BAOAB has the exact law of positions at any stable step, OBABO is too wide by $1/(1 - h^2/4)$.

# %%
well = solvers.Kinetic(lambda x: -x, temperature=1.0, friction=1.0)  # U = x²/2: the exact variance of x is 1
n_chains, duration = 20_000, 10.0
variances = {}
for step in (0.25, 0.5, 1.0):
    grid = solvers.times(round(duration / step), 0.0, duration)
    for name, solver in (("BAOAB", solvers.BAOAB()), ("OBABO", solvers.OBABO())):
        child = stream.child("well", name, round(100 * step))
        x, v = (child.child(part).normal(n_chains, (1,), dtype=torch.float64) for part in ("x", "v"))
        end = solvers.solve(well, torch.stack([x, v], 1), grid, solver, stream=child.child("path"))
        variances[name, step] = float(end[:, 0].square().mean())
stderr = math.sqrt(2 / n_chains)

figure, axes = plt.subplots(figsize=(5.5, 3.2), layout="constrained")
for name in ("BAOAB", "OBABO"):
    steps, values = zip(*[(h, value) for (own, h), value in variances.items() if own == name], strict=True)
    axes.errorbar(steps, values, yerr=2 * stderr, marker="o", capsize=3, label=name)
fine = torch.linspace(0.01, 1, 100)
axes.plot(fine, 1 / (1 - fine**2 / 4), "k:", label="OBABO in closed form")
axes.axhline(1, color="black", linewidth=0.8, label="exact")
axes.set(xlabel="time step × frequency", ylabel="variance of the position", title="A harmonic well at kT = 1")
axes.legend()
plt.show()
for (name, step), value in variances.items():
    print(f"{name}, step {step:4}: variance {value:.3f} ± {stderr:.3f}, exact 1")

# %% [markdown]
# **Check.** Both follow their closed forms, 1 and $1/(1 - h^2/4)$, within four standard errors.

# %%
for (name, step), value in variances.items():
    law = 1.0 if name == "BAOAB" else 1 / (1 - step**2 / 4)
    assert abs(value - law) < 4 * stderr * law, (name, step, value, law)

# %% [markdown]
# ## 2. A free energy difference from trajectories
#
# Two hundred molecules start in the deepest well. The free energy of the other two wells above it is
# $\Delta F = -kT \log(w_1/w_0)$. Neighbouring frames are alike, so an error bar from independent frames would be far
# too small: here whole trajectories are resampled.

# %%
n_molecules, h, n_frames, n_between = 200, 0.005, 200, 60
dynamics = solvers.Kinetic(force(molecule), temperature=kT, friction=1.0, mass=0.5)
start = torch.tensor(molecule.minima[0].place, dtype=torch.float64).repeat(n_molecules, 1)
state = dynamics.thermal(start, stream.child("velocities").normal(n_molecules, (2,), dtype=torch.float64))
grid, frames = solvers.times(n_between, 0.0, n_between * h), []
for frame in range(n_frames):
    state = solvers.solve(dynamics, state, grid, solvers.BAOAB(), stream=stream.child("frame", frame))
    frames.append(state[:, 0].clone())
positions = torch.stack(frames, 1)[:, n_frames // 3 :]  # (molecule, frame, 2): the first third forgets the start

basins = molecule.basins(positions.flatten(0, 1))
simulated = free_energy_difference(basins, stream.child("bootstrap"), block=positions.shape[1])
naive = free_energy_difference(basins, stream.child("naive"))
exact_grid = probabilities(molecule, molecule.support, 400)
centres = [0.5 * (edges[1:] + edges[:-1]) for edges in exact_grid.edges]
side = molecule.basins(torch.cartesian_prod(*centres)).reshape(exact_grid.mass.shape)
exact = -math.log(float(exact_grid.mass[side == 1].sum() / exact_grid.mass[side == 0].sum()))

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
energy = molecule.energy(torch.cartesian_prod(*centres)).reshape(exact_grid.mass.shape) / kT
left.contourf(*centres, (energy - energy.min()).clamp_max(10).T, levels=20, cmap="viridis")
left.plot(*positions[0].T, ".", color="white", markersize=2, alpha=0.6)
left.set(xlim=molecule.window[0], ylim=molecule.window[1], xlabel="x", ylabel="y", title="Energy and one molecule [kT]")
low, high = molecule.window[0]
counts, edges = torch.histogram(positions[..., 0].flatten(), 40, range=(low, high), density=True)
right.stairs(-counts.log(), edges, label=f"{positions[..., 0].numel()} frames")
profile = exact_grid.mass.sum(1) / (exact_grid.edges[0][1] - exact_grid.edges[0][0])
right.plot(centres[0], -profile.log(), "k", linewidth=1, label="exact")
right.set(xlim=(low, high), ylim=(-0.5, 7), xlabel="x", ylabel="potential of mean force [kT]", title="Along x")
right.legend()
plt.show()
print(f"ΔF = {simulated.value:.3f} ± {simulated.stderr:.3f} kT from {n_molecules} trajectories, exact {exact:.3f} kT")
print(f"taking frames for independent would have said ± {naive.stderr:.3f}")

# %% [markdown]
# **Check.** The difference is right within four of its standard errors, and those of independent frames would have been
# too small by a factor of three or more.

# %%
assert abs(simulated.value - exact) < 4 * simulated.stderr, (simulated, exact)
assert simulated.stderr > 3 * naive.stderr, (simulated.stderr, naive.stderr)

# %% [markdown]
# ## 3. Tempered particles, and a certificate
#
# With higher barriers no trajectory would cross. Particles that are cooled from a law that covers all wells, weighted
# and resampled on the way, need no crossing, and give the partition function besides. `Tempered` does it on islands
# that know nothing of each other, goes on with Hamiltonian chains, and says in numbers how far the result can be
# trusted. This is how reference sets are made where there is no closed form.

# %%
reference = Tempered(n_chains=4096, n_islands=8)(molecule, n_frames=4, stream=stream.child("reference"))
certificate = reference.certificate
basins = molecule.basins(reference.frames.flatten(0, 1))
tempered = free_energy_difference(basins, stream.child("again"), block=reference.frames.shape[1] * 512)

figure, axes = plt.subplots(figsize=(6, 2.2), layout="constrained")
results = {"trajectories": simulated, "tempered particles": tempered}
for row, score in enumerate(results.values()):
    axes.errorbar(score.value, row, xerr=2 * score.stderr, fmt="o", capsize=4, color=f"C{row}")
axes.axvline(exact, color="black", linewidth=1)
axes.set(yticks=range(len(results)), yticklabels=list(results), ylim=(-0.7, 1.7), xlabel="ΔF [kT]; line: exact")
plt.show()
log_z = molecule.log_partition()
print(f"log Z = {certificate.log_partition:.4f} ± {certificate.log_partition_stderr:.4f}, exact {log_z:.4f}")
print(f"ΔF = {tempered.value:.3f} ± {tempered.stderr:.3f} kT, exact {exact:.3f} kT")
print(
    f"largest drift {certificate.drift:.1f}, largest distance of halves {certificate.distance:.1f} standard deviations"
)

# %% [markdown]
# **Check.** Partition function and free energy are right within four standard errors, and the certificate holds.

# %%
assert abs(certificate.log_partition - log_z) < 4 * certificate.log_partition_stderr, (certificate, log_z)
assert abs(tempered.value - exact) < 4 * tempered.stderr, (tempered, exact)
assert certificate.holds, certificate
