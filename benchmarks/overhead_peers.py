"""The peers' side of the overhead benchmark: each library called as its users call it, nothing of it copied."""

from __future__ import annotations

import importlib.util
import math
import sys
import types
from collections.abc import Callable

from overhead_cases import N_STEPS, SIGMA_MAX, SIGMA_MIN, calls, denoiser, noise_levels, start
from torch import Tensor

Run = Callable[[], Tensor]


def variants(case: str) -> dict[str, Run]:
    """Name → one whole run, planning included; "calls" is the denoiser alone. With particles only order 2."""
    found = {"calls": calls(case)} | k_diffusion(case) | azula(case) | diffusers(case)
    return {name: run for name, run in found.items() if case != "particles" or name == "calls" or name.endswith(" 2M")}


def k_diffusion_sampling() -> types.ModuleType:
    """k_diffusion.sampling loaded alone: the package's own import needs trackers, clip and a matching torchvision."""
    if "k_diffusion.sampling" not in sys.modules:
        spec = importlib.util.find_spec("k_diffusion")
        package, utils = types.ModuleType("k_diffusion"), types.ModuleType("k_diffusion.utils")
        package.__path__ = list(spec.submodule_search_locations)  # type: ignore[union-attr]
        package.utils = utils  # type: ignore[attr-defined]
        utils.append_dims = lambda x, n: x.reshape(*x.shape, *[1] * (n - x.ndim))  # type: ignore[attr-defined]
        sys.modules |= {"k_diffusion": package, "k_diffusion.utils": utils}
    return importlib.import_module("k_diffusion.sampling")


def k_diffusion(case: str) -> dict[str, Run]:
    """In the VE frame, on our noise levels."""
    sampling, x, function = k_diffusion_sampling(), start(case), denoiser(case)
    sigmas = noise_levels().to(x.dtype)

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        return function(x, 1.0, float(sigma[0])) if case == "particles" else function(x, 1.0, 0.0)

    return {
        "k-diffusion 2M": lambda: sampling.sample_dpmpp_2m(model, x, sigmas, disable=True),
        "k-diffusion AB3 (lms)": lambda: sampling.sample_lms(model, x, sigmas, disable=True, order=3),
        "k-diffusion 3M": lambda: sampling.sample_dpmpp_3m_sde(
            model, x, sigmas, disable=True, eta=0.0, noise_sampler=False
        ),
    }


def azula(case: str) -> dict[str, Run]:
    """In the VE frame; its grid is uniform in log σ between the same ends."""
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import VESchedule
    from azula.sample import xEABSampler, zEABSampler

    x, function = start(case), denoiser(case)

    class Shared(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.schedule = VESchedule(SIGMA_MIN, SIGMA_MAX)

        def forward(self, x_t: Tensor, t: Tensor, **options: object) -> DiracPosterior:
            sigma = SIGMA_MIN ** (1 - float(t)) * SIGMA_MAX ** float(t) if case == "particles" else 0.0
            return DiracPosterior(function(x_t, 1.0, sigma))

    samplers = {"2M": xEABSampler(Shared(), order=2, steps=N_STEPS, silent=True)}
    samplers["AB3"] = zEABSampler(Shared(), order=3, steps=N_STEPS, silent=True)
    return {f"azula {name}": (lambda sampler=sampler: sampler(x)) for name, sampler in samplers.items()}


def diffusers(case: str) -> dict[str, Run]:
    """In the VP frame (a state is x/√(1 + σ²)), on the levels of the scheduler."""
    import diffusers as library

    x, function = start(case), denoiser(case)
    options = {"prediction_type": "sample", "use_karras_sigmas": True}
    schedulers = {
        "2M": library.DPMSolverMultistepScheduler(solver_order=2, **options),
        "3M": library.DPMSolverMultistepScheduler(solver_order=3, **options),
        "AB3 (DEIS)": library.DEISMultistepScheduler(solver_order=3, **options),
    }

    def run(scheduler: object) -> Tensor:
        scheduler.set_timesteps(N_STEPS)  # type: ignore[attr-defined]
        levels = [(1 / math.sqrt(1 + s * s), s / math.sqrt(1 + s * s)) for s in scheduler.sigmas.tolist()]
        state = x / SIGMA_MAX
        for t, (alpha, sigma) in zip(scheduler.timesteps, levels, strict=False):
            state = scheduler.step(function(state, alpha, sigma), t, state, return_dict=False)[0]
        return state

    return {f"diffusers {name}": (lambda s=scheduler: run(s)) for name, scheduler in schedulers.items()}
