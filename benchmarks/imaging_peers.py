"""The peers' side of the imaging benchmarks, run by their interpreter: each sampler called as its users call it.

    python imaging_peers.py twin IN OUT N       draws of the Gaussian twin for each observation of IN
    python imaging_peers.py modes IN OUT N      draws and CPU seconds of ΠGDM on mixtures

IN and OUT are .npz files. deepinv's denoisers take (x, σ) on [0, 1]; azula's take (x_t, t).
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

MEAN, STD, NOISE = 0.5, 0.2, 0.1  # of the twin, as in imaging_bias.py
SIDE = 8
Draw = Callable[[Tensor, Tensor, int], Tensor]  # (mask (64,), y (m,), n) → draws (n, 64)


def deepinv():
    """The library; torchvision may be built for another torch, and then lacks two operators that it only names."""
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import deepinv as module

    module._kept = library  # its registrations end with it
    return module


def of_deepinv() -> dict[str, Draw]:
    dinv = deepinv()

    class Exact(dinv.models.Denoiser):
        def __init__(self) -> None:
            super().__init__()

        def forward(self, x: Tensor, sigma: Tensor | float, **options: object) -> Tensor:
            level = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1))
            return MEAN + STD**2 / (STD**2 + level**2) * (x - MEAN)

    denoiser, sampling = Exact(), dinv.sampling

    def physics_of(mask: Tensor):
        noise = dinv.physics.GaussianNoise(NOISE)
        return dinv.physics.Inpainting((1, SIDE, SIDE), mask=mask.reshape(1, SIDE, SIDE).float(), noise_model=noise)

    def draw(make: Callable) -> Draw:
        def run(mask: Tensor, y: Tensor, n: int) -> Tensor:
            whole = torch.zeros(n, SIDE * SIDE)
            whole[:, mask.bool()] = y.float()
            return make()(whole.reshape(n, 1, SIDE, SIDE), physics_of(mask)).flatten(1)

        return run

    def guided(fidelity: object, steps: int = 400) -> Callable:
        def make():
            sde = sampling.VariancePreservingDiffusion(dtype=torch.float64)
            solver = sampling.EulerSolver(torch.linspace(1, 0.001, steps, dtype=torch.float64))
            return sampling.PosteriorDiffusion(fidelity, denoiser, sde, solver)

        return make

    data = dinv.optim.data_fidelity.L2()
    return {
        "DDRM, as it comes": draw(lambda: sampling.DDRM(denoiser)),
        "DDRM, η = 1": draw(lambda: sampling.DDRM(denoiser, eta=1.0)),
        "DiffPIR, as it comes": draw(lambda: sampling.DiffPIR(denoiser, data, sigma=NOISE)),
        "DiffPIR, ζ = 1, λ = 1": draw(lambda: sampling.DiffPIR(denoiser, data, sigma=NOISE, zeta=1.0, lambda_=1.0)),
        "DPS, as it comes": draw(lambda: sampling.DPS(denoiser)),
        "DPS, annealed": draw(guided(sampling.DPSDataFidelity(denoiser, guidance="annealed"))),
        "ΠGDM, 400 steps": draw(guided(sampling.PiGDMDataFidelity(denoiser))),
        "moment matching, 400 steps": draw(guided(sampling.MomentMatchingDataFidelity(denoiser))),
    }


def of_azula() -> dict[str, Draw]:
    from azula import sample
    from azula.denoise import Denoiser, DiracPosterior
    from azula.guidance.diffpir import DiffPIRDenoiser
    from azula.guidance.dps import DPSSampler
    from azula.guidance.mmps import MMPSDenoiser
    from azula.guidance.pgdm import PGDMSampler
    from azula.guidance.tds import TDSSampler
    from azula.guidance.tmpd import TMPDenoiser
    from azula.linalg.covariance import IsotropicCovariance
    from azula.noise import VPSchedule

    class Exact(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.schedule = VPSchedule()

        def forward(self, x_t: Tensor, t: Tensor, **options: object) -> DiracPosterior:
            alpha, sigma = self.schedule(t)
            gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
            return DiracPosterior(MEAN + gain * (x_t - alpha * MEAN))

    exact, given = Exact(), {"steps": 100, "silent": True}
    variance = torch.tensor(NOISE**2)

    def draw(make: Callable) -> Draw:
        def run(mask: Tensor, y: Tensor, n: int) -> Tensor:
            index = mask.bool().nonzero()[:, 0]
            sampler = make(y.float().expand(n, -1), lambda x: x[..., index], index)
            return sampler(sampler.init((n, SIDE * SIDE), mean=MEAN, var=STD**2))

        return run

    def denoised(cls: type, **options: object) -> Draw:
        return draw(lambda y, A, _: sample.DDPMSampler(cls(exact, y, A, **options), **given))

    def inverse(y: Tensor, index: Tensor) -> Tensor:
        return torch.zeros(*y.shape[:-1], SIDE * SIDE).index_copy(-1, index, y)

    return {
        "DPS, as it comes": draw(lambda y, A, _: DPSSampler(exact, y, A, **given)),
        "PGDM, as it comes": draw(lambda y, A, index: PGDMSampler(exact, y, A, lambda v: inverse(v, index), **given)),
        "DiffPIR, as it comes": denoised(DiffPIRDenoiser, var_y=variance),
        "TMPD, as it comes": denoised(TMPDenoiser, var_y=variance),
        "MMPS, as it comes": denoised(MMPSDenoiser, cov_y=IsotropicCovariance(variance)),
        "MMPS, 4 iterations": denoised(MMPSDenoiser, cov_y=IsotropicCovariance(variance), iterations=4),
        "TDS, twist of the right width": draw(lambda y, A, _: TDSSampler(exact, twist(y, A, NOISE**2), **given)),
    }


def twist(y: Tensor, A: Callable[[Tensor], Tensor], variance: float) -> Callable[[Tensor, Tensor], Tensor]:
    """log p(y | x_t) with the spread that the pixels of the twin have given x_t."""
    return lambda x, ratio: -0.5 * (y - A(x)).square() / (variance + STD**2 * ratio**2 / (STD**2 + ratio**2))


def twin(file: str, n: int) -> dict[str, np.ndarray]:
    """Draws, (observation, n, 64), by library and name."""
    problems, found = np.load(file), {}
    for library, samplers in (("deepinv", of_deepinv), ("azula", of_azula)):
        for name, draw in samplers().items():
            torch.manual_seed(0)
            pairs = zip(problems["mask"], problems["y"], strict=True)
            runs = [draw(torch.from_numpy(mask), torch.from_numpy(y), n).detach().numpy() for mask, y in pairs]
            found[f"{library} {name}"] = np.stack(runs)
    return found


def modes(file: str, n: int) -> dict[str, np.ndarray]:
    """Draws of ΠGDM (problem, n, d), 400 steps, and CPU seconds (problem,)."""
    dinv, problems, draws, seconds = deepinv(), np.load(file), [], []
    sampling, means = dinv.sampling, torch.from_numpy(problems["means"])

    for weights, matrix, y, noise in zip(*(problems[k] for k in ("weights", "matrix", "y", "noise")), strict=True):
        log_weights = torch.from_numpy(weights).log()

        class Exact(dinv.models.Denoiser):
            def __init__(self) -> None:
                super().__init__()

            def forward(self, x: Tensor, sigma: Tensor | float, log_weights=log_weights, **options) -> Tensor:
                flat, level = x.flatten(1).double(), torch.as_tensor(sigma).double().reshape(-1, 1)
                centred = flat[:, None] - means
                near = (log_weights - 0.5 * centred.square().sum(-1) / (1 + level**2)).softmax(1)
                return ((flat + level**2 * (near @ means)) / (1 + level**2)).reshape(x.shape).to(x.dtype)

        a, d = torch.from_numpy(matrix), matrix.shape[1]
        physics = dinv.physics.LinearPhysics(
            A=lambda x, a=a, **_: x.flatten(1) @ a.T.to(x.dtype),
            A_adjoint=lambda v, a=a, d=d, **_: (v @ a.to(v.dtype)).reshape(-1, 1, 1, d),
            noise_model=dinv.physics.GaussianNoise(float(noise)),
        )
        torch.manual_seed(0)
        start = time.process_time()
        sde = sampling.VariancePreservingDiffusion(dtype=torch.float64)
        solver = sampling.EulerSolver(torch.linspace(1, 0.001, 400, dtype=torch.float64))
        fidelity = sampling.PiGDMDataFidelity(Exact(), cg_max_iter=len(y))
        sampler = sampling.PosteriorDiffusion(fidelity, Exact(), sde, solver, minus_one_one=False)
        drawn = sampler(torch.from_numpy(y).expand(n, -1), physics, x_init=(n, 1, 1, d))
        seconds.append(time.process_time() - start)
        draws.append(drawn.flatten(1).detach().numpy())
    return {"draws": np.stack(draws), "seconds": np.array(seconds)}


def main(part: str, file: str, out: str, n: int) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    np.savez(out, **{"twin": twin, "modes": modes}[part](file, n))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
