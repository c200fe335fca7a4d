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
# # An image from its shadows, and how sure to be of it
#
# A scanner measures line integrals of an object. From few of them there is no one image, but a distribution of images,
# $p(x \mid y) \propto p(x)\,p(y \mid x)$. A sampler is useful as far as its draws have that distribution: their mean is
# the reconstruction, their spread the error bar. Here the answer is known in closed form, so that both can be checked;
# the run files `tomography.yaml` and `digits-inpainting.yaml` do the same with images and networks.
#
# 1. The scanner: line integrals of an object that no pixel knows of.
# 2. The posterior: draws beside the exact mean and standard deviation.
# 3. Error bars of eight samplers: which of them can be believed?

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

from sciflow import diffusion, inverse
from sciflow.domains.imaging.phantoms import Ellipses
from sciflow.random import Stream

torch.set_grad_enabled(False)  # samplers that need a gradient take it themselves
stream = Stream(seed=0)

# %% [markdown]
# ## 1. The scanner
#
# `ParallelBeam` measures $y_{kj} = \int x(s_j n_k + r\,n_k^\perp)\,\mathrm{d}r$: a row of the sinogram for each angle.
# The line integrals of ellipses are known, so the operator can be held against an object that was never pixels. The
# matrix is made once and kept; its transpose is exact, which is what every sampler below builds on.

# %%
phantom, sides = Ellipses(), [32, 64, 128]


def sinogram_error(side):
    """Root mean square difference from the closed form, relative to the sinogram."""
    scanner = inverse.ParallelBeam(n_views=30).on((1, side, side))
    exact = phantom.line_integrals(scanner.rays((side, side)), side)
    image = torch.from_numpy(phantom.image(side))[None, None]
    measured = scanner(image)[0].numpy().reshape(exact.shape)
    return float(np.sqrt(np.mean((measured - exact) ** 2) / np.mean(exact**2))), exact


errors = {side: sinogram_error(side)[0] for side in sides}
scanner = inverse.ParallelBeam(n_views=30).on((1, 64, 64))
x, y = torch.randn(1, 1, 64, 64, dtype=torch.float64), torch.randn(1, scanner.n_measurements, dtype=torch.float64)
left_side, right_side = (scanner(x) * y).sum(), (x * scanner.adjoint(y)).sum()
mismatch = float(abs(left_side - right_side) / abs(left_side))

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
left.imshow(phantom.image(128), cmap="gray")
left.set(title="The object: ten ellipses", xticks=[], yticks=[])
right.imshow(sinogram_error(128)[1], cmap="magma", aspect="auto")
right.set(title="Its sinogram, in closed form", xlabel="detector", ylabel="angle")
plt.show()
for side, error in errors.items():
    print(f"{side:4} pixels a side: {100 * error:.2f} % from the exact sinogram")
print(f"⟨A x, y⟩ and ⟨x, Aᵀ y⟩ differ by {mismatch:.0e} of their size")

# %% [markdown]
# **Check.** The pixels converge to the object at first order, as they must for an object with edges, and the adjoint is
# exact to rounding.

# %%
assert 1.7 < errors[32] / errors[64] < 3.5 and 1.7 < errors[64] / errors[128] < 3.5, errors
assert mismatch < 1e-10, mismatch  # a sum of 4 · 10⁴ products in float64

# %% [markdown]
# ## 2. The posterior
#
# A smooth random field of 12 × 12 pixels is seen from five angles, with noise. The prior is Gaussian, so its denoiser
# $\mathrm{E}[x_1 \mid x_t]$ and the posterior are known. The sampler does not know that they are: it sees a denoiser,
# an operator and a measurement, as it would with a trained network.

# %%
side, sigma = 12, 0.5
place = torch.cartesian_prod(*2 * [torch.arange(side, dtype=torch.float64)])
covariance = torch.exp(-0.5 * (torch.cdist(place, place) / 2.5) ** 2) + 1e-3 * torch.eye(side**2, dtype=torch.float64)
prior = diffusion.GaussianDenoiser(torch.zeros(side**2, dtype=torch.float64), covariance, diffusion.Cosine())

