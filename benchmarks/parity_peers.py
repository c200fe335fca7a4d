"""The peers' side of the parity benchmark: each library called as its users call it, its answers printed as JSON."""

from __future__ import annotations

import importlib.metadata
import json
import math
import sys
import warnings
from collections.abc import Callable

import torch
from overhead_peers import k_diffusion_sampling
from parity_cases import (
    DIMENSION,
    N_STEPS,
    ORDERS,
    SHORT,
    SIGMA_MAX,
    SIGMA_MIN,
    geometric,
    karras,
    mixture,
    noise,
    parabola,
    start,
)  # fmt: skip
from torch import Tensor

Function = Callable[[Tensor, float], Tensor]


def k_diffusion() -> dict[str, Tensor]:
    """In the VE frame, where it lives."""
    library, x = k_diffusion_sampling(), start()

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        return mixture(x, float(sigma[0]))

    def run(name: str, levels: list[float] | None = None, **options: object) -> Tensor:
        sigmas = torch.tensor(levels or karras(), dtype=torch.float64)
        return getattr(library, f"sample_{name}")(model, x, sigmas, disable=True, **options)

    def draws() -> Callable[..., Tensor]:
        numbers = iter(noise(N_STEPS))
        return lambda *_: next(numbers)

    third = {f"3M, {n} steps": run("dpmpp_3m_sde", geometric(SHORT, n), eta=0.0, noise_sampler=False) for n in ORDERS}
    return third | {
        "euler": run("euler"),
        "euler_ancestral": run("euler_ancestral", noise_sampler=draws()),
        "euler_ancestral, eta = 0.6": run("euler_ancestral", eta=0.6, noise_sampler=draws()),
        "lms, order 3": run("lms", order=3),
        "lms, order 4": run("lms", order=4),
        "dpmpp_2s, eta = 0": run("dpmpp_2s_ancestral", eta=0.0, noise_sampler=draws()),
        "dpmpp_2m": run("dpmpp_2m"),
        "dpmpp_2m_sde": run("dpmpp_2m_sde", noise_sampler=draws()),
        "dpmpp_2m_sde, eta = 0.5": run("dpmpp_2m_sde", eta=0.5, noise_sampler=draws()),
        "dpmpp_3m, eta = 0": run("dpmpp_3m_sde", eta=0.0, noise_sampler=False),
    }


def azula() -> dict[str, Tensor]:
    """In the VE frame; its grid is uniform in log σ."""
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import VESchedule
    from azula.sample import DDIMSampler, REABSampler, xEABSampler, zEABSampler

    x = start()

    class Shared(Denoiser):
        def __init__(self, last: float) -> None:
            super().__init__()
            self.schedule, self.last = VESchedule(last, SIGMA_MAX), last

        def forward(self, x_t: Tensor, t: Tensor, **options: object) -> DiracPosterior:
            return DiracPosterior(mixture(x_t, float(self.schedule(t)[1])))

    def run(make: type, last: float = SIGMA_MIN, n_steps: int = N_STEPS, **options: object) -> Tensor:
        return make(Shared(last), steps=n_steps, silent=True, dtype=torch.float64, **options)(x)

    third = {f"REAB, {n} steps": run(REABSampler, SHORT, n, order=3) for n in ORDERS}
    return third | {
        "DDIM": run(DDIMSampler),
        **{f"xEAB, order {p}": run(xEABSampler, order=p) for p in (2, 3)},
        **{f"zEAB, order {p}": run(zEABSampler, order=p) for p in (2, 3)},
    }


def diffusers() -> dict[str, Tensor]:
    """In the VP frame, with its table of σ set to ours; the end is given over α."""
    import diffusers as library

    def run(scheduler: object, function: Function, levels: list[float], x: Tensor, quiet: bool = False) -> Tensor:
        scheduler.set_timesteps(len(levels) - 1)  # type: ignore[attr-defined]
        scheduler.sigmas = torch.tensor(levels, dtype=torch.float64)  # type: ignore[attr-defined]
        scheduler._step_index = 0  # type: ignore[attr-defined]
        own = {"variance_noise": torch.zeros_like(x)} if quiet else {}
        state = x / math.hypot(1, levels[0])
        for t, sigma in zip(scheduler.timesteps, levels, strict=False):  # type: ignore[attr-defined]
            data = function(state * math.hypot(1, sigma), sigma)
            state = scheduler.step(data, t, state, return_dict=False, **own)[0]  # type: ignore[attr-defined]
        return state * math.hypot(1, levels[-1])

    shared = {"prediction_type": "sample", "lower_order_final": False, "final_sigmas_type": "sigma_min"}
    multistep, unipc = library.DPMSolverMultistepScheduler, library.UniPCMultistepScheduler
    deis = {"prediction_type": "sample", "lower_order_final": False}
    schedulers = {
        "DPM 2M, midpoint": multistep(solver_order=2, **shared),
        "DPM 2M, heun": multistep(solver_order=2, solver_type="heun", **shared),
        "DPM 3M": multistep(solver_order=3, **shared),
        **{
            f"UniPC {p}, {kind}": unipc(solver_order=p, solver_type=kind, **shared)
            for p in (1, 2, 3)
            for kind in ("bh1", "bh2")
        },
        "DEIS 2": library.DEISMultistepScheduler(solver_order=2, **deis),
        "DEIS 3": library.DEISMultistepScheduler(solver_order=3, **deis),
    }
    found = {name: run(scheduler, mixture, karras(), start()) for name, scheduler in schedulers.items()}
    for n in ORDERS:
        sde = multistep(solver_order=3, algorithm_type="sde-dpmsolver++", **shared)
        zero = torch.zeros(1, DIMENSION, dtype=torch.float64)
        found[f"SDE 3M, {n} steps"] = run(sde, parabola, geometric(SHORT, n, 2.0), zero, quiet=True)
    return found


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    answers, sys.stdout = sys.stdout, sys.stderr  # a library may print, only the answer may go out
    with torch.no_grad():
        found = {"k-diffusion": k_diffusion(), "azula": azula(), "diffusers": diffusers()}
    ends = {f"{library} {name}": end.tolist() for library, runs in found.items() for name, end in runs.items()}
    versions = {
        library: importlib.metadata.version(library) for library in ("diffusers", "azula", "k-diffusion", "torch")
    }
    print(json.dumps({"ends": ends, "versions": versions}), file=answers)


if __name__ == "__main__":
    main()
