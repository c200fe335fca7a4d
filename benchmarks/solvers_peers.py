"""The peers' side of the solver benchmark: each library called as its users call it, on our noise levels, in float64.

Every option that a user may set and that changes the accuracy is a row of its own, so the best of a library counts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from overhead_peers import k_diffusion_sampling
from solvers_cases import RHO, SIGMA_MAX, SIGMA_MIN, Counting, noise_levels
from torch import Tensor

Run = Callable[[Counting, Tensor, int], Tensor]  # (denoiser, start, calls at most) → end


def variants(start: Tensor) -> dict[str, Run]:
    """Name → a whole run, planning included."""
    return diffusers() | k_diffusion() | azula() | torchdiffeq()


def k_diffusion() -> dict[str, Run]:
    """In the VE frame. Heun and DPM-2 take two calls per step."""
    sampling = k_diffusion_sampling()

    def run(function: Callable, calls_per_step: int, **options: object) -> Run:
        def of(model: Counting, x: Tensor, calls: int) -> Tensor:
            levels = noise_levels(calls // calls_per_step)
            return function(lambda x, sigma: model(x, float(sigma[0])), x, levels, disable=True, **options)

        return of

    found = {f"LMS-{order}": run(sampling.sample_lms, 1, order=order) for order in (2, 3, 4)}
    found |= {"Heun": run(sampling.sample_heun, 2), "DPM-2": run(sampling.sample_dpm_2, 2)}
    found |= {"++2M": run(sampling.sample_dpmpp_2m, 1), "Euler": run(sampling.sample_euler, 1)}
    quiet = {"eta": 0.0, "noise_sampler": False}
    for kind in ("midpoint", "heun"):
        found[f"++2M SDE η=0 {kind}"] = run(sampling.sample_dpmpp_2m_sde, 1, solver_type=kind, **quiet)
    found["++3M"] = run(sampling.sample_dpmpp_3m_sde, 1, **quiet)
    found["++2S"] = run(sampling.sample_dpmpp_2s_ancestral, 2, eta=0.0)
    return {f"k-diffusion {name}": of for name, of in found.items()}


def azula() -> dict[str, Run]:
    """In the VE frame with a schedule of our noise levels, uniform in its time."""
    from azula import sample
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import Schedule

    class Karras(Schedule):
        def alpha(self, t: Tensor) -> Tensor:
            return torch.ones_like(t)

        def sigma(self, t: Tensor) -> Tensor:
            low, high = SIGMA_MIN ** (1 / RHO), SIGMA_MAX ** (1 / RHO)
            return (low + t * (high - low)) ** RHO

        def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return self.alpha(t), self.sigma(t)

    class Shared(Denoiser):
        def __init__(self, model: Counting) -> None:
            super().__init__()
            self.model, self.schedule = model, Karras()

        def forward(self, x_t: Tensor, t: Tensor, **options: object) -> DiracPosterior:
            return DiracPosterior(self.model(x_t, float(self.schedule.sigma(t))))

    def run(sampler: type, calls_per_step: int, **options: object) -> Run:
        def of(model: Counting, x: Tensor, calls: int) -> Tensor:
            given = {"steps": calls // calls_per_step, "silent": True, "dtype": torch.float64}
            return sampler(Shared(model), **given, **options)(x)

        return of

    found = {"DDIM": run(sample.DDIMSampler, 1, eta=0.0), "Heun": run(sample.HeunSampler, 2)}
    kinds = {"zAB": sample.zABSampler, "xEAB": sample.xEABSampler, "zEAB": sample.zEABSampler, "vAB": sample.vABSampler}
    for (name, sampler), order in itertools.product(kinds.items(), (2, 3, 4)):
        found[f"{name}-{order}"] = run(sampler, 1, order=order)
    return {f"azula {name}": of for name, of in found.items()}


def diffusers() -> dict[str, Run]:
    """In the VP frame (a state is x/√(1 + σ²)); the table of noise levels is replaced by ours."""
    import diffusers as library

    def run(scheduler_type: type, **options: object) -> Run:
        def of(model: Counting, x: Tensor, calls: int) -> Tensor:
            key = "predict_x0" if scheduler_type is library.UniPCMultistepScheduler else None
            scheduler = scheduler_type(prediction_type="sample", **options)
            assert key is None or scheduler.config[key]
            scheduler.set_timesteps(calls)
            scheduler.sigmas = noise_levels(calls)
            scheduler.set_begin_index(0)
            state = x / math.hypot(1, SIGMA_MAX)
            for t, sigma in zip(scheduler.timesteps, scheduler.sigmas.tolist(), strict=False):
                data = model(state * math.hypot(1, sigma), sigma)
                state = scheduler.step(data, t, state, return_dict=False)[0]
            return state.double() * math.hypot(1, SIGMA_MIN)

        return of

    found = {"DDIM": run(library.DPMSolverMultistepScheduler, solver_order=1)}
    for order, safe in itertools.product((2, 3), (True, False)):
        end = "" if safe else ", full order at the end"
        options = {"solver_order": order, "lower_order_final": safe}
        found[f"++{order}M{end}"] = run(library.DPMSolverMultistepScheduler, **options)
        found[f"DEIS-{order}{end}"] = run(library.DEISMultistepScheduler, **options)
        for kind in ("bh1", "bh2"):
            found[f"UniPC-{order} {kind}{end}"] = run(library.UniPCMultistepScheduler, solver_type=kind, **options)
    return {f"diffusers {name}": of for name, of in found.items()}


def torchdiffeq() -> dict[str, Run]:
    """Fixed-step methods in σ, the time in which the flow is straightest: dx/dσ = (x − D)/σ."""
    from torchdiffeq import odeint

    def run(method: str, calls_per_step: int) -> Run:
        def of(model: Counting, x: Tensor, calls: int) -> Tensor:
            def rate(sigma: Tensor, x: Tensor) -> Tensor:
                return (x - model(x, float(sigma))) / sigma

            return odeint(rate, x, noise_levels(calls // calls_per_step), method=method)[-1]

        return of

    kinds = {"euler": 1, "midpoint": 2, "heun3": 3, "rk4": 4}
    return {f"torchdiffeq {method}": run(method, cost) for method, cost in kinds.items()}