beams = inverse.ParallelBeam(n_views=5).on((1, side, side))
matrix = beams(torch.eye(side**2, dtype=torch.float64).reshape(-1, 1, side, side)).T.contiguous()
operator = inverse.Dense.of(matrix)
truth = prior.mixture.sample(1, stream.child("truth"))
measured = operator(truth)[0] + sigma * stream.child("noise").normal(1, (len(matrix),), dtype=torch.float64)[0]
likelihood = inverse.GaussianLikelihood(measured, operator, sigma)

exact, _ = prior.mixture.posterior(matrix, measured, sigma)
exact_mean, exact_sd = exact.mean(), exact.covariance().diagonal().sqrt()
times = diffusion.TIMES["log_snr"](n_steps=40)(prior.schedule)
n_draws = 512
draws = inverse.Guided(inverse.MomentMatching)(prior, likelihood, times, n=n_draws, stream=stream.child("draws")).x

pictures = {"truth": truth[0], "mean of the draws": draws.mean(0), "exact mean": exact_mean,
            "spread of the draws": draws.std(0), "exact spread": exact_sd}  # fmt: skip
figure, panels = plt.subplots(1, 5, figsize=(12, 2.7), layout="constrained")
for axes, (name, picture) in zip(panels, pictures.items(), strict=True):
    shades = {"cmap": "gray", "vmin": -2.5, "vmax": 2.5} if "spread" not in name else {"cmap": "magma", "vmin": 0}
    axes.imshow(picture.reshape(side, side), **shades)
    axes.set(title=name, xticks=[], yticks=[])
plt.show()
off = (draws.mean(0) - exact_mean) / (exact_sd / n_draws**0.5)
ratio = float((draws.var(0) / exact_sd**2).mean())
print(
    f"mean of {n_draws} draws from the exact mean: {float(off.square().mean().sqrt()):.2f} standard errors (1 is exact)"
)
print(f"variance of the draws over the exact one: {ratio:.3f}")

# %% [markdown]
# **Check.** Moment matching is exact for a Gaussian prior: the draws differ from the exact posterior by no more than
# their number explains, plus two per cent for the forty steps.

# %%
n_free = float(exact.covariance().trace() ** 2 / exact.covariance().square().sum())  # directions that vary on their own
assert abs(ratio - 1) < 4 * (2 / n_draws / n_free) ** 0.5 + 0.02, (ratio, n_free)
assert float(off.square().mean().sqrt()) < 1 + 4 / (2 * n_free) ** 0.5 + 0.2, off

# %% [markdown]
# ## 3. Whose error bars can be believed?
#
# Published samplers trade exactness for speed or simplicity. On this problem the truth is known, so each can be asked:
# how large is the variance of your draws beside the exact one? All get the same prior, measurement and noise levels.

# %%
samplers = {
    "moment matching": inverse.Guided(inverse.MomentMatching),
    "PiGDM": inverse.Guided(inverse.PiGDM),
    "DiffPIR": inverse.DiffPIR(),
    "DAPS": inverse.DAPS(),
    "PnP-DM": inverse.PnPDM(n_inner=4),
    "DDRM": inverse.DDRM(),
    "DDNM+": inverse.DDNM(),
}
n_each, ratios = 128, {}
for name, sampler in samplers.items():
    found = sampler(prior, likelihood, times, n=n_each, stream=stream.child("each", name)).x
    ratios[name] = float((found.var(0) / exact_sd**2).mean())

figure, axes = plt.subplots(figsize=(7, 3.0), layout="constrained")
axes.barh(list(ratios), list(ratios.values()), color="tab:blue")
axes.axvline(1, color="black", linewidth=1)
axes.set(xlabel="variance of the draws over the exact one", title="Left of the line: too sure of itself")
axes.invert_yaxis()
plt.show()
error_bar = (2 / n_each / n_free) ** 0.5
for name, value in ratios.items():
    print(f"{name:16} variance {value:.2f} ± {error_bar:.2f} of the exact one")

# %% [markdown]
# **Check.** Moment matching is right within its Monte Carlo error. DDRM and DDNM+, which re-noise a prediction, are
# too sure of themselves, and no number of draws mends that. [choose](../docs/choose.md) has a table of all samplers.

# %%
assert abs(ratios["moment matching"] - 1) < 4 * error_bar + 0.02, ratios
assert max(ratios["DDRM"], ratios["DDNM+"]) < 1 - 4 * error_bar, ratios
