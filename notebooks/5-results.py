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
# # Results in a notebook
#
# A run leaves a folder, `results/<run>/`. `sciflow.open` gives it back as one tree of xarray: data, samples, metrics,
# and the arrays behind the figures, none of them read before it is used. A sweep opens in the same way, with the swept
# keys as dims. What has not been built yet is named, not left out.
#
# 1. A run: the tree, a number with its standard error, a figure of the report.
# 2. A sweep: how many steps are enough, and for which sampler?
#
# The problem has a known answer: a mixture of Gaussians in four dimensions, of which two combinations were measured.
# Each sampler stands beside exact draws of the posterior.

# %%
import contextlib
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display

import sciflow
from sciflow.cli import main
from sciflow.runs import resolve

RUN = """
domain: analytic
title: A mixture, two measurements
question: How far from the exact posterior are the draws?
dataset:
  kind: mixture_grid
  dimension: 4
  modes_per_axis: 3
  n_problems: 6
  n_samples: 128
  observation: {operator: {kind: dense, n_measurements: 2, rows: spectral}, noise: {kind: gaussian, sigma: 0.5}}
train: {kind: closed_form}
sample:
  likelihood: {kind: gaussian, operator: {kind: dense, n_measurements: 2, rows: spectral}, sigma: 0.5}
  posteriors:
    moment matching: {kind: guided, guidance: {kind: moment_matching}}
    twisted SMC: {kind: twisted_smc, n_particles: 128}
  times: {kind: karras, n_steps: 20}
  n_samples: 128
  precision: float64
evaluate: {metrics: [sliced_w2, evidence_error]}
report: {figures: [distance, scatter]}
"""

# %% [markdown]
# With your own run file Snakemake builds the results: `snakemake --cores all --config 'runs=[mixture.yaml]'`. Here the
# same commands are called in this process, and one child of the sweep is left out, as if it still had to wait.

# %%
place = tempfile.TemporaryDirectory()
results = Path(place.name, "results")


def stages(file, *names):
    """Run some stages, as the command line does."""
    for name in names:
        with contextlib.chdir(place.name):
            try:
                main([name, str(file)])
            except SystemExit as done:
                assert not done.code, name


Path(place.name, "mixture.yaml").write_text(RUN)
stages("mixture.yaml", "dataset", "train", "sample", "evaluate")

sweep = "sweep: {sample.likelihood.sigma: [0.5, 1.5], sample.times.n_steps: [5, 10, 20]}\n"
Path(place.name, "assumed.yaml").write_text(RUN + sweep)
runs = resolve(Path(place.name, "assumed.yaml"))
*built, waiting = [run for run in runs.values() if len(run.assignments) == 2]
for run in runs.values():
    (results / run.name).mkdir(parents=True)
    (results / run.name / "run.yaml").write_text(run.text())
stages(results / "assumed" / "run.yaml", "dataset", "train")
for run in built:
    stages(results / run.name / "run.yaml", "sample", "evaluate")

# %% [markdown]
# ## 1. A run
#
# Arrays are listed with their sizes and units and stay on the disk; the attributes of each group say how it was made,
# what it cost and with which versions. `missing` says that the report has not been written.

# %%
tree = sciflow.open(results / "mixture")
print("missing:", tree.attrs["missing"])
display(tree)

# %% [markdown]
# `metrics` is the table: `value`, `stderr` and `n` over sampler and metric. Selecting is xarray's own.

# %%
metrics = tree["metrics"].to_dataset()
distance = metrics.sel(metric="sliced_w2")
print(distance[["value", "stderr", "n"]].to_dataframe().drop(columns=["metric", "unit"]).round(3))

draws = tree["samples/samples"].sel(posterior="twisted SMC").isel(observation=0)  # only these are read
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
left.errorbar(distance["posterior"], distance["value"], 2 * distance["stderr"], fmt="o", capsize=4)
left.set(title="Sliced W2 to exact draws, ± 2 standard errors", xlim=(-0.5, 2.5), ylim=(0, None))
right.scatter(draws.isel(dimension=0), draws.isel(dimension=1), s=8)
right.scatter(*tree["data/truth"].isel(observation=0, dimension=[0, 1]), marker="*", s=120, label="truth")
right.set(title="Draws of twisted SMC, first observation", xlabel="coordinate 1", ylabel="coordinate 2")
right.legend(frameon=False)
plt.show()

