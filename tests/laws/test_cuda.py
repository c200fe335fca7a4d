"""The laws on a CUDA device: the numbers of the processor, the same bits every time, and no wait inside a step.

All are skipped without a device; on a machine that has one: `pytest -m gpu`.
"""

from __future__ import annotations

import hashlib
import json
import math
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hidden_chain import Filter
from problems import SOLVER_VARIANTS, gaussian, mixture
from test_rows import TIMES, WHOLE_BATCH, dynamics_of
from torch import Tensor

from sciflow.data.store import provenance_path
from sciflow.diffusion.flow import probability_flow
from sciflow.diffusion.mixture import MixtureDenoiser
from sciflow.diffusion.network import NetworkDenoiser
from sciflow.diffusion.schedule import EDM, Scaled
from sciflow.diffusion.times import Karras
from sciflow.inverse import POSTERIORS, GaussianLikelihood, Inpainting
from sciflow.networks import NETWORKS
from sciflow.particles import RESAMPLERS, Group, Particles, SMCState, resampling, smc
from sciflow.random import Stream
from sciflow.solvers import (
    EABM,
    Dopri5,
    DPMSolverV3,
    ExponentialRosenbrock,
    Skipping,
    Solver,
    TorchSDE,
    solve,
)
from tests.tiny import IMAGING, Place, change

DEVICE = torch.device("cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


class Hosted(Stream):
    """A stream that draws on the processor whatever it is asked for, and moves the numbers."""

    def _rows(self, fill, n, shape, *, device="cpu", **options) -> Tensor:
        return super()._rows(fill, n, shape, **options).to(device)


class OnDevice(Stream):
    """A stream that draws on the device unless told otherwise: models written for the processor run there."""

    def _rows(self, fill, n, shape, *, device=DEVICE, **options) -> Tensor:
        return super()._rows(fill, n, shape, device=device, **options)


def run(solver: Solver, x: Tensor, stream: Stream) -> Tensor:
    with torch.no_grad():
        return solve(dynamics_of(solver), x, TIMES, solver, stream=stream)


# Solvers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [s for s in SOLVER_VARIANTS if not isinstance(s, TorchSDE)], ids=str)
def test_a_solver_gives_the_numbers_of_the_processor(solver: Solver) -> None:
    x = Stream(0).normal(23, (5,), dtype=torch.float64)
    expected, got = run(solver, x, Hosted(1)), run(solver, x.to(DEVICE), Hosted(1))
    assert got.device.type == DEVICE.type
    # some hundred operations on numbers below 10, each rounded to 1e-16; solvers that choose their steps by an error
    # estimate, or solve for them, pass a difference on to the step
    assert torch.allclose(got.cpu(), expected, rtol=0, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize("solver", [s for s in SOLVER_VARIANTS if not isinstance(s, WHOLE_BATCH)], ids=str)
def test_rows_do_not_depend_on_the_batch(solver: Solver) -> None:
    n, stream = 23, OnDevice(1, tile=4)
    x = Stream(0).normal(n, (5,), dtype=torch.float64).to(DEVICE)
    whole = run(solver, x, stream)
    assert torch.equal(run(solver, x, stream), whole)
    assert torch.equal(run(solver, x[:3], stream), whole[:3])
    chunks = [run(solver, x[k : k + 7], stream.rows_from(k)) for k in range(0, n, 7)]
    assert torch.equal(torch.cat(chunks), whole)


@contextmanager
def no_waiting() -> Iterator[None]:
    """Whatever waits for the device raises."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def waits(solver: Solver) -> bool:
    """Whether the host must look at numbers of the state: which rows have arrived, or what a library asks for."""
    told = (Dopri5, TorchSDE, DPMSolverV3, Skipping, ExponentialRosenbrock)
    return isinstance(solver, told) or hasattr(solver, "relative_tolerance")


@pytest.mark.parametrize("solver", [s for s in SOLVER_VARIANTS if not waits(s)], ids=str)
def test_a_solve_never_waits_for_the_device(solver: Solver) -> None:
    x = Stream(0).normal(64, (5,)).to(DEVICE)
    expected = run(solver, x, OnDevice(1))  # what is made once, is made
    with no_waiting():
        got = run(solver, x, OnDevice(1))
    assert torch.equal(got, expected)


@pytest.mark.parametrize("prior", ["unet", "mixture"])
def test_a_model_never_waits_for_the_device(prior: str) -> None:
    torch.manual_seed(0)
    module = NETWORKS["unet"](channels=(8,)).build((1, 8, 8)).eval().requires_grad_(False).to(DEVICE)
    network = NetworkDenoiser(module, Scaled(EDM(), 0.5), (1, 8, 8), 0.1)
    denoiser = network if prior == "unet" else MixtureDenoiser(mixture(), EDM())
    flow, x = probability_flow(denoiser), 80 * torch.ones(4, *denoiser.shape, device=DEVICE)
    times = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    with torch.no_grad():
        expected = solve(flow, x, times, EABM(3))
        with no_waiting():
            got = solve(flow, x, times, EABM(3))
    assert torch.equal(got, expected)


def test_waiting_is_noticed() -> None:
    with pytest.raises(RuntimeError, match="synchronizing"), no_waiting():
        torch.ones(1, device=DEVICE).item()


# Random numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (3,), (64,), (5, 7, 11)], ids=str)
def test_a_row_has_its_numbers_in_any_draw(shape: tuple[int, ...]) -> None:
    stream, n = OnDevice(3, tile=16), 100_000
    whole = stream.normal(n, shape, step=2)
    # mean and variance of a million numbers: 4 standard errors
    size = whole.numel()
    assert abs(float(whole.mean())) < 4 / math.sqrt(size) and abs(float(whole.var()) - 1) < 4 * math.sqrt(2 / size)
    for first, count in ((0, 5), (17, 300), (99_000, 1000)):
        assert torch.equal(stream.normal(count, shape, step=2, first=first), whole[first : first + count])
        assert torch.equal(stream.rows_from(first).normal(count, shape, step=2), whole[first : first + count])


# Particles -------------------------------------------------------------------------------------------------------


def digest(particles: Particles) -> str:
    numbers = [particles.x, particles.log_weights, particles.eve, particles.ess_trace, particles.evidence_trace]
    content = b"".join(number.cpu().numpy().tobytes() for number in numbers)
    said = repr((particles.log_evidence, particles.log_evidence_stderr, particles.n_resampled))
    return hashlib.sha256(content + said.encode()).hexdigest()


@pytest.mark.parametrize("scheme", RESAMPLERS)
def test_an_ensemble_is_the_same_bits_every_time_and_after_a_restart(scheme: str) -> None:
    n, saved = 300_000, {}

    def keep(state: SMCState) -> None:
        if state.k == 4:
            saved.update(SMCState.from_dict(state.as_dict()).as_dict())

    first = smc(Filter(), n, OnDevice(0), scheme, 0.9, on_checkpoint=keep)
    assert first.x.device.type == DEVICE.type and first.n_resampled > 2
    assert {digest(smc(Filter(), n, OnDevice(0), scheme, 0.9)) for _ in range(5)} == {digest(first)}
    resumed = smc(Filter(), n, OnDevice(0), scheme, 0.9, resume=SMCState.from_dict(saved))
    assert digest(resumed) == digest(first)


@pytest.mark.parametrize("scheme", RESAMPLERS)
def test_evidence_and_its_error(scheme: str) -> None:
    log_evidence, mean, _ = Filter().kalman()
    particles = smc(Filter(), 64 * 1024, OnDevice(1), scheme, islands=64)
    ratio = (particles.island_log_evidence - log_evidence).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / 8
    assert abs(particles.log_evidence - log_evidence) < 4 * particles.log_evidence_stderr + 1e-3
    assert abs(float(particles.mean()) - mean) < 0.05


@pytest.mark.parametrize("scheme", RESAMPLERS)
def test_ancestors_are_as_on_the_processor_in_number(scheme: str) -> None:
    log_weights, n = 2 * Stream(1).normal(10_000, (), dtype=torch.float64), 10_000
    expected = n * log_weights.softmax(0)
    copies = torch.stack(
        [RESAMPLERS[scheme](log_weights.to(DEVICE), n, Stream(k)).cpu().bincount(minlength=n) for k in range(200)]
    )
    group = expected.argsort().reshape(10, -1)  # a thousand particles of like weight each
    off = copies.double().mean(0)[group].sum(1) - expected[group].sum(1)
    error = copies.double()[:, group].sum(2).std(0) / math.sqrt(200)
    assert bool((off.abs() < 4 * error + 1e-6).all())


def test_one_rank_by_nccl_is_a_process_alone() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dist.init_process_group("nccl", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1, device_id=0)
    try:
        ranks = Group.here()
        assert isinstance(ranks, Group) and ranks.device is not None and ranks.device.type == "cuda"
        ranks.agree(("the same", 1))
        alone, together = (smc(Filter(), 4096, OnDevice(0), ranks=found) for found in (None, ranks))
        assert digest(alone) == digest(together.gathered(ranks))
        got = ranks.exchanged([torch.arange(6.0, device=DEVICE).reshape(3, 2)], [3])
        assert torch.equal(got[0].cpu(), torch.arange(6.0).reshape(3, 2))
    finally:
        dist.destroy_process_group()


# Posteriors ------------------------------------------------------------------------------------------------------

ELSEWHERE = {"particle_filter", "ensemble_kalman", "rollout"}  # of equations and forecasters
UNFIT = {"tempered", "conjugate"}  # of densities, which a network has not
Y = torch.tensor([0.3, 0.1, -0.2], dtype=torch.float64)


def drawn(kind: str, device: torch.device, stream: Stream) -> Particles:
    likelihood = GaussianLikelihood(Y.to(device), sigma=0.5)
    return POSTERIORS[kind]()(MixtureDenoiser(gaussian(), EDM()), likelihood, Karras(6)(EDM()), 10, stream)


@pytest.mark.parametrize("kind", [kind for kind in POSTERIORS if kind not in ELSEWHERE])
def test_a_posterior_gives_the_draws_of_the_processor(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def on_host(n: int, stream: Stream, like: Tensor) -> Tensor:
        return torch.rand(n, generator=stream.generator(), dtype=torch.float64).to(like.device)

    monkeypatch.setattr(resampling, "uniform", on_host)
    expected, got = drawn(kind, torch.device("cpu"), Hosted(0)), drawn(kind, DEVICE, Hosted(0))
    assert got.x.device.type == DEVICE.type
    # rounding to 1e-16, which steps on the way through six noise levels and inner iterations may make grow
    if kind != "twisted_smc":  # its noise stands in eigenvectors, whose signs each library chooses
        assert torch.allclose(got.x.cpu(), expected.x, rtol=0, atol=1e-7)
    assert got.log_evidence == pytest.approx(expected.log_evidence, abs=1e-7, nan_ok=True)


@pytest.mark.parametrize("kind", [kind for kind in POSTERIORS if kind not in ELSEWHERE and kind not in UNFIT])
def test_a_network_on_images(kind: str) -> None:
    torch.manual_seed(0)
    module = NETWORKS["unet"](channels=(8,)).build((1, 8, 8)).eval().requires_grad_(False).to(DEVICE)
    prior = NetworkDenoiser(module, Scaled(EDM(), 0.5), (1, 8, 8), 0.1)
    operator = Inpainting(0.9).draw((1, 8, 8), Stream(1))
    likelihood = GaussianLikelihood(torch.full((6,), 0.4, device=DEVICE), operator, 0.05)
    found = POSTERIORS[kind]()(prior, likelihood, Karras(4)(prior.schedule), 5, Stream(0))
    assert found.x.device.type == DEVICE.type and bool(found.x.isfinite().all())


# Stages ----------------------------------------------------------------------------------------------------------

ON_GPU = change(IMAGING, {"resources": {stage: {"gpu": 1} for stage in ("train", "sample")}})


def test_the_stages_give_the_same_bytes_twice_and_say_what_they_used(tmp_path: Path) -> None:
    contents = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        results = Place(tmp_path / name).build(ON_GPU, until="sample")
        contents.append({file: (results / file).read_bytes() for file in ("data.nc", "model.pt", "samples.nc")})
    assert [file for file in contents[0] if contents[0][file] != contents[1][file]] == []
    used = json.loads(provenance_path(results / "model.pt").read_text())
    assert used["device"] == torch.cuda.get_device_name()
    assert used["peak_gpu_memory_mb"] > 0 and used["gpu_seconds"] > 0
    report = Place(tmp_path / "two")
    for stage in ("evaluate", "report"):
        outcome = report.sciflow(stage, "run.yaml")
        assert outcome.status == 0, outcome.text
    assert "GPU" in (results / "report.html").read_text()