# %% [markdown]
# The figures of the report can be had one by one. They are drawn by the same code from the same files, with the words
# that stand under them; `.figure` is a figure of matplotlib. `tree.sciflow.figures` lists them.

# %%
picture = tree.sciflow.plot("distance")
display(picture)

# %% [markdown]
# **Check.** The figure shows the table, and the arrays that were not asked for have not been read.

# %%
heights = {float(line.get_ydata()[0]) for line in picture.figure.axes[0].get_lines() if len(line.get_ydata()) == 1}
assert {float(distance["value"].sel(posterior=name)) for name in ("moment matching", "twisted SMC")} <= heights
assert not tree["samples/log_weights"].variable._in_memory and not tree["data/data"].variable._in_memory
assert tree.sciflow.missing == ("report.html (stage report)",)

# %% [markdown]
# ## 2. A sweep
#
# The sweep assumes two levels of noise, 0.5 and 1.5, with 5, 10 and 20 steps. Data and prior do not depend on that and
# are built once, by the base run, whose folder is opened. `sweep` holds the metrics of all children. One of the six has
# not run: its numbers are NaN, and `missing` has its name.

# %%
tree_of_sweep = sciflow.open(results / "assumed")
cube = tree_of_sweep["sweep"].to_dataset()
print("missing:", ", ".join(tree_of_sweep.sciflow.missing))
display(cube)

# %% [markdown]
# Comparing is arithmetic along the dims. What exact draws of the assumed posterior score is the floor; the excess over
# it, in standard errors of the difference, says which runs can be told from perfect draws. Network calls are stored
# with the samples: `stack` reads one array of every child.

# %%
w2 = cube.sel(metric="sliced_w2")
ours, floor = w2.sel(posterior=["moment matching", "twisted SMC"]), w2.sel(posterior="exact draws", drop=True)
excess = ours["value"] - floor["value"]
z = excess / np.hypot(ours["stderr"], floor["stderr"])
calls = tree_of_sweep.sciflow.stack("samples/nfe").mean("observation")

sigma, steps = "sample.likelihood.sigma", "sample.times.n_steps"
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
for ax, name in zip(axes, ours["posterior"].to_numpy(), strict=True):
    for colour, assumed in zip(("tab:blue", "tab:orange"), cube[sigma].to_numpy(), strict=True):
        one, at = (array.sel({sigma: assumed, "posterior": name}) for array in (ours, calls))
        words = f"assumed noise {assumed}"
        ax.errorbar(at, one["value"], 2 * one["stderr"], fmt="o-", capsize=4, color=colour, label=words)
        level = float(floor["value"].sel({sigma: assumed}).mean())
        ax.axhline(level, color=colour, linestyle="--", label=f"exact draws, {assumed}")
    ax.set(title=name, xlabel="network calls of a draw", ylim=(0, None))
axes[0].set_ylabel("sliced W2, ± 2 standard errors")
axes[1].legend(frameon=False)
plt.show()
print("excess over exact draws, in standard errors")
print(z.to_series().unstack().round(1))

# %% [markdown]
# The same as the comparison page of the sweep draws it:

# %%
display(tree_of_sweep.sciflow.compare("sliced_w2", posterior="twisted SMC"))

# %% [markdown]
# **Check.** With 20 steps twisted SMC cannot be told from exact draws. Moment matching is three standard errors away,
# and more steps do not help: what is left is its bias, not the error of the steps. The child that has not run is
# named, and counted nowhere.

# %%
most, fewest = (excess.sel({sigma: 0.5, steps: n}) for n in (20, 5))
assert abs(float(z.sel({sigma: 0.5, steps: 20, "posterior": "twisted SMC"}))) < 4  # standard errors
assert float(most.sel(posterior="moment matching")) > 4 * float(most.sel(posterior="twisted SMC"))  # 1.8 against 0.1
assert float(most.sel(posterior="moment matching")) > 0.5 * float(fewest.sel(posterior="moment matching"))
assert tree_of_sweep.sciflow.missing == (f"{waiting.name} (child)",)
assert int(cube["is_built"].sum()) == 5 and bool(cube["value"].sel({sigma: 1.5, steps: 20}).isnull().all())
assert bool((calls.sel({sigma: 0.5}).diff(steps) > 0).all())

# %%
tree.close()
tree_of_sweep.close()
place.cleanup()
